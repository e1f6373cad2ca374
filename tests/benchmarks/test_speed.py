"""The speed report: how timings are compared, and each part on work small enough for a test."""

import json
import time

import keras
import numpy as np
import pytest

from amc_tf.data import to_input_range
from amc_tf.models.mobilenet import cifar_mobilenet
from benchmarks.speed import __main__ as speed
from benchmarks.speed import conversion, episode, finetuning, growth, networks, small_networks
from benchmarks.speed.figures import Figure, Options, in_turn, median, ratios

FEW = 2


@pytest.fixture
def options(tmp_path):
    return Options(data_dir=tmp_path, rounds=FEW)


def tiny_classifier():
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((8, 8, 3)),
            layers.Conv2D(16, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def by_key(figures):
    return {figure.key: figure for figure in figures}


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "holds"),
    [
        (1.0, 1.0, False, True),
        (1.1, 1.0, False, False),
        (1.1, 1.0, True, True),
        (0.9, 1.0, True, False),
        (9.0, None, False, None),
    ],
)
def test_a_limit_holds_up_to_its_value(value, limit, at_least, holds) -> None:
    assert Figure("part.what", value, "x", limit=limit, at_least=at_least).holds is holds


def test_medians_carry_their_spread() -> None:
    assert median("part.what", [3.0, 1.0, 2.0], "s") == Figure("part.what", 2.0, "s", spread=(1.0, 3.0))


def test_calls_are_timed_in_turn_after_one_that_does_not_count(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    order = []

    def call(name, takes):
        def run():
            order.append(name)
            clock[0] += takes

        return run

    first, second = in_turn(2, call("a", 1.0), call("b", 3.0))

    assert order == ["a", "b", "a", "b", "a", "b"]
    assert (first, second) == ([1.0, 1.0], [3.0, 3.0])
    assert ratios(second, first) == [3.0, 3.0]


def test_the_report_names_broken_limits_and_the_command_fails(tmp_path, monkeypatch, capsys) -> None:
    figures = [Figure("start.good", 1.0, "s", limit=2.0), Figure("start.bad", 3.0, "s", limit=2.0)]
    monkeypatch.setitem(speed.PARTS, "start", lambda options: figures)
    file = tmp_path / "speed.json"

    assert speed.main(["start", "--data-dir", str(tmp_path), "--json", str(file)]) == 1

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("at most 2: holds") and lines[1].endswith("at most 2: BROKEN")
    written = {entry["key"]: entry["holds"] for entry in json.loads(file.read_text())["figures"]}
    assert written == {"start.good": True, "start.bad": False}


@pytest.mark.slow
def test_several_parts_have_a_process_each(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setitem(speed.PARTS, "start", None)  # would fail in this process
    file = tmp_path / "speed.json"

    assert (
        speed.main(["start", "start", "--rounds", "1", "--data-dir", str(tmp_path), "--json", str(file)]) == 0
    )

    keys = [entry["key"] for entry in json.loads(file.read_text())["figures"]]
    assert keys == 2 * ["start.help_seconds", "start.devices_seconds", "start.benchmark_seconds"]
    assert capfd.readouterr().out.count("at most 0.5: ") == 6


def test_a_figure_is_written_and_read_alike() -> None:
    for figure in (
        Figure("part.what", 1.0, "s", limit=2.0, spread=(0.5, 1.5)),
        Figure("part.which", 2.0, "x"),
    ):
        assert Figure.from_json(json.loads(json.dumps(figure.to_json()))) == figure


def test_an_unknown_part_is_refused(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        speed.main(["stat", "--data-dir", str(tmp_path)])
    assert "there is no part 'stat'; choose from start, conversion" in capsys.readouterr().err


@pytest.mark.slow
def test_conversion_compares_equal_networks(options) -> None:
    figures = by_key(conversion.measure(options))
    assert figures["conversion.max_difference"].holds and figures["conversion.different_operators"].holds
    assert figures["conversion.speedup"].value > 1


@pytest.mark.slow
def test_an_untrained_network_sees_all_classes_in_noise() -> None:
    model = cifar_mobilenet(alpha=0.25)
    search = networks.noise_split(model, num_search=100, num_calibration=100).search
    assert set(search.labels) == set(range(10))
    predicted = model.predict(to_input_range(search.images, networks.INPUT_RANGE), verbose=0).argmax(axis=-1)
    assert np.array_equal(predicted, search.labels)


@pytest.mark.slow
def test_the_pieces_of_a_small_search_make_up_its_time(options, monkeypatch) -> None:
    monkeypatch.setattr(small_networks, "_NUM_EPISODES", 12)
    monkeypatch.setattr(small_networks, "_NUM_IMAGES", 50)
    monkeypatch.setattr(networks, "NUM_IMAGES", 50)
    figures = by_key(small_networks.measure(options))
    shares = [figures[f"small.{name}_share"].value for name in ("evaluation", "recovery", "plan", "agent")]
    assert sum(shares) == pytest.approx(1.0) and min(shares[:3]) > 0


@pytest.mark.slow
def test_growth_is_measured_for_everything_that_grows(options, monkeypatch) -> None:
    monkeypatch.setattr(growth, "cifar_mobilenet", lambda **options: tiny_classifier())
    monkeypatch.setattr(growth, "cifar_resnet", lambda depth: tiny_classifier())
    monkeypatch.setattr(growth, "_NUM_IMAGES", 20)
    monkeypatch.setattr(growth, "_NUM_TIMED", 4)
    monkeypatch.setattr(growth, "_IMAGES", (20, 40))
    monkeypatch.setattr(growth, "_NUM_EPISODES", 12)
    monkeypatch.setattr(growth, "_SETTLED", 4)
    monkeypatch.setattr(growth, "_WINDOW", 4)
    monkeypatch.setattr(networks, "NUM_IMAGES", 20)
    figures = by_key(growth.measure(options))
    for name in ("images", "macs", "layers", "episodes", "memory"):
        assert figures[f"growth.{name}"].value > 0


@pytest.mark.slow
def test_fine_tuning_is_compared_with_fit(options, monkeypatch) -> None:
    monkeypatch.setattr(finetuning, "_NUM_IMAGES", 64)
    monkeypatch.setattr(finetuning, "_BATCH_SIZE", 16)
    figures = by_key(finetuning.measure(options))
    assert figures["finetuning.ratio_to_fit"].spread is not None
    assert figures["finetuning.images_per_second"].value > 0


@pytest.mark.slow
def test_an_episode_is_compared_with_the_inference_of_its_network(options, monkeypatch) -> None:
    from amc_tf.models.mobilenet import cifar_mobilenet

    model = cifar_mobilenet(alpha=0.25)
    monkeypatch.setattr(networks, "NUM_IMAGES", 40)
    monkeypatch.setattr(networks, "imagenet_mobilenet", lambda folder: model)
    monkeypatch.setattr(
        networks,
        "imagenet_split",
        lambda folder: networks.noise_split(model, num_search=40, num_calibration=40),
    )
    figures = by_key(episode.measure(options))
    assert figures["episode.ratio_to_litert"].value > 0
    assert figures["episode.episode_seconds"].value > figures["episode.evaluation_seconds"].value
    assert np.isfinite(figures["episode.overhead_share"].value)
