"""Runs the benchmark tool on networks that it places on a phone, and leaves nothing of them there."""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from amc_tf.device.benchmark_output import BenchmarkResult, parse_output, parse_result_proto, tool_words
from amc_tf.device.benchmark_profile import OperatorTime, parse_profile
from amc_tf.device.benchmark_run import RunSettings, check_run, command_line
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Phone
from amc_tf.device.phone_folder import ROOT, NotInTimeError, PhoneFolder
from amc_tf.device.phone_scripts import REMOVE_ALL, RunOutput, run_on, run_script
from amc_tf.errors import MeasurementError, PhoneTimeoutError, SettingsError

_T = TypeVar("_T")

# How much later than the phone this side gives a run up.
_GRACE_S = 15.0
_KILLED = 128 + 9  # exit code on the phone's Linux; Windows has no signal.SIGKILL to ask for the number


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

    Nothing is run that was not checked against its hash on the phone. A phone that drops out while it takes a
    file or runs the tool is reconnected, and the step repeated, once (see `PhoneFolder`). A run does not
    outlive this program by more than its own time limit, which the phone holds too.

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
        self._clock = clock
        self._folder = PhoneFolder(phone, tool, reconnect_s=reconnect_s, sleep=sleep, clock=clock)

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def num_preparations(self) -> int:
        """How often the phone was readied: once more after every drop-out, as it may have restarted."""
        return self._folder.num_preparations

    def place(self, tflite: bytes) -> None:
        """Puts a network on the phone, unless it is there.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
            MeasurementError: The phone does not take the file; the message has its words.
        """
        self._folder.survive(lambda: self._folder.place(tflite))

    def remove(self, tflite: bytes) -> None:
        """Removes a network from the phone, if it is there.

        From a phone that has dropped out it is removed later: before the folder's next use, or by `close`.

        Raises:
            MeasurementError: The phone refuses; the message has its words.
        """
        self._folder.remove(tflite)

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
        return self._folder.survive(lambda: self._run(tflite, settings, profile, checked_mask))

    def survive(self, step: Callable[[], _T]) -> _T:
        """Does a step on the phone, and does it again where the phone dropped out and came back.

        Args:
            step: Something that may be done twice.

        Raises:
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
        """
        return self._folder.survive(step)

    def close(self) -> None:
        """Kills what still runs and removes the session's folder from the phone; the tool stays.

        On a phone that cannot be reached the folder stays; that is logged and no error.
        """
        self._folder.close()

    def _run(self, tflite: bytes, settings: RunSettings, profile: bool, mask: str) -> ToolRun:
        token = secrets.token_hex(8)
        words = command_line(
            self.tool,
            settings,
            binary=self._folder.binary,
            graph=self._folder.path_of(tflite),
            result_file=f"{self._folder.path}/{token}.pb",
            profile=profile,
        )
        self._folder.place(tflite)
        limit_s = math.ceil(settings.timeout_s)
        script = run_script(words, folder=self._folder.path, token=token, mask=mask, limit_s=limit_s)
        started = self._clock()
        try:
            answer = self.phone.script(script, timeout_s=limit_s + _GRACE_S)
        except PhoneTimeoutError as error:
            raise NotInTimeError(_not_in_time(limit_s)) from error
        output = RunOutput.parse(answer.output, token)
        if output.exit_code == _KILLED and self._clock() - started >= limit_s:
            raise MeasurementError(_not_in_time(limit_s))
        return self._tool_run(output, settings, profile)

    def _tool_run(self, output: RunOutput, settings: RunSettings, profile: bool) -> ToolRun:
        """Makes sure that the tool ran as asked, and reads its numbers."""
        if output.cores is None:
            self._folder.doubt()
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


def clean_phone(phone: Phone) -> int:
    """Removes everything that this program ever left on a phone, the benchmark tool too.

    Fixed-performance mode, in which a session that was killed may have left the phone, is switched off.

    Returns:
        The bytes that this freed.

    Raises:
        PhoneError: The phone cannot be reached.
        MeasurementError: The phone refuses; the message has its words.
    """
    answer = run_on(phone, REMOVE_ALL, root=ROOT)
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
