"""Whole commands with a phone: a real debug daemon, and a stand-in for the benchmark tool."""

import functools
import json
import sqlite3
from pathlib import Path

import pytest

from amc_tf.cli import console
from amc_tf.device.adb_keys import load_keys
from amc_tf.device.workbench import Workbench
from amc_tf.progress import Progress
from tests.stand_in_tool import write_stand_in

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


def at_episode(monkeypatch, number, action):
    """Does something once, when an episode has ended."""

    class Acting(Progress):
        def episode(self, record, total):
            nonlocal action
            if record["episode"] == number:
                done, action = action, lambda: None
                done()

    monkeypatch.setattr(console, "make_progress", lambda *, quiet: Acting())


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
        assert (len(conditions["binary_sha256"]), conditions["before"]["battery_c"]) == (64, 28.5)
    assert files_on(clean_adbd) == ["benchmark_model"]


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
    assert "2 networks in a row could not be timed" in stopped.err and "--resume" in stopped.err, stopped.err
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
    at_episode(monkeypatch, 2, daemon.kill)
    words = ["search", *TINY, scripted_tool, "-s", daemon.serial, *TCP, "--out", tmp_path / "run"]
    assert amc(*words).code == 0
    assert [episode["kind"] == "dropped" for episode in episodes_of(tmp_path / "run")] == [False] * 6


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
