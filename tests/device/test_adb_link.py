"""Addresses, refusals in the middle of a push, and USB, with fakes where no phone can be plugged in."""

import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import usb1
from adb_shell.exceptions import UsbReadFailedError, UsbWriteFailedError

from amc_tf.device import adb_link
from amc_tf.device.adb_link import SyncAnswer, TcpLink, UsbLink, find_usb_phone, split_address
from amc_tf.errors import PhoneError


def packet(command: bytes, data: bytes = b"") -> bytes:
    return command + bytes(8) + len(data).to_bytes(4, "little") + bytes(8) + data


REFUSAL = b"FAIL\x09\x00\x00\x00disk full"
HEARD = (
    packet(b"OKAY") + packet(b"WRTE", REFUSAL) + packet(b"OKAY"),
    packet(b"WRTE", REFUSAL[:8]) + packet(b"OKAY") + packet(b"WRTE", REFUSAL[8:]) + packet(b"CLSE"),
)


@pytest.mark.parametrize("heard", HEARD)
@pytest.mark.parametrize("piece", [1, 7, 24, 1000])
def test_a_refusal_is_heard_in_any_pieces(heard: bytes, piece: int) -> None:
    answer = SyncAnswer()
    for start in range(0, len(heard), piece):
        answer.hear(heard[start : start + piece])
    assert answer.is_refusal
    assert answer.words == "disk full"


def test_a_refusal_may_end_before_its_words() -> None:
    answer = SyncAnswer()
    answer.hear(packet(b"WRTE", REFUSAL[:8]))
    assert answer.is_refusal
    assert not answer.is_closed
    assert answer.words == ""
    answer.hear(packet(b"CLSE"))
    assert answer.is_closed


def test_an_answer_that_takes_the_file_is_no_refusal() -> None:
    answer = SyncAnswer()
    answer.hear(packet(b"OKAY") + packet(b"WRTE", b"OKAY\0\0\0\0"))
    assert not answer.is_refusal


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:5600", "127.0.0.1", 5600),
        ("pixel.local", "pixel.local", 5555),
        ("[::1]:5556", "::1", 5556),
        ("[fe80::1]", "fe80::1", 5555),
    ],
)
def test_addresses_are_host_and_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address", ["", ":5555", "host:", "host:x", "host:0", "host:65536", "host:-1", "h:²"]
)
def test_what_is_no_address_is_named_with_an_example(address: str) -> None:
    with pytest.raises(PhoneError, match=r"no address of a phone; write HOST:PORT, such as"):
        split_address(address)


class Pair:
    """A TcpLink and the socket at its other end."""

    def __init__(self) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        self.link = TcpLink("127.0.0.1", server.getsockname()[1])
        self.link.deadline = time.monotonic() + 5
        self.link.connect(None)
        self.other = server.accept()[0]
        server.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.link.close()
    pair.other.close()


def test_the_end_of_a_tcp_connection_is_an_error_at_once(pair: Pair) -> None:
    pair.other.close()
    with pytest.raises(ConnectionResetError, match="the other side closed it"):
        pair.link.bulk_read(24, 60.0)


def test_nothing_is_read_or_written_after_the_deadline(pair: Pair) -> None:
    pair.other.sendall(b"x")
    pair.link.deadline = time.monotonic() - 1
    with pytest.raises(TimeoutError, match="the time is up"):
        pair.link.bulk_read(1, 60.0)
    with pytest.raises(TimeoutError, match="the time is up"):
        pair.link.bulk_write(b"x", 60.0)


def test_more_than_a_socket_takes_at_once_is_written_or_is_late(pair: Pair) -> None:
    pair.link.deadline = time.monotonic() + 0.2
    with pytest.raises(TimeoutError):  # nobody reads: adb-shell's own socket would lose the rest in silence
        pair.link.bulk_write(bytes(64_000_000), 60.0)


def test_a_phone_that_refuses_a_file_is_heard_out(pair: Pair) -> None:
    pair.link.answer = answer = SyncAnswer()
    pair.other.sendall(packet(b"WRTE", REFUSAL[:8]))
    pair.link.bulk_read(32, 60.0)
    pair.other.sendall(packet(b"WRTE", REFUSAL[8:]) + packet(b"CLSE"))
    pair.link.hear_out(answer)
    assert answer.is_closed
    assert answer.words == "disk full"


def test_a_phone_that_refuses_a_file_is_not_waited_for_long(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_link, "_HEAR_OUT_TIMEOUT_S", 0.05)
    pair.link.answer = answer = SyncAnswer()
    answer.hear(packet(b"WRTE", REFUSAL))
    pair.link.deadline = time.monotonic() + 1000
    with pytest.raises(TimeoutError):
        pair.link.bulk_read(24, 60.0)
    pair.link.hear_out(answer)
    assert not answer.is_closed


def test_a_closed_link_says_so() -> None:
    for link in (TcpLink("127.0.0.1", 1), UsbLink("X")):
        link.close()
        link.deadline = time.monotonic() + 5
        with pytest.raises(ConnectionResetError, match="it is closed"):
            link.bulk_read(1, None)


class UsbPhone:
    """A phone's ADB interface as adb-shell finds it on USB."""

    def __init__(self, serial: str | Exception, trouble: Exception | None = None) -> None:
        self.serial = serial
        self.trouble = trouble
        self.is_closed = False

    @property
    def serial_number(self) -> str:
        if isinstance(self.serial, Exception):
            raise self.serial
        return self.serial

    def connect(self, timeout_s: float) -> None:
        self.fail()

    def bulk_read(self, num_bytes: int, timeout_s: float) -> bytearray:
        if self.trouble:
            raise UsbReadFailedError("Could not receive data", self.trouble)
        return bytearray(b"x" * num_bytes)

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        if self.trouble:
            raise UsbWriteFailedError("Could not send data", self.trouble)
        return min(len(data), 10)

    def close(self) -> None:
        self.is_closed = True

    def fail(self) -> None:
        if self.trouble:
            raise self.trouble


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts phones on USB."""
    return lambda *phones: monkeypatch.setattr(adb_link, "usb_phones", lambda: iter(phones))


def usb_link(serial: str = "PIXEL") -> UsbLink:
    link = UsbLink(serial)
    link.deadline = time.monotonic() + 5
    return link


def test_a_phone_on_usb_is_found_by_its_serial_number(plug: Any) -> None:
    pixel = UsbPhone("PIXEL")
    plug(UsbPhone(usb1.USBErrorAccess()), UsbPhone("OTHER"), pixel)
    assert find_usb_phone("PIXEL") is pixel
    link = usb_link()
    link.connect(None)
    assert link.bulk_read(3, None) == b"xxx"
    assert link.bulk_write(b"0123456789", None) == 10
    link.close()
    assert pixel.is_closed


def test_a_serial_number_that_is_not_on_usb_is_named(plug: Any) -> None:
    plug(UsbPhone("OTHER"))
    with pytest.raises(PhoneError, match="No phone PIXEL is on USB; plug it in, switch on USB debugging"):
        usb_link().connect(None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            usb1.USBErrorBusy(),
            r"LIBUSB_ERROR_BUSY.*an adb server; use --transport server, or run `adb kill-ser",
        ),
        (usb1.USBErrorAccess(), r"LIBUSB_ERROR_ACCESS.*install Android's udev rules.*join the group plugdev"),
        (usb1.USBErrorNoDevice(), r"LIBUSB_ERROR_NO_DEVICE.*plug it in again"),
        (usb1.USBErrorNotSupported(), r"LIBUSB_ERROR_NOT_SUPPORTED.*Windows.*--transport server"),
        (usb1.USBErrorOther(), r"LIBUSB_ERROR_OTHER.*plug it in again"),
    ],
)
def test_a_phone_on_usb_that_cannot_be_opened_comes_with_advice(
    plug: Any, error: Exception, words: str
) -> None:
    phone = UsbPhone("PIXEL", error)
    plug(phone)
    with pytest.raises(PhoneError, match=f"The phone PIXEL on USB cannot be opened .{words}"):
        usb_link().connect(None)
    assert phone.is_closed


def test_a_serial_number_that_may_not_be_read_asks_for_udev_rules(plug: Any) -> None:
    plug(UsbPhone(usb1.USBErrorAccess()))
    with pytest.raises(PhoneError, match="udev rules"):
        find_usb_phone("PIXEL")


def test_usb_errors_while_connected_are_the_kind_that_tcp_has(plug: Any) -> None:
    phone = UsbPhone("PIXEL")
    plug(phone)
    link = usb_link()
    link.connect(None)
    with pytest.raises(ConnectionResetError, match="USB took 10 of 11 bytes"):
        link.bulk_write(b"01234567890", None)
    for trouble, kind in ((usb1.USBErrorTimeout(), TimeoutError), (usb1.USBErrorIO(), ConnectionResetError)):
        phone.trouble = trouble
        with pytest.raises(kind, match="LIBUSB_ERROR"):
            link.bulk_read(24, None)
        with pytest.raises(kind, match="LIBUSB_ERROR"):
            link.bulk_write(b"x", None)


def test_a_missing_libusb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adb_shell.transport.usb_transport", None)
    with pytest.raises(
        PhoneError, match=r"need libusb.*libusb-1.0-0, macOS: brew install libusb.*--transport"
    ):
        usb_link().connect(None)
