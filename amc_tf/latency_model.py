"""Predicts latency from widths by a linear model, fitted to the measurements of the search itself."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from amc_tf.cost import Cost
from amc_tf.errors import MeasurementError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import allowed_widths

FEATURES = ("constant", "pointwise", "convolution", "depthwise", "dense", "parameters")
_PRIOR_WEIGHT = 0.05  # of one measurement: decides only what the measurements leave open


class Layered(Protocol):
    """A network that is counted layer by layer for any widths; a `ChannelGraph` is one."""

    @property
    def full_widths(self) -> tuple[int, ...]:
        """The widths before pruning."""

    def count(self, widths: Sequence[int]) -> Cost:
        """Returns the exact cost."""

    def layer_macs(self, widths: Sequence[int]) -> dict[str, int]:
        """Returns the multiply-accumulates of each layer that has weights, by its path."""

    def layers(self) -> dict[str, tuple[Any, Any]]:
        """Returns layer and rule by path."""


class ObservedLatencies(abc.ABC):
    """The latencies that a search has observed, and a model that is fitted anew after each."""

    def __init__(self) -> None:
        self._measured: dict[tuple[int, ...], float] = {}
        self._known_terms: dict[tuple[int, ...], NDArray[np.float64]] = {}
        self._shares: NDArray[np.float64] = np.zeros(0)

    def predict(self, widths: Sequence[int]) -> float:
        """Returns the predicted latency in ms of the network with these widths."""
        return float(self._terms(widths) @ self._shares)

    def observe(self, widths: Sequence[int], latency_ms: float) -> None:
        """Takes in a measured latency and fits anew; a later one of the same network replaces the earlier.

        Raises:
            MeasurementError: if the latency is not above 0.
        """
        if not latency_ms > 0 or not np.isfinite(latency_ms):
            raise MeasurementError(f"A latency of {latency_ms} ms was observed; measure one above 0 ms.")
        key = tuple(int(width) for width in widths)
        self._measured[key] = float(latency_ms)
        self._known_terms[key] = self._terms(key)
        self._refit()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Returns all measurements, as arrays that `np.savez` can write."""
        return {
            "widths": np.array(list(self._measured), np.int64),
            "latency_ms": np.array(list(self._measured.values()), np.float64),
        }

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Takes over what `state` returned."""
        rows = [tuple(row) for row in state["widths"].tolist()]
        self._measured = dict(zip(rows, state["latency_ms"].tolist(), strict=True))
        self._known_terms = {row: self._terms(row) for row in rows}
        self._refit()

    @abc.abstractmethod
    def _terms(self, widths: Sequence[int]) -> NDArray[np.float64]:
        """Returns the terms, [terms], whose sum weighted by the shares is the latency in ms."""

    @abc.abstractmethod
    def _fit(self, terms: NDArray[np.float64], latencies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the shares, [terms], from the terms [networks, terms] and latencies of all networks."""

    def _refit(self) -> None:
        terms = np.stack([self._known_terms[widths] for widths in self._measured])
        self._shares = self._fit(terms, np.array(list(self._measured.values())))


class LatencyPredictor(ObservedLatencies):
    """A non-negative linear model of latency, for the bounds of a latency budget.

    latency = sum over f of share_f * x_f(widths), where x_f is feature f as a part of its value in the
    original: a constant; the MACs of 1x1 convolutions, of larger convolutions, of depthwise convolutions, and
    of all other layers; and the parameters. share_f >= 0 is then the time in ms that the original spends on
    it. As no share is negative, predicted latency never falls when a width rises, which the bounds rely on.

    The shares minimise the squared relative errors over all measurements, by non-negative least squares.
    While there are few measurements, a weak prior decides what they leave open: the original's time, split
    by MACs.

    Real latency is a step function of width that also falls here and there when a width rises. The model is
    for steering only: it is never reported, and the measured time decides whether a network is within its
    budget.
    """

    def __init__(self, graph: Layered, latency_ms: float) -> None:
        """Starts from the original alone.

        Args:
            graph: the network.
            latency_ms: measured latency of the original.

        Raises:
            MeasurementError: if the latency is not above 0.
        """
        super().__init__()
        self._graph = graph
        self._feature_of = {path: _feature_of(layer) for path, (layer, _) in graph.layers().items()}
        full = self._raw_features(graph.full_widths)
        self._scale = np.where(full > 0, full, 1.0)
        macs = np.where([name in ("constant", "parameters") for name in FEATURES], 0.0, full)
        self._prior = latency_ms * macs / max(macs.sum(), 1.0)
        self.observe(graph.full_widths, latency_ms)

    def _fit(self, terms: NDArray[np.float64], latencies: NDArray[np.float64]) -> NDArray[np.float64]:
        prior = _PRIOR_WEIGHT * np.eye(len(FEATURES)) / latencies.max()
        matrix = np.concatenate([terms / latencies[:, None], prior])
        targets = np.concatenate([np.ones(len(latencies)), prior @ self._prior])
        return nnls(matrix, targets)[0]

    def _terms(self, widths: Sequence[int]) -> NDArray[np.float64]:
        return self._raw_features(widths) / self._scale

    def _raw_features(self, widths: Sequence[int]) -> NDArray[np.float64]:
        values = dict.fromkeys(FEATURES, 0.0)
        for path, macs in self._graph.layer_macs(widths).items():
            values[self._feature_of[path]] += macs
        values["constant"] = 1.0
        values["parameters"] = float(self._graph.count(widths).params)
        return np.array(list(values.values()))


def probe_widths(
    graph: ChannelGraph, *, round_to: int = 8, min_keep_ratio: float = 0.2
) -> tuple[tuple[int, ...], ...]:
    """Lists networks to measure before a search, so that the first bounds are sound.

    They are uniform at three quarters and at half of the channels, then the smallest network, each with its
    widths aligned.
    """
    allowed = [
        allowed_widths(group.num_channels, round_to=round_to, min_keep_ratio=min_keep_ratio)
        for group in graph.groups
    ]
    return tuple(tuple(_nearest(widths, ratio) for widths in allowed) for ratio in (0.75, 0.5, 0.0))


def _nearest(widths: Sequence[int], ratio: float) -> int:
    return min(widths, key=lambda width: abs(width - ratio * widths[-1]))


def _feature_of(layer: object) -> str:
    kind = type(layer).__name__
    if kind == "DepthwiseConv2D":
        return "depthwise"
    if kind in ("Conv2D", "SeparableConv2D", "Conv2DTranspose"):
        return "pointwise" if tuple(getattr(layer, "kernel_size", ())) == (1, 1) else "convolution"
    return "dense"
