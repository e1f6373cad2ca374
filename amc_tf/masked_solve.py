"""Solves one linear system for many columns, each of which has unknowns of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# A twentieth of the residual is left then in a ResNet-56 with a fifth of its weights, and more steps do not
# change its accuracy.
NUM_STEPS = 6
_TINY = np.finfo(np.float32).tiny


def solve_masked(
    matrix: NDArray[Any], right: NDArray[Any], mask: NDArray[np.bool_], *, num_steps: int = NUM_STEPS
) -> NDArray[Any]:
    """Solves matrix_SS x_S = right_S for every column, S where its mask is True; x is 0 elsewhere.

    Conjugate gradients from 0, preconditioned by the diagonal (Saad, "Iterative Methods for Sparse Linear
    Systems", 2003, algorithm 9.1), all columns at once.

    Args:
        matrix: float [inputs, inputs], symmetric and positive definite.
        right: float [inputs, columns], 0 outside the mask.
        mask: bool [inputs, columns].
        num_steps: steps; as many as there are inputs would give the exact solution.

    Returns:
        float [inputs, columns].
    """
    diagonal = np.diag(matrix)[:, None]
    found = np.zeros_like(right)
    residual = right
    scaled = residual / diagonal
    direction = scaled
    merit = np.sum(residual * scaled, axis=0)  # [columns]
    for _ in range(num_steps):
        image = np.where(mask, matrix @ direction, 0.0)
        step = merit / np.maximum(np.sum(direction * image, axis=0), _TINY)
        found = found + step * direction
        residual = residual - step * image
        scaled = residual / diagonal
        previous, merit = merit, np.sum(residual * scaled, axis=0)
        direction = scaled + merit / np.maximum(previous, _TINY) * direction
    return found
