"""Every command and example of the pages that needs a phone is run, in small, on a real debug daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from amc_tf.cli import main
from amc_tf.device.benchmark_tool import find_tool
from amc_tf.device.discovery import find_phone
from tests.adbd import Daemon, ServerProcess
from tests.docs.in_small import SMALL_SEARCH, runs_elsewhere, small
from tests.markdown import PAGES, PHONE_MARK, ROOT, Command, blocks, commands, page_name
from tests.stand_in_tool import stand_in

# What one command of these pages makes, the next ones read.
CONNECTED = (ROOT / "docs" / "colab.md", ROOT / "docs" / "commands" / "bundle.md")
FIRST = ("SERIAL", "PHONE1", "192.168.1.20:5555")
SECOND = ("OTHER", "PHONE2")
ON_A_PHONE = [page for page in PAGES if any(command.needs_phone for command in commands(page))]
WITH_PYTHON = [page for page in PAGES if any(block.text.startswith(PHONE_MARK) for block in blocks(page))]

pytestmark = pytest.mark.slow


@pytest.fixture
def phone(
    adbd: Daemon,
    adb_server: ServerProcess,
    at_work: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Daemon]:
    """The only phone of an adb server, whose benchmark program was downloaded before."""
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    adb_server.adb("connect", adbd.serial)
    (at_work / "phone.json").unlink()  # of this machine; the commands make that of the phone
    program = stand_in(us_per_kb=1000.0)  # 1 ms per KiB of network
    (at_work / "benchmark_model").write_bytes(program)
    with find_phone(adbd.serial) as connected:
        find_tool(connected.info().abi, fetch=lambda url: program)
    yield adbd
    adb_server.adb("disconnect", adbd.serial)


def on(phones: list[Daemon], command: Command) -> list[str]:
    """Returns the words of a command, without "amc-tf", with the serial numbers of phones that exist."""
    serials = dict.fromkeys(FIRST, phones[0].serial) | dict.fromkeys(SECOND, phones[-1].serial)
    return [serials.get(word, word) for word in command.words[1:]]


@pytest.mark.parametrize("page", ON_A_PHONE, ids=page_name)
def test_the_commands_of_a_page_run_on_a_phone(page, phone, start_adbd, capsys):
    phones = [phone]
    for command in commands(page):
        if "--ray" in command.words:
            continue  # phones as resources of a cluster: tests/amc_tf/test_ray_trials.py
        if page not in CONNECTED and (not command.needs_phone or runs_elsewhere(command, page)):
            continue
        if len(phones) == 1 and set(SECOND) & set(command.words):
            phones.append(start_adbd())
        capsys.readouterr()
        assert main(small(*on(phones, command))) == 0, f"{' '.join(command.words)}: {capsys.readouterr().err}"
        assert not phone.tmp.joinpath("amc-tf").exists() or not any(phone.tmp.glob("amc-tf/run-*"))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_the_python_of_a_page_runs_on_a_phone(page, phone, capsys):
    for block in blocks(page):
        if block.text.startswith(PHONE_MARK):
            text = block.text.replace("SERIAL", phone.serial)
            text = text.replace("budget=amc_tf.Budget", f"{SMALL_SEARCH}budget=amc_tf.Budget")
            assert text.count(SMALL_SEARCH) == text.count("amc_tf.compress(")
            exec(compile(text, page_name(page), "exec"), {"__name__": "example"})  # noqa: S102, the page's own text
    assert "median_ms=" in capsys.readouterr().out
