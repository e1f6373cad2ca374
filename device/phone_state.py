"""Keeps a phone cool and its clocks steady while networks are timed on it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from amc_tf.device.phone_facts import Conditions
from amc_tf.device.phone_rounds import PhoneTiming
from amc_tf.device.transport import ShellResult
from amc_tf.device.workbench import Workbench
from amc_tf.errors import PhoneError

_LOGGER = logging.getLogger(__name__)

# A phone that was too hot goes on when it is this much below the limit, not to be too hot again at once.
_HYSTERESIS_C = 1.0
_FIXED_PERFORMANCE_SDK = 30  # Android 11


@dataclasses.dataclass(frozen=True)
class CoolDown:
    """How the wait for a hot phone goes; given to a callback at every look at it.

    Attributes:
        seconds_waited: Since the wait began.
        limit_s: When it is given up, in seconds since it began.
        battery_c: Temperature of the battery, in degrees Celsius, if known.
        thermal_status: Android's thermal status, 0 none to 6 shutdown, if known.
        is_over: Whether this is the last call of the wait.
    """

    seconds_waited: float
    limit_s: float
    battery_c: float | None
    thermal_status: int | None
    is_over: bool = False


class Cooler:
    """Waits while a phone is too hot to be measured.

    Attributes:
        seconds: Time spent waiting so far.
    """

    def __init__(
        self,
        bench: Workbench,
        timing: PhoneTiming,
        *,
        on_cool_down: Callable[[CoolDown], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares; nothing is asked of the phone yet.

        Args:
            bench: With the phone whose temperature to watch.
            timing: How hot it may be, and for how long.
            on_cool_down: Called at every look at a phone that is too hot, and once when the wait is over.
            sleep: Waits for a number of seconds.
            clock: Monotonic clock in seconds.
        """
        self.seconds = 0.0
        self._bench = bench
        self._timing = timing
        self._on_cool_down = on_cool_down or (lambda _: None)
        self._sleep = sleep
        self._clock = clock

    def now(self) -> float:
        """Returns the clock's time in seconds."""
        return self._clock()

    def look(self) -> Conditions:
        """Returns how the phone is at this moment.

        Raises:
            PhoneError: It dropped out and did not come back.
        """
        return self._bench.survive(self._bench.phone.conditions)

    def is_throttling(self, conditions: Conditions) -> bool:
        """Returns whether Android holds the phone back because of its temperature."""
        return (conditions.thermal_status or 0) > self._timing.max_thermal_status

    def wait(self, conditions: Conditions, is_wanted: Callable[[], bool]) -> Conditions:
        """Waits until a phone that is too hot is 1 degree below the limit and not throttling.

        Args:
            conditions: How the phone was found.
            is_wanted: Asked at every look; once it says no, the wait ends.

        Returns:
            How the phone is now; the same if it was cool enough.

        Raises:
            PhoneError: It is still too hot after `PhoneTiming.cool_down_s`, or cannot be asked any more.
        """
        if not self._is_too_hot(conditions, self._timing.max_battery_c):
            return conditions
        start = self._clock()
        before = self.seconds
        target_c = self._timing.max_battery_c - _HYSTERESIS_C
        try:
            while self._is_too_hot(conditions, target_c) and is_wanted():
                waited = self.seconds - before
                self._on_cool_down(self._cool_down(waited, conditions))
                if waited >= self._timing.cool_down_s:
                    raise self.too_hot(conditions, f"is still too hot after {waited:.0f} s of cooling down")
                self._sleep(min(self._timing.poll_s, self._timing.cool_down_s - waited))
                conditions = self.look()
                self.seconds = before + self._clock() - start
        finally:
            last = self._cool_down(self.seconds - before, conditions)
            self._on_cool_down(dataclasses.replace(last, is_over=True))
        return conditions

    def too_hot(self, conditions: Conditions, what: str) -> PhoneError:
        """Returns the error that says what the heat did, how hot the phone is and what to do about it.

        Args:
            conditions: How the phone is.
            what: Goes on from "The phone SERIAL": "is still too hot".
        """
        battery = "unknown" if conditions.battery_c is None else f"{conditions.battery_c:.1f} °C"
        return PhoneError(
            f"The phone {self._bench.phone.serial} {what}: battery {battery} (limit "
            f"{self._timing.max_battery_c:.1f} °C), thermal status {conditions.thermal_status} (limit "
            f"{self._timing.max_thermal_status}); take it out of its case and out of the sun, stop charging "
            "it if you can, and go on when it is cool."
        )

    def _is_too_hot(self, conditions: Conditions, limit_c: float) -> bool:
        battery_c = conditions.battery_c
        return self.is_throttling(conditions) or (battery_c is not None and battery_c > limit_c)

    def _cool_down(self, seconds: float, conditions: Conditions) -> CoolDown:
        return CoolDown(seconds, self._timing.cool_down_s, conditions.battery_c, conditions.thermal_status)


class FixedPerformance:
    """Android's fixed-performance mode: clocks that the phone can hold for long (Android 11 and later)."""

    def __init__(self, bench: Workbench) -> None:
        """Prepares the switch of the phone on a workbench; nothing is changed yet."""
        self._bench = bench
        self._may_be_on = False
        self._refusal: str | None = None
        self._switched_at: int | None = None  # the workbench's `num_preparations`

    def switch_on(self) -> str | None:
        """Switches the mode on, unless that was done since the phone last dropped out and came back.

        Returns:
            None, or why the phone cannot, in its own words; many cannot.

        Raises:
            PhoneError: The phone dropped out and did not come back.
        """
        if self._switched_at is None or self._switched_at != self._bench.num_preparations:
            self._refusal = self._try()
            self._switched_at = self._bench.num_preparations
        return self._refusal

    def switch_off(self) -> None:
        """Switches the mode off if it may be on; on a phone that is gone, when this is called again."""
        self._switched_at = None
        if not self._may_be_on:
            return
        try:
            self._switch("false")
            self._may_be_on = False
        except PhoneError as error:
            _LOGGER.warning(
                "Fixed-performance mode stays on until the phone's next measurement, its restart or "
                "`amc-tf devices --clean`: %s",
                error,
            )

    def _try(self) -> str | None:
        sdk = self._bench.phone.info().sdk
        if sdk < _FIXED_PERFORMANCE_SDK:
            return f"needs Android 11 (SDK {_FIXED_PERFORMANCE_SDK}), the phone has SDK {sdk}"
        self._may_be_on = True
        result = self._bench.survive(lambda: self._switch("true"))
        self._may_be_on = result.exit_code == 0
        if self._may_be_on:
            return None
        return " ".join(result.output.split()) or f"exit code {result.exit_code}"

    def _switch(self, state: str) -> ShellResult:
        return self._bench.phone.shell("cmd", "power", "set-fixed-performance-mode-enabled", state)
