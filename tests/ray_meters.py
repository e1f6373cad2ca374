"""Meters that the tests open on the nodes of a Ray cluster, in a module that the nodes can import."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

from amc_tf.device.latency import Latency
from tests.trained import ScriptedMeter


@dataclasses.dataclass(frozen=True)
class NotedMeter(ScriptedMeter):
    """A scripted meter that notes who timed when.

    Attributes:
        serial: of the phone.
        notes: folder of the notes, a file for each time that the phone was opened.
    """

    serial: str = ""
    notes: Path = Path()

    def measure(self, tflite: bytes) -> Latency:
        """Returns the scripted time."""
        begun = time.time()
        found = super().measure(tflite)
        with (self.notes / f"{self.serial}.jsonl").open("a") as file:
            file.write(json.dumps([begun, time.time()]) + "\n")
        return found


@contextlib.contextmanager
def open_noted(notes: Path, serial: str) -> Iterator[tuple[NotedMeter, None]]:
    """Opens a phone that notes when it was opened and closed."""
    begun = time.time()
    yield NotedMeter(serial=serial, notes=notes), None
    with (notes / "opened.jsonl").open("a") as file:
        file.write(json.dumps([serial, begun, time.time()]) + "\n")


@contextlib.contextmanager
def open_unlike(serial: str) -> Iterator[tuple[ScriptedMeter, None]]:
    """Opens phones of which no two are of one model."""
    yield ScriptedMeter(name=serial), None
