"""Fuzzes one reader with atheris for a while: python -m tests.fuzz.run READER --seconds 60

Goes on after a crash; prints one JSON document with the number of inputs and of different crashes. The first
input of each crash is kept in build/fuzz, and so are slow inputs. Exits with 1 if there was any crash.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["amc_tf", "adb_shell", "zipfile"]):
    from tests.fuzz.readers import READERS, Reader, run_reader

FOLDER = Path("build") / "fuzz"


class Campaign:
    """Counts inputs and crashes of a reader, and ends the process when the time is up."""

    def __init__(self, name: str, reader: Reader, seconds: float) -> None:
        """Begins."""
        self._name = name
        self._reader = reader
        self._started = time.monotonic()
        self._seconds = seconds
        self._num_inputs = 0
        self._num_read = 0
        self._crashes: dict[str, str] = {}

    def try_input(self, data: bytes) -> None:
        """Gives the reader one input."""
        if time.monotonic() - self._started > self._seconds:
            self._end()
        self._num_inputs += 1
        try:
            self._num_read += run_reader(self._reader, data)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            if place not in self._crashes:
                file = FOLDER / f"{self._name}-{len(self._crashes)}.bin"
                file.write_bytes(data)
                self._crashes[place] = str(file)

    def _end(self) -> None:
        result = {
            "reader": self._name,
            "seconds": round(time.monotonic() - self._started, 1),
            "inputs": self._num_inputs,
            "read_without_error": self._num_read,
            "crashes": self._crashes,
        }
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
        os._exit(1 if self._crashes else 0)  # libFuzzer has no other end than its own


def main() -> None:
    """Fuzzes the reader that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    reader = READERS[args.reader]
    corpus = FOLDER / f"corpus-{args.reader}"
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    for number, seed in enumerate(reader.make_seeds()):
        (corpus / f"seed{number}").write_bytes(seed)
    campaign = Campaign(args.reader, reader, args.seconds)
    options = [
        f"-seed={args.seed}",
        "-max_len=65536",
        "-verbosity=0",
        "-rss_limit_mb=0",
        f"-artifact_prefix={FOLDER}{os.sep}{args.reader}-",  # inputs that are slow or exhaust memory
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], campaign.try_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
