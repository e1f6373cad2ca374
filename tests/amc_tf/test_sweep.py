"""Facts about sweeps, with compressions that are made up; `tests/amc_tf/cli/test_sweep.py` runs real ones."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from amc_tf.budget import Budget
from amc_tf.errors import AmcError, BudgetError, RunFolderError, SettingsError
from amc_tf.image_data import ImageData
from amc_tf.progress import Progress
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.sweep import sweep
from tests.amc_tf.test_front import summary

SETTINGS = SearchSettings(episodes=3, warmup_episodes=1)
HALF, THIRD, NONE = Budget(macs=0.5), Budget(macs=0.3), Budget(macs=0.0001)


class Listener(Progress):
    """Takes down the compressions."""

    def __init__(self):
        self.compressions = []

    def compression(self, name, number, total):
        self.compressions.append((name, number, total))


@pytest.fixture
def made(monkeypatch):
    """Puts in the place of a compression one that writes a made-up summary; returns the budgets it gets."""
    seen = []

    def compress(model, train, validation, *, budget, out, resume, labels, progress, **options):
        seed = options["settings"].seed
        assert {value.seed for value in options.values() if isinstance(value, FinetuneSettings)} <= {seed}
        assert resume
        seen.append(str(budget))
        if budget is NONE:
            raise BudgetError("The smallest network is larger.")
        part = budget.value
        settings = {"search": options["settings"].to_json(), "finetune": FinetuneSettings().to_json()}
        value = {
            **summary(uniform=(part, 500, part), found=(0.8, 500, part), int8=(0.8, 500, part)),
            "model": "tiny",
            "data": "patterns",
            "command": ["amc-tf", "sweep"],
            **labels,
            "budget": {"kind": budget.kind, "value": budget.value},
            "meter": None,
            "input_range": options.get("input_range", "-1..1"),
            "stages": [{}],
            "num_unlabelled_images": len(options.get("unlabelled", ())),
            "settings": settings,
        }
        (out / "summary.json").write_text(json.dumps(value))
        return SimpleNamespace(summary=value)

    monkeypatch.setattr(sys.modules["amc_tf.trials"], "compress", compress)
    return seen


def model_of(*weights):
    return SimpleNamespace(get_weights=lambda: [np.array(weights)])


def data_of(label):
    return ImageData(np.zeros((1, 2, 2, 3), np.uint8), np.array([label]), 2)


MODEL, TRAIN, VALIDATION = model_of(1.0), data_of(0), data_of(1)
MORE = np.ones((1, 2, 2, 3), np.uint8)


def run(out, *budgets, model=MODEL, train=TRAIN, **options):
    return sweep(model, train, VALIDATION, budgets=budgets, out=out, **{"settings": SETTINGS, **options})


def test_each_budget_has_a_folder_and_the_front_lies_above(made, tmp_path):
    listener = Listener()
    result = run(tmp_path, HALF, THIRD, progress=listener)
    assert listener.compressions == [("macs=0.5", 1, 2), ("macs=0.3", 2, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "front.html", "front.json", "front.svg", "macs=0.3", "macs=0.5", "origin.sha256"
    ]  # fmt: skip
    front = json.loads((tmp_path / "front.json").read_text())
    assert front["networks"] == [network.to_json() for network in result.networks]
    assert (front["axis"], front["model"], front["failures"]) == ("latency_ms", "tiny", {})
    assert {network["precision"] for network in front["networks"]} == {"float32", "int8"}
    assert result.page == tmp_path / "front.html"


def test_a_budget_that_cannot_be_met_is_told_and_the_others_go_on(made, tmp_path):
    result = run(tmp_path, HALF, NONE, THIRD)
    assert made == ["macs=0.5", "macs=0.0001", "macs=0.3"]
    assert result.failures == {"macs=0.0001": "The smallest network is larger."}
    assert set(result.summaries) == {"macs=0.5", "macs=0.3"}
    assert "The smallest network is larger." in result.page.read_text(encoding="utf-8")


def test_data_that_comes_in_another_order_each_time_is_read_once(made, tmp_path, monkeypatch):
    train = tf.data.Dataset.from_tensors((np.zeros((2, 2, 3), np.uint8), 0)).repeat(4)
    read, given, compress = [], [], sys.modules["amc_tf.trials"].compress

    def count(image, label):
        return tf.numpy_function(lambda pixels: (read.append(1), pixels)[1], [image], tf.uint8), label

    def keep(model, train, validation, **options):
        given.append(train)
        return compress(model, train, validation, **options)

    monkeypatch.setattr(sys.modules["amc_tf.trials"], "compress", keep)
    run(tmp_path, HALF, THIRD, train=train.map(count))
    assert len(read) == 4
    assert given[0] is given[1]


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": FinetuneSettings(epochs=1)},
        {"settings": None, "finetuning": None, "quantization": None},  # as `compress` has them
    ],
)
def test_each_seed_has_a_compression_of_its_own(made, tmp_path, options):
    result = run(tmp_path, HALF, THIRD, seeds=(3, 4), **options)
    assert list(result.summaries) == ["macs=0.5-seed3", "macs=0.5-seed4", "macs=0.3-seed3", "macs=0.3-seed4"]
    seeds = [summary["settings"]["search"]["seed"] for summary in result.summaries.values()]
    assert seeds == [3, 4, 3, 4]
    assert made == ["macs=0.5", "macs=0.5", "macs=0.3", "macs=0.3"]


def test_a_folder_of_images_written_in_another_way_is_the_same_data(made, tmp_path):
    for data in ("photos", "./photos/"):
        run(tmp_path, HALF, labels={"model": "tiny", "data": data}, resume=True)
    assert made == ["macs=0.5"]


def test_several_models_have_folders_of_their_own_and_one_front(made, tmp_path):
    models = {"small": model_of(1.0), "large": model_of(2.0)}
    result = run(tmp_path, HALF, THIRD, model=models)
    names = ["small/macs=0.5", "small/macs=0.3", "large/macs=0.5", "large/macs=0.3"]
    assert list(result.summaries) == names
    assert all((tmp_path / name / "summary.json").exists() for name in names)
    front = json.loads((tmp_path / "front.json").read_text())
    assert front["model"] == "small, large"
    originals = [network["model"] for network in front["networks"] if network["key"] == "baseline"]
    assert originals == ["small", "large"]
    assert made == 2 * ["macs=0.5", "macs=0.3"]
    with pytest.raises(RunFolderError, match="a sweep of another model"):
        run(tmp_path, HALF, model={**models, "large": model_of(3.0)}, resume=True)


def test_a_seed_that_is_given_twice_is_refused(made, tmp_path):
    with pytest.raises(SettingsError, match="The seed 1 is given twice"):
        run(tmp_path, HALF, seeds=(1, 2, 1))


def test_a_sweep_of_nothing_but_failures_is_one(made, tmp_path):
    with pytest.raises(BudgetError, match="None of the budgets could be met. The smallest network is larger"):
        run(tmp_path, NONE)


def test_what_has_finished_is_not_run_again(made, tmp_path):
    run(tmp_path, HALF)
    result = run(tmp_path, HALF, THIRD, resume=True)
    assert made == ["macs=0.5", "macs=0.3"]
    assert set(result.summaries) == {"macs=0.5", "macs=0.3"}


def test_what_an_earlier_version_finished_is_not_run_again(made, tmp_path):
    run(tmp_path, HALF)
    (file,) = tmp_path.glob("*/summary.json")
    summary = json.loads(file.read_text())
    del summary["settings"]["finetune"]["feature_weight"]
    file.write_text(json.dumps(summary))
    run(tmp_path, HALF, resume=True)
    assert made == ["macs=0.5"]


def test_a_sweep_with_images_without_labels_goes_on_with_them_only(made, tmp_path):
    run(tmp_path, HALF, unlabelled=MORE)
    run(tmp_path, HALF, resume=True, unlabelled=MORE)
    assert made == ["macs=0.5"]
    assert json.loads((tmp_path / "front.json").read_text())["num_unlabelled_images"] == len(MORE)
    assert f"{len(MORE)} images without labels" in (tmp_path / "front.html").read_text()
    (tmp_path / "origin.sha256").unlink()
    with pytest.raises(RunFolderError, match="another number of images without labels"):
        run(tmp_path, HALF, resume=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unlabelled": MORE[0]}, "must have 4 axes"),
        ({"unlabelled": VALIDATION.images}, "1 are among the training and validation images"),
        ({"unlabelled": MORE, "finetuning": FinetuneSettings(epochs=0)}, "give epochs of fine-tuning"),
        (
            {"unlabelled": MORE, "quantization": FinetuneSettings(distillation_weight=0.0)},
            "Nothing is imitated",
        ),
    ],
)
def test_images_without_labels_are_refused_before_an_earlier_sweep_is_deleted(made, tmp_path, options, words):
    run(tmp_path, HALF)
    with pytest.raises(AmcError, match=words):
        run(tmp_path, HALF, overwrite=True, **options)
    run(tmp_path, HALF, resume=True)
    assert made == ["macs=0.5"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": SearchSettings(episodes=4, warmup_episodes=1)}, "another search setting"),
        ({"finetuning": FinetuneSettings(epochs=1)}, "another fine-tuning setting"),
        ({"stages": 2}, "another number of stages"),
        ({"finetune_uniform": True}, "another choice of fine-tuning uniform"),
        ({"input_range": "0..1"}, "another input_range"),
        ({"labels": {"model": "other"}}, "another model"),
        ({"model": model_of(2.0)}, "a sweep of another model or other data"),
        ({"train": data_of(1)}, "a sweep of another model or other data"),
        ({"unlabelled": MORE}, "a sweep of another model or other data"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_has_finished_otherwise_is_refused(made, tmp_path, options, words):
    run(tmp_path, HALF)
    with pytest.raises(RunFolderError, match=words):
        run(tmp_path, HALF, resume=True, **options)


def test_an_earlier_sweep_is_only_touched_when_told(made, tmp_path):
    run(tmp_path, THIRD)
    with pytest.raises(RunFolderError, match=r"macs=0\.3 holds an earlier run"):
        run(tmp_path, HALF, THIRD)
    assert made == ["macs=0.3"]  # refused before any work
    run(tmp_path, THIRD, overwrite=True)
    assert made == ["macs=0.3", "macs=0.3"]


def test_a_damaged_summary_becomes_a_sentence(made, tmp_path):
    run(tmp_path, HALF)
    (tmp_path / "macs=0.5" / "summary.json").write_text('{"model": ')
    with pytest.raises(RunFolderError, match=r"summary\.json is damaged .* --overwrite"):
        run(tmp_path, HALF, resume=True)


@pytest.mark.parametrize(
    ("budgets", "words"), [((), "needs one budget or more"), ((HALF, HALF), "macs=0.5 is given twice")]
)
def test_budgets_that_are_no_sweep_are_refused(made, tmp_path, budgets, words):
    with pytest.raises(SettingsError, match=words):
        run(tmp_path, *budgets)


@pytest.mark.parametrize(
    ("budget", "reward", "words"),
    [(Budget(accuracy=0.9), "error", "give the reward macs"), (THIRD, "latency", "give a meter")],
)
def test_a_budget_that_does_not_fit_the_reward_is_refused_before_any_work(
    made, tmp_path, budget, reward, words
):
    settings = SearchSettings(episodes=3, warmup_episodes=1, reward=reward)
    with pytest.raises(SettingsError, match=words):
        run(tmp_path, HALF, budget, settings=settings)
    assert made == []


def test_a_small_absolute_budget_has_a_folder_of_its_own(made, tmp_path):
    run(tmp_path, Budget(macs=0.5), Budget(macs=0.5, absolute=True))
    assert (tmp_path / "macs=0.5-absolute" / "summary.json").exists()
