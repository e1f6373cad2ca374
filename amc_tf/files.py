"""Writes a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def replace_file(path: Path, write: Callable[[BinaryIO], Any], *, mode: int = 0o644) -> None:
    """Writes into a temporary file beside the target, flushed to disk, then renamed over it.

    Args:
        path: The target.
        write: Writes the contents to an open binary file.
        mode: Permissions of the file; while it is written it is the user's alone.

    Raises:
        OSError: It cannot be written; what stood there before is untouched.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
