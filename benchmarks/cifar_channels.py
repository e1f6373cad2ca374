"""CIFAR-10 networks with fewer MACs, not fine-tuned yet: the agent beside uniform, shallow and deep pruning.

    python -m benchmarks.cifar_channels resnet56 --budget macs=0.5 --seeds 0 1 2 --out runs/resnet56

The reward is accuracy on training images that neither calibrate nor, later, train the slim network. The best
networks of a search and the controls are recovered alike (`PruningSession.recover`); the test images decide
nothing. Slim models of every policy are saved.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from amc_tf import controls
from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, split_data
from amc_tf.evaluate import accuracy
from amc_tf.rebuild import rebuild
from amc_tf.run_folder import RunFolder, write_keras_model
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import data_dir, load_cifar10, load_cifar_network

_LOGGER = logging.getLogger(__name__)
_CONTROLS = {"uniform": controls.uniform, "shallow": controls.shallow, "deep": controls.deep}
_EVALUATION_BATCH = 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches and writes one JSON file with all results."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    train, test = load_cifar10(folder)
    model = load_cifar_network(given.network, folder)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in given.seeds:
        settings = SearchSettings(
            episodes=given.episodes,
            warmup_episodes=given.episodes // 4,
            seed=seed,
            round_to=given.round_to,
            num_search_images=given.search_images,
            num_finalists=given.finalists,
            num_calibration_images=given.calibration_images,
            num_batch_norm_images=given.batch_norm_images,
            num_in_order_images=given.in_order_images,
            accuracy_metric=given.accuracy_metric,
        )
        split = split_data(
            train,
            test,
            num_calibration=settings.num_calibration_images,
            num_search=settings.num_search_images,
            seed=seed,
        )
        row = run_seed(model, split, Budget.parse(given.budget), settings, given)
        rows.append(row)
        report = {"command": sys.argv, "rows": rows}
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s", json.dumps(row))
    return 0


def run_seed(
    model: keras.Model, split: DataSplit, budget: Budget, settings: SearchSettings, given: argparse.Namespace
) -> Mapping[str, Any]:
    """Searches with one seed, saves the slim networks of all policies, and returns their row."""
    started = time.perf_counter()
    session = PruningSession(model, split, budget=budget, settings=settings, input_range=given.input_range)
    chosen = {name: control(session.bounds) for name, control in _CONTROLS.items()}
    progress = LogProgress()
    with RunFolder(given.out / f"seed{settings.seed}", resume=True) as folder:
        result = session.search(folder, lambda record: progress.episode(record, settings.episodes))
        searched = time.perf_counter() - started
        chosen["agent"] = session.choose(session.scorer(chosen["uniform"]), result).best.widths
        full = session.graph.count()
        row: dict[str, Any] = {
            "seed": settings.seed,
            "episodes": settings.episodes,
            "search_seconds": round(searched, 1),
            "full_top1": _top1(session, session.network.weights, split.test, given),
        }
        for name, widths in chosen.items():
            plan = session.builder.plan(widths)
            weights = session.recover(widths)
            row[name] = {
                "widths": list(widths),
                "macs_ratio": session.graph.count(widths).macs / full.macs,
                "as_scored": _top1(session, session.builder.weights(plan), split.test, given),
                "recovered": _top1(session, weights, split.test, given),
            }
            write_keras_model(rebuild(model, plan, weights), folder.path / f"{name}.keras")
            folder.write_json(f"{name}.plan.json", plan.to_json())
    return row


def _top1(session: PruningSession, weights: Any, data: ImageData, given: argparse.Namespace) -> float:
    predict = session.network.predictor(weights)
    return accuracy(predict, data, input_range=given.input_range, batch_size=_EVALUATION_BATCH).top1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", help="resnet20, resnet56 or a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--round-to", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--finalists", type=int, default=8)
    parser.add_argument("--search-images", type=int, default=1000)
    parser.add_argument("--calibration-images", type=int, default=1000)
    parser.add_argument("--batch-norm-images", type=int, default=200)
    parser.add_argument("--in-order-images", type=int, default=0)
    parser.add_argument("--accuracy-metric", default=SearchSettings().accuracy_metric)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
