"""The folder of a run: locked while in use, every file written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import numpy as np
from numpy.typing import NDArray

from amc_tf.errors import RunFolderError
from amc_tf.files import replace_file

RUN_FILES = (
    "summary.json",
    "plan.json",
    "episodes.jsonl",
    "model.keras",
    "model_float32.tflite",
    "model_int8.tflite",
    "report.html",
)
STAGE_RECORD = "stage.json"
_STATES = ("search.npz", "search.previous.npz")  # the last checkpoint, and the one before it
_DIGEST = "sha256"  # the array that tells whether the others are what was written

_LOGGER = logging.getLogger(__name__)


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turns a failed write (full disk, no permission) into a sentence that names the file.

    Raises:
        RunFolderError: for every OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file whole or not at all (see `replace_file`).

    Args:
        path: the file.
        write: writes the contents to an open binary file.

    Raises:
        RunFolderError: if it cannot be written; what stood there before is untouched.
    """
    with clear_errors(path):
        replace_file(path, write)


def write_keras_model(model: Any, path: Path) -> None:
    """Saves a Keras model whole, as `write_atomically` writes files.

    Raises:
        RunFolderError: if it cannot be written.
    """
    temporary = path.with_name(f".saving-{path.name}")
    with clear_errors(path):
        try:
            model.save(temporary)
            os.replace(temporary, path)
        except ValueError as error:  # of a ZIP archive, when the clock stands before 1980
            raise RunFolderError(f"{path} cannot be written ({error}).") from error
        finally:
            temporary.unlink(missing_ok=True)


class RunFolder:
    """One run's folder; use as a context manager, which holds its lock.

    Args:
        path: the folder; made with its parents if missing.
        resume: go on with what is there; a folder without a checkpoint starts from the beginning.
        overwrite: delete the files of an earlier run first; `resume` wins over it.
        wait_s: how long to wait, in seconds, for another process to let go of the folder.

    Attributes:
        path: the folder.

    Raises:
        RunFolderError: if an earlier run is there and neither flag is given, or another process is using it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        self.path = Path(path)
        self._resume = resume
        self._overwrite = overwrite
        self._wait_s = wait_s
        self._lock: filelock.BaseFileLock | None = None

    def __enter__(self) -> RunFolder:
        """Takes the lock and checks, or clears, what is there."""
        with clear_errors(self.path):
            self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self._lock_file, timeout=self._wait_s)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise RunFolderError(f"{self.path} is in use by another process.") from error
        try:
            self._prepare()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.release()

    @property
    def checkpoint_folder(self) -> Path:
        """Where the state of the search and the measurements are kept."""
        return self.path / "checkpoint"

    @property
    def measurements(self) -> Path:
        """The SQLite file of all measurements."""
        return self.checkpoint_folder / "measurements.sqlite"

    @property
    def table(self) -> Path:
        """The latency table with which the search began, where it steers by one."""
        return self.checkpoint_folder / "table.json"

    def stage(self, number: int) -> RunFolder:
        """Returns the folder of a stage of the run, to be entered; what is in it is gone on with.

        Args:
            number: 1 for the first stage.
        """
        return RunFolder(self.path / f"stage{number}", resume=True)

    @property
    def num_stages(self) -> int:
        """How many stages have begun to search in folders of their own; 0 in a run of one stage."""
        return sum(stage.has_checkpoint for stage in self._stages())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a search to go on with."""
        return any(file.exists() for file in self._state_files)

    @property
    def events(self) -> Path:
        """Folder of the TensorBoard events."""
        return self.path / "tensorboard"

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file of the folder whole."""
        write_atomically(self.path / name, lambda file: file.write(data))

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file of the folder whole."""
        self.write_bytes(name, (json.dumps(value, indent=1) + "\n").encode())

    def append_episode(self, record: dict[str, Any]) -> None:
        """Adds a line to episodes.jsonl."""
        path = self.path / "episodes.jsonl"
        with clear_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_episodes(self, count: int) -> list[dict[str, Any]]:
        """Returns the first `count` episodes and forgets later ones, which a checkpoint does not know.

        Raises:
            RunFolderError: if there are fewer, or a line is damaged.
        """
        path = self.path / "episodes.jsonl"
        lines = path.read_bytes().splitlines()[:count] if path.exists() else []
        try:
            records = [_read_object(line) for line in lines]
        except ValueError as error:
            raise RunFolderError(f"{path} is damaged: {error}. Start again with --overwrite.") from error
        if len(records) < count:
            raise RunFolderError(
                f"{path} has {len(records)} episodes, but the checkpoint knows {count}: start again with "
                "--overwrite."
            )
        self.write_bytes("episodes.jsonl", b"".join(line + b"\n" for line in lines))
        return records

    def save_state(self, arrays: Mapping[str, Any]) -> None:
        """Writes the state of the search whole, and keeps the one before it.

        Args:
            arrays: NumPy arrays by name.
        """
        last, previous = self._state_files
        with clear_errors(previous), contextlib.suppress(FileNotFoundError):
            os.replace(last, previous)
        content = {_DIGEST: _digest(arrays), **arrays}
        write_atomically(last, lambda file: np.savez(file, **content))

    def load_state(self) -> dict[str, NDArray[Any]] | None:
        """Returns the state of the search, None if none was saved; where the last is damaged, the one before.

        Raises:
            RunFolderError: if no file of it can be read.
        """
        damaged: list[tuple[Path, Exception]] = []
        for path in self._state_files:
            try:
                state = _read_arrays(path)
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever the readers of ZIP archives and arrays make of damage
                damaged.append((path, error))
                continue
            if damaged:
                _LOGGER.warning("%s is damaged (%s): the checkpoint before it is used.", *damaged[0])
            return state
        if damaged:
            path, cause = damaged[0]
            raise RunFolderError(
                f"The checkpoint {path} is damaged ({cause}): start again with --overwrite."
            ) from cause
        return None

    @property
    def _lock_file(self) -> Path:
        return self.checkpoint_folder / "lock"

    @property
    def _state_files(self) -> tuple[Path, ...]:
        return tuple(self.checkpoint_folder / name for name in _STATES)

    def _prepare(self) -> None:
        self._remove_unfinished()
        found = self._found()
        if found and not self._resume and not self._overwrite:
            raise RunFolderError(
                f"{self.path} holds an earlier run ({found[0]}): go on with --resume, delete it with "
                "--overwrite, or name another folder."
            )
        if self._overwrite and not self._resume:
            self._clear(found)

    def _found(self) -> list[str]:
        """Returns the files of an earlier run, those of its stages too, as paths below the folder."""
        names = (*RUN_FILES, STAGE_RECORD, *(f"checkpoint/{name}" for name in _STATES))
        places = (self, *self._stages())
        found = [folder.path / name for folder in places for name in names if (folder.path / name).exists()]
        return [path.relative_to(self.path).as_posix() for path in found]

    def _stages(self) -> list[RunFolder]:
        paths = [path.parent for path in self.path.glob("stage[0-9]*/checkpoint") if path.is_dir()]
        return [RunFolder(path) for path in sorted(paths)]

    def _clear(self, found: Sequence[str]) -> None:
        """Deletes files of an earlier run, its measurements, its TensorBoard events and its stages."""
        with clear_errors(self.path):
            for name in found:
                (self.path / name).unlink()
            stages = self._stages()
            for folder in (self, *stages):
                # SQLite would replay a journal that a killed process left into the new file.
                journals = folder.checkpoint_folder.glob(f"{self.measurements.name}*")
                for path in (*journals, *folder.events.glob("events.*")):
                    path.unlink()
            for stage in stages:
                stage.remove_empty()

    def remove_empty(self) -> None:
        """Removes the folder where nothing is left in it but what an empty run leaves."""
        for path in (self._lock_file, self.table):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoint_folder, self.events, self.path):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _remove_unfinished(self) -> None:
        """Removes the temporary files of a process that was killed while it wrote."""
        places = [*(self.path / name for name in (*RUN_FILES, STAGE_RECORD)), *self._state_files]
        with clear_errors(self.path):
            for place in places:
                for pattern in (f".{place.name}.*", f".saving-{place.name}"):
                    for path in place.parent.glob(pattern):
                        path.unlink()


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays of a checkpoint.

    The sums of a ZIP archive do not see everything: a wrong bit in its directory can hide whole arrays.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    digest = arrays.pop(_DIGEST, None)
    if digest is not None and not np.array_equal(digest, _digest(arrays)):  # 0.1.0 wrote none
        raise ValueError("its contents are not those that were written")
    return arrays


def _digest(arrays: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Returns the SHA-256 of names, types, shapes and values, uint8 [32]."""
    whole = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        array = np.asarray(values)
        whole.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        whole.update(array.tobytes())
    return np.frombuffer(whole.digest(), np.uint8)


def _read_object(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no record of an episode")
    return value
