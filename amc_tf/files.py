"""Writes a file whole or not at all, and tells whether a record in one is what was written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_CHECKSUM = "sha256"


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the SHA-256 of a record's JSON values, which does not depend on their order or on spaces."""
    return {**record, _CHECKSUM: _checksum(record)}


def is_intact(record: Mapping[str, Any]) -> bool:
    """Tells whether a record has the values that `with_checksum` saw; one without a checksum may have any."""
    return _CHECKSUM not in record or record[_CHECKSUM] == _checksum(record)


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


def _checksum(record: Mapping[str, Any]) -> str:
    values = {name: value for name, value in record.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
