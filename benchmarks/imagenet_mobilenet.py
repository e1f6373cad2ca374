"""MobileNet-V1 with ImageNet weights at half its MACs, not fine-tuned: the agent against uniform pruning.

    python -m benchmarks.imagenet_mobilenet --data-dir DATA --episodes 150 --seeds 0 1 2 --out runs/imagenet

Calibration and search images come from imagenet_samples, results from imagenet_test, which no decision sees.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, split_data
from amc_tf.evaluate import accuracy
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.shared_data import data_dir, load_imagenet_samples, load_imagenet_test

INPUT_RANGE = "-1..1"
_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches and writes one JSON file with all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--warmup-episodes", type=int, default=40)
    parser.add_argument("--search-images", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    model = keras.applications.MobileNet(weights=None)
    model.load_weights(folder / "weights" / "mobilenet_v1_1.0_224.weights.h5")
    samples, test = load_imagenet_samples(folder), load_imagenet_test(folder)
    rows = []
    for seed in given.seeds:
        settings = SearchSettings(
            episodes=given.episodes,
            warmup_episodes=given.warmup_episodes,
            seed=seed,
            num_search_images=given.search_images,
            num_batch_norm_images=100,
        )
        rows.append(run_seed(model, samples, test, Budget.parse(given.budget), settings, given.out))
        report = {"command": sys.argv, "machine": platform.machine(), "rows": rows}
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s", rows[-1])
    return 0


def run_seed(
    model: keras.Model,
    samples: ImageData,
    test: ImageData,
    budget: Budget,
    settings: SearchSettings,
    out: Path,
) -> Mapping[str, Any]:
    """Searches with one seed and returns its row."""
    started = time.perf_counter()
    split = split_data(
        samples,
        test,
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
    )
    session = PruningSession(model, split, budget=budget, settings=settings, input_range=INPUT_RANGE)
    uniform = session.uniform()
    with RunFolder(out / f"seed{settings.seed}", resume=True) as folder:
        found = session.search(folder, _log_episode).best
    if found is None:
        raise RuntimeError(f"no plan within {budget} in {settings.episodes} episodes")
    full = session.graph.count()
    return {
        "seed": settings.seed,
        "episodes": settings.episodes,
        "full_top1": accuracy(
            session.network.predictor(session.network.weights), test, input_range=INPUT_RANGE
        ).top1,
        **{
            name: {
                "widths": list(score.widths),
                "macs_ratio": score.cost.macs / full.macs,
                "search_top1": score.top1,
                **test_accuracy(session, score, split),
            }
            for name, score in {"uniform": uniform, "found": found}.items()
        },
        "seconds": round(time.perf_counter() - started, 1),
    }


def test_accuracy(session: PruningSession, score: Score, split: DataSplit) -> Mapping[str, float]:
    """Runs a scored network on the test images."""
    weights = session.builder.weights(session.builder.plan(score.widths))
    found = accuracy(session.network.predictor(weights), split.test, input_range=INPUT_RANGE)
    return {"test_top1": found.top1, "test_top5": found.top5}


def _log_episode(record: Mapping[str, Any]) -> None:
    _LOGGER.info(
        "episode %d %s: top-1 %.3f, best %.3f, MACs %d, %.1f s",
        record["episode"], record["kind"], record["top1"], 1 + (record["best_reward"] or -1.0),
        record["macs"], record["seconds"],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
