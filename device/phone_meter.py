"""Times TFLite networks on a phone, interleaved with a reference network and never while it is hot."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.benchmark_tool import find_tool
from amc_tf.device.discovery import find_phone
from amc_tf.device.latency import Latency
from amc_tf.device.phone_facts import core_mask
from amc_tf.device.phone_rounds import PhoneTiming, summarise, typical_ms
from amc_tf.device.phone_session import PhoneSession
from amc_tf.device.phone_state import CoolDown, Cooler, FixedPerformance
from amc_tf.device.workbench import ToolRun, Workbench
from amc_tf.errors import MeasurementError, PhoneError

__all__ = ["CoolDown", "PhoneMeter", "PhoneTiming"]

_LOGGER = logging.getLogger(__name__)


class PhoneMeter:
    """A `LatencyMeter` over the official benchmark tool on a phone.

    A round is one process of the tool with the candidate and one with the reference, the first turn changing
    sides each round (C R, R C, C R, ...): heat and a falling battery slow both alike and cancel in the ratio
    of the round. Every process warms itself up. Rounds go on until `PhoneTiming.min_rounds` are made and
    their ratios agree, up to `PhoneTiming.max_rounds`.

    The tool runs on the big cores, in Android's fixed-performance mode where the phone has it. A phone that
    is too hot is given time to cool down before each round. A round is made again if the phone began to
    throttle in it, dropped out, or gave the two networks different cores. What was found goes into
    `Latency.conditions`: device (with its serial number), binary_sha256 and tool; mask (the cores asked for)
    and cores (those the tool ran on); fixed_performance, and why not; before and after (temperature, thermal
    status, screen, battery); init_ms and memory of the candidate's first process; rounds, discarded, cooled_s
    and seconds.

    Attributes:
        name: "Google Pixel 8:cpu:4-thread" and the like.
        runs_elsewhere: True.
        serial: What selects the phone.
        unit: As of `PhoneInfo`.
        timing: Rounds and temperatures.
    """

    runs_elsewhere = True

    def __init__(
        self,
        workbench: Workbench,
        settings: RunSettings,
        *,
        reference: bytes | None = None,
        timing: PhoneTiming | None = None,
        on_cool_down: Callable[[CoolDown], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads what kind of phone it is; nothing runs yet.

        Args:
            workbench: The phone and the tool.
            settings: Threads, delegate and runs of one process.
            reference: The network that every candidate is compared with (the unpruned one), as TFLite bytes.
            timing: Rounds and temperatures.
            on_cool_down: Called at every look at a phone that is too hot, for a progress bar.
            sleep: Waits for a number of seconds.
            clock: Monotonic clock in seconds.

        Raises:
            PhoneError: The phone cannot be reached.
        """
        info = workbench.phone.info()
        precision = "-fp16" if settings.fp16 else ""
        self.name = f"{info.name}:{settings.delegate}{precision}:{settings.num_threads}-thread"
        self.serial = workbench.phone.serial
        self.unit = info.unit
        self.timing = timing or PhoneTiming()
        self._workbench = workbench
        self._settings = settings
        self._reference = reference
        self._on_cool_down = on_cool_down
        self._sleep = sleep
        self._clock = clock
        self._mask = core_mask(info.cores_for(settings.num_threads)) or None
        self._fixed_performance = FixedPerformance(workbench)

    def fingerprint(self) -> str:
        """Returns phone, tool, settings and reference as one line of JSON (see `LatencyMeter`).

        It leaves out the serial number, so that phones of one model and build share measurements, and how
        long a hot phone is waited for, which changes no number.
        """
        timing = dataclasses.asdict(self.timing)
        for name in ("max_discarded", "cool_down_s", "poll_s"):
            del timing[name]
        return json.dumps(
            {
                "kind": "phone",
                "phone": self._workbench.phone.info().identity(),
                "binary": self._workbench.tool.sha256,
                "settings": dataclasses.asdict(self._settings),
                "timing": timing,
                "mask": self._mask,
                "reference": self._reference and hashlib.sha256(self._reference).hexdigest(),
            },
            sort_keys=True,
        )

    def with_reference(self, tflite: bytes) -> PhoneMeter:
        """Returns a meter on the same workbench that times every candidate beside this network."""
        meter = PhoneMeter(
            self._workbench,
            self._settings,
            reference=tflite,
            timing=self.timing,
            on_cool_down=self._on_cool_down,
            sleep=self._sleep,
            clock=self._clock,
        )
        meter._fixed_performance = self._fixed_performance
        return meter

    def measure(self, tflite: bytes) -> Latency:
        """Times one network against the reference.

        Args:
            tflite: The contents of a `.tflite` file.

        Returns:
            The latency; `reference_median_ms` and `paired_ratio` are None for a meter without a reference.

        Raises:
            PhoneError: The phone dropped out, or stays too hot.
            MeasurementError: A network cannot be timed; the sentence says whether candidate or reference.
        """
        with self.session(tflite) as session:
            while not self.timing.is_enough([session.rounds]):
                session.wait_until_cool()
                session.take_round()
            return summarise([session.rounds], session.conditions())

    def profile(self, tflite: bytes) -> tuple[OperatorTime, ...]:
        """Times each operator of a network.

        Profiling slows a network down, so a plain run tells the whole and the profile only how it is divided:
        the operators' times are scaled to sum up to the median of the plain run.

        Args:
            tflite: The contents of a `.tflite` file.

        Returns:
            The operators in the order they run.

        Raises:
            PhoneError: The phone dropped out, or stays too hot.
            MeasurementError: The network cannot be timed or the tool gives no profile.
        """
        with self.session(tflite) as session:
            session.wait_until_cool()
            plain = self._run("candidate", tflite)
            profile = self._run("candidate", tflite, profile=True).profile
        total_ms = sum(operator.mean_ms * operator.times_called for operator in profile)
        scale = typical_ms(plain.result) / total_ms if total_ms > 0 else 1.0
        return tuple(
            dataclasses.replace(
                operator,
                mean_ms=scale * operator.mean_ms,
                first_ms=None if operator.first_ms is None else scale * operator.first_ms,
            )
            for operator in profile
        )

    @contextlib.contextmanager
    def session(self, tflite: bytes) -> Iterator[PhoneSession]:
        """Readies the phone for rounds of one candidate, and puts it back in order, also after an error.

        Args:
            tflite: The contents of a `.tflite` file.

        Yields:
            What takes the rounds.

        Raises:
            PhoneError: The phone cannot be reached.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._placed(tflite))
            stack.callback(self._fixed_performance.switch_off)
            refusal = self._fixed_performance.switch_on()
            yield PhoneSession(
                self._run,
                self._ready,
                self._cooler(),
                candidate=tflite,
                reference=self._reference,
                max_discarded=self.timing.max_discarded,
                facts=self._facts(refusal),
            )

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        serial: str | None = None,
        *,
        transport: str = "auto",
        binary: str | os.PathLike[str] | None = None,
        settings: RunSettings | None = None,
        timing: PhoneTiming | None = None,
        on_cool_down: Callable[[CoolDown], None] | None = None,
    ) -> Iterator[PhoneMeter]:
        """Connects to a phone and yields its meter; at the end the phone is left as it was.

        Args:
            serial: Serial number or HOST:PORT; None for $ANDROID_SERIAL, else the only phone there is.
            transport: How it is reached (see `amc_tf.device.discovery.find_phone`).
            binary: The benchmark tool for its ABI; None for the official one, which is downloaded once.
            settings: Threads, delegate and runs of one process.
            timing: Rounds and temperatures.
            on_cool_down: Called at every look at a phone that is too hot.

        Raises:
            PhoneError: There is no phone, several and none was chosen, or it cannot be reached.
            MeasurementError: There is no tool for it.

        Example:
            >>> with PhoneMeter.open() as meter:  # doctest: +SKIP
            ...     amc_tf.compress(model, train, validation, budget=budget, meter=meter)
        """
        with find_phone(serial, transport=transport) as phone:
            workbench = Workbench(phone, find_tool(phone.info().abi, binary=binary))
            meter = cls(workbench, settings or RunSettings(), timing=timing, on_cool_down=on_cool_down)
            with contextlib.closing(meter):
                yield meter

    def close(self) -> None:
        """Removes everything but the benchmark tool from the phone, for all meters on this workbench."""
        try:
            self._workbench.close()  # waits for a phone that has just dropped out
        finally:
            self._fixed_performance.switch_off()

    @contextlib.contextmanager
    def _placed(self, tflite: bytes) -> Iterator[None]:
        """Has a candidate on the phone for a while; an error in removing it hides no other error."""
        try:
            self._workbench.place(tflite)
            yield
        except BaseException:
            try:
                self._remove(tflite)
            except MeasurementError as error:
                _LOGGER.warning("The network stays on the phone %s for now: %s", self.serial, error)
            raise
        self._remove(tflite)

    def _ready(self) -> int:
        """Fixes the clocks of a phone that dropped out and came back; returns how often it was readied."""
        self._fixed_performance.switch_on()
        return self._workbench.num_preparations

    def _run(self, role: str, tflite: bytes, *, profile: bool = False) -> ToolRun:
        try:
            return self._workbench.run(tflite, self._settings, profile=profile, mask=self._mask)
        except PhoneError:
            raise
        except MeasurementError as error:
            raise MeasurementError(f"The {role} network cannot be timed on {self.name}: {error}") from error

    def _remove(self, tflite: bytes) -> None:
        if tflite != self._reference:
            self._workbench.remove(tflite)

    def _cooler(self) -> Cooler:
        return Cooler(
            self._workbench,
            self.timing,
            on_cool_down=self._on_cool_down,
            sleep=self._sleep,
            clock=self._clock,
        )

    def _facts(self, refusal: str | None) -> dict[str, Any]:
        tool = self._workbench.tool
        return {
            "device": {**self._workbench.phone.info().identity(), "serial": self.serial},
            "binary_sha256": tool.sha256,
            "tool": tool.origin,
            "mask": self._mask,
            "fixed_performance": refusal is None,
            **({} if refusal is None else {"fixed_performance_refusal": refusal}),
        }
