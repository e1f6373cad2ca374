import keras
import numpy as np
import pytest

from amc_tf.budget import Bounds, Budget
from amc_tf.controls import uniform
from amc_tf.cost import Cost
from amc_tf.env import PruningEnv
from amc_tf.errors import BudgetError, ModelError, PlanError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.sparse_layers import SparseLayers


def make_model(library):
    """Convolutions of 216 and 512 weights, a fixed one of 64, and a Dense layer of 80."""
    layers = library.layers
    images = library.Input((8, 8, 3))
    hidden = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="first")(images)
    hidden = layers.BatchNormalization(name="norm")(hidden)
    hidden = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(hidden)
    shared = layers.Conv2D(8, 1, use_bias=False, name="shared")
    hidden = layers.Add()([shared(hidden), shared(layers.ReLU()(hidden))])
    hidden = layers.Conv2D(8, 1, use_bias=False, trainable=False, name="fixed")(hidden)
    return library.Model(images, layers.Dense(10, name="classes")(layers.GlobalAveragePooling2D()(hidden)))


@pytest.fixture
def layers(library):
    return SparseLayers(ChannelGraph.from_model(make_model(library)))


def test_kernels_of_trained_convolutions_and_dense_layers_are_pruned(layers):
    assert [layer.path for layer in layers.groups] == ["first", "shared", "classes"]
    assert layers.full_widths == (8 * 27, 8 * 8, 80)
    assert [layer.positions for layer in layers.groups] == [16, 2 * 16, 1]
    first, _, dense = layers.groups
    assert (first.num_channels, first.input_channels, first.height, first.kernel_size, first.stride) == (
        8, 3, 8, 3, 2
    )  # fmt: skip
    assert (dense.input_channels, dense.height, dense.width, dense.kernel_size, dense.stride) == (
        8, 1, 1, 1, 1
    )  # fmt: skip


def test_costs_are_those_of_the_weights_that_are_left(layers):
    full = layers.graph.count()
    assert layers.count() == full
    assert layers.count(layers.full_widths) == full
    assert layers.count((216, 14, 80)) == Cost(full.macs - 50 * 32, full.params - 50, mask_bytes=8)
    assert layers.layer_macs((216, 14, 80))["shared"] == 14 * 32
    assert [layers.group_macs(index) for index in range(3)] == [216 * 16, 64 * 32, 80]


def test_bytes_never_fall_when_a_layer_keeps_more(layers):
    sizes = [layers.count((kept, 64, 80)).size_bytes for kept in range(1, 217)]
    assert (np.diff(sizes) >= 0).all()
    assert sizes[-1] == layers.count().size_bytes


def test_keep_ratios_stop_at_the_caps_of_the_paper(layers):
    first, shared, dense = layers.allowed()
    assert (first[0], shared[0], dense[0]) == (43, 13, 2)
    assert (first[-1], shared[-1], dense[-1]) == (216, 64, 80)
    assert layers.allowed(min_keep_ratio=0.05, min_keep_ratio_dense=0.5)[0][0] == 11
    with pytest.raises(SettingsError, match="smallest keep ratio of 0 was given"):
        layers.allowed(min_keep_ratio=0.0)


def test_numbers_for_another_network_are_refused(layers):
    with pytest.raises(PlanError, match="2 numbers of weights were given for 3 layers"):
        layers.count((1, 2))


def make_bounds(layers, budget, *, min_use=0.97):
    limit, advice = budget.resolve(layers.count()), "lower the caps"
    return Bounds(layers, limit, allowed=layers.allowed(), min_use=min_use, advice=advice)


def test_the_duty_of_a_layer_is_that_of_algorithm_1(layers):
    """What must be kept at most = limit - what is kept before - what the later layers keep at least."""
    bounds = make_bounds(layers, Budget(params=0.5), min_use=0.0)
    limit, rest = bounds.limit.limit, layers.count().params - sum(layers.full_widths)
    most = limit - rest - bounds.minimum[1] - bounds.minimum[2]
    assert bounds.bound((), 1.0) == max(count for count in bounds.allowed[0] if count <= most)
    chosen = bounds.bound_all([1.0, 1.0, 1.0])
    assert layers.count(chosen).params <= limit


@pytest.mark.parametrize("kind", ["params", "macs", "bytes"])
def test_uniform_sparsity_holds_every_kind_of_budget(layers, kind):
    bounds = make_bounds(layers, Budget(**{kind: 0.6}))
    chosen = uniform(bounds)
    assert bounds.fits(chosen)
    assert bounds.cost(chosen) > 0.95 * bounds.limit.limit


def test_a_budget_below_the_caps_says_what_to_lower(layers):
    with pytest.raises(BudgetError, match=r"give at least params=0\.\d+ .*or lower the caps"):
        make_bounds(layers, Budget(params=0.1))


def test_an_environment_decides_layer_by_layer(layers):
    scored = []

    class Score:
        reward, feasible = 0.5, True

    def scorer(widths):
        scored.append(widths)
        return Score

    bounds = make_bounds(layers, Budget(macs=0.5))
    env = PruningEnv(layers, scorer, bounds)
    state, _ = env.reset()
    np.testing.assert_allclose(state[:8], [0, 0.8, 3 / 8, 1, 1, 1, 1, 1])
    rewards = []
    for _ in range(env.num_steps):
        state, reward, terminated, _, info = env.step(np.array([0.5], np.float32))
        rewards.append(reward)
    assert terminated
    assert rewards == [0.0, 0.0, 0.5]
    assert scored == [info["widths"]]
    assert info["keep_ratio"] == info["widths"][-1] / 80
    assert state[8] == pytest.approx(1 - layers.count(info["widths"]).macs / layers.count().macs)


def test_a_network_without_such_layers_is_refused():
    images = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(8, 3, trainable=False)(images)
    hidden = keras.layers.Conv2D(4, 3, trainable=False)(hidden)
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(hidden))
    with pytest.raises(ModelError, match="no trainable Conv2D or Dense layer"):
        SparseLayers(ChannelGraph.from_model(model))
