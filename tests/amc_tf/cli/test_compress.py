import contextlib
import io
import json
import shutil

import keras
import pytest

from amc_tf.cli import console, main
from amc_tf.device.operators import read_operators
from amc_tf.device.table import LatencyTable
from amc_tf.device.table_samples import TableSample
from amc_tf.plan import PruningPlan
from amc_tf.run_folder import RUN_FILES
from tests.trained import make_classifier, make_table

SEARCH = (
    "--data=data.npz --budget=macs=0.5 --meter=none --episodes=8 --warmup-episodes=4 --round-to=4 "
    "--search-images=100 --calibration-images=64 --checkpoint-every=2"
).split()
COMPRESS = ["compress", "tiny.keras", *SEARCH, "--finetune-epochs=1"]


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """The folder of a run, and what the command wrote to stdout and stderr."""
    folder, out, err = tmp_path_factory.mktemp("runs") / "x", io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(files)
        assert main([*COMPRESS, "--out", str(folder), "--quiet"]) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture
def run(finished, tmp_path):
    """A copy of its own of the folder of a run."""
    return shutil.copytree(finished[0], tmp_path / "x")


def test_a_run_ends_with_a_table_and_a_whole_folder(finished):
    folder, out, err = finished
    assert err == ""
    lines = out.splitlines()
    names = [line[:22].rstrip() for line in lines[1:7]]
    assert lines[0].split() == ["top-1", "top-5", "MACs", "params", "file"]
    assert names[0] == "Original"
    assert {"Uniform", "Found plan, fine-tuned", "Found plan, int8"} <= set(names)
    assert lines[-1] == f"Report: {folder / 'report.html'}"
    assert [name for name in RUN_FILES if not (folder / name).exists()] == []
    keras.models.load_model(folder / "model.keras")


def test_a_report_takes_measured_latencies_from_a_table(amc, run, tmp_path):
    operators = read_operators((run / "model_float32.tflite").read_bytes())
    sample = TableSample("found", operators, 1.5, 1.4, 1.7, 0.1, 150)
    LatencyTable("Pixel 8", {}, "by hand", (sample,)).save(tmp_path / "phone.json")
    words = ["report", run, "--table", tmp_path / "phone.json"]
    outcome = amc(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"Measured latencies from {tmp_path / 'phone.json'}: Found plan, Found plan, fine-tuned",
        str(run / "report.html"),
    ]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finetuned"]["latency_ms"]["median"] == 1.5
    assert json.loads(amc(*words, "--json").out)["measured"] == []


@pytest.mark.slow
def test_a_run_trains_for_int8_and_says_which_network_it_wrote(amc, tmp_path):
    words = [*COMPRESS, "--finetune-epochs=0", "--episodes=4", "--warmup-episodes=2", "--qat-epochs=1"]
    outcome = amc(*words, "--out", tmp_path / "x", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert "\nFound plan, int8, trained " in outcome.out
    written = json.loads((tmp_path / "x" / "summary.json").read_text())["int8_written"]
    how = {"int8": "after", "int8_qat": "in"}[written]
    assert f"\nmodel_int8.tflite is the network that was quantised {how} training.\n" in outcome.out


@pytest.mark.slow
def test_a_run_by_table_alone_says_that_its_latencies_are_predicted(amc, tmp_path):
    make_table(make_classifier(keras)).save(tmp_path / "phone.json")
    timed = [f"--meter=table:{tmp_path / 'phone.json'}", "--budget=latency=0.8", "--finetune-epochs=0"]
    outcome = amc(*COMPRESS, *timed, "--out", tmp_path / "x", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert " predicted " in outcome.out
    assert "Predicted latencies were not timed. To time them where a phone is: amc-tf bundle" in outcome.out
    found = amc("search", "tiny.keras", *SEARCH, *timed[:2], "--out", tmp_path / "y", "--quiet")
    assert "predicted latency" in found.out.splitlines()[0]


def test_a_report_with_a_table_that_is_none_is_refused(amc, run, tmp_path):
    (tmp_path / "phone.json").write_text("{}")
    outcome = amc("report", run, "--table", tmp_path / "phone.json")
    assert outcome.code == 1
    assert f"{tmp_path / 'phone.json'} is damaged or no latency table" in outcome.err


@pytest.mark.slow
def test_json_prints_exactly_the_summary(amc, tmp_path):
    outcome = amc(*COMPRESS, "--out", tmp_path / "x", "--json")
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert json.loads(outcome.out) == summary
    assert (summary["model"], summary["data"]) == ("tiny.keras", "data.npz")
    assert summary["command"][:3] == ["amc-tf", "compress", "tiny.keras"]
    assert summary["pruned"]["macs"] <= 0.5 * summary["baseline"]["macs"]
    assert summary["settings"]["search"]["warmup_episodes"] == 4
    assert "episode 8/8: reward" in outcome.err
    assert "search: " in outcome.err


@pytest.mark.slow
def test_an_earlier_run_is_only_touched_when_told(amc, run):
    refused = amc(*COMPRESS, "--out", run)
    assert refused.code == 1
    assert "holds an earlier run" in refused.err
    assert "--resume" in refused.err and "--overwrite" in refused.err
    before = (run / "plan.json").read_text()
    assert amc(*COMPRESS, "--out", run, "--resume", "--quiet").code == 0
    assert (run / "plan.json").read_text() == before


def test_resume_and_overwrite_exclude_each_other(amc, run):
    with pytest.raises(SystemExit) as stopped:
        amc(*COMPRESS, "--out", run, "--resume", "--overwrite")
    assert stopped.value.code == 2


@pytest.mark.slow
def test_a_latency_budget_measures_on_this_machine(amc, tmp_path):
    timed = ["--meter=host", "--budget=latency=0.9", "--episodes=4", "--warmup-episodes=1"]
    outcome = amc(*COMPRESS, *timed, "--out", tmp_path / "x", "--quiet")
    # A network of microseconds may be no faster when pruned: then the search says so.
    assert outcome.code == 0 or "No network within the budget latency=0.9" in outcome.err, outcome.err
    if outcome.code == 0:
        assert "latency (p5–p95)" in outcome.out and "speed-up" in outcome.out


class Interrupting(console.Progress):
    """Presses Ctrl-C after an episode."""

    def __init__(self, episode):
        self.last = episode

    def episode(self, record, total):
        if record["episode"] == self.last:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("episode", [0, 4])
def test_an_interrupted_search_resumes_to_the_plan_of_an_uninterrupted_one(
    amc, tmp_path, monkeypatch, episode
):
    words = ["search", "tiny.keras", *SEARCH]
    assert amc(*words, "--out", tmp_path / "whole", "--quiet").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(console, "make_progress", lambda quiet: Interrupting(episode))
        interrupted = amc(*words, "--out", tmp_path / "cut")
    assert interrupted.code == 130
    command = " ".join(["amc-tf", *words, "--out", str(tmp_path / "cut"), "--resume"])
    assert interrupted.err == (
        f"amc-tf: Interrupted; all up to the last checkpoint is saved. Go on with: {command}\n"
    )
    assert amc(*words, "--out", tmp_path / "cut", "--resume", "--quiet").code == 0
    plans = [PruningPlan.load(tmp_path / name / "plan.json") for name in ("whole", "cut")]
    assert plans[0] == plans[1]
    episodes = [(tmp_path / name / "episodes.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert [len(lines) for lines in episodes] == [8, 8]
    rewards = [[json.loads(line)["reward"] for line in lines] for lines in episodes]
    assert rewards[0] == rewards[1]


def test_resuming_with_other_settings_names_the_difference(amc, run):
    outcome = amc(*COMPRESS, "--out", run, "--resume", "--seed=1")
    assert outcome.code == 1
    assert "is of another search" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["macs", "parameters", "latency"])
def test_an_accuracy_budget_is_kept_under_each_of_its_rewards(amc, tmp_path, reward):
    words = [*COMPRESS, "--budget=accuracy=0.9", f"--reward={reward}", "--finetune-epochs=0"]
    meter = ["--meter=host"] if reward == "latency" else []
    assert amc(*words, *meter, "--out", tmp_path / "x", "--quiet").code == 0
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert summary["budget"] == {
        "kind": "accuracy", "value": 0.9, "limit": None, "unit": "of the accuracy"
    }  # fmt: skip
    episodes = [json.loads(line) for line in (tmp_path / "x" / "episodes.jsonl").read_text().splitlines()]
    full = max(line["top1"] for line in episodes if line["feasible"])
    (stage,) = summary["stages"]
    assert stage["search_top1"] >= 0.9 * full - 1e-9
    cost = "params" if reward == "parameters" else "macs"
    assert summary["pruned"][cost] < 0.95 * summary["baseline"][cost]


def test_a_reward_of_latency_needs_a_meter(amc, tmp_path):
    outcome = amc(*COMPRESS, "--budget=accuracy=0.9", "--reward=latency", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert "The reward latency is about measured time: give --meter" in outcome.err


@pytest.mark.slow
def test_stages_are_run_from_the_command_line_and_resumed(amc, tmp_path, monkeypatch):
    words = [*COMPRESS, "--stages=2", "--budget=macs=0.4", "--out", tmp_path / "x"]
    with monkeypatch.context() as patch:
        patch.setattr(console, "make_progress", lambda quiet: Interrupting(5))
        interrupted = amc(*words)
    assert interrupted.code == 130
    assert "--stages=2" in interrupted.err and "--resume" in interrupted.err
    outcome = amc(*words, "--resume", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert len(summary["stages"]) == 2
    assert summary["pruned"]["macs"] <= 0.4 * summary["baseline"]["macs"]


def test_a_number_of_stages_that_is_none_is_refused(amc, tmp_path):
    outcome = amc(*COMPRESS, "--stages=0", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert "stages is 0; give a whole number from 1 to 20" in outcome.err
    assert not (tmp_path / "x").exists()
