"""Facts about sweeps on a Ray cluster of two nodes, which are processes of this machine."""

import contextlib
import functools
import itertools
import json
import sys
import threading
import time
from types import SimpleNamespace

import keras
import pytest

from amc_tf.budget import Budget
from amc_tf.errors import ClusterError, SettingsError
from amc_tf.ray_trials import RayTrials
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings
from amc_tf.sweep import sweep
from tests import ray_cluster, ray_meters
from tests.trained import make_classifier, make_data

BUDGETS = (Budget(macs=0.7), Budget(macs=0.5))
LONGEST_S = 300.0


def settings(episodes):
    return SearchSettings(
        episodes=episodes,
        warmup_episodes=episodes // 4,
        round_to=4,
        num_calibration_images=64,
        num_search_images=100,
        checkpoint_every=1,
        agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
    )


def run(out, episodes, budgets=BUDGETS, **options):
    data = make_data(240, 0), make_data(100, 1)
    given = {"settings": settings(episodes), "finetuning": FinetuneSettings(epochs=0), "budgets": budgets}
    return sweep(make_classifier(keras), *data, out=out, **{**given, **options})


def test_a_trial_whose_phone_hangs_on_a_node_without_room_for_it_is_refused(monkeypatch):
    nodes = [{"CPU": 16.0}, {"CPU": 2.0, "phone:A": 1.0}]
    ray = SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr("amc_tf.ray_trials.connected", lambda address: contextlib.nullcontext(ray))
    with RayTrials("somewhere", phones=("A",), num_cpus=2):
        pass
    words = r"No node of the Ray cluster has CPU 4 and phone:A 1: let a trial ask for less\."
    with pytest.raises(ClusterError, match=words), RayTrials("somewhere", phones=("A",), num_cpus=4):
        pass


def test_ray_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(ClusterError, match=r'Ray is not installed: pip install "amc-tf\[ray\]"'),
        RayTrials("x"),
    ):
        pass


@pytest.mark.parametrize("share", [{"num_cpus": 0}, {"num_gpus": -1}])
def test_a_trial_without_processors_is_refused(share):
    with pytest.raises(SettingsError, match="give 1 or more, 0 or more"):
        RayTrials("local", **share)


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    with ray_cluster.running() as started:
        ray_cluster.add_node(started)
        yield started


def lines_of(folder):
    path = folder / "episodes.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def episodes_of(folder):
    records = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def kill_when_both_are_under_way(cluster, node, folders, lost):
    """Kills a node when each trial has played ten episodes, and takes down how many are played again."""
    counts, killed, deadline = [0, 0], False, time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and not all((folder / "summary.json").exists() for folder in folders):
        now = [lines_of(folder) for folder in folders]
        lost += [before - after for before, after in zip(counts, now, strict=True) if after < before]
        counts = now
        if min(counts) >= 10 and not killed:
            cluster.remove_node(node, allow_graceful=False)
            killed = True
        threading.Event().wait(0.002)


@pytest.mark.slow
def test_when_a_node_dies_its_trial_goes_on_elsewhere_and_loses_the_running_episode_only(cluster, tmp_path):
    episodes, lost = 120, []
    folders = [tmp_path / "sweep" / str(budget) for budget in BUDGETS]
    with RayTrials(cluster.address) as runner:
        run(tmp_path / "alone", episodes, runner=runner)
    mortal = ray_cluster.add_node(cluster)
    killer = threading.Thread(
        target=kill_when_both_are_under_way, args=(cluster, mortal, folders, lost), daemon=True
    )
    killer.start()
    with RayTrials(cluster.address) as runner:
        run(tmp_path / "sweep", episodes, runner=runner)
    killer.join(LONGEST_S)
    begun = [len(list((folder / "tensorboard").glob("events.*"))) for folder in folders]
    assert sorted(begun) == [1, 2]
    assert sum(lost) <= 1
    for folder in folders:
        assert episodes_of(folder) == episodes_of(tmp_path / "alone" / folder.name)
    fronts = [json.loads((tmp_path / name / "front.json").read_text()) for name in ("alone", "sweep")]
    for one, other in zip(*(front["networks"] for front in fronts), strict=True):
        # The names in a file hold how many layers its process has made before.
        assert {**one, "tflite_bytes": 0} == {**other, "tflite_bytes": 0}


@pytest.mark.slow
def test_each_of_two_phones_times_the_networks_of_one_trial_at_a_time(cluster, tmp_path):
    ray_cluster.add_node(cluster, num_cpus=4, phones=("A", "B"))
    budgets = [Budget(macs=ratio) for ratio in (0.8, 0.7, 0.6, 0.5)]
    given = {"open_meter": functools.partial(ray_meters.open_noted, tmp_path), "phones": ("A", "B")}
    with RayTrials(cluster.address, **given) as runner:
        more = {"unlabelled": make_data(30, 2).images, "finetuning": FinetuneSettings(epochs=1)}
        result = run(tmp_path / "sweep", 8, budgets, runner=runner, **more)
        assert all(summary["num_unlabelled_images"] == 30 for summary in result.summaries.values())
        assert all(network.latency_ms for network in result.networks)
        opened = [json.loads(line) for line in (tmp_path / "opened.jsonl").read_text().splitlines()]
        for serial in ("A", "B"):
            times = sorted(times for phone, *times in opened if phone == serial)
            assert len(times) == 3  # one to ask for the fingerprint, two trials
            assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(times))
        again = run(tmp_path / "sweep", 8, budgets, runner=runner, resume=True, **more)
    assert again.networks == result.networks
    assert len((tmp_path / "opened.jsonl").read_text().splitlines()) == len(opened) + 2  # no trial


@pytest.mark.slow
def test_what_the_cluster_does_not_have_is_told_at_once(cluster):
    refused = [
        (
            {"phones": ("C",)},
            r"No node of the Ray cluster has phone:C 1: start the node .*'{\"phone:C\": 1}'",
        ),
        ({"num_cpus": 1000}, "has CPU 1000: let a trial ask for less"),
    ]
    for share, words in refused:
        with pytest.raises(ClusterError, match=words), RayTrials(cluster.address, **share):
            pass


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told():
    pytest.importorskip("ray")
    with (
        pytest.raises(ClusterError, match="no Ray cluster at 127.0.0.1:1 .*refused"),
        RayTrials("127.0.0.1:1"),
    ):
        pass


@pytest.mark.slow
def test_phones_of_two_models_do_not_share_a_sweep(cluster, tmp_path):
    ray_cluster.add_node(cluster, phones=("D", "E"))
    with (
        RayTrials(cluster.address, open_meter=ray_meters.open_unlike, phones=("D", "E")) as runner,
        pytest.raises(SettingsError, match="D and E differ: give each kind a sweep of its own"),
    ):
        run(tmp_path, 8, runner=runner)
