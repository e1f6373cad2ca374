"""Runs the benchmark tool on networks that it places on a phone, and leaves nothing of them there."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import math
import re
import secrets
import signal
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from amc_tf.device.benchmark_output import BenchmarkResult, parse_output, parse_result_proto, tool_words
from amc_tf.device.benchmark_profile import OperatorTime, parse_profile
from amc_tf.device.benchmark_run import RunSettings, check_run, command_line
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Phone
from amc_tf.device.phone_scripts import (
    HASH,
    INSTALL,
    PREPARE,
    REMOVE_ALL,
    REMOVE_FILE,
    REMOVE_FOLDER,
    RunOutput,
    hash_in,
    run_on,
    run_script,
)
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError, SettingsError

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

FOLDER = "/data/local/tmp/amc-tf"

# How much later than the phone this side gives a run up.
_GRACE_S = 15.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
# How long `close` waits for a phone that has dropped out.
_CLOSE_S = 5.0


class _NotInTimeError(PhoneTimeoutError):
    """Raised when a run does not end in time, and still runs on the phone."""


@dataclasses.dataclass(frozen=True)
class ToolRun:
    """What one process of the benchmark tool gave.

    Attributes:
        result: The numbers: from the tool's result file where it writes one, else from its text.
        profile: Time of each operator in order; empty unless asked for.
        cores: The cores that the process was allowed, as the kernel says: a mask in hex, such as "f0"; with
            " MaxPerformance" behind it where setting the mask failed and Android's task profile of that name
            was set instead. None where the phone does not tell.
        output: Standard output and standard error of the tool.
    """

    result: BenchmarkResult
    profile: tuple[OperatorTime, ...]
    cores: str | None
    output: str


class Workbench:
    """A phone, the benchmark tool, and a folder on the phone for the networks of one session.

    Networks and tool lie on the phone under the hash of their content and are checked there after they were
    pushed (`sha256sum`, which Android has since 6.0); what is found there of an earlier session is checked
    once per connection. Nothing else is ever run.

    A phone that drops out while it takes a file or runs the tool is reconnected, with growing pauses. What
    was left running on it is killed, the folder emptied, and the step repeated, once. A run does not outlive
    this program by more than its own time limit, which the phone holds too.

    Attributes:
        phone: The phone.
        tool: The tool.
    """

    def __init__(
        self,
        phone: Phone,
        tool: BenchmarkTool,
        *,
        reconnect_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes phone and tool; nothing is sent before the first network.

        Args:
            phone: Connected or not; it stays the caller's to close.
            tool: The benchmark tool for its ABI.
            reconnect_s: How long a phone that dropped out is waited for, in seconds.
            sleep: Waits for a number of seconds.
            clock: Monotonic clock in seconds.
        """
        self.phone = phone
        self.tool = tool
        self._reconnect_s = reconnect_s
        self._sleep = sleep
        self._clock = clock
        self._folder = f"{FOLDER}/run-{secrets.token_hex(8)}"
        self._binary = f"{FOLDER}/benchmark_model-{tool.sha256}"
        self._placed: set[str] = set()
        self._is_prepared = False
        self._may_have_left_files = False

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def place(self, tflite: bytes) -> None:
        """Puts a network on the phone, unless it is there.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
            MeasurementError: The phone does not take the file; the message has its words.
        """
        self.survive(lambda: self._place(tflite))

    def remove(self, tflite: bytes) -> None:
        """Removes a network from the phone, if it is there.

        From a phone that has dropped out it is removed later: before the folder's next use, or by `close`.

        Raises:
            MeasurementError: The phone refuses; the message has its words.
        """
        path = self._network_path(tflite)
        if not self._is_prepared or path not in self._placed:
            return
        self._placed.remove(path)
        try:
            self._attempt(lambda: self._delete(path))
        except PhoneError as error:
            _LOGGER.warning("A network is removed when the phone is back: %s", error)

    def run(
        self, tflite: bytes, settings: RunSettings, *, profile: bool = False, mask: str | None = None
    ) -> ToolRun:
        """Runs the tool once on a network, which stays on the phone.

        Args:
            tflite: The contents of a `.tflite` file.
            settings: Threads, delegate and numbers of runs.
            profile: Whether to time each operator.
            mask: The cores to run on, in hex ("f0" is 4 to 7), or None for all. A phone that does not let
                itself be told runs the tool all the same; see `ToolRun.cores`.

        Raises:
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
            MeasurementError: The tool failed, ran something else than asked for, or did not end in time; the
                message has its words.
            SettingsError: The mask is no hexadecimal number.
        """
        checked_mask = "" if mask is None else _hexadecimal(mask)
        return self.survive(lambda: self._run(tflite, settings, profile, checked_mask))

    def survive(self, step: Callable[[], _T]) -> _T:
        """Does a step on the phone, and does it again where the phone dropped out and came back.

        Args:
            step: Something that may be done twice.

        Raises:
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
        """
        try:
            return self._attempt(step)
        except PhoneError as error:
            _LOGGER.warning("Reconnecting: %s", error)
            self._reconnect(self._prepare, within_s=self._reconnect_s)
            if isinstance(error, _NotInTimeError):
                raise MeasurementError(str(error)) from error
        return self._attempt(step)

    def close(self) -> None:
        """Kills what still runs and removes the session's folder from the phone; the tool stays.

        On a phone that cannot be reached the folder stays; that is logged and no error.
        """
        if not self._may_have_left_files:
            return
        try:
            self._remove_folder()
        except MeasurementError as error:
            _LOGGER.warning("%s stays on the phone until `amc-tf devices --clean`: %s", self._folder, error)
        finally:
            self._is_prepared = False
            self._placed.clear()

    def _remove_folder(self) -> None:
        def remove() -> None:
            run_on(self.phone, REMOVE_FOLDER, folder=self._folder)
            self._may_have_left_files = False

        if self._is_prepared:
            try:
                remove()
            except PhoneError as error:
                _LOGGER.warning("Reconnecting: %s", error)
        if self._may_have_left_files:
            self._reconnect(remove, within_s=min(_CLOSE_S, self._reconnect_s))

    def _attempt(self, step: Callable[[], _T]) -> _T:
        """Does a step on a prepared phone; after an error that is not the phone's answer it is unprepared."""
        try:
            self._prepare()
            return step()
        except BaseException as error:
            if isinstance(error, PhoneError) or not isinstance(error, MeasurementError):
                self._is_prepared = False
            raise

    def _reconnect(self, then: Callable[[], None], *, within_s: float) -> None:
        """Connects to a phone that dropped out, with growing pauses, and does something there.

        Raises:
            PhoneError: It is not back in time.
        """
        deadline = self._clock() + within_s
        error: PhoneError | None = None
        pauses = (min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**n) for n in itertools.count())
        for pause in itertools.takewhile(lambda pause: self._clock() + pause <= deadline, pauses):
            self._sleep(pause)
            try:
                self.phone.close()
                self.phone.connect()
                return then()
            except PhoneError as next_error:
                error = next_error
        raise PhoneError(
            f"The phone {self.phone.serial} dropped out and did not come back within {within_s:g} s: "
            f"{error or 'there was no time to reconnect'}"
        ) from error

    def _prepare(self) -> None:
        """Connects, kills what an interrupted step left running, empties the folder, installs the tool.

        Folders of sessions that were killed themselves go with it, a day after their last run.
        """
        if self._is_prepared:
            return
        self._placed.clear()
        self.phone.connect()
        self._may_have_left_files = True
        answer = run_on(self.phone, PREPARE, root=FOLDER, folder=self._folder, binary=self._binary)
        if hash_in(answer) != self.tool.sha256:
            self._install()
        self._is_prepared = True

    def _install(self) -> None:
        temporary = f"{self._folder}/benchmark_model"
        self._push(self.tool.content, temporary, self.tool.sha256)
        run_on(self.phone, INSTALL, temporary=temporary, binary=self._binary)

    def _place(self, tflite: bytes) -> str:
        path = self._network_path(tflite)
        if path not in self._placed:
            self._push(tflite, path, hashlib.sha256(tflite).hexdigest())
            self._placed.add(path)
        return path

    def _push(self, content: bytes, path: str, sha256: str) -> None:
        """Pushes a file and compares its hash on the phone; a file that is refused leaves no part of it."""
        try:
            self.phone.push(content, path)
            answer = run_on(self.phone, HASH, path=path)
            if (hash_in(answer) or sha256) != sha256:
                raise MeasurementError(
                    f"{path} arrived damaged on the phone {self.phone.serial}; check the cable and try again."
                )
        except PhoneError:
            raise
        except MeasurementError:
            self._empty_after_refusal(path)
            raise

    def _empty_after_refusal(self, path: str) -> None:
        try:
            self._delete(path)
        except MeasurementError as error:
            _LOGGER.warning("What the phone took of %s stays there: %s", path, error)
            if isinstance(error, PhoneError):
                raise

    def _delete(self, path: str) -> None:
        run_on(self.phone, REMOVE_FILE, path=path)

    def _run(self, tflite: bytes, settings: RunSettings, profile: bool, mask: str) -> ToolRun:
        token = secrets.token_hex(8)
        words = command_line(
            self.tool,
            settings,
            binary=self._binary,
            graph=self._network_path(tflite),
            result_file=f"{self._folder}/{token}.pb",
            profile=profile,
        )
        self._place(tflite)
        limit_s = math.ceil(settings.timeout_s)
        script = run_script(words, folder=self._folder, token=token, mask=mask, limit_s=limit_s)
        started = self._clock()
        try:
            answer = self.phone.script(script, timeout_s=limit_s + _GRACE_S)
        except PhoneTimeoutError as error:
            raise _NotInTimeError(_not_in_time(limit_s)) from error
        output = RunOutput.parse(answer.output, token)
        if output.exit_code == 128 + signal.SIGKILL and self._clock() - started >= limit_s:
            raise MeasurementError(_not_in_time(limit_s))
        return self._tool_run(output, settings, profile)

    def _tool_run(self, output: RunOutput, settings: RunSettings, profile: bool) -> ToolRun:
        """Makes sure that the tool ran as asked, and reads its numbers."""
        if output.cores is None:
            self._is_prepared = False
            raise MeasurementError(
                f"The benchmark was not started on the phone {self.phone.serial}: {tool_words(output.text)}."
            )
        if output.exit_code is None:
            raise MeasurementError(
                f"The output of the benchmark on the phone {self.phone.serial} was cut off; its last words: "
                f"{tool_words(output.text)}."
            )
        check_run(output.text, output.exit_code, settings)
        proto = output.result_file
        return ToolRun(
            result=parse_output(output.text) if proto is None else parse_result_proto(proto),
            profile=parse_profile(output.text) if profile else (),
            cores=output.cores or None,
            output=output.text,
        )

    def _network_path(self, tflite: bytes) -> str:
        return f"{self._folder}/{hashlib.sha256(tflite).hexdigest()}.tflite"


def clean_phone(phone: Phone) -> int:
    """Removes everything that this program ever left on a phone, the benchmark tool too.

    Returns:
        The bytes that this freed.

    Raises:
        PhoneError: The phone cannot be reached.
        MeasurementError: The phone refuses; the message has its words.
    """
    answer = run_on(phone, REMOVE_ALL, root=FOLDER)
    size_kb = re.search(r"^\d+", answer, re.MULTILINE)
    return int(size_kb[0]) * 1024 if size_kb else 0


def _hexadecimal(mask: str) -> str:
    """Returns a mask as the kernel writes it: lower case, without leading zeros."""
    if re.fullmatch(r"(0x)?[0-9a-fA-F]+", mask) is None or int(mask, 16) == 0:
        raise SettingsError(f"A mask of cores is a hexadecimal number such as 'f0', but got {mask!r}.")
    return f"{int(mask, 16):x}"


def _not_in_time(limit_s: int) -> str:
    return (
        f"The benchmark did not end within {limit_s} s and was killed; allow it more time, or ask for fewer "
        "runs."
    )
