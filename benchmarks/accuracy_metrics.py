"""Which accuracy on a search's images says most of a network's accuracy on other images.

    python -m benchmarks.accuracy_metrics mobilenet_v2 runs/imagenet/seed0 --budget macs=0.7 --seed 0 \
        --search-images 300 --out runs/accuracy_metrics.json

Takes the last different networks of a search by `benchmarks.imagenet_mobilenet`, as they were scored, and
ranks them by each accuracy that a search can reward, and by their top-1 on imagenet_test.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import scipy.stats

from amc_tf.budget import Budget
from amc_tf.evaluate import accuracy
from amc_tf.score import Score
from amc_tf.session import PruningSession
from amc_tf.settings import ACCURACY_METRICS, SearchSettings
from benchmarks.imagenet_mobilenet import INPUT_RANGE, NETWORKS, load_network, split_of
from benchmarks.shared_data import data_dir

_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tests the networks and writes one JSON file."""
    given = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = data_dir(given.data_dir)
    settings = SearchSettings(seed=given.seed, num_search_images=given.search_images)
    split = split_of(folder, settings)
    session = PruningSession(
        load_network(given.network, folder),
        split,
        budget=Budget.parse(given.budget),
        settings=settings,
        input_range=INPUT_RANGE,
    )
    scores = last_networks(given.run / "episodes.jsonl", given.networks)
    tested = []
    for score in scores:
        weights = session.builder.weights(session.builder.plan(score.widths))
        tested.append(accuracy(session.executor.predictor(weights), split.test, input_range=INPUT_RANGE).top1)
        _LOGGER.info("%d of %d: %s", len(tested), len(scores), tested[-1])
    rows = [{**score.to_json(), "test_top1": top1} for score, top1 in zip(scores, tested, strict=True)]
    report = {
        metric: {
            "spearman": scipy.stats.spearmanr([row[metric] for row in rows], tested).statistic,
            "kendall": scipy.stats.kendalltau([row[metric] for row in rows], tested).statistic,
        }
        for metric in ACCURACY_METRICS
    }
    given.out.write_text(json.dumps({"command": sys.argv, **report, "networks": rows}, indent=1) + "\n")
    _LOGGER.info("%s", json.dumps(report))
    return 0


def last_networks(episodes: Path, number: int) -> list[Score]:
    """Reads the networks of the last episodes, each once."""
    records = [json.loads(line) for line in episodes.read_text().splitlines()]
    found = {tuple(record["widths"]): Score.from_json(record) for record in reversed(records)}
    return list(found.values())[:number]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("run", type=Path, help="folder of the search, with episodes.jsonl")
    parser.add_argument("--data-dir")
    parser.add_argument("--budget", default="macs=0.5")
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--search-images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
