"""The scripts of the CIFAR rows, from a trained network to its table, on tiny data of the same packing."""

import json
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from amc_tf.models.resnet import cifar_plain
from benchmarks import cifar_channels, cifar_sparsity, finetune_networks, reward_predicts, search_efficiency
from benchmarks.shared_data import load_cifar10
from benchmarks.training import Recipe, train

pytestmark = pytest.mark.slow
COLOURS = np.random.default_rng(0).integers(0, 256, (10, 3))


def write_split(folder: Path, split: str, num_images: int) -> None:
    """Noisy images whose class is their colour."""
    rng = np.random.default_rng(num_images)
    labels = np.arange(num_images) % 10
    images = COLOURS[labels][:, None, None] + rng.normal(0, 60, (num_images, 32, 32, 3))
    rows = num_images // 25
    sheet = images.clip(0, 255).astype(np.uint8).reshape(rows, 25, 32, 32, 3).swapaxes(1, 2)
    Image.fromarray(sheet.reshape(rows * 32, 25 * 32, 3)).save(folder / f"{split}_00.webp", lossless=True)
    np.save(folder / f"{split}_labels.npy", labels.astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "cifar10").mkdir()
    write_split(folder / "cifar10", "train", 1500)
    write_split(folder / "cifar10", "test", 250)
    return folder


@pytest.fixture(scope="module")
def network(data: Path) -> Path:
    keras.utils.set_random_seed(0)
    model, (training, _) = cifar_plain(8), load_cifar10(data)
    recipe = Recipe(epochs=3, warmup_epochs=1, batch_size=25, learning_rate=0.05, norm_momentum=0.8)
    train(model, training, recipe=recipe, seed=0, on_epoch=lambda epoch, loss: None)
    file = data / "trained.keras"
    model.save(file)
    return file


def test_agent_and_controls_are_pruned_then_fine_tuned(data: Path, network: Path, tmp_path: Path) -> None:
    common = ["--data-dir", str(data), "--input-range=-1..1"]
    search = ["--episodes", "4", "--finalists", "2", "--search-images", "100", "--calibration-images", "50"]
    run = tmp_path / "run"

    assert cifar_channels.main([str(network), *common, *search, "--seeds", "0", "--out", str(run)]) == 0

    row = json.loads((run / "results.json").read_text())["rows"][0]
    slim = {name: run / "seed0" / f"{name}.keras" for name in ("agent", "uniform", "shallow", "deep")}
    assert all(row[name]["macs_ratio"] <= 0.5 for name in slim)
    assert (
        keras.models.load_model(slim["agent"]).count_params()
        < keras.models.load_model(network).count_params()
    )
    tuning = ["--teacher", str(network), "--epochs", "1", "--batch-size", "50", "--validation-images", "100"]
    tuning += ["--out", str(tmp_path / "tuned")]

    assert finetune_networks.main([*map(str, slim.values()), *common, *tuning]) == 0

    tuned = json.loads((tmp_path / "tuned" / "finetuned.json").read_text())["networks"]
    assert set(tuned) == {str(file) for file in slim.values()}
    assert tuned[str(slim["uniform"])]["before"] == pytest.approx(row["uniform"]["recovered"], abs=0.02)


def test_rewards_are_correlated_with_the_accuracy_after_fine_tuning(
    data: Path, network: Path, tmp_path: Path
) -> None:
    file = tmp_path / "predicts.json"
    options = ["--data-dir", str(data), "--input-range=-1..1", "--plans", "3", "--search-images", "100"]

    assert reward_predicts.main([str(network), *options, "--out", str(file)]) == 0

    report = json.loads(file.read_text())
    assert len(report["plans"]) == 3
    assert set(report["spearman"]) == set(report["plans"][0]["scores"]) >= {"none", reward_predicts.DEFAULT}


@pytest.mark.parametrize(
    ("scores", "tuned", "expected"),
    [
        ((0.1, 0.2, 0.3), (0.7, 0.8, 0.9), 1.0),
        ((0.3, 0.2, 0.1), (0.7, 0.8, 0.9), -1.0),
        ((0.1, 0.1, 0.1), (0.7, 0.8, 0.9), None),
        ((0.1, 0.2, 0.3), (0.8, 0.8, 0.8), None),
    ],
)
def test_a_rank_correlation_needs_scores_that_differ(
    scores: Sequence[float], tuned: Sequence[float], expected: float | None
) -> None:
    rows = [{"scores": {"none": a}, "finetuned": b} for a, b in zip(scores, tuned, strict=True)]
    assert reward_predicts.correlation(rows, "none") == pytest.approx(expected)


def test_weights_are_removed_with_every_seed_and_fine_tuned_with_the_first(
    data: Path, network: Path, tmp_path: Path
) -> None:
    options = ["--data-dir", str(data), "--input-range=-1..1", "--episodes", "4", "--search-images", "100"]
    options += ["--calibration-images", "50", "--finalists", "1"]
    tuning = ["--epochs", "1", "--batch-size", "50", "--removed", "0.5", "--seeds", "0", "1"]
    tuning += ["--weight-decay", "0.001", "--distillation-weight", "0.9", "--distillation-temperature", "4"]

    assert cifar_sparsity.main([str(network), *options, *tuning, "--out", str(tmp_path)]) == 0

    first, second = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert first["top1"].keys() == {*cifar_sparsity.NETWORKS}
    assert second["top1"].keys() == {"baseline", "uniform", "threshold", "pruned", "finetuned"}
    assert all(count <= 0.5 * first["params"]["baseline"] for count in list(first["params"].values())[1:])
    trained = json.loads((tmp_path / "seed0" / "summary.json").read_text())["settings"]["finetune"]
    assert (trained["weight_decay"], trained["distillation_weight"]) == (0.001, 0.9)
    assert trained["distillation_temperature"] == 4.0


def test_both_searches_are_compared_at_the_marks(
    data: Path, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_efficiency, "_MARKS", (2, 4, 100))
    options = ["--data-dir", str(data), "--input-range=-1..1", "--search-images", "100", "--seeds", "0"]
    options += ["--episodes", "4", "--default-episodes", "3"]

    assert search_efficiency.main([str(network), *options, "--out", str(tmp_path)]) == 0

    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["paper"].keys() == {"2", "4"} and row["default"].keys() == {"2"}
    assert (tmp_path / "paper0" / "episodes.jsonl").read_text() != (
        tmp_path / "default0" / "episodes.jsonl"
    ).read_text()


@pytest.mark.parametrize(
    ("default", "paper", "reached"),
    [
        ([None, -0.5, -0.2, -0.1], [None, None, -0.4, -0.2], 3),
        ([-0.5, -0.5, -0.5, -0.5], [-0.9, -0.9, -0.9, -0.4], None),
        ([-0.5, -0.5, -0.5, -0.5], [None, None, None, None], None),
    ],
)
def test_reached_is_the_first_episode_that_is_as_good_as_the_end_of_the_paper(
    default, paper, reached
) -> None:
    assert search_efficiency.compare({"default": default, "paper": paper})["reached"] == reached
