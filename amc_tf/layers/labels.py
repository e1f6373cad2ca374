"""Labels of single channels: which ones must be removed together, and which may not be removed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


class LabelSets:
    """Disjoint sets of channel labels (union-find), some of them frozen.

    Each channel of each tensor carries a label, an integer. Two channels that must go or stay together have
    labels of one set. A frozen set stays whatever happens, and remembers why.
    """

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._frozen: dict[int, tuple[str, str]] = {}

    def new(self, count: int) -> Labels:
        """Makes `count` labels that are tied to no other one; int64 [count]."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count, dtype=np.int64)

    def tie(self, first: Labels, second: Labels) -> None:
        """Ties two label arrays of one length, element by element."""
        for one, other in zip(self.roots(first).tolist(), self.roots(second).tolist(), strict=True):
            one, other = self._root(one), self._root(other)
            low, high = min(one, other), max(one, other)
            self._parents[high] = low
            if high in self._frozen and high != low:
                self._frozen.setdefault(low, self._frozen.pop(high))

    def freeze(self, labels: Labels, path: str, reason: str, *, overrule: bool = False) -> None:
        """Forbids to remove these channels; the first reason is kept unless a later one overrules it."""
        for root in set(self.roots(labels).tolist()):
            if overrule or root not in self._frozen:
                self._frozen[root] = (path, reason)

    def roots(self, labels: Labels) -> Labels:
        """Returns for each label the one that stands for its set, in the shape given."""
        flat = [self._root(label) for label in labels.ravel().tolist()]
        return np.array(flat, dtype=np.int64).reshape(labels.shape)

    def why_frozen(self, label: int) -> tuple[str, str] | None:
        """Returns (layer path, reason) of a frozen label, None for one that may be removed."""
        return self._frozen.get(self._root(label))

    def _root(self, label: int) -> int:
        root = label
        while self._parents[root] != root:
            root = self._parents[root]
        while self._parents[label] != root:
            self._parents[label], label = root, self._parents[label]
        return root
