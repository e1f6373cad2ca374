"""What the direct transports say when the other side is no phone, not there, or does not let them in."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import usb1
from adb_shell.exceptions import UsbReadFailedError

from amc_tf.device import adb_usb
from amc_tf.device.adb_direct import AdbTcp, AdbUsb
from amc_tf.device.adb_link import TcpLink
from amc_tf.errors import PhoneError, PhoneTimeoutError
from tests.adbd import Daemon
from tests.peer import Peer, adb_packet, one_packet

HELLO = adb_packet(b"CNXN", 0x01000001, 1 << 20, b"device::\0")
TOKEN = adb_packet(b"AUTH", 1, 0, bytes(20))


class Signer:
    """A key that no phone knows."""

    def Sign(self, data: bytes) -> bytes:
        return b"signature"

    def GetPublicKey(self) -> bytes:
        return b"public"


def phone_at(port: int) -> AdbTcp:
    return AdbTcp(f"127.0.0.1:{port}", keys=[Signer()])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "does not speak ADB; check the address and the p"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "does not speak ADB"),
        (adb_packet(b"CNXN", 1, 1, b"device::\0")[:-2] + b"xx", "does not speak ADB"),
        (adb_packet(b"STLS", 0x01000000), "wireless debugging.*`adb pair` and `adb connect`, then use --"),
        (b"", r"connection to 127\.0\.0\.1:\d+ over TCP was lost \(the other side closed it\)"),
        (HELLO[:10], "was lost"),
    ],
)  # fmt: skip
def test_who_is_no_phone_is_told_from_a_phone(answer: bytes, words: str) -> None:
    with Peer([(one_packet, answer)]) as peer, pytest.raises(PhoneError, match=words):
        phone_at(peer.port).connect(timeout_s=5)


def test_who_does_not_answer_is_late() -> None:
    with (
        Peer([(one_packet, b"")], stays=True) as peer,
        pytest.raises(
            PhoneTimeoutError, match=r"over TCP did not answer within 0\.2 s; check that it is awake"
        ),
    ):
        phone_at(peer.port).connect(timeout_s=0.2)


@pytest.mark.parametrize("stays", [True, False])
def test_a_phone_that_asks_its_user_in_vain_is_unauthorized(stays: bool) -> None:
    script = [(one_packet, TOKEN), (one_packet, TOKEN), (one_packet, b"")]
    with (
        Peer(script, stays=stays) as peer,
        pytest.raises(PhoneError, match="unauthorized.*unlock it") as error,
    ):
        phone_at(peer.port).connect(timeout_s=0.5)
    assert not isinstance(error.value, PhoneTimeoutError)


def test_a_phone_whose_user_accepts_the_key_is_connected() -> None:
    with Peer([(one_packet, TOKEN), (one_packet, TOKEN), (one_packet, HELLO)]) as peer:
        phone = phone_at(peer.port)
        phone.connect(timeout_s=5)
        phone.connect(timeout_s=5)  # it is open: nothing happens
        phone.close()
        phone.close()


def test_without_any_key_a_phone_that_wants_one_is_unauthorized() -> None:
    with Peer([(one_packet, TOKEN)]) as peer, pytest.raises(PhoneError, match="unauthorized"):
        AdbTcp(f"127.0.0.1:{peer.port}", keys=()).connect(timeout_s=5)


def test_a_port_that_nothing_listens_on_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(PhoneError, match=rf"Nothing listens on 127\.0\.0\.1:{port}.*`adb tcpip 5555`"):
        phone_at(port).connect(timeout_s=5)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name not known"), r"pixel:5555 is not known \(Name not known"),
        (OSError(113, "No route to host"), r"not reach pixel:5555 \(No route to host\).*the same network"),
        (TimeoutError("timed out"), "did not answer within 5 s"),
    ],
)  # fmt: skip
def test_an_address_that_leads_nowhere_is_named(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(PhoneError, match=words):
        AdbTcp("pixel:5555", keys=[Signer()]).connect(timeout_s=5)


def test_nothing_is_done_before_connecting() -> None:
    phone = AdbTcp("pixel:5555", keys=[Signer()])
    for use in (
        lambda: phone.shell("true", timeout_s=1),
        lambda: phone.push(b"", "/x", timeout_s=1),
        lambda: phone.pull("/x", timeout_s=1),
    ):
        with pytest.raises(PhoneError, match="no connection to pixel:5555 over TCP; call connect first"):
            use()


def test_an_interrupted_command_leaves_no_connection_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with Peer([(one_packet, HELLO), (one_packet, b"")]) as peer:
        phone = phone_at(peer.port)
        phone.connect(timeout_s=5)
        monkeypatch.setattr(TcpLink, "read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            phone.shell("sleep 100", timeout_s=100)
        with pytest.raises(PhoneError, match="call connect first"):
            phone.shell("true", timeout_s=1)


def test_a_shell_that_ends_without_the_marker_closes_the_connection() -> None:
    opened = adb_packet(b"OKAY", 7, 1) + adb_packet(b"WRTE", 7, 1, b"half of the out")
    closed = adb_packet(b"CLSE", 7, 1)
    with Peer([(one_packet, HELLO), (one_packet, opened), (one_packet, closed), (one_packet, b"")]) as peer:
        phone = phone_at(peer.port)
        phone.connect(timeout_s=5)
        with pytest.raises(PhoneError, match="ended in the middle of a command, after 15 bytes of output"):
            phone.shell("cat", timeout_s=5)
        with pytest.raises(PhoneError, match="call connect first"):
            phone.shell("true", timeout_s=1)


class CableTo:
    """A USB phone as adb-shell sees it, whose other end is a daemon's TCP port."""

    serial_number = "PIXEL"

    def __init__(self, port: int) -> None:
        self.port = port
        self.socket: socket.socket | None = None
        self.is_unplugged = False

    def connect(self, timeout_s: float) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)

    def bulk_read(self, num_bytes: int, timeout_s: float) -> bytearray:
        assert self.socket is not None
        if self.is_unplugged:
            raise UsbReadFailedError("Could not receive data", usb1.USBErrorNoDevice())
        self.socket.settimeout(timeout_s)
        return bytearray(self.socket.recv(num_bytes))

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        assert self.socket is not None
        self.socket.settimeout(timeout_s)
        self.socket.sendall(data)
        return len(data)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()


@pytest.fixture
def cable(adbd: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[CableTo]:
    cable = CableTo(adbd.port)
    monkeypatch.setattr(adb_usb, "usb_phones", lambda: iter([cable]))
    yield cable
    cable.close()


def test_a_phone_on_usb_does_what_one_on_tcp_does(cable: CableTo) -> None:
    phone = AdbUsb("PIXEL", keys=[Signer()])
    assert phone.name == "PIXEL over USB"
    phone.connect(timeout_s=5)
    content = bytes(range(256)) * 10_000
    phone.push(content, "/data/local/tmp/usb", timeout_s=10)
    assert phone.pull("/data/local/tmp/usb", timeout_s=10) == content
    assert phone.shell("rm /data/local/tmp/usb; exit 3", timeout_s=10).exit_code == 3
    phone.close()


def test_a_phone_that_is_unplugged_in_a_command_is_lost(cable: CableTo) -> None:
    phone = AdbUsb("PIXEL", keys=[Signer()])
    phone.connect(timeout_s=5)
    cable.is_unplugged = True
    with pytest.raises(
        PhoneError, match=r"PIXEL over USB was lost \(LIBUSB_ERROR_NO_DEVICE.*check the cable"
    ):
        phone.shell("true", timeout_s=5)


def test_the_time_of_a_command_is_bounded_as_a_whole(adbd: Daemon) -> None:
    phone = phone_at(adbd.port)
    phone.connect(timeout_s=5)
    start = time.monotonic()
    with pytest.raises(PhoneTimeoutError):
        phone.shell("for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.2; done", timeout_s=0.5)
    assert time.monotonic() - start < 1.5
