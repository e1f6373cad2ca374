"""Which phones there are, and which way leads to one: the adb server, TCP, or USB."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
import re
from collections.abc import Iterator

from amc_tf.device.adb_server import READY, AdbServer, KnownPhone, known_phones
from amc_tf.device.adb_stream import is_server_running
from amc_tf.device.phone import Phone
from amc_tf.device.phone_facts import clean
from amc_tf.device.transport import Transport
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError, SettingsError

_LOGGER = logging.getLogger(__name__)

TRANSPORTS = ("auto", "server", "tcp", "usb")
NO_PHONE = (
    "No phone was found: switch on USB debugging in the phone's developer options and plug it in with a "
    "cable that carries data, pair it with `adb pair` (wireless debugging), or give its address with "
    "-s HOST:PORT."
)

# Only a server has these: emulators, and phones in wireless debugging, which it found by their names.
_SERVER_ONLY = re.compile(r"emulator-[0-9]+|.*\._adb(-tls-connect|-tls-pairing)?\._tcp\.?", re.DOTALL)
# What a failure to connect means for the state of a phone, by words of the error.
_STATES = {
    "unauthorized": "unauthorized",
    "LIBUSB_ERROR_BUSY": "busy",
    "LIBUSB_ERROR_ACCESS": "no permissions",
    "offline": "offline",
}


@dataclasses.dataclass(frozen=True)
class ListedPhone:
    """A phone in a list.

    Attributes:
        serial: What selects it: serial number or HOST:PORT.
        state: "ready", or why it is not: "unauthorized", "offline", "busy", "no permissions", "no answer",
            "unreachable", "unusable", or what else a server calls it.
        transport: What lists it: "server", "usb" or "tcp".
        advice: What to do so that it can be used; empty if it is ready.
    """

    serial: str
    state: str
    transport: str
    advice: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether it can be used, as far as is known without connecting to it."""
        return self.state == "ready"


def list_phones(transport: str = "auto") -> tuple[ListedPhone, ...]:
    """Returns the phones that an adb server knows, then those on USB that it does not know.

    Phones on USB are not opened, so one that another program holds is listed as ready; phones on the network
    that no server is connected to cannot be found.

    Args:
        transport: "auto", or "server" or "usb" for those only.

    Raises:
        PhoneError: The server does not answer as one; there is none, but it was asked for; USB was needed and
            libusb is missing; or "tcp" was asked for.
        SettingsError: There is no such transport.
    """
    _check(transport)
    if transport == "tcp":
        raise PhoneError("Phones on the network cannot be found by themselves: give -s HOST:PORT.")
    phones: list[ListedPhone] = []
    has_server = transport == "server" or (transport == "auto" and is_server_running())
    if has_server:
        phones += map(_listed, known_phones())
    if transport in ("auto", "usb"):
        try:
            on_usb = tuple(_phones_on_usb())
        except PhoneError as error:
            if not phones:
                raise
            _LOGGER.info("%s", error)
            on_usb = ()
        known = {phone.serial for phone in phones}
        # What may not be opened has no serial number; the server, if it runs, lists it too.
        phones += [
            phone for phone in on_usb if phone.serial not in known and (phone.is_ready or not has_server)
        ]
    return tuple(phones)


def find_phone(
    serial: str | None = None, *, transport: str = "auto", connect_timeout_s: float = 10.0
) -> Phone:
    """Returns a phone, not connected yet.

    Args:
        serial: Serial number or HOST:PORT; None for $ANDROID_SERIAL, else the only phone there is.
        transport: "server", "tcp" or "usb"; or "auto": the adb server where one runs and knows the phone,
            else TCP for an address and USB for a serial number. A phone at HOST:PORT that the server has, but
            not ready, is connected to directly.
        connect_timeout_s: Longest wait for a connection, in seconds.

    Raises:
        PhoneError: There is no phone, several and none was chosen, or the address is none.
        SettingsError: There is no such transport.
    """
    _check(transport)
    serial = serial or os.environ.get("ANDROID_SERIAL") or _only_phone(transport)
    return Phone(_way_to(serial, transport), connect_timeout_s=connect_timeout_s)


def failed_phone(phone: ListedPhone, error: MeasurementError) -> ListedPhone:
    """Returns a phone that was listed as ready and then could not be used, with what is wrong.

    Args:
        phone: As it was listed.
        error: What connecting to it or asking it raised.
    """
    words = str(error)
    state = next((state for word, state in _STATES.items() if word in words), None)
    if state is None:
        kinds = {PhoneTimeoutError: "no answer", PhoneError: "unreachable"}
        state = next((name for kind, name in kinds.items() if isinstance(error, kind)), "unusable")
    return dataclasses.replace(phone, state=state, advice=words)


def best_transport(serial: str) -> str:
    """Returns the way that "auto" stands for: "server", "tcp" or "usb"; see `find_phone`.

    Args:
        serial: Serial number or HOST:PORT.

    Raises:
        PhoneError: What listens where the adb server should be is none.
    """
    if _SERVER_ONLY.fullmatch(serial):
        return "server"
    states = {phone.serial: phone.state for phone in known_phones()} if is_server_running() else {}
    if is_address(serial):
        return "server" if states.get(serial) == READY else "tcp"
    return "server" if serial in states else "usb"


def is_address(serial: str) -> bool:
    """Tells whether something that selects a phone is an address on the network, not a serial number."""
    if _SERVER_ONLY.fullmatch(serial):
        return False
    try:
        ipaddress.ip_address(serial)
    except ValueError:
        return ":" in serial
    return True


def _check(transport: str) -> None:
    if transport not in TRANSPORTS:
        raise SettingsError(f"transport must be one of {', '.join(TRANSPORTS)}, but is {transport!r}.")


def _only_phone(transport: str) -> str:
    phones = list_phones(transport)
    if not phones:
        raise PhoneError(NO_PHONE)
    if len(phones) > 1:
        names = ", ".join(f"{phone.serial} ({phone.state})" for phone in phones)
        raise PhoneError(f"There are {len(phones)} phones, {names}: choose one with -s SERIAL.")
    return phones[0].serial


def _way_to(serial: str, transport: str) -> Transport:
    if transport == "auto":
        transport = best_transport(serial)
    if transport == "server":
        return AdbServer(serial)
    # adb-shell is loaded only where it is used
    from amc_tf.device.adb_direct import AdbTcp, AdbUsb

    return AdbTcp(serial) if transport == "tcp" else AdbUsb(serial)


def _listed(phone: KnownPhone) -> ListedPhone:
    state = "ready" if phone.state == READY else clean(re.split("[(;]", phone.state)[0])
    return ListedPhone(clean(phone.serial), state, "server", phone.advice)


def _phones_on_usb() -> Iterator[ListedPhone]:
    from amc_tf.device.adb_usb import load_usb, usb_phones, usb_sentence

    usb_error = load_usb().USBError
    for phone in usb_phones():
        place = "usb:" + "-".join(map(str, phone.port_path))
        try:
            yield ListedPhone(clean(phone.serial_number or place), "ready", "usb")
        except usb_error as error:
            yield failed_phone(ListedPhone(place, "ready", "usb"), PhoneError(usb_sentence(place, error)))
