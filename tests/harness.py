"""What holds for every network and layer: pruned equals masked, costs and network function agree."""

from __future__ import annotations

from typing import Any

import numpy as np

from amc_tf.clone import clone_with, copy_weights, iterate_layers
from amc_tf.device.convert import to_tflite, verify
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.network import NetworkFunction
from amc_tf.plan import PruningPlan, uniform_plan, widths_to_plan
from amc_tf.rebuild import rebuild

RELATIVE_LIMIT = 1e-4


def randomize(model: Any, seed: int = 0) -> Any:
    """Gives a model random weights that keep activations in range, and random batch-norm statistics."""
    generator = np.random.default_rng(seed)
    for layer in model._flatten_layers() if hasattr(model, "_flatten_layers") else model.layers:
        kind = type(layer).__name__
        if hasattr(layer, "layers") or not layer.weights or kind == "Normalization":
            continue
        if kind == "BatchNormalization":
            ranges = {"gamma": (0.5, 1.5), "beta": (-0.3, 0.3), "mean": (-0.3, 0.3), "variance": (0.5, 1.5)}
            layer.set_weights(
                [
                    generator.uniform(*next(r for key, r in ranges.items() if key in v.name), v.shape)
                    for v in layer.weights
                ]
            )
        else:
            layer.set_weights([_random_array(generator, tuple(v.shape)) for v in layer.weights])
    return model


def _random_array(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    depthwise = len(shape) == 4 and shape[3] <= 2
    fan_in = max(1, np.prod(shape[:2] if depthwise else shape[:-1]))
    scale = np.sqrt(1.0 / fan_in) if len(shape) > 1 else 0.1
    return generator.normal(0, scale, shape).astype(np.float32)


def random_plan(graph: ChannelGraph, seed: int = 0) -> PruningPlan:
    """Keeps a random number of random channels in every group."""
    generator = np.random.default_rng(seed)
    widths = [int(generator.integers(1, group.num_channels + 1)) for group in graph.groups]
    widths[0] = max(1, graph.groups[0].num_channels // 2)
    scores = {group.name: generator.random(group.num_channels) for group in graph.groups}
    return widths_to_plan(graph, widths, scores=scores)


def zeroed_where_read(model: Any, graph: ChannelGraph, plan: PruningPlan) -> Any:
    """Returns a full-size copy of the model whose kernels ignore the channels that the plan removes."""
    copy = clone_with(model, lambda _, config: config)
    copy_weights(model, copy)
    masks = plan.masks(graph)
    layers = dict(iterate_layers(copy))
    for path, (_, rule) in graph.layers().items():
        if rule.reads is None:
            continue
        layer = layers[path]
        name, axis = rule.reads
        channel_map = graph.axes[path][name][axis]
        if channel_map is not None:
            arrays = dict(zip(rule.weight_names(layer), layer.get_weights(), strict=True))
            shape = [1] * arrays[name].ndim
            shape[axis] = -1
            arrays[name] = arrays[name] * channel_map.kept(masks).reshape(shape)
            layer.set_weights(list(arrays.values()))
    return copy


def relative_error(actual: Any, expected: Any) -> float:
    """Largest difference relative to the largest expected magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def check_network(model: Any, *, seed: int = 0, batch: int = 2) -> ChannelGraph:
    """Prunes a model at random and checks everything that must hold; returns its graph."""
    randomize(model, seed)
    before = [array.copy() for array in model.get_weights()]
    graph = ChannelGraph.from_model(model)
    plan = random_plan(graph, seed)
    generator = np.random.default_rng(seed)
    network = NetworkFunction(model, graph)
    images = generator.normal(0, 1, (batch, *network.input_shape)).astype(np.float32)
    full = np.asarray(model(images, training=False))
    slim_model = rebuild(model, plan)
    slim = np.asarray(slim_model(images, training=False))
    expected = np.asarray(zeroed_where_read(model, graph, plan)(images, training=False))

    assert relative_error(slim, expected) < RELATIVE_LIMIT
    assert relative_error(expected, full) > RELATIVE_LIMIT, "the plan must change something"
    assert relative_error(network(images, network.weights), full) < RELATIVE_LIMIT
    assert relative_error(network(images, network.slice(plan)), slim) < RELATIVE_LIMIT
    cost = graph.count(plan.widths(graph))
    assert cost == count_cost(slim_model)
    assert cost.params == slim_model.count_params()
    assert sum(graph.layer_macs().values()) == graph.count().macs
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return graph


def check_conversion(model: Any) -> None:
    """Prunes every group of a model to half, and checks that its TFLite network computes the same."""
    slim = rebuild(model, uniform_plan(ChannelGraph.from_model(model), 0.5))
    images = np.random.default_rng(0).uniform(-1, 1, (8, *model.input_shape[1:])).astype(np.float32)
    _normalize_on(slim, images)
    spread = np.ptp(np.asarray(slim(images, training=False)), axis=0).max()
    agreement = verify(to_tflite(slim), lambda batch: slim(batch, training=False), images)
    assert agreement.max_abs_error < 1e-3 * spread
    assert agreement.top1_agreement == 1.0


def _normalize_on(model: Any, images: np.ndarray) -> None:
    """Gives batch normalisation the statistics of these images, so that the outputs depend on the image."""
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            layer.momentum = 0.0
    model(images, training=True)
