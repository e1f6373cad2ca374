import keras
import numpy as np
import pytest

from amc_tf import sequential
from amc_tf.calibration import calibrate
from amc_tf.errors import SettingsError
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, widths_to_plan
from amc_tf.reconstruct import Reconstructor
from amc_tf.sequential import SequentialReconstructor
from amc_tf.sparse_reconstruct import SparseReconstructor
from amc_tf.sparsity_plan import SparsityPlan
from tests.harness import random_plan, randomize
from tests.networks import classifier

TINY = 1e-6
ALL_POSITIONS = 64  # of an image of 8x8 pixels


def random_images(count=60):
    return np.random.default_rng(0).normal(0, 1, (count, 8, 8, 3)).astype(np.float32)


def residual_network(*, num_blocks=2, swapped=False):
    """Residual blocks with batch normalisation; the shortcut comes first in the sum, or last."""

    def body(hidden):
        for block in range(num_blocks):
            shortcut = hidden
            hidden = keras.layers.Conv2D(8, 3, padding="same", name=f"inner{block}")(hidden)
            hidden = keras.layers.ReLU()(hidden)
            hidden = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"outer{block}")(hidden)
            hidden = keras.layers.BatchNormalization(name=f"norm{block}")(hidden)
            terms = [shortcut, hidden] if swapped else [hidden, shortcut]
            hidden = keras.layers.ReLU(name=f"out{block}")(keras.layers.Add()(terms))
        return hidden

    return randomize(classifier(keras, body))


def stream(network, weights, images):
    """What the last residual sum puts out."""
    last_sum = next(
        call for call in reversed(network.graph.trace.calls) if type(call.layer).__name__ == "Add"
    )
    return read_by(network, weights, images, lambda call: call.inputs == last_sum.outputs)


def last_input(network, weights, images):
    """What the layer called "last" reads."""
    return read_by(network, weights, images, lambda call: call.path == "last")


def read_by(network, weights, images, is_meant):
    found = []

    def observe(call, inputs):
        if is_meant(call):
            found.append(np.asarray(inputs[0]))

    network.run(images, weights, observer=observe)
    return found[0]


def rms(network, weights):
    """Root mean square of the error of the last sum on images that were not fitted to."""
    images = random_images(300)[200:]
    difference = stream(network, weights, images) - stream(network, network.weights, images)
    return float(np.sqrt(np.mean(np.square(difference))))


def pruned_inside(network):
    """A plan that leaves two channels inside of each block and the residual stream whole."""
    widths = [8 if group.name == "first" else 2 for group in network.graph.groups]
    assert sorted(widths)[-1] == 8
    return widths_to_plan(network.graph, widths)


def first_group_plan(network, num_kept):
    group = network.graph.groups[0]
    return PruningPlan({group.name: tuple(range(num_kept))}, {group.name: group.num_channels})


def separable_network(library):
    return randomize(
        classifier(library, library.layers.SeparableConv2D(6, 3, depth_multiplier=2, name="separable"))
    )


def test_separable_convolutions_are_refitted_behind_their_depthwise_half(library):
    network, images = NetworkFunction(separable_network(library)), random_images()
    plan = first_group_plan(network, 4)

    refitted = SequentialReconstructor(network, images)(plan)

    pooled = [
        read_by(network, weights, images, lambda call: call.path == "classes")
        for weights in (network.weights, refitted, network.slice(plan))
    ]
    errors = [np.square(found - pooled[0]).mean() for found in pooled[1:]]
    assert errors[0] < 0.7 * errors[1]


def test_the_activation_of_the_next_convolution_is_not_one_on_what_it_reads():
    def make(activation):
        def body(hidden):
            hidden = keras.layers.Conv2D(6, 1, name="linear")(hidden)
            return keras.layers.Conv2D(6, 3, activation=activation, name="next")(hidden)

        return NetworkFunction(randomize(classifier(keras, body)))

    linear, with_relu = make(None), make("relu")
    plan, images = first_group_plan(linear, 4), random_images()

    kernels = [
        SequentialReconstructor(network, images)(plan)["linear"]["kernel"] for network in (linear, with_relu)
    ]

    np.testing.assert_array_equal(*kernels)


def test_network_that_loses_nothing_keeps_its_weights():
    network = NetworkFunction(residual_network())

    weights = SequentialReconstructor(network, random_images())(PruningPlan({}, {}))

    for path, arrays in network.weights.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(weights[path][name], array, atol=2e-5)


def test_first_pruned_reader_gets_what_moments_of_the_original_give():
    def body(hidden):
        hidden = keras.layers.ReLU()(hidden)
        return keras.layers.Conv2D(5, 3, padding="same", name="read")(hidden)

    network, images = NetworkFunction(randomize(classifier(keras, body))), random_images()
    plan = first_group_plan(network, 4)
    expected = Reconstructor(network, calibrate(network, images, points_per_image=64), ridge=TINY)(plan)

    found = SequentialReconstructor(network, images, points_per_image=ALL_POSITIONS, ridge=TINY)(plan)

    np.testing.assert_allclose(found["read"]["kernel"], expected["read"]["kernel"], atol=1e-3)
    np.testing.assert_allclose(found["read"]["bias"], expected["read"]["bias"], atol=1e-3)


@pytest.mark.parametrize("swapped", [False, True])
def test_residual_network_comes_nearer_than_with_moments_of_the_original(swapped):
    network, images = NetworkFunction(residual_network(num_blocks=6, swapped=swapped)), random_images(200)
    plan = pruned_inside(network)
    moments = Reconstructor(network, calibrate(network, images, points_per_image=64), ridge=1e-3)(plan)

    found = SequentialReconstructor(network, images, points_per_image=ALL_POSITIONS, ridge=1e-3)(plan)

    assert rms(network, found) < 0.85 * rms(network, moments)


def test_residual_branch_makes_up_for_what_its_shortcut_lost(monkeypatch):
    network, images = NetworkFunction(residual_network(num_blocks=6)), random_images(200)
    together = SequentialReconstructor(network, images)(pruned_inside(network))
    monkeypatch.setattr(sequential._Walk, "_other_terms", lambda *arguments: None)

    apart = SequentialReconstructor(network, images)(pruned_inside(network))

    assert rms(network, together) < 0.95 * rms(network, apart)


def test_only_what_the_activation_lets_through_counts(monkeypatch):
    def body(hidden):
        for _ in range(4):
            hidden = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(hidden)
            hidden = keras.layers.ReLU()(keras.layers.BatchNormalization()(hidden))
        return keras.layers.ZeroPadding2D(0, name="last")(hidden)

    network, images = NetworkFunction(randomize(classifier(keras, body))), random_images(300)
    plan = widths_to_plan(network.graph, [2, 2, 2, 2, 8])

    def error(weights):
        slim, original = (last_input(network, w, images[200:]) for w in (weights, network.weights))
        return float(np.square(slim - original).mean())

    aware = SequentialReconstructor(network, images[:200])(plan)
    monkeypatch.setattr(sequential, "linear_range", lambda layer: None)

    linear = SequentialReconstructor(network, images[:200])(plan)

    assert error(aware) < 0.95 * error(linear)


def test_outputs_that_batch_norm_ignores_keep_their_kernel():
    model = residual_network(num_blocks=1)
    norm = model.get_layer("norm0")
    gamma, *others = norm.get_weights()
    norm.set_weights([np.where(np.arange(8) == 3, 0.0, gamma), *others])
    network = NetworkFunction(model)
    plan = pruned_inside(network)

    weights = SequentialReconstructor(network, random_images(20))(plan)

    cut = network.slice(plan)
    np.testing.assert_array_equal(weights["outer0"]["kernel"][..., 3], cut["outer0"]["kernel"][..., 3])
    assert np.abs(weights["outer0"]["kernel"] - cut["outer0"]["kernel"])[..., 2].max() > 1e-3


def test_same_seed_gives_the_same_weights_and_positions_depend_on_it():
    network, images = NetworkFunction(residual_network(num_blocks=1)), random_images(20)
    plan = random_plan(network.graph)
    first, again, other = (
        SequentialReconstructor(network, images, points_per_image=4, seed=seed)(plan) for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(first["outer0"]["kernel"], again["outer0"]["kernel"])
    assert np.abs(first["outer0"]["kernel"] - other["outer0"]["kernel"]).max() > 1e-3


def test_several_ridges_at_once_give_what_each_gives_alone():
    network, images = NetworkFunction(residual_network()), random_images(20)
    plan, ridges = random_plan(network.graph), (0.01, 1.0)
    start = {
        path: {name: 0.9 * array for name, array in arrays.items()}
        for path, arrays in network.slice(plan).items()
    }

    together = SequentialReconstructor(network, images).with_ridges(plan, start, ridges)

    for ridge, weights in zip(ridges, together, strict=True):
        alone = SequentialReconstructor(network, images, ridge=ridge)(plan, start)
        for path, arrays in alone.items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(weights[path][name], array)
    assert np.abs(together[0]["outer0"]["kernel"] - together[1]["outer0"]["kernel"]).max() > 1e-3
    with pytest.raises(SettingsError, match="ridge=0 was given"):
        SequentialReconstructor(network, images).with_ridges(plan, start, (1.0, 0))


def test_batches_of_any_size_give_the_same_weights():
    network, images = NetworkFunction(residual_network(num_blocks=1)), random_images(20)
    plan = random_plan(network.graph)
    one, many = (
        SequentialReconstructor(network, images, points_per_image=ALL_POSITIONS, batch_size=size)(plan)
        for size in (20, 7)
    )

    for path, arrays in one.items():
        for name, array in arrays.items():
            np.testing.assert_allclose(many[path][name], array, atol=1e-4)


def test_shared_layer_keeps_its_cut_kernel():
    shared = keras.layers.Conv2D(6, 3, padding="same", name="shared")

    def body(hidden):
        return keras.layers.Add()([shared(hidden), shared(keras.layers.ReLU()(hidden))])

    network = NetworkFunction(randomize(classifier(keras, body)))
    plan = random_plan(network.graph)

    weights = SequentialReconstructor(network, random_images(10))(plan)

    np.testing.assert_array_equal(weights["shared"]["kernel"], network.slice(plan)["shared"]["kernel"])


def test_more_images_are_taken_in_where_feature_maps_are_smaller(monkeypatch):
    def body(hidden):
        hidden = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="half")(hidden)
        return keras.layers.Conv2D(8, 3, padding="same", name="small")(hidden)

    network, images = NetworkFunction(randomize(classifier(keras, body))), random_images(20)
    plan = PruningPlan({"half": (0, 3, 5)}, {"half": 8})

    def walk_through():
        walk = sequential._Walk(network, plan, images, batch_size=4, num_slims=1)
        numbers = {}
        for number, call in enumerate(network.graph.trace.calls):
            walk.take_in(number)
            numbers[call.path] = walk.num_images
            if call.path == "small":
                return (
                    numbers,
                    walk.slims[0].tensors[call.inputs[0]].numpy(),
                    walk.original[call.inputs[0]].numpy(),
                )
            walk.compute(number)
        raise AssertionError("no layer is called small")

    _, *expected = walk_through()
    monkeypatch.setattr(sequential, "_MAX_TENSOR_BYTES", 5 * 8 * 8 * 8 * 4)
    numbers, *found = walk_through()
    assert (numbers["half"], numbers["small"]) == (5, 20)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_layer_behind_smaller_maps_is_fitted_on_all_images(monkeypatch):
    def body(hidden):
        hidden = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="half")(hidden)
        return keras.layers.Conv2D(8, 3, padding="same", name="small")(hidden)

    network, images = NetworkFunction(randomize(classifier(keras, body))), random_images(20)
    plan = PruningPlan({"half": (0, 3, 5)}, {"half": 8})
    whole = SequentialReconstructor(network, images)(plan)["small"]["kernel"]
    few = SequentialReconstructor(network, images[:5])(plan)["small"]["kernel"]
    monkeypatch.setattr(sequential, "_MAX_TENSOR_BYTES", 5 * 8 * 8 * 8 * 4)
    found = SequentialReconstructor(network, images)(plan)["small"]["kernel"]
    np.testing.assert_allclose(found, whole, atol=1e-4)
    assert np.abs(found - few).max() > 1e-2


def test_images_are_as_many_as_keep_feature_maps_in_memory(monkeypatch):
    network = NetworkFunction(residual_network(num_blocks=1))
    monkeypatch.setattr(sequential, "_MAX_TENSOR_BYTES", 5 * 8 * 8 * 8 * 4)

    few = SequentialReconstructor(network, random_images(20))(random_plan(network.graph))
    five = SequentialReconstructor(network, random_images(20)[:5])(random_plan(network.graph))

    np.testing.assert_array_equal(few["outer0"]["kernel"], five["outer0"]["kernel"])


def test_positions_are_as_few_as_keep_the_samples_in_memory(monkeypatch):
    network = NetworkFunction(residual_network(num_blocks=1))
    plan = random_plan(network.graph)
    one = SequentialReconstructor(network, random_images(20), points_per_image=1)(plan)
    monkeypatch.setattr(sequential, "_MAX_SAMPLE_BYTES", 1)

    limited = SequentialReconstructor(network, random_images(20))(plan)

    np.testing.assert_array_equal(limited["outer0"]["kernel"], one["outer0"]["kernel"])


def test_ridge_of_zero_is_refused():
    network = NetworkFunction(residual_network(num_blocks=1))
    with pytest.raises(SettingsError, match="ridge=0 was given: it must be above 0"):
        SequentialReconstructor(network, random_images(5), ridge=0)


def test_twice_the_samples_halve_the_pull():
    network, images = NetworkFunction(residual_network()), random_images(20)
    plan = random_plan(network.graph)
    once, twice, pulled_less = (
        SequentialReconstructor(network, given, points_per_image=ALL_POSITIONS, ridge=ridge)(plan)
        for given, ridge in ((images, 1.0), (np.tile(images, (2, 1, 1, 1)), 2.0), (images, 0.5))
    )
    for path in ("inner0", "outer0", "inner1", "outer1"):
        np.testing.assert_allclose(once[path]["kernel"], twice[path]["kernel"], atol=1e-4)
    assert np.abs(once["outer0"]["kernel"] - pulled_less["outer0"]["kernel"]).max() > 1e-3


def test_a_strong_ridge_pulls_towards_the_kernels_that_are_given():
    network, images = NetworkFunction(residual_network()), random_images()
    plan = random_plan(network.graph)
    start = Reconstructor(network, calibrate(network, images, points_per_image=ALL_POSITIONS))(plan)
    found = SequentialReconstructor(network, images, ridge=1e6)(plan, start)
    for path in ("inner0", "outer0", "inner1", "outer1"):
        np.testing.assert_allclose(found[path]["kernel"], start[path]["kernel"], atol=1e-4)
        assert not np.allclose(found[path]["kernel"], network.slice(plan)[path]["kernel"], atol=1e-2)


@pytest.fixture(scope="module")
def sparse():
    """A residual network, its images, a plan that keeps half of most kernels, and the re-fitted weights."""
    model, images = residual_network(), random_images()
    network = NetworkFunction(model)
    sizes = {path: network.weights[path]["kernel"].size for path in ("inner0", "outer0", "inner1")}
    plan = SparsityPlan({path: size // 2 for path, size in sizes.items()}, sizes)
    return network, images, plan, SequentialReconstructor(network, images)(plan)


def test_a_sparsity_plan_keeps_its_zeros_and_all_channels(sparse):
    network, _, plan, weights = sparse
    for path in plan.kept:
        kernel = network.weights[path]["kernel"]
        assert np.array_equal(weights[path]["kernel"] != 0, plan.mask(path, kernel))
    assert np.count_nonzero(weights["outer1"]["kernel"]) == network.weights["outer1"]["kernel"].size


def test_a_sparse_network_is_nearer_to_the_original_than_by_moments_of_the_original(sparse):
    network, images, plan, weights = sparse
    quick = SparseReconstructor(network, calibrate(network, images, points_per_image=64))(plan)
    assert rms(network, weights) < rms(network, quick) < rms(network, plan.apply(network.weights))
