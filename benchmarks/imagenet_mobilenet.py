"""MobileNets with ImageNet weights and fewer MACs, not fine-tuned: the agent beside what it has to beat.

    python -m benchmarks.imagenet_mobilenet mobilenet --budget macs=0.5 --seeds 0 1 2 --out runs/imagenet

The controls are uniform pruning of equal MACs, random search with as many evaluations, and the channel
lists that the authors of AMC published, all recovered in the same way. Calibration and search images come
from imagenet_samples, results from imagenet_test, which no decision sees.
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
import numpy as np

from amc_tf import controls
from amc_tf.budget import Budget
from amc_tf.data import DataSplit, split_data
from amc_tf.evaluate import accuracy
from amc_tf.finalists import best_scores
from amc_tf.published import published_widths
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import data_dir, load_imagenet_samples, load_imagenet_test

INPUT_RANGE = "-1..1"
_LOGGER = logging.getLogger(__name__)
NETWORKS = {
    "mobilenet": (keras.applications.MobileNet, "mobilenet_v1_1.0_224.weights.h5"),
    "mobilenet_v2": (keras.applications.MobileNetV2, "mobilenet_v2_1.0_224.weights.h5"),
}
_PUBLISHED = {
    "mobilenet": ("amc-mobilenet-v1-50-flops", "amc-mobilenet-v1-50-time"),
    "mobilenet_v2": ("amc-mobilenet-v2-70-flops",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the searches and writes one JSON file with all results."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    model = load_network(given.network, folder)
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in given.seeds:
        settings = SearchSettings(
            episodes=given.episodes,
            warmup_episodes=given.warmup_episodes,
            seed=seed,
            num_search_images=given.search_images,
            num_finalists=given.finalists,
            num_in_order_images=given.in_order_images,
            accuracy_metric=given.accuracy_metric,
        )
        rows.append(run_seed(model, split_of(folder, settings), settings, given))
        report = {"command": sys.argv, "rows": rows}
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s", json.dumps(rows[-1]))
    return 0


def load_network(name: str, folder: Path) -> keras.Model:
    """Builds a network of `NETWORKS` with the weights in the data folder."""
    build, weights = NETWORKS[name]
    model = build(weights=None)
    model.load_weights(folder / "weights" / weights)
    return model


def split_of(folder: Path, settings: SearchSettings) -> DataSplit:
    """Splits the images as the search with these settings has them."""
    return split_data(
        load_imagenet_samples(folder),
        load_imagenet_test(folder),
        num_calibration=settings.num_calibration_images,
        num_search=settings.num_search_images,
        seed=settings.seed,
    )


def run_seed(
    model: keras.Model, split: DataSplit, settings: SearchSettings, given: argparse.Namespace
) -> Mapping[str, Any]:
    """Searches with one seed and returns its row."""
    started = time.perf_counter()
    session = PruningSession(
        model, split, budget=Budget.parse(given.budget), settings=settings, input_range=INPUT_RANGE
    )
    progress = LogProgress()
    with RunFolder(given.out / f"seed{settings.seed}", resume=True) as folder:
        result = session.search(folder, lambda record: progress.episode(record, settings.episodes))
    searched = time.perf_counter() - started
    uniform = session.uniform()
    choice = session.choose(uniform, result)
    chosen = {"uniform": uniform.widths, "agent": choice.best.widths}
    if given.random_search:
        chosen["random search"] = random_search(session, settings)
    for name in _PUBLISHED[given.network]:
        widths = published_widths(name, session.graph)
        chosen |= {name: widths, f"{name}, scaled": scaled(widths, session)}
    return {
        "seed": settings.seed,
        "episodes": settings.episodes,
        "search_seconds": round(searched, 1),
        "agent_found_by": choice.found_by,
        "full": test_accuracy(session, session.network.weights, split),
        **{name: describe(session, widths, split) for name, widths in chosen.items()},
    }


def random_search(session: PruningSession, settings: SearchSettings) -> tuple[int, ...]:
    """Returns the best of as many random networks as the agent had episodes, chosen as the agent's is."""
    records: list[Mapping[str, Any]] = []

    def score(widths: tuple[int, ...]) -> Score:
        records.append(session.scorer(widths).to_json())
        return session.scorer(widths)

    controls.random_search(
        session.bounds,
        score,
        num_evaluations=settings.episodes,
        generator=np.random.default_rng(settings.seed),
    )
    finalists = map(session.finalist, best_scores(records, settings.num_finalists))
    return max(finalists, key=lambda finalist: finalist.rank).score.widths


def scaled(widths: tuple[int, ...], session: PruningSession) -> tuple[int, ...]:
    """Returns the widest network within the budget whose widths are those given times one factor, rounded."""
    step = session.settings.round_to

    def times(factor: float) -> tuple[int, ...]:
        return tuple(
            min(group.num_channels, max(step, round(factor * width / step) * step))
            for group, width in zip(session.graph.groups, widths, strict=True)
        )

    factors = np.arange(0.0, 2.0, 0.005)
    fitting = [times(factor) for factor in factors if session.bounds.fits(times(factor))]
    return max(fitting, key=lambda found: session.graph.count(found).macs)


def describe(session: PruningSession, widths: tuple[int, ...], split: DataSplit) -> Mapping[str, Any]:
    """Recovers a network, and runs it on the test images."""
    weights = session.recover(widths)
    return {
        "widths": list(widths),
        "macs_ratio": session.graph.count(widths).macs / session.graph.count().macs,
        **test_accuracy(session, weights, split),
    }


def test_accuracy(session: PruningSession, weights: Any, split: DataSplit) -> Mapping[str, float]:
    """Runs a network on the test images."""
    found = accuracy(session.network.predictor(weights), split.test, input_range=INPUT_RANGE)
    return {"top1": found.top1, "top5": found.top5}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--data-dir")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--warmup-episodes", type=int, default=30)
    parser.add_argument("--search-images", type=int, default=400)
    parser.add_argument("--finalists", type=int, default=SearchSettings().num_finalists)
    parser.add_argument("--in-order-images", type=int, default=SearchSettings().num_in_order_images)
    parser.add_argument("--accuracy-metric", default=SearchSettings().accuracy_metric)
    parser.add_argument("--random-search", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
