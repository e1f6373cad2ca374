"""Phones on USB, with fakes in their place."""

import sys
import time
import types
from typing import Any

import pytest
import usb1
from adb_shell.exceptions import UsbReadFailedError, UsbWriteFailedError

from amc_tf.device import adb_usb
from amc_tf.device.adb_usb import UsbLink, find_usb_phone
from amc_tf.errors import PhoneError


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
    return lambda *phones: monkeypatch.setattr(adb_usb, "usb_phones", lambda: iter(phones))


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


def test_a_closed_link_says_so() -> None:
    link = usb_link()
    link.close()
    with pytest.raises(ConnectionResetError, match="it is closed"):
        link.bulk_read(1, None)


def test_a_missing_libusb_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usb1", None)
    with pytest.raises(
        PhoneError, match=r"need libusb.*libusb-1.0-0, macOS: brew install libusb.*--transport"
    ):
        usb_link().connect(None)


def test_without_the_library_of_usb1_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "cannot find a suitable libusb-1.0")

    monkeypatch.setattr(usb1, "loadLibrary", fail)
    with pytest.raises(
        PhoneError, match=r"need libusb, .* \(cannot find a suitable libusb-1.0\); install it"
    ):
        usb_link().connect(None)


def test_a_usb_bus_that_cannot_be_searched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bus:
        @staticmethod
        def find_all_adb_devices() -> None:
            raise usb1.USBErrorAccess

    adb_shell_module = types.ModuleType("usb_transport")
    adb_shell_module.UsbTransport = Bus  # type: ignore[attr-defined]
    monkeypatch.setattr(usb1, "loadLibrary", lambda: True)
    monkeypatch.setitem(sys.modules, "adb_shell.transport.usb_transport", adb_shell_module)
    with pytest.raises(PhoneError, match=r"USB cannot be searched for phones \(LIBUSB_ERROR_ACCESS"):
        usb_link().connect(None)
