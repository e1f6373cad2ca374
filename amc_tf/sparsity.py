"""Fine-tunes a sparse network with tensorflow-model-optimization: what is zero stays zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from amc_tf.clone import functional_of, iterate_layers
from amc_tf.errors import PlanError
from amc_tf.finetune import EpochRecord, FinetuneResult, finetune
from amc_tf.image_data import ImageData
from amc_tf.settings import FinetuneSettings
from amc_tf.sparsity_plan import SparsityPlan
from amc_tf.twin import hard_sigmoid, hard_silu, keeping_keras3, to_keras3, to_tf_keras

_NEVER = 2**31 - 1  # steps between two updates of the masks


def finetune_sparse(  # noqa: PLR0913, those of `finetune` and the plan
    model: Any,
    plan: SparsityPlan,
    train: ImageData,
    validation: ImageData,
    *,
    settings: FinetuneSettings,
    input_range: str,
    teacher: Any | None = None,
    unlabelled: ArrayLike | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> FinetuneResult:
    """Trains the weights that a sparsity plan keeps, and returns the network with exact zeros elsewhere.

    The network is rebuilt in `tf_keras`, each layer of the plan is put into a pruning wrapper at the layer's
    constant sparsity, and the wrappers are taken off after the training. The masks are those of the plan and
    stay as they are: the search has chosen the plan by what these masks do. Wrappers multiply by their masks
    whenever they are run, so each epoch's accuracy is that of the sparse network.

    Args:
        model: a classifier, Keras 3 or `tf_keras`; it is not changed. Of its weights the largest are kept.
        plan: how many weights each layer keeps.
        train: images to train on.
        validation: images that decide which epoch is best.
        settings: how to train; `epochs=0` only sets weights to zero.
        input_range: one of `amc_tf.data.INPUT_RANGES`; how uint8 images are scaled.
        teacher: the original network; None trains on the labels alone.
        unlabelled: images without labels to imitate the teacher on, as of `finetune`.
        on_epoch: called after each epoch, and before the first, with its record.

    Returns:
        The best network found, a Keras 3 model, and its history.

    Raises:
        AmcError: as `finetune`, ModelError if `tf_keras` has no layer like one of the model's layers, and
            PlanError if the plan is of another model.
    """
    import tf_keras

    toolkit = _load_toolkit()
    with tf_keras.utils.custom_object_scope({"hard_silu": hard_silu, "hard_sigmoid": hard_sigmoid}):
        result = finetune(
            _wrap(to_tf_keras(model), plan, toolkit),
            train,
            validation,
            settings=settings,
            input_range=input_range,
            teacher=teacher,
            unlabelled=unlabelled,
            on_epoch=on_epoch,
        )
        stripped = to_keras3(toolkit.strip_pruning(result.model))
    return dataclasses.replace(result, model=stripped)


def check_trainable(model: Any) -> None:
    """Checks, before any long work, that `finetune_sparse` can train a network.

    Args:
        model: as of `finetune_sparse`.

    Raises:
        ModelError: if `tf_keras` has no layer like one of the model's layers.
    """
    _load_toolkit()
    to_tf_keras(model)


def apply_plan(model: Any, plan: SparsityPlan) -> Any:
    """Returns a Keras 3 copy of a model in which the weights that a plan removes are zero.

    Args:
        model: a functional or Sequential model, Keras 3 or `tf_keras`; it is not changed.
        plan: how many weights each layer keeps.

    Raises:
        PlanError: if the plan is of another model.
        ModelError: if the model cannot be copied.
    """
    sparse = to_keras3(model)
    layers = _layers_of(sparse, plan)
    for path, layer in layers.items():
        kernel, *others = layer.get_weights()
        layer.set_weights([kernel * plan.mask(path, kernel), *others])
    return sparse


def _load_toolkit() -> Any:
    with keeping_keras3():
        import tensorflow_model_optimization as toolkit
    return toolkit.sparsity.keras


def _layers_of(model: Any, plan: SparsityPlan) -> dict[str, Any]:
    """Returns the layers of a plan by path."""
    layers = dict(iterate_layers(model))
    for path in plan.kept:
        if path not in layers:
            raise PlanError(f"The sparsity plan prunes '{path}', which '{model.name}' does not have.")
    return {path: layers[path] for path in plan.kept}


def _wrap(model: Any, plan: SparsityPlan, toolkit: Any) -> Any:
    """Returns a copy of a `tf_keras` model with pruning wrappers, masks and weights in place."""
    import tf_keras

    pairs: list[tuple[str, Any, Any]] = []

    def copy(nested: Any, prefix: str) -> Any:
        def wrap(layer: Any) -> Any:
            path = prefix + layer.name
            if functional_of(layer) is not None:
                return copy(layer, path + "/")
            new = type(layer).from_config(layer.get_config())
            if path in plan.kept:
                schedule = toolkit.ConstantSparsity(plan.sparsity(path), begin_step=0, frequency=_NEVER)
                new = toolkit.prune_low_magnitude(new, pruning_schedule=schedule)
            pairs.append((path, layer, new))
            return new

        return tf_keras.models.clone_model(nested, clone_function=wrap)

    _layers_of(model, plan)
    wrapped = copy(model, "")
    for path, layer, new in pairs:
        new.set_weights(layer.get_weights())
        if path in plan.kept:
            ((kernel, mask, _),) = new.pruning_vars
            mask.assign(plan.mask(path, np.asarray(kernel)).astype(np.float32))
            new.pruning_step.assign(0)  # as the toolkit's callback does when training begins
    return wrapped
