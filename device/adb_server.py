"""Talks to a phone through Google's adb server, which must be running (adbutils).

The server is the only way to a phone that was paired for wireless debugging, and to one on USB that it holds.
Its newer shell service keeps standard error apart and sends the exit status; where the phone (Android 6 and
older) does not have it, a marker tells the status as in `MarkedCommand`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import stat
import time
from collections.abc import Iterator

from amc_tf.device.adb_stream import ServerStream, advice, ask_server, server_port, server_stream
from amc_tf.device.transport import MarkedCommand, ShellResult, decode, isolated, refused_file
from amc_tf.errors import MeasurementError, PhoneError

READY = "device"  # what the server calls a phone that can be used

_FILE_MODE = stat.S_IFREG | 0o755
_CHUNK_SIZE = 64 * 1024  # bytes; the most that the sync service takes at once
_STDOUT, _STDERR, _EXIT = 1, 2, 3  # packets of the shell service


@dataclasses.dataclass(frozen=True)
class KnownPhone:
    """A phone that an adb server knows.

    Attributes:
        serial: Its serial number, or HOST:PORT.
        state: In the server's words: "device" (ready), "unauthorized", "offline", "no permissions (...)".
    """

    serial: str
    state: str

    @property
    def advice(self) -> str:
        """What to do so that it can be used; empty if it can."""
        return "" if self.state == READY else advice(self.state)


def known_phones(
    host: str = "127.0.0.1", port: int | None = None, *, timeout_s: float = 5.0
) -> tuple[KnownPhone, ...]:
    """Returns the phones that an adb server knows, in any state.

    Args:
        host: Where the server runs.
        port: Its port; None for that of `server_port`.
        timeout_s: Longest wait for its answer, in seconds.

    Raises:
        PhoneError: There is no server, or it does not answer.
    """
    return parse_phones(ask_server((host, port or server_port()), "host:devices", timeout_s=timeout_s))


def parse_phones(text: str) -> tuple[KnownPhone, ...]:
    """Returns the phones in a server's list: lines of serial number, tab and state."""
    rows = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
    return tuple(KnownPhone(serial, state.strip()) for serial, state in rows)


class AdbServer:
    """A phone behind an adb server; see `Transport` for the methods.

    Every command is a connection of its own to the server; to be connected means that the server had the
    phone ready when it was last asked. A server is never started, and one that runs is never stopped.

    Attributes:
        serial: Serial number of the phone, or HOST:PORT.
        name: For people.
    """

    def __init__(self, serial: str, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Takes a phone and a server; nothing is connected yet.

        Args:
            serial: As `adb devices` shows it.
            host: Where the server runs.
            port: Its port; None for that of `server_port`.

        Raises:
            SettingsError: $ANDROID_ADB_SERVER_PORT is asked for and holds no port.
        """
        self.serial = serial
        self.name = f"{serial} over the adb server"
        self._address = (host, port or server_port())
        self._features: frozenset[str] | None = None

    def connect(self, *, timeout_s: float) -> None:
        """Finds the phone ready; does nothing when it was.

        A phone at HOST:PORT that the server does not know is one that it is asked to connect to.
        """
        if self._features is not None:
            return
        deadline = time.monotonic() + timeout_s
        words = ""
        state = self._state(deadline)
        if state is None and ":" in self.serial:
            words = self._ask(f"host:connect:{self.serial}", deadline).strip()
            state = self._state(deadline)
        if state is None:
            words = words or f"device '{self.serial}' not found"
            raise PhoneError(f"The adb server does not reach {self.serial} ({words}): {advice('not found')}.")
        if state != READY:
            raise PhoneError(f"The phone {self.serial} is not ready ({state}): {advice(state)}.")
        features = self._ask(f"host-serial:{self.serial}:features", deadline)
        self._features = frozenset(features.split(","))

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        """Runs a line of shell and waits for its end."""
        if "shell_v2" in self._opened():
            with self._service(f"shell,v2,raw:{isolated(command)}", "end a command", timeout_s) as stream:
                return _shell_result(stream)
        marked = MarkedCommand.of(command)
        with self._service(f"shell:{marked.line}", "end a command", timeout_s) as stream:
            return marked.result(stream.read_to_end(), self.name)

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        """Writes a file on the phone, readable and executable by the shell user."""
        self._opened()
        with self._service("sync:", f"take {path}", timeout_s) as stream:
            stream.write_sync(b"SEND", f"{path},{_FILE_MODE}".encode())
            with contextlib.suppress(ConnectionError):  # what it said before it closed is read below
                for start in range(0, len(content), _CHUNK_SIZE):
                    if stream.has_answer():
                        break
                    stream.write_sync(b"DATA", content[start : start + _CHUNK_SIZE])
                stream.write(b"DONE" + _file_time().to_bytes(4, "little"))
            kind, size = stream.read_sync()
            if kind != b"OKAY":
                words = decode(stream.read(size))
                stream.hear_out()
                raise refused_file(self.serial, path, words)

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        """Returns the contents of a file on the phone."""
        self._opened()
        chunks: list[bytes] = []
        with self._service("sync:", f"send {path}", timeout_s) as stream:
            stream.write_sync(b"RECV", path.encode())
            while True:
                kind, size = stream.read_sync()
                if kind == b"DONE":
                    return b"".join(chunks)
                chunk = stream.read(size)
                if kind != b"DATA":
                    words = decode(chunk)
                    raise MeasurementError(
                        f"The phone {self.serial} does not hand out the file {path}: {words}."
                    )
                chunks.append(chunk)

    def close(self) -> None:
        """Forgets that the phone was ready."""
        self._features = None

    def _ask(self, question: str, deadline: float) -> str:
        left_s = max(deadline - time.monotonic(), 0.001)
        return ask_server(self._address, question, timeout_s=left_s)

    def _state(self, deadline: float) -> str | None:
        phones = parse_phones(self._ask("host:devices", deadline))
        return next((phone.state for phone in phones if phone.serial == self.serial), None)

    def _opened(self) -> frozenset[str]:
        if self._features is None:
            raise PhoneError(f"There is no connection to {self.name}; call connect first.")
        return self._features

    @contextlib.contextmanager
    def _service(self, service: str, what: str, timeout_s: float) -> Iterator[ServerStream]:
        """Opens a service of the phone; after a PhoneError it counts as not ready."""
        try:
            with server_stream(self._address, name=self.name, what=what, timeout_s=timeout_s) as stream:
                stream.send_command(f"host:transport:{self.serial}")
                stream.send_command(service)
                yield stream
        except PhoneError:
            self.close()
            raise


def _file_time() -> int:
    """Returns the time that a file is given, in seconds, within what there is room for."""
    return min(max(int(time.time()), 0), 0xFFFFFFFF)


def _shell_result(stream: ServerStream) -> ShellResult:
    output = {_STDOUT: bytearray(), _STDERR: bytearray()}
    while True:
        kind, *size = stream.read(5)
        data = stream.read(int.from_bytes(bytes(size), "little"))
        if kind == _EXIT and data:
            return ShellResult(decode(bytes(output[_STDOUT])), decode(bytes(output[_STDERR])), data[0])
        if kind in output:
            output[kind] += data
