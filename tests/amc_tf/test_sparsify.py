import dataclasses
import hashlib
import json
import shutil
import zlib

import keras
import numpy as np
import pytest

import amc_tf
from amc_tf.budget import Budget
from amc_tf.clone import clone_with, copy_weights
from amc_tf.device.operators import read_operators
from amc_tf.errors import AmcError, ModelError, PhoneError, RunFolderError, RunStoppedError, SettingsError
from amc_tf.progress import Progress
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings
from amc_tf.sparsify import sparsify
from amc_tf.sparsity_plan import SparsityPlan
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_data

SETTINGS = SearchSettings(
    episodes=6,
    warmup_episodes=3,
    num_calibration_images=64,
    num_search_images=100,
    checkpoint_every=2,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)
UNTRAINED = FinetuneSettings(epochs=0)
ONE_EPOCH = FinetuneSettings(epochs=1, batch_size=32, augment="none", learning_rate=0.002)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


def run(model, out=None, *, meter=None, finetuning=UNTRAINED, budget=Budget(params=0.4), **options):  # noqa: B008
    return sparsify(
        model,
        make_data(240, 0),
        make_data(100, 1),
        budget=budget,
        meter=meter,
        settings=SETTINGS,
        finetuning=finetuning,
        input_range=RANGE,
        out=out,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "x"


@pytest.fixture(scope="module")
def result(model, folder):
    return run(model, folder)


def num_nonzero(model):
    return sum(np.count_nonzero(array) for array in model.get_weights())


def test_the_sparse_model_is_what_the_plan_says_and_within_the_budget(model, result):
    kernels = {path: result.model.get_layer(path).get_weights()[0] for path in result.plan.kept}
    assert {path: np.count_nonzero(kernel) for path, kernel in kernels.items()} == dict(result.plan.kept)
    assert num_nonzero(result.model) == result.summary["finetuned"]["params"] <= 0.4 * model.count_params()


def test_every_network_is_compared_with_the_original(model, result):
    summary = result.summary
    full = model.count_params()
    assert summary["baseline"]["params"] == full
    assert summary["baseline"]["bytes"] == 4 * full
    for name in ("uniform", "threshold", "pruned", "finetuned"):
        row = summary[name]
        assert 0.97 * 0.4 * full < row["params"] <= 0.4 * full
        assert row["bytes"] < 0.6 * 4 * full
        assert row["deflated_bytes"] < row["tflite_bytes"] < summary["baseline"]["tflite_bytes"]
    assert summary["meter"] is summary["baseline"]["latency_ms"] is None
    assert summary["pruned"]["top1"] == summary["finetuned"]["top1"]
    assert (summary["input_range"], summary["image_dtype"], summary["class_names"]) == (RANGE, "uint8", None)
    assert summary["finetuned_dense"]["tflite_bytes"] > summary["finetuned"]["tflite_bytes"]
    assert summary["finetuned_dense"]["top1"] == summary["finetuned"]["top1"]


def test_the_tflite_network_has_sparse_kernels_and_agrees_with_the_model(result):
    kinds = [operator.kind for operator in read_operators(result.tflite)]
    assert kinds.count("DENSIFY") >= 1
    assert result.summary["verification"]["float32"]["max_abs_error"] < 1e-4
    deflated = len(zlib.compress(result.tflite, 9))
    assert result.summary["finetuned"]["deflated_bytes"] == deflated


def test_the_folder_holds_what_the_result_holds(result, folder):
    assert json.loads((folder / "summary.json").read_text()) == result.summary
    assert SparsityPlan.load(folder / "plan.json") == result.plan
    assert (folder / "model_float32.tflite").read_bytes() == result.tflite
    assert num_nonzero(keras.models.load_model(folder / "model.keras")) == num_nonzero(result.model)
    assert len((folder / "episodes.jsonl").read_text().splitlines()) == 6
    layers = {layer["layer"]: layer for layer in result.summary["layers"]}
    assert {path: layer["kept"] for path, layer in layers.items()} == dict(result.plan.kept)
    assert layers["last"]["weights"] == 16 * 24 * 9


def test_an_earlier_run_is_not_overwritten_unasked(model, result, folder):
    with pytest.raises(RunFolderError, match="holds an earlier run"):
        run(model, folder)


def test_the_function_is_public():
    assert amc_tf.sparsify is sparsify


@pytest.mark.slow
def test_a_finished_run_resumes_to_the_same_plan(model, result, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    assert run(model, tmp_path / "again", resume=True).plan == result.plan


class Stopping(Progress):
    """Presses Ctrl-C when a step begins; takes down the steps."""

    def __init__(self, step):
        self.step, self.steps = step, []

    def stage(self, text):
        self.steps.append(text)
        if text == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def staged(model, tmp_path_factory):
    """A run of two stages that was stopped in the second and went on: (result, folder, steps of the rest)."""
    folder, rest = tmp_path_factory.mktemp("run"), Stopping(None)
    with pytest.raises(KeyboardInterrupt):
        run(model, folder, stages=2, finetuning=ONE_EPOCH, progress=Stopping("stage 2/2: search"))
    options = {"stages": 2, "finetuning": ONE_EPOCH, "finetune_uniform": True}
    return run(model, folder, resume=True, progress=rest, **options), folder, rest.steps


@pytest.mark.slow
def test_each_stage_prunes_what_the_one_before_has_trained(staged, model):
    result, folder, steps = staged
    full, stages = model.count_params(), result.summary["stages"]
    assert [stage["budget"]["limit"] for stage in stages] == [
        pytest.approx(0.4**0.5 * full),
        pytest.approx(0.4 * full),
    ]
    first, last = keras.models.load_model(folder / "stage1" / "model.keras"), result.model
    assert [num_nonzero(network) for network in (first, last)] == [stage["params"] for stage in stages]
    assert SparsityPlan.load(folder / "plan.json") == result.plan
    assert steps[:4] == ["calibrate", "controls", "stage 2/2: calibrate", "stage 2/2: search"]


@pytest.mark.slow
def test_the_controls_and_the_report_are_of_the_whole_budget(staged, model):
    result, folder, _ = staged
    summary = result.summary
    for name in ("uniform", "threshold", "pruned", "uniform_finetuned"):
        assert 0.97 * 0.4 < summary[name]["params"] / model.count_params() <= 0.4
    assert "What each stage did" in (folder / "report.html").read_text()
    assert [layer["kept"] for layer in summary["layers"]] == list(result.plan.kept.values())


@pytest.mark.slow
def test_a_run_of_stages_that_went_on_ends_as_one_that_was_never_stopped(staged, model):
    whole = run(model, stages=2, finetuning=ONE_EPOCH)
    assert whole.plan == staged[0].plan
    assert whole.tflite == staged[0].tflite
    assert whole.summary["stages"] == staged[0].summary["stages"]


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget(bytes=0.5), Budget(latency=0.7)], ids=str)
def test_stages_within_bytes_and_latency(model, tmp_path, budget):
    meter = ScriptedMeter() if budget.kind == "latency" else None
    result = run(model, tmp_path / "x", stages=2, budget=budget, meter=meter)
    stages = result.summary["stages"]
    assert stages[1]["params"] < stages[0]["params"] < model.count_params()
    if budget.kind == "bytes":
        assert all(stage["bytes"] <= stage["budget"]["limit"] for stage in stages)
        assert stages[1]["bytes"] == result.summary["finetuned"]["bytes"]
    again = run(model, tmp_path / "x", stages=2, budget=budget, meter=meter, resume=True)
    assert again.summary["stages"] == stages


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": 1}, "holds a run of several stages"),
        ({"min_keep_ratio_dense": 0.5}, "min_keep_ratio_dense was 0.02 and is now 0.5"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_a_run_of_stages_goes_on_with_the_same_settings_only(staged, model, options, words):
    given = {"stages": 2, "finetuning": ONE_EPOCH, **options}
    with pytest.raises(AmcError, match=words):
        run(model, staged[1], resume=True, **given)


def test_a_number_of_stages_that_is_none_is_refused(model, tmp_path):
    with pytest.raises(SettingsError, match="stages is 0; give a whole number from 1"):
        run(model, tmp_path / "x", stages=0)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_images_without_labels_are_trained_on(model):
    ways = ({}, {"unlabelled": make_data(60, 2).images})
    found = [run(model, finetuning=FinetuneSettings(epochs=1), **way).model.get_weights() for way in ways]
    assert not all(map(np.array_equal, *found))


@pytest.mark.slow
def test_networks_with_sparse_kernels_are_timed_beside_the_original(model):
    meter = ScriptedMeter()
    found = run(model, meter=meter, budget=Budget(params=0.6))
    summary = found.summary
    assert summary["plan_found_by"] != "agent"
    timings = meter.seen.count(hashlib.sha256(found.tflite).hexdigest())
    assert timings == 2 * 3, "as a control, and as pruned and final network, which are one"
    assert summary["meter"]["name"] == "scripted"
    assert summary["finetuned"]["latency_ms"]["ratio"] < 0.9
    assert summary["finetuned_dense"]["latency_ms"]["ratio"] > 1.0


def without_twin():
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    return keras.Model(
        inputs, keras.layers.Dense(4, activation="softmax")(keras.ops.mean(hidden, axis=(1, 2)))
    )


def test_a_network_that_cannot_be_trained_is_refused_before_the_search(tmp_path):
    with pytest.raises(ModelError, match=r"operation mean.* cannot be rebuilt in tf_keras"):
        run(without_twin(), tmp_path / "x", finetuning=FinetuneSettings(epochs=1))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_training_is_compared_with_uniform_sparsity_trained_alike(model):
    finetuning = FinetuneSettings(epochs=4, batch_size=32, learning_rate=3e-3)
    summary = run(model, finetuning=finetuning, finetune_uniform=True).summary
    assert summary["finetuned"]["top1"] > summary["pruned"]["top1"]
    assert summary["uniform_finetuned"]["params"] == summary["uniform"]["params"]
    assert summary["uniform_finetuned"]["top1"] > summary["uniform"]["top1"]


@pytest.mark.slow
def test_a_network_of_mixed_precision_becomes_a_sparse_one_in_float32(model, result):
    def to_mixed(path, config):
        return {**config, "dtype": "mixed_float16"} if path == "pointwise" else config

    mixed = clone_with(model, to_mixed)
    copy_weights(model, mixed)
    sparse = run(mixed, finetuning=FinetuneSettings(epochs=1, batch_size=32, learning_rate=1e-3))
    assert {layer.compute_dtype for layer in sparse.model.layers} == {"float32"}
    assert sparse.plan == result.plan


@pytest.mark.slow
def test_a_phone_that_goes_at_the_end_leaves_the_networks_behind(model, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Leaving(ScriptedMeter):
        def measure(self, tflite):
            if (tmp_path / "x" / "model_float32.tflite").exists():
                raise PhoneError("the phone is gone.")
            return super().measure(tflite)

    with pytest.raises(RunStoppedError, match="finished networks are in .*the phone is gone"):
        run(model, tmp_path / "x", meter=Leaving())
    assert (tmp_path / "x" / "plan.json").exists()
