"""What a long run tells its caller while it works."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Listens to a run; this one says nothing. Derive from it to show a bar or to log."""

    def compression(self, name: str, number: int, total: int) -> None:
        """A compression of a sweep begins.

        Args:
            name: its budget, for people.
            number: 1 for the first.
            total: how many there are.
        """

    def compressed(self, name: str, number: int, total: int) -> None:
        """A compression of a sweep on several machines has ended; nobody tells of its beginning.

        Args:
            name: its budget, for people.
            number: 1 for the first of the sweep.
            total: how many there are.
        """

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


class Clock:
    """Tells a listener of each step of a run as it begins, and knows how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._begun: list[tuple[str, float]] = []

    def begin(self, step: str) -> None:
        """Ends the step before and begins another one."""
        self._begun.append((step, time.perf_counter()))
        self._progress.stage(step)

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each step that has ended, and "total"; steps of one name are added up."""
        seconds: dict[str, float] = {}
        for (step, start), (_, end) in zip(self._begun, self._begun[1:], strict=False):
            seconds[step] = seconds.get(step, 0.0) + end - start
        return {step: round(value, 2) for step, value in {**seconds, "total": sum(seconds.values())}.items()}
