"""A whole search of a small network: 400 episodes of a CIFAR MobileNet on 1,000 images."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from amc_tf.data import to_input_range
from amc_tf.evaluate import accuracy
from amc_tf.models.mobilenet import cifar_mobilenet
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.speed import networks
from benchmarks.speed.figures import Figure, Options, seconds

_NUM_EPISODES = 400
_NUM_IMAGES = 1000
_MAX_RATIO = 1.5


def measure(options: Options) -> list[Figure]:
    """Times a search, and after each episode the pieces it is made of."""
    model = cifar_mobilenet(alpha=0.5)
    settings = SearchSettings(
        episodes=_NUM_EPISODES, warmup_episodes=_NUM_EPISODES // 4, num_search_images=_NUM_IMAGES
    )
    session = networks.session(model, networks.noise_split(model, num_search=_NUM_IMAGES), settings)
    sums: dict[str, float] = defaultdict(float)
    session.search(on_episode=lambda record: _add(sums, session, record))
    names = ("evaluation", "recovery", "plan")
    sums["agent"] = sums["episode"] - sum(sums[name] for name in names)
    return [
        Figure("small.ratio_to_evaluation", sums["episode"] / sums["evaluation"], "x", limit=_MAX_RATIO),
        Figure("small.search_seconds", sums["episode"], "s"),
        *(
            Figure(f"small.{name}_share", sums[name] / sums["episode"], "of search")
            for name in (*names, "agent")
        ),
    ]


def _add(sums: dict[str, float], session: PruningSession, record: Mapping[str, Any]) -> None:
    """Adds the seconds of one episode, and of its pieces when they are done again."""
    sums["episode"] += record["seconds"]
    plan = _timed(sums, "plan", lambda: session.builder.plan(record["widths"]))
    weights = _timed(sums, "recovery", lambda: session.builder.weights(plan))
    predict = session.executor.predictor(weights)
    search = session.split.search
    images = to_input_range(search.images, networks.INPUT_RANGE)
    scaled = dataclasses.replace(search, images=images)  # as the search keeps them
    sums["evaluation"] += seconds(lambda: accuracy(predict, scaled, input_range=networks.INPUT_RANGE))


def _timed(sums: dict[str, float], name: str, run: Callable[[], Any]) -> Any:
    found: list[Any] = []
    sums[name] += seconds(lambda: found.append(run()))
    return found[0]
