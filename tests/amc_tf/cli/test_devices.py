"""What `amc-tf devices` prints of phones that are ready, of those that are not, and of none."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from amc_tf.cli import main
from amc_tf.device import discovery
from amc_tf.device.discovery import ListedPhone
from amc_tf.device.phone import Phone
from amc_tf.errors import PhoneError
from tests.adbd import Daemon
from tests.fake_phone import FakePhoneTransport

READY = ListedPhone("A1", "ready", "server")
LOCKED = ListedPhone("B2", "unauthorized", "server", "unlock it and accept the question")

Shelf = Callable[..., None]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Sets which phones are listed, and what a connection to each leads to."""

    def make(*listed: ListedPhone, transports: tuple[FakePhoneTransport, ...] = ()) -> None:
        by_serial = {transport.serial: transport for transport in transports}

        def find(serial: str, *, transport: str) -> Phone:
            if serial not in by_serial:
                raise PhoneError(f"Nothing listens on {serial} (connection refused).")
            return Phone(by_serial[serial])

        monkeypatch.setattr(discovery, "list_phones", lambda transport: listed)
        monkeypatch.setattr(discovery, "find_phone", find)
        monkeypatch.setattr(discovery, "best_transport", lambda serial: "tcp")
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)

    return make


def test_a_phone_is_a_line_of_facts(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf(READY, transports=(FakePhoneTransport(),))
    assert main(["devices"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == "serial model SoC Android ABI cores temperature battery state".split()
    facts = "A1 Google Pixel 8 Google Tensor G3 14 arm64-v8a 4×1.70 + 4×2.37 + 1×2.91 GHz 28.5 °C 88 % ready"
    assert line.split() == facts.split()


def test_a_phone_that_throttles_says_so(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    transport = FakePhoneTransport()
    transport.thermal_status = 3
    shelf(READY, transports=(transport,))
    main(["devices"])
    assert capsys.readouterr().out.rstrip().endswith("throttling (3)")


def test_a_phone_that_is_not_ready_has_a_line_with_what_to_do(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf(READY, LOCKED, transports=(FakePhoneTransport(),))
    assert main(["devices"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[2].split() == ["B2", "unauthorized"]
    assert captured.err == "B2: unlock it and accept the question.\n"


def test_a_phone_that_turns_out_to_be_busy_says_so(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    transport = FakePhoneTransport()

    def refuse(_: object) -> str:
        raise PhoneError("The phone A1 on USB cannot be opened (LIBUSB_ERROR_BUSY): run `adb kill-server`.")

    transport.on("getprop", refuse)
    shelf(READY, transports=(transport,))
    assert main(["devices"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split() == ["A1", "busy"]
    assert captured.err.count("A1") == 1 and "adb kill-server" in captured.err


def test_no_phone_is_a_failure_with_advice(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf()
    assert main(["devices", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("amc-tf: No phone was found: switch on USB debugging")


def test_a_phone_that_was_asked_for_and_cannot_be_used_is_a_failure(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf(READY, transports=(FakePhoneTransport(),))
    assert main(["devices", "-s", "A1", "-s", "10.0.0.5:5555"]) == 1
    captured = capsys.readouterr()
    assert [line.split()[-1] for line in captured.out.splitlines()[1:]] == ["ready", "unreachable"]
    assert captured.err == "Nothing listens on 10.0.0.5:5555 (connection refused).\n"


@pytest.mark.parametrize(("serial", "code"), [("A1", 0), ("10.0.0.5:5555", 1)])
def test_the_phone_that_the_environment_names_is_shown_once(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, serial: str, code: int
) -> None:
    shelf(READY, transports=(FakePhoneTransport(),))
    monkeypatch.setenv("ANDROID_SERIAL", serial)
    assert main(["devices", "--json"]) == code
    phones = json.loads(capsys.readouterr().out)["phones"]
    assert [phone["serial"] for phone in phones] == list(dict.fromkeys(["A1", serial]))
    assert [phone["transport"] for phone in phones] == ["server", "tcp"][: len(phones)]


def test_json_is_one_document(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf(READY, LOCKED, transports=(FakePhoneTransport(),))
    assert main(["devices", "--json"]) == 0
    captured = capsys.readouterr()
    ready, locked = json.loads(captured.out)["phones"]
    assert (ready["serial"], ready["state"], ready["transport"]) == ("A1", "ready", "server")
    assert (ready["info"]["model"], ready["info"]["cores"][8]) == (
        "Pixel 8",
        {"index": 8, "max_khz": 2_914_000},
    )
    assert ready["conditions"] == {
        "battery_c": 28.5, "battery_percent": 88, "thermal_status": 0, "screen_on": True, "charging": True
    }  # fmt: skip
    assert (locked["state"], locked["info"], locked["conditions"]) == ("unauthorized", None, None)
    assert locked["advice"] == "unlock it and accept the question"
    assert captured.err == ""


def test_what_a_phone_calls_itself_cannot_write_on_the_terminal(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    transport = FakePhoneTransport()
    transport.properties["ro.product.model"] = "Pixel\x1b[2J\x07 8"
    shelf(READY, transports=(transport,))
    main(["devices"])
    assert "\x1b" not in capsys.readouterr().out


def test_a_real_phone_is_shown_and_cleaned(adbd: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adbd.tmp / "amc-tf"
    with discovery.find_phone(adbd.serial, transport="tcp") as phone:
        phone.shell("mkdir", "-p", "/data/local/tmp/amc-tf/run-1")
        phone.push(bytes(2_000_000), "/data/local/tmp/amc-tf/benchmark_model-00")
    assert folder.exists()
    words = ["devices", "-s", adbd.serial, "--transport", "tcp", "--json"]
    assert main([*words, "--clean"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["phones"]
    assert (shown["info"]["model"], shown["conditions"]["battery_c"]) == ("Loopback Phone", 28.5)
    assert 2_000_000 <= shown["freed_bytes"] < 2_100_000
    assert not folder.exists()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["phones"][0]["freed_bytes"] is None


def test_the_verb_needs_neither_tensorflow_nor_a_runtime() -> None:
    code = (
        "import sys\n"
        "from amc_tf.cli import main\n"
        "main(['devices', '-s', '127.0.0.1:1', '--transport', 'tcp'])\n"
        "heavy = {'tensorflow', 'keras', 'scipy', 'requests', 'ai_edge_litert', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
