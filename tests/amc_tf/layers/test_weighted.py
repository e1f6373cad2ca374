import pytest

from amc_tf.graph import ChannelGraph
from tests.harness import check_network
from tests.networks import classifier, frozen_reasons, widths_by_group


@pytest.mark.parametrize("use_bias", [True, False])
def test_convolution_makes_a_group_and_reads_the_one_before(library, use_bias):
    conv = library.layers.Conv2D(6, (3, 2), strides=2, use_bias=use_bias, activation="relu", name="conv")
    graph = check_network(classifier(library, conv))

    assert widths_by_group(graph) == {"first": 8, "conv": 6}
    first, second = graph.groups
    assert (first.producers, first.consumers) == (("first",), ("conv",))
    assert (second.producers, second.consumers) == (("conv",), ("classes",))
    assert (second.input_channels, second.height, second.width) == (8, 8, 8)
    assert (second.kernel_size, second.stride) == (3, 2)


def test_convolution_with_dilation_runs_alike(library):
    check_network(classifier(library, library.layers.Conv2D(6, 3, dilation_rate=2, padding="same")))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution_passes_channels_on(library, multiplier):
    depthwise = library.layers.DepthwiseConv2D(3, strides=2, depth_multiplier=multiplier, name="depthwise")
    graph = check_network(classifier(library, depthwise))

    assert widths_by_group(graph) == {"first": 8}
    assert graph.groups[0].consumers == ("classes",)


def test_depthwise_macs_equal_the_hand_count(library):
    depthwise = library.layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")
    graph = ChannelGraph.from_model(classifier(library, depthwise))

    assert graph.layer_macs()["depthwise"] == 8 * 8 * 3 * 3 * 8 * 2
    assert graph.layer_macs([5])["depthwise"] == 8 * 8 * 3 * 3 * 5 * 2


@pytest.mark.parametrize("multiplier", [1, 2])
def test_separable_convolution_prunes_both_kernels(library, multiplier):
    separable = library.layers.SeparableConv2D(
        6, 3, strides=2, padding="same", depth_multiplier=multiplier, activation="relu", name="separable"
    )
    graph = check_network(classifier(library, separable))

    assert widths_by_group(graph) == {"first": 8, "separable": 6}
    depthwise, pointwise = 4 * 4 * 3 * 3 * 8 * multiplier, 4 * 4 * 8 * multiplier * 6
    assert graph.layer_macs()["separable"] == depthwise + pointwise


def test_dense_layers_prune_like_convolutions(library):
    inputs = library.Input((12,))
    hidden = library.layers.Dense(8, activation="relu", name="hidden")(inputs)
    graph = check_network(library.Model(inputs, library.layers.Dense(4, name="classes")(hidden)))

    assert widths_by_group(graph) == {"hidden": 8}
    assert graph.count().macs == 12 * 8 + 8 * 4
    assert graph.count([3]).macs == 12 * 3 + 3 * 4


def test_dense_on_a_map_counts_every_position(library):
    graph = check_network(classifier(library, library.layers.Dense(6, name="dense")))

    assert widths_by_group(graph) == {"first": 8, "dense": 6}
    assert graph.layer_macs()["dense"] == 8 * 8 * 8 * 6


@pytest.mark.parametrize(("scale", "center"), [(True, True), (True, False), (False, True), (False, False)])
def test_batch_normalization_shrinks_with_its_input(library, scale, center):
    def body(hidden):
        hidden = library.layers.BatchNormalization(scale=scale, center=center)(hidden)
        hidden = library.layers.ReLU()(hidden)  # what follows cannot be folded
        return library.layers.BatchNormalization(scale=scale, center=center)(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8}
    assert graph.count().params == 3 * 3 * 3 * 8 + 8 + 2 * 8 * (2 + scale + center) + 8 * 4 + 4


def test_batch_normalization_along_rows_is_frozen(library):
    body = library.layers.BatchNormalization(axis=1, name="norm")
    with pytest.raises(ValueError, match=r"it normalises along an axis other than the last \(norm\)"):
        ChannelGraph.from_model(classifier(library, body))


def test_batch_normalization_folds_into_dense_and_depthwise(library):
    def body(hidden):
        hidden = library.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(hidden)
        hidden = library.layers.BatchNormalization()(hidden)
        hidden = library.layers.Dense(6)(hidden)
        return library.layers.BatchNormalization()(hidden)

    check_network(classifier(library, body))


@pytest.mark.parametrize("shared_axes", [None, [1, 2], [1, 2, 3]])
def test_prelu_slopes_shrink_unless_the_channels_share_them(library, shared_axes):
    prelu = library.layers.PReLU(shared_axes=shared_axes, name="prelu")
    graph = check_network(classifier(library, prelu))

    slopes = {None: 8 * 8 * 5, (1, 2): 5, (1, 2, 3): 1}[tuple(shared_axes) if shared_axes else None]
    assert graph.count([5]).params == 3 * 3 * 3 * 5 + 5 + slopes + 5 * 4 + 4


def test_grouped_convolution_is_counted_and_run_but_frozen(library):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, name="free")(hidden)
        hidden = library.layers.Conv2D(8, 1, name="before", activation="relu")(hidden)
        grouped = library.layers.Conv2D(8, 3, groups=4, padding="same", name="grouped", activation="relu")
        hidden = grouped(hidden)
        return library.layers.Conv2D(6, 1, name="after")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "free": 6, "after": 6}
    reason = "a grouped convolution ties its channels into fixed groups"
    assert frozen_reasons(graph) == {"before": f"{reason} (grouped)", "grouped": reason}
    assert graph.layer_macs()["grouped"] == 8 * 8 * 3 * 3 * 2 * 8


def test_a_convolution_with_one_group_is_an_ordinary_one(library):
    graph = ChannelGraph.from_model(classifier(library, library.layers.Conv2D(6, 1, groups=1, name="conv")))
    assert widths_by_group(graph) == {"first": 8, "conv": 6}


def test_a_softmax_inside_a_layer_freezes_its_channels(library):
    def body(hidden):
        hidden = library.layers.Conv2D(6, 1, activation="softmax", name="attention")(hidden)
        return library.layers.Conv2D(5, 1, name="after")(hidden)

    graph = check_network(classifier(library, body))

    assert widths_by_group(graph) == {"first": 8, "after": 5}
    assert frozen_reasons(graph) == {"attention": "its softmax normalises over the channels"}
