"""The seam between the toolkit and ADB: five methods, one implementation for each way to reach a phone."""

from __future__ import annotations

import dataclasses
import re
import secrets
import shlex
from typing import Protocol

from amc_tf.errors import MeasurementError, PhoneError

MAX_ANSWER_BYTES = 64 << 20  # of one command's output or one file; more than any benchmark prints
UNLOCK_ADVICE = (
    'unlock it and accept the question "Allow USB debugging?" (if it does not appear, revoke the USB '
    "debugging authorizations in the developer options and connect again)"
)


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


@dataclasses.dataclass(frozen=True)
class MarkedCommand:
    """A command whose end can be told from the end of the connection.

    ADB's old shell service sends output and then nothing: a command that ended, a daemon that died and a
    cable that was pulled look alike, and there is no exit status. So the shell is made to print a marker, new
    for every command, and the exit status after the command; output without it was cut off.

    Attributes:
        line: What to send to the shell service.
        marker: What stands before the exit status in the output, and nowhere else.
    """

    line: str
    marker: str

    @classmethod
    def of(cls, command: str) -> MarkedCommand:
        """Marks a line of shell."""
        marker = f"[{secrets.token_hex(12)}]"
        return cls(f"{isolated(command)}; echo '{marker}'$?", marker)

    def result(self, received: bytes, name: str) -> ShellResult:
        """Takes the marker out of what came back.

        Args:
            received: All bytes of the command's output.
            name: The phone, for the error.

        Returns:
            The result; `stdout` holds standard error too. Line ends are those of the command also where the
            phone (Android 6 and older) runs it on a terminal, which sends CR LF.

        Raises:
            PhoneError: There is no marker.
        """
        ends = list(re.finditer(re.escape(self.marker.encode()) + rb"(\d{1,3})(\r?\n)", received))
        if not ends:
            raise PhoneError(
                f"The shell of {name} ended in the middle of a command, after {len(received)} bytes of "
                "output; the phone may have restarted or killed it: try again."
            )
        end = ends[-1]
        output = received[: end.start()] + received[end.end() :]
        if end[2] == b"\r\n":
            output = output.replace(b"\r\n", b"\n")
        return ShellResult(decode(output), "", int(end[1]))


def check_answer_size(num_bytes: int) -> None:
    """Refuses what a phone sends without end, before it fills the memory.

    Args:
        num_bytes: What has come so far in answer to one command.

    Raises:
        PhoneError: It is more than `MAX_ANSWER_BYTES`.
    """
    if num_bytes > MAX_ANSWER_BYTES:
        raise PhoneError(
            f"The phone sent more than {MAX_ANSWER_BYTES >> 20} MiB in answer to one command; what runs on "
            "it repeats itself without end: use another program or network."
        )


def refused_file(serial: str, path: str, words: str) -> MeasurementError:
    """Returns the error for a file that a phone does not take.

    Args:
        serial: Which phone.
        path: Where the file was to be.
        words: The phone's own.
    """
    advice = ""
    if "No space left" in words:
        advice = "; make room on the phone, `amc-tf devices --clean` removes what amc-tf left there"
    return MeasurementError(f"The phone {serial} refuses the file {path}: {words}{advice}.")


def isolated(command: str) -> str:
    """Returns a line that runs another one in a shell of its own, with nothing on standard input.

    Whatever the command does (a comment, a syntax error, `exit`, `exec`, a signal to itself) ends with that
    shell, and a program that reads standard input finds its end instead of waiting for ever.

    Args:
        command: A line of shell, or several.
    """
    return f"sh -c {shlex.quote(command)} </dev/null"


def quote(*words: str) -> str:
    """Returns words as a line of shell in which each stands for itself, whatever characters it has."""
    return shlex.join(words)


def decode(output: bytes) -> str:
    """Returns output as text; what is not UTF-8 becomes U+FFFD."""
    return output.decode("utf-8", errors="replace")
