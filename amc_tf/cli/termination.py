"""Lets SIGTERM end a command as Ctrl-C does: cleaned up, with what was saved told."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM: a shutdown, a scheduler, `kill`."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises Terminated on SIGTERM within the block; in threads but the main one nothing can ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
