import json

import pytest

from amc_tf.graph import ChannelGraph
from amc_tf.model_file import load_model
from amc_tf.plan import PruningPlan

WORDS = (
    "search tiny.keras --data=data.npz --budget=macs=0.6 --meter=none --episodes=6 --round-to=4 "
    "--search-images=100 --calibration-images=64"
).split()


def test_search_writes_a_plan_within_its_budget(amc, files, tmp_path):
    outcome = amc(*WORDS, "--out", tmp_path / "x", "--json")
    result = json.loads(outcome.out)
    graph = ChannelGraph.from_model(load_model(str(files / "tiny.keras")))
    plan = PruningPlan.load(tmp_path / "x" / "plan.json")
    plan.validate(graph)
    cost = graph.count(plan.widths(graph))
    assert cost.macs <= 0.6 * graph.count().macs
    assert result["found"]["macs"] == cost.macs
    assert len((tmp_path / "x" / "episodes.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "x" / "checkpoint" / "search.npz").exists()


def test_search_prints_found_beside_uniform(amc, tmp_path):
    outcome = amc(*WORDS, "--out", tmp_path / "x", "--quiet")
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["on", "the", "search", "images", "reward", "top-1", "MACs"]
    assert lines[1].startswith("Uniform") and lines[2].startswith("Found by ")
    assert lines[-1] == f"Plan: {tmp_path / 'x' / 'plan.json'}"


@pytest.mark.slow
def test_a_search_by_int8_accuracy_says_so_and_is_resumed_as_such_only(amc, tmp_path):
    words = [*WORDS, "--out", tmp_path / "x", "--quiet"]
    outcome = amc(*words, "--int8-accuracy")
    assert outcome.out.split()[4:8] == ["reward", "int8", "top-1", "MACs"]
    assert amc(*words, "--int8-accuracy", "--resume").out == outcome.out
    assert "int8_accuracy was True and is now False" in amc(*words, "--resume").err


@pytest.mark.slow
def test_a_search_by_int8_latency_holds_a_budget_on_int8_latency(amc, files, tmp_path):
    words = [*WORDS[:3], "--budget=latency=0.96", "--episodes=4", *WORDS[6:]]
    outcome = amc(*words, "--meter=host", "--latency-precision=int8", "--out", tmp_path / "x", "--quiet")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[0].endswith("int8 latency")
