"""Evaluates the candidates of a search on the processors of a Ray cluster, each on a part of the images."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.cluster import check_has, connected, task_options
from amc_tf.device.convert import TFLiteRunner
from amc_tf.errors import ClusterError, SettingsError
from amc_tf.evaluate import BATCH_SIZE, Accuracy, accuracy_of, batch_scores
from amc_tf.executor import Executor
from amc_tf.image_data import ImageData
from amc_tf.model_file import model_from_bytes, model_to_bytes
from amc_tf.network import NetworkFunction
from amc_tf.weights import Weights

Scores = list[NDArray[Any]]  # [B, classes] of each batch


class RayEvaluation:
    """Actors of a Ray cluster that run candidates; use as a context manager, and as `make_executor`.

    The images are cut into batches as they are here, and each actor runs some of them, so that a candidate
    has the same scores, but for rounding where TensorFlow runs it (LiteRT rounds alike). An actor whose node
    dies is started again on another one, and what was asked of it is asked again.

    Args:
        address: as of `amc_tf.cluster.connected`.
        num_actors: how many, each with a processor to itself; None for one on each of the cluster's.

    Raises:
        ClusterError: when entered, if there is no Ray or no cluster, or fewer processors than actors.
    """

    def __init__(self, address: str, *, num_actors: int | None = None) -> None:
        if num_actors is not None and num_actors < 1:
            raise SettingsError(f"Candidates cannot be evaluated by {num_actors} actors: give 1 or more.")
        self._address = address
        self._num_actors = num_actors
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> RayEvaluation:
        """Connects, and starts the actors."""
        with contextlib.ExitStack() as stack:
            self.ray = stack.enter_context(connected(self._address))
            check_has(self.ray, {"CPU": 1}, hint="start one with processors")
            asked = {**task_options(1), "max_restarts": -1, "max_task_retries": -1}
            most = int(self.ray.cluster_resources()["CPU"])
            count = self._num_actors or most
            if count > most:
                raise ClusterError(
                    f"The Ray cluster has {most} processors, and {count} actors need one each: ask for fewer."
                )
            self.actors = [self.ray.remote(_Actor).options(**asked).remote() for _ in range(count)]
            stack.callback(self.actors.clear)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the actors, and disconnects."""
        self._closing.close()

    def __call__(self, network: NetworkFunction, model: Any) -> Executor:
        """Returns the executor of a network whose accuracy the actors evaluate.

        Args:
            network: the original.
            model: the same as a Keras model.
        """
        return _RayExecutor(network, model, self)


class _RayExecutor(Executor):
    """An `Executor` that converts here and evaluates there."""

    def __init__(self, network: NetworkFunction, model: Any, evaluation: RayEvaluation) -> None:
        super().__init__(network)
        self._model = model
        self._evaluation = evaluation
        self._content: Any = None
        self._shares: dict[int, tuple[ImageData, list[Any]]] = {}  # what was sent, by id, and where it is

    def accuracy(
        self,
        weights: Weights,
        data: ImageData,
        *,
        input_range: str,
        reference: NDArray[np.float32] | None = None,
    ) -> Accuracy:
        """Runs a slim network on images."""
        if self.runs_litert:
            tflite = self.to_tflite(weights)
            return self.tflite_accuracy(tflite, data, input_range=input_range, reference=reference)
        put = self._evaluation.ray.put
        if self._content is None:
            content = model_to_bytes(self._model)
            self._content = hashlib.sha256(content).hexdigest(), put(np.frombuffer(content, np.uint8))
        return self._collect("run", data, reference, *self._content, put(weights), input_range)

    def tflite_accuracy(
        self,
        tflite: bytes,
        data: ImageData,
        *,
        input_range: str,
        reference: NDArray[np.float32] | None = None,
    ) -> Accuracy:
        """Runs a converted network on images."""
        content = self._evaluation.ray.put(np.frombuffer(tflite, np.uint8))
        return self._collect("run_tflite", data, reference, content, input_range)

    def _collect(
        self, method: str, data: ImageData, reference: NDArray[np.float32] | None, *args: Any
    ) -> Accuracy:
        asked = [
            getattr(actor, method).remote(share, *args)
            for actor, share in zip(self._evaluation.actors, self._share(data), strict=False)
        ]
        parts: list[Scores] = self._evaluation.ray.get(asked)
        return accuracy_of([scores for part in parts for scores in part], data.labels, reference=reference)

    def _share(self, data: ImageData) -> list[Any]:
        """Returns where the images of each actor are, in their order; they are sent once."""
        if id(data) not in self._shares:
            starts = np.arange(0, len(data), BATCH_SIZE)
            parts = np.array_split(starts, min(len(starts), len(self._evaluation.actors)))
            sent = [self._evaluation.ray.put(_cut(data, part[0], part[-1] + BATCH_SIZE)) for part in parts]
            self._shares[id(data)] = data, sent
        return self._shares[id(data)][1]


class _Actor:
    """Runs candidates on a node."""

    def __init__(self) -> None:
        self._digest = ""
        self._network: Any = None

    def run(
        self, data: ImageData, digest: str, model: NDArray[np.uint8], weights: Weights, input_range: str
    ) -> Scores:
        """Runs a candidate on images; the function of its original is made once."""
        if digest != self._digest:
            self._network = NetworkFunction(model_from_bytes(model.tobytes()))
            self._digest = digest
        return list(batch_scores(self._network.predictor(weights), data, input_range=input_range))

    def run_tflite(self, data: ImageData, tflite: NDArray[np.uint8], input_range: str) -> Scores:
        """Runs a converted candidate on images."""
        return list(batch_scores(TFLiteRunner(tflite.tobytes()).predict, data, input_range=input_range))


def _cut(data: ImageData, start: int, stop: int) -> ImageData:
    return dataclasses.replace(data, images=data.images[start:stop], labels=data.labels[start:stop])
