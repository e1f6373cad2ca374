"""A TCP peer that follows a script, for what a real daemon or server does not do on request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

# What is expected from the client (bytes, or a function that reads them), and what is answered.
Exchange = tuple[bytes | Callable[[socket.socket], object], bytes]


class Peer:
    """Answers one connection after the other; leaving it fails if any of the script was not asked for.

    Attributes:
        port: Its port on 127.0.0.1.
    """

    def __init__(self, *connections: Sequence[Exchange], stays: bool = False) -> None:
        """Listens.

        Args:
            connections: For each connection what is expected and answered; then it is closed.
            stays: Whether the last connection is left open at the end of its script.
        """
        self._connections = list(connections)
        self._stays = stays
        self._left = threading.Event()
        self._failure: str | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(5)
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join(10)
        self._server.close()
        if error is None:
            assert self._failure is None, self._failure

    def _follow(self) -> None:
        try:
            for number, exchanges in enumerate(self._connections):
                self._answer(exchanges, is_last=number == len(self._connections) - 1)
        except (OSError, AssertionError) as error:
            self._failure = f"connection {number}: {error}"

    def _answer(self, exchanges: Sequence[Exchange], *, is_last: bool) -> None:
        connection = self._server.accept()[0]
        connection.settimeout(5)
        with connection:
            for expected, answer in exchanges:
                if isinstance(expected, bytes):
                    heard = receive(connection, len(expected))
                    assert heard == expected, f"heard {heard!r} instead of {expected!r}"
                else:
                    expected(connection)
                connection.sendall(answer)
            if is_last and self._stays:
                self._left.wait(10)


def receive(connection: socket.socket, size: int) -> bytes:
    """Returns so many bytes, fewer where the client closes."""
    heard = b""
    while len(heard) < size:
        received = connection.recv(size - len(heard))
        if not received:
            break
        heard += received
    return heard


def anything(connection: socket.socket) -> None:
    """Reads what comes first."""
    connection.recv(1 << 20)


def one_packet(connection: socket.socket) -> None:
    """Reads one packet of the ADB protocol."""
    header = receive(connection, 24)
    receive(connection, int.from_bytes(header[12:16], "little"))


def adb_packet(command: bytes, arg0: int = 0, arg1: int = 0, data: bytes = b"") -> bytes:
    """Returns a packet of the ADB protocol."""
    number = int.from_bytes(command, "little")
    words = (number, arg0, arg1, len(data), sum(data), number ^ 0xFFFFFFFF)
    return b"".join(word.to_bytes(4, "little") for word in words) + data


def server_request(text: str) -> bytes:
    """Returns a request to an adb server, which is also the form of its answers' text."""
    return f"{len(text):04x}{text}".encode()
