"""Files with one wrong bit, as a bad disk or cable makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def flipped(path: Path, number: int, *, seed: int = 0) -> Iterator[int]:
    """Writes a file with one bit flipped, a new one each time, and in the end as it was.

    Args:
        path: the file.
        number: how many bits, at most all.
        seed: decides which.

    Yields:
        The place of the bit, from the file's beginning.
    """
    whole = path.read_bytes()
    places = random.Random(seed).sample(range(8 * len(whole)), min(number, 8 * len(whole)))
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        yield place
    path.write_bytes(whole)


def read_flipped(
    path: Path, number: int, read: Callable[[Path], Any], error: type[Exception]
) -> tuple[list[Any], list[str]]:
    """Reads a file with one bit flipped after another.

    Args:
        path: the file.
        number: how many bits.
        read: reads it.
        error: what it raises where it refuses the file.

    Returns:
        What was read, and the messages of the refusals.
    """
    values, refusals = [], []
    for _ in flipped(path, number):
        try:
            values.append(read(path))
        except error as refusal:
            refusals.append(str(refusal))
    return values, refusals
