"""The option --plan with published plans, and what prune and inspect make of them."""

import json

import keras
import numpy as np
import pytest

from amc_tf import published
from amc_tf.cli.plans import plan_widths, read_plan
from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.model_file import load_model
from amc_tf.plan import uniform_plan

WIDTHS = {"first": 8, "pointwise": 12, "last": 8}


@pytest.fixture
def tiny_half(tmp_path, monkeypatch):
    """Publishes a list for tiny.keras, tiny-half, in place of those that ship."""
    counts = {"first": 16, "pointwise": 24, "last": 16}
    groups = {name: {"num_channels": counts[name], "width": width} for name, width in WIDTHS.items()}
    about = {"network": "tiny.keras", "source": "a test", "reference": "none"}
    folder = tmp_path / "plans"
    folder.mkdir()
    (folder / "tiny-half.json").write_text(
        json.dumps({"format": published.FORMAT, **about, "groups": groups})
    )
    monkeypatch.setattr(published, "_folder", lambda: folder)
    return "tiny-half"


@pytest.fixture(scope="module")
def graph(files):
    return ChannelGraph.from_model(load_model(str(files / "tiny.keras")))


def test_prune_without_data_keeps_the_channels_that_the_next_layer_weighs_most(
    amc, files, tiny_half, tmp_path, graph
):
    outcome = amc("prune", "tiny.keras", "--plan", tiny_half, "--out", tmp_path / "slim.keras", "--json")
    slim = keras.models.load_model(tmp_path / "slim.keras")
    kernel = load_model(str(files / "tiny.keras")).get_layer("classes").get_weights()[0]  # [16, classes]
    kept = np.sort(np.argsort(-np.square(kernel).sum(axis=1))[:8])
    np.testing.assert_array_equal(slim.get_layer("classes").get_weights()[0], kernel[kept])
    assert {name: slim.get_layer(name).filters for name in WIDTHS} == WIDTHS
    assert json.loads(outcome.out)["after"]["macs"] == count_cost(slim).macs
    assert count_cost(slim) == graph.count(tuple(WIDTHS.values()))


def test_prune_with_data_recovers_the_accuracy_of_a_published_plan(amc, tiny_half, tmp_path):
    words = ["prune", "tiny.keras", "--plan", tiny_half, "--data=data.npz", "--json"]
    plain = ["--no-reconstruct", "--no-batch-norm"]
    raw = json.loads(amc(*words, "--out", tmp_path / "raw.keras", *plain).out)
    recovered = json.loads(amc(*words, "--out", tmp_path / "recovered.keras").out)
    assert raw["after"]["macs"] == recovered["after"]["macs"]
    assert recovered["after"]["top1"] > raw["after"]["top1"]


def test_inspect_shows_widths_and_cost_of_a_published_plan_beside_the_uniform_one(amc, tiny_half, graph):
    words = ["inspect", "tiny.keras", "--plan", tiny_half, "--budget=macs=0.5", "--round-to=4"]
    result = json.loads(amc(*words, "--json").out)
    lines = amc(*words).out.splitlines()
    assert result["plan"]["widths"] == WIDTHS
    assert result["plan"]["macs"] == graph.count(tuple(WIDTHS.values())).macs
    assert lines[2].split()[:5] == ["channel", "group", "channels", "uniform", "plan"]
    assert lines[3].split()[3] == "8"
    assert lines[-1].startswith("tiny-half: ")


def test_inspect_shows_the_plan_of_a_file(amc, tmp_path, graph):
    plan = uniform_plan(graph, 0.25, round_to=4)
    plan.save(tmp_path / "plan.json")
    result = json.loads(amc("inspect", "tiny.keras", "--plan", tmp_path / "plan.json", "--json").out)
    assert tuple(result["plan"]["widths"].values()) == plan.widths(graph)
    assert "uniform" not in result


@pytest.mark.parametrize("verb", ["prune", "inspect"])
def test_a_network_that_a_published_plan_does_not_fit_is_refused(amc, tmp_path, verb):
    words = ["--out", tmp_path / "x.keras"] if verb == "prune" else []
    outcome = amc(verb, "tiny.keras", "--plan=amc-mobilenet-v1-50-flops", *words)
    assert outcome.code == 1
    assert outcome.err.startswith(
        "amc-tf: The published plan amc-mobilenet-v1-50-flops is for keras.applications.MobileNet with alpha "
        "1.0, with 32 channels in 'conv1'; 'tiny' has no such channel group."
    )
    assert not (tmp_path / "x.keras").exists()


def test_an_unknown_name_lists_the_published_plans(amc, tmp_path):
    outcome = amc("prune", "tiny.keras", "--plan=amc-mobilenet", "--out", tmp_path / "x.keras")
    assert outcome.code == 1
    assert outcome.err == (
        "amc-tf: There is no plan 'amc-mobilenet'; give the plan.json of a search, or one of: "
        "amc-mobilenet-v1-50-flops, amc-mobilenet-v1-50-time, amc-mobilenet-v2-70-flops.\n"
    )


def test_a_path_without_a_file_is_named_as_such():
    with pytest.raises(PlanError, match="none.json' cannot be read: No such file"):
        read_plan("none.json")


def test_a_file_goes_before_a_published_plan_of_its_name(tiny_half, tmp_path, monkeypatch, graph):
    monkeypatch.chdir(tmp_path)
    assert read_plan(tiny_half) is None
    assert plan_widths(tiny_half, graph) == (8, 12, 8)
    plan = uniform_plan(graph, 0.25, round_to=4)
    plan.save(tmp_path / tiny_half)
    assert read_plan(tiny_half) == plan
    assert plan_widths(tiny_half, graph) == plan.widths(graph) == (4, 8, 4)
