"""What a long run tells its caller while it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Progress:
    """Listens to a run; this one says nothing. Derive from it to show a bar or to log."""

    def stage(self, text: str) -> None:
        """A new stage begins.

        Args:
            text: what is done now, for people.
        """

    def episode(self, record: Mapping[str, Any], total: int) -> None:
        """An episode of the search has ended.

        Args:
            record: its line of `episodes.jsonl`; of one that was dropped a "reason", and None for the rest.
            total: episodes of the whole search.
        """

    def epoch(self, number: int, total: int, top1: float) -> None:
        """An epoch of fine-tuning has ended.

        Args:
            number: its number; 0 for the network as it was given.
            total: epochs of the whole fine-tuning.
            top1: accuracy on the search images, in [0, 1].
        """
