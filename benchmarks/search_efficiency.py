"""How many episodes a search needs: the reward of the best network after 50, 100, 200 and 400 of them.

    python -m benchmarks.search_efficiency resnet56 --default-episodes 150 --seeds 0 1 2 --out runs/efficiency

The search of the paper and the default one differ here in what they explore, in the bounds of widths, and, if
so asked, in the episodes that they are planned for; recovery and importance are the same, so that rewards can
be compared. `reached` is the number of episodes after which the default search is as good as the paper's at
its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from amc_tf.budget import Budget
from amc_tf.data import DataSplit, ImageData, split_data
from amc_tf.run_folder import RunFolder
from amc_tf.session import PruningSession
from amc_tf.settings import PRESETS, SearchSettings
from benchmarks.log_progress import LogProgress
from benchmarks.shared_data import (
    data_dir,
    load_cifar10,
    load_cifar_network,
    load_imagenet_samples,
    load_imagenet_test,
)

_LOGGER = logging.getLogger(__name__)
_MARKS = (50, 100, 150, 200, 400)
_EXPLORATION = ("elite_share", "min_budget_use")  # what of a preset is compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Searches with both presets and every seed, and writes one JSON file."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    model, train, test = _load(given.network, data_dir(given.data_dir))
    given.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in given.seeds:
        settings = SearchSettings(
            seed=seed,
            round_to=given.round_to,
            num_search_images=given.search_images,
        )
        split = split_data(
            train,
            test,
            num_calibration=settings.num_calibration_images,
            num_search=settings.num_search_images,
            seed=seed,
        )
        episodes = {"paper": given.episodes, "default": given.default_episodes or given.episodes}
        curves = {
            preset: _search(model, split, _explore_as(preset, settings, episodes[preset]), preset, given)
            for preset in PRESETS
        }
        rows.append({"seed": seed, **compare(curves)})
        report = {"command": sys.argv, "rows": rows}
        (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
        _LOGGER.info("%s", json.dumps(rows[-1]))
    return 0


def compare(curves: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Reads both curves of best rewards, by preset, at the marks."""
    goal = curves["paper"][-1]
    reached = [
        number
        for number, best in enumerate(curves["default"], 1)
        if None not in (best, goal) and best >= goal
    ]
    return {
        **{
            preset: {str(mark): curve[mark - 1] for mark in _MARKS if mark <= len(curve)}
            for preset, curve in curves.items()
        },
        "reached": reached[0] if reached else None,
    }


def _explore_as(preset: str, settings: SearchSettings, num_episodes: int) -> SearchSettings:
    return dataclasses.replace(
        settings,
        episodes=num_episodes,
        warmup_episodes=num_episodes // 4,
        **{name: getattr(PRESETS[preset], name) for name in _EXPLORATION},
    )


def _search(
    model: keras.Model,
    split: DataSplit,
    settings: SearchSettings,
    preset: str,
    given: argparse.Namespace,
) -> list[float | None]:
    """Returns the best reward within the budget after each episode, None before there is one."""
    session = PruningSession(
        model, split, budget=Budget.parse(given.budget), settings=settings, input_range=given.input_range
    )
    progress, started = LogProgress(), time.perf_counter()
    with RunFolder(given.out / f"{preset}{settings.seed}", resume=True) as folder:
        result = session.search(folder, lambda record: progress.episode(record, settings.episodes))
    _LOGGER.info("%s, seed %d: %.0f s", preset, settings.seed, time.perf_counter() - started)
    return [record["best_reward"] for record in result.episodes]


def _load(network: str, folder: Path) -> tuple[keras.Model, ImageData, ImageData]:
    if network != "mobilenet":
        return load_cifar_network(network, folder), *load_cifar10(folder)
    model = keras.applications.MobileNet(weights=None)
    model.load_weights(folder / "weights" / "mobilenet_v1_1.0_224.weights.h5")
    return model, load_imagenet_samples(folder), load_imagenet_test(folder)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", help="mobilenet, resnet20, resnet56 or a .keras file for CIFAR-10")
    parser.add_argument("--data-dir")
    parser.add_argument("--input-range", default="imagenet", help="-1..1 for mobilenet")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--default-episodes", type=int, help="of the default search; as many as --episodes")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--search-images", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
