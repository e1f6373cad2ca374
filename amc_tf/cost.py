"""Exact cost of a network for any number of kept channels: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BYTES_PER_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        macs: multiply-accumulate operations per image of the convolution and Dense kernels; what the AMC
            paper calls FLOPs (569 million for MobileNet-V1 1.0 at 224).
        params: numbers of all weights, batch-norm statistics included, as `model.count_params()` counts; of a
            sparse network those that are not zero.
        mask_bytes: bytes that tell where the weights of a sparse network stand; 0 for a dense one.
    """

    macs: int
    params: int
    mask_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Bytes of the parameters as float32, and of what tells where they stand."""
        return BYTES_PER_FLOAT32 * self.params + self.mask_bytes


@dataclasses.dataclass(frozen=True)
class WeightEntry:
    """One weight array, as a product of axis lengths.

    Attributes:
        path: layer that holds it.
        constant: product of the axes that never shrink.
        axes: numbers of the axes that may shrink, rows of the axis table (two at most).
        mac_positions: how often each element is multiplied per image, 0 for none.
    """

    path: str
    constant: int
    axes: tuple[int, ...]
    mac_positions: int


class CostTable:
    """Counts the cost of a network from the number of channels kept in each group.

    Args:
        entries: all weight arrays of the network.
        fixed: int64 [axes], channels of each axis that never leave.
        multiplicity: int64 [axes, groups], how often one channel of a group stands on each axis.
    """

    def __init__(
        self, entries: Sequence[WeightEntry], fixed: NDArray[np.int64], multiplicity: NDArray[np.int64]
    ) -> None:
        self._fixed = np.append(fixed, 1)
        self._multiplicity = np.vstack([multiplicity, np.zeros((1, multiplicity.shape[1]), np.int64)])
        none = len(fixed)
        pairs = [(*entry.axes, none, none)[:2] for entry in entries]
        self._axes = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        self._constants = np.array([entry.constant for entry in entries], dtype=np.int64)
        self._positions = np.array([entry.mac_positions for entry in entries], dtype=np.int64)
        paths = list(dict.fromkeys(entry.path for entry in entries))
        self._paths = paths
        self._rows = np.array([paths.index(entry.path) for entry in entries], dtype=np.int64)

    def count(self, widths: Sequence[int]) -> Cost:
        """Counts the network that keeps `widths[g]` channels of group g."""
        sizes = self._sizes(widths)
        return Cost(macs=int(sizes @ self._positions), params=int(sizes.sum()))

    def layer_macs(self, widths: Sequence[int]) -> dict[str, int]:
        """Counts the multiply-accumulates of each layer that has weights."""
        macs = np.zeros(len(self._paths), np.int64)
        np.add.at(macs, self._rows, self._sizes(widths) * self._positions)
        return dict(zip(self._paths, macs.tolist(), strict=True))

    def group_macs(self, index: int, widths: Sequence[int]) -> int:
        """Counts the multiply-accumulates of the weights that hold channels of one group."""
        holds = self._multiplicity[:, index] > 0
        held = holds[self._axes].any(axis=1)
        return int((self._sizes(widths) * self._positions)[held].sum())

    def _sizes(self, widths: Sequence[int]) -> NDArray[np.int64]:
        lengths = self._fixed + self._multiplicity @ np.asarray(widths, dtype=np.int64)
        return self._constants * lengths[self._axes[:, 0]] * lengths[self._axes[:, 1]]
