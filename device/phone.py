"""One phone: runs commands on it, moves files, and asks it what it is and how it is."""

from __future__ import annotations

from types import TracebackType

from amc_tf.device.phone_facts import (
    CONDITIONS_SCRIPT,
    INFO_SCRIPT,
    Conditions,
    Core,
    PhoneInfo,
    clean,
    parse_conditions,
    parse_info,
)
from amc_tf.device.transport import ShellResult, Transport, quote
from amc_tf.errors import MeasurementError, PhoneError

__all__ = ["Conditions", "Core", "Phone", "PhoneInfo"]

_FILE_TIMEOUT_S = 30.0
_SLOWEST_BYTES_PER_S = 500_000  # a phone on poor Wi-Fi


class Phone:
    """A phone behind a transport.

    Every method connects first where there is no connection, so a phone that dropped out can be asked again.
    All of them raise `PhoneError` where it cannot be reached, refuses, or drops out, and `PhoneTimeoutError`
    where it does not answer in time. As a context manager it is connected at the start and closed at the end.
    """

    def __init__(self, transport: Transport, *, connect_timeout_s: float = 10.0) -> None:
        """Takes the way to the phone; nothing is connected yet.

        Args:
            transport: The way.
            connect_timeout_s: Longest wait for a connection, in seconds; on a phone that does not know this
                computer yet it includes the time that its owner takes to accept.
        """
        self._transport = transport
        self._connect_timeout_s = connect_timeout_s
        self._info: PhoneInfo | None = None

    def __enter__(self) -> Phone:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def serial(self) -> str:
        """What selects the phone: serial number or HOST:PORT."""
        return self._transport.serial

    @property
    def transport_name(self) -> str:
        """How it is reached, for people: "127.0.0.1:5555 over TCP"."""
        return self._transport.name

    def connect(self) -> None:
        """Connects, also again after an error; does nothing on a connection that is open."""
        self._transport.connect(timeout_s=self._connect_timeout_s)

    def shell(self, *words: str, timeout_s: float = 30.0) -> ShellResult:
        """Runs one command.

        Args:
            *words: The command and its arguments; each stands for itself, whatever characters it has.
            timeout_s: Longest wait for its end, in seconds.
        """
        return self.script(quote(*words), timeout_s=timeout_s)

    def script(self, text: str, timeout_s: float) -> ShellResult:
        """Runs lines of shell.

        Args:
            text: A fixed script; the caller has quoted every value in it.
            timeout_s: Longest wait for its end, in seconds.
        """
        self.connect()
        return self._transport.shell(text, timeout_s=timeout_s)

    def push(self, content: bytes, path: str, timeout_s: float | None = None) -> None:
        """Writes a file, readable and executable by the shell user.

        Args:
            content: What to write.
            path: Where.
            timeout_s: Longest wait, in seconds; None for one that suits the size.

        Raises:
            MeasurementError: The phone refuses the file (disk full, no permission), in its own words.
        """
        if timeout_s is None:
            timeout_s = _FILE_TIMEOUT_S + len(content) / _SLOWEST_BYTES_PER_S
        self.connect()
        self._transport.push(content, path, timeout_s=timeout_s)

    def info(self) -> PhoneInfo:
        """Returns which phone it is; asked once.

        Raises:
            MeasurementError: It answers, but not as Android does.
        """
        if self._info is None:
            answer = self.script(INFO_SCRIPT, timeout_s=30.0)
            info = parse_info(answer.stdout, self.serial)
            if not info.abi:
                raise MeasurementError(
                    f"The phone {self.serial} does not say what it is; it must run Android, but answers: "
                    f"{clean(answer.stderr or answer.stdout) or 'nothing'}."
                )
            self._info = info
        return self._info

    def recognise(self) -> None:
        """Makes sure, after a drop-out, that it is still the phone that `info` told of, if it was asked.

        Raises:
            PhoneError: Another phone has its address now, or its Android was updated.
        """
        known = self._info
        if known is None:
            return
        self._info = None
        try:
            differs = self.info().identity() != known.identity()
        finally:
            self._info = known
        if differs:
            raise PhoneError(
                f"The phone {self.serial} has come back as another one than {known.name} with the build "
                f"{known.build_fingerprint}; check the address, or start again if its Android was updated."
            )

    def conditions(self) -> Conditions:
        """Returns how it is at this moment: heat, charge, screen."""
        return parse_conditions(self.script(CONDITIONS_SCRIPT, timeout_s=30.0).stdout)

    def close(self) -> None:
        """Closes the connection; closing twice is harmless."""
        self._transport.close()
