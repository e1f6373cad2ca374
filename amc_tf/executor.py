"""Runs and converts slim networks of one original, each in the fastest way that is known for it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.device.convert import TFLiteRunner, to_tflite
from amc_tf.device.operators import read_operators
from amc_tf.device.template import TFLiteTemplate
from amc_tf.errors import ModelError
from amc_tf.evaluate import Accuracy, accuracy
from amc_tf.image_data import ImageData
from amc_tf.layers.weighted import DepthwiseConv2DRule, SeparableConv2DRule
from amc_tf.network import NetworkFunction
from amc_tf.plan import widths_to_plan
from amc_tf.weights import Weights

_LOGGER = logging.getLogger(__name__)
_NUM_CHECK_IMAGES = 2


class Executor:
    """Runs slim networks, and converts them to TFLite.

    float32 conversion exchanges the constants of a file that was converted once, see `TFLiteTemplate`; a
    network whose file cannot be reused so is converted anew each time.

    Accuracy of networks with depthwise convolutions is evaluated by LiteRT on a CPU, whose XNNPACK is faster
    at them than TensorFlow; it is evaluated by TensorFlow otherwise, and always where there is a GPU
    (measured by `benchmarks/speed`, see RESULTS.md). The outputs differ by rounding only.

    Args:
        network: the original.

    Attributes:
        network: the original.
    """

    def __init__(self, network: NetworkFunction) -> None:
        self.network = network

    def predictor(self, weights: Weights) -> Callable[[Any], Any]:
        """Prepares weights once and returns the function images -> outputs for many batches.

        Args:
            weights: full or sliced weights.

        Returns:
            A function of float32 [batch, height, width, channels] images in the model's input range; its
            outputs are float32 [batch, classes].
        """
        if not self.runs_litert:
            return self.network.predictor(weights)
        return TFLiteRunner(self.to_tflite(weights), num_threads=os.cpu_count() or 1).predict

    def accuracy(
        self,
        weights: Weights,
        data: ImageData,
        *,
        input_range: str,
        reference: NDArray[np.float32] | None = None,
    ) -> Accuracy:
        """Runs a slim network on images; the arguments are those of `predictor` and `amc_tf.evaluate`."""
        return accuracy(self.predictor(weights), data, input_range=input_range, reference=reference)

    def tflite_accuracy(
        self,
        tflite: bytes,
        data: ImageData,
        *,
        input_range: str,
        reference: NDArray[np.float32] | None = None,
    ) -> Accuracy:
        """Runs a converted network on images."""
        runner = TFLiteRunner(tflite, num_threads=os.cpu_count() or 1)
        return accuracy(runner.predict, data, input_range=input_range, reference=reference)

    @functools.cached_property
    def runs_litert(self) -> bool:
        """Whether accuracy is evaluated by LiteRT."""
        rules = (DepthwiseConv2DRule, SeparableConv2DRule)
        if not any(isinstance(rule, rules) for rule in self.network.graph.rules):
            return False
        return not tf.config.list_physical_devices("GPU") and self._template is not None

    def to_tflite(
        self,
        weights: Weights,
        *,
        precision: str = "float32",
        calibration_images: NDArray[np.float32] | None = None,
        sparse: bool = False,
    ) -> bytes:
        """Converts a slim network; the arguments are those of `amc_tf.device.convert.to_tflite`.

        Raises:
            ConversionError: if TensorFlow does not convert it.
        """
        if precision == "float32" and not sparse and self._template is not None:
            return self._template.fill(self.network.fold(weights))
        return to_tflite(
            self.network.bind(weights),
            precision=precision,
            calibration_images=calibration_images,
            input_shape=self.network.input_shape,
            sparse=sparse,
        )

    @functools.cached_property
    def _template(self) -> TFLiteTemplate | None:
        """The converted original; None where a network made of it is not the one that conversion makes."""
        network = self.network
        markers = _tell_apart(network.weights)
        plan = widths_to_plan(
            network.graph, [max(1, group.num_channels // 2) for group in network.graph.groups]
        )
        slim = network.slice(plan, markers)
        try:
            template = TFLiteTemplate(self._convert(markers), network.fold(markers))
            found, expected = template.fill(network.fold(slim)), self._convert(slim)
        except ModelError as error:
            _LOGGER.info("Every network is converted anew: %s", error)
            return None
        if read_operators(found) == read_operators(expected) and self._agree(found, expected):
            return template
        _LOGGER.info("Every network is converted anew: with other weights its file is not the same.")
        return None

    def _convert(self, weights: Weights) -> bytes:
        return to_tflite(self.network.bind(weights), input_shape=self.network.input_shape)

    def _agree(self, found: bytes, expected: bytes) -> bool:
        shape = (_NUM_CHECK_IMAGES, *self.network.input_shape)
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        first, second = (TFLiteRunner(tflite).predict(images) for tflite in (found, expected))
        return np.array_equal(first, second, equal_nan=True)


MakeExecutor = Callable[[NetworkFunction, Any], Executor]  # the original as a function and as a model


def _tell_apart(weights: Weights) -> Weights:
    """Returns weights near those given of which no two arrays are alike, as those of a new network are."""
    rng = np.random.default_rng(0)
    return {
        path: {
            name: (array * rng.uniform(0.9, 1.1, array.shape) + rng.uniform(0.0, 0.01, array.shape)).astype(
                np.float32
            )
            for name, array in arrays.items()
        }
        for path, arrays in weights.items()
    }
