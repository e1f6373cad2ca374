"""Knowledge distillation: the loss, and what brings logits and probabilities to the same form."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

_SMALLEST_PROBABILITY = 1e-30  # its logarithm and the gradient of it are finite in float32


def distillation_loss(
    labels: Any, teacher: Any, log_probabilities: Any, *, weight: float, temperature: float
) -> Any:
    """Cross-entropy with the labels mixed with the divergence from the softened teacher.

    (1 - weight) * CE(labels, p) + weight * T^2 * KL(teacher_T || p_T), where p_T is softmax(log p / T). The
    factor T^2 keeps the two gradients at the same size when T changes (Hinton et al., 2015, section 2).

    Args:
        labels: float32 [B, classes], one-hot or smoothed.
        teacher: float32 [B, classes], the teacher's probabilities at the temperature (`soften`).
        log_probabilities: float32 [B, classes] of the student, at temperature 1.
        weight: Part of the divergence, in [0, 1].
        temperature: T, above 0.

    Returns:
        A tensor, float32 [B].
    """
    ops = keras.ops
    cross_entropy = -ops.sum(labels * log_probabilities, axis=-1)  # [B]
    softened = ops.log_softmax(log_probabilities / temperature, axis=-1)  # [B, classes]
    log_teacher = ops.log(ops.maximum(teacher, _SMALLEST_PROBABILITY))
    divergence = ops.sum(teacher * (log_teacher - softened), axis=-1)  # [B]
    return (1.0 - weight) * cross_entropy + weight * temperature**2 * divergence


def soften(outputs: np.ndarray, temperature: float, *, has_softmax: bool) -> np.ndarray:
    """Turns a teacher's outputs into its probabilities at a temperature.

    Args:
        outputs: float [B, classes], logits or probabilities.
        temperature: Above 0; 1 leaves probabilities as they are.
        has_softmax: Whether the outputs are probabilities.

    Returns:
        float32 [B, classes], each row summing to 1.
    """
    outputs = np.asarray(outputs, np.float32)
    logits = np.log(np.maximum(outputs, _SMALLEST_PROBABILITY)) if has_softmax else outputs
    scaled = (logits - logits.max(axis=-1, keepdims=True)) / temperature
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def are_probabilities(outputs: np.ndarray, *, tolerance: float = 0.01) -> bool:
    """Tells whether outputs are probabilities (a softmax was applied) or logits.

    Args:
        outputs: float [B, classes] for a few images.
        tolerance: By how much a sum may differ from 1; by default half precision passes.

    Returns:
        True if no output is negative and each row sums to 1, within the tolerance.
    """
    outputs = np.asarray(outputs, np.float32)
    return bool(np.all(outputs >= 0.0) and np.all(np.abs(outputs.sum(axis=-1) - 1.0) < tolerance))


def to_log_probabilities(outputs: Any, *, has_softmax: bool) -> Any:
    """Turns a network's outputs into the logarithms of its probabilities, differentiably.

    Args:
        outputs: A tensor [B, classes], logits or probabilities.
        has_softmax: Whether they are probabilities.

    Returns:
        A tensor, float32 [B, classes].
    """
    outputs = keras.ops.cast(outputs, "float32")
    if has_softmax:
        return keras.ops.log(keras.ops.maximum(outputs, _SMALLEST_PROBABILITY))
    return keras.ops.log_softmax(outputs, axis=-1)
