"""What is fuzzed: readers of bytes that come from outside, each with inputs that it can read.

A reader takes any bytes; whatever it raises but the project's own errors is a crash.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from amc_tf.bundle import Bundle, BundledNetwork, Manifest, write_bundle
from amc_tf.device import adb_server, adb_stream
from amc_tf.device.adb_direct import AdbDirect
from amc_tf.device.adb_link import Link
from amc_tf.device.adb_server import AdbServer
from amc_tf.device.benchmark_output import parse_output, parse_result_proto
from amc_tf.device.benchmark_profile import parse_profile
from amc_tf.device.latency import Latency
from amc_tf.device.operators import read_operators
from amc_tf.device.phone_facts import parse_conditions, parse_info
from amc_tf.device.store import Measurement, MeasurementStore
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.errors import AmcError
from amc_tf.plan import PruningPlan
from tests.benchmark_samples import TOOL, output
from tests.peer import adb_packet
from tests.tflite_files import chain


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        read: reads bytes; raises nothing but the project's errors.
        make_seeds: makes inputs that are read without an error.
    """

    read: Callable[[bytes], object]
    make_seeds: Callable[[], list[bytes]]


def run_reader(reader: Reader, data: bytes) -> bool:
    """Gives a reader some bytes; tells whether it could read them."""
    try:
        reader.read(data)
    except AmcError:
        return False
    return True


@functools.cache
def _scratch() -> Path:
    return Path(
        tempfile.mkdtemp(prefix="amc-tf-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    )


def _of_file(suffix: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def read_bytes(data: bytes) -> object:
        path = _scratch() / f"{os.getpid()}{suffix}"
        path.write_bytes(data)
        return read(path)

    return read_bytes


def _written(suffix: str, write: Callable[[Path], object]) -> bytes:
    path = _scratch() / f"seed{os.getpid()}{suffix}"
    path.unlink(missing_ok=True)
    write(path)
    return path.read_bytes()


def _read_store(path: Path) -> object:
    with MeasurementStore(path) as store:
        return store.list()


def _write_store(path: Path) -> None:
    with MeasurementStore(path) as store:
        store.put(Measurement("a" * 64, "device", "meter", Latency.from_samples([1.0, 2.0]), "2026-01-01"))


def _bundle() -> bytes:
    network = chain((8, 8))
    entry = BundledNetwork(_sha256(network), ("original",), "structure", (8, 8), 0.5, 0.75, 1.25)
    manifest = Manifest("run", "tiny.keras", "host", "0.1.0")
    return _written(".zip", lambda path: write_bundle(path, manifest, [(entry, network)]))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _table() -> bytes:
    samples = tuple(
        TableSample(f"widths {widths}", read_operators(chain(widths)), ms, 0.9 * ms, 1.1 * ms, 0.1, 50)
        for widths, ms in (((8, 8), 1.0), ((16, 8), 1.5), ((8, 24), 2.0))
    )
    return _written(".json", LatencyTable("phone", {"kind": "phone"}, "a test", samples).save)


def _read_table(path: Path) -> object:
    return LatencyTable.load(path).predict(read_operators(chain((8, 16))))


def _plan() -> list[bytes]:
    plan = PruningPlan({"a": (0, 2), "b": (1,)}, {"a": 4, "b": 2})
    record = plan.to_json()
    whole = json.dumps(record).encode()
    del record["sha256"]  # so that what is behind the checksum is reached, too
    return [whole, json.dumps(record).encode()]


class _ReplayedLink(Link):
    """A phone that says the same whatever it is told."""

    def __init__(self, said: bytes) -> None:
        super().__init__()
        self._left = said

    def connect(self, transport_timeout_s: float | None) -> None:
        """Is connected."""

    def close(self) -> None:
        """Stays."""

    def read(self, num_bytes: int, timeout_s: float) -> bytes:
        """Returns what comes next."""
        if not self._left:
            raise ConnectionResetError("the other side closed it")
        data, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return data

    def write(self, data: bytes, timeout_s: float) -> None:
        """Hears nothing."""


def _talk_to_phone(data: bytes) -> object:
    """The first byte tells which operation the phone is asked for."""
    phone = AdbDirect("X", "X", _ReplayedLink(data[1:]), [])
    phone.connect(timeout_s=5.0)
    if data[0] % 3 == 0:
        return phone.shell("ls", timeout_s=5.0)
    if data[0] % 3 == 1:
        return phone.pull("/x", timeout_s=5.0)
    return phone.push(b"content", "/x", timeout_s=5.0)


_HELLO = adb_packet(b"CNXN", 0x01000001, 1 << 20, b"device::\0")
_OPENED = adb_packet(b"OKAY", 7, 1)


def _phone_says() -> list[bytes]:
    shell = adb_packet(b"WRTE", 7, 1, b"hello\n") + adb_packet(b"CLSE", 7, 1)
    file = adb_packet(b"WRTE", 7, 1, b"DATA\3\0\0\0abcDONE\0\0\0\0") + adb_packet(b"CLSE", 7, 1)
    done = adb_packet(b"WRTE", 7, 1, b"OKAY\0\0\0\0") + adb_packet(b"CLSE", 7, 1)
    refusal = adb_packet(b"WRTE", 7, 1, b"FAIL\4\0\0\0full") + adb_packet(b"CLSE", 7, 1)
    ends = (b"\0" + _HELLO + _OPENED + shell, b"\1" + _HELLO + _OPENED + _OPENED + file)
    return [*ends, *(b"\2" + _HELLO + 4 * _OPENED + end for end in (done, refusal))]


class _ReplayedStream(adb_stream.ServerStream):
    """An adb server that says the same whatever it is told."""

    said = b""

    def __init__(self, address: tuple[str, int], timeout_s: float) -> None:
        self._num_received = 0

    def __exit__(self, *_: object) -> None:
        pass

    def send_command(self, command: str) -> None:
        """Is heard."""

    def write(self, data: bytes) -> None:
        """Is heard."""

    def has_answer(self) -> bool:
        """Tells that nothing is refused before the end."""
        return False

    def _receive(self, size: int) -> bytes:
        kind = type(self)
        received, kind.said = kind.said[:size], kind.said[size:]
        return received


@contextlib.contextmanager
def _replayed_server(said: bytes) -> Iterator[None]:
    real, _ReplayedStream.said = adb_stream.ServerStream, said
    adb_stream.ServerStream = _ReplayedStream  # type: ignore[misc]
    try:
        yield
    finally:
        adb_stream.ServerStream = real  # type: ignore[misc]


def _talk_to_server(data: bytes) -> object:
    """The first byte tells which operation the phone behind the server is asked for."""
    with _replayed_server(data[1:]):
        phone = AdbServer("X", port=1)
        phone.connect(timeout_s=5.0)
        if data[:1] < b"@":
            return phone.shell("ls", timeout_s=5.0)
        if data[:1] < b"\x80":
            return phone.pull("/x", timeout_s=5.0)
        return phone.push(b"content", "/x", timeout_s=5.0)


def _server_says() -> list[bytes]:
    ready = b"0009X\tdevice\n0008shell_v2"
    exit_frame = bytes([adb_server._EXIT, 1, 0, 0, 0, 3])
    return [
        b"\0" + ready + b"\1\2\0\0\0a\n" + exit_frame,
        b"A" + ready + b"DATA\3\0\0\0abcDONE\0\0\0\0",
        b"\xff" + ready + b"OKAY\0\0\0\0",
    ]


def _decoded(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode(errors="replace"))


READERS: dict[str, Reader] = {
    "plan": Reader(_of_file(".json", PruningPlan.load), _plan),
    "table": Reader(_of_file(".json", _read_table), lambda: [_table(), _without_checksum(_table())]),
    "bundle": Reader(_of_file(".zip", Bundle), lambda: [_bundle()]),
    "store": Reader(_of_file(".sqlite", _read_store), lambda: [_written(".sqlite", _write_store)]),
    "tflite": Reader(read_operators, lambda: [chain((8, 8)), chain((8, 16, 8))]),
    "benchmark_output": Reader(
        _decoded(parse_output), lambda: [output("default").encode(), output("gpu").encode()]
    ),
    "benchmark_result": Reader(parse_result_proto, lambda: [(TOOL / "result.pb").read_bytes()]),
    "benchmark_profile": Reader(_decoded(parse_profile), lambda: [output("opprof").encode()]),
    "phone_info": Reader(_decoded(lambda text: parse_info(text, "X")), lambda: [b"--- a\nb=c\n"]),
    "phone_conditions": Reader(_decoded(parse_conditions), lambda: [b"--- battery\n  temperature: 310\n"]),
    "adb_packets": Reader(_talk_to_phone, _phone_says),
    "adb_server": Reader(_talk_to_server, _server_says),
}


def _without_checksum(content: bytes) -> bytes:
    record = json.loads(content)
    del record["sha256"]
    return json.dumps(record).encode()
