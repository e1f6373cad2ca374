"""What summary.json tells of a run besides its results: channels, images, meter, versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

from amc_tf import __version__
from amc_tf.data import ImageData
from amc_tf.device.latency import LatencyMeter
from amc_tf.graph import ChannelGraph

_PACKAGES = ("tensorflow", "keras", "ai-edge-litert", "numpy")


def channels(graph: ChannelGraph, widths: Sequence[int], uniform: Sequence[int]) -> list[dict[str, Any]]:
    """Returns the channels of each group before and after, and those of the uniform plan."""
    return [
        {
            "group": group.name,
            "layer": group.producers[0],
            "before": group.num_channels,
            "after": width,
            "uniform": uniform_width,
        }
        for group, width, uniform_width in zip(graph.groups, widths, uniform, strict=True)
    ]


def images(data: ImageData, input_range: str) -> dict[str, Any]:
    """Returns what an application has to know to give the network images and to name its answers.

    Args:
        data: images of the run.
        input_range: how uint8 images were scaled; float images were in the model's range already.
    """
    return {
        "input_range": input_range,
        "image_dtype": str(data.images.dtype),
        "class_names": None if data.class_names is None else [str(name) for name in data.class_names],
    }


def meter(meter: LatencyMeter) -> dict[str, str]:
    """Returns what latencies were measured with."""
    return {"name": meter.name, "fingerprint": meter.fingerprint()}


def versions() -> dict[str, str]:
    """Returns the versions of what the results depend on."""
    return {
        "python": platform.python_version(),
        "amc-tf": __version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }
