"""Writes what a long run tells to the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from amc_tf.progress import Progress

_LOGGER = logging.getLogger(__name__)


class LogProgress(Progress):
    """Logs every event at level INFO."""

    def stage(self, text: str) -> None:
        """Logs the name of the stage."""
        _LOGGER.info("%s", text)

    def episode(self, record: Mapping[str, Any], total: int) -> None:
        """Logs what the episode found."""
        _LOGGER.info(
            "episode %d of %d %s: top-1 %s, MACs %s, %s ms, best reward %s, %s s",
            record["episode"], total, record["kind"], record["top1"], record["macs"], record["latency_ms"],
            record["best_reward"], record["seconds"],
        )  # fmt: skip

    def epoch(self, number: int, total: int, top1: float) -> None:
        """Logs the accuracy on the search images."""
        _LOGGER.info("epoch %d of %d: top-1 %.4f", number, total, top1)
