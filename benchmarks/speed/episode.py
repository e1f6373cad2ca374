"""An episode on MobileNet-V1 at 224x224 beside LiteRT, which only runs the slim network."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.data import to_input_range
from amc_tf.device.convert import TFLiteRunner
from amc_tf.evaluate import accuracy
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.speed import networks
from benchmarks.speed.figures import Figure, Options, median, ratios, seconds

_MAX_RATIO = 1.35
_MAX_OVERHEAD = 0.08
_NUM_WARMUP = 3  # episodes without training, which do not count


def measure(options: Options) -> list[Figure]:
    """Times every episode of a search, and after each the pieces it is compared with."""
    split = networks.imagenet_split(options.data_dir)
    settings = SearchSettings(
        episodes=_NUM_WARMUP + options.rounds,
        warmup_episodes=_NUM_WARMUP,
        num_search_images=networks.NUM_IMAGES,
        num_calibration_images=networks.NUM_IMAGES,
    )
    session = networks.session(networks.imagenet_mobilenet(options.data_dir), split, settings)
    calibration = split.calibration.images[: settings.num_batch_norm_images]
    estimate = BatchNormEstimator(session.network, to_input_range(calibration, networks.INPUT_RANGE))
    rows: list[Mapping[str, float]] = []
    session.search(on_episode=lambda record: rows.append(_compare(session, estimate, record)))
    columns = {name: [row[name] for row in rows[_NUM_WARMUP:]] for name in rows[0]}
    network_runs = [sum(pair) for pair in zip(columns["evaluation"], columns["batch_norm"], strict=True)]
    shares = [1.0 - ratio for ratio in ratios(network_runs, columns["episode"])]
    return [
        median(
            "episode.ratio_to_litert", ratios(columns["episode"], columns["litert"]), "x", limit=_MAX_RATIO
        ),
        median("episode.overhead_share", shares, "of episode", limit=_MAX_OVERHEAD),
        median("episode.batch_norm_share", ratios(columns["batch_norm"], columns["episode"]), "of episode"),
        *(median(f"episode.{name}_seconds", values, "s") for name, values in columns.items()),
    ]


def _compare(
    session: PruningSession, estimate: BatchNormEstimator, record: Mapping[str, Any]
) -> Mapping[str, float]:
    """Times the parts of an episode on the network that it has found."""
    search = session.split.search
    images = to_input_range(search.images, networks.INPUT_RANGE)
    scaled = dataclasses.replace(search, images=images)  # as the search keeps them, and as LiteRT gets them
    plan = session.builder.plan(record["widths"])
    weights = session.builder.weights(plan)
    predict = session.executor.predictor(weights)
    tflite = session.executor.to_tflite(weights)
    return {
        "episode": record["seconds"],
        "evaluation": seconds(lambda: accuracy(predict, scaled, input_range=networks.INPUT_RANGE)),
        "batch_norm": seconds(lambda: estimate(weights, plan)),
        "litert": _fastest(tflite, images),
    }


def _fastest(tflite: bytes, images: Any) -> float:
    """Returns the seconds of LiteRT for all images, with the thread count that suits it best."""
    cores = os.cpu_count() or 1
    found = []
    for num_threads in range(1, cores + 1):
        runner = TFLiteRunner(tflite, num_threads=num_threads)
        runner.predict(images[:num_threads])
        found.append(seconds(lambda runner=runner: runner.predict(images)))
    return min(found)
