"""Takes the rounds of one candidate on one phone, and keeps what was found on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from amc_tf.device.phone_rounds import Round
from amc_tf.device.phone_state import Cooler
from amc_tf.device.workbench import ToolRun
from amc_tf.errors import PhoneError


class PhoneSession:
    """One candidate's rounds on one phone; made by `PhoneMeter.session`.

    Attributes:
        rounds: The rounds that count, in the order taken.
    """

    def __init__(
        self,
        run: Callable[[str, bytes], ToolRun],
        ready: Callable[[], int],
        cooler: Cooler,
        *,
        candidate: bytes,
        reference: bytes | None,
        max_discarded: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Looks how the phone is.

        Args:
            run: Times a network in one process; given "candidate" or "reference" and its TFLite bytes.
            ready: Readies the phone where it has dropped out, and tells how often it has been readied.
            cooler: Knows when the phone is too hot.
            candidate: TFLite bytes.
            reference: TFLite bytes, or None.
            max_discarded: Rounds that may be lost.
            facts: What `conditions` tells besides what happens in the session.

        Raises:
            PhoneError: The phone cannot be reached.
        """
        self.rounds: list[Round] = []
        self._run = run
        self._ready = ready
        self._cooler = cooler
        self._networks = {"candidate": candidate}
        if reference is not None:
            self._networks["reference"] = reference
        self._max_discarded = max_discarded
        self._facts = facts
        self._num_discarded = 0
        self._cores: dict[str, None] = {}
        self._start = cooler.now()
        self._before = self._after = cooler.look()

    def wait_until_cool(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Waits while the phone is too hot.

        Args:
            is_wanted: Asked while waiting; once it says no, the wait ends.

        Raises:
            PhoneError: The phone stays too hot, or cannot be asked any more.
        """
        self._after = self._cooler.wait(self._after, is_wanted)

    def take_round(self) -> None:
        """Times candidate and reference once, unless something sets the two apart; then it does not count.

        That is a phone that began to throttle, that dropped out and came back (perhaps restarted, with free
        clocks), or that gave the two different cores.

        Raises:
            PhoneError: The phone dropped out for good, or too many rounds were lost.
            MeasurementError: A network cannot be timed; the sentence says which.
        """
        num_readied = self._ready()
        roles = list(self._networks) if len(self.rounds) % 2 == 0 else list(reversed(self._networks))
        runs = {role: self._run(role, self._networks[role]) for role in roles}
        self._after = self._cooler.look()
        flaw = None
        if len({run.cores for run in runs.values()}) > 1:
            flaw = f"gave the two networks different cores ({', '.join(str(r.cores) for r in runs.values())})"
        elif self._ready() != num_readied:
            flaw = "dropped out and came back"
        if flaw or self._cooler.is_throttling(self._after):
            self._discard(flaw)
            return
        self._cores.update(dict.fromkeys(run.cores for run in runs.values() if run.cores))
        reference = runs["reference"].result if "reference" in runs else None
        self.rounds.append(Round(runs["candidate"].result, reference))

    def _discard(self, flaw: str | None) -> None:
        """Counts a lost round; without a flaw it was lost to throttling."""
        self._num_discarded += 1
        if self._num_discarded <= self._max_discarded:
            return
        lost = f"{self._num_discarded} rounds of one network"
        if flaw is None:
            raise self._cooler.too_hot(self._after, f"began to throttle in {lost}")
        raise PhoneError(
            f"The phone {self._facts['device']['serial']} lost {lost}: in the last it {flaw}; check the "
            "cable or the network, and end what else runs on the phone."
        )

    def conditions(self) -> dict[str, Any]:
        """Returns what `Latency.conditions` is to tell of the session (see `PhoneMeter`)."""
        first = self.rounds[0].candidate
        return {
            **self._facts,
            "cores": list(self._cores),
            "before": dataclasses.asdict(self._before),
            "after": dataclasses.asdict(self._after),
            "init_ms": first.init_ms,
            "memory": None if first.memory is None else dataclasses.asdict(first.memory),
            "rounds": len(self.rounds),
            "discarded": self._num_discarded,
            "cooled_s": round(self._cooler.seconds, 3),
            "seconds": round(self._cooler.now() - self._start, 3),
        }
