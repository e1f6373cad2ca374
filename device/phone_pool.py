"""Lets several phones of one model share the rounds of every candidate."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.latency import Latency
from amc_tf.device.phone_meter import PhoneMeter
from amc_tf.device.phone_rounds import PhoneTiming, Round, summarise
from amc_tf.device.phone_session import PhoneSession
from amc_tf.errors import PhoneError, SettingsError

_LOGGER = logging.getLogger(__name__)


class PhonePool:
    """A `LatencyMeter` over several phones of one model and Android build.

    The phones take rounds of one candidate at the same time until there are enough of them in all. A round is
    candidate and reference on one and the same phone, so the ratios of all phones are comparable and are
    pooled; `summarise` tells what becomes of the times. `Latency.conditions` is that of the first phone, with
    the serial numbers of all that took part joined by ", " and their own conditions under "phones".

    A phone that drops out leaves its rounds to the others and is tried again with the next candidate; nobody
    waits for it while it reconnects or cools down, unless it is the last one.

    Attributes:
        name: "2 x Google Pixel 8:cpu:4-thread" and the like.
        runs_elsewhere: True.
    """

    runs_elsewhere = True

    def __init__(self, meters: Sequence[PhoneMeter]) -> None:
        """Takes over the meters; `close` closes them.

        Args:
            meters: One per phone, with equal settings; at least one.

        Raises:
            SettingsError: There is none, one phone is given twice, or they differ in model, Android build,
                benchmark tool, settings or reference.
        """
        _check_alike(meters)
        self.name = meters[0].name if len(meters) == 1 else f"{len(meters)} x {meters[0].name}"
        self._workers = [
            _Worker(meter, concurrent.futures.ThreadPoolExecutor(1, f"phone {meter.serial}"))
            for meter in meters
        ]

    def fingerprint(self) -> str:
        """Returns the fingerprint of a single one of the phones: they share measurements."""
        return self._workers[0].meter.fingerprint()

    def with_reference(self, tflite: bytes) -> PhonePool:
        """Returns a pool of the same phones that times every candidate beside this network."""
        pool = PhonePool([worker.meter.with_reference(tflite) for worker in self._workers])
        for worker, own in zip(pool._workers, self._workers, strict=True):
            worker.executor = own.executor  # one thread per phone, whichever pool asks
        return pool

    def measure(self, tflite: bytes) -> Latency:
        """Times one network against the reference on all phones that are there.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            PhoneError: No phone is left.
            MeasurementError: A network cannot be timed; the sentence says whether candidate or reference.
        """
        board = _Board(self._workers[0].meter.timing)
        try:
            futures = [
                worker.submit(_take_rounds, worker.meter, tflite, board) for worker in self._free_workers()
            ]
            for future in futures:
                future.add_done_callback(lambda _: board.wake())
            sessions = board.wait(futures)
        finally:
            board.stop()
        conditions = _join_conditions([session.conditions() for session in sessions])
        return summarise([session.rounds for session in sessions], conditions)

    def profile(self, tflite: bytes) -> tuple[OperatorTime, ...]:
        """Times each operator of a network on the first phone that can; see `PhoneMeter.profile`.

        Args:
            tflite: The contents of a `.tflite` file.

        Raises:
            PhoneError: No phone is left.
            MeasurementError: The network cannot be timed or the tool gives no profile.
        """
        lost = {}
        for worker in self._free_workers():
            try:
                profile: tuple[OperatorTime, ...] = worker.submit(worker.meter.profile, tflite).result()
            except PhoneError as error:
                lost[worker.meter.serial] = error
            else:
                return profile
        raise _all_lost(lost)

    def close(self) -> None:
        """Closes all meters, after what still runs on the phones has ended."""
        with contextlib.ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.meter.close)
                stack.callback(worker.executor.shutdown)

    def _free_workers(self) -> list[_Worker]:
        """Returns those that are done with earlier candidates; waits for the first."""
        if not any(worker.is_free() for worker in self._workers):
            pending = [worker.future for worker in self._workers if worker.future is not None]
            concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
        return [worker for worker in self._workers if worker.is_free()]


@dataclasses.dataclass
class _Worker:
    """One phone and the only thread that talks to it."""

    meter: PhoneMeter
    executor: concurrent.futures.ThreadPoolExecutor
    future: concurrent.futures.Future[Any] | None = None

    def is_free(self) -> bool:
        return self.future is None or self.future.done()

    def submit(self, job: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
        self.future = self.executor.submit(job, *args)
        return self.future


class _Board:
    """Which rounds of one candidate are made, which are under way, and whether more are wanted."""

    def __init__(self, timing: PhoneTiming) -> None:
        self._timing = timing
        self._changed = threading.Condition()
        self._is_open = True
        self._num_claimed = 0
        self._sessions: dict[str, PhoneSession] = {}
        self._busy: set[str] = set()
        self._lost: dict[str, PhoneError] = {}
        self._error: BaseException | None = None

    def is_open(self) -> bool:
        return self._is_open

    def join(self, serial: str, session: PhoneSession) -> None:
        with self._changed:
            self._sessions[serial] = session

    def claim(self, serial: str) -> bool:
        """Returns whether this phone shall make a round, once that is clear; `release` gives it back."""
        with self._changed:
            self._changed.wait_for(self._is_clear)
            if self._num_claimed == 0 and self._timing.is_enough(self._rounds()):
                self._is_open = False
                self._changed.notify_all()
            if self._is_open:
                self._num_claimed += 1
                self._busy.add(serial)
            return self._is_open

    def release(self) -> None:
        with self._changed:
            self._num_claimed -= 1
            self._changed.notify_all()

    def leave(self, serial: str, error: BaseException | None = None) -> None:
        """Notes that a phone is back in order or lost; any error but a lost phone ends the measurement."""
        with self._changed:
            self._busy.discard(serial)
            if isinstance(error, PhoneError):
                self._lost[serial] = error
            elif error is not None:
                self._error = self._error or error
                self._is_open = False
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, futures: Sequence[concurrent.futures.Future[Any]]) -> list[PhoneSession]:
        """Waits until the rounds are made and the phones that made them are in order.

        Returns:
            The sessions with rounds, by serial number.

        Raises:
            PhoneError: All phones dropped out before.
            BaseException: What else went wrong first.
        """

        def is_over() -> bool:
            return (not self._is_open and not self._busy) or all(future.done() for future in futures)

        with self._changed:
            self._changed.wait_for(is_over)
            if self._error is not None:
                raise self._error
            if not self._timing.is_enough(self._rounds()):
                raise _all_lost(self._lost)
            return [session for _, session in sorted(self._sessions.items()) if session.rounds]

    def _is_clear(self) -> bool:
        """Returns whether it can be said now if one more round is wanted, whatever those under way bring."""
        num_made = sum(map(len, self._rounds()))
        num_rounds = num_made + self._num_claimed
        if not self._is_open or self._num_claimed == 0 or num_rounds < self._timing.min_rounds:
            return True
        disagree = num_made >= self._timing.min_rounds and not self._timing.is_enough(self._rounds())
        return disagree and num_rounds < self._timing.max_rounds

    def _rounds(self) -> list[list[Round]]:
        return [session.rounds for session in self._sessions.values()]


def _take_rounds(meter: PhoneMeter, tflite: bytes, board: _Board) -> None:
    """Takes rounds on one phone as long as they are wanted."""
    error: BaseException | None = None
    try:
        with meter.session(tflite) as session:
            board.join(meter.serial, session)
            while board.is_open():
                session.wait_until_cool(board.is_open)
                if board.claim(meter.serial):
                    try:
                        session.take_round()
                    finally:
                        board.release()
    except PhoneError as dropped_out:
        _LOGGER.warning("%s goes on without the phone %s: %s", meter.name, meter.serial, dropped_out)
        error = dropped_out
    except BaseException as other:  # raised again by the thread that waits
        error = other
    finally:
        board.leave(meter.serial, error)


def _join_conditions(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the conditions of a measurement from those of the phones that took part."""
    if len(parts) == 1:
        return parts[0]
    serials = ", ".join(part["device"]["serial"] for part in parts)
    return {
        **parts[0],
        "device": {**parts[0]["device"], "serial": serials},
        **{name: sum(part[name] for part in parts) for name in ("rounds", "discarded")},
        **{name: max(part[name] for part in parts) for name in ("cooled_s", "seconds")},
        "phones": list(parts),
    }


def _all_lost(lost: dict[str, PhoneError]) -> PhoneError:
    if len(lost) == 1:
        return next(iter(lost.values()))
    reasons = "; ".join(f"{serial}: {str(lost[serial]).rstrip('.')}" for serial in sorted(lost))
    return PhoneError(f"None of the phones is left ({reasons}).")


def _check_alike(meters: Sequence[PhoneMeter]) -> None:
    serials = [meter.serial for meter in meters]
    if not meters or len(set(serials)) < len(serials):
        raise SettingsError(
            f"A pool needs one phone or more, each once, but got {', '.join(serials) or 'none'}."
        )
    for one, other in itertools.combinations(meters, 2):
        if one.unit and one.unit == other.unit:
            raise SettingsError(
                f"{one.serial} and {other.serial} are one phone, reached in two ways: give it once."
            )
    for meter in meters[1:]:
        names = _differences(json.loads(meters[0].fingerprint()), json.loads(meter.fingerprint()))
        if names:
            raise SettingsError(
                "Phones that share the work must be of one model and Android build, and be measured alike, "
                f"but {serials[0]} ({meters[0].name}) and {meter.serial} ({meter.name}) differ in "
                f"{', '.join(names)}; choose one of them."
            )


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Returns the names of the values that differ, those of a phone's own facts without "phone"."""
    flat = [
        {**{k: v for k, v in record.items() if k != "phone"}, **record["phone"]} for record in (one, other)
    ]
    return [name for name in flat[0] if flat[0][name] != flat[1].get(name)]
