import json

import keras
import numpy as np
import pytest

from amc_tf.errors import PlanError
from amc_tf.graph import ChannelGraph
from amc_tf.sparse_layers import SparseLayers
from amc_tf.sparsity_plan import SparsityPlan, largest
from amc_tf.weights import read_weights
from tests.harness import randomize
from tests.networks import classifier

SIZES = {"first": 216, "second": 576, "classes": 32}
PLAN = SparsityPlan({"first": 50, "second": 100, "classes": 32}, SIZES)


@pytest.fixture(scope="module")
def graph():
    model = classifier(keras, keras.layers.Conv2D(8, 3, name="second"))
    return ChannelGraph.from_model(randomize(model))


@pytest.fixture(scope="module")
def layers(graph):
    return SparseLayers(graph)


def test_a_plan_is_made_of_numbers_of_weights_and_gives_them_back(layers):
    plan = SparsityPlan.from_widths(layers, (50, 100, 32))
    assert plan == PLAN
    plan.validate(layers)
    assert plan.widths(layers) == (50, 100, 32)
    assert plan.sparsity("second") == 1 - 100 / 576
    assert SparsityPlan({"second": 9}, {"second": 576}).widths(layers) == (216, 9, 32)


def test_the_largest_weights_stay_and_the_first_of_equals():
    kernel = np.array([[0.5, -2.0, 1.0], [-1.0, 0.0, 1.0]], np.float32)
    assert largest(kernel, 3).astype(int).tolist() == [[0, 1, 1], [1, 0, 0]]
    assert largest(kernel, 6).all()


def test_applying_a_plan_leaves_exactly_so_many_weights_and_changes_nothing_else(graph):
    weights = read_weights(graph)
    before = {path: arrays["kernel"].copy() for path, arrays in weights.items()}
    masked = PLAN.apply(weights)
    for path, kept in PLAN.kept.items():
        kernel = masked[path]["kernel"]
        assert np.count_nonzero(kernel) == kept
        assert np.abs(before[path])[kernel == 0].max(initial=0) <= np.abs(kernel)[kernel != 0].min()
        np.testing.assert_array_equal(kernel[kernel != 0], before[path][kernel != 0])
        np.testing.assert_array_equal(masked[path]["bias"], weights[path]["bias"])
        np.testing.assert_array_equal(weights[path]["kernel"], before[path])


def test_a_plan_applied_twice_is_the_plan_applied_once(graph):
    once = PLAN.apply(read_weights(graph))
    twice = PLAN.apply(once)
    np.testing.assert_array_equal(once["second"]["kernel"], twice["second"]["kernel"])


def test_a_plan_survives_a_file(tmp_path):
    PLAN.save(tmp_path / "plan.json")
    assert SparsityPlan.load(tmp_path / "plan.json") == PLAN
    assert json.loads((tmp_path / "plan.json").read_text())["layers"]["second"] == {
        "num_weights": 576,
        "kept": 100,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", 'no sparsity plan: "format": "amc-tf sparsity plan 1" was expected'),
        ('{"format": "amc-tf plan 1", "groups": {}}', "no sparsity plan"),
        ('{"format": "amc-tf sparsity plan 1"}', 'needs "layers"'),
        ('{"format": "amc-tf sparsity plan 1", "layers": {"a": {"kept": 1}}}', "needs"),
        (
            '{"format": "amc-tf sparsity plan 1", "layers": {"a": {"kept": 1.5, "num_weights": 2}}}',
            "gives 1.5 of 2 weights of 'a': whole numbers",
        ),
        (
            '{"format": "amc-tf sparsity plan 1", "layers": {"a": {"kept": 3, "num_weights": 2}}}',
            "'a' has 2 weights: a plan cannot keep 3",
        ),
    ],
)
def test_a_file_that_is_no_plan_says_why(tmp_path, text, message):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=message):
        SparsityPlan.load(tmp_path / "plan.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"none\.json' cannot be read: No such file"):
        SparsityPlan.load(tmp_path / "none.json")


def test_the_plan_of_another_model_is_refused_with_what_differs(layers, graph):
    with pytest.raises(PlanError, match=r"prunes 'third', which .* \(its layers: first, second, classes\)"):
        SparsityPlan({"third": 1}, {"third": 2}).validate(layers)
    with pytest.raises(PlanError, match=r"is for 99 weights in 'second', but .* has 576"):
        SparsityPlan({"second": 1}, {"second": 99}).validate(layers)
    with pytest.raises(PlanError, match="is for 99 weights in 'second', but its kernel has 576"):
        SparsityPlan({"second": 1}, {"second": 99}).apply(read_weights(graph))


def test_numbers_that_do_not_fit_are_refused(layers):
    with pytest.raises(PlanError, match="1 numbers of weights were given for 3 layers"):
        SparsityPlan.from_widths(layers, (5,))
    with pytest.raises(PlanError, match="a plan cannot keep 0 of them"):
        SparsityPlan.from_widths(layers, (50, 0, 32))
    with pytest.raises(PlanError, match="of the same layers"):
        SparsityPlan({"a": 1}, {})
