"""The seam between the toolkit and ADB: five methods, one implementation for each way to reach a phone."""

from __future__ import annotations

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class ShellResult:
    """What one command on the phone left.

    Attributes:
        stdout: Its standard output; where the transport cannot keep them apart, standard error too, in order.
        stderr: Its standard error; empty where the transport cannot keep them apart.
        exit_code: Its exit status, 0 to 255; 128 + N where signal N ended it.
    """

    stdout: str
    stderr: str
    exit_code: int

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        return self.stdout + self.stderr


class Transport(Protocol):
    """A connection to one phone.

    Every method raises `PhoneError` where the phone cannot be reached, refuses, or drops out, and
    `PhoneTimeoutError` where it does not answer in time; after either the connection is closed, and `connect`
    may be called again.

    Attributes:
        serial: What selects the phone: its serial number, or HOST:PORT.
        name: For people: "127.0.0.1:5555 over TCP".
    """

    serial: str
    name: str

    def connect(self, *, timeout_s: float) -> None:
        """Connects; does nothing on a connection that is open."""
        ...

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        """Runs a line of shell and waits for its end.

        Args:
            command: For the device's shell; the caller has quoted every word in it that is not its own.
            timeout_s: Longest wait for the end of the command, in seconds.
        """
        ...

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        """Writes a file on the phone, readable and executable by the shell user.

        Raises:
            MeasurementError: The phone refuses the file (disk full, no permission), in its own words.
        """
        ...

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        """Returns the contents of a file on the phone.

        Raises:
            MeasurementError: There is no such file, or it may not be read.
        """
        ...

    def close(self) -> None:
        """Closes the connection; closing twice is harmless."""
        ...
