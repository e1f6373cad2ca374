"""The workbench on a real debug daemon: LiteRT runs, and everything goes wrong that can with a phone."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amc_tf.device import workbench as workbench_module
from amc_tf.device.adb_direct import AdbTcp
from amc_tf.device.adb_keys import load_keys
from amc_tf.device.adb_server import AdbServer
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.benchmark_tool import find_tool
from amc_tf.device.phone import Phone
from amc_tf.device.workbench import Workbench, clean_phone
from amc_tf.errors import MeasurementError, PhoneError
from tests.adbd import Daemon, ServerProcess
from tests.stand_in_tool import stand_in_tool, write_stand_in
from tests.tflite_files import chain

SETTINGS = RunSettings(num_runs=5, min_seconds=0, warmup_seconds=0, max_seconds=5)
NETWORK = chain([8, 16])
QUICK = {"run_us": [1000, 1100]}

Start = Callable[..., Workbench]


class HastySettings(RunSettings):
    """A run that may take half a second."""

    @property
    def timeout_s(self) -> float:
        return 0.5


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    return load_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def start(keys: tuple[object, ...]) -> Iterator[Start]:
    """Makes workbenches on daemons, with options of `stand_in`; at the end none may have left a process."""
    made: list[Workbench] = []
    with contextlib.ExitStack() as stack:

        def workbench(
            daemon: Daemon,
            dialect: str = "classic",
            *,
            reconnect_s: float = 10.0,
            connect_timeout_s: float = 5.0,
            **options: object,
        ) -> Workbench:
            transport = AdbTcp(daemon.serial, keys=keys)
            phone = stack.enter_context(Phone(transport, connect_timeout_s=connect_timeout_s))
            made.append(Workbench(phone, stand_in_tool(dialect, **options), reconnect_s=reconnect_s))
            return stack.enter_context(made[-1])

        yield workbench
    assert all(nothing_runs(bench) for bench in made)


@pytest.fixture
def start_on_server(adb_server: ServerProcess) -> Iterator[Start]:
    """Makes workbenches on daemons that an adb server reaches."""
    with contextlib.ExitStack() as stack:

        def workbench(daemon: Daemon, **options: object) -> Workbench:
            phone = stack.enter_context(Phone(AdbServer(daemon.serial, port=adb_server.port)))
            stack.callback(adb_server.adb, "disconnect", daemon.serial)
            return stack.enter_context(Workbench(phone, stand_in_tool(**options)))

        yield workbench


@pytest.fixture
def clean(adbd: Daemon) -> Iterator[Daemon]:
    """The shared phone, which is found with nothing on it, and must be left with nothing but tools."""
    shutil.rmtree(adbd.tmp / "amc-tf", ignore_errors=True)  # the tools of other modules' tests
    yield adbd
    for path in adbd.tmp.glob("amc-tf/*"):
        assert path.name.startswith("benchmark_model-")


def nothing_runs(workbench: Workbench) -> bool:
    """Whether no process works for a workbench any more; one that was just killed is given time to end."""

    def is_over() -> bool:
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                lines.append(path.read_bytes())
        return not any(workbench._folder.path.encode() in line for line in lines)

    wait_for(is_over)
    return True


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def misbehave(daemon: Daemon, fault: str) -> Path:
    """Lets the next run of the tool, which is on the phone already, go wrong; it removes the file."""
    wish = daemon.tmp / "amc-tf" / "fault.json"
    wish.write_text(json.dumps({"fault": fault, "once": True}))
    os.chown(wish, 2000, 2000)
    return wish


@contextlib.contextmanager
def meanwhile(condition: Callable[[], object], action: Callable[[], object]) -> Iterator[None]:
    """Does something once a condition is met while the block works."""

    def watch() -> None:
        wait_for(condition)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def tool_runs(daemon: Daemon) -> bool:
    return any(path.stat().st_size for path in daemon.tmp.glob("amc-tf/run-*/*.pid"))


@pytest.mark.parametrize("dialect", ["classic", "compiled_model"])
def test_a_network_really_runs(dialect: str, clean: Daemon, start: Start) -> None:
    workbench = start(clean, dialect)
    run = workbench.run(NETWORK, SETTINGS, mask="1")
    assert run.result.num_runs == 5
    assert 0 < run.result.min_ms <= run.result.mean_ms <= run.result.max_ms < 100
    assert run.result.model_size_mb == pytest.approx(len(NETWORK) / 1e6)
    assert run.cores == "1"
    profile = workbench.run(NETWORK, SETTINGS, profile=True).profile
    assert [operator.kind.partition(" (")[0] for operator in profile] == [
        "Convolution", "Convolution", "Fully Connected", "Mean",
    ]  # fmt: skip
    workbench.close()
    assert [path.name for path in clean.tmp.glob("amc-tf/*")] == [f"benchmark_model-{workbench.tool.sha256}"]
    assert clean_phone(workbench.phone) > 0
    assert list(clean.tmp.iterdir()) == []


@pytest.mark.parametrize("name", ["two words; touch hacked", "$(touch hacked)", "-rf"])
def test_a_binary_of_any_name_runs(
    name: str, clean: Daemon, keys: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_stand_in(Path(name), **QUICK)
    with Phone(AdbTcp(clean.serial, keys=keys)) as phone:
        tool = find_tool(phone.info().abi, binary=name)
        with Workbench(phone, tool) as workbench:
            assert workbench.run(NETWORK, SETTINGS).result.num_runs == 5
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_network_that_is_none_fails_in_the_tools_words(clean: Daemon, start: Start) -> None:
    with pytest.raises(MeasurementError, match="not a valid Flatbuffer"):
        start(clean, **QUICK).run(b"garbage" * 100, SETTINGS)


def test_a_daemon_that_is_killed_in_the_middle_of_a_push_is_survived(clean: Daemon, start: Start) -> None:
    workbench = start(clean, **QUICK)
    workbench.place(NETWORK)
    large = NETWORK + os.urandom(20_000_000)

    def is_arriving() -> bool:
        return any(1e6 < path.stat().st_size < 1.5e7 for path in clean.tmp.glob("amc-tf/run-*/*.tflite"))

    old_pid = clean.pid
    with meanwhile(is_arriving, clean.kill):
        run = workbench.run(large, SETTINGS)
    assert clean.pid != old_pid
    assert run.result.model_size_mb == pytest.approx(len(large) / 1e6)
    assert len(list(clean.tmp.glob("amc-tf/run-*/*"))) == 1


@pytest.mark.parametrize("way", ["start", "start_on_server"])
def test_a_daemon_that_is_killed_in_the_middle_of_a_run_is_survived(
    way: str, clean: Daemon, request: pytest.FixtureRequest
) -> None:
    workbench = request.getfixturevalue(way)(clean, **QUICK)
    workbench.place(NETWORK)
    wish = misbehave(clean, "hang")
    old_pid = clean.pid
    with meanwhile(lambda: tool_runs(clean) and not wish.exists(), clean.kill):
        run = workbench.run(NETWORK, SETTINGS)
    assert clean.pid != old_pid
    assert run.result.num_runs == 5
    assert nothing_runs(workbench)
    assert [path.suffix for path in clean.tmp.glob("amc-tf/run-*/*")] == [".tflite"]


def test_a_run_that_hangs_is_killed_in_time(clean: Daemon, start: Start) -> None:
    workbench = start(clean, fault="hang", **QUICK)
    with pytest.raises(MeasurementError, match="did not end within 1 s and was killed"):
        workbench.run(NETWORK, HastySettings(max_seconds=5))
    assert nothing_runs(workbench)
    assert [path.suffix for path in clean.tmp.glob("amc-tf/run-*/*")] == [".tflite"]


@pytest.mark.slow
def test_a_phone_that_hangs_in_a_run_is_killed_when_it_goes_on(
    clean: Daemon, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbench_module, "_GRACE_S", 1.0)
    workbench = start(clean, connect_timeout_s=0.5, fault="hang", **QUICK)
    waiting = threading.Timer(4, clean.cont)
    waiting.start()
    with (
        meanwhile(lambda: tool_runs(clean), clean.stop),
        pytest.raises(MeasurementError, match="did not end within 1 s and was killed"),
    ):
        workbench.run(NETWORK, HastySettings(max_seconds=5))
    assert nothing_runs(workbench)
    assert [path.suffix for path in clean.tmp.glob("amc-tf/run-*/*")] == []


@pytest.fixture
def press_ctrl_c() -> Iterator[Callable[[], None]]:
    """Signals the main thread as a terminal does, also where the tests run in a shell's background.

    A shell has its background jobs ignore Ctrl-C, and Python leaves that as it is.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_run_leaves_nothing(
    clean: Daemon, start: Start, press_ctrl_c: Callable[[], None]
) -> None:
    workbench = start(clean, fault="hang", **QUICK)
    with (
        pytest.raises(KeyboardInterrupt),
        meanwhile(lambda: tool_runs(clean), press_ctrl_c),
        workbench,
    ):
        workbench.run(NETWORK, SETTINGS)
    assert nothing_runs(workbench)
    assert list(clean.tmp.glob("amc-tf/run-*")) == []


def test_a_full_disk_is_one_sentence_and_leaves_no_part(
    start_adbd: Callable[..., Daemon], start: Start
) -> None:
    daemon = start_adbd("--data-size", "4M")
    workbench = start(daemon, **QUICK)
    with pytest.raises(MeasurementError, match="No space left on device"):
        workbench.run(NETWORK + os.urandom(8_000_000), SETTINGS)
    assert list(daemon.tmp.glob("amc-tf/run-*/*")) == []
    assert workbench.run(NETWORK, SETTINGS).result.num_runs == 5


def test_a_tool_that_does_not_fit_is_one_sentence_and_leaves_no_part(
    start_adbd: Callable[..., Daemon], start: Start
) -> None:
    daemon = start_adbd("--data-size", "64K")
    (daemon.tmp / "photos").write_bytes(bytes(60_000))
    with pytest.raises(MeasurementError, match="No space left on device"):
        start(daemon, **QUICK).run(NETWORK, SETTINGS)
    assert list(daemon.tmp.glob("amc-tf/*/*")) == []


def test_lost_permission_is_one_sentence_and_over_when_it_is_back(clean: Daemon, start: Start) -> None:
    workbench = start(clean, **QUICK)
    workbench.place(NETWORK)
    folder = clean.tmp / "amc-tf"
    folder.chmod(0)
    try:
        with pytest.raises(MeasurementError, match="Permission denied"):
            workbench.run(NETWORK, SETTINGS)
        with pytest.raises(MeasurementError, match="Permission denied"):
            workbench.place(NETWORK + b"\0")
    finally:
        folder.chmod(0o771)
    assert workbench.run(NETWORK, SETTINGS).result.num_runs == 5


def test_a_phone_that_forgot_the_key_is_one_sentence(
    start_adbd: Callable[..., Daemon], start: Start, keys: tuple[object, ...]
) -> None:
    daemon = start_adbd("--auth")
    daemon.add_key(keys[0].GetPublicKey().decode())  # type: ignore[attr-defined]  # a signer of adb-shell
    workbench = start(daemon, reconnect_s=0.6, connect_timeout_s=0.5, **QUICK)
    workbench.place(NETWORK)
    daemon.remove_keys()
    old_pid = daemon.pid
    daemon.kill()
    daemon.wait(old_pid)
    with pytest.raises(
        PhoneError, match=r"did not come back within 0\.6 s: .* does not accept .*unauthorized"
    ):
        workbench.run(NETWORK, SETTINGS)


def test_a_phone_that_is_gone_is_one_sentence_and_close_is_quiet(
    start_adbd: Callable[..., Daemon], start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = start_adbd()
    workbench = start(daemon, reconnect_s=0.6, **QUICK)
    workbench.place(NETWORK)
    daemon.down()
    with pytest.raises(PhoneError, match=r"did not come back within 0\.6 s: .*connection refused"):
        workbench.run(NETWORK, SETTINGS)
    with caplog.at_level(logging.WARNING):
        workbench.close()
    assert "amc-tf devices --clean" in caplog.text
    daemon.up()
    assert clean_phone_again(workbench) > 0
    assert list(daemon.tmp.iterdir()) == []


def clean_phone_again(workbench: Workbench) -> int:
    """Cleans a phone that is back."""
    workbench.phone.connect()
    return clean_phone(workbench.phone)
