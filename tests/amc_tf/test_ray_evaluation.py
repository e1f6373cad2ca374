"""Facts about candidates that actors of a Ray cluster evaluate: they score as they do here."""

import contextlib
from types import SimpleNamespace

import keras
import pytest

from amc_tf.budget import Budget
from amc_tf.compress import compress
from amc_tf.errors import ClusterError, SettingsError
from amc_tf.executor import Executor
from amc_tf.network import NetworkFunction
from amc_tf.plan import uniform_plan
from amc_tf.ray_evaluation import RayEvaluation
from amc_tf.settings import FinetuneSettings, SearchSettings
from tests import ray_cluster
from tests.trained import RANGE, make_classifier, make_data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    with ray_cluster.running() as started:
        ray_cluster.add_node(started)
        yield started


@pytest.fixture(params=[True, False], ids=["LiteRT", "TensorFlow"])
def runs_litert(request, monkeypatch):
    monkeypatch.setattr(Executor, "runs_litert", request.param)
    return request.param


def check_equal(there, here, weights, data, *, tolerance):
    found, expected = (executor.accuracy(weights, data, input_range=RANGE) for executor in (there, here))
    assert (found.top1, found.top5) == (expected.top1, expected.top5)
    assert found.probability == pytest.approx(expected.probability, abs=tolerance)


def test_two_actors_find_the_local_accuracy_also_when_the_node_of_one_dies(cluster, runs_litert):
    mortal = ray_cluster.add_node(cluster)
    model, data = make_classifier(keras), make_data(450, 3)  # five batches, the last of them smaller
    network = NetworkFunction(model)
    first, second = network.weights, network.slice(uniform_plan(network.graph, 0.75, round_to=4))
    tolerance = 0.0 if runs_litert else 1e-6  # TensorFlow has another number of threads there
    with RayEvaluation(cluster.address, num_actors=2) as evaluation:
        there, here = evaluation(network, model), Executor(network)
        check_equal(there, here, first, data, tolerance=tolerance)
        cluster.remove_node(mortal, allow_graceful=False)
        ray_cluster.add_node(cluster)
        check_equal(there, here, second, data, tolerance=tolerance)


def test_a_compression_whose_candidates_run_elsewhere_finds_the_same(cluster):
    settings = SearchSettings(
        episodes=4,
        warmup_episodes=2,
        round_to=4,
        num_calibration_images=64,
        num_search_images=100,
        int8_accuracy=True,
    )
    given = {"budget": Budget(macs=0.5), "settings": settings, "finetuning": FinetuneSettings(epochs=0)}
    data = make_data(240, 0), make_data(100, 1)
    with RayEvaluation(cluster.address) as evaluation:
        there = compress(make_classifier(keras), *data, make_executor=evaluation, **given)
    here = compress(make_classifier(keras), *data, **given)
    assert there.plan == here.plan
    assert there.summary["stages"] == here.summary["stages"]


def test_more_actors_than_processors_are_refused(monkeypatch):
    ray = SimpleNamespace(
        nodes=lambda: 2 * [{"Alive": True, "Resources": {"CPU": 1.0}}], cluster_resources=lambda: {"CPU": 2.0}
    )
    monkeypatch.setattr("amc_tf.ray_evaluation.connected", lambda address: contextlib.nullcontext(ray))
    words = "has 2 processors, and 3 actors need one each: ask for fewer"
    with pytest.raises(ClusterError, match=words), RayEvaluation("somewhere", num_actors=3):
        pass


def test_no_actors_are_refused():
    with pytest.raises(SettingsError, match="by 0 actors: give 1 or more"):
        RayEvaluation("local", num_actors=0)
