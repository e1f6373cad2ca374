"""Chooses and makes the networks that a latency table is built from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.stats import qmc

from amc_tf.errors import SettingsError
from amc_tf.executor import Executor
from amc_tf.graph import ChannelGraph
from amc_tf.network import NetworkFunction
from amc_tf.plan import allowed_widths, widths_to_plan

_UNIFORM_RATIOS = (0.75, 0.5)
_SPREAD = 0.6  # of the layers of one network around their common level, in parts of the untouched widths


def table_widths(
    graph: ChannelGraph,
    num_networks: int,
    *,
    round_to: int = 8,
    min_keep_ratio: float = 0.2,
    seed: int = 0,
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Chooses networks that together cover the widths that a search can use.

    They are the original, uniform ones at three quarters and at half of the channels, and random ones: each
    has its own level, from the smallest network to the original, around which its layers vary. Levels and
    variations are spread evenly (a Halton sequence); more networks only add to fewer, so that a table can
    grow. All widths are aligned as in a search.

    Args:
        graph: the original network.
        num_networks: how many, the original included; at least 2.
        round_to: widths are multiples of this (or untouched).
        min_keep_ratio: smallest part of the channels that stays in each group.
        seed: of the random networks.

    Returns:
        Label and widths of each, the original first; fewer than asked for where widths coincide.

    Raises:
        SettingsError: if an argument is outside its range.
    """
    if num_networks < 2:
        raise SettingsError(f"A table needs at least 2 networks to be tested on itself, not {num_networks}.")
    allowed = [
        allowed_widths(group.num_channels, round_to=round_to, min_keep_ratio=min_keep_ratio)
        for group in graph.groups
    ]
    uniform = [
        (f"uniform {ratio:g}", tuple(_at(widths, ratio) for widths in allowed)) for ratio in _UNIFORM_RATIOS
    ]
    points = qmc.Halton(len(allowed) + 1, seed=np.random.default_rng(seed)).random(num_networks)
    parts = np.clip(points[:, :1] + _SPREAD * (points[:, 1:] - 0.5), 0.0, 1.0)  # [networks, groups]
    random = [
        (f"random {number}", tuple(_at(widths, part) for widths, part in zip(allowed, row, strict=True)))
        for number, row in enumerate(parts.tolist(), start=1)
    ]
    labels: dict[tuple[int, ...], str] = {}
    for label, widths in [("original", graph.full_widths), *uniform, *random][:num_networks]:
        labels.setdefault(widths, label)
    return tuple((label, widths) for widths, label in labels.items())


def table_networks(
    model: Any, chosen: tuple[tuple[str, tuple[int, ...]], ...], graph: ChannelGraph
) -> Iterator[tuple[str, bytes]]:
    """Makes networks one after the other, as a search would convert them.

    Args:
        model: the original; it is not changed.
        chosen: label and widths of each, as of `table_widths`.
        graph: of the model.

    Yields:
        Label and float32 TFLite bytes.
    """
    executor = Executor(NetworkFunction(model, graph))
    for label, widths in chosen:
        yield label, executor.to_tflite(executor.network.slice(widths_to_plan(graph, widths)))


def _at(widths: tuple[int, ...], part: float) -> int:
    """Returns the width nearest to a part of the untouched one."""
    return min(widths, key=lambda width: abs(width - part * widths[-1]))
