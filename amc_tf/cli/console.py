"""What all commands share on the terminal: quiet libraries, progress bars, results, failures."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from amc_tf.device.litert import capture_stderr
from amc_tf.errors import ModelError, RunFolderError
from amc_tf.progress import Progress

if TYPE_CHECKING:
    from amc_tf.device.phone_state import CoolDown

_LOG_EVERY = 10


def prepare(*, debug: bool, needs_keras: bool) -> None:
    """Sets up the process before TensorFlow is loaded: backend, fast kernels, no chatter unless debugging.

    Raises:
        ModelError: Keras was told to run on something else than TensorFlow.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if needs_keras and backend != "tensorflow":
        raise ModelError(
            f"KERAS_BACKEND is {backend}, but pruning and conversion need TensorFlow: set "
            "KERAS_BACKEND=tensorflow."
        )
    # TensorFlow takes these kernels by itself only where there is AVX-512; with AVX2 alone a training step of
    # MobileNet takes twice as long without them (AMD EPYC, third generation).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.WARNING)
    if debug:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    for name in ("absl", "tensorflow", "h5py"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if needs_keras:
        # What TensorFlow says when it is loaded and looks for devices heeds no log level.
        with capture_stderr():
            importlib.import_module("tensorflow").config.list_physical_devices()


def fail(sentence: str) -> None:
    """Writes why a command failed, beside a bar that may still stand there."""
    tqdm.write(f"amc-tf: {sentence}", file=sys.stderr)


def say(text: str, *, quiet: bool = False) -> None:
    """Writes a remark that is no result."""
    if not quiet:
        print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """Writes a result as one JSON document."""
    print(json.dumps(value, indent=1))


@contextlib.contextmanager
def stdout_for_results() -> Iterator[None]:
    """Sends what libraries print while they work to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def check_output(path: str | os.PathLike[str], *, overwrite: bool, suffixes: tuple[str, ...]) -> Path:
    """Checks, before any work is done, that a result can be written to a file.

    Raises:
        RunFolderError: It exists and may not be overwritten, has the wrong suffix, has no folder, or has one
            that cannot be written to.
    """
    path = Path(path)
    if path.suffix not in suffixes:
        raise RunFolderError(f"{path} must end in {' or '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise RunFolderError(f"{path} exists: give --overwrite to replace it, or name another file.")
    if not path.parent.is_dir():
        raise RunFolderError(f"{path} cannot be written: there is no folder {path.parent}.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def check_output_folder(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Checks, before any work is done, that results can be written to a folder, which need not exist.

    Raises:
        RunFolderError: It is a file, or holds something and may not be overwritten.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file: name a folder.")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise RunFolderError(
            f"{path} is not empty: give --overwrite to replace files in it, or name another."
        )
    return path


def make_progress(*, quiet: bool) -> Progress:
    """Returns bars on a terminal, a few lines elsewhere, nothing where quiet was asked for."""
    if quiet:
        return Progress()
    return TerminalProgress() if sys.stderr.isatty() else LineProgress()


def make_cool_down(*, quiet: bool) -> Callable[[CoolDown], None] | None:
    """Returns what shows the wait for a phone that is too hot: a bar on a terminal, else a line."""
    if quiet:
        return None
    return CoolDownBar() if sys.stderr.isatty() else _say_cool_down


class CoolDownBar:
    """A bar that fills up to the longest wait, with the temperature of the battery."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, wait: CoolDown) -> None:
        """Moves the bar; the last call of a wait takes it away."""
        if self._bar is None:
            self._bar = tqdm(desc="the phone cools down", total=round(wait.limit_s), unit="s", leave=False)
        self._bar.set_postfix_str(_heat(wait), refresh=False)
        self._bar.update(round(wait.seconds_waited) - self._bar.n)
        if wait.is_over:
            self._bar.close()
            self._bar = None


def _say_cool_down(wait: CoolDown) -> None:
    if wait.is_over:
        say(f"The phone was given {wait.seconds_waited:.0f} s to cool down ({_heat(wait)}).")
    elif wait.seconds_waited == 0:
        say(f"The phone is too hot ({_heat(wait)}); it gets up to {wait.limit_s:.0f} s to cool down.")


def _heat(wait: CoolDown) -> str:
    """Writes what is known of the heat; Android's thermal status can be high while the battery is cool."""
    battery = [] if wait.battery_c is None else [f"battery {wait.battery_c:.1f} °C"]
    status = [] if wait.thermal_status is None else [f"thermal status {wait.thermal_status} of 6"]
    return ", ".join(battery + status) or "it does not tell how hot"


class CommandProgress(Progress):
    """A line for each compression of a sweep."""

    def compression(self, name: str, number: int, total: int) -> None:
        """Writes the budget."""
        tqdm.write(f"{name} ({number} of {total})", file=sys.stderr)

    def compressed(self, name: str, number: int, total: int) -> None:
        """Writes the budget, and that it is done."""
        tqdm.write(f"{name} ({number} of {total}) is done", file=sys.stderr)


class LineProgress(CommandProgress):
    """A line for each stage that is done, and for every tenth episode and each epoch, on stderr."""

    def __init__(self) -> None:
        self._stage: tuple[str, float] | None = None

    def stage(self, text: str) -> None:
        """Tells how long the stage before took."""
        now = time.perf_counter()
        if self._stage is not None:
            name, started = self._stage
            say(f"{name}: {now - started:.1f} s")
        self._stage = (text, now)

    def episode(self, record: Mapping[str, Any], total: int) -> None:
        """Writes every tenth episode, the last one, and those that were dropped."""
        done = record["episode"] + 1
        if done % _LOG_EVERY == 0 or done == total or "reason" in record:
            facts = ", ".join(f"{name} {value}" for name, value in _facts(record).items())
            say(f"episode {done}/{total}: {facts}")

    def epoch(self, number: int, total: int, top1: float) -> None:
        """Writes the accuracy after an epoch."""
        say(f"epoch {number}/{total}: top-1 {top1:.1%} on the search images")


class TerminalProgress(CommandProgress):
    """A bar for the search and one for fine-tuning."""

    def __init__(self) -> None:
        self._bar: Any = None

    def stage(self, text: str) -> None:
        """Ends the bar of the stage before and shows the name of this one."""
        self._close()
        if text != "report":
            self._bar = tqdm(desc=text, bar_format="{desc} [{elapsed}] {postfix}", leave=False)
            self._bar.refresh()

    def episode(self, record: Mapping[str, Any], total: int) -> None:
        """Moves the bar of the search; why an episode was dropped is written above it."""
        if "reason" in record:
            tqdm.write(f"episode {record['episode'] + 1} was dropped: {record['reason']}", file=sys.stderr)
        self._advance("search", record["episode"] + 1, total, _facts(record))

    def epoch(self, number: int, total: int, top1: float) -> None:
        """Moves the bar of fine-tuning."""
        self._advance("finetune", number, total, {"top-1": f"{top1:.1%}"})

    def _advance(self, name: str, done: int, total: int, facts: Mapping[str, str]) -> None:
        if self._bar is None or self._bar.total != total or done < self._bar.n:
            self._close()
            self._bar = tqdm(desc=name, total=total, dynamic_ncols=True, initial=done)
        self._bar.set_postfix(facts, refresh=False)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _facts(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns what a bar shows of an episode."""
    if "reason" in record:
        return {"dropped": str(record["reason"])}
    best = record["best_reward"]
    facts = {
        "reward": f"{record['reward']:.3f}",
        "best": "none" if best is None else f"{best:.3f}",
        "top-1": f"{record['top1']:.1%}",
        "MACs": f"{record['macs'] / 1e6:.1f}M",
    }
    if record["latency_ms"] is not None:
        facts["ms"] = f"{record['latency_ms']:.3f}"
    return facts
