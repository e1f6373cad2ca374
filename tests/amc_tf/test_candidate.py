import keras
import numpy as np
import pytest

from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.calibration import calibrate
from amc_tf.candidate import CandidateBuilder
from amc_tf.errors import SettingsError
from amc_tf.evaluate import accuracy
from amc_tf.importance import l1_consumer
from amc_tf.network import NetworkFunction
from amc_tf.plan import widths_to_plan
from amc_tf.reconstruct import Reconstructor
from amc_tf.sequential import SequentialReconstructor
from tests.harness import relative_error
from tests.trained import RANGE, make_classifier, make_split, to_input_range

WIDTHS = (8, 12, 8)


@pytest.fixture(scope="module")
def parts():
    """Network, its calibration, the batch-norm estimator and the data."""
    split = make_split()
    network = NetworkFunction(make_classifier(keras))
    images = to_input_range(split.calibration.images, RANGE)
    return network, calibrate(network, images), BatchNormEstimator(network, images), split


def search_accuracy(parts, weights):
    network, _, _, split = parts
    return accuracy(network.predictor(weights), split.search, input_range=RANGE).top1


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for path, arrays in expected.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[path][name], array, err_msg=f"{path} {name}")


def test_plan_keeps_the_channels_of_highest_importance_with_batch_norm_folded_in(parts):
    network, calibration, *_ = parts
    builder = CandidateBuilder(network, calibration, importance="l1_consumer")
    scores = l1_consumer(network.graph, network.fold(network.weights), calibration)

    plan = builder.plan(WIDTHS)

    assert plan == widths_to_plan(network.graph, WIDTHS, scores=scores)
    assert plan.widths(network.graph) == WIDTHS


def test_without_recoveries_the_weights_are_the_sliced_ones(parts):
    network, calibration, *_ = parts
    builder = CandidateBuilder(network, calibration, importance="l2_consumer", reconstruct=False)
    plan = builder.plan(WIDTHS)
    assert_equal(builder.weights(plan), network.slice(plan))


def test_batch_norm_is_measured_on_the_reconstructed_network(parts):
    network, calibration, estimator, _ = parts
    builder = CandidateBuilder(network, calibration, importance="l2_consumer", batch_norm=estimator)
    plan = builder.plan(WIDTHS)
    assert_equal(builder.weights(plan), estimator(Reconstructor(network, calibration)(plan), plan))


def test_refitting_in_network_order_begins_where_the_other_recoveries_end(parts):
    network, calibration, estimator, split = parts
    in_order = SequentialReconstructor(network, to_input_range(split.calibration.images[:20], RANGE))
    before, builder = (
        CandidateBuilder(network, calibration, importance="l2_consumer", batch_norm=estimator, in_order=last)
        for last in (None, in_order)
    )
    plan = builder.plan(WIDTHS)
    assert_equal(builder.weights(plan), in_order(plan, before.weights(plan)))


def test_the_same_widths_give_the_same_network(parts):
    network, calibration, estimator, _ = parts
    builder = CandidateBuilder(network, calibration, importance="activation", batch_norm=estimator)
    assert_equal(builder.weights(builder.plan(WIDTHS)), builder.weights(builder.plan(list(WIDTHS))))


def test_each_recovery_raises_the_accuracy(parts):
    network, calibration, estimator, _ = parts
    none, fitted, both = (
        CandidateBuilder(
            network, calibration, importance="l2_consumer", reconstruct=reconstruct, batch_norm=norm
        )
        for reconstruct, norm in ((False, None), (True, None), (True, estimator))
    )
    plan = none.plan(WIDTHS)
    assert search_accuracy(parts, network.weights) > 0.8
    assert (
        search_accuracy(parts, none.weights(plan))
        < search_accuracy(parts, fitted.weights(plan))
        <= search_accuracy(parts, both.weights(plan))
    )


def test_a_plan_that_keeps_everything_changes_the_outputs_by_batch_norm_only(parts):
    network, calibration, _, split = parts
    builder = CandidateBuilder(network, calibration, importance="l2_consumer")
    images = to_input_range(split.search.images[:8], RANGE)
    weights = builder.weights(builder.plan(network.graph.full_widths))
    assert relative_error(network(images, weights), network(images, network.weights)) == 0


def test_unknown_importance_is_refused_at_construction(parts):
    network, calibration, *_ = parts
    with pytest.raises(SettingsError, match="choose one of l1_consumer"):
        CandidateBuilder(network, calibration, importance="nothing")
