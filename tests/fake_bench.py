"""A workbench without a phone: networks take the times that a test gives them, and everything is noted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from amc_tf.device.benchmark_output import BenchmarkResult, Memory
from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Conditions, Core, PhoneInfo
from amc_tf.device.transport import ShellResult
from amc_tf.device.workbench import ToolRun
from amc_tf.errors import PhoneError

COOL = Conditions(battery_c=30.0, battery_percent=80, thermal_status=0, screen_on=True, charging=True)
TOOL = BenchmarkTool(b"tool", "a test", "70" * 32)
FIXED_PERFORMANCE = "cmd power set-fixed-performance-mode-enabled"


def conditions(battery_c: float | None = 30.0, thermal_status: int | None = 0) -> Conditions:
    return dataclasses.replace(COOL, battery_c=battery_c, thermal_status=thermal_status)


def result(median_ms: float, **changes: Any) -> BenchmarkResult:
    """Returns what the tool says of 50 runs around a median."""
    usual = BenchmarkResult(
        mean_ms=1.05 * median_ms,
        min_ms=0.8 * median_ms,
        max_ms=1.5 * median_ms,
        std_ms=0.1 * median_ms,
        median_ms=median_ms,
        p5_ms=0.9 * median_ms,
        p95_ms=1.2 * median_ms,
        num_runs=50,
        init_ms=3.0,
        memory=Memory(init_mb=1.5, overall_mb=4.0, peak_mb=None),
    )
    return dataclasses.replace(usual, **changes)


class FakePhone:
    """What a meter asks of a phone.

    Attributes:
        serial: Its serial number.
        events: Everything that was asked of it and of its bench, in order; "look" for its conditions.
        weather: Its conditions at each look; the last ones stay.
        refusal: Exit code and words of a phone without fixed-performance mode.
        is_gone: Whether everything asked of it fails.
    """

    def __init__(self, serial: str = "A1", *, model: str = "Pixel 8", sdk: int = 34, unit: str = "") -> None:
        self.serial = serial
        self.transport_name = f"{serial} over nothing"
        self.events: list[str] = []
        self.weather: list[Conditions] = [COOL]
        self.refusal: ShellResult | None = None
        self.is_gone = False
        cores = tuple(Core(index, 1_700_000 if index < 4 else 2_900_000) for index in range(8))
        self._info = PhoneInfo(
            serial=serial,
            manufacturer="Google",
            model=model,
            soc="Tensor G3",
            android_version="14",
            sdk=sdk,
            abi="arm64-v8a",
            abis=("arm64-v8a",),
            build_fingerprint=f"google/{model}:14",
            cores=cores,
            unit=unit,
        )

    def info(self) -> PhoneInfo:
        return self._info

    def conditions(self) -> Conditions:
        self.note("look")
        return self.weather.pop(0) if len(self.weather) > 1 else self.weather[0]

    def shell(self, *words: str, timeout_s: float = 30.0) -> ShellResult:
        self.note(" ".join(words))
        return self.refusal or ShellResult("", "", 0)

    def note(self, event: str) -> None:
        if self.is_gone:
            raise PhoneError(f"The phone {self.serial} does not answer.")
        self.events.append(event)


class FakeBench:
    """What a meter asks of a workbench; networks are named by their bytes, and take their times in turn.

    Attributes:
        phone: The fake phone.
        tool: Its benchmark tool.
        placed: The networks on the phone.
        num_preparations: As of a workbench.
        cores: What each run reports, in turn; the last stay.
        is_closed: Whether it was closed.
        on_run: Called with the name of a network before each run.
    """

    def __init__(
        self,
        phone: FakePhone | None = None,
        *,
        times_ms: Mapping[str, Iterable[float | BenchmarkResult | Exception]],
        profile: tuple[OperatorTime, ...] = (),
    ) -> None:
        self.phone = phone or FakePhone()
        self.tool = TOOL
        self.placed: set[str] = set()
        self.num_preparations = 1
        self.cores: list[str | None] = ["4-7"]
        self.is_closed = False
        self.on_run: Callable[[str], object] = lambda name: None
        self._times: dict[str, Iterator[float | BenchmarkResult | Exception]] = {
            name: iter(times) for name, times in times_ms.items()
        }
        self._profile = profile

    def survive(self, step: Callable[[], Any]) -> Any:
        return step()

    def place(self, tflite: bytes) -> None:
        self.phone.note(f"place {tflite.decode()}")
        self.placed.add(tflite.decode())

    def remove(self, tflite: bytes) -> None:
        self.phone.note(f"remove {tflite.decode()}")
        self.placed.discard(tflite.decode())

    def run(
        self, tflite: bytes, settings: RunSettings, *, profile: bool = False, mask: str | None = None
    ) -> ToolRun:
        name = tflite.decode()
        self.phone.note(f"{'profile' if profile else 'run'} {name} {mask}")
        self.placed.add(name)
        self.on_run(name)
        time = next(self._times[name])
        if isinstance(time, Exception):
            raise time
        if not isinstance(time, BenchmarkResult):
            time = result(time)
        cores = self.cores.pop(0) if len(self.cores) > 1 else self.cores[0]
        return ToolRun(time, self._profile if profile else (), cores, "output")

    def close(self) -> None:
        self.is_closed = True

    @property
    def order(self) -> str:
        """Names of the networks in the order they ran: "CRRC"."""
        return "".join(event.split()[1] for event in self.phone.events if event.startswith("run "))


class FakeClock:
    """A clock that only sleeping advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
