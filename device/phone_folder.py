"""A folder on a phone for the networks of one session, which survives that the phone drops out."""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import TypeVar

from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Phone
from amc_tf.device.phone_scripts import (
    HASH,
    INSTALL,
    PREPARE,
    REMOVE_FILE,
    REMOVE_FOLDER,
    hash_in,
    run_on,
)
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

ROOT = "/data/local/tmp/amc-tf"

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 4.0
# How long `close` waits for a phone that has dropped out.
_CLOSE_S = 5.0


class NotInTimeError(PhoneTimeoutError):
    """Raised by a step that took too long, may still run on the phone, and is not to be repeated."""


class PhoneFolder:
    """A folder on a phone for the networks of one session, with the benchmark tool beside it.

    Networks and tool lie on the phone under the hash of their content and are checked there after they were
    pushed (`sha256sum`, which Android has since 6.0); a tool that is found there of an earlier session is
    checked once per connection.

    A phone that drops out is reconnected, with growing pauses. What was left running on it is killed, the
    folder emptied, and the step repeated, once.

    Attributes:
        phone: The phone.
        path: The folder on the phone.
        binary: Path of the tool on the phone; it stays there for other sessions.
        num_preparations: How often the phone was readied: for the first step, and after every drop-out.
    """

    def __init__(
        self,
        phone: Phone,
        tool: BenchmarkTool,
        *,
        reconnect_s: float,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        """Chooses a name; nothing is sent before the first step. The arguments are those of `Workbench`."""
        self.phone = phone
        self.path = f"{ROOT}/run-{secrets.token_hex(8)}"
        self.binary = f"{ROOT}/benchmark_model-{tool.sha256}"
        self.num_preparations = 0
        self._tool = tool
        self._reconnect_s = reconnect_s
        self._sleep = sleep
        self._clock = clock
        self._placed: set[str] = set()
        self._is_prepared = False
        self._may_have_left_files = False

    def path_of(self, tflite: bytes) -> str:
        """Returns where a network lies on the phone, or would."""
        return f"{self.path}/{hashlib.sha256(tflite).hexdigest()}.tflite"

    def survive(self, step: Callable[[], _T]) -> _T:
        """Does a step on the phone, and does it again where the phone dropped out and came back.

        Args:
            step: Something that may be done twice.

        Raises:
            MeasurementError: The step did not end in time (`NotInTimeError`) and was killed.
            PhoneError: The phone dropped out and did not come back, or dropped out twice.
        """
        try:
            return self._attempt(step)
        except PhoneError as error:
            _LOGGER.warning("Reconnecting: %s", error)
            self._reconnect(self._prepare, within_s=self._reconnect_s)
            if isinstance(error, NotInTimeError):
                raise MeasurementError(str(error)) from error
        return self._attempt(step)

    def place(self, tflite: bytes) -> None:
        """Puts a network on the phone, unless it is there; a step for `survive`.

        Raises:
            PhoneError: The phone dropped out.
            MeasurementError: The phone does not take the file; the message has its words.
        """
        path = self.path_of(tflite)
        if path not in self._placed:
            self._push(tflite, path, hashlib.sha256(tflite).hexdigest())
            self._placed.add(path)

    def remove(self, tflite: bytes) -> None:
        """Removes a network from the phone, if it is there.

        From a phone that has dropped out it is removed later: before the folder's next use, or by `close`.

        Raises:
            MeasurementError: The phone refuses; the message has its words.
        """
        path = self.path_of(tflite)
        if not self._is_prepared or path not in self._placed:
            return
        self._placed.remove(path)
        try:
            self._attempt(lambda: self._delete(path))
        except PhoneError as error:
            _LOGGER.warning("A network is removed when the phone is back: %s", error)

    def doubt(self) -> None:
        """Lets the next step empty the folder and look for the tool again, as after a drop-out."""
        self._is_prepared = False

    def close(self) -> None:
        """Kills what still runs and removes the session's folder from the phone; the tool stays.

        On a phone that cannot be reached the folder stays; that is logged and no error.
        """
        if not self._may_have_left_files:
            return
        try:
            self._remove_folder()
        except MeasurementError as error:
            _LOGGER.warning("%s stays on the phone until `amc-tf devices --clean`: %s", self.path, error)
        finally:
            self._is_prepared = False
            self._placed.clear()

    def _remove_folder(self) -> None:
        def remove() -> None:
            run_on(self.phone, REMOVE_FOLDER, folder=self.path)
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
            f"{error or 'there was no time to reconnect.'}"
        ) from error

    def _prepare(self) -> None:
        """Connects, kills what an interrupted step left running, empties the folder, installs the tool.

        Folders of sessions that were killed themselves go with it, a day after their last run.
        """
        if self._is_prepared:
            return
        self._placed.clear()
        self.phone.connect()
        if self.num_preparations > 0:
            self.phone.recognise()
        self._may_have_left_files = True
        answer = run_on(self.phone, PREPARE, root=ROOT, folder=self.path, binary=self.binary)
        if hash_in(answer) != self._tool.sha256:
            self._install()
        self.num_preparations += 1
        self._is_prepared = True

    def _install(self) -> None:
        temporary = f"{self.path}/benchmark_model"
        self._push(self._tool.content, temporary, self._tool.sha256)
        run_on(self.phone, INSTALL, temporary=temporary, binary=self.binary)

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
