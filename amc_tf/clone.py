"""Copies a Keras model with edited layer configurations, and its weights layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from amc_tf.errors import ModelError

_HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
LayerEdit = Callable[[str, dict[str, Any]], dict[str, Any]]


def is_tf_keras(layer: Any) -> bool:
    """Tells whether a layer or model belongs to `tf_keras` (Keras 2) rather than to Keras 3."""
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(layer).__mro__)


def keras_of(model: Any) -> ModuleType:
    """Returns the package that a model or layer belongs to, `keras` or `tf_keras`."""
    if is_tf_keras(model):
        import tf_keras as library
    else:
        import keras as library
    return library


def functional_of(model: Any) -> Any:
    """Returns the functional graph of a model; None for a plain layer or a subclassed model."""
    inner = getattr(model, "_functional", model)
    return inner if hasattr(inner, "_nodes_by_depth") and getattr(inner, "inputs", None) else None


def check_functional(model: Any) -> None:
    """Checks that a model has a layer graph that can be read.

    Raises:
        ModelError: If it is subclassed, or a Sequential model that is not built.
    """
    if functional_of(model) is not None:
        return
    name = type(model).__name__
    if name == "Sequential":
        raise ModelError(
            f"The Sequential model '{model.name}' is not built: give it a keras.Input, or call "
            "model.build((None, height, width, channels)), so that its channels are known."
        )
    raise ModelError(
        f"A {name} has no layer graph that can be read: a functional or Sequential Keras model was expected. "
        "Write a subclassed model as keras.Model(inputs, outputs)."
    )


def iterate_layers(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (path, layer) of every layer of a built model, entering nested models, each layer once."""
    for layer in functional_of(model).layers:
        path = prefix + layer.name
        if functional_of(layer) is None:
            yield path, layer
        else:
            yield from iterate_layers(layer, path + "/")


def set_layer_weights(layer: Any, arrays: Sequence[Any]) -> None:
    """Sets the weights of a layer and, as its own loading does, what it has derived from them."""
    layer.set_weights(arrays)
    _finalize(layer)


def _finalize(layer: Any) -> None:
    if hasattr(layer, "finalize_state"):  # Normalization computes with constants made from its weights
        layer.finalize_state()


def copy_weights(source: Any, target: Any) -> None:
    """Gives every layer of `target`, a model of the same structure, the weights of `source`."""
    originals = dict(iterate_layers(source))
    for path, layer in iterate_layers(target):
        if not layer.weights:  # an input may have another name in the copy
            continue
        # Variable by variable: a wrapper's get_weights may be that of the layer within.
        for variable, original in zip(layer.weights, originals[path].weights, strict=True):
            variable.assign(original.numpy())
        _finalize(layer)


def in_float32(model: Any) -> Any:
    """Returns a model of which every layer computes in float32: itself, or else a copy with its weights.

    TFLite has no operators for half precision, and mixed precision (`mixed_float16`) keeps float32 weights.
    """
    if functional_of(model) is None or not uses_half(model):
        return model

    def edit(_path: str, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "dtype": "float32"} if policy_name(config.get("dtype")) in _HALF else config

    copy = clone_with(model, edit)
    copy_weights(model, copy)
    return copy


def uses_half(model: Any, *, kinds: tuple[str, ...] = ("float16", "bfloat16")) -> bool:
    """Tells whether a layer of a built model computes in one of these types."""
    return any(getattr(layer, "compute_dtype", None) in kinds for _, layer in iterate_layers(model))


def policy_name(dtype: Any) -> Any:
    """Returns the name of the precision that a layer's configuration states, as "mixed_float16"."""
    return dtype["config"]["name"] if isinstance(dtype, dict) else dtype


def clone_with(model: Any, edit: LayerEdit) -> Any:
    """Builds a model like the given one from edited layer configurations.

    Args:
        model: a functional or Sequential model of Keras 3 or `tf_keras`; it is not changed.
        edit: called with the path ("backbone/conv1") and the configuration of every layer; returns the new
            configuration.

    Returns:
        A model of the same flavour with new weights; names, nesting and shared layers are those of `model`. A
        functional model of a class with a constructor of its own, as those of KerasHub are, comes back as a
        plain one, for other widths are nothing that its constructor could make.

    Raises:
        ModelError: if a layer cannot be made anew from its configuration.
    """
    library = keras_of(model)
    kind = library.Sequential if type(model).__name__ == "Sequential" else library.Model
    try:
        config = copy.deepcopy(_as_layers(model).get_config())
        _edit_layers(config, model, edit, prefix="")
        return kind.from_config(config, custom_objects=custom_objects(model))
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"'{model.name}' cannot be rebuilt from its configuration ({reason}): replace Lambda layers and "
            "layers without get_config by ordinary ones."
        ) from error


def custom_objects(model: Any) -> dict[str, Any]:
    """Collects by name the layer classes and activations of a model that are not Keras' own."""
    layers = [layer for _, layer in iterate_layers(model)]
    used = [*map(type, layers), *(getattr(layer, "activation", None) for layer in layers)]
    named = {getattr(item, "__name__", None): item for item in used}
    return {
        name: item
        for name, item in named.items()
        if name and item.__module__.partition(".")[0] not in {"keras", "tf_keras", "tensorflow"}
    }


def _as_layers(model: Any) -> Any:
    """Returns a model whose configuration lists its layers: the model itself, or a functional view of it."""
    if "layers" in model.get_config():
        return model
    functional = functional_of(model)
    ends = (ends[0] if len(ends) == 1 else ends for ends in (functional.inputs, functional.outputs))
    return keras_of(model).Model(*ends, name=model.name)


def _edit_layers(config: dict[str, Any], model: Any, edit: LayerEdit, prefix: str) -> None:
    nested = {layer.name: layer for layer in functional_of(model).layers if functional_of(layer) is not None}
    for entry in config["layers"]:
        name = entry["config"].get("name") or entry.get("name") or ""
        path = prefix + name
        if name in nested:
            inner = _nested_config(entry, nested[name])
            _edit_layers(inner, nested[name], edit, path + "/")
        else:
            entry["config"] = edit(path, entry["config"])
        entry.pop("build_config", None)


def _nested_config(entry: dict[str, Any], model: Any) -> dict[str, Any]:
    """Returns the configuration of a nested model within its entry, rewritten where it lists no layers."""
    if "layers" not in entry["config"]:
        entry.update(copy.deepcopy(keras_of(model).layers.serialize(_as_layers(model))))
        entry["config"]["trainable"] = model.trainable
    inner: dict[str, Any] = entry["config"]
    inner.pop("build_input_shape", None)  # the channels it is given may be fewer now
    return inner
