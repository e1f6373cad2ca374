"""Tiny networks for tests, in either flavour of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amc_tf.graph import ChannelGraph

IMAGE = (8, 8, 3)
NUM_CLASSES = 4


def classifier(library: Any, body: Callable[[Any], Any], *, image: tuple[int, ...] = IMAGE) -> Any:
    """Puts a body between a convolution of 8 channels, "first", and a Dense layer, "classes"."""
    images = library.Input(image)
    hidden = body(library.layers.Conv2D(8, 3, padding="same", name="first")(images))
    if len(hidden.shape) == 4:
        hidden = library.layers.GlobalAveragePooling2D()(hidden)
    return library.Model(images, library.layers.Dense(NUM_CLASSES, name="classes")(hidden))


def widths_by_group(graph: ChannelGraph) -> dict[str, int]:
    """Channels of each prunable group by its name."""
    return {group.name: group.num_channels for group in graph.groups}


def frozen_reasons(graph: ChannelGraph) -> dict[str, str]:
    """Reason of each frozen layer but the classifier's."""
    return {item.layer: item.reason for item in graph.frozen if item.layer != "classes"}
