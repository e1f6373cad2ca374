"""The transports against a real Android debug daemon, in good and in bad times."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amc_tf.device.adb_direct import AdbTcp
from amc_tf.device.adb_keys import load_keys
from amc_tf.device.adb_server import AdbServer, KnownPhone, known_phones
from amc_tf.device.transport import Transport, quote
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError
from tests.adbd import Daemon, ServerProcess

FOLDER = "/data/local/tmp"
HOSTILE_NAMES = (
    "two words", "it's", 'a "quote"', "; touch hacked", "$(touch hacked)", "`touch hacked`", "-rf", "*",
    "größe-模型", "comma,33261", "back\\slash", "new\nline", "#hash", "a&b|c", "~", "%s",
)  # fmt: skip

DIRECTLY_AND_SLOWLY_OVER_THE_SERVER = pytest.mark.parametrize(
    "make", ["tcp", pytest.param("server", marks=pytest.mark.slow)], indirect=True
)

MakeTransport = Callable[[Daemon], Transport]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    return load_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(params=["tcp", "server"])
def make(request: pytest.FixtureRequest, keys: tuple[object, ...]) -> Iterator[MakeTransport]:
    """Returns a function that connects to a phone, directly or through a server; all is closed at the end."""
    opened: list[Transport] = []
    server = request.getfixturevalue("adb_server") if request.param == "server" else None

    def connect(daemon: Daemon) -> Transport:
        transport: Transport = (
            AdbTcp(daemon.serial, keys=keys) if server is None else AdbServer(daemon.serial, port=server.port)
        )
        opened.append(transport)
        transport.connect(timeout_s=10)
        return transport

    yield connect
    for transport in opened:
        transport.close()


@pytest.fixture
def phone(make: MakeTransport, adbd: Daemon) -> Transport:
    """The shared phone, connected."""
    return make(adbd)


def reconnect(transport: Transport, within_s: float = 20.0) -> None:
    """Connects again as soon as the phone is back."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            transport.connect(timeout_s=5)
            assert transport.shell("echo back", timeout_s=5).stdout == "back\n"
            return
        except PhoneError:
            assert time.monotonic() < deadline, "the phone did not come back"
            time.sleep(0.05)


def restart(daemon: Daemon) -> None:
    """Kills a daemon and waits for the next one, which reads the accepted keys anew."""
    pid = daemon.pid
    daemon.kill()
    daemon.wait(pid)


@pytest.mark.parametrize(
    ("command", "output", "exit_code"),
    [
        ("echo hi", "hi\n", 0),
        ("printf hi; exit 3", "hi", 3),
        ("sh -c 'kill -9 $$' 2>/dev/null; exit $?", "", 137),
        ("cat", "", 0),
        ("printf '\\377\\r\\n'", "\ufffd\r\n", 0),
        ("id -u", "2000\n", 0),
    ],
)
def test_exit_codes_are_real(phone: Transport, command: str, output: str, exit_code: int) -> None:
    result = phone.shell(command, timeout_s=10)
    assert (result.stdout, result.exit_code) == (output, exit_code)


def test_a_command_that_kills_its_own_shell_has_an_exit_code(phone: Transport) -> None:
    assert phone.shell("kill -9 $$", timeout_s=10).exit_code == 137


def test_a_syntax_error_is_the_commands_own(phone: Transport) -> None:
    result = phone.shell("echo 'no end", timeout_s=10)
    assert result.exit_code == 1
    assert "no closing quote" in result.output


def test_the_server_keeps_standard_error_apart(adbd: Daemon, make: MakeTransport) -> None:
    phone = make(adbd)
    result = phone.shell("echo out; echo err >&2; exit 3", timeout_s=10)
    is_apart = isinstance(phone, AdbServer)
    assert (result.stdout, result.stderr) == (("out\n", "err\n") if is_apart else ("out\nerr\n", ""))
    assert result.exit_code == 3


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_harmless(phone: Transport, adbd: Daemon, name: str) -> None:
    path = f"{FOLDER}/hostile/{name}"
    content = name.encode() * 3
    phone.push(content, path, timeout_s=10)
    assert phone.pull(path, timeout_s=10) == content
    listed = phone.shell(quote("cat", path), timeout_s=10)
    assert (listed.stdout, listed.exit_code) == (name * 3, 0)
    removed = phone.shell(quote("rm", "-r", f"{FOLDER}/hostile") + "; ls " + FOLDER, timeout_s=10)
    assert "hacked" not in removed.output
    assert "hostile" not in removed.output
    assert "hacked" not in os.listdir(adbd.tmp)


def test_large_files_arrive_whole_in_both_directions(phone: Transport, adbd: Daemon) -> None:
    content = os.urandom(17_000_003)
    path = f"{FOLDER}/large"
    phone.push(content, path, timeout_s=30)
    host_path = adbd.tmp / "large"
    assert hashlib.sha256(host_path.read_bytes()).digest() == hashlib.sha256(content).digest()
    assert host_path.stat().st_mode & 0o500 == 0o500
    assert phone.pull(path, timeout_s=30) == content
    phone.push(b"", path, timeout_s=10)
    assert phone.pull(path, timeout_s=10) == b""
    host_path.unlink()


def test_a_pushed_program_runs(phone: Transport) -> None:
    path = f"{FOLDER}/program"
    phone.push(b"#!/system/bin/sh\necho ran $1\nexit 42\n", path, timeout_s=10)
    result = phone.shell(quote(path, "a b") + f"; code=$?; rm {path}; exit $code", timeout_s=10)
    assert (result.stdout, result.exit_code) == ("ran a b\n", 42)


def test_files_that_are_not_there_or_not_allowed_keep_the_connection(phone: Transport) -> None:
    with pytest.raises(MeasurementError, match=r"not hand out the file /no/file: .*No such file") as missing:
        phone.pull("/no/file", timeout_s=10)
    with pytest.raises(
        MeasurementError, match=r"refuses the file /system/x: .*(Read-only|denied)"
    ) as refused:
        phone.push(b"x", "/system/x", timeout_s=10)
    assert not isinstance(missing.value, PhoneError)
    assert not isinstance(refused.value, PhoneError)
    assert phone.shell("echo on", timeout_s=10).stdout == "on\n"


def test_a_full_disk_is_told_in_the_phones_words(
    make: MakeTransport, start_adbd: Callable[..., Daemon]
) -> None:
    small = start_adbd("--data-size", "4M")
    phone = make(small)
    for size in (4_200_000, 5_500_000, 17_000_000):  # told at the end, in the middle, long before the end
        with pytest.raises(
            MeasurementError, match="refuses the file .*/x: .*No space left on device"
        ) as full:
            phone.push(bytes(size), f"{FOLDER}/x", timeout_s=20)
        assert not isinstance(full.value, PhoneError)
        assert list(small.tmp.iterdir()) == []
        phone.push(b"fits", f"{FOLDER}/x", timeout_s=10)
        assert phone.pull(f"{FOLDER}/x", timeout_s=10) == b"fits"
        (small.tmp / "x").unlink()


def test_a_daemon_that_dies_in_a_command_is_no_exit_code(phone: Transport, adbd: Daemon) -> None:
    pid = adbd.pid
    threading.Timer(0.2, adbd.kill).start()
    with pytest.raises(PhoneError, match="connection to .* was lost") as lost:
        phone.shell("sleep 30", timeout_s=20)
    assert not isinstance(lost.value, PhoneTimeoutError)
    with pytest.raises(PhoneError, match="call connect first"):
        phone.shell("true", timeout_s=5)
    adbd.wait(pid)
    reconnect(phone)
    phone.shell("pkill -f 'sleep 3[0]'", timeout_s=5)


@DIRECTLY_AND_SLOWLY_OVER_THE_SERVER
def test_a_daemon_that_dies_in_a_push_can_be_pushed_to_again(phone: Transport, adbd: Daemon) -> None:
    pid = adbd.pid
    content = os.urandom(8_000_000)
    adbd.stop()  # nothing is read any more, so the push cannot have ended
    threading.Timer(0.2, adbd.kill).start()
    with pytest.raises(PhoneError, match="connection to .* was lost"):
        phone.push(content, f"{FOLDER}/half", timeout_s=20)
    adbd.wait(pid)
    reconnect(phone)
    phone.push(content, f"{FOLDER}/half", timeout_s=20)
    assert phone.pull(f"{FOLDER}/half", timeout_s=20) == content
    (adbd.tmp / "half").unlink()


def test_a_phone_that_hangs_is_late_and_poisons_nothing(phone: Transport, adbd: Daemon) -> None:
    adbd.stop()
    try:
        start = time.monotonic()
        with pytest.raises(PhoneTimeoutError, match=r"did not end a command within 0\.3 s"):
            phone.shell("echo late", timeout_s=0.3)
        assert time.monotonic() - start < 2
    finally:
        adbd.cont()
    reconnect(phone)
    assert phone.shell("echo next", timeout_s=5).stdout == "next\n"


def test_a_command_that_outlasts_its_timeout_poisons_nothing(phone: Transport) -> None:
    with pytest.raises(PhoneTimeoutError, match=r"did not end a command within 0\.3 s"):
        phone.shell("while sleep 0.01; do echo still here; done", timeout_s=0.3)
    reconnect(phone)
    assert phone.shell("echo next", timeout_s=5).stdout == "next\n"
    phone.shell("pkill -f 'still [h]ere'", timeout_s=5)


@DIRECTLY_AND_SLOWLY_OVER_THE_SERVER
def test_a_phone_that_is_gone_may_come_back(make: MakeTransport, start_adbd: Callable[..., Daemon]) -> None:
    daemon = start_adbd()
    phone = make(daemon)
    daemon.down()
    with pytest.raises(PhoneError, match="was lost|cannot be used|not reach"):
        phone.shell("true", timeout_s=5)
    with pytest.raises(PhoneError, match="refused|not reach|not ready"):
        phone.connect(timeout_s=5)
    daemon.up()
    reconnect(phone)


def test_a_key_that_is_accepted_opens_the_phone_until_it_is_removed(
    start_adbd: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start_adbd("--auth")
    (key,) = load_keys(tmp_path)
    phone = AdbTcp(daemon.serial, keys=[key])
    with pytest.raises(PhoneError, match="unauthorized.*unlock it and accept the question") as stranger:
        phone.connect(timeout_s=0.5)
    assert not isinstance(stranger.value, PhoneTimeoutError)
    daemon.add_key(key.GetPublicKey().decode())
    phone.connect(timeout_s=5)
    assert phone.shell("echo in", timeout_s=5).stdout == "in\n"
    daemon.remove_keys()
    restart(daemon)
    with pytest.raises(PhoneError, match="was lost"):
        phone.shell("true", timeout_s=5)
    with pytest.raises(PhoneError, match="unauthorized"):
        phone.connect(timeout_s=0.5)


@pytest.mark.slow
def test_the_servers_key_opens_the_phone_until_it_is_removed(
    start_adbd: Callable[..., Daemon], adb_server: ServerProcess
) -> None:
    daemon = start_adbd("--auth")
    phone = AdbServer(daemon.serial, port=adb_server.port)
    with pytest.raises(PhoneError, match=r"not ready \(unauthorized\)"):
        phone.connect(timeout_s=10)
    daemon.add_key((adb_server.home / ".android" / "adbkey.pub").read_text())
    adb_server.adb("disconnect", daemon.serial)
    restart(daemon)
    reconnect(phone)
    daemon.remove_keys()
    restart(daemon)
    with pytest.raises(PhoneError, match="unauthorized|offline|was lost"):
        phone.shell("true", timeout_s=5)
    with pytest.raises(PhoneError, match=r"not ready \((unauthorized|offline|authorizing|connecting)\)"):
        phone.connect(timeout_s=5)


def test_the_server_tells_which_phones_it_knows_in_which_state(
    start_adbd: Callable[..., Daemon], adbd: Daemon, adb_server: ServerProcess
) -> None:
    locked = start_adbd("--auth")
    adb_server.adb("connect", locked.serial)
    adb_server.adb("connect", adbd.serial)
    phones = {phone.serial: phone for phone in known_phones(port=adb_server.port)}
    assert phones[adbd.serial] == KnownPhone(adbd.serial, "device")
    assert phones[locked.serial].state == "unauthorized"
    assert "accept the question" in phones[locked.serial].advice
    with pytest.raises(PhoneError, match=r"is not ready \(unauthorized\): unlock it and accept the question"):
        AdbServer(locked.serial, port=adb_server.port).connect(timeout_s=5)


def test_a_push_of_17_mb_takes_well_under_a_second(phone: Transport, adbd: Daemon) -> None:
    content = os.urandom(17_000_000)
    start = time.perf_counter()
    phone.push(content, f"{FOLDER}/timed", timeout_s=30)
    took_s = time.perf_counter() - start
    (adbd.tmp / "timed").unlink()
    assert took_s < 1.0
