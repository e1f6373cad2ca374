"""Learns how long operators take on one device, from timed operators and from timed networks.

The time of an operator is the product of two parts, and both keep the steps of real latency:

- A rate model: non-negative rates for each family of operators, times what an operator computes, reads and
  writes; among the quantities are the multiply-accumulates with output channels rounded up to 8 and to 16,
  because kernels work on tiles. The rates minimise relative errors, of operators where they were timed one
  by one and of whole networks.
- A correction: the logarithm of true time / rate model is a Gaussian process over the widths of an operator,
  one for each place (family, sizes of the images, kernel, stride) that an operator can have. Operators of one
  place are alike if their widths are close and equally aligned: 24 channels say little about 32. A timed
  operator is thus met nearly exactly, an operator between two timed ones lies between, and one far from all
  is predicted by its rates. A timed network corrects all its operators by their share in its time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import nnls

from amc_tf.device.operators import Operator
from amc_tf.errors import MeasurementError

Vector = NDArray[np.float64]
_Family = tuple[str, str]

# Rates of a phone of 2016 (TFLite on a Pixel 1), in ms per 1e6, made faster or slower as a whole, stand in
# for what the measurements leave open.
_FEATURES = ("constant", "macs", "macs_8", "macs_16", "inputs", "outputs", "weights", "patches")
_TYPICAL: dict[str, dict[str, float]] = {
    "matmul": {"constant": 0.002, "macs": 0.17, "weights": 2.0},
    "vector": {"constant": 0.002, "weights": 0.6},
    "depthwise": {"constant": 0.002, "macs": 0.55},
}
_TYPICAL_ELSE = {"constant": 0.002, "inputs": 0.4, "outputs": 0.4}
_PRIOR_WEIGHT = 0.05  # of one measurement

# Of the Gaussian process. Any length from 0.3 to 1.2, deviation from 0.15 to 0.3 and likeness from 0.5 to 0.8
# predicts each of the three published Pixel 1 logs from the other two about equally well.
_LENGTH = 1.0  # in which the logarithm of a width changes an operator's nature
_DEVIATION = 0.2  # of the correction, as a logarithm
_LIKENESS = 0.7  # of two widths, one of which is divisible by one more power of 2 (up to 16)
_OPERATOR_NOISE = 0.03  # relative
_NETWORK_NOISE = 0.02  # relative
_SMALLEST_SHARE = 1e-4  # of a network's time; nothing finer is believed of an operator
_NUM_ROUNDS = 3
_NNLS_ROUNDS = 30  # for each unknown


@dataclasses.dataclass(frozen=True)
class TimedNetwork:
    """One network whose time is known.

    Attributes:
        operators: In run order.
        total_ms: Time of one inference, in milliseconds; above 0.
        times_ms: Time of each operator, None for one that is not known; None without a profile. They are
            scaled to add up to `total_ms`, because profiling costs time itself.
        noise: Relative uncertainty of `total_ms`.
    """

    operators: tuple[Operator, ...]
    total_ms: float
    times_ms: tuple[float | None, ...] | None = None
    noise: float = 0.0

    def scaled_times(self) -> tuple[float | None, ...]:
        """Returns the time of each operator as a part of `total_ms`, None where it is not known."""
        if self.times_ms is None:
            return (None,) * len(self.operators)
        profiled = sum(time for time in self.times_ms if time is not None)
        factor = self.total_ms / profiled if profiled > 0 else 1.0
        return tuple(None if time is None else factor * time for time in self.times_ms)


class OperatorTimes:
    """The fitted model; see the module for what it is."""

    def __init__(self, networks: Sequence[TimedNetwork]) -> None:
        """Fits rates and corrections; equal networks in equal order give an equal model.

        Args:
            networks: At least one.

        Raises:
            MeasurementError: There is no network, one has no operators, or their times contradict all sense.
        """
        if not networks or not all(network.operators for network in networks):
            raise MeasurementError("Operator times need at least one timed network, each with operators.")
        try:
            with np.errstate(over="raise", invalid="raise", divide="raise"):
                self._rates = _Rates(networks)
                self._places = self._correct(networks)
        except (ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError) as error:
            raise MeasurementError(
                f"No model fits the times of the {len(networks)} networks ({error}); measure them again."
            ) from error

    def predict(self, operators: Sequence[Operator]) -> Vector:
        """Returns the time of each operator, float64 [operators] in milliseconds."""
        times = {
            operator: self.predict_widths(operator, operator.input[2], operator.output[2])[0]
            for operator in dict.fromkeys(operators)
        }
        return np.array([times[operator] for operator in operators])

    def predict_widths(
        self, operator: Operator, input_channels: ArrayLike, output_channels: ArrayLike
    ) -> Vector:
        """Returns the times of an operator at other widths.

        Args:
            operator: What it is apart from its widths.
            input_channels: [n], 1 or more each.
            output_channels: [n].

        Returns:
            float64 [n], in milliseconds, above 0.
        """
        widths = _widths(operator, input_channels, output_channels)
        times = self._rates.predict(operator, widths)
        place = self._places.get(_place_of(operator))
        return times if place is None else times * np.exp(place.correction(widths))

    def _correct(self, networks: Sequence[TimedNetwork]) -> dict[Any, _Place]:
        """Fits the Gaussian processes of all places at once: networks tie them together."""
        unique = list(dict.fromkeys(operator for network in networks for operator in network.operators))
        places = _places_of(unique)
        number = {operator: index for index, operator in enumerate(unique)}
        rated = np.array([self._rates.predict(item, _own_widths(item))[0] for item in unique])
        rows = [row for network in networks for row in _rows(network, number, rated)]
        logs = np.zeros(len(unique))
        for _ in range(_NUM_ROUNDS):
            lines = [row.linearise(rated, logs) for row in rows]
            matrix = np.stack([line[0] for line in lines])
            targets = np.array([line[1] for line in lines])
            covariance = np.diag([row.noise**2 for row in rows])
            for place in places.values():
                part = matrix[:, place.members]
                covariance += part @ place.own_kernel @ part.T
            solved = matrix.T @ cho_solve(cho_factor(covariance), targets)
            for place in places.values():
                place.weights = solved[place.members]
                logs[place.members] = place.own_kernel @ place.weights
        return places


class _Place:
    """The Gaussian process of the operators that differ in nothing but their widths."""

    def __init__(self, members: Sequence[int], operators: Sequence[Operator]) -> None:
        self.members = np.array(members)
        self.widths = np.concatenate([_own_widths(operator) for operator in operators], axis=1)
        self.weights = np.zeros(len(members))

    @functools.cached_property
    def own_kernel(self) -> Vector:
        """The covariance of the members, [members, members]."""
        return self.kernel(self.widths)

    def kernel(self, widths: Vector) -> Vector:
        """Returns the covariance [n, members] of the corrections of operators with these widths [2, n]."""
        logs, own_logs = np.log(widths), np.log(self.widths)
        distance = ((logs[:, :, None] - own_logs[:, None, :]) ** 2).sum(axis=0) / _LENGTH**2
        steps, own_steps = _alignment(widths), _alignment(self.widths)
        differences = np.abs(steps[:, :, None] - own_steps[:, None, :]).sum(axis=0)
        return _DEVIATION**2 * np.exp(-distance / 2) * _LIKENESS**differences

    def correction(self, widths: Vector) -> Vector:
        """Returns the expected logarithm of true time / rate model, [n]."""
        return self.kernel(widths) @ self.weights


@dataclasses.dataclass(frozen=True)
class _Row:
    """A measurement of one or more operators: their sum took `time_ms`, give or take `noise` (relative)."""

    counts: Vector
    time_ms: float
    noise: float

    def linearise(self, rated: Vector, logs: Vector) -> tuple[Vector, float]:
        """Writes log(time) near `logs` as shares @ corrections; returns the shares and the value."""
        parts = self.counts * rated * np.exp(logs)
        shares = parts / parts.sum()
        return shares, float(np.log(self.time_ms / parts.sum()) + shares @ logs)


def _rows(network: TimedNetwork, number: dict[Operator, int], rated: Vector) -> list[_Row]:
    """Lists what was measured of a network: its total, and the mean time of each kind of operator in it."""
    counts = Counter(network.operators)
    vector = np.zeros(len(rated))
    for operator, count in counts.items():
        vector[number[operator]] = count
    rows = [_Row(vector, network.total_ms, max(network.noise, _NETWORK_NOISE))]
    known: dict[Operator, list[float]] = {}
    for operator, time in zip(network.operators, network.scaled_times(), strict=True):
        if time is not None:
            known.setdefault(operator, []).append(time)
    least = _SMALLEST_SHARE * network.total_ms
    for operator, times in known.items():
        single = np.zeros(len(rated))
        single[number[operator]] = 1.0
        mean = max(sum(times) / len(times), least)
        noise = (_OPERATOR_NOISE**2 / len(times) + (least / mean) ** 2) ** 0.5
        rows.append(_Row(single, mean, noise))
    return rows


class _Rates:
    """Non-negative rates of each family, fitted to relative errors."""

    def __init__(self, networks: Sequence[TimedNetwork]) -> None:
        families = sorted({_family_of(operator) for network in networks for operator in network.operators})
        self._column = {family: index * len(_FEATURES) for index, family in enumerate(families)}
        sums = np.stack([self._sum(network.operators) for network in networks])
        totals = np.array([network.total_ms for network in networks])
        typical = np.concatenate([_typical(family) for family in families])
        self._speed = float(np.median(totals / (sums @ typical)))
        rows: list[Vector] = [sums / totals[:, None]]
        targets: list[Vector] = [np.ones(len(networks))]
        for network in networks:
            matrix, values = self._operator_rows(network)
            rows.append(matrix)
            targets.append(values)
        # A column's unit is what it explains of the networks' time on average; the prior is in that unit.
        unit = (sums / totals[:, None]).mean(axis=0)
        unit[unit == 0] = 1.0
        prior = self._speed * typical * unit
        matrix = np.concatenate([*(row / unit for row in rows), _PRIOR_WEIGHT * np.eye(len(unit))])
        goal = np.concatenate([*targets, _PRIOR_WEIGHT * prior])
        self._rates = nnls(matrix, goal, maxiter=_NNLS_ROUNDS * len(unit))[0] / unit

    def predict(self, operator: Operator, widths: Vector) -> Vector:
        """Returns the times [n] in ms of an operator with these widths [2, n]."""
        start = self._column.get(_family_of(operator))
        if start is None:
            rates = self._speed * _typical(_family_of(operator))
        else:
            rates = self._rates[start : start + len(_FEATURES)]
        return np.maximum(rates @ _features(operator, widths), 1e-6)

    def _sum(self, operators: Sequence[Operator]) -> Vector:
        row = np.zeros(len(self._column) * len(_FEATURES))
        for operator in operators:
            start = self._column[_family_of(operator)]
            row[start : start + len(_FEATURES)] += _features(operator, _own_widths(operator))[:, 0]
        return row

    def _operator_rows(self, network: TimedNetwork) -> tuple[Vector, Vector]:
        """Returns a row for each timed operator, weighted by the root of its share in the network's time."""
        rows: list[Vector] = []
        targets: list[float] = []
        for operator, time in zip(network.operators, network.scaled_times(), strict=True):
            if time is None:
                continue
            weight = (time / network.total_ms) ** 0.5
            allowed = time + _SMALLEST_SHARE * network.total_ms
            rows.append(weight * self._sum([operator]) / allowed)
            targets.append(weight * time / allowed)
        num_columns = len(self._column) * len(_FEATURES)
        return np.array(rows).reshape(-1, num_columns), np.array(targets)


def _family_of(operator: Operator) -> _Family:
    """Names the operators that share rates."""
    if operator.kind == "DEPTHWISE_CONV_2D":
        return "depthwise", operator.precision
    if operator.num_weights:
        return ("vector" if operator.output[:2] == (1, 1) else "matmul"), operator.precision
    return operator.kind, operator.precision


def _place_of(operator: Operator) -> tuple[object, ...]:
    """Names everything about an operator but its widths."""
    family = _family_of(operator)
    return (*family, operator.input[:2], operator.output[:2], operator.kernel, operator.groups > 1)


def _places_of(operators: Sequence[Operator]) -> dict[Any, _Place]:
    members: dict[Any, list[int]] = {}
    for index, operator in enumerate(operators):
        members.setdefault(_place_of(operator), []).append(index)
    return {
        name: _Place(indices, [operators[index] for index in indices]) for name, indices in members.items()
    }


def _typical(family: _Family) -> Vector:
    rates = _TYPICAL.get(family[0], _TYPICAL_ELSE)
    return np.array([rates.get(feature, 0.0) for feature in _FEATURES])


def _widths(operator: Operator, input_channels: ArrayLike, output_channels: ArrayLike) -> Vector:
    """Returns input and output widths, [2, n]; where they go together, the output's twice."""
    outputs = np.atleast_1d(np.asarray(output_channels, np.float64))
    inputs = np.atleast_1d(np.asarray(input_channels, np.float64))
    ties = operator.kind == "DEPTHWISE_CONV_2D" or not operator.num_weights
    return np.stack([outputs if ties else inputs, outputs])


def _own_widths(operator: Operator) -> Vector:
    return _widths(operator, operator.input[2], operator.output[2])


def _alignment(widths: Vector) -> Vector:
    """Returns how often each width can be halved, at most 4 times."""
    return np.log2(np.gcd(widths.astype(np.int64), 16))


def _features(operator: Operator, widths: Vector) -> Vector:
    """Returns what an operator computes, reads and writes, in 1e6, [features, n]; the constant is 1."""
    inputs, outputs = widths
    positions = operator.output[0] * operator.output[1]
    sources = operator.input[0] * operator.input[1]
    window = operator.kernel[0] * operator.kernel[1]
    depth = np.zeros_like(inputs)
    if operator.num_weights:
        depth = np.ones_like(inputs) if operator.kind == "DEPTHWISE_CONV_2D" else inputs / operator.groups
    computed = (sources if operator.kind == "TRANSPOSE_CONV" else positions) * window * depth
    gathers = window > 1 and operator.kind == "CONV_2D"
    values = [
        np.full_like(inputs, 1e6),
        computed * outputs,
        computed * np.ceil(outputs / 8) * 8,
        computed * np.ceil(outputs / 16) * 16,
        sources * inputs,
        positions * outputs,
        window * depth * outputs,
        positions * window * inputs if gathers else np.zeros_like(inputs),
    ]
    return np.stack(values) / 1e6
