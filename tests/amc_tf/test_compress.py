import dataclasses
import hashlib
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tf_keras

import amc_tf
from amc_tf.compress import CompressionResult, compress
from amc_tf.device.litert import TFLiteRunner
from amc_tf.device.table import TableMeter
from amc_tf.errors import (
    AmcError,
    BudgetError,
    DataError,
    ModelError,
    PhoneError,
    RunFolderError,
    RunStoppedError,
    SettingsError,
)
from amc_tf.evaluate import accuracy
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.image_data import to_input_range
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.run_folder import RUN_FILES, clear_errors
from amc_tf.score import Score, Scorer
from amc_tf.search import SearchResult
from amc_tf.session import PruningSession
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings, quantization_settings
from amc_tf.task import CompressionTask
from tests.harness import relative_error
from tests.trained import NUM_CLASSES, RANGE, ScriptedMeter, make_classifier, make_data, make_table

SETTINGS = SearchSettings(
    episodes=6,
    warmup_episodes=3,
    round_to=4,
    num_calibration_images=64,
    num_search_images=100,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)
ONE_EPOCH = FinetuneSettings(epochs=1, batch_size=32, augment="none", learning_rate=0.002)
NONE = FinetuneSettings(epochs=0)
TRAIN, VALIDATION = make_data(240, 0), make_data(100, 1)
NETWORKS = ("baseline", "uniform", "pruned", "finetuned", "int8_baseline", "int8", "uniform_finetuned")


class Listener(Progress):
    """Takes down what it is told."""

    def __init__(self):
        self.stages, self.episodes, self.epochs = [], [], []

    def stage(self, text):
        self.stages.append(text)

    def episode(self, record, total):
        self.episodes.append((record["episode"], total))

    def epoch(self, number, total, top1):
        self.epochs.append((number, total, top1))


HALF = amc_tf.Budget(macs=0.5)


def run(model, *, budget=HALF, train=TRAIN, validation=VALIDATION, **options):
    options = {"settings": SETTINGS, "finetuning": NONE, "input_range": RANGE, **options}
    return compress(model, train, validation, budget=budget, **options)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A whole run with a meter, a folder and fine-tuning: (result, folder, listener)."""
    folder, listener = tmp_path_factory.mktemp("run"), Listener()
    result = run(
        model,
        budget=amc_tf.Budget(latency=0.6),
        meter=ScriptedMeter(),
        finetuning=ONE_EPOCH,
        finetune_uniform=True,
        out=folder,
        labels={"model": "tiny", "data": "patterns", "command": ["amc-tf", "compress"]},
        progress=listener,
    )
    return result, folder, listener


@pytest.fixture(scope="module")
def summary(finished):
    return json.loads((finished[1] / "summary.json").read_text(encoding="utf-8"))


def test_every_file_of_the_run_folder_is_written(finished):
    _, folder, _ = finished
    assert [name for name in RUN_FILES if not (folder / name).is_file()] == []
    assert (folder / "checkpoint" / "search.npz").is_file()
    assert (folder / "checkpoint" / "measurements.sqlite").is_file()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == SETTINGS.episodes
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "tiny" in report
    assert "http" not in report.replace("http://www.w3.org", "")


@pytest.mark.parametrize("name", NETWORKS)
def test_summary_describes_each_network(summary, name):
    network = summary[name]
    assert set(network) == {"top1", "top5", "macs", "params", "tflite_bytes", "structure", "latency_ms"}
    assert 0 <= network["top1"] <= network["top5"] <= 1
    for key in ("macs", "params", "tflite_bytes"):
        assert isinstance(network[key], int)
        assert network[key] > 0
    latency = network["latency_ms"]
    assert set(latency) == {
        "median", "p5", "p95", "ratio", "noise", "predicted", "num_runs", "conditions"
    }  # fmt: skip
    assert (latency["predicted"], latency["num_runs"], latency["conditions"]) == (False, 3, {})
    assert 0 < latency["p5"] <= latency["median"] <= latency["p95"]


def test_a_network_that_cannot_be_trained_for_int8_is_refused_before_the_search(tmp_path):
    images = keras.Input((8, 8, 3))
    hidden = keras.layers.BatchNormalization(name="alone")(images)
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(hidden))
    model = keras.Model(images, keras.layers.Dense(NUM_CLASSES, activation="softmax")(hidden))
    with pytest.raises(ModelError, match=r"'alone' \(BatchNormalization\) cannot be trained for int8"):
        run(model, quantization=quantization_settings(1), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_network_without_hidden_outputs_to_imitate_is_refused_before_the_search(model, tmp_path):
    inner = keras.Model(model.inputs, model.layers[-2].output, name="backbone")
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner, keras.layers.Dense(NUM_CLASSES)])
    with pytest.raises(ModelError, match="No hidden outputs can be imitated"):
        run(outer, finetuning=FinetuneSettings(epochs=1, feature_weight=1.0), out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_quantisation_aware_training_adds_a_network_and_the_better_one_is_written(model, tmp_path):
    listener = Listener()
    result = run(
        model,
        meter=ScriptedMeter(),
        settings=dataclasses.replace(SETTINGS, latency_precision="int8"),
        quantization=quantization_settings(1),
        out=tmp_path,
        progress=listener,
    )
    assert result.summary["settings"]["quantization"] == quantization_settings(1).to_json()
    trained, plain = result.summary["int8_qat"], result.summary["int8"]
    assert trained["structure"] == plain["structure"]
    assert trained["latency_ms"]["ratio"] == pytest.approx(plain["latency_ms"]["ratio"], rel=0.1)
    assert trained["top1"] >= plain["top1"] - 0.1
    written = (tmp_path / "model_int8.tflite").read_bytes()
    assert written == result.tflite["int8"]
    assert len(written) == result.summary[result.summary["int8_written"]]["tflite_bytes"]
    assert listener.stages[-5:] == ["convert", "quantize", "convert", "measure", "report"]
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Found plan, int8, trained" in report


def test_networks_that_differ_in_weights_only_have_one_structure(summary):
    assert summary["pruned"]["structure"] == summary["finetuned"]["structure"]
    different = {summary[name]["structure"] for name in ("baseline", "pruned", "int8_baseline", "int8")}
    assert len(different) == 4


def test_summary_tells_how_it_came_about(summary):
    assert set(summary) == {
        *NETWORKS, "model", "data", "command", "plan_found_by", "stages", "channels", "verification",
        "int8_written", "budget", "operators", "num_unlabelled_images",
        "meter", "input_range", "image_dtype", "class_names", "settings", "versions", "seconds",
    }  # fmt: skip
    assert (summary["model"], summary["data"]) == ("tiny", "patterns")
    limit = 0.6 * summary["baseline"]["latency_ms"]["median"]
    assert summary["budget"] == {
        "kind": "latency", "value": 0.6, "limit": pytest.approx(limit), "unit": "ms"
    }  # fmt: skip
    assert summary["meter"] == {"name": "scripted", "fingerprint": "scripted 0.1 None"}
    assert summary["settings"] == {"search": SETTINGS.to_json(), "finetune": ONE_EPOCH.to_json()}
    assert summary["int8_written"] == "int8"
    assert summary["versions"]["keras"] == keras.__version__
    assert {"python", "tensorflow", "numpy", "ai-edge-litert", "amc-tf"} <= set(summary["versions"])
    steps = summary["seconds"]
    assert set(steps) == {"calibrate", "search", "finetune", "convert", "measure", "total"}
    assert steps["total"] == pytest.approx(sum(steps.values()) - steps["total"], abs=0.1)
    (stage,) = summary["stages"]
    assert (stage["budget"], stage["macs"]) == (summary["budget"], summary["finetuned"]["macs"])
    assert summary["plan_found_by"] in ("agent", "uniform")
    assert summary["verification"]["float32"]["top1_agreement"] == 1.0
    assert summary["verification"]["int8"]["num_images"] == 64


def test_summary_in_memory_and_on_disk_are_the_same(finished, summary):
    assert json.loads(json.dumps(finished[0].summary)) == summary


def test_plan_is_within_the_budget_as_measured(finished, summary, model):
    result, folder, _ = finished
    graph = ChannelGraph.from_model(model)
    plan = PruningPlan.load(folder / "plan.json")
    assert plan == result.plan
    cost = graph.count(plan.widths(graph))
    assert (summary["pruned"]["macs"], summary["pruned"]["params"]) == (cost.macs, cost.params)
    assert summary["pruned"]["latency_ms"]["median"] <= 0.6 * summary["baseline"]["latency_ms"]["median"]
    assert summary["finetuned"]["macs"] == cost.macs
    assert [item["after"] for item in summary["channels"]] == list(plan.widths(graph))
    assert [item["before"] for item in summary["channels"]] == [16, 24, 16]
    assert [item["layer"] for item in summary["channels"]] == ["first", "pointwise", "last"]


def test_numbers_of_the_summary_are_those_of_the_files(finished, summary):
    result, folder, _ = finished
    assert count_cost(result.model).macs == summary["finetuned"]["macs"]
    for name, key in (("float32", "finetuned"), ("int8", "int8")):
        content = (folder / f"model_{name}.tflite").read_bytes()
        assert content == result.tflite[name]
        assert len(content) == summary[key]["tflite_bytes"]
        found = accuracy(TFLiteRunner(content).predict, VALIDATION, input_range=RANGE)
        assert (found.top1, found.top5) == pytest.approx((summary[key]["top1"], summary[key]["top5"]))


def test_fine_tuning_recovers_accuracy(summary):
    assert summary["baseline"]["top1"] > 0.8
    assert summary["finetuned"]["top1"] >= summary["pruned"]["top1"]


@pytest.mark.slow
def test_the_model_file_loads_where_the_package_was_never_imported(finished, tmp_path):
    result, folder, _ = finished
    images = to_input_range(VALIDATION.images[:4], RANGE)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "np.save(sys.argv[3], np.asarray(model(np.load(sys.argv[2]), training=False)))\n"
        "assert not any(name.startswith('amc_tf') for name in sys.modules)\n"
    )
    paths = [folder / "model.keras", tmp_path / "images.npy", tmp_path / "outputs.npy"]
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True, cwd=tmp_path, timeout=60)
    assert relative_error(np.load(paths[2]), result.model(images, training=False)) < 1e-6


def test_progress_is_told_everything(finished):
    listener = finished[2]
    assert listener.stages == ["calibrate", "search", "finetune", "convert", "measure", "report"]
    assert listener.episodes == [(number, 6) for number in range(6)]
    assert [epoch[:2] for epoch in listener.epochs] == [(0, 1), (1, 1)] * 2  # the plan's, uniform's


def test_the_original_is_not_changed(model, finished):
    for old, new in zip(make_classifier(keras).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.fixture(scope="module")
def in_memory(model):
    """A run without a meter, a folder or fine-tuning, on arrays."""
    return run(model, train=(TRAIN.images, TRAIN.labels), validation=(VALIDATION.images, VALIDATION.labels))


def test_without_a_meter_latency_is_left_out(in_memory):
    assert isinstance(in_memory, CompressionResult)
    assert in_memory.summary["meter"] is None
    assert all(in_memory.summary[name]["latency_ms"] is None for name in NETWORKS[:-1])
    assert "uniform_finetuned" not in in_memory.summary


def test_without_labels_the_summary_names_the_model_and_says_what_the_data_was(in_memory):
    assert in_memory.summary["model"] == "tiny"
    assert in_memory.summary["data"] == "140 training and 100 validation images"
    assert in_memory.summary["command"].endswith("budget=amc_tf.Budget(macs=0.5), ...)")


def test_without_fine_tuning_the_pruned_network_is_the_final_one(in_memory):
    assert in_memory.summary["finetuned"] == in_memory.summary["pruned"]


def test_a_plan_holds_an_exact_budget(in_memory, model):
    assert in_memory.summary["pruned"]["macs"] <= 0.5 * count_cost(model).macs
    assert in_memory.summary["uniform"]["macs"] <= 0.5 * count_cost(model).macs
    assert in_memory.summary["budget"]["limit"] == 0.5 * count_cost(model).macs


@pytest.mark.slow
def test_the_same_seed_gives_the_same_network(in_memory, model):
    again = run(model)
    assert again.plan == in_memory.plan
    assert again.tflite["float32"] == in_memory.tflite["float32"]


@pytest.fixture
def no_search(monkeypatch):
    """Leaves uniform as the only network."""
    monkeypatch.setattr(PruningSession, "search", lambda *_: SearchResult(None, ()))


@pytest.mark.parametrize("wins", ["uniform", "agent"])
def test_the_better_plan_is_taken_and_its_finder_named(model, monkeypatch, wins):
    def search(session, folder=None, on_episode=None):
        uniform = session.uniform()
        worse = dataclasses.replace(session.scorer(session.bounds.minimum), reward=uniform.reward - 0.1)
        better = dataclasses.replace(worse, reward=uniform.reward + 0.1)
        best = worse if wins == "uniform" else better
        return SearchResult(best, (best.to_json(),))

    monkeypatch.setattr(PruningSession, "search", search)
    monkeypatch.setattr(Scorer, "rescore", lambda scorer, score, weights, data=None: score)
    result = run(model)
    assert result.summary["plan_found_by"] == wins
    widths = [item["after"] for item in result.summary["channels"]]
    uniform = [item["uniform"] for item in result.summary["channels"]]
    assert (widths == uniform) == (wins == "uniform")


@pytest.mark.usefixtures("no_search")
def test_a_validation_set_that_lacks_the_last_class_is_no_error(model):
    few = VALIDATION.take(np.flatnonzero(VALIDATION.labels < NUM_CLASSES - 1))
    result = run(
        model,
        validation=(few.images, few.labels),
    )
    assert result.summary["baseline"]["top1"] > 0.7


@pytest.mark.usefixtures("no_search")
def test_images_without_labels_are_counted_and_refused_where_nothing_is_trained(model, tmp_path):
    more = make_data(30, 2).images
    result = run(model, finetuning=ONE_EPOCH, unlabelled=more)
    assert result.summary["num_unlabelled_images"] == 30
    with pytest.raises(SettingsError, match="give epochs of fine-tuning"):
        run(model, unlabelled=more, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("no_search")
def test_accuracy_guaranteed_search_needs_no_bound(model):
    settings = dataclasses.replace(SETTINGS, reward="macs")
    result = run(model, budget=amc_tf.Budget(accuracy=0.8), settings=settings)
    assert result.summary["budget"] == {
        "kind": "accuracy", "value": 0.8, "limit": None, "unit": "of the accuracy"
    }  # fmt: skip
    assert json.loads(json.dumps(result.summary)) == result.summary


def test_an_unreachable_accuracy_becomes_a_sentence(model):
    settings = dataclasses.replace(
        SETTINGS, episodes=2, warmup_episodes=1, reward="macs", reestimate_batch_norm=False
    )
    session_scorer = Score((4, 8, 4), -0.9, 0.1, 0.9, 0.1, count_cost(model), None, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amc_tf.score.Scorer._score", lambda scorer, widths: session_scorer)
        with pytest.raises(BudgetError, match=r"accuracy=1 was found in 2 episodes"):
            run(model, budget=amc_tf.Budget(accuracy=1.0), settings=settings)


@pytest.mark.slow
def test_a_tf_keras_model_is_compressed_end_to_end(tmp_path):
    model = make_classifier(tf_keras)
    result = run(model, out=tmp_path)
    assert isinstance(result.model, tf_keras.Model)
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    images = to_input_range(VALIDATION.images[:8], RANGE)
    assert relative_error(loaded(images), result.model(images)) < 1e-6
    assert relative_error(TFLiteRunner(result.tflite["float32"]).predict(images), loaded(images)) < 1e-4
    assert result.summary["baseline"]["top1"] > 0.8


@pytest.mark.slow
class StopAfter(keras.callbacks.Callback):
    """Stops the search after an episode, and takes down the rewards."""

    def __init__(self, episode):
        super().__init__()
        self.episode, self.rewards = episode, []

    def on_epoch_end(self, epoch, logs=None):
        self.rewards.append(logs["reward"])
        self.model.stop_training = epoch >= self.episode


@pytest.mark.slow
def test_a_keras_callback_ends_the_search_and_the_rest_is_played_on_resuming(model, tmp_path):
    whole = run(model, out=tmp_path / "whole")
    stop = StopAfter(3)
    stopped = run(model, out=tmp_path / "stopped", callbacks=[stop])
    assert count_cost(stopped.model).macs <= 0.5 * count_cost(model).macs
    path = tmp_path / "stopped" / "episodes.jsonl"
    assert len(path.read_text().splitlines()) == len(stop.rewards) == 4
    assert (tmp_path / "stopped" / "report.html").is_file()

    listener = StopAfter(SETTINGS.episodes)
    resumed = run(model, out=tmp_path / "stopped", resume=True, callbacks=[listener])
    assert listener.rewards[:4] == stop.rewards
    assert len(listener.rewards) == SETTINGS.episodes
    assert resumed.plan == whole.plan


def test_a_callback_that_cannot_listen_is_refused_before_any_work(model, tmp_path):
    with pytest.raises(SettingsError, match="ModelCheckpoint works on a model in training"):
        run(model, out=tmp_path / "x", callbacks=[keras.callbacks.ModelCheckpoint("best.keras")])
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_finished_run_resumes_to_the_same_result(finished, model):
    result, folder, _ = finished
    meter = ScriptedMeter()
    again = run(
        model,
        budget=amc_tf.Budget(latency=0.6),
        meter=meter,
        finetuning=ONE_EPOCH,
        out=folder,
        resume=True,
    )
    assert again.plan == result.plan
    assert again.tflite == dict(result.tflite)
    assert len(set(meter.seen)) <= 6  # what the search had measured came from the store


def test_an_earlier_run_is_not_overwritten_unasked(finished, model):
    with pytest.raises(RunFolderError, match="--resume.*--overwrite"):
        run(model, out=finished[1])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"budget": amc_tf.Budget(macs=0.001)}, BudgetError, "smallest network"),
        ({"budget": amc_tf.Budget(latency=0.5)}, BudgetError, "give a meter"),
        ({"train": (TRAIN.images, TRAIN.labels + 1)}, DataError, "labels go up to 4"),
        ({"train": "digits"}, DataError, "Image data cannot be made of a str"),
        ({"model": "demo"}, ModelError, "."),
    ],
    ids=["budget", "meter", "labels", "data", "model"],
)
def test_bad_input_raises_a_sentence(model, changes, error, words):
    options = {"model": model, **changes}
    with pytest.raises(error, match=words) as caught:
        run(options.pop("model"), **options)
    assert isinstance(caught.value, AmcError)


def test_data_that_cannot_be_used_leaves_an_earlier_run_alone(model, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(DataError):
        run(model, train="digits", out=tmp_path, overwrite=True)
    assert (tmp_path / "summary.json").exists()


class Leaving(ScriptedMeter):
    """Times everything up to the last stage of a run; `seen` is filled up there."""

    def measure(self, tflite):
        if len(self.seen) > 900:
            raise PhoneError("The phone is gone.")
        return super().measure(tflite)


@pytest.mark.slow
def test_a_phone_that_leaves_before_the_last_stage_costs_no_network(model, tmp_path):
    meter, listener = Leaving(), Listener()
    listener.stage = lambda text: meter.seen.extend([""] * 999) if text == "measure" else None
    options = {"budget": amc_tf.Budget(latency=0.6), "out": tmp_path}
    words = re.escape(f"The finished networks are in {tmp_path}, but could not be timed: The phone is gone.")
    with pytest.raises(RunStoppedError, match=words):
        run(model, meter=meter, progress=listener, **options)
    written = {path.name for path in tmp_path.iterdir()}
    assert {"model.keras", "model_float32.tflite", "model_int8.tflite", "plan.json"} <= written
    assert "summary.json" not in written
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert run(model, meter=ScriptedMeter(), resume=True, **options).plan == plan


@pytest.mark.usefixtures("no_search")
def test_a_run_by_table_alone_marks_every_network_that_the_table_has_not_timed(model):
    table = make_table(model)
    result = run(model, budget=amc_tf.Budget(latency=0.6), meter=TableMeter(table), table=table)
    latencies = {name: result.summary[name]["latency_ms"] for name in NETWORKS[:-1]}
    known = {sample.structure for sample in table.samples}
    for name in ("baseline", "uniform", "pruned", "finetuned"):
        assert latencies[name]["predicted"] == (result.summary[name]["structure"] not in known)
    assert not latencies["baseline"]["predicted"]
    assert latencies["int8"] is None
    assert "float32" in result.summary["int8"]["not_timed"]


@pytest.mark.usefixtures("no_search")
def test_without_fine_tuning_the_final_network_is_not_converted_and_timed_again(model, monkeypatch):
    converted, meter = [], ScriptedMeter()

    class Counting(CompressionTask):
        def convert(self, model, precision, *, input_shape):
            converted.append((model, precision))
            return super().convert(model, precision, input_shape=input_shape)

    monkeypatch.setattr(sys.modules["amc_tf.compress"], "CompressionTask", Counting)
    result = run(model, meter=meter)
    final = hashlib.sha256(result.tflite["float32"]).hexdigest()
    assert len(converted) == len(set(converted)) == 4  # uniform, final, and both int8
    assert meter.seen.count(final) == 2 * 3, "as uniform and as the final network, three timings each"


@pytest.mark.usefixtures("no_search")
def test_a_full_disk_at_the_end_becomes_a_sentence(model, tmp_path, monkeypatch):
    def full(model, path):
        with clear_errors(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["amc_tf.compress"], "write_keras_model", full)
    with pytest.raises(RunFolderError, match=r"model\.keras cannot be written: No space left on device"):
        run(model, out=tmp_path)


def test_all_public_names_are_there():
    assert [name for name in amc_tf.__all__ if not hasattr(amc_tf, name)] == []
    assert amc_tf.compress is compress


def test_training_and_validation_images_must_have_one_size(model):
    with pytest.raises(DataError, match=r"training images are 8x8x3, but the validation images are 7x8x3"):
        run(model, validation=dataclasses.replace(VALIDATION, images=VALIDATION.images[:, 1:]))
