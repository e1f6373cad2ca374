"""What the server transport makes of an adb server's answers, and of none."""

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from amc_tf.device import transport
from amc_tf.device.adb_server import AdbServer, KnownPhone, known_phones, parse_phones
from amc_tf.device.adb_stream import is_server_running, server_port
from amc_tf.device.transport import MarkedCommand, ShellResult
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError, SettingsError
from tests.peer import Exchange, Peer, anything, server_request

SERIAL = "9A081FFAZ0"
VERSION: list[Exchange] = [(server_request("host:version"), b"OKAY00040029")]
DEVICES = server_request("host:devices")
FEATURES = server_request(f"host-serial:{SERIAL}:features")
TRANSPORT: Exchange = (server_request(f"host:transport:{SERIAL}"), b"OKAY")


def answer(text: str) -> bytes:
    return b"OKAY" + server_request(text)


def refusal(text: str) -> bytes:
    return b"FAIL" + server_request(text)


def ready(features: str = "shell_v2,cmd", state: str = "device") -> list[list[Exchange]]:
    """Returns the connections that `AdbServer.connect` makes."""
    return [
        VERSION, [(DEVICES, answer(f"{SERIAL}\t{state}\n"))],
        VERSION, [(FEATURES, answer(features))],
    ]  # fmt: skip


def connected(peer: Peer) -> AdbServer:
    phone = AdbServer(SERIAL, port=peer.port)
    phone.connect(timeout_s=5)
    return phone


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


def test_a_list_of_phones_has_serial_numbers_and_states() -> None:
    text = f"{SERIAL}\tdevice\n192.168.1.5:5555\toffline\nX1\tno permissions (user in plugdev?); see [http://x]\n"
    assert parse_phones(text) == (
        KnownPhone(SERIAL, "device"),
        KnownPhone("192.168.1.5:5555", "offline"),
        KnownPhone("X1", "no permissions (user in plugdev?); see [http://x]"),
    )
    assert parse_phones("") == ()


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("device", ""),
        ("unauthorized", 'unlock it and accept the question "Allow USB debugging?"'),
        ("offline", "`adb reconnect offline`"),
        ("no permissions (missing udev rules?)", "udev rules"),
        ("recovery", "start Android"),
        ("something new", "`adb devices -l`"),
    ],
)
def test_every_state_comes_with_advice(state: str, advice: str) -> None:
    assert advice in KnownPhone(SERIAL, state).advice
    assert bool(advice) == bool(KnownPhone(SERIAL, state).advice)


def test_a_server_that_answers_is_running() -> None:
    with Peer(VERSION) as peer:
        assert is_server_running(port=peer.port)


def test_what_is_no_server_or_nothing_is_not_running() -> None:
    with Peer([(server_request("host:version"), b"HTTP/1.1 400")]) as peer:
        assert not is_server_running(port=peer.port)
    assert not is_server_running(port=peer.port)


def test_no_server_is_started_where_none_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def start(*_: Any, **__: Any) -> None:
        pytest.fail("a program was started")

    monkeypatch.setattr("subprocess.run", start)
    with pytest.raises(
        PhoneError, match=rf"No adb server answers on 127\.0\.0\.1:{port}; start it with `adb st"
    ):
        known_phones(port=port)


def test_the_port_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    assert server_port() == 5037
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "6000")
    assert server_port() == 6000
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "many")
    with pytest.raises(
        SettingsError, match="ANDROID_ADB_SERVER_PORT must be a port from 1 to 65535, .*'many'"
    ):
        server_port()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("offline", r"not ready \(offline\): wake it and plug it in again"),
        ("unauthorized", r"not ready \(unauthorized\): unlock it and accept"),
        ("no permissions", r"not ready \(no permissions\): .*udev rules"),
    ],
)
def test_a_phone_that_is_not_ready_is_refused_with_advice(state: str, words: str) -> None:
    script = ready(state=state)[:2]
    with Peer(*script) as peer, pytest.raises(PhoneError, match=words):
        connected(peer)


def test_a_serial_number_that_the_server_does_not_know_is_named() -> None:
    with (
        Peer(VERSION, [(DEVICES, answer("OTHER\tdevice\n"))]) as peer,
        pytest.raises(
            PhoneError, match=f"does not reach {SERIAL} .*not found.*: plug it in, or run `adb conn"
        ),
    ):
        connected(peer)


def test_an_address_that_the_server_does_not_know_is_connected_to() -> None:
    address = "10.0.0.9:5555"
    failed = f"failed to connect to {address}: Connection refused"
    script = (
        VERSION, [(DEVICES, answer(""))],
        VERSION, [(server_request(f"host:connect:{address}"), answer(failed))],
        VERSION, [(DEVICES, answer(""))],
    )  # fmt: skip
    with Peer(*script) as peer, pytest.raises(PhoneError, match=r"not reach 10\.0\.0\.9.*Connection refused"):
        AdbServer(address, port=peer.port).connect(timeout_s=5)


def run(command: str, reply: bytes, *, timeout_s: float = 5, stays: bool = False) -> ShellResult:
    """Runs a command on a phone with the newer shell service that answers it with these bytes."""
    line = f"shell,v2,raw:sh -c {command} </dev/null"
    script = [*ready(), VERSION, [TRANSPORT, (server_request(line), reply)]]
    with Peer(*script, stays=stays) as peer:
        phone = connected(peer)
        try:
            return phone.shell(command, timeout_s=timeout_s)
        except PhoneError:
            with pytest.raises(PhoneError, match="call connect first"):
                phone.shell(command, timeout_s=timeout_s)
            raise


def test_frames_of_the_shell_become_output_errors_and_exit_code() -> None:
    reply = frame(1, b"a") + frame(2, b"x\n") + frame(1, b"") + frame(1, b"b\xff\n") + frame(3, b"\x89")
    assert run("ls", b"OKAY" + reply) == ShellResult("ab\ufffd\n", "x\n", 137)


def test_a_shell_that_ends_without_an_exit_code_was_cut_off() -> None:
    with pytest.raises(PhoneError, match="connection to 9A081FFAZ0 over the adb server was lost"):
        run("ls", b"OKAY" + frame(1, b"half"))


def test_an_exit_without_a_code_is_none() -> None:
    with pytest.raises(PhoneError, match="was lost"):
        run("ls", b"OKAY" + frame(3, b""))


@pytest.mark.parametrize("pieces", [1, 40])
def test_output_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, pieces: int) -> None:
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(PhoneError, match="more than 0 MiB in answer to one command; what runs on it repeats"):
        run("yes", b"OKAY" + pieces * frame(1, bytes(2000 // pieces)), stays=True)


def test_a_command_that_does_not_end_is_late() -> None:
    with pytest.raises(PhoneTimeoutError, match=r"did not end a command within 0\.2 s"):
        run("ls", b"OKAY" + frame(1, b"half"), timeout_s=0.2, stays=True)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("device offline", "wake it"),
        ("device unauthorized.\nThis adb server's key is not set", r"\(device unauthorized\.\): unlock it"),
        ("more than one device/emulator", "unplug one"),
        (f"device '{SERIAL}' not found", "plug it in"),
    ],
)  # fmt: skip
def test_a_server_that_refuses_is_quoted_with_advice(words: str, advice: str) -> None:
    with pytest.raises(PhoneError, match=f"{SERIAL} over the adb server cannot be used .*{advice}"):
        run("ls", refusal(words))


def test_a_server_that_dies_is_a_lost_connection() -> None:
    for reply in (b"", refusal("closed")):
        with pytest.raises(PhoneError, match=f"connection to {SERIAL} over the adb server was lost"):
            run("ls", reply)


def test_a_phone_without_the_newer_shell_gets_a_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = MarkedCommand("sh -c ls; echo '[mark]'$?", "[mark]")
    monkeypatch.setattr(MarkedCommand, "of", lambda command: marked)
    shell = (server_request(f"shell:{marked.line}"), b"OKAYa\r\nb\r\n[mark]3\r\n")
    with Peer(*ready(features="cmd"), VERSION, [TRANSPORT, shell]) as peer:
        assert connected(peer).shell("ls", timeout_s=5) == ShellResult("a\nb\n", "", 3)


def use_files(reply: bytes, use: Callable[[AdbServer], Any]) -> Any:
    """Uses the file service of a phone that answers the first request with these bytes."""
    script = [*ready(), VERSION, [TRANSPORT, (server_request("sync:"), b"OKAY"), (anything, reply)]]
    with Peer(*script) as peer:
        return use(connected(peer))


def test_a_file_comes_in_pieces() -> None:
    reply = b"DATA\3\0\0\0abcDATA\2\0\0\0deDONE\0\0\0\0"
    assert use_files(reply, lambda phone: phone.pull("/x", timeout_s=5)) == b"abcde"


def test_a_file_that_ends_in_the_middle_was_cut_off() -> None:
    with pytest.raises(PhoneError, match=r"was lost \(it ended in the middle of an answer\)"):
        use_files(b"DATA\3\0\0\0ab", lambda phone: phone.pull("/x", timeout_s=5))


def test_a_full_phone_comes_with_what_makes_room() -> None:
    words = b"write failed: No space left on device"
    reply = b"FAIL" + len(words).to_bytes(4, "little") + words
    with pytest.raises(MeasurementError, match="No space left on device; make room .*amc-tf devices --clean"):
        use_files(reply, lambda phone: phone.push(bytes(1000), "/x", timeout_s=5))


def test_a_refusal_is_read_also_where_the_connection_broke_while_sending() -> None:
    reply = b"FAIL\x09\0\0\0disk full"
    with pytest.raises(MeasurementError, match=f"The phone {SERIAL} refuses the file /x: disk full") as error:
        use_files(reply, lambda phone: phone.push(bytes(1000), "/x", timeout_s=5))
    assert not isinstance(error.value, PhoneError)


@pytest.mark.parametrize("now", [-1e9, 0.0, 1e12])
def test_a_clock_that_no_file_can_have_been_written_by_stops_no_push(monkeypatch, now):
    monkeypatch.setattr("time.time", lambda: now)
    use_files(b"OKAY\0\0\0\0", lambda phone: phone.push(bytes(1000), "/x", timeout_s=5))
