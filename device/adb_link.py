"""What adb-shell reads from and writes to, with one deadline for a whole operation; a TCP socket."""

from __future__ import annotations

import abc
import contextlib
import socket
import time

from adb_shell.transport.base_transport import BaseTransport

from amc_tf.device.transport import check_answer_size, decode
from amc_tf.errors import PhoneError

DEFAULT_PORT = 5555

_HEADER_SIZE = 24  # bytes of an ADB packet before its data
_HEAR_OUT_TIMEOUT_S = 2.0  # how long a phone that refuses a file may be silent before it closes the stream


class SyncAnswer:
    """What a phone says while a file is sent to it.

    It says nothing until the end, unless it refuses: a disk that is full, a folder that may not be written.
    Then it says so in the middle, where adb-shell does not listen, takes the rest without keeping it, removes
    what it has written, and closes the stream.

    Attributes:
        said: What it has said so far.
        is_closed: Whether it has closed the stream.
    """

    def __init__(self) -> None:
        self.said = b""
        self.is_closed = False
        self._unread = b""
        self._stream = b""

    def hear(self, received: bytes) -> None:
        """Takes bytes as they arrive: ADB packets, possibly in pieces."""
        self._unread += received
        while len(self._unread) >= _HEADER_SIZE:
            end = _HEADER_SIZE + int.from_bytes(self._unread[12:16], "little")
            if len(self._unread) < end:
                return
            command, stream = self._unread[:4], self._unread[4:12]
            if command == b"WRTE":
                self.said += self._unread[_HEADER_SIZE:end]
                self._stream = stream
            elif command == b"CLSE" and stream == self._stream:  # those of earlier commands come late
                self.is_closed = True
            self._unread = self._unread[end:]

    @property
    def is_refusal(self) -> bool:
        """Whether it refuses the file."""
        return self.said.startswith(b"FAIL")

    @property
    def words(self) -> str:
        """Why it refuses the file, as far as it has said."""
        return decode(self.said[8 : 8 + int.from_bytes(self.said[4:8], "little")])


class Link(BaseTransport, abc.ABC):
    """What adb-shell reads from and writes to, with one deadline for a whole operation.

    adb-shell's own timeouts are for one packet, its socket may write half a packet and not notice, and at the
    end of a connection it reads on until the time is up.

    Attributes:
        deadline: When the operation must have ended, on `time.monotonic`'s clock.
        answer: Hears everything that is received while a file is sent; else None.
    """

    def __init__(self) -> None:
        self.deadline = 0.0
        self._num_received = 0
        self.answer: SyncAnswer | None = None

    def begin(self, timeout_s: float) -> None:
        """Begins an operation that may take so many seconds."""
        self.deadline = time.monotonic() + timeout_s
        self._num_received = 0

    @abc.abstractmethod
    def connect(self, transport_timeout_s: float | None) -> None:
        """Connects within what is left of the time."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the connection if there is one."""

    @abc.abstractmethod
    def read(self, num_bytes: int, timeout_s: float) -> bytes:
        """Returns 1 to `num_bytes` bytes; TimeoutError or another OSError where none come."""

    @abc.abstractmethod
    def write(self, data: bytes, timeout_s: float) -> None:
        """Writes all bytes; TimeoutError or another OSError where they do not go."""

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        """Reads for adb-shell."""
        is_refusal = self.answer is not None and self.answer.is_refusal
        silence_s = _HEAR_OUT_TIMEOUT_S if is_refusal else self.left_s()
        received = self.read(numbytes, min(silence_s, self.left_s()))
        self._num_received += len(received)
        check_answer_size(self._num_received)
        if self.answer is None:
            return received
        self.answer.hear(received)
        if self.answer.is_refusal and self.answer.is_closed:
            raise ConnectionAbortedError("the phone refuses the file")
        return received

    def hear_out(self, answer: SyncAnswer) -> None:
        """Reads on until a phone that refuses a file has closed the stream, or is silent for a while.

        What it had written is gone then; before, it might remove the file that is sent next.
        """
        self.begin(_HEAR_OUT_TIMEOUT_S)
        with contextlib.suppress(OSError):
            while not answer.is_closed:
                self.bulk_read(1 << 16, None)

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        """Writes for adb-shell."""
        self.write(data, self.left_s())
        return len(data)

    def left_s(self) -> float:
        """Returns the time until the deadline, in seconds.

        Raises:
            TimeoutError: There is none.
        """
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is up")
        return left_s


class TcpLink(Link):
    """A TCP connection."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def connect(self, transport_timeout_s: float | None) -> None:
        """Connects within what is left of the time."""
        self._socket = socket.create_connection(self._address, timeout=self.left_s())
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Closes the connection if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self, num_bytes: int, timeout_s: float) -> bytes:
        """Returns 1 to `num_bytes` bytes."""
        connection = self._connected(timeout_s)
        received = connection.recv(num_bytes)
        if not received:
            raise ConnectionResetError("the other side closed it")
        return received

    def write(self, data: bytes, timeout_s: float) -> None:
        """Writes all bytes."""
        self._connected(timeout_s).sendall(data)

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("it is closed")
        self._socket.settimeout(timeout_s)
        return self._socket


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of HOST, HOST:PORT, IPv6 or [IPv6]:PORT; without a port, that of `adb tcpip`.

    Raises:
        PhoneError: It is none of these.
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host and not host.endswith("]")):
        host, port = address, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise PhoneError(f"{address!r} is no address of a phone; write HOST:PORT, such as 192.168.1.20:5555.")
    return host, int(port)
