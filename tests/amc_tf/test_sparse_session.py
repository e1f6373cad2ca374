import dataclasses

import keras
import numpy as np
import pytest

from amc_tf.budget import Budget
from amc_tf.errors import BudgetError, RunFolderError, SettingsError
from amc_tf.run_folder import RunFolder
from amc_tf.settings import AgentSettings, SearchSettings
from amc_tf.sparse_session import SparsitySession
from amc_tf.sparsity import apply_plan
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_split

SETTINGS = SearchSettings(
    episodes=6,
    warmup_episodes=3,
    num_calibration_images=64,
    num_search_images=100,
    checkpoint_every=2,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


@pytest.fixture(scope="module")
def split():
    return make_split()


def make_session(model, split, budget=Budget(params=0.4), *, meter=None, dense=0.02, **settings):  # noqa: B008
    return SparsitySession(
        model,
        split,
        budget=budget,
        settings=dataclasses.replace(SETTINGS, **settings),
        input_range=RANGE,
        meter=meter,
        min_keep_ratio_dense=dense,
    )


@pytest.fixture(scope="module")
def session(model, split):
    return make_session(model, split)


def test_every_network_of_a_search_is_within_the_budget_and_uses_it(session):
    result = session.search()
    limit = session.limit.limit
    assert limit == 0.4 * session.graph.count().params
    assert len(result.episodes) == 6
    for record in result.episodes:
        assert 0.95 * limit < record["params"] <= limit
        assert record["feasible"]
    assert result.best.probability == max(record["probability"] for record in result.episodes)
    assert session.plan(result.best).widths(session.groups) == result.best.widths


def test_a_search_begins_with_both_controls_and_tells_which_of_them_won(session):
    uniform, threshold = session.uniform(), session.global_threshold()
    result = session.search(on_episode=lambda record: record["episode"] == 1)
    assert [tuple(record["widths"]) for record in result.episodes] == [uniform.widths, threshold.widths]
    assert threshold.reward > uniform.reward
    assert session.choose(uniform, result).found_by == "threshold"
    without = dataclasses.replace(result, episodes=result.episodes[:1])
    assert session.choose(uniform, without).found_by == "threshold"


def test_uniform_and_global_controls_use_the_same_budget(session):
    uniform, threshold = session.uniform(), session.global_threshold()
    ratios = np.array(uniform.widths) / session.groups.full_widths
    assert ratios.max() - ratios.min() < 0.03
    for score in (uniform, threshold):
        assert 0.97 * session.limit.limit < score.cost.params <= session.limit.limit
    assert threshold.widths != uniform.widths


def test_a_network_that_is_sparse_already_is_pruned_by_the_same_rules(session, model, split):
    sparse = apply_plan(model, session.plan(session.global_threshold()))
    dense_start, sparse_start = (make_session(start, split, Budget(params=0.3)) for start in (model, sparse))
    assert sparse_start.groups.count() == dense_start.groups.count()
    assert sparse_start.bounds.full == dense_start.bounds.full
    assert sparse_start.uniform().widths == dense_start.uniform().widths
    assert sparse_start.global_threshold().widths == dense_start.global_threshold().widths


def test_the_weights_that_stay_are_fitted_again(session, model, split):
    plain = make_session(model, split, reconstruct=False)
    plan = session.plan(session.uniform())
    path = session.groups.groups[1].path
    kernels = [which.builder.weights(plan)[path]["kernel"] for which in (session, plain)]
    assert np.array_equal(kernels[0] != 0, kernels[1] != 0)
    assert not np.allclose(*kernels)
    assert session.uniform().probability > plain.uniform().probability


def test_the_score_is_that_of_the_masked_model(model, split):
    session = make_session(model, split, reconstruct=False, reestimate_batch_norm=False)
    score = session.uniform()
    sparse = apply_plan(model, session.plan(score))
    images = (split.search.images.astype(np.float32) / 127.5) - 1.0
    right = np.asarray(sparse(images, training=False)).argmax(axis=1) == split.search.labels
    assert score.top1 == pytest.approx(right.mean())
    assert score.cost.params == sum(np.count_nonzero(array) for array in sparse.get_weights())


@pytest.mark.slow
def test_a_resumed_search_ends_like_an_uninterrupted_one(model, split, tmp_path):
    whole = make_session(model, split).search()

    class StopError(Exception):
        pass

    def stop(record):
        if record["episode"] == 4:
            raise StopError

    with RunFolder(tmp_path) as folder, pytest.raises(StopError):
        make_session(model, split).search(folder, stop)
    with RunFolder(tmp_path, resume=True) as folder:
        resumed = make_session(model, split).search(folder)
    assert resumed.best == whole.best
    assert [record["widths"] for record in resumed.episodes] == [r["widths"] for r in whole.episodes]
    with (
        RunFolder(tmp_path, resume=True) as folder,
        pytest.raises(RunFolderError, match=r"min_keep_ratio_dense was 0\.02 and is now 0\.1"),
    ):
        make_session(model, split, dense=0.1).search(folder)


def test_a_budget_below_the_caps_says_what_to_lower(model, split):
    with pytest.raises(BudgetError, match=r"lower min_keep_ratio \(0\.2\) or min_keep_ratio_dense"):
        make_session(model, split, Budget(params=0.1))
    assert make_session(model, split, Budget(params=0.15), min_keep_ratio=0.05).uniform().feasible


@pytest.mark.slow
def test_a_latency_budget_is_held_by_timing_networks_with_sparse_kernels(model, split):
    meter = ScriptedMeter()
    session = make_session(model, split, Budget(latency=0.8), meter=meter, episodes=3, warmup_episodes=1)
    assert session.uniform().latency_ms <= session.limit.limit
    best = session.search().best
    assert best.latency_ms <= session.limit.limit
    assert len(meter.seen) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "floor"),
    [
        ("macs", 0.95),
        ("parameters", 0.95),
        ("latency", 0.6),
    ],  # kernels of few zeros are stored, and timed, as dense
)
def test_accuracy_guaranteed_searches_shrink_the_network(model, split, reward, floor):
    meter = ScriptedMeter() if reward == "latency" else None
    settings = {"reward": reward, "episodes": 30, "warmup_episodes": 5}
    session = make_session(model, split, Budget(accuracy=floor), meter=meter, **settings)
    choice = session.choose(session.uniform(), session.search())
    score = choice.best
    assert score.top1 >= floor * session.baseline_top1
    assert choice.found_by == "agent"
    assert score.cost.params < session.groups.count().params


def test_a_search_by_int8_is_refused(model, split):
    with pytest.raises(SettingsError, match="scored and timed as a float32 network"):
        make_session(model, split, int8_accuracy=True)


def test_refitting_is_refused(model, split):
    with pytest.raises(SettingsError, match="A sparse network is not re-fitted in network order"):
        make_session(model, split, num_in_order_images=10)
