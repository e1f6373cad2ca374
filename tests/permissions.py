"""Lets permissions of files hold for root too, under whom many containers run tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_VERSION = 0x20080522  # of the calls that read and set capabilities, see capset(2)
_OVERRIDES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder and all in it read-only, for this thread whoever runs it."""
    if sys.platform != "linux":
        pytest.skip("capabilities are Linux'")
    modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        with _without_overrides():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextlib.contextmanager
def _without_overrides() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    _check(libc.capget(header, words))
    effective = words[0]
    words[0] = effective & ~_OVERRIDES
    _check(libc.capset(header, words))
    try:
        yield
    finally:
        words[0] = effective
        _check(libc.capset(header, words))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
