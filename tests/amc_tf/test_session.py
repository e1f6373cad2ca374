import dataclasses
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from amc_tf import controls, recovery
from amc_tf import session as session_module
from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.budget import Budget
from amc_tf.controls import uniform_networks, wider_networks
from amc_tf.cost import Cost
from amc_tf.device.latency import Latency
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.errors import (
    BudgetError,
    ConversionError,
    DataError,
    MeasurementError,
    ModelError,
    PhoneError,
    RunFolderError,
    SettingsError,
)
from amc_tf.evaluate import Accuracy, accuracy
from amc_tf.finalists import Choice, Finalist
from amc_tf.image_data import DataSplit, ImageData, to_input_range
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score
from amc_tf.search import SearchResult
from amc_tf.sequential import SequentialReconstructor
from amc_tf.session import LATENCY_MARGIN, PruningSession, starting_table
from amc_tf.settings import AgentSettings, SearchSettings
from tests.trained import IMAGE, NUM_CLASSES, RANGE, ScriptedMeter, make_classifier, make_split, make_table

SETTINGS = SearchSettings(
    episodes=4,
    warmup_episodes=2,
    round_to=4,
    num_calibration_images=64,
    num_search_images=100,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


@pytest.fixture(scope="module")
def split():
    return make_split()


def make_session(model, split, budget, *, meter=None, table=None, input_range=RANGE, **settings):
    return PruningSession(
        model,
        split,
        budget=budget,
        settings=dataclasses.replace(SETTINGS, **settings),
        input_range=input_range,
        meter=meter,
        table=table,
    )


@pytest.fixture(scope="module")
def macs_session(model, split):
    return make_session(model, split, Budget(macs=0.5))


def test_a_session_tells_what_the_original_is(macs_session, split):
    assert macs_session.baseline_top1 > 0.8
    assert macs_session.baseline_ms is None
    assert [group.name for group in macs_session.graph.groups] == ["first", "pointwise", "last"]
    assert macs_session.limit.limit == 0.5 * macs_session.graph.count().macs
    assert macs_session.split is split


def test_uniform_is_the_widest_uniform_network_within_the_budget(macs_session):
    uniform = macs_session.uniform()
    assert uniform.feasible
    assert uniform.cost.macs <= macs_session.limit.limit
    wider = tuple(width + 4 for width in uniform.widths)
    assert macs_session.graph.count(wider).macs > macs_session.limit.limit


def test_a_model_that_only_guesses_is_refused_with_a_word_on_the_input_range(model, split):
    shuffled = np.random.default_rng(0).permutation(len(split.search))
    guessing = dataclasses.replace(split.search, labels=split.search.labels[shuffled])
    with pytest.raises(DataError, match=r"near the 25\.0% of guessing among 4 classes.*--input-range"):
        make_session(model, dataclasses.replace(split, search=guessing), Budget(macs=0.5))


def test_images_of_another_size_are_refused(model, split):
    parts = {
        name: dataclasses.replace(part, images=part.images[:, :6])
        for name in ("train", "calibration", "search", "test")
        for part in [getattr(split, name)]
    }
    with pytest.raises(DataError, match=r"takes images of 8x8x3, but the data has 6x8x3"):
        make_session(model, DataSplit(**parts), Budget(macs=0.5))


@pytest.mark.parametrize("part", ["search", "calibration", "train", "test"])
def test_labels_that_the_model_does_not_know_are_refused(model, split, part):
    data = getattr(split, part)
    labels = data.labels.copy()
    labels[0] = NUM_CLASSES
    wrong = ImageData(data.images, labels, NUM_CLASSES + 1)
    with pytest.raises(DataError, match="labels go up to 4, but the model has 4 outputs"):
        make_session(model, dataclasses.replace(split, **{part: wrong}), Budget(macs=0.5))


def test_a_layer_that_branches_on_numbers_is_refused_with_the_words_of_the_conversion(split):
    class Branching(tf_keras.layers.Layer):
        def call(self, inputs):
            return 2.0 * inputs if tf.reduce_sum(inputs) > 0 else inputs

    images = tf_keras.Input(IMAGE)
    hidden = tf_keras.layers.Conv2D(4, 1)(tf_keras.layers.Conv2D(4, 3)(images))
    features = tf_keras.layers.GlobalAveragePooling2D()(Branching()(hidden))
    model = tf_keras.Model(images, tf_keras.layers.Dense(NUM_CLASSES)(features))
    with pytest.raises(ConversionError, match="cannot be converted to float32 TFLite: Using a symbolic"):
        make_session(model, split, Budget(macs=0.5))


def test_keras_on_another_backend_is_refused(model, split, monkeypatch):
    monkeypatch.setattr(session_module.keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match="Keras runs on jax.*KERAS_BACKEND=tensorflow"):
        make_session(model, split, Budget(macs=0.5))


@pytest.mark.parametrize("kind", ["macs", "latency"])
def test_an_impossible_budget_names_one_that_is_possible(model, split, kind):
    def session(value):
        meter = ScriptedMeter() if kind == "latency" else None
        return make_session(model, split, Budget(**{kind: value}), meter=meter)

    with pytest.raises(BudgetError, match=rf"the smallest network.*give at least {kind}=0\.\d+") as caught:
        session(0.01)

    value = float(re.search(rf"at least {kind}=([0-9.]+)", str(caught.value)).group(1))
    possible = session(value)
    assert possible.bounds.fits(possible.bounds.minimum)
    with pytest.raises(BudgetError):
        session(0.98 * value)


def test_a_latency_budget_needs_a_meter(model, split):
    with pytest.raises(BudgetError, match=r"needs the measured latency of the original; give a meter"):
        make_session(model, split, Budget(latency=0.5))


@pytest.mark.parametrize(
    ("reward", "meter", "words"),
    [
        ("latency", None, "reward latency needs a measured latency: give a meter"),
        ("soft_latency", ScriptedMeter(), "reward soft_latency needs a latency budget"),
        ("best", None, "There is no reward 'best'"),
    ],
)
def test_a_reward_that_lacks_something_is_refused_at_once(model, split, monkeypatch, reward, meter, words):
    monkeypatch.setattr(session_module, "calibrate", None)
    with pytest.raises(SettingsError, match=words):
        make_session(model, split, Budget(macs=0.5), meter=meter, reward=reward)


def test_an_accuracy_budget_without_a_reward_for_cost_is_refused(model, split):
    with pytest.raises(SettingsError, match="give the reward macs, parameters or latency"):
        make_session(model, split, Budget(accuracy=0.9))


def test_int8_latencies_are_ratios_to_the_original_in_int8(model, split):
    plain = make_session(model, split, Budget(macs=0.5), meter=ScriptedMeter())
    session = make_session(model, split, Budget(latency=0.5), meter=ScriptedMeter(), latency_precision="int8")
    assert session.tflite == plain.tflite
    assert session.baseline_ms != pytest.approx(plain.baseline_ms)
    assert session.limit.limit == pytest.approx(0.5 * session.baseline_ms)
    assert session.scorer(session.graph.full_widths).latency_ms == pytest.approx(
        session.baseline_ms, rel=0.01
    )
    assert session.baseline_top1 == plain.baseline_top1


def test_an_accuracy_floor_on_int8_networks_is_a_part_of_the_int8_original(model, split, monkeypatch):
    images = []

    def take_down(predict, data, **options):
        images.append(data)
        return Accuracy(0.9 / len(images), 1.0, 0.4)

    monkeypatch.setattr("amc_tf.executor.accuracy", take_down)
    session = make_session(model, split, Budget(accuracy=0.5), reward="macs", int8_accuracy=True)
    assert [len(data) for data in images] == [len(split.search)] * 2  # in float32, then in int8
    assert session.baseline_top1 == 0.45


def test_networks_are_recovered_by_the_accuracy_that_counts(model, split, monkeypatch):
    session = make_session(model, split, Budget(accuracy=0.5), reward="macs", int8_accuracy=True)

    def refuse(*args, **options):
        pytest.fail("weights were compared in float32")

    monkeypatch.setattr(session.executor, "accuracy", refuse)
    recovered = session.recover(session.bounds.minimum)
    score = session.scorer(session.bounds.minimum)
    assert session.scorer.rescore(score, recovered).top1 == session.scorer.accuracy(recovered).top1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "latency_precision is int8, but nothing is timed: give a meter"),
        ({"meter": ScriptedMeter(), "table": "table"}, "a latency table predicts float32 networks"),
    ],
)
def test_int8_latencies_that_nothing_measures_are_refused(model, split, table, given, words):
    given = {**given, **({"table": table} if "table" in given else {})}
    with pytest.raises(SettingsError, match=words):
        make_session(model, split, Budget(macs=0.5), latency_precision="int8", **given)


def test_an_accuracy_floor_is_a_part_of_the_accuracy_of_the_original(model, split):
    session = make_session(model, split, Budget(accuracy=0.5), reward="macs")
    assert session.scorer((16, 24, 16)).feasible
    smallest = session.scorer(session.bounds.minimum)
    assert smallest.feasible == (smallest.top1 >= 0.5 * session.baseline_top1)


def test_uniform_is_the_widest_that_is_timed_within_a_latency_limit(model, split):
    meter = ScriptedMeter()
    session = make_session(model, split, Budget(latency=0.5), meter=meter)
    uniform = session.uniform()
    assert uniform.feasible
    assert uniform.latency_ms <= session.limit.limit
    networks = uniform_networks(session.bounds)
    wider = networks[networks.index(uniform.widths) + 1]
    assert session.scorer(wider).latency_ms > session.limit.limit
    assert session.bounds.limit.limit == pytest.approx((1 - LATENCY_MARGIN) * session.limit.limit)


def test_a_search_by_latency_begins_within_the_limit_where_uniform_is_slower_than_predicted(model, split):
    class Bent(ScriptedMeter):
        """Half a network takes a quarter of the time."""

        def _ms(self, tflite):
            return super()._ms(tflite) ** 2

    other, session = (
        make_session(model, split, Budget(latency=0.6), meter=Bent(), episodes=2, warmup_episodes=1)
        for _ in range(2)
    )
    assert not other.scorer(controls.uniform(other.bounds)).feasible
    assert session.search().episodes[0]["feasible"]


def test_a_network_grows_in_its_proportions_until_a_latency_limit_is_used(model, split):
    session = make_session(model, split, Budget(latency=0.5), meter=ScriptedMeter())
    start = session.scorer(session.bounds.minimum)
    wider = session.widened(start)
    networks = wider_networks(session.bounds, start.widths)
    place = networks.index(wider.widths)
    assert start.latency_ms < wider.latency_ms <= session.limit.limit
    assert session.scorer(networks[place + 1]).latency_ms > session.limit.limit
    assert session.widened(wider) is wider


def test_a_network_stays_as_it_is_where_a_wider_one_cannot_be_timed(model, split, monkeypatch, caplog):
    session = make_session(model, split, Budget(latency=0.5), meter=ScriptedMeter())
    start = session.scorer(session.bounds.minimum)

    def gone(widths):
        raise MeasurementError("the phone is gone")

    monkeypatch.setattr(session, "scorer", gone)
    assert session.widened(start) is start
    assert "a wider one was not timed: the phone is gone" in caplog.text


def test_an_exact_limit_leaves_nothing_to_grow_into(macs_session):
    score = macs_session.scorer(macs_session.bounds.minimum)
    assert macs_session.widened(score) is score


def test_uniform_that_cannot_be_lowered_further_is_returned_as_measured(model, split, monkeypatch):
    session = make_session(model, split, Budget(latency=0.5), meter=ScriptedMeter())
    slow = dataclasses.replace(session.scorer(session.bounds.minimum), latency_ms=9.9, feasible=False)
    monkeypatch.setattr(session, "scorer", lambda widths: slow)
    assert session.uniform() is slow


def test_the_original_and_the_probes_are_timed_before_the_search(model, split):
    meter = ScriptedMeter()
    session = make_session(model, split, Budget(latency=0.5), meter=meter)
    assert len(meter.seen) == 4  # the original and three uniform networks
    assert session.baseline_ms == pytest.approx(len(session.tflite) * 1e-4)


def test_a_phone_that_is_gone_at_the_start_is_told_with_what_it_was_to_do(model, split):
    class Gone(ScriptedMeter):
        def measure(self, tflite):
            raise PhoneError("The phone A1 dropped out.")

    words = r"^The original network cannot be timed: The phone A1 dropped out\.$"
    with pytest.raises(PhoneError, match=words):
        make_session(model, split, Budget(latency=0.5), meter=Gone())


@pytest.fixture(scope="module")
def table(model):
    return make_table(model)


def test_a_table_bounds_the_widths_without_probes(model, split, table):
    meter = ScriptedMeter()
    session = make_session(model, split, Budget(latency=0.6), meter=meter, table=table)
    assert len(meter.seen) == 1  # the original alone
    full = session.bounds.full
    assert session.bounds.cost(full) == pytest.approx(session.baseline_ms, rel=0.05)
    uniform = session.uniform()
    assert uniform.feasible
    assert session.bounds.cost(uniform.widths) == pytest.approx(uniform.latency_ms, rel=0.1)


def test_a_search_by_table_alone_needs_no_device(model, split, table):
    session = make_session(model, split, Budget(latency=0.6), meter=TableMeter(table), table=table)
    result = session.search()
    assert session.baseline_ms == table.samples[0].median_ms
    assert result.best is not None
    assert result.best.latency_ms <= session.limit.limit


@pytest.mark.slow
def test_a_search_that_began_with_a_table_is_resumed_with_one_only(model, split, table, tmp_path):
    given = {"budget": Budget(latency=0.6), "meter": ScriptedMeter()}
    with RunFolder(tmp_path) as folder:
        make_session(model, split, table=table, **given).search(folder)
    words = re.escape(f"table was '{table.sha256[:16]}' and is now None")
    with RunFolder(tmp_path, resume=True) as folder, pytest.raises(RunFolderError, match=words):
        make_session(model, split, **given).search(folder)


def test_a_run_keeps_the_table_with_which_its_search_began(model, table, tmp_path):
    learned = dataclasses.replace(table, samples=table.samples[:2])
    with RunFolder(tmp_path) as folder:
        assert starting_table(folder, table) is table
        folder.save_state({})
    with RunFolder(tmp_path, resume=True) as folder:
        assert starting_table(folder, learned) == table
        assert starting_table(folder, None) is None
    with RunFolder(tmp_path, overwrite=True) as folder:
        assert starting_table(folder, learned) is learned
        assert LatencyTable.load(folder.table) == learned


def test_a_search_that_began_without_a_table_goes_on_without_the_one_it_has_made(model, table, tmp_path):
    with RunFolder(tmp_path) as folder:
        table.save(folder.table)  # of an earlier attempt that came to nothing
        assert starting_table(folder, None) is None
        folder.save_state({})
        assert starting_table(folder, table) is None
    assert starting_table(None, table) is table


def test_with_another_budget_nothing_is_probed(model, split):
    meter = ScriptedMeter()
    make_session(model, split, Budget(macs=0.5), meter=meter)
    assert len(meter.seen) == 1


def test_a_search_of_a_session_stays_within_its_budget(macs_session):
    result = macs_session.search()
    assert len(result.episodes) == 4
    assert result.best is not None
    assert all(record["macs"] <= macs_session.limit.limit for record in result.episodes)


def test_the_environment_of_a_session_scores_networks_within_its_budget(macs_session):
    env = macs_session.make_env()
    env.reset()
    for _ in range(env.num_steps):
        _, reward, terminated, _, info = env.step(np.array([1.0], np.float32))
    assert terminated
    assert info["score"] == macs_session.scorer(info["widths"])
    assert reward == info["score"].reward
    assert info["score"].cost.macs <= macs_session.limit.limit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"seed": 1}}, "seed was 0 and is now 1"),
        ({"settings": {"int8_accuracy": True}}, "int8_accuracy was False and is now True"),
        (
            {"settings": {"agent": AgentSettings(hidden_units=(9, 8), batch_size=8)}},
            "agent.hidden_units was [8, 8] and is now [9, 8]",
        ),
        ({"budget": Budget(macs=0.6)}, "budget was 'macs=0.5' and is now 'macs=0.6'"),
        ({"input_range": "imagenet"}, "input_range was '-1..1' and is now 'imagenet'"),
        ({"meter": ScriptedMeter(name="other")}, "meter was None and is now 'other ("),
        ({"model": "other"}, "model was"),
        ({"split": "other"}, "search_images was"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_checkpoint_is_resumed_by_the_same_session_only(model, split, resumable, change, words):
    given = {"model": model, "split": split, "budget": Budget(macs=0.5), "settings": {}, **change}
    if change.get("model"):
        given["model"] = keras.models.clone_model(model)
        given["model"].set_weights([1.01 * array for array in model.get_weights()])
    if change.get("split"):
        given["split"] = dataclasses.replace(split, search=split.search.take(np.arange(99)))
    settings = given.pop("settings")
    session = make_session(given.pop("model"), given.pop("split"), given.pop("budget"), **given, **settings)
    refusal = pytest.raises(RunFolderError, match=re.escape(f"of another search: {words}"))
    with RunFolder(resumable, resume=True) as folder, refusal:
        session.search(folder)


@pytest.fixture(scope="module")
def resumable(model, split, tmp_path_factory):
    path = tmp_path_factory.mktemp("resumable")
    with RunFolder(path) as folder:
        make_session(model, split, Budget(macs=0.5)).search(folder)
    return path


def test_how_often_to_save_may_change_when_a_search_is_resumed(model, split, resumable):
    with RunFolder(resumable, resume=True) as folder:
        result = make_session(model, split, Budget(macs=0.5), checkpoint_every=1).search(folder)
    assert len(result.episodes) == 4


def test_latency_of_a_meter_without_drift_correction_is_taken_as_it_is(model, split):
    class Plain(ScriptedMeter):
        def measure(self, tflite):
            return Latency.from_samples([self._ms(tflite)])

    session = make_session(model, split, Budget(latency=0.5), meter=Plain())
    assert session.baseline_ms == pytest.approx(len(session.tflite) * 1e-4)


def scored(widths, top1, *, feasible=True):
    return Score(widths, top1 - 1.0, top1, 1.0, top1, Cost(sum(widths), 1), None, feasible)


@pytest.mark.parametrize(
    ("best", "uniform", "winner"),
    [
        (scored((4, 4, 8), 0.8), scored((8, 8, 8), 0.7), "agent"),
        (scored((4, 4, 8), 0.7), scored((8, 8, 8), 0.8), "uniform"),
        (scored((4, 4, 8), 0.7), scored((8, 8, 8), 0.8, feasible=False), "agent"),
        (scored((4, 4, 8), 0.7), scored((8, 8, 8), 0.7), "uniform"),  # more operations left
        (scored((8, 8, 8), 0.7), scored((8, 8, 8), 0.7), "uniform"),
        (None, scored((8, 8, 8), 0.1), "uniform"),
    ],
)
def test_the_better_feasible_network_is_chosen_and_its_finder_named(
    macs_session, monkeypatch, best, uniform, winner
):
    monkeypatch.setattr(macs_session, "recover", lambda widths: {})
    monkeypatch.setattr(macs_session.scorer, "rescore", lambda score, weights, data=None: score)
    episodes = () if best is None else (best.to_json(),)
    choice = macs_session.choose(uniform, SearchResult(best, episodes))
    assert choice == Choice({"agent": best, "uniform": uniform}[winner], winner, uniform)


def test_without_a_network_within_the_budget_a_sentence_says_so(macs_session):
    episodes = (scored((4, 4, 8), 0.8, feasible=False).to_json(), {"kind": "dropped", "feasible": None})
    with pytest.raises(BudgetError, match=r"No network within the budget macs=0\.5 was found in 2 episodes"):
        macs_session.choose(scored((8, 8, 8), 0.1, feasible=False), SearchResult(None, episodes))


@pytest.mark.parametrize(
    ("fidelities", "tops", "floor", "winner"),
    [
        ((0.6, 0.5, 0.5, 0.9), (0.5, 0.6, 0.6, 0.9), 0.0, "in order"),
        ((0.5, 0.6, 0.5, 0.9), (0.6, 0.5, 0.6, 0.9), 0.0, "pulled"),
        ((0.5, 0.5, 0.6, 0.9), (0.6, 0.6, 0.5, 0.9), 0.0, "all statistics"),
        ((0.5, 0.5, 0.6, 0.9), (0.6, 0.6, 0.5, 0.9), 0.6, "in order"),
        ((0.5, 0.5, 0.6, 0.5), (0.6, 0.6, 0.6, 0.9), 0.7, "as scored"),
        ((0.5, 0.5, 0.6, 0.9), (0.6, 0.6, 0.6, 0.65), 0.7, "all statistics"),
    ],
)
def test_recovery_returns_the_weights_of_the_highest_fidelity_and_those_scored_only_for_the_floor(
    macs_session, monkeypatch, fidelities, tops, floor, winner
):
    widths = macs_session.bounds.minimum
    scored = macs_session.builder.weights(macs_session.builder.plan(widths))
    first = next(iter(scored))

    def marked(factor):
        return {**scored, first: {name: factor * array for name, array in scored[first].items()}}

    found = {"in order": marked(2), "pulled": marked(4), "all statistics": marked(3), "as scored": scored}
    kernels = {name: weights[first]["kernel"] for name, weights in found.items()}

    def measured(weights):
        same = [np.array_equal(weights[first]["kernel"], kernel) for kernel in kernels.values()]
        top1, fidelity = tops[same.index(True)], fidelities[same.index(True)]
        return Accuracy(top1, top5=1.0, probability=0.5, fidelity=fidelity)

    recover = macs_session.recover
    monkeypatch.setattr(recover, "_found", {})
    monkeypatch.setattr(recover, "_estimate", lambda weights, plan: found["all statistics"])

    def reconstructor(network, images, *, seed):
        names = {3.0: "in order", 30.0: "pulled"}
        return SimpleNamespace(with_ridges=lambda plan, start, ridges: [found[names[r]] for r in ridges])

    monkeypatch.setattr(recovery, "SequentialReconstructor", reconstructor)
    monkeypatch.setattr(recover, "_accuracy", measured)
    monkeypatch.setattr(recover, "_accuracy_floor", floor)

    np.testing.assert_array_equal(recover(widths)[first]["kernel"], kernels[winner])


def test_the_chosen_network_is_the_best_one_once_recovered(model, split):
    settings = {"episodes": 6, "warmup_episodes": 2, "num_finalists": 2}
    session = make_session(model, split, Budget(macs=0.5), **settings)
    uniform, result = session.uniform(), session.search()
    names = {tuple(record["widths"]) for record in result.episodes if record["feasible"]}
    assert len(names) > 2
    best = sorted((r for r in result.episodes if r["feasible"]), key=lambda r: (r["reward"], r["macs"]))
    looked_at = {uniform.widths, *(tuple(record["widths"]) for record in best[-2:])}

    choice = session.choose(uniform, result)

    assert choice.best.widths in looked_at
    parts = (session.split.search, session.split.calibration)
    found = {
        widths: [
            accuracy(session.network.predictor(session.recover(widths)), part, input_range=RANGE)
            for part in parts
        ]
        for widths in looked_at
    }
    merits = {
        widths: sum(of_part.probability * len(part) for of_part, part in zip(both, parts, strict=True))
        for widths, both in found.items()
    }
    assert merits[choice.best.widths] == pytest.approx(max(merits.values()))
    assert choice.best.top1 == pytest.approx(found[choice.best.widths][0].top1)
    assert choice.uniform.top1 == pytest.approx(found[uniform.widths][0].top1)
    assert choice.best.reward == pytest.approx(choice.best.probability - 1.0)


def test_finalists_use_a_latency_budget_before_one_is_chosen(model, split, monkeypatch):
    session = make_session(model, split, Budget(latency=0.5), meter=ScriptedMeter())
    start = session.scorer(session.bounds.minimum)
    wider, slow = session.widened(start), dataclasses.replace(session.uniform(), feasible=False)
    recovered = []

    def finalist(score):
        recovered.append(score.widths)
        return Finalist(score, score.reward)

    monkeypatch.setattr(session, "finalist", finalist)
    choice = session.choose(slow, SearchResult(start, (start.to_json(),)))
    assert recovered == [wider.widths] and choice.best is wider


def test_under_a_budget_of_accuracy_the_search_images_decide(model, split):
    session = make_session(model, split, Budget(accuracy=0.9), reward="macs")
    score = session.scorer(session.bounds.full)
    assert session.finalist(score).merit == session.finalist(score).score.reward


def test_a_network_is_recovered_once(model, split, monkeypatch):
    session = make_session(model, split, Budget(macs=0.5))
    first = session.recover(session.bounds.minimum)
    monkeypatch.setattr(session.recover, "_recover", None)
    assert session.recover(list(session.bounds.minimum)) is first


def test_candidates_are_refitted_in_network_order_on_request(model, split):
    session = make_session(model, split, Budget(macs=0.5), num_in_order_images=8)
    plan = session.builder.plan(session.bounds.minimum)
    images = to_input_range(split.calibration.images[:8], RANGE)
    start = make_session(model, split, Budget(macs=0.5)).builder.weights(plan)
    expected = SequentialReconstructor(session.network, images, points_per_image=16)(plan, start)

    found = session.builder.weights(plan)

    for path, arrays in expected.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[path][name], array)


def test_recovery_measures_batch_norm_statistics_on_all_calibration_images(model, split):
    session = make_session(model, split, Budget(macs=0.5), num_batch_norm_images=8, reconstruct=False)
    plan = session.builder.plan(session.bounds.minimum)
    images = to_input_range(split.calibration.images, RANGE)
    expected = BatchNormEstimator(session.network, images)(session.builder.weights(plan), plan)

    found = session.recover(session.bounds.minimum)

    *_, norm = (path for path, arrays in expected.items() if "moving_mean" in arrays)
    np.testing.assert_array_equal(found[norm]["moving_mean"], expected[norm]["moving_mean"])
    assert not np.array_equal(found[norm]["moving_mean"], session.builder.weights(plan)[norm]["moving_mean"])
