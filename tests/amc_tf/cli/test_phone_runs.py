"""Whole commands with a phone: a real debug daemon, and a stand-in for the benchmark tool."""

import contextlib
import functools
import hashlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amc_tf.cli import console
from amc_tf.device import phone_meter
from amc_tf.device.adb_keys import load_keys
from amc_tf.device.phone_rounds import PhoneTiming
from amc_tf.device.table import LatencyTable
from amc_tf.device.workbench import Workbench
from amc_tf.progress import Progress
from tests.stand_in_tool import write_stand_in

ROOT = Path(__file__).parents[3]
SHORT = "--search-images=100 --calibration-images=64 --rounds=1 --run-seconds=0.05".split()
TINY = ["tiny.keras", "--data=data.npz", "--round-to=4", "--budget=latency=0.5", "--episodes=6", *SHORT]
TCP = ["--transport=tcp"]


@pytest.fixture
def scripted_tool(tmp_path):
    """A tool that prints 0.1 ms per KiB of network, always the same for the same network."""
    return f"--benchmark-binary={write_stand_in(tmp_path / 'benchmark_model', us_per_kb=100.0)}"


@pytest.fixture
def impatient(monkeypatch):
    """Phones that drop out are waited for a second."""
    monkeypatch.setattr(Workbench, "__init__", functools.partialmethod(Workbench.__init__, reconnect_s=1.0))


@pytest.fixture
def hasty(monkeypatch):
    """A phone that is too hot is looked at all the time, and soon given up."""
    quick = functools.partialmethod(PhoneTiming.__init__, poll_s=0.01, cool_down_s=0.3)
    monkeypatch.setattr(PhoneTiming, "__init__", quick)


def episodes_of(run: Path):
    """Returns the episodes without their seconds."""
    records = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def measurements_of(run: Path):
    with sqlite3.connect(run / "checkpoint" / "measurements.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM measurements").fetchall()


def files_on(daemon):
    return [path.name.partition("-")[0] for path in daemon.tmp.rglob("*") if path.is_file()]


def processes_of(folder):
    """Returns the processes of this machine, and of the phones on it, whose words name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if folder.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def heat(daemon, tenths_c):
    path = daemon.phone / "dumpsys" / "battery"
    path.write_text(re.sub(r"temperature: \d+", f"temperature: {tenths_c}", path.read_text()))


def wait_for(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def at_episode(monkeypatch, number, action):
    """Does something once, when an episode has ended."""

    class Acting(Progress):
        def episode(self, record, total):
            nonlocal action
            if record["episode"] == number:
                done, action = action, lambda: None
                done()

    monkeypatch.setattr(console, "make_progress", lambda *, quiet: Acting())


@pytest.mark.slow
def test_every_network_is_timed_by_litert_over_adb_and_the_plan_is_within_budget(amc, clean_adbd, tmp_path):
    binary, run = write_stand_in(tmp_path / "benchmark_model"), tmp_path / "run"
    words = ["demo", "--data=digits", "--budget=latency=0.5", "--episodes=3", "--finetune-epochs=0", *SHORT]
    words += [f"--benchmark-binary={binary}", "-s", clean_adbd.serial, "--out", run, "--json"]
    outcome = amc("compress", *words)
    assert outcome.code == 0, outcome.err
    summary, episodes = json.loads(outcome.out), episodes_of(run)
    assert [episode["latency_ms"] > 0 for episode in episodes] == [True] * 3
    # Measured anew, on a machine that may be busy: the limit of the search is 0.5.
    assert summary["pruned"]["latency_ms"]["ratio"] < 0.65
    rows = measurements_of(run)
    assert len(rows) >= 4 + 6  # the original and the networks of the first bounds, those of the summary
    for row in rows[1:]:
        assert len(json.loads(row["raw_ms"])) == len(json.loads(row["reference_raw_ms"])) >= 2
        assert json.loads(row["device"])["serial"] == clean_adbd.serial
        conditions = json.loads(row["conditions"])
        assert conditions["binary_sha256"] == hashlib.sha256(binary.read_bytes()).hexdigest()
        assert conditions["before"]["battery_c"] == conditions["after"]["battery_c"] == 28.5
    assert min(row["paired_ratio"] for row in rows[1:]) <= 0.5
    operators = summary["operators"]["rows"]
    assert operators[0]["name"].startswith("1 conv 3×3")
    assert sum(row["after_ms"] for row in operators) < sum(row["before_ms"] for row in operators)
    assert "Operators before and after" in (run / "report.html").read_text()
    assert files_on(clean_adbd) == ["benchmark_model"]


@pytest.mark.slow
def test_a_phone_that_asks_for_authorization_is_searched_with_a_key_it_accepts(
    amc, start_adbd, scripted_tool, tmp_path, monkeypatch
):
    daemon, run = start_adbd("--auth"), tmp_path / "run"
    load_keys(tmp_path / "home" / ".android")
    daemon.add_key((tmp_path / "home" / ".android" / "adbkey.pub").read_text())
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path / "home"))
        outcome = amc("search", *TINY, scripted_tool, "-s", daemon.serial, *TCP, "--out", run)
    assert outcome.code == 0, outcome.err
    assert all(episode["latency_ms"] > 0 for episode in episodes_of(run))
    assert files_on(daemon) == ["benchmark_model"]


@pytest.mark.slow
def test_a_search_whose_phone_has_gone_stops_saved_and_resumes_to_the_same_result(
    amc, start_adbd, scripted_tool, impatient, tmp_path, monkeypatch
):
    daemon = start_adbd()
    words = ["search", *TINY, "--round-to=1", "--episodes=10", "--checkpoint-every=3", scripted_tool]
    words += ["-s", daemon.serial, *TCP]
    assert amc(*words, "--out", tmp_path / "whole").code == 0
    at_episode(monkeypatch, 4, daemon.down)
    stopped = amc(*words, "--max-dropped=2", "--out", tmp_path / "broken")
    assert stopped.code == 1
    assert "2 networks in a row could not be scored" in stopped.err and "--resume" in stopped.err, stopped.err
    daemon.up()
    assert amc(*words, "--resume", "--out", tmp_path / "broken").code == 0
    assert episodes_of(tmp_path / "broken") == episodes_of(tmp_path / "whole")
    plans = [(tmp_path / name / "plan.json").read_text() for name in ("broken", "whole")]
    assert plans[0] == plans[1]
    assert files_on(daemon) == ["benchmark_model"]


@pytest.mark.slow
def test_a_daemon_that_dies_and_comes_back_costs_no_episode(
    amc, start_adbd, scripted_tool, tmp_path, monkeypatch
):
    daemon = start_adbd()
    words = ["search", *TINY, "--round-to=1", scripted_tool, "-s", daemon.serial, *TCP]
    assert amc(*words, "--out", tmp_path / "whole").code == 0
    at_episode(monkeypatch, 2, daemon.kill)
    assert amc(*words, "--out", tmp_path / "broken").code == 0
    assert episodes_of(tmp_path / "broken") == episodes_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_phones_share_the_work_and_one_goes_on_alone(
    amc, start_adbd, scripted_tool, impatient, tmp_path, monkeypatch
):
    one, other = start_adbd(), start_adbd()
    at_episode(monkeypatch, 2, other.down)
    words = ["search", *TINY, scripted_tool, "-s", one.serial, "-s", other.serial, *TCP]
    outcome = amc(*words, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    serials = [json.loads(row["device"])["serial"] for row in measurements_of(tmp_path / "run")]
    assert any(one.serial in serial and other.serial in serial for serial in serials)
    assert serials[-1] == one.serial
    assert [episode["kind"] == "dropped" for episode in episodes_of(tmp_path / "run")] == [False] * 6


def test_a_phone_that_does_not_know_the_key_is_one_sentence(
    amc, start_adbd, scripted_tool, tmp_path, monkeypatch
):
    daemon = start_adbd("--auth")
    find = functools.partial(phone_meter.find_phone, connect_timeout_s=1.0)
    monkeypatch.setattr(phone_meter, "find_phone", find)
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(tmp_path))
        outcome = amc("search", *TINY, scripted_tool, "-s", daemon.serial, *TCP, "--out", tmp_path / "run")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.count("\n") == 1 and "(unauthorized)" in outcome.err
    assert files_on(daemon) == [] and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_finished_networks_outlive_the_phone_that_should_time_them(
    amc, start_adbd, scripted_tool, impatient, tmp_path, monkeypatch
):
    daemon, run = start_adbd(), tmp_path / "run"

    class Parting(Progress):
        def stage(self, text):
            if text == "measure":
                daemon.down()

    words = ["compress", *TINY, "--finetune-epochs=0", scripted_tool, "-s", daemon.serial, *TCP, "--out", run]
    with monkeypatch.context() as patch:
        patch.setattr(console, "make_progress", lambda *, quiet: Parting())
        stopped = amc(*words)
    assert stopped.code == 1
    assert f"The finished networks are in {run}, but could not be timed" in stopped.err
    assert "Go on with: amc-tf compress" in stopped.err
    networks = [(run / f"model_{precision}.tflite").read_bytes() for precision in ("float32", "int8")]
    assert not (run / "summary.json").exists()
    daemon.up()
    resumed = amc(*words, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["finetuned"]["latency_ms"]["median"] > 0
    assert (run / "model_float32.tflite").read_bytes() == networks[0]
    assert (run / "model_int8.tflite").read_bytes() == networks[1]
    assert files_on(daemon) == ["benchmark_model"]


@pytest.mark.slow
def test_ctrl_c_while_the_tool_runs_leaves_nothing_on_the_phone(files, start_adbd, tmp_path):
    daemon, run = start_adbd(), tmp_path / "run"
    tool = write_stand_in(tmp_path / "benchmark_model", us_per_kb=100.0)
    words = ["search", *TINY, "--round-to=1", "--episodes=400", f"--benchmark-binary={tool}"]
    # A shell starts what it runs in the background deaf to Ctrl-C.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from amc_tf.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *words, "-s", daemon.serial, *TCP, "--out", str(run)]
    process = subprocess.Popen(
        command, cwd=files, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (run / "episodes.jsonl").exists() or process.poll() is not None)
        wish, fault = (daemon.tmp / "amc-tf" / name for name in ("wish.json", "fault.json"))
        wish.write_text(json.dumps({"fault": "hang", "once": True}))
        wish.rename(fault)
        wait_for(lambda: not fault.exists() or process.poll() is not None)
        (folder,) = (path.name for path in daemon.tmp.glob("amc-tf/run-*"))
        assert processes_of(folder)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted; all up to the last checkpoint is saved. Go on with: amc-tf search" in err
    wait_for(lambda: not processes_of(folder))
    assert files_on(daemon) == ["benchmark_model"]


@pytest.mark.slow
def test_a_search_waits_for_a_hot_phone_and_goes_on(
    amc, start_adbd, scripted_tool, hasty, tmp_path, monkeypatch
):
    daemon = start_adbd()
    say = console.make_cool_down(quiet=False)

    def cool(wait):
        say(wait)
        heat(daemon, 285)

    monkeypatch.setattr(console, "make_cool_down", lambda *, quiet: cool)
    at_episode(monkeypatch, 2, lambda: heat(daemon, 455))
    words = ["search", *TINY, "--round-to=1", scripted_tool, "-s", daemon.serial, *TCP]
    outcome = amc(*words, "--out", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "The phone is too hot (battery 45.5 °C" in outcome.err
    assert outcome.err.count("battery 28.5 °C") == 1
    assert not any(episode["kind"] == "dropped" for episode in episodes_of(tmp_path / "run"))
    before = [
        json.loads(row["conditions"])["before"]["battery_c"] for row in measurements_of(tmp_path / "run")
    ]
    assert before.count(45.5) == 1


@pytest.mark.slow
def test_a_phone_that_stays_hot_stops_the_search_which_resumes_when_it_is_cool(
    amc, start_adbd, scripted_tool, hasty, tmp_path, monkeypatch
):
    daemon = start_adbd()
    at_episode(monkeypatch, 2, lambda: heat(daemon, 455))
    words = ["search", *TINY, "--round-to=1", scripted_tool, "-s", daemon.serial, *TCP]
    words += ["--out", tmp_path / "run", "--max-dropped=1"]
    outcome = amc(*words)
    assert outcome.code == 1
    assert "is still too hot after 0 s of cooling down: battery 45.5 °C (limit 40.0 °C)" in outcome.err
    assert "Go on with: amc-tf search" in outcome.err
    heat(daemon, 285)
    assert amc(*words, "--resume").code == 0
    assert [episode["kind"] == "dropped" for episode in episodes_of(tmp_path / "run")] == [False] * 6


@pytest.mark.slow
def test_what_a_phone_taught_a_table_is_predicted_without_it_and_timed_later(
    amc, start_adbd, scripted_tool, tmp_path
):
    daemon, table = start_adbd(), tmp_path / "new.json"
    phone = [scripted_tool, "-s", daemon.serial, *TCP, "--rounds=1", "--run-seconds=0.05"]
    search = ["search", *TINY, *phone, "--table", table, "--out", tmp_path / "first"]
    assert amc(*search).code == 0
    assert len(LatencyTable.load(table).samples) > 4
    without = [word for word in TINY if not word.startswith(("--rounds", "--run-seconds"))]
    run, bundle = tmp_path / "run", tmp_path / "run.zip"
    words = [
        "compress",
        *without,
        "--round-to=1",
        "--seed=1",
        f"--meter=table:{table}",
        "--finetune-epochs=0",
    ]
    predicted = amc(*words, "--out", run)
    assert predicted.code == 0, predicted.err
    assert "Predicted latencies were not timed" in predicted.out
    assert json.loads((run / "summary.json").read_text())["pruned"]["latency_ms"]["predicted"] is True
    assert amc("bundle", "make", run, "--top=3", "--out", bundle).code == 0
    measured = amc("bundle", "measure", bundle, *phone, "--out", tmp_path / "timed.json")
    assert measured.code == 0, measured.err
    reported = amc("report", run, "--table", tmp_path / "timed.json")
    assert "Found plan" in reported.out, reported.err
    assert json.loads((run / "summary.json").read_text())["pruned"]["latency_ms"]["predicted"] is False
    assert files_on(daemon) == ["benchmark_model"]
