import json
import shutil

import pytest

SWEEP = (
    "sweep tiny.keras --data=data.npz --meter=none --episodes=4 --warmup-episodes=2 --round-to=4 "
    "--search-images=100 --calibration-images=64 --finetune-epochs=0 --quiet"
).split()


@pytest.mark.slow
def test_a_sweep_draws_the_front_and_tells_what_could_not_be_met(amc, tmp_path):
    outcome = amc(*SWEEP, "--budgets=macs=0.6,macs=0.001", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert outcome.err.startswith("amc-tf: macs=0.001 could not be met: The budget macs=0.001 allows")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["budget", "top-1", "MACs", "file", "on", "the", "front"]
    assert sum("macs=0.6" in line for line in lines) == 3
    assert lines[-1] == f"Report: {tmp_path / 'x' / 'front.html'}"
    again = amc(*SWEEP, "--budgets=macs=0.6", "--out", tmp_path / "x", "--resume", "--json")
    assert again.code == 0
    front = json.loads((tmp_path / "x" / "front.json").read_text())
    printed = json.loads(again.out)
    assert printed == {name: front[name] for name in printed}
    assert printed["axis"] == "macs"
    command = json.loads((tmp_path / "x" / "macs=0.6" / "summary.json").read_text())["command"]
    assert command[:3] == ["amc-tf", "sweep", "tiny.keras"]


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ("macs=0.5,half", "'half' is no budget"),
        ("macs=0.5,latency=0.5", "is measured time: give --meter"),
        (",", "A sweep needs one budget or more"),
        ("macs=0.5,macs=0.5", "is given twice"),
    ],
)
def test_wrong_budgets_are_refused_before_any_work(amc, tmp_path, budgets, words):
    outcome = amc(*SWEEP, f"--budgets={budgets}", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert words in outcome.err
    assert not (tmp_path / "x").exists()


def test_seeds_are_whole_numbers(amc, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        amc(*SWEEP, "--budgets=macs=0.5", "--seeds=0,one", "--out", tmp_path / "x")
    assert caught.value.code == 2
    assert "'0,one' are no seeds; give whole numbers, such as 0,1,2" in capsys.readouterr().err


def test_models_of_one_name_are_refused(amc, tmp_path):
    outcome = amc(SWEEP[0], "other/tiny.keras", *SWEEP[1:], "--budgets=macs=0.5", "--out", tmp_path / "x")
    assert outcome.code == 1
    assert "Two of the models have one name" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--meter=host"], "with --ray the machines have other work than to time networks"),
        (["--meter=phone", "--table=phone.json", "-s=1"], "--table learns from one search at a time"),
        (["--meter=phone"], "with --ray every phone must be named: give -s SERIAL"),
    ],
)
def test_what_several_machines_cannot_time_is_wrong_usage(amc, tmp_path, capsys, options, words):
    with pytest.raises(SystemExit) as caught:
        amc(*SWEEP, *options, "--budgets=macs=0.5", "--ray=local", "--out", tmp_path / "x")
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_on_ray_gives_what_one_without_gives_and_tells_of_each_end(amc, tmp_path):
    pytest.importorskip("ray")
    shutil.copy("tiny.keras", "same.keras")
    words = [SWEEP[0], "same.keras", *SWEEP[1:-1], "--budgets=macs=0.6", "--seeds=0,1"]
    alone = amc(*words, "--out", tmp_path / "alone", "--json")
    spread = amc(*words, "--ray=local", "--out", tmp_path / "spread", "--json")
    assert (alone.code, spread.code) == (0, 0)
    assert "tiny/macs=0.6-seed1 (4 of 4) is done" in spread.err
    kept = ("name", "model", "budget", "top1", "macs")
    fronts = [json.loads(outcome.out)["networks"] for outcome in (alone, spread)]
    assert [[network[name] for name in kept] for network in fronts[0]] == [
        [network[name] for name in kept] for network in fronts[1]
    ]
