"""Facts about amc_tf/elimination.py, against least squares on the rows that the statistics are of."""

import numpy as np
import pytest

from amc_tf.calibration import InputStatistics
from amc_tf.elimination import Reader, elimination_order

NUM_ROWS = 3000


class Sampled:
    """Correlated inputs, a kernel that reads them, and the error that is left without some of them."""

    def __init__(self, num_inputs, num_outputs, *, seed=0):
        rng = np.random.default_rng(seed)
        inputs = rng.normal(0, 1, (NUM_ROWS, num_inputs)) @ rng.normal(0, 1, (num_inputs, num_inputs))
        self.inputs = inputs - inputs.mean(axis=0)
        self.kernel = rng.normal(0, 1, (num_inputs, num_outputs)).astype(np.float32)
        self.outputs = self.inputs @ self.kernel
        covariance = (self.inputs.T @ self.inputs / NUM_ROWS).astype(np.float32)
        self.statistics = InputStatistics(np.zeros(num_inputs, np.float32), covariance, NUM_ROWS)

    def lost_without(self, removed):
        kept = np.delete(self.inputs, list(removed), axis=1)
        left = self.outputs - kept @ np.linalg.lstsq(kept, self.outputs, rcond=None)[0]
        return np.square(left).sum() / np.square(self.outputs).sum()


@pytest.fixture(autouse=True)
def no_ridge(monkeypatch):
    monkeypatch.setattr("amc_tf.elimination._RIDGE", 0.0)


def test_costs_are_what_least_squares_leaves_unexplained():
    sampled = Sampled(8, 3)
    rows = np.array([[0, 3], [1, 4], [2, 5]])  # 6 and 7 belong to another group
    found = Reader(sampled.statistics, sampled.kernel, rows).costs()
    np.testing.assert_allclose(found, [sampled.lost_without(channel) for channel in rows], rtol=1e-3)


def test_after_removals_costs_are_those_of_the_re_fitted_kernel():
    sampled = Sampled(12, 4)
    rows = np.arange(10).reshape(5, 2)
    reader = Reader(sampled.statistics, sampled.kernel, rows)

    reader.remove(1)  # channel 4 takes its position
    reader.remove(0)  # channel 3 does

    before = sampled.lost_without([0, 1, 2, 3])
    expected = [sampled.lost_without([0, 1, 2, 3, *rows[channel]]) - before for channel in (3, 4, 2)]
    np.testing.assert_allclose(reader.costs(), expected, rtol=2e-3)


def test_the_order_is_that_of_exhaustive_greedy_removal():
    first, second = Sampled(6, 3, seed=1), Sampled(6, 2, seed=2)
    rows = np.arange(6)[:, None]
    fixed = np.array([0.0, 0.0, 9.0, 0.0, 0.0, 0.0])
    gone = []
    while len(gone) < 5:
        costs = {
            channel: first.lost_without([*gone, channel])
            + second.lost_without([*gone, channel])
            + fixed[[*gone, channel]].sum()
            for channel in range(6)
            if channel not in gone
        }
        gone.append(min(costs, key=costs.get))

    readers = [Reader(sampled.statistics, sampled.kernel, rows) for sampled in (first, second)]
    order = elimination_order(readers, fixed)

    assert order.tolist() == [*gone, 2]


def test_without_readers_the_fixed_costs_decide():
    assert elimination_order([], np.array([0.3, 0.1, 0.2])).tolist() == [1, 2, 0]
