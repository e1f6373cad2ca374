"""How long the commands take before work starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.speed.figures import Figure, Options, median, seconds

_MAX_SECONDS = 0.5
_COMMANDS = {
    "help": ("--help",),
    "devices": ("devices",),
    "benchmark": ("benchmark", "missing.tflite"),  # everything before the file is opened
}


def measure(options: Options) -> list[Figure]:
    """Runs each command as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return [_time(name, arguments, Path(folder), options.rounds) for name, arguments in _COMMANDS.items()]


def _time(name: str, arguments: tuple[str, ...], folder: Path, rounds: int) -> Figure:
    command = [str(Path(sys.executable).with_name("amc-tf")), *arguments]

    def run() -> None:
        subprocess.run(command, cwd=folder, check=False, capture_output=True, timeout=60)

    run()
    taken = [seconds(run) for _ in range(rounds)]
    return median(f"start.{name}_seconds", taken, "s", limit=_MAX_SECONDS)
