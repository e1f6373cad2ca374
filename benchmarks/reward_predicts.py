"""Does the accuracy before fine-tuning tell which of many plans of one budget is best after it?

    python -m benchmarks.reward_predicts resnet20 --plans 12 --epochs 1 --out runs/reward_predicts.json

Random plans that use a budget are recovered in several ways and scored on the search images, then all fine-
tuned alike (from the weights of the default recovery) and tested. The table is Spearman's rank correlation
of each score with the accuracy after fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.budget import Budget
from amc_tf.calibration import calibrate
from amc_tf.data import DataSplit, split_data, to_input_range
from amc_tf.evaluate import accuracy
from amc_tf.plan import PruningPlan
from amc_tf.rebuild import rebuild
from amc_tf.reconstruct import Reconstructor
from amc_tf.sequential import SequentialReconstructor
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from amc_tf.weights import Weights
from benchmarks.shared_data import data_dir, load_cifar10, load_cifar_network
from benchmarks.training import Recipe, train

_LOGGER = logging.getLogger(__name__)
DEFAULT = "least squares + batch norm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Scores, fine-tunes and correlates."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    model = load_cifar_network(given.network, folder)
    settings = SearchSettings(seed=given.seed, round_to=1, num_search_images=given.search_images)
    split = split_data(
        *load_cifar10(folder),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=given.seed,
    )
    budget = Budget.parse(given.budget)
    session = PruningSession(model, split, budget=budget, settings=settings, input_range=given.input_range)
    recoveries = make_recoveries(session, given)
    generator = np.random.default_rng(given.seed)
    rows: list[Mapping[str, Any]] = []
    known = json.loads(given.again.read_text())["plans"] if given.again else []
    for number in range(len(known) or given.plans):
        if known:
            widths = tuple(known[number]["widths"])
        else:
            widths = session.bounds.bound_all(generator.random(len(session.bounds.full)).tolist())
        plan = session.builder.plan(widths)
        weights = {name: recover(plan) for name, recover in recoveries.items()}
        scores = {name: _search_top1(session, found, split, given) for name, found in weights.items()}
        if known:
            tuned = known[number]["finetuned"]
        else:
            tuned = finetuned_top1(rebuild(model, plan, weights[DEFAULT]), split, given)
        rows.append({"widths": list(widths), "scores": scores, "finetuned": tuned})
        _LOGGER.info("plan %d: %s", number, rows[-1])
        if number:
            correlations = {name: correlation(rows, name) for name in recoveries}
            report = {"command": sys.argv, "spearman": correlations, "plans": rows}
            given.out.write_text(json.dumps(report, indent=1) + "\n")
    _LOGGER.info("%s", report["spearman"])
    return 0


def make_recoveries(
    session: PruningSession, given: argparse.Namespace
) -> Mapping[str, Callable[[PruningPlan], Weights]]:
    """Returns the recoveries by name: plan -> slim weights."""
    network, settings = session.network, session.settings
    images = to_input_range(session.split.calibration.images, given.input_range)
    reconstruct = Reconstructor(network, calibrate(network, images, seed=settings.seed))
    batch_norm = BatchNormEstimator(network, images[: settings.num_batch_norm_images])
    return {
        "none": network.slice,
        "least squares": reconstruct,
        "batch norm": lambda plan: batch_norm(network.slice(plan), plan),
        DEFAULT: lambda plan: batch_norm(reconstruct(plan), plan),
        "in network order": SequentialReconstructor(network, images, seed=settings.seed),
    }


def finetuned_top1(slim: Any, split: DataSplit, given: argparse.Namespace) -> float:
    """Fine-tunes a slim network on the training images that no score was computed on, and tests it."""
    recipe = Recipe(
        epochs=given.epochs,
        warmup_epochs=0,
        batch_size=128,
        learning_rate=given.learning_rate,
        norm_momentum=0.9,
        augment="crop_flip",
        input_range=given.input_range,
    )
    train(slim, split.train, recipe=recipe, seed=given.seed, on_epoch=lambda epoch, loss: None)
    return accuracy(slim.predict_on_batch, split.test, input_range=given.input_range, batch_size=500).top1


def correlation(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Returns Spearman's rank correlation of a score with the accuracy after fine-tuning.

    None stands for one that is not defined: where either is the same for all plans.
    """
    scores, tuned = [row["scores"][name] for row in rows], [row["finetuned"] for row in rows]
    if len(set(scores)) == 1 or len(set(tuned)) == 1:
        return None
    return float(scipy.stats.spearmanr(scores, tuned).statistic)


def _search_top1(
    session: PruningSession, weights: Weights, split: DataSplit, given: argparse.Namespace
) -> float:
    predict = session.network.predictor(weights)
    return accuracy(predict, split.search, input_range=given.input_range, batch_size=500).top1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", help="resnet20, resnet56 or a .keras file")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--plans", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--search-images", type=int, default=5000)
    parser.add_argument("--again", type=Path, help="an earlier report, whose plans are only scored anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
