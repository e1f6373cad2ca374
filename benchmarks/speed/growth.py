"""How time and memory grow with images, operations, layers and episodes."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from amc_tf.models.mobilenet import cifar_mobilenet
from amc_tf.models.resnet import cifar_resnet
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.speed import networks
from benchmarks.speed.figures import Figure, Options

_MAX_TIME_GROWTH = 1.2  # of the seconds per unit, from the smallest to the largest
_MAX_MEMORY_GROWTH = 1.05
_IMAGES = (500, 1000, 2000)
_ALPHAS = (0.5, 1.0)
_DEPTHS = (20, 56, 110)
_NUM_IMAGES = 500  # where something else grows
_NUM_TIMED = 12
_NUM_EPISODES = 2000
_WINDOW = 200  # episodes that are averaged
_SETTLED = 400  # episodes after which memory is to stay where it is
_MEMORY = Path("/proc/self/statm")


def measure(options: Options) -> list[Figure]:
    """Runs short searches of growing size, and a long one."""
    images = [(count, _episode_seconds(cifar_mobilenet(), count)) for count in _IMAGES]
    macs = [(alpha**2, _episode_seconds(cifar_mobilenet(alpha=alpha), _NUM_IMAGES)) for alpha in _ALPHAS]
    layers = [(depth, _episode_seconds(cifar_resnet(depth), _NUM_IMAGES)) for depth in _DEPTHS]
    return [
        *_growth("images", images),
        *_growth("macs", macs),
        *_growth("layers", layers),
        *_long_search(),
    ]


def _growth(name: str, points: Sequence[tuple[float, float]]) -> list[Figure]:
    """Compares the seconds per unit of the largest point with those of the smallest."""
    per_unit = [taken / units for units, taken in points]
    return [
        Figure(f"growth.{name}", per_unit[-1] / per_unit[0], "x", limit=_MAX_TIME_GROWTH),
        *(Figure(f"growth.{name}_{units:g}_seconds", taken, "s") for units, taken in points),
    ]


def _episode_seconds(model: keras.Model, num_images: int) -> float:
    records: list[Mapping[str, Any]] = []
    _session(model, num_images, _NUM_TIMED).search(on_episode=records.append)
    return statistics.median(record["seconds"] for record in records[_NUM_TIMED // 4 :])


def _long_search() -> list[Figure]:
    """Runs 2,000 episodes of a small network and watches the memory of the process."""
    taken: list[float] = []
    memory: list[int] = []

    def watch(record: Mapping[str, Any]) -> None:
        taken.append(record["seconds"])
        memory.append(int(_MEMORY.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    _session(cifar_mobilenet(alpha=0.25), 100, _NUM_EPISODES).search(on_episode=watch)
    first = statistics.median(taken[_SETTLED : _SETTLED + _WINDOW])
    last = statistics.median(taken[-_WINDOW:])
    growth = max(memory[_SETTLED:]) / memory[_SETTLED]
    return [
        Figure("growth.episodes", last / first, "x", limit=_MAX_TIME_GROWTH),
        Figure("growth.memory", growth, "x", limit=_MAX_MEMORY_GROWTH),
        Figure("growth.memory_mib", memory[-1] / 2**20, "MiB"),
    ]


def _session(model: keras.Model, num_images: int, num_episodes: int) -> PruningSession:
    settings = SearchSettings(
        episodes=num_episodes, warmup_episodes=num_episodes // 10, num_search_images=num_images
    )
    return networks.session(model, networks.noise_split(model, num_search=num_images), settings)
