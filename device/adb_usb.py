"""Phones on USB: which there are, and a link to one (libusb)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adb_shell.exceptions import UsbReadFailedError, UsbWriteFailedError

from amc_tf.device.adb_link import Link
from amc_tf.errors import PhoneError

_USB_ADVICE = {
    "LIBUSB_ERROR_ACCESS": (
        "this user may not open it; on Linux install Android's udev rules (Debian and Ubuntu: the package "
        "android-sdk-platform-tools-common), join the group plugdev and plug the phone in again"
    ),
    "LIBUSB_ERROR_BUSY": (
        "another program holds it, most likely an adb server; use --transport server, or run "
        "`adb kill-server`"
    ),
    "LIBUSB_ERROR_NO_DEVICE": "it was unplugged or has restarted; plug it in again",
    "LIBUSB_ERROR_NOT_SUPPORTED": (
        "its USB driver cannot be used this way, as on Windows; start Google's adb and use --transport server"
    ),
}


class UsbLink(Link):
    """A phone's ADB interface on USB, through libusb."""

    def __init__(self, serial: str) -> None:
        """Takes a serial number; nothing is opened yet."""
        super().__init__()
        self._serial = serial
        self._usb: Any = None

    def connect(self, transport_timeout_s: float | None) -> None:
        """Finds the phone and takes hold of its interface.

        Raises:
            PhoneError: It is not there, not ours to open, or held by another program.
        """
        usb = find_usb_phone(self._serial)
        try:
            usb.connect(self.left_s())
        except load_usb().USBError as error:
            usb.close()
            raise PhoneError(usb_sentence(self._serial, error)) from error
        self._usb = usb

    def close(self) -> None:
        """Lets the interface go."""
        if self._usb is not None:
            self._usb.close()
            self._usb = None

    def read(self, num_bytes: int, timeout_s: float) -> bytes:
        """Returns 1 to `num_bytes` bytes."""
        try:
            return bytes(self._connected().bulk_read(num_bytes, timeout_s))
        except UsbReadFailedError as error:
            raise _as_os_error(error) from error

    def write(self, data: bytes, timeout_s: float) -> None:
        """Writes all bytes."""
        try:
            sent = self._connected().bulk_write(data, timeout_s)
        except UsbWriteFailedError as error:
            raise _as_os_error(error) from error
        if sent != len(data):
            raise ConnectionResetError(f"USB took {sent} of {len(data)} bytes")

    def _connected(self) -> Any:
        if self._usb is None:
            raise ConnectionResetError("it is closed")
        return self._usb


def load_usb() -> Any:
    """Returns the module `usb1`.

    Raises:
        PhoneError: it is missing, or cannot load libusb.
    """
    try:
        import usb1
    except (ImportError, OSError) as error:
        raise _missing_libusb(error) from error
    return usb1


def usb_phones() -> Iterator[Any]:
    """Yields adb-shell's `UsbTransport` of every phone with USB debugging on, none of them opened.

    Raises:
        PhoneError: libusb is missing, or finds no USB at all.
    """
    usb1 = load_usb()
    try:
        usb1.loadLibrary()
        from adb_shell.transport.usb_transport import UsbTransport

        yield from UsbTransport.find_all_adb_devices()
    except usb1.USBError as error:
        raise PhoneError(f"USB cannot be searched for phones ({error}); use TCP or an adb server.") from error
    except OSError as error:
        raise _missing_libusb(error) from error


def _missing_libusb(error: ImportError | OSError) -> PhoneError:
    reason = getattr(error, "strerror", None) or error
    return PhoneError(
        f"Phones on USB need libusb, which cannot be loaded ({reason}); install it (Debian and Ubuntu: "
        "libusb-1.0-0, macOS: brew install libusb), or start Google's adb and use --transport server."
    )


def find_usb_phone(serial: str) -> Any:
    """Returns adb-shell's `UsbTransport` of a phone.

    Raises:
        PhoneError: There is none with this serial number, or libusb is missing.
    """
    usb1 = load_usb()
    sealed: Exception | None = None
    for phone in usb_phones():
        try:
            if phone.serial_number == serial:
                return phone
        except usb1.USBError as error:
            sealed = error
    if sealed is not None:
        raise PhoneError(usb_sentence(serial, sealed)) from sealed
    raise PhoneError(
        f"No phone {serial} is on USB; plug it in, switch on USB debugging in its developer options, and "
        "check the serial number with `amc-tf devices`."
    )


def usb_sentence(serial: str, error: Exception) -> str:
    """Returns what a libusb error means for a phone and what to do about it."""
    words = str(error)
    advice = next((text for name, text in _USB_ADVICE.items() if name in words), "plug it in again")
    return f"The phone {serial} on USB cannot be opened ({words}): {advice}."


def _as_os_error(error: UsbReadFailedError | UsbWriteFailedError) -> OSError:
    """Returns a TimeoutError or a ConnectionResetError for what adb-shell makes of every libusb error."""
    cause = error.args[-1]
    words = str(cause or error.args[0])
    return TimeoutError(words) if "LIBUSB_ERROR_TIMEOUT" in words else ConnectionResetError(words)
