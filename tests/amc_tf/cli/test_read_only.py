"""Every command that writes says in one sentence what it cannot write, and leaves what was there."""

import json

import pytest

from amc_tf.cli import main
from amc_tf.graph import ChannelGraph
from amc_tf.model_file import load_model
from amc_tf.plan import uniform_plan
from tests.amc_tf.test_report import write_run
from tests.permissions import read_only
from tests.tflite_files import chain

SEARCH = (
    "--data=data.npz --budget=macs=0.6 --meter=none --episodes=4 --round-to=4 --search-images=100 "
    "--calibration-images=64 --quiet"
).split()
SPARSIFY = "--data=data.npz --budget=params=0.4 --meter=none --episodes=4 --quiet".split()


@pytest.fixture(scope="module")
def inputs(files, tmp_path_factory):
    """A folder with what commands read: a plan, a network, and runs that have ended."""
    folder = tmp_path_factory.mktemp("inputs")
    uniform_plan(ChannelGraph.from_model(load_model(str(files / "tiny.keras"))), 0.5, round_to=4).save(
        folder / "plan.json"
    )
    (folder / "x.tflite").write_bytes(chain([8, 5]))
    (folder / "exported").mkdir()
    (folder / "exported" / "model_float32.tflite").write_bytes(chain([8, 5]))
    summary = {"model": "tiny", "baseline": {}, "input_range": "0..1", "image_dtype": "uint8"}
    (folder / "exported" / "summary.json").write_text(json.dumps(summary))
    for name in ("one", "two"):
        write_run(folder / name)
    search = ["search", str(files / "tiny.keras"), *SEARCH, f"--data={files / 'data.npz'}"]
    assert main([*search, "--out", str(folder / "searched")]) == 0
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["search", "tiny.keras", *SEARCH, "--out", "{ro}/x"],
        ["compress", "tiny.keras", *SEARCH, "--out", "{ro}/x"],
        ["compress", "tiny.keras", *SEARCH, "--out", "{ro}"],
        ["sweep", "tiny.keras", *SEARCH[:1], *SEARCH[2:], "--budgets=macs=0.6", "--out", "{ro}/x"],
        ["sparsify", "tiny.keras", *SPARSIFY, "--out={ro}/x"],
        ["prune", "tiny.keras", "--plan={in}/plan.json", "--out={ro}/x.keras"],
        ["finetune", "tiny.keras", "--data=data.npz", "--epochs=1", "--out={ro}/x.keras"],
        ["convert", "tiny.keras", "--out={ro}/x.tflite"],
        ["benchmark", "{in}/x.tflite", "--runs=1", "--store={ro}/x.sqlite"],
        ["table", "build", "tiny.keras", "--meter=host", "--round-to=4", "--networks=3", "--out={ro}/x.json"],
        ["bundle", "make", "{in}/searched", "--model=tiny.keras", "--top=1", "--out={ro}/x.zip"],
        ["export", "{in}/exported", "--android={ro}/x"],
        ["report", "{in}/one", "{in}/two", "--out={ro}/x.html"],
        ["report", "{in}/one", "--figures={ro}/x"],
    ],
    ids=lambda words: " ".join(words[:2]).replace(" {", "").replace("/", ""),
)  # fmt: skip
def test_a_read_only_folder_becomes_a_sentence(amc, inputs, tmp_path, words):
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    words = [word.format(**{"ro": folder, "in": inputs}) for word in words]
    with read_only(folder):
        outcome = amc(*words)
    assert (outcome.code, outcome.out) == (1, ""), outcome
    assert outcome.err.startswith("amc-tf: ") and outcome.err.count("\n") == 1, outcome.err
    assert str(folder) in outcome.err and ("ermission denied" in outcome.err or "writable" in outcome.err)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "words", [["report", "{run}"], ["search", "tiny.keras", *SEARCH, "--resume", "--out={run}"]]
)
def test_a_run_that_became_read_only_stays_as_it_is(amc, inputs, words):
    run = inputs / ("one" if words[0] == "report" else "searched")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with read_only(run):
        outcome = amc(*(word.format(run=run) for word in words))
    assert (outcome.code, outcome.out) == (1, ""), outcome
    assert outcome.err.startswith("amc-tf: ") and outcome.err.count("\n") == 1, outcome.err
    assert str(run) in outcome.err and "ermission denied" in outcome.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        ["prune", "tiny.keras", "--plan={in}/plan.json", "--data=data.npz", "--out={ro}/x.keras"],
        ["finetune", "tiny.keras", "--data=data.npz", "--out={ro}/x.keras"],
        ["convert", "tiny.keras", "--out={ro}/x.tflite"],
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(amc, inputs, tmp_path, monkeypatch, words):
    monkeypatch.setattr("amc_tf.model_file.load_model", lambda source: pytest.fail("the work has begun"))
    words = [word.format(**{"ro": tmp_path, "in": inputs}) for word in words]
    with read_only(tmp_path):
        outcome = amc(*words)
    assert (
        outcome.err == f"amc-tf: {words[-1].removeprefix('--out=')} cannot be written: Permission denied.\n"
    )
