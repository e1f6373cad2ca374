"""The workbench on a phone whose shell is this machine's: what it asks of it, and what it leaves there."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from amc_tf.device import phone_scripts
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.device.phone import Phone
from amc_tf.device.phone_folder import ROOT
from amc_tf.device.phone_scripts import RunOutput
from amc_tf.device.transport import ShellResult
from amc_tf.device.workbench import Workbench, clean_phone
from amc_tf.errors import MeasurementError, PhoneError, PhoneTimeoutError, SettingsError
from tests.stand_in_tool import stand_in_tool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the phone's scripts read Linux' /proc")

NETWORK = b"\x1c\0\0\0TFL3 one"
OTHER = b"\x1c\0\0\0TFL3 another"
NAME = f"{hashlib.sha256(NETWORK).hexdigest()}.tflite"
SETTINGS = RunSettings(num_runs=4, min_seconds=0, warmup_seconds=0, max_seconds=5)
FIRST_RUN = "connect, prepare, push benchmark_model, hash, install, push NETWORK, hash, run"
CABLE = "The cable was pulled."
SCRIPTS = {
    phone_scripts.PREPARE: "prepare",
    phone_scripts.HASH: "hash",
    phone_scripts.INSTALL: "install",
    phone_scripts.REMOVE_FILE: "remove file",
    phone_scripts.REMOVE_FOLDER: "remove folder",
    phone_scripts.REMOVE_ALL: "remove all",
}

Do = Callable[[], Any]


class HastySettings(RunSettings):
    """A run that may take half a second."""

    @property
    def timeout_s(self) -> float:
        return 0.5


class LocalTransport:
    """A phone whose shell is this machine's, and whose /data/local/tmp is a folder here.

    Attributes:
        calls: What was asked of it, in order.
        faults: By name of a call, what happens in its place at the next times: functions that are handed the
            call itself and may make it.
        processes: What was started and not waited for.
        path: Where its shell finds programs.
    """

    serial = "; touch hacked"
    name = "this machine"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.commands: list[str] = []
        self.faults: dict[str, list[Callable[[Do], Any]]] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        self.path = os.environ["PATH"]
        self.is_open = False

    @property
    def files(self) -> set[str]:
        """Everything that lies in its /data/local/tmp/amc-tf, without the names of the sessions."""
        top = self.root / "amc-tf"
        found = [path.relative_to(top) for path in top.rglob("*") if path.is_file()]
        return {path.name for path in found}

    def connect(self, *, timeout_s: float) -> None:
        if not self.is_open:
            self._do("connect", lambda: setattr(self, "is_open", True))

    def shell(self, command: str, *, timeout_s: float) -> ShellResult:
        self.commands.append(command)
        name = next((name for script, name in SCRIPTS.items() if command.endswith(script)), "run")
        return self._do(name, lambda: self._shell(command))

    def push(self, content: bytes, path: str, *, timeout_s: float) -> None:
        name = path.rpartition("/")[2].replace(NAME, "NETWORK")
        self._do(f"push {name}", lambda: self.local(path).write_bytes(content))

    def pull(self, path: str, *, timeout_s: float) -> bytes:
        return self._do("pull", lambda: self.local(path).read_bytes())

    def close(self) -> None:
        self.is_open = False

    def start(self, command: str) -> None:
        """Runs a command and does not wait for it, as when the connection ends first."""
        self.processes.append(subprocess.Popen(**self._process(command)))

    def local(self, path: str) -> Path:
        return Path(path.replace("/data/local/tmp", str(self.root)))

    def _shell(self, command: str) -> ShellResult:
        done = subprocess.run(**self._process(command), capture_output=True, check=False, timeout=10)
        exit_code = done.returncode if done.returncode >= 0 else 128 - done.returncode
        return ShellResult(done.stdout.decode(errors="replace"), done.stderr.decode(), exit_code)

    def _process(self, command: str) -> dict[str, Any]:
        shell = shutil.which("sh")
        words = [shell, "-c", command.replace("/data/local/tmp", str(self.root))]
        return {"args": words, "stdin": subprocess.DEVNULL, "env": {"PATH": self.path}}

    def _do(self, name: str, call: Do) -> Any:
        if name != "connect" and not self.is_open:
            raise PhoneError("It is not connected.")
        self.calls.append(name)
        faults = self.faults.get(name)
        try:
            return faults.pop(0)(call) if faults else call()
        except PhoneError:
            self.is_open = False
            raise

    def take_calls(self) -> str:
        """Returns the calls since the last time."""
        taken, self.calls = ", ".join(self.calls), []
        return taken


class Bench:
    """A workbench on such a phone, and a clock that stands still between pauses.

    Attributes:
        pauses: How long it slept, in seconds.
    """

    def __init__(self, root: Path, tool: BenchmarkTool, **options: Any) -> None:
        self.transport = LocalTransport(root)
        self.pauses: list[float] = []
        self.workbench = Workbench(
            Phone(self.transport),
            tool,
            sleep=self.pauses.append,
            clock=lambda: sum(self.pauses),
            **options,
        )

    def fails(self, *names: str) -> None:
        """Lets the next call of each name fail."""

        def drop_out(call: Do) -> None:
            raise PhoneError(CABLE)

        for name in names:
            self.transport.faults.setdefault(name, []).append(drop_out)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes workbenches on one phone; what they left running ends with the test."""
    made: list[Bench] = []

    def bench(tool: BenchmarkTool | None = None, **options: Any) -> Bench:
        made.append(Bench(tmp_path, tool or stand_in_tool(run_us=[1000, 1100, 1300, 1200]), **options))
        return made[-1]

    yield bench
    for process in [process for bench in made for process in bench.transport.processes]:
        process.kill()
        process.wait()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    return make()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def leave_running(bench: Bench) -> Callable[[Do], None]:
    """A fault of a run: the tool is running when the connection ends."""

    def drop_out(call: Do) -> None:
        command = bench.transport.commands[-1]
        bench.transport.start(command)
        wait_for(lambda: is_running(bench), "the tool did not start")
        raise PhoneError(CABLE)

    return drop_out


def is_running(bench: Bench) -> bool:
    """Tells whether the process that left its number has become the tool."""
    numbers = [path.read_text().strip() for path in bench.transport.root.glob("amc-tf/run-*/*.pid")]
    words = [Path("/proc", number, "cmdline").read_bytes() for number in numbers if number]
    return any(b"--graph=" in line and b"exec" not in line for line in words)


def test_a_run_gives_the_numbers_of_the_result_file(bench: Bench) -> None:
    run = bench.workbench.run(NETWORK, SETTINGS)
    assert (run.result.num_runs, run.result.min_ms, run.result.max_ms) == (4, 1.0, pytest.approx(1.3))
    assert run.result.mean_ms == pytest.approx(1.15)
    assert run.result.model_size_mb == pytest.approx(len(NETWORK) / 1e6)
    assert run.profile == ()
    assert run.output.startswith("INFO: STARTING!\n")
    assert "amc-tf/run-" in run.output


def test_a_tool_that_writes_no_result_file_is_read_by_its_text(make: Callable[..., Bench]) -> None:
    tool = stand_in_tool(run_us=[1000, 1100], without=["result_file_path"], percentiles=False)
    result = make(tool).workbench.run(NETWORK, SETTINGS).result
    assert (result.mean_ms, result.median_ms) == (pytest.approx(1.05), None)


def test_the_compiled_model_tool_runs_too(make: Callable[..., Bench]) -> None:
    run = make(stand_in_tool("compiled_model", run_us=[1000, 1100])).workbench.run(NETWORK, SETTINGS)
    assert run.result.mean_ms == pytest.approx(1.05)
    assert "BENCHMARK RESULTS" in run.output


@pytest.mark.parametrize("dialect", ["classic", "compiled_model"])
def test_a_profile_is_read_on_request(dialect: str, make: Callable[..., Bench]) -> None:
    run = make(stand_in_tool(dialect, us_per_kb=1e5)).workbench.run(NETWORK, SETTINGS, profile=True)
    assert [operator.share for operator in run.profile] == [1.0]


def test_a_run_is_one_round_trip_once_everything_is_in_place(bench: Bench) -> None:
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.take_calls() == FIRST_RUN
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.take_calls() == "run"


def test_the_tool_stays_for_the_next_session_and_is_checked_there(make: Callable[..., Bench]) -> None:
    with (first := make()).workbench as workbench:
        workbench.place(NETWORK)
    assert first.transport.files == {f"benchmark_model-{workbench.tool.sha256}"}
    second = make()
    second.workbench.run(NETWORK, SETTINGS)
    assert second.transport.take_calls() == "connect, prepare, push NETWORK, hash, run"


def test_a_tool_that_was_changed_on_the_phone_is_replaced(make: Callable[..., Bench]) -> None:
    with (first := make()).workbench as workbench:
        workbench.place(NETWORK)
    [binary] = (first.transport.root / "amc-tf").glob("benchmark_model-*")
    binary.write_text("#!/bin/sh\necho stale\n")
    second = make()
    assert second.workbench.run(NETWORK, SETTINGS).result.num_runs == 4
    assert second.transport.take_calls() == FIRST_RUN
    assert binary.read_bytes() == workbench.tool.content


def test_a_network_is_pushed_once_and_removed_once(bench: Bench) -> None:
    bench.workbench.place(NETWORK)
    bench.transport.take_calls()
    bench.workbench.place(NETWORK)
    bench.workbench.place(OTHER)
    bench.workbench.remove(NETWORK)
    bench.workbench.remove(NETWORK)
    assert bench.transport.take_calls().count("push") == 1
    assert NAME not in bench.transport.files
    assert len(bench.transport.files) == 2
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.take_calls() == "push NETWORK, hash, run"


def test_a_run_leaves_the_network_only(bench: Bench) -> None:
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.files == {NAME, f"benchmark_model-{bench.workbench.tool.sha256}"}


def test_close_leaves_the_tool_only_and_may_be_called_again(bench: Bench) -> None:
    bench.workbench.close()
    assert bench.transport.take_calls() == ""
    bench.workbench.run(NETWORK, SETTINGS)
    bench.workbench.close()
    assert bench.transport.files == {f"benchmark_model-{bench.workbench.tool.sha256}"}
    assert list((bench.transport.root / "amc-tf").glob("run-*")) == []
    bench.transport.take_calls()
    bench.workbench.close()
    assert bench.transport.take_calls() == ""
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4


def test_cleaning_removes_everything_and_tells_how_much(bench: Bench) -> None:
    bench.transport.connect(timeout_s=1)
    assert clean_phone(bench.workbench.phone) == 0
    bench.workbench.place(NETWORK + bytes(300_000))
    freed = clean_phone(bench.workbench.phone)
    assert 300_000 < freed < 500_000
    assert list(bench.transport.root.iterdir()) == []


def test_cleaning_frees_the_clocks_that_a_killed_session_has_fixed(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bin")
    (folder / "cmd").write_text(f'#!/bin/sh\necho "$@" >>"{folder}/asked"\necho 7; exit 255\n')
    (folder / "cmd").chmod(0o755)
    bench.transport.path = f"{folder}:{bench.transport.path}"
    bench.transport.connect(timeout_s=1)
    assert clean_phone(bench.workbench.phone) == 0
    assert (folder / "asked").read_text() == "power set-fixed-performance-mode-enabled false\n"


def test_cleaning_kills_what_runs(make: Callable[..., Bench]) -> None:
    bench = make(stand_in_tool(run_us=[1000], fault="hang"), reconnect_s=0)
    bench.transport.faults["run"] = [leave_running(bench)]
    with pytest.raises(PhoneError):
        bench.workbench.run(NETWORK, SETTINGS)
    bench.workbench.phone.connect()
    clean_phone(bench.workbench.phone)
    assert bench.transport.processes[0].wait(timeout=5) is not None


def test_a_phone_that_was_cleaned_in_between_is_one_error_and_then_works(bench: Bench) -> None:
    bench.workbench.run(NETWORK, SETTINGS)
    clean_phone(bench.workbench.phone)
    with pytest.raises(MeasurementError, match=r"was not started on the phone .*: .*\.pid"):
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4


def test_nothing_of_serial_origin_or_network_reaches_the_shell(make: Callable[..., Bench]) -> None:
    content = stand_in_tool(run_us=[1000, 1100]).content
    bench = make(BenchmarkTool.from_content(content, "$(touch hacked) 'it' -rf"))
    bench.workbench.run(NETWORK + b"; touch hacked", SETTINGS)
    bench.workbench.close()
    clean_phone(Phone(bench.transport))
    assert not [command for command in bench.transport.commands if "hacked" in command]


@pytest.mark.parametrize("mask", ["1", "01", "0x1", "00000001"])
def test_the_tool_runs_on_the_cores_of_a_mask(mask: str, bench: Bench) -> None:
    assert bench.workbench.run(NETWORK, SETTINGS, mask=mask).cores == "1"


def test_without_a_mask_the_cores_are_those_of_the_shell(bench: Bench) -> None:
    allowed = sum(1 << core for core in os.sched_getaffinity(0))
    assert bench.workbench.run(NETWORK, SETTINGS).cores == f"{allowed:x}"


def test_a_mask_that_the_phone_refuses_is_seen_in_the_cores(bench: Bench) -> None:
    allowed = sum(1 << core for core in os.sched_getaffinity(0))
    assert bench.workbench.run(NETWORK, SETTINGS, mask="f" + "0" * 12).cores == f"{allowed:x}"


def test_where_taskset_fails_the_task_profile_is_tried(bench: Bench, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("bin")
    asked = folder / "asked"
    (folder / "settaskprofile").write_text(f'#!/bin/sh\necho "$2" >"{asked}"\n')
    (folder / "settaskprofile").chmod(0o755)
    bench.transport.path = f"{folder}:{bench.transport.path}"
    allowed = sum(1 << core for core in os.sched_getaffinity(0))
    run = bench.workbench.run(NETWORK, SETTINGS, mask="f" + "0" * 12)
    assert run.cores == f"{allowed:x} MaxPerformance"
    assert asked.read_text() == "MaxPerformance\n"


@pytest.mark.parametrize("mask", ["; reboot", "-1", "0", "", "f_0", "big"])
def test_a_mask_that_is_none_is_refused_before_anything_is_sent(mask: str, bench: Bench) -> None:
    with pytest.raises(SettingsError, match=f"hexadecimal number such as 'f0', but got '{mask}'"):
        bench.workbench.run(NETWORK, SETTINGS, mask=mask)
    assert bench.transport.calls == []


def test_a_phone_of_android_5_lacks_four_programs_and_works(
    make: Callable[..., Bench], tmp_path_factory: Any
) -> None:
    folder = tmp_path_factory.mktemp("bin")
    for name in "sh cat tr grep sed rm mkdir chmod mv du".split():
        (folder / name).symlink_to(shutil.which(name) or "")
    for _ in range(2):
        bench = make()
        bench.transport.path = str(folder)
        run = bench.workbench.run(NETWORK, SETTINGS, mask="1")
        assert run.result.mean_ms == pytest.approx(1.15)
        assert bench.transport.take_calls() == FIRST_RUN  # unverified, the tool is pushed again
        bench.workbench.close()


def test_a_file_that_arrives_damaged_is_removed(bench: Bench) -> None:
    def damage(call: Do) -> None:
        call()
        [path] = bench.transport.root.glob(f"amc-tf/run-*/{NAME}")
        path.write_bytes(NETWORK[:-1])

    bench.transport.faults["push NETWORK"] = [damage]
    with pytest.raises(MeasurementError, match="arrived damaged on the phone"):
        bench.workbench.run(NETWORK, SETTINGS)
    assert NAME not in bench.transport.files
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4


def test_a_file_that_is_refused_leaves_no_part(bench: Bench) -> None:
    def refuse(call: Do) -> None:
        call()
        raise MeasurementError("The phone refuses the file: No space left on device.")

    bench.transport.faults["push NETWORK"] = [refuse]
    with pytest.raises(MeasurementError, match="No space left on device"):
        bench.workbench.place(NETWORK)
    assert bench.transport.take_calls().endswith("push NETWORK, remove file")
    assert NAME not in bench.transport.files


@pytest.mark.parametrize("call", FIRST_RUN.split(", "))
def test_a_phone_that_drops_out_anywhere_is_reconnected_and_the_step_repeated(
    call: str, bench: Bench
) -> None:
    bench.fails(call)
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4
    assert bench.pauses == [0.5]
    bench.workbench.close()
    assert bench.transport.files == {f"benchmark_model-{bench.workbench.tool.sha256}"}


def test_what_was_left_running_is_killed_before_the_step_is_repeated(make: Callable[..., Bench]) -> None:
    bench = make(stand_in_tool(run_us=[1000, 1100], fault="hang"))
    bench.transport.faults["run"] = [leave_running(bench), lambda call: ShellResult("", "", 0)]
    with pytest.raises(MeasurementError, match="was not started"):
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.processes[0].wait(timeout=5) is not None
    assert NAME in bench.transport.files
    assert [name for name in bench.transport.files if name.endswith((".pid", ".pb"))] == []


def test_what_a_killed_session_left_goes_with_the_next_one_a_day_later(bench: Bench) -> None:
    old, running = (bench.transport.root / "amc-tf" / name for name in ("run-old", "run-running"))
    for folder in (old, running):
        folder.mkdir(parents=True)
        (folder / "network.tflite").write_bytes(NETWORK)
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    bench.workbench.place(OTHER)
    assert not old.exists()
    assert (running / "network.tflite").exists()


def test_another_process_with_the_number_of_an_old_run_is_not_killed(bench: Bench) -> None:
    bench.workbench.place(NETWORK)
    innocent = subprocess.Popen(["sleep", "10"])
    try:
        [folder] = bench.transport.root.glob("amc-tf/run-*")
        (folder / "old.pid").write_text(str(innocent.pid))
        bench.workbench.close()
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_the_pauses_grow_until_the_time_is_up(make: Callable[..., Bench]) -> None:
    bench = make(reconnect_s=20)
    bench.workbench.place(NETWORK)
    bench.fails("run", *["connect"] * 9)
    with pytest.raises(PhoneError) as caught:
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.pauses == [0.5, 1, 2, 4, 4, 4, 4]
    assert str(caught.value) == (
        f"The phone {bench.transport.serial} dropped out and did not come back within 20 s: {CABLE}"
    )


def test_a_phone_that_is_back_later_is_used_again(make: Callable[..., Bench]) -> None:
    bench = make(reconnect_s=3)
    bench.fails("run", *["connect"] * 2)
    with pytest.raises(PhoneError):
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4


def test_a_phone_that_drops_out_twice_is_given_up(bench: Bench) -> None:
    bench.fails("run", "run")
    with pytest.raises(PhoneError, match=CABLE):
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.transport.calls.count("run") == 2


def test_a_run_that_does_not_answer_in_time_is_killed_and_not_repeated(make: Callable[..., Bench]) -> None:
    bench = make(stand_in_tool(run_us=[1000], fault="hang"))

    def no_answer(call: Do) -> None:
        with pytest.raises(PhoneError):
            leave_running(bench)(call)
        raise PhoneTimeoutError("It did not answer.")

    bench.transport.faults["run"] = [no_answer]
    with pytest.raises(MeasurementError, match="did not end within 70 s and was killed") as caught:
        bench.workbench.run(NETWORK, SETTINGS)
    assert not isinstance(caught.value, PhoneError)
    assert bench.transport.processes[0].wait(timeout=5) is not None
    assert bench.transport.calls.count("run") == 1


def test_a_run_that_hangs_is_killed_by_the_phone_itself(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("signal.SIGKILL")  # as on Windows
    bench = make(stand_in_tool(run_us=[1000], fault="hang"))
    bench.workbench._clock = time.monotonic
    with pytest.raises(MeasurementError, match="did not end within 1 s and was killed; allow it more time"):
        bench.workbench.run(NETWORK, HastySettings(max_seconds=5))
    assert bench.pauses == []
    assert not [name for name in bench.transport.files if name.endswith(".pid")]


def test_ctrl_c_in_a_run_leaves_nothing(make: Callable[..., Bench]) -> None:
    bench = make(stand_in_tool(run_us=[1000], fault="hang"))

    def interrupt(call: Do) -> None:
        with pytest.raises(PhoneError):
            leave_running(bench)(call)
        raise KeyboardInterrupt

    bench.transport.faults["run"] = [interrupt]
    with pytest.raises(KeyboardInterrupt), bench.workbench as workbench:
        workbench.run(NETWORK, SETTINGS)
    assert bench.transport.processes[0].wait(timeout=5) is not None
    assert bench.transport.files == {f"benchmark_model-{workbench.tool.sha256}"}


def test_every_drop_out_can_be_counted(bench: Bench) -> None:
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.workbench.num_preparations == 1
    bench.fails("run")
    bench.workbench.run(NETWORK, SETTINGS)
    assert bench.workbench.num_preparations == 2


def test_close_reconnects_to_a_phone_that_dropped_out(bench: Bench) -> None:
    bench.workbench.place(NETWORK)
    bench.fails("remove folder")
    bench.workbench.close()
    assert bench.pauses == [0.5]
    assert bench.transport.files == {f"benchmark_model-{bench.workbench.tool.sha256}"}


def test_close_on_a_phone_that_is_gone_is_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.workbench.place(NETWORK)
    bench.fails("remove folder", *["connect"] * 9)
    with caplog.at_level(logging.WARNING):
        bench.workbench.close()
    assert sum(bench.pauses) <= 5
    assert "stays on the phone until `amc-tf devices --clean`" in caplog.text
    assert CABLE in caplog.text


def test_removing_from_a_phone_that_is_gone_is_put_off(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.workbench.place(NETWORK)
    bench.fails("remove file")
    bench.workbench.remove(NETWORK)
    assert "is removed when the phone is back" in caplog.text
    bench.workbench.place(OTHER)
    assert NAME not in bench.transport.files


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("partial_delegate", "ran only a part of the network on the GPU"),
        ("no_delegate", "did not run the network on the GPU: Failed to apply GPU delegate"),
    ],
)
def test_a_delegate_that_does_not_take_the_network_is_an_error(
    fault: str, words: str, make: Callable[..., Bench]
) -> None:
    settings = dataclasses.replace(SETTINGS, delegate="gpu")
    assert make(stand_in_tool(run_us=[1000])).workbench.run(NETWORK, settings).result.num_runs == 4
    with pytest.raises(MeasurementError, match=words):
        make(stand_in_tool(run_us=[1000], fault=fault)).workbench.run(NETWORK, settings)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "SIGSEGV"),
        ("exit", "Failed to run inference"),
        ("silent", "gave no result"),
        ("garbage", "gave no result"),
        ("cut", "gave no result; its last words: INFO: count=4"),
        ("count_zero", "count=0"),
        ("cut_result", "cut off"),
    ],
)
def test_a_tool_that_misbehaves_is_an_error_and_leaves_the_workbench_usable(
    fault: str, words: str, make: Callable[..., Bench]
) -> None:
    bench = make(stand_in_tool(run_us=[1000, 1100]))
    bench.workbench.place(NETWORK)
    wish = bench.transport.root / "amc-tf" / "fault.json"
    wish.write_text(f'{{"fault": "{fault}", "once": true}}')
    with pytest.raises(MeasurementError, match=words):
        bench.workbench.run(NETWORK, SETTINGS)
    assert bench.workbench.run(NETWORK, SETTINGS).result.num_runs == 4
    assert not [name for name in bench.transport.files if name.endswith((".pid", ".pb", ".json"))]
    assert bench.pauses == []


def test_settings_that_the_tool_lacks_are_refused_before_anything_is_pushed(
    make: Callable[..., Bench],
) -> None:
    bench = make(stand_in_tool("compiled_model", run_us=[1000]))
    with pytest.raises(MeasurementError, match="NNAPI"):
        bench.workbench.run(NETWORK, RunSettings(delegate="nnapi"))
    assert "push NETWORK" not in bench.transport.calls


def test_a_phone_that_gives_no_room_is_an_error_with_its_words(bench: Bench) -> None:
    (bench.transport.root / "amc-tf").write_text("a file, no folder")
    with pytest.raises(
        MeasurementError, match="refuses to keep files for the benchmark: .*[Nn]ot a directory"
    ):
        bench.workbench.place(NETWORK)


def test_output_is_taken_apart() -> None:
    proto = base64.b64encode(b"proto").decode()
    text = f"t0 cores f0 MaxPerformance\nINFO: hi\n\nt0 exit 3\nt0 result {proto[:4]} {proto[4:]}\nrm: no\n"
    assert RunOutput.parse(text, "t0") == RunOutput("INFO: hi\n", "f0 MaxPerformance", 3, b"proto")
    assert RunOutput.parse("t0 cores \nhi\nt0 exit 0\n", "t0") == RunOutput("hi", "", 0, None)
    assert RunOutput.parse("t0 cores f\nINFO: cou", "t0") == RunOutput("INFO: cou", "f", None, None)
    assert RunOutput.parse("t0 cores f\nhi\nt0 exit 1", "t0").exit_code is None
    assert RunOutput.parse("t0 cores f\nhi\nt0 exit 99999\n", "t0").exit_code is None
    assert RunOutput.parse("sh: no\n\nt0 exit 1\n", "t0") == RunOutput("sh: no\n", None, None, None)
    for encoded in ("cHJ", "größe"):
        with pytest.raises(MeasurementError, match="result file arrived damaged"):
            RunOutput.parse(f"t0 cores f\nhi\nt0 exit 0\nt0 result {encoded}\n", "t0")


@hypothesis.given(
    start=st.integers(0, 60),
    length=st.integers(0, 60),
    middle=st.one_of(st.text(), st.from_regex(r"\d{1,9}\n")),
)
def test_damaged_output_raises_nothing_but_our_error(start: int, length: int, middle: str) -> None:
    text = "t0 cores f0\nINFO: hi\n\nt0 exit 3\nt0 result cHJv dG8=\n"
    with contextlib.suppress(MeasurementError):
        RunOutput.parse(text[:start] + middle + text[start + length :], "t0")


def test_output_that_was_cut_off_is_an_error(bench: Bench) -> None:
    def cut(call: Do) -> ShellResult:
        text = call().stdout
        return ShellResult(text[: text.index("INFO: count=")], "", 0)

    bench.transport.faults["run"] = [cut]
    with pytest.raises(MeasurementError, match="was cut off; its last words: INFO: Running benchmark"):
        bench.workbench.run(NETWORK, SETTINGS)


def test_the_folder_is_private_to_the_session(make: Callable[..., Bench]) -> None:
    folders = {make().workbench._folder.path for _ in range(2)}
    assert len(folders) == 2
    assert all(folder.startswith(f"{ROOT}/run-") for folder in folders)


def test_any_step_survives_a_drop_out(bench: Bench) -> None:
    bench.fails("run")
    assert bench.workbench.survive(lambda: bench.workbench.phone.shell("echo", "hi")).stdout == "hi\n"
    assert bench.pauses == [0.5]
