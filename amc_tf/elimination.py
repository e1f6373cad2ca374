"""Backward elimination: which channel the readers of a group miss least, once more after each removal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amc_tf.blas import one_thread
from amc_tf.calibration import InputStatistics, add_ridge

_RIDGE = 1e-2  # as in the reconstruction that follows


class Reader:
    """One layer that reads a channel group, re-fitted by least squares whenever a channel goes.

    With H the covariance of its inputs, W its kernel and c the inputs that belong to a channel, removing them
    costs tr(W_cᵀ ((H⁻¹)_cc)⁻¹ W_c) of squared output error after the best compensation by all other inputs,
    which is W - (H⁻¹)_:c ((H⁻¹)_cc)⁻¹ W_c (Hassibi and Stork, "Optimal Brain Surgeon", 1992, for blocks).

    Args:
        statistics: of the inputs.
        kernel: float [inputs, outputs].
        rows: int64 [channels, inputs per channel], the inputs that each channel of the group is.
    """

    def __init__(
        self, statistics: InputStatistics, kernel: NDArray[np.float32], rows: NDArray[np.int64]
    ) -> None:
        moments = statistics.covariance.astype(np.float64)
        start = kernel.astype(np.float64)
        self._energy = max(float(np.einsum("ij,ij->", start, moments @ start)), 1e-12)
        add_ridge(moments, statistics.mean_square, ridge=_RIDGE)
        # Inputs of other groups come first; the channels stand behind them, those that are gone at the end.
        order = np.concatenate([np.setdiff1d(np.arange(len(moments)), rows), rows.ravel()])
        self._inverse = np.linalg.inv(moments)[np.ix_(order, order)]
        self._kernel = start[order]
        self._num_others = len(moments) - rows.size
        self._size = rows.shape[1]
        self._num_channels = rows.shape[0]

    def costs(self) -> NDArray[np.float64]:
        """Returns the part of the output energy that each channel still there would cost; [channels]."""
        first, last, size = self._num_others, self._end, self._size
        weights = self._kernel[first:last].reshape(-1, size, self._kernel.shape[1])
        blocks = self._inverse[first:last, first:last].reshape(-1, size, len(weights), size)
        own = np.arange(len(weights))
        solved = np.linalg.inv(blocks[own, :, own, :]) @ weights
        found: NDArray[np.float64] = np.einsum("aij,aij->a", weights, solved) / self._energy
        return found

    def remove(self, position: int) -> None:
        """Removes a channel; the last one that is still there takes its position."""
        self._move_to_end(position)
        last, size = self._end, self._size
        kept = last - size
        beside = self._inverse[:kept, kept:last]
        scaled = np.linalg.solve(self._inverse[kept:last, kept:last], beside.T)
        self._kernel[:kept] -= scaled.T @ self._kernel[kept:last]
        self._inverse[:kept, :kept] -= beside @ scaled
        self._num_channels -= 1

    @property
    def _end(self) -> int:
        return self._num_others + self._num_channels * self._size

    def _move_to_end(self, position: int) -> None:
        first = self._num_others + position * self._size
        here = np.arange(first, first + self._size)
        there = np.arange(self._end - self._size, self._end)
        both, swapped = np.concatenate([here, there]), np.concatenate([there, here])
        self._kernel[both] = self._kernel[swapped]
        self._inverse[both] = self._inverse[swapped]
        self._inverse[:, both] = self._inverse[:, swapped]


def elimination_order(readers: Sequence[Reader], fixed_costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """Removes the channel that costs least, again and again.

    Args:
        readers: all that read the group and whose inputs have been calibrated.
        fixed_costs: float64 [channels], added to what the readers say.

    Returns:
        int64 [channels], the channels in the order in which they go; the last one stays longest.
    """
    left = list(range(len(fixed_costs)))
    gone = []
    with one_thread():
        while left:
            costs = sum((reader.costs() for reader in readers), fixed_costs[left])
            position = int(np.argmin(costs))
            for reader in readers:
                reader.remove(position)
            gone.append(left[position])
            left[position] = left[-1]
            left.pop()
    return np.array(gone)
