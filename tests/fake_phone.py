"""Phones for tests, faked at the transport: one that follows a script, and one that lives in memory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from amc_tf.device.transport import ShellResult
from amc_tf.errors import MeasurementError, PhoneError

Handler = Callable[[re.Match[str]], ShellResult | str]


@dataclasses.dataclass(frozen=True)
class Call:
    """One call that a ScriptedTransport expects.

    Attributes:
        method: Name of the transport's method.
        argument: The shell command or the path of a file: a string that must be equal, a pattern that must be
            found in it, or None for a method without one.
        answer: What it returns, or the exception that it raises.
        content: What must be pushed.
    """

    method: str
    argument: str | re.Pattern[str] | None = None
    answer: Any = None
    content: bytes | None = None


class ScriptedTransport:
    """A transport that expects calls in order; as a context manager it wants all of them made at its end.

    Attributes:
        timeouts_s: Time limit of each call so far.
    """

    def __init__(self, *calls: Call, serial: str = "A1") -> None:
        self.serial = serial
        self.name = f"{serial} over a script"
        self.timeouts_s: list[float] = []
        self._calls = list(calls)

    def __enter__(self) -> ScriptedTransport:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.assert_done()

    def assert_done(self) -> None:
        assert self._calls == [], f"calls that were not made: {self._calls}"

    def connect(self, *, timeout_s: float) -> None:
        self._next("connect", None, timeout_s)

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        answer = self._next("shell", command, timeout_s)
        return ShellResult(answer, "", 0) if isinstance(answer, str) else answer

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        self._next("push", path, timeout_s, content)

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        return self._next("pull", path, timeout_s)

    def close(self) -> None:
        self._next("close", None, None)

    def _next(
        self, method: str, argument: str | None, timeout_s: float | None, content: bytes | None = None
    ) -> Any:
        assert self._calls, f"no call was expected, but {method}({argument!r}) came"
        call = self._calls.pop(0)
        assert call.method == method, f"{call} was expected, but {method}({argument!r}) came"
        if isinstance(call.argument, re.Pattern):
            assert argument is not None and call.argument.search(argument), (
                f"{argument!r} does not fit {call}"
            )
        elif call.argument is not None:
            assert argument == call.argument
        if call.content is not None:
            assert content == call.content
        if timeout_s is not None:
            self.timeouts_s.append(timeout_s)
        if isinstance(call.answer, BaseException):
            raise call.answer
        return call.answer


class FakePhoneTransport:
    """A phone in memory; every shell command is answered by the first handler whose pattern is found in it.

    Tests add handlers with `on`; the newest is asked first. `drop_out` makes the phone go away.

    Attributes:
        files: Contents by path.
        properties: What getprop answers.
        clocks_khz: Highest clock of each core.
        battery_tenths_c: Temperature of the battery, in 0.1 degrees Celsius.
        thermal_status: Android's thermal status; None for a phone older than Android 10.
        wakefulness: "Awake" or "Asleep".
        commands: Every shell command so far.
        connects: How often it was connected.
    """

    def __init__(self, serial: str = "A1") -> None:
        self.serial = serial
        self.name = f"{serial} in memory"
        self.files: dict[str, bytes] = {}
        self.properties = {
            "ro.product.manufacturer": "Google",
            "ro.product.model": "Pixel 8",
            "ro.soc.manufacturer": "Google",
            "ro.soc.model": "Tensor G3",
            "ro.build.version.release": "14",
            "ro.build.version.sdk": "34",
            "ro.product.cpu.abi": "arm64-v8a",
            "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
            "ro.build.fingerprint": "google/shiba/shiba:14/UD1A.230803.041/10808477:user/release-keys",
        }
        self.clocks_khz = [1_704_000] * 4 + [2_367_000] * 4 + [2_914_000]
        self.battery_tenths_c = 285
        self.thermal_status: int | None = 0
        self.wakefulness = "Awake"
        self.commands: list[str] = []
        self.connects = 0
        self._is_open = False
        self._refused_connects = 0
        self._handlers: list[tuple[re.Pattern[str], Handler]] = []
        self.on(r"getprop", lambda _: self._info())
        self.on(r"dumpsys battery", lambda _: self._conditions())

    def on(self, pattern: str, handler: Handler) -> None:
        """Answers commands in which the pattern is found; a handler may raise, too."""
        self._handlers.insert(0, (re.compile(pattern), handler))

    def drop_out(self, *, refused_connects: int = 0) -> None:
        """Cuts the connection; so many attempts to connect again fail."""
        self._is_open = False
        self._refused_connects = refused_connects

    def connect(self, *, timeout_s: float) -> None:
        if self._is_open:
            return
        if self._refused_connects:
            self._refused_connects -= 1
            raise PhoneError(f"The phone {self.serial} cannot be reached.")
        self._is_open = True
        self.connects += 1

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        self._opened()
        self.commands.append(command)
        try:
            answer = self._answer(command)
        except PhoneError:
            self._is_open = False
            raise
        return ShellResult(answer, "", 0) if isinstance(answer, str) else answer

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        self._opened()
        self.files[path] = content

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        self._opened()
        if path not in self.files:
            raise MeasurementError(f"The phone {self.serial} has no file {path}.")
        return self.files[path]

    def close(self) -> None:
        self._is_open = False

    def _opened(self) -> None:
        if not self._is_open:
            raise PhoneError(f"The phone {self.serial} is not connected.")

    def _answer(self, command: str) -> ShellResult | str:
        for pattern, handler in self._handlers:
            match = pattern.search(command)
            if match:
                return handler(match)
        return ShellResult("", f"sh: {command}: inaccessible or not found\n", 127)

    def _info(self) -> str:
        lines = [f"--- amc-tf {name}\n{value}\n" for name, value in self.properties.items()]
        clocks = [f"{khz}:{index}\n" for index, khz in enumerate(self.clocks_khz)]
        return "".join([*lines, "--- amc-tf cores\n", *clocks])

    def _conditions(self) -> str:
        thermal = f"Thermal Status: {self.thermal_status}\nHAL Ready: true"
        if self.thermal_status is None:
            thermal = "Can't find service: thermalservice"
        return (
            f"--- amc-tf battery\n  USB powered: true\n  level: 88\n  scale: 100\n"
            f"  temperature: {self.battery_tenths_c}\n"
            f"--- amc-tf thermal\n{thermal}\n"
            f"--- amc-tf screen\n  mWakefulness={self.wakefulness}\n"
        )
