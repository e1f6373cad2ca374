"""The verbs that read and write single files: inspect, prune, finetune, convert, benchmark, report."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from amc_tf.device.host_meter import HostMeter
from amc_tf.errors import MeasurementError
from amc_tf.graph import ChannelGraph, count_cost
from amc_tf.model_file import load_model
from amc_tf.plan import uniform_plan
from tests.trained import make_data


@pytest.fixture(scope="module")
def made(files, tmp_path_factory):
    """A folder with plan.json, half of every group of tiny.keras."""
    folder = tmp_path_factory.mktemp("made")
    graph = ChannelGraph.from_model(load_model(str(files / "tiny.keras")))
    uniform_plan(graph, 0.5, round_to=4).save(folder / "plan.json")
    return folder


def test_inspect_lists_groups_and_frozen_channels_with_reasons(amc):
    lines = amc("inspect", "tiny.keras").out.splitlines()
    assert lines[2].split() == "channel group channels MACs share made by read by".split()
    assert [line.split()[:2] for line in lines[3:6]] == [["first", "16"], ["pointwise", "24"], ["last", "16"]]
    assert any("classes" in line and "the model's outputs are the classes" in line for line in lines)


def test_inspect_shows_the_uniform_plan_of_a_budget(amc, files):
    result = json.loads(amc("inspect", "tiny.keras", "--budget=macs=0.5", "--round-to=4", "--json").out)
    graph = ChannelGraph.from_model(load_model(str(files / "tiny.keras")))
    widths = tuple(result["uniform"]["widths"].values())
    assert list(result["uniform"]["widths"]) == [group.name for group in graph.groups]
    assert result["uniform"]["macs"] == graph.count(widths).macs <= 0.5 * result["macs"]
    assert "uniform plan of macs=0.5" in amc("inspect", "tiny.keras", "--budget=macs=0.5", "--round-to=4").out


def test_inspect_counts_an_open_image_size_at_the_one_given(amc, tmp_path):
    images = keras.Input((None, None, 3))
    hidden = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(images)
    outputs = keras.layers.Dense(2, use_bias=False)(keras.layers.GlobalAveragePooling2D()(hidden))
    keras.Model(images, outputs).save(tmp_path / "open.keras")
    result = json.loads(amc("inspect", tmp_path / "open.keras", "--image-size=10", "--json").out)
    assert result["macs"] == 10 * 10 * 3 * 3 * 3 * 8 + 8 * 2


def test_inspect_refuses_a_budget_that_cannot_be_counted(amc):
    outcome = amc("inspect", "tiny.keras", "--budget=latency=0.5")
    assert outcome.code == 1
    assert "give macs, params or bytes" in outcome.err


def test_prune_saves_a_slim_model_and_refuses_to_overwrite_it(amc, made):
    words = ["prune", "tiny.keras", "--plan", made / "plan.json", "--out", made / "slim.keras"]
    outcome = amc(*words, "--json")
    result = json.loads(outcome.out)
    slim = keras.models.load_model(made / "slim.keras")
    assert count_cost(slim).macs == result["after"]["macs"] < 0.4 * result["before"]["macs"]
    refused = amc(*words)
    assert refused.code == 1
    assert refused.err == (
        f"amc-tf: {made / 'slim.keras'} exists: give --overwrite to replace it, or name another file.\n"
    )
    assert amc(*words, "--overwrite").code == 0


def test_prune_with_data_recovers_accuracy(amc, made):
    words = ["prune", "tiny.keras", "--plan", made / "plan.json", "--data=data.npz", "--json"]
    plain = ["--no-reconstruct", "--no-batch-norm"]
    raw = json.loads(amc(*words, "--out", made / "raw.keras", *plain).out)
    recovered = json.loads(amc(*words, "--out", made / "recovered.keras").out)
    assert raw["before"]["top1"] == recovered["before"]["top1"] > 0.8
    assert recovered["after"]["top1"] > raw["after"]["top1"]


def test_finetune_saves_the_best_epoch(amc, made):
    plan = ["--plan", made / "plan.json"]
    assert amc("prune", "tiny.keras", *plan, "--out", made / "student.keras").code == 0
    words = ["finetune", made / "student.keras", "--data=data.npz", "--teacher=tiny.keras", "--epochs=2"]
    result = json.loads(amc(*words, "--out", made / "tuned.keras", "--json").out)
    assert result["after"]["top1"] >= result["before"]["top1"]
    assert count_cost(keras.models.load_model(made / "tuned.keras")) == count_cost(
        keras.models.load_model(made / "student.keras")
    )


def test_finetune_imitates_hidden_outputs_by_the_plan(amc, made):
    plan = ["--plan", made / "plan.json"]
    assert amc("prune", "tiny.keras", *plan, "--out", made / "follower.keras").code == 0
    words = ["finetune", made / "follower.keras", "--data=data.npz", "--epochs=1", "--out", made / "by.keras"]
    weight = ["--feature-weight=2"]
    for options, told in [
        (weight, "--feature-weight imitates a --teacher: give one."),
        ([*plan, "--teacher=tiny.keras"], "--plan is read for --feature-weight alone"),
        (["--unlabelled=more.npz"], "On --unlabelled images a --teacher is imitated: give one."),
        ([*weight, "--teacher=tiny.keras"], "feature_weight needs the plan"),
    ]:
        refused = amc(*words, *options)
        assert refused.code == 1 and told in refused.err
        assert not (made / "by.keras").exists()
    assert amc(*words, *weight, *plan, "--teacher=tiny.keras", "--freeze-batch-norm").code == 0
    before, after = (keras.models.load_model(made / name) for name in ("follower.keras", "by.keras"))
    frozen, trained = before.non_trainable_variables, before.trainable_variables
    assert frozen and all(map(np.array_equal, frozen, after.non_trainable_variables))
    assert not all(map(np.array_equal, trained, after.trainable_variables))


@pytest.mark.slow
def test_finetune_imitates_the_teacher_on_images_of_a_folder(amc, made):
    (made / "more").mkdir()
    for number, pixels in enumerate(make_data(40, 2).images):
        Image.fromarray(pixels).save(made / "more" / f"{number}.png")
    words = ["finetune", "tiny.keras", "--data=data.npz", "--epochs=1", "--teacher=tiny.keras"]
    more = ["--unlabelled", made / "more"]
    files = [made / "without.keras", made / "with.keras"]
    for options, file in zip(([], more), files, strict=True):
        assert amc(*words, *options, "--out", file).code == 0
    without, with_more = (keras.models.load_model(file).get_weights() for file in files)
    assert not all(map(np.array_equal, without, with_more))


@pytest.mark.parametrize("precision", ["float32", "float16", "dynamic", "int8"])
def test_convert_verifies_each_precision(amc, made, precision):
    path = made / f"{precision}.tflite"
    words = ["convert", "tiny.keras", "--precision", precision, "--data=data.npz", "--out", path]
    result = json.loads(amc(*words, "--json").out)
    assert result["bytes"] == path.stat().st_size
    assert result["top1_agreement"] > 0.9
    assert result["num_images"] == 64
    assert "exists: give --overwrite" in amc(*words).err


def test_convert_shows_the_int8_network_beside_float32(amc, made):
    outcome = amc(
        "convert", "tiny.keras", "--precision=int8", "--data=data.npz", "--out", made / "shown.tflite"
    )
    header, full, small = [line.split() for line in outcome.out.splitlines()[-3:]]
    assert header == ["top-1", "top-5", "file"]
    assert (full[0], small[0]) == ("float32", "int8")
    assert float(small[-2]) == pytest.approx((made / "shown.tflite").stat().st_size / 1000, abs=0.05)


def test_convert_tells_why_a_network_could_not_be_timed(amc, made, monkeypatch):
    measure, timed = HostMeter.measure, []

    def measure_the_first(self, tflite):
        timed.append(tflite)
        if tflite != timed[0]:
            raise MeasurementError("This phone has no int8.")
        return measure(self, tflite)

    monkeypatch.setattr(HostMeter, "measure", measure_the_first)
    words = ["--precision=int8", "--data=data.npz", "--meter=host", "--out", made / "untimed.tflite"]
    *_, int8, gap, reason = amc("convert", "tiny.keras", *words).out.splitlines()
    assert int8.startswith("int8") and int8.endswith(" kB") and gap == ""
    assert reason == "int8: could not be timed. This phone has no int8."


@pytest.mark.slow
def test_convert_trains_for_int8_and_writes_the_better_network(amc, made):
    path = made / "trained.tflite"
    words = ["convert", "tiny.keras", "--precision=int8", "--data=data.npz", "--qat-epochs=2", "--meter=host"]
    result = json.loads(amc(*words, "--out", path, "--json").out)
    networks = result["networks"]
    assert list(networks) == ["float32", "int8", "int8_qat"]
    assert networks[result["written"]]["tflite_bytes"] == path.stat().st_size == result["bytes"]
    assert networks["int8_qat"]["top1"] >= networks["float32"]["top1"] - 0.1
    assert all(network["latency_ms"]["ratio"] > 0 for network in networks.values())


@pytest.mark.parametrize("option", ["--qat-epochs=1", "--meter=host", "--meter=gpu"])
def test_convert_refuses_what_only_int8_heeds(amc, tmp_path, option):
    outcome = amc("convert", "tiny.keras", option, "--out", tmp_path / "a.tflite")
    words = f"{option.partition('=')[0]} is about int8 networks: give --precision int8 too."
    assert (outcome.code, outcome.err) == (1, f"amc-tf: {words}\n")


@pytest.mark.parametrize("option", ["--delegate=gpu", "--fp16", "--rounds=9", "--threads=4", "--batch=2"])
def test_convert_refuses_options_of_timing_where_it_times_nothing(amc, tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stopped:
        amc("convert", "tiny.keras", option, "--out", tmp_path / "a.tflite")
    assert stopped.value.code == 2
    words = f"{option.partition('=')[0]} is about timing, but no network is timed: give --meter or -s too"
    assert words in capsys.readouterr().err


def test_convert_refuses_a_meter_that_cannot_time_int8(amc, tmp_path):
    words = ["--precision=int8", "--data=data.npz", "--meter=gpu", "--out", tmp_path / "a.tflite"]
    assert (
        "--meter gpu times no int8 networks: give --meter phone" in amc("convert", "tiny.keras", *words).err
    )


def test_convert_without_data_verifies_on_random_images(amc, made):
    outcome = amc("convert", "tiny.keras", "--out", made / "random.tflite")
    assert "top-1 agrees in 100.0 % of 8 random images" in outcome.out


def test_benchmark_compares_with_a_reference(amc, made):
    amc("convert", "tiny.keras", "--out", made / "time.tflite")
    words = ["benchmark", made / "time.tflite", "--reference", made / "time.tflite", "--runs=20"]
    result = json.loads(amc(*words, "--json").out)
    assert result["num_runs"] >= 20
    assert result["latency_ms"]["p5"] <= result["latency_ms"]["median"] <= result["latency_ms"]["p95"]
    assert result["speed_up"] > 0
    assert " runs on host:1-thread, " in amc("benchmark", made / "time.tflite", "--runs=20").out


def test_report_is_written_again(amc, tmp_path):
    outcome = amc("report", tmp_path)
    assert outcome.code == 1
    assert (
        outcome.err == f"amc-tf: {tmp_path / 'summary.json'} is missing; give the folder of a finished run.\n"
    )


def test_outputs_keep_their_suffix_and_need_a_folder(amc, tmp_path, made):
    plan = ["--plan", made / "plan.json"]
    assert "must end in .keras" in amc("prune", "tiny.keras", *plan, "--out", tmp_path / "a.h5").err
    missing = tmp_path / "none" / "a.tflite"
    assert f"there is no folder {tmp_path / 'none'}" in amc("convert", "tiny.keras", "--out", missing).err


def test_accuracy_before_is_that_of_the_file(amc, files, made):
    model = keras.models.load_model(files / "tiny.keras")
    data = np.load(files / "data.npz")
    images = data["x_test"].astype(np.float32) / 127.5 - 1.0
    top1 = float(np.mean(np.asarray(model(images)).argmax(-1) == data["y_test"]))
    words = ["prune", "tiny.keras", "--plan", made / "plan.json", "--data=data.npz", "--json"]
    result = json.loads(amc(*words, "--out", made / "same.keras").out)
    assert result["before"]["top1"] == pytest.approx(top1)
