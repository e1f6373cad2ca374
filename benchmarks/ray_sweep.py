"""How much faster two workers of a Ray cluster sweep than one, and what is lost when a node dies.

    python -m benchmarks.ray_sweep --episodes 100 --out runs/ray_sweep

The demo network is compressed to four budgets on the digits, without fine-tuning, on a cluster whose nodes
are processes of this machine with one processor each; the machine must have two and be quiet. Then the sweep
is done again on two nodes, one of which is killed when each of the first two searches is half done; its
plans are compared with those of the sweep that nothing happened to. The
seconds of one trial on a cluster that stands already, measured so, give the estimate for more phones, each of
which times one search at a time: a phone adds to a trial what it takes to time a candidate.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from amc_tf.budget import Budget
from amc_tf.data import load_data
from amc_tf.model_file import load_model
from amc_tf.ray_trials import RayTrials
from amc_tf.settings import FinetuneSettings, SearchSettings
from amc_tf.sweep import sweep

BUDGETS = tuple(Budget(macs=ratio) for ratio in (0.8, 0.65, 0.5, 0.35))
_STORE_BYTES = 200 << 20
_LOGGER = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument(
        "--seconds-per-candidate", type=float, default=9.0, help="of a phone, for the estimate"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    args.out.mkdir(parents=True)
    found: dict[str, Any] = {"episodes": args.episodes, "budgets": [str(budget) for budget in BUDGETS]}
    for num_nodes in (1, 2):
        seconds, trials = _sweep(args.out / f"{num_nodes} workers", args.episodes, num_nodes)
        found[f"{num_nodes} workers"] = {"seconds": seconds, "seconds_of_each_search": trials}
    found["speed_up"] = found["1 workers"]["seconds"] / found["2 workers"]["seconds"]
    found["killed"] = _sweep_and_kill(args.out / "killed", args.episodes)
    found["killed"]["same_plans"] = _count_same_plans(args.out / "killed", args.out / "2 workers")
    alone = statistics.median(found["1 workers"]["seconds_of_each_search"])
    found["estimate"] = estimate(
        alone + args.episodes * args.seconds_per_candidate, num_searches=1000, num_phones=100
    )
    (args.out / "ray_sweep.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


def estimate(seconds_of_search: float, *, num_searches: int, num_phones: int) -> dict[str, float]:
    """Returns hours of so many searches of which each has a phone to itself, and one processor."""
    rounds = math.ceil(num_searches / num_phones)
    return {
        "searches": num_searches,
        "phones": num_phones,
        "hours": rounds * seconds_of_search / 3600,
        "hours_of_one_phone": num_searches * seconds_of_search / 3600,
    }


def _sweep(
    out: Path, episodes: int, num_nodes: int, watch: Callable[[Cluster, Any], None] | None = None
) -> tuple[float, list[float]]:
    """Sweeps on a cluster of so many nodes, and returns the seconds of all and those of each search."""
    model = load_model("demo")
    train, validation = load_data("digits", model.input_shape[1:])
    settings = SearchSettings(
        episodes=episodes, warmup_episodes=episodes // 4, num_search_images=300, checkpoint_every=1
    )
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _STORE_BYTES}
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES) for _ in range(num_nodes)]
        with RayTrials(cluster.address) as runner:
            if watch is not None:
                threading.Thread(target=watch, args=(cluster, nodes[-1]), daemon=True).start()
            started = time.perf_counter()
            result = sweep(
                model,
                train,
                validation,
                budgets=BUDGETS,
                out=out,
                settings=settings,
                finetuning=FinetuneSettings(epochs=0),
                runner=runner,
            )
            seconds = time.perf_counter() - started
    finally:
        cluster.shutdown()
    return seconds, [summary["seconds"]["total"] for summary in result.summaries.values()]


def _sweep_and_kill(out: Path, episodes: int) -> dict[str, Any]:
    """Kills one of two nodes in the middle of a sweep, and returns what that has cost."""
    files = [out / str(budget) / "episodes.jsonl" for budget in BUDGETS]
    again: list[int] = []

    def watch(cluster: Cluster, node: Any) -> None:
        counts, killed = [0] * len(files), False
        while True:
            now = [path.read_bytes().count(b"\n") if path.exists() else 0 for path in files]
            again.extend(before - after for before, after in zip(counts, now, strict=True) if after < before)
            counts = now
            if not killed and sum(count >= episodes // 2 for count in counts) >= 2:
                cluster.remove_node(node, allow_graceful=False)
                killed = True
                _LOGGER.info("killed a node at %s episodes", counts)
            time.sleep(0.002)

    seconds, _ = _sweep(out, episodes, 2, watch)
    return {"seconds": seconds, "episodes_played_again": sum(again)}


def _count_same_plans(out: Path, other: Path) -> int:
    files = [Path(str(budget)) / "plan.json" for budget in BUDGETS]
    return sum((out / file).read_bytes() == (other / file).read_bytes() for file in files)


if __name__ == "__main__":
    sys.exit(main())
