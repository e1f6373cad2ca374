import json

import pytest

from amc_tf.sparsity_plan import SparsityPlan

WORDS = (
    "sparsify tiny.keras --data=data.npz --budget=params=0.4 --meter=none --episodes=6 --warmup-episodes=3 "
    "--search-images=100 --calibration-images=64 --finetune-epochs=0"
).split()


@pytest.mark.slow
def test_a_run_ends_with_a_table_and_its_files(amc, tmp_path):
    outcome = amc(*WORDS, "--out", tmp_path / "x", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["top-1", "weights", "MACs", "file", "deflated"]
    assert [line[:26].rstrip() for line in lines[1:6]] == [
        "Original",
        "Uniform",
        "One threshold",
        "Found plan",
        "Found plan, stored densely",
    ]
    assert lines[-1] == f"Report: {tmp_path / 'x' / 'report.html'}"
    assert set(SparsityPlan.load(tmp_path / "x" / "plan.json").kept) == {
        "first",
        "pointwise",
        "last",
        "classes",
    }
    again = amc(*WORDS, "--out", tmp_path / "x")
    assert again.code == 1
    assert "holds an earlier run" in again.err
    small = amc(*WORDS, "--out", tmp_path / "y", "--budget=params=0.1")
    assert small.code == 1
    assert "give at least params=0.2" in small.err
    written = (tmp_path / "x" / "report.html").read_text()
    assert "Weights of each layer" in written
    assert amc("report", tmp_path / "x").out == f"{tmp_path / 'x' / 'report.html'}\n"
    assert (tmp_path / "x" / "report.html").read_text() == written


@pytest.mark.slow
def test_json_prints_exactly_the_summary(amc, tmp_path):
    outcome = amc(*WORDS, "--out", tmp_path / "x", "--json", "--min-keep-ratio-dense=0.5", "--stages=2")
    summary = json.loads(outcome.out)
    assert summary == json.loads((tmp_path / "x" / "summary.json").read_text())
    assert summary["command"][:2] == ["amc-tf", "sparsify"]
    kept = {layer["layer"]: layer["kept"] / layer["weights"] for layer in summary["layers"]}
    assert kept["classes"] >= 0.5
    assert len(summary["stages"]) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--budget=latency=0.5"], "is measured time: give --meter"),
        (["--budget=params"], "'params' is no budget"),
        (["--meter=gpu"], "The GPU meter runs no sparse kernels: give --meter phone, host or none"),
        (["--meter=table:x.json"], "without sparse kernels: give --meter phone, host or none"),
        (["--min-keep-ratio=0"], "min_keep_ratio is 0"),
        (["--unlabelled=none.npz"], "There is no file none.npz"),
    ],
)
def test_wrong_values_end_in_one_sentence(amc, tmp_path, words, sentence):
    outcome = amc(*WORDS, *words, "--out", tmp_path / "x", "--quiet")
    assert (outcome.code, outcome.out) == (1, "")
    assert sentence in outcome.err
    assert outcome.err.count("\n") == 1
