"""Copies a Keras model with edited layer configurations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from amc_tf.errors import ModelError

LayerEdit = Callable[[str, dict[str, Any]], dict[str, Any]]


def is_tf_keras(layer: Any) -> bool:
    """Tells whether a layer or model belongs to `tf_keras` (Keras 2) rather than to Keras 3."""
    return any(base.__module__.partition(".")[0] == "tf_keras" for base in type(layer).__mro__)


def clone_with(model: Any, edit: LayerEdit) -> Any:
    """Builds a model like the given one from edited layer configurations.

    Args:
        model: a functional or Sequential model of Keras 3 or `tf_keras`; it is not changed.
        edit: called with the path ("backbone/conv1") and the configuration of every layer; returns the new
            configuration.

    Returns:
        A model of the same flavour with new weights; names, nesting and shared layers are those of `model`.

    Raises:
        ModelError: if a layer cannot be made anew from its configuration.
    """
    config = copy.deepcopy(model.get_config())
    _edit_layers(config, edit, prefix="")
    if is_tf_keras(model):
        import tf_keras as library
    else:
        import keras as library
    kind = library.Sequential if type(model).__name__ == "Sequential" else library.Model
    try:
        return kind.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"'{model.name}' cannot be rebuilt from its configuration ({reason}): replace Lambda layers and "
            "layers without get_config by ordinary ones."
        ) from error


def _edit_layers(config: dict[str, Any], edit: LayerEdit, prefix: str) -> None:
    for entry in config["layers"]:
        entry.pop("build_config", None)
        inner = entry["config"]
        path = prefix + inner["name"]
        if isinstance(inner.get("layers"), list):
            _edit_layers(inner, edit, path + "/")
        else:
            entry["config"] = edit(path, inner)
