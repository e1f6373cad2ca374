"""Connections to Google's adb server (adbutils), each with one deadline, with errors in our words."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

from amc_tf.device.transport import UNLOCK_ADVICE, check_answer_size, decode
from amc_tf.errors import PhoneError, PhoneTimeoutError, SettingsError

DEFAULT_PORT = 5037

_ADVICE = {
    "unauthorized": UNLOCK_ADVICE,
    "authorizing": UNLOCK_ADVICE,
    "offline": "wake it and plug it in again, or run `adb reconnect offline`",
    "no permissions": (
        "the server may not open it on USB; install Android's udev rules (Debian and Ubuntu: the package "
        "android-sdk-platform-tools-common), join the group plugdev and plug the phone in again"
    ),
    "more than one": "two phones answer to this serial number; unplug one",
    "not found": "plug it in, or run `adb connect HOST:PORT` (after `adb pair` for wireless debugging)",
    "recovery": "start Android on it",
    "sideload": "start Android on it",
    "bootloader": "start Android on it",
}
_CUT_OFF = ("connection closed", "closed", "Unknown data: b''")  # adbutils' and the server's words for an end


def server_port() -> int:
    """Returns the port of this user's adb server: $ANDROID_ADB_SERVER_PORT, else 5037.

    Raises:
        SettingsError: The variable holds no port.
    """
    text = os.environ.get("ANDROID_ADB_SERVER_PORT") or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise SettingsError(f"$ANDROID_ADB_SERVER_PORT must be a port from 1 to 65535, but is {text!r}.")
    return int(text)


def is_server_running(host: str = "127.0.0.1", port: int | None = None, *, timeout_s: float = 1.0) -> bool:
    """Tells whether an adb server answers; none is started.

    Args:
        host: Where it runs.
        port: Its port; None for that of `server_port`.
        timeout_s: Longest wait for an answer, in seconds.
    """
    try:
        with socket.create_connection((host, port or server_port()), timeout=timeout_s) as connection:
            connection.sendall(b"000chost:version")
            return connection.recv(4) == b"OKAY"
    except OSError:
        return False


class ServerStream:
    """One connection to an adb server, with one deadline for all that is said on it.

    Its errors are those of sockets (TimeoutError, other OSErrors, EOFError) and of adbutils; `server_stream`
    turns them into the toolkit's.
    """

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        """Connects.

        Args:
            address: Host and port of the server.
            timeout_s: Longest time for all that follows, in seconds.

        Raises:
            PhoneError: There is no server.
        """
        from adbutils import AdbClient

        host, port = address
        self._deadline = time.monotonic() + timeout_s
        self._num_received = 0
        if not is_server_running(host, port, timeout_s=timeout_s):  # adbutils would start one
            raise PhoneError(
                f"No adb server answers on {host}:{port}; start it with `adb start-server`, or use "
                "--transport tcp or usb."
            )
        self._connection = AdbClient(host, port).make_connection(timeout=timeout_s)
        self._socket: socket.socket = self._connection.conn

    def __enter__(self) -> ServerStream:
        return self

    def __exit__(self, *_: Any) -> None:
        self._socket.close()

    def send_command(self, command: str) -> None:
        """Sends a command; `AdbError` with the server's words if it refuses."""
        self._arm()
        self._connection.send_command(command)
        self._connection.check_okay()

    def read_block(self) -> str:
        """Returns the text that answers a question."""
        return decode(self.read(int(self.read(4), 16)))

    def read(self, size: int) -> bytes:
        """Returns exactly so many bytes."""
        parts: list[bytes] = []
        while size > 0:
            parts.append(self._receive(min(size, 1 << 20)))
            if not parts[-1]:
                raise EOFError("it ended in the middle of an answer")
            size -= len(parts[-1])
        return b"".join(parts)

    def read_to_end(self) -> bytes:
        """Returns all bytes until the other side closes."""
        parts: list[bytes] = []
        while True:
            parts.append(self._receive(1 << 16))
            if not parts[-1]:
                return b"".join(parts)

    def read_sync(self) -> tuple[bytes, int]:
        """Returns kind and size of what the sync service says next."""
        header = self.read(8)
        return header[:4], int.from_bytes(header[4:], "little")

    def write(self, data: bytes) -> None:
        """Writes all bytes."""
        self._arm()
        self._socket.sendall(data)

    def write_sync(self, kind: bytes, data: bytes) -> None:
        """Writes a packet of the sync service."""
        self.write(kind + len(data).to_bytes(4, "little") + data)

    def hear_out(self) -> None:
        """Reads to the end after the phone refused a file, so that what it had written is gone."""
        with contextlib.suppress(OSError):
            self.read_to_end()

    def has_answer(self) -> bool:
        """Tells whether there is something to read, without waiting for it."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def _receive(self, size: int) -> bytes:
        self._arm()
        received = self._socket.recv(size)
        self._num_received += len(received)
        check_answer_size(self._num_received)
        return received

    def _arm(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is up")
        self._socket.settimeout(left_s)


@contextlib.contextmanager
def server_stream(
    address: tuple[str, int], *, name: str, what: str, timeout_s: float
) -> Iterator[ServerStream]:
    """Connects to an adb server for a while.

    Args:
        address: Host and port of the server.
        name: Who is talked to, for errors.
        what: What is waited for, after "did not".
        timeout_s: Longest time for all of it, in seconds.

    Raises:
        PhoneTimeoutError: The time is up.
        PhoneError: There is no server, it refuses, or the connection is lost.
    """
    from adbutils.errors import AdbError, AdbTimeout

    try:
        with ServerStream(address, timeout_s) as stream:
            yield stream
    except (TimeoutError, AdbTimeout) as error:
        raise PhoneTimeoutError(
            f"{name} did not {what} within {timeout_s:g} s; check that it is awake and connected, or allow "
            "more time."
        ) from error
    except AdbError as error:
        words = str(error).strip().partition("\n")[0]
        if words in _CUT_OFF:
            raise PhoneError(_lost(name, words)) from error
        raise PhoneError(f"{name} cannot be used ({words}): {advice(words)}.") from error
    except (OSError, EOFError, ValueError) as error:
        raise PhoneError(_lost(name, error)) from error


def ask_server(address: tuple[str, int], question: str, *, timeout_s: float) -> str:
    """Returns an adb server's answer to a question about itself or its phones.

    Args:
        address: Host and port of the server.
        question: In the server's terms, such as "host:devices".
        timeout_s: Longest wait, in seconds.

    Raises:
        PhoneError: There is no server, or it refuses; its words are in the message.
    """
    host, port = address
    name = f"the adb server on {host}:{port}"
    with server_stream(address, name=name, what="answer", timeout_s=timeout_s) as stream:
        stream.send_command(question)
        return stream.read_block()


def advice(words: str) -> str:
    """Returns what to do about a phone's state or an error, given in the server's words."""
    return next((text for word, text in _ADVICE.items() if word in words), "see `adb devices -l`")


def _lost(name: str, reason: object) -> str:
    return (
        f"The connection to {name} was lost ({reason}); check the cable or the network, and that the phone "
        "has not restarted."
    )
