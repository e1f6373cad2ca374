import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.layers.labels import LabelSets


def test_new_labels_are_tied_to_none():
    labels = LabelSets()
    first, second = labels.new(3), labels.new(2)
    assert first.tolist() == [0, 1, 2]
    assert labels.roots(second).tolist() == [3, 4]


def test_tied_labels_have_one_root_element_by_element():
    labels = LabelSets()
    first, second, third = labels.new(2), labels.new(2), labels.new(2)
    labels.tie(second, third)
    labels.tie(first, second[::-1])
    assert labels.roots(first).tolist() == labels.roots(third[::-1]).tolist()
    assert labels.roots(first)[0] != labels.roots(first)[1]


def test_tying_arrays_of_unequal_length_is_refused():
    labels = LabelSets()
    with pytest.raises(ValueError, match="longer"):
        labels.tie(labels.new(2), labels.new(3))


def test_a_frozen_set_stays_frozen_through_ties_and_keeps_the_first_reason():
    labels = LabelSets()
    first, second = labels.new(1), labels.new(1)
    labels.freeze(second, "soft", "it is a softmax")
    labels.freeze(second, "other", "too late")
    labels.tie(first, second)
    assert labels.why_frozen(0) == labels.why_frozen(1) == ("soft", "it is a softmax")


def test_an_overruling_reason_replaces_the_first():
    labels = LabelSets()
    first = labels.new(1)
    labels.freeze(first, "soft", "it is a softmax")
    labels.freeze(first, "model", "its outputs", overrule=True)
    assert labels.why_frozen(0) == ("model", "its outputs")


def test_freezing_one_of_tied_labels_freezes_the_other():
    labels = LabelSets()
    first, second, free = labels.new(2), labels.new(2), labels.new(1)
    labels.tie(first, second)
    labels.freeze(first[:1], "layer", "reason")
    assert [labels.why_frozen(label) is None for label in (*second.tolist(), *free.tolist())] == [
        False,
        True,
        True,
    ]


def test_roots_keep_the_shape_given():
    labels = LabelSets()
    grid = labels.new(6).reshape(2, 3)
    np.testing.assert_array_equal(labels.roots(grid), grid)


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=40))
def test_roots_agree_with_connected_components(pairs):
    labels = LabelSets()
    numbers = labels.new(20)
    component = list(range(20))
    for one, other in pairs:
        labels.tie(numbers[[one]], numbers[[other]])
        old, new = component[other], component[one]
        component = [new if item == old else item for item in component]
    roots = labels.roots(numbers)
    for one in range(20):
        for other in range(20):
            assert (roots[one] == roots[other]) == (component[one] == component[other])
