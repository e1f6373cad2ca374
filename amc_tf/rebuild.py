"""Builds the slim model: a plain Keras model of the same flavour with the removed channels gone."""

from __future__ import annotations

from typing import Any

from amc_tf.clone import clone_with, iterate_layers, set_layer_weights
from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import PruningPlan
from amc_tf.weights import Weights, read_weights, slice_weights


def rebuild(model: Any, plan: PruningPlan, weights: Weights | None = None) -> Any:
    """Builds the slim model of a plan.

    Args:
        model: the model that the plan was made for; it is not changed.
        plan: the channels to keep.
        weights: slim weights by layer path and weight name, for example reconstructed ones; by default the
            model's own, sliced.

    Returns:
        A new model of the same Keras flavour, made of Keras' own layers only: it saves, loads and converts
        like any other. Nested models stay nested, layer names stay; a functional model of a class of its own
        (KerasHub) becomes a plain one.

    Raises:
        ModelError: if the model cannot be read or copied.
        PlanError: if the plan, or the shape of a weight, does not belong to the model.

    Example:
        >>> import keras, amc_tf
        >>> model = keras.applications.MobileNet(weights=None)
        >>> graph = amc_tf.ChannelGraph.from_model(model)
        >>> slim = amc_tf.rebuild(model, amc_tf.uniform_plan(graph, 0.5))
        >>> amc_tf.count_cost(slim).macs < 0.3 * amc_tf.count_cost(model).macs
        True
    """
    graph = ChannelGraph.from_model(model)
    plan.validate(graph)
    slim = slice_weights(graph, plan, read_weights(graph)) if weights is None else weights
    masks = plan.masks(graph)
    num_outputs = {
        call.path: [int(item.kept(masks).sum()) for item in outputs]
        for call, outputs in zip(graph.trace.calls, graph.outputs, strict=True)
    }
    rules = {path: rule for path, (_, rule) in graph.layers().items()}

    def edit(path: str, config: dict[str, Any]) -> dict[str, Any]:
        return rules[path].slim_config(config, num_outputs[path]) if path in rules else config

    copy = clone_with(model, edit)
    _set_weights(copy, graph, slim)
    return copy


def _set_weights(copy: Any, graph: ChannelGraph, slim: Weights) -> None:
    """Fills the slim model: pruned layers from `slim`, all others from the original."""
    originals = graph.layers()
    for path, layer in iterate_layers(copy):
        if not layer.weights:
            continue
        original, rule = originals[path]
        if path not in slim:
            set_layer_weights(layer, original.get_weights())
            continue
        arrays = [slim[path][name] for name in rule.weight_names(layer)]
        shapes = [tuple(variable.shape) for variable in layer.weights]
        if shapes != [array.shape for array in arrays]:
            raise PlanError(
                f"The weights for '{path}' have the shapes {[array.shape for array in arrays]}, but the "
                f"plan needs {shapes}."
            )
        set_layer_weights(layer, arrays)
