"""Hidden outputs by which a slim network imitates the one that it was made from.

FitNets (Romero et al., 2015) call them hints. A slim network needs no regressor in between, as theirs does:
its channels are channels of the original, and the plan says which.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.clone import keras_of
from amc_tf.errors import ModelError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import PruningPlan
from amc_tf.settings import FinetuneSettings
from amc_tf.trace import outputs_by_layer

_NUM_HINTS = 4  # all outputs of a MobileNet would take as long to pass on as a training step takes
_NO_HINTS = frozenset(  # layers that only move, add zeros to or, at random, change what others have made
    "ZeroPadding2D Cropping2D UpSampling2D Flatten Reshape Identity ActivityRegularization "
    "Dropout SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout".split()
)
_SMALLEST_SQUARE = 1e-12  # of outputs that are zero for all images


@dataclasses.dataclass(frozen=True)
class Hint:
    """A layer whose outputs the slim network imitates.

    Attributes:
        layer: its name, in both networks.
        kept: bool [...], the shape of its output in the original without the batch axis; True for what the
            slim network has of it.
    """

    layer: str
    kept: NDArray[np.bool_]


def find_hints(original: Any, slim: Any, plan: PruningPlan) -> tuple[Hint, ...]:
    """Finds the last layer at each of the last resolutions.

    Layers that only move what others have made are passed over, and random ones such as Dropout, those whose
    channels cannot shrink, as the classes cannot, those called more than once, and those in nested models.
    Layers are found again by their names; those of the slim model may be in wrappers.

    Args:
        original: a functional or Sequential model, Keras 3 or `tf_keras`.
        slim: the model that was made from it, of either flavour.
        plan: the channels that were kept.

    Returns:
        At most four hints in network order.

    Raises:
        ModelError: if there is no such layer, the size of the images is open, or the plan is not that of the
            slim model.
        PlanError: if the plan is of another original.
    """
    _check_image_size(original)
    graph = ChannelGraph.from_model(original)
    plan.validate(graph)
    masks = plan.masks(graph)
    own = outputs_by_layer(slim)
    shared = set(own) & set(outputs_by_layer(original))
    counts = Counter(call.path for call in graph.trace.calls)
    last: dict[tuple[int, ...], Hint] = {}
    for call, outputs in zip(graph.trace.calls, graph.outputs, strict=True):
        is_prunable = len(outputs) == 1 and bool(np.any(outputs[0].group >= 0))
        is_own = type(call.layer).__name__ not in _NO_HINTS
        if not (is_prunable and is_own and call.path in shared and counts[call.path] == 1):
            continue
        shape = call.output_shapes[0]
        last.pop(shape[:-1], None)  # so that the order is that of the network
        last[shape[:-1]] = Hint(call.path, np.broadcast_to(outputs[0].kept(masks), shape))
    hints = tuple(last.values())[-_NUM_HINTS:]
    if not hints:
        raise ModelError(
            "No hidden outputs can be imitated: the model and its teacher have no layer of one name outside "
            "of nested models; set feature_weight to 0."
        )
    for hint in hints:
        _check_shape(hint, own[hint.layer])
    return hints


def check_hints(original: Any, settings: FinetuneSettings) -> None:
    """Checks, before any long work, that what is made of a network can imitate it.

    Args:
        original: as of `find_hints`.
        settings: of the fine-tuning.

    Raises:
        ModelError: if hidden outputs are to be imitated and the network has none that can be.
    """
    if settings.epochs and settings.feature_weight:
        find_hints(original, original, PruningPlan({}, {}))


def with_hints(model: Any, hints: tuple[Hint, ...]) -> Any:
    """Returns a view of a model, with its weights, that returns the outputs of the hinted layers too.

    Args:
        model: a classifier, Keras 3 or `tf_keras`: [B, H, W, C] -> [B, classes].
        hints: as `find_hints` returns them, or none for the model as it is.

    Returns:
        A model [B, H, W, C] -> float32 [B, classes + N], N being the sizes of all hints together.
    """
    if not hints:
        return model
    layers, outputs = keras_of(model).layers, outputs_by_layer(model)
    flat = [
        layers.Flatten(name=f"amc_tf_hint_{index}")(outputs[hint.layer]) for index, hint in enumerate(hints)
    ]
    joined = layers.Concatenate(name="amc_tf_outputs_and_hints", dtype="float32")([model.outputs[0], *flat])
    return keras_of(model).Model(model.inputs, joined)


def kept_positions(hints: tuple[Hint, ...]) -> NDArray[np.intp]:
    """Returns which of the original's N hidden outputs the slim network has, ascending: [n]."""
    return np.flatnonzero(np.concatenate([hint.kept.ravel() for hint in hints]))


def position_weights(hints: tuple[Hint, ...], outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns weights under which the squared error is relative to the outputs, and each hint counts alike.

    Args:
        hints: as `find_hints` returns them.
        outputs: float32 [B, n], the kept hidden outputs of the original for a few images.

    Returns:
        float32 [n]: the weighted sum of `outputs`, squared, is 1 on the average of the images.
    """
    sizes = [int(hint.kept.sum()) for hint in hints]
    parts = np.split(np.square(outputs, dtype=np.float64), np.cumsum(sizes)[:-1], axis=1)
    scales = [
        1.0 / (len(hints) * size * max(float(part.mean()), _SMALLEST_SQUARE))
        for part, size in zip(parts, sizes, strict=True)
    ]
    return np.repeat(scales, sizes).astype(np.float32)


def _check_image_size(original: Any) -> None:
    if any(None in tuple(tensor.shape)[1:] for tensor in original.inputs):
        raise ModelError(
            f"'{original.name}' takes images of any size, but feature_weight needs hidden outputs of one "
            "size: build the model for one, for example keras.Input((224, 224, 3))."
        )


def _check_shape(hint: Hint, output: Any) -> None:
    own = tuple(output.shape)[1:]
    of_plan = (*hint.kept.shape[:-1], int(hint.kept.reshape(-1, hint.kept.shape[-1])[0].sum()))
    if own != of_plan:
        raise ModelError(
            f"The plan keeps outputs of the shape {of_plan} of '{hint.layer}', but the model has {own}: "
            "feature_weight needs the plan by which it was made from its teacher."
        )
