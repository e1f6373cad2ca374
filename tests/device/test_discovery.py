"""Which phones are listed, which one is meant, and which way is taken to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from amc_tf.device import discovery
from amc_tf.device.adb_direct import AdbTcp, AdbUsb
from amc_tf.device.adb_server import AdbServer, KnownPhone
from amc_tf.device.adb_usb import usb_sentence
from amc_tf.device.discovery import ListedPhone, failed_phone, find_phone, is_address, list_phones
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError, SettingsError
from tests.adbd import Daemon, ServerProcess

World = Callable[..., None]


class FakeUsb:
    """The module usb1, for machines without libusb."""

    class USBError(Exception):
        pass


class UsbPhone:
    """What adb-shell gives for a phone on USB."""

    port_path = (1, 4)

    def __init__(self, serial: str | Exception | None) -> None:
        self._serial = serial

    @property
    def serial_number(self) -> str | None:
        if isinstance(self._serial, Exception):
            raise self._serial
        return self._serial


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Sets what the adb server (None: there is none) and USB (an error: libusb is missing) have."""
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)

    def known(server: dict[str, str] | None) -> tuple[KnownPhone, ...]:
        if server is None:
            raise PhoneError("No adb server answers on 127.0.0.1:5037.")
        return tuple(KnownPhone(serial, state) for serial, state in server.items())

    def load_usb(usb: object) -> object:
        if isinstance(usb, Exception):
            raise usb
        return FakeUsb

    def make(server: dict[str, str] | None = None, usb: object = ()) -> None:
        monkeypatch.setattr(discovery, "is_server_running", lambda: server is not None)
        monkeypatch.setattr(discovery, "known_phones", lambda: known(server))
        monkeypatch.setattr("amc_tf.device.adb_usb.load_usb", lambda: load_usb(usb))
        monkeypatch.setattr("amc_tf.device.adb_usb.usb_phones", lambda: map(UsbPhone, usb))

    make()
    return make


SEALED = FakeUsb.USBError("LIBUSB_ERROR_ACCESS [-3]")


def states(transport: str = "auto") -> list[tuple[str, str, str]]:
    return [(phone.serial, phone.state, phone.transport) for phone in list_phones(transport)]


def test_phones_of_the_server_and_others_on_usb_are_listed_once(world: World) -> None:
    world({"A1": "device", "10.0.0.5:5555": "offline"}, ["A1", "B2"])
    assert states() == [
        ("A1", "ready", "server"),
        ("10.0.0.5:5555", "offline", "server"),
        ("B2", "ready", "usb"),
    ]
    assert states("usb") == [("A1", "ready", "usb"), ("B2", "ready", "usb")]
    assert states("server") == [("A1", "ready", "server"), ("10.0.0.5:5555", "offline", "server")]


def test_without_a_server_phones_on_usb_are_listed(world: World) -> None:
    world(None, ["B2", None])
    assert states() == [("B2", "ready", "usb"), ("usb:1-4", "ready", "usb")]
    with pytest.raises(PhoneError, match="No adb server answers"):
        list_phones("server")


@pytest.mark.parametrize(
    ("state", "shown", "advice"),
    [
        ("unauthorized", "unauthorized", "Allow USB debugging"),
        ("offline", "offline", "adb reconnect"),
        ("no permissions (missing udev rules?); see [http://x]", "no permissions", "udev rules"),
        ("recovery", "recovery", "start Android"),
        ("device", "ready", ""),
    ],
)
def test_a_phone_that_is_not_ready_comes_with_what_to_do(
    world: World, state: str, shown: str, advice: str
) -> None:
    world({"A1": state})
    (phone,) = list_phones()
    assert (phone.state, phone.is_ready) == (shown, state == "device")
    assert advice in phone.advice and bool(advice) == bool(phone.advice)


def test_a_phone_on_usb_that_may_not_be_opened_is_listed_by_its_place(world: World) -> None:
    world(None, [SEALED])
    (phone,) = list_phones()
    assert (phone.serial, phone.state) == ("usb:1-4", "no permissions")
    assert "udev rules" in phone.advice


def test_a_phone_that_may_not_be_opened_is_left_to_the_server_that_lists_it(world: World) -> None:
    world({"A1": "no permissions"}, [SEALED])
    assert states() == [("A1", "no permissions", "server")]


def test_missing_libusb_matters_only_where_no_server_has_phones(world: World) -> None:
    missing = PhoneError("Phones on USB need libusb, which cannot be loaded.")
    world({"A1": "device"}, missing)
    assert states() == [("A1", "ready", "server")]
    with pytest.raises(PhoneError, match="need libusb"):
        list_phones("usb")
    world(None, missing)
    with pytest.raises(PhoneError, match="need libusb"):
        list_phones()


def test_the_only_phone_is_the_one(world: World) -> None:
    world({"A1": "device"})
    assert find_phone().transport_name == "A1 over the adb server"


def test_the_environment_names_a_phone_and_an_argument_outdoes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world({"A1": "device", "B2": "device"})
    monkeypatch.setenv("ANDROID_SERIAL", "B2")
    assert find_phone().serial == "B2"
    assert find_phone("A1").serial == "A1"
    monkeypatch.setenv("ANDROID_SERIAL", "")
    with pytest.raises(PhoneError, match=r"2 phones, A1 \(ready\), B2 \(ready\): choose one with -s SERIAL"):
        find_phone()


def test_no_phone_at_all_comes_with_what_to_do(world: World) -> None:
    world({})
    with pytest.raises(PhoneError, match="USB debugging .* cable .*adb pair.* -s HOST:PORT"):
        find_phone()
    with pytest.raises(PhoneError, match="cannot be found by themselves: give -s HOST:PORT"):
        find_phone(transport="tcp")


@pytest.mark.parametrize(
    ("server", "serial", "kind"),
    [
        ({"A1": "device"}, "A1", AdbServer),
        ({"A1": "unauthorized"}, "A1", AdbServer),  # it holds the phone, so USB would be busy
        ({"B2": "device"}, "A1", AdbUsb),
        (None, "A1", AdbUsb),
        (None, "10.0.0.5:5555", AdbTcp),
        (None, "[::1]:5555", AdbTcp),
        (None, "10.0.0.5", AdbTcp),
        ({"10.0.0.5:5555": "device"}, "10.0.0.5:5555", AdbServer),
        ({"10.0.0.5:5555": "offline"}, "10.0.0.5:5555", AdbTcp),
        ({}, "emulator-5554", AdbServer),
        (None, "adb-39061FDJH00ABC-x1Y2z3._adb-tls-connect._tcp", AdbServer),
    ],
)
def test_the_way_is_the_server_where_it_knows_the_phone(
    world: World, server: dict[str, str] | None, serial: str, kind: type
) -> None:
    world(server)
    assert isinstance(find_phone(serial)._transport, kind)


@pytest.mark.parametrize(("transport", "kind"), [("server", AdbServer), ("tcp", AdbTcp), ("usb", AdbUsb)])
def test_a_way_that_is_asked_for_is_taken(world: World, transport: str, kind: type) -> None:
    world({"A1": "device"})
    assert isinstance(find_phone("A1", transport=transport)._transport, kind)


def test_unknown_ways_are_refused_with_those_that_exist() -> None:
    for use in (list_phones, lambda transport: find_phone("A1", transport=transport)):
        with pytest.raises(SettingsError, match="one of auto, server, tcp, usb, but is 'radio'"):
            use("radio")


@pytest.mark.parametrize(
    "address", ["10.0.0.5:0", "10.0.0.5:70000", "host:port", ":5555", "[::1]:", "host:٣"]
)
def test_bad_addresses_are_refused_with_a_good_one(world: World, address: str) -> None:
    with pytest.raises(PhoneError, match="write HOST:PORT, such as 192.168.1.20:5555"):
        find_phone(address)


def test_addresses_are_told_from_serial_numbers() -> None:
    addresses = ["10.0.0.5:5555", "10.0.0.5", "pixel.local:5555", "[::1]:5555", "::1"]
    serials = ["39061FDJH00ABC", "emulator-5554", "adb-3906-x1 (2)._adb-tls-connect._tcp", "pixel"]
    assert [is_address(text) for text in addresses + serials] == [True] * 5 + [False] * 4


def test_a_failure_tells_the_state_of_a_phone() -> None:
    listed = ListedPhone("A1", "ready", "usb")
    errors = [
        PhoneError(usb_sentence("A1", Exception("LIBUSB_ERROR_BUSY [-6]"))),
        PhoneError(
            "A1 over TCP does not accept this computer's key ~/.android/adbkey yet (unauthorized): unlock it."
        ),
        PhoneTimeoutError("A1 over USB did not answer within 10 s."),
        PhoneError("Nothing listens on A1 (connection refused)."),
        MeasurementError("The phone A1 does not say what it is."),
    ]
    failed = [failed_phone(listed, error) for error in errors]
    assert [phone.state for phone in failed] == [
        "busy",
        "unauthorized",
        "no answer",
        "unreachable",
        "unusable",
    ]
    assert "adb kill-server" in failed[0].advice
    assert not any(phone.is_ready for phone in failed)


def test_a_real_phone_is_asked_over_tcp(adbd: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "is_server_running", lambda: False)
    with find_phone(adbd.serial) as phone:
        assert phone.transport_name == f"{adbd.serial} over TCP"
        check_loopback_phone(phone)


def test_a_real_phone_is_asked_through_a_server(
    adbd: Daemon, adb_server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    adb_server.adb("connect", adbd.serial)
    try:
        assert ListedPhone(adbd.serial, "ready", "server") in list_phones("server")
        with find_phone(adbd.serial) as phone:
            assert phone.transport_name == f"{adbd.serial} over the adb server"
            check_loopback_phone(phone)
    finally:
        adb_server.adb("disconnect", adbd.serial)


def check_loopback_phone(phone: discovery.Phone) -> None:
    """Checks what the daemon's stand-ins answer."""
    info, conditions = phone.info(), phone.conditions()
    assert (info.name, info.android_version, info.sdk) == ("Debian Loopback Phone", "14", 34)
    assert info.clusters[0][0].max_khz == 2_841_600
    assert {core.max_khz for core in info.cores} <= {1_804_800, 2_841_600}
    assert info.cores_for(1)
    assert (conditions.battery_c, conditions.battery_percent, conditions.thermal_status) == (28.5, 88, 0)
    assert (conditions.charging, conditions.screen_on) == (True, None)


def test_a_real_phone_that_does_not_know_this_computer_is_unauthorized(
    start_adbd: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    daemon = start_adbd("--auth")
    monkeypatch.setenv("HOME", str(tmp_path))
    phone = find_phone(daemon.serial, transport="tcp", connect_timeout_s=1.0)
    with pytest.raises(PhoneError) as caught:
        phone.connect()
    monkeypatch.undo()  # the daemon's control has its files at home
    failed = failed_phone(ListedPhone(daemon.serial, "ready", "tcp"), caught.value)
    assert failed.state == "unauthorized"
    assert "Allow USB debugging?" in failed.advice
