"""Writes and reads JSON files whole: a reader never sees half a file, and a foreign file is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amc_tf.errors import RunFolderError
from amc_tf.files import is_intact, replace_file, with_checksum

_MAX_BYTES = 1 << 28


def write_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Writes a record and its checksum, one line for each value and for each element of a list.

    Raises:
        RunFolderError: The file cannot be written; what stood there before is untouched.
    """
    target = Path(path)
    try:
        replace_file(target, lambda file: file.write(_lines(with_checksum(record)).encode()))
    except OSError as error:
        raise RunFolderError(f"{target} cannot be written: {error.strerror or error}.") from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads what `write_json` wrote, or any JSON.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no JSON, is nested too deeply, holds numbers that are not finite, is very large, or
            has another checksum than it was written with.
    """
    source = Path(path)
    if source.stat().st_size > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    try:
        record = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if isinstance(record, dict) and not is_intact(record):
        raise ValueError('it is not what was written; if you changed it, delete its line "sha256"')
    return record


def _lines(record: Mapping[str, Any]) -> str:
    lines = []
    for key, value in record.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        lines.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _refuse(constant: str) -> Any:
    raise ValueError(f"it holds the number {constant}")
