import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.errors import PlanError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.plan import PruningPlan, allowed_widths, compose, round_width, uniform_plan, widths_to_plan
from amc_tf.rebuild import rebuild
from tests.flips import read_flipped
from tests.networks import classifier


@pytest.fixture(scope="module")
def graph():
    return ChannelGraph.from_model(classifier(keras, keras.layers.Conv2D(12, 3, name="second")))


@st.composite
def plans(draw):
    kept, num_channels = {}, {}
    for name in draw(st.lists(st.text(min_size=1), unique=True, max_size=4)):
        num_channels[name] = draw(st.integers(1, 40))
        channels = draw(st.sets(st.integers(0, num_channels[name] - 1), min_size=1))
        kept[name] = tuple(sorted(channels))
    return PruningPlan(kept, num_channels)


@given(plans())
def test_json_gives_back_the_same_plan(plan):
    assert PruningPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_saved_plan_is_loaded_equal(tmp_path, graph):
    plan = uniform_plan(graph, 0.5, round_to=2)
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan
    assert "\n  " in (tmp_path / "plan.json").read_text()  # to be read, and compared line by line
    assert plan.kept == {"first": (0, 1, 2, 3), "second": (0, 1, 2, 3, 4, 5)}


def test_arrays_of_indices_become_plain_numbers():
    plan = PruningPlan({"a": np.array([1, 3])}, {"a": np.int64(4)})
    assert plan == PruningPlan({"a": (1, 3)}, {"a": 4})
    assert json.dumps(plan.to_json())


@pytest.mark.parametrize(
    ("kept", "num_channels", "words"),
    [
        ({"a": (0,)}, {"b": 2}, "for the same groups"),
        ({"a": ()}, {"a": 2}, "keeps no channel of 'a'"),
        ({"a": (1, 0)}, {"a": 2}, "'a' must ascend"),
        ({"a": (0, 0)}, {"a": 2}, "'a' must ascend"),
        ({"a": (0, 2)}, {"a": 2}, "keeps channel 2 of 'a', which has 2 channels"),
        ({"a": (-1, 0)}, {"a": 2}, "keeps channel -1 of 'a'"),
        ({"a": (0.5,)}, {"a": 2}, "whole numbers"),
        ({"a": 3}, {"a": 4}, "whole numbers"),
    ],
)
def test_a_malformed_plan_is_refused(kept, num_channels, words):
    with pytest.raises(PlanError, match=words):
        PruningPlan(kept, num_channels)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "no pruning plan"),
        ({}, "no pruning plan"),
        ({"format": "amc-tf plan 999", "groups": {}}, "no pruning plan"),
        ({"format": "amc-tf plan 1"}, 'needs "groups"'),
        ({"format": "amc-tf plan 1", "groups": []}, 'needs "groups"'),
        ({"format": "amc-tf plan 1", "groups": {"a": [1]}}, 'needs "groups"'),
        ({"format": "amc-tf plan 1", "groups": {"a": {"kept": [0]}}}, "num_channels"),
        ({"format": "amc-tf plan 1", "groups": {"a": {"kept": "01", "num_channels": 2}}}, "no whole number"),
        (
            {"format": "amc-tf plan 1", "groups": {"a": {"kept": [True], "num_channels": 2}}},
            "no whole number",
        ),
        (
            {"format": "amc-tf plan 1", "groups": {"a": {"kept": [5], "num_channels": 2}}},
            "which has 2 channels",
        ),
    ],
)
def test_values_that_are_no_plan_are_refused(value, words):
    with pytest.raises(PlanError, match=words):
        PruningPlan.from_json(value)


def test_no_flipped_bit_changes_a_plan(tmp_path, graph):
    path, plan = tmp_path / "plan.json", uniform_plan(graph, 0.5, round_to=2)
    plan.save(path)
    values, refusals = read_flipped(path, 800, PruningPlan.load, PlanError)
    assert all(value == plan for value in values)
    assert len(refusals) > 500
    assert all(text.startswith(f"The plan '{path}' is damaged: ") for text in refusals)
    assert PruningPlan.load(path) == plan


def test_a_plan_changed_by_hand_is_read_without_its_checksum(tmp_path, graph):
    path = tmp_path / "plan.json"
    uniform_plan(graph, 0.5, round_to=2).save(path)
    record = json.loads(path.read_text())
    record["groups"]["first"]["kept"] = [0, 1]
    path.write_text(json.dumps(record))
    with pytest.raises(
        PlanError, match='not what was written: .* if you changed it, delete its line "sha256"'
    ):
        PruningPlan.load(path)
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert PruningPlan.load(path).kept["first"] == (0, 1)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "amc-tf plan 1"}', b"[" * 100_000],
    ids="empty half bytes list groupless nested".split(),
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match="plan.json' is damaged"):
        PruningPlan.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PlanError, match="none.json' cannot be read: No such file"):
        PruningPlan.load(tmp_path / "none.json")


def test_the_plan_of_another_model_is_refused(graph):
    with pytest.raises(
        PlanError, match="prunes 'conv1', which .* does not have .*first, second.*another model"
    ):
        PruningPlan({"conv1": (0,)}, {"conv1": 4}).validate(graph)
    with pytest.raises(PlanError, match="is for 4 channels in 'first', but .* has 8.*another model"):
        PruningPlan({"first": (0,)}, {"first": 4}).validate(graph)


@pytest.mark.parametrize(("num_groups", "rest"), [(5, ""), (6, ", ...")])
def test_five_groups_are_named_of_a_model_that_a_plan_does_not_fit(num_groups, rest):
    tensor = images = keras.Input((8, 8, 3))
    for number in range(num_groups):
        tensor = keras.layers.Conv2D(4, 1, name=f"conv{number}")(tensor)
    tensor = keras.layers.GlobalAveragePooling2D()(tensor)
    graph = ChannelGraph.from_model(keras.Model(images, keras.layers.Dense(2)(tensor)))
    with pytest.raises(PlanError, match=rf"groups: conv0, conv1, conv2, conv3, conv4{rest}\): it is"):
        PruningPlan({"other": (0,)}, {"other": 4}).validate(graph)


def test_a_group_left_out_keeps_all_its_channels(graph):
    plan = PruningPlan({"second": (1, 4)}, {"second": 12})
    plan.validate(graph)
    first, second = plan.masks(graph)
    assert plan.widths(graph) == (8, 2)
    assert first.dtype == second.dtype == bool
    assert first.all()
    assert np.flatnonzero(second).tolist() == [1, 4]


def test_the_highest_scores_stay_and_ties_go_to_the_lower_index(graph):
    scores = {"first": [3, 1, 2, 3, 0, 5, 3, 3], "second": np.ones(12)}
    plan = widths_to_plan(graph, (3, 2), scores=scores)
    assert plan.kept == {"first": (0, 3, 5), "second": (0, 1)}


def test_scores_may_be_unsigned_integers(graph):
    scores = {"first": np.array([3, 1, 2, 3, 0, 5, 3, 3], np.uint8), "second": np.arange(12, dtype=np.uint8)}
    assert widths_to_plan(graph, (3, 2), scores=scores).kept == {"first": (0, 3, 5), "second": (10, 11)}


@given(st.data())
def test_kept_channels_are_never_scored_below_removed_ones(graph, data):
    scores = {
        group.name: data.draw(
            st.lists(st.integers(0, 5), min_size=group.num_channels, max_size=group.num_channels)
        )
        for group in graph.groups
    }
    widths = tuple(data.draw(st.integers(1, group.num_channels)) for group in graph.groups)
    plan = widths_to_plan(graph, widths, scores=scores)
    assert plan.widths(graph) == widths
    for name, kept in plan.kept.items():
        removed = [score for channel, score in enumerate(scores[name]) if channel not in kept]
        assert not removed or min(scores[name][channel] for channel in kept) >= max(removed)


def test_widths_outside_a_group_are_refused(graph):
    for width in (0, -1, 9):
        with pytest.raises(PlanError, match=f"'first' has 8 channels: it cannot keep {width}"):
            widths_to_plan(graph, (width, 12))
    with pytest.raises(PlanError, match="1 widths were given for the 2 groups"):
        widths_to_plan(graph, (8,))


def test_scores_that_do_not_fit_are_refused(graph):
    with pytest.raises(PlanError, match=r"shape \(0,\) were given for 'second'.*12 channels"):
        widths_to_plan(graph, (4, 4), scores={"first": np.ones(8)})
    with pytest.raises(PlanError, match=r"shape \(3,\) were given for 'first'"):
        widths_to_plan(graph, (4, 4), scores={"first": np.ones(3), "second": np.ones(12)})


def test_allowed_widths_are_aligned_and_hold_the_untouched_width():
    assert allowed_widths(64, round_to=8, min_keep_ratio=0.2) == (16, 24, 32, 40, 48, 56, 64)
    assert allowed_widths(30, round_to=8, min_keep_ratio=0.5) == (16, 24, 30)
    assert allowed_widths(6, round_to=8, min_keep_ratio=0.2) == (6,)
    assert allowed_widths(40, round_to=8, min_keep_ratio=0.2) == (8, 16, 24, 32, 40)
    assert allowed_widths(3, round_to=1, min_keep_ratio=1e-12) == (1, 2, 3)


@given(st.integers(1, 2000), st.integers(1, 32), st.floats(1e-6, 1.0))
def test_allowed_widths_ascend_within_their_bounds(num_channels, round_to, min_keep_ratio):
    widths = allowed_widths(num_channels, round_to=round_to, min_keep_ratio=min_keep_ratio)
    assert widths[-1] == num_channels
    assert list(widths) == sorted(set(widths))
    for width in widths[:-1]:
        assert width % round_to == 0
        assert width >= min_keep_ratio * num_channels - 1e-6


def test_widths_are_rounded_to_the_nearest_step_within_the_channels():
    assert [round_width(32, ratio, round_to=8) for ratio in (0.01, 0.37, 0.38, 0.7, 1.0)] == [
        8,
        8,
        16,
        24,
        32,
    ]
    assert round_width(6, 0.5, round_to=8) == 6
    assert [round_width(11, ratio, round_to=8) for ratio in (0.5, 0.8, 0.9, 1.0)] == [8, 8, 11, 11]


@pytest.mark.parametrize(("keep_ratio", "round_to"), [(0.0, 8), (1.1, 8), (0.5, 0), (float("nan"), 8)])
def test_settings_outside_their_range_are_refused(graph, keep_ratio, round_to):
    with pytest.raises(SettingsError, match=f"{keep_ratio}.* and .*{round_to} were given"):
        uniform_plan(graph, keep_ratio, round_to=round_to)
    with pytest.raises(SettingsError, match="were given"):
        allowed_widths(8, round_to=round_to, min_keep_ratio=keep_ratio)


def test_a_uniform_plan_is_a_width_multiplier(graph):
    assert uniform_plan(graph, 0.5, round_to=2).widths(graph) == (4, 6)
    assert uniform_plan(graph, 1.0).widths(graph) == (8, 12)
    assert uniform_plan(graph, 0.01).widths(graph) == (8, 8)


def test_composed_plans_name_the_channels_of_the_first_network():
    first = PruningPlan({"a": (1, 3, 4), "b": (0, 2)}, {"a": 6, "b": 3})
    second = PruningPlan({"a": (0, 2), "c": (1,)}, {"a": 3, "c": 2})
    assert compose(first, second) == PruningPlan(
        {"a": (1, 4), "b": (0, 2), "c": (1,)}, {"a": 6, "b": 3, "c": 2}
    )


def test_composing_with_nothing_changes_nothing(graph):
    plan, nothing = uniform_plan(graph, 0.5), PruningPlan({}, {})
    assert compose(plan, nothing) == compose(nothing, plan) == plan


def test_groups_within_one_layer_keep_their_names_when_channels_go():
    def body(hidden):
        wide = keras.layers.Conv2D(32, 1, name="wide")(hidden)
        wide = keras.layers.ReLU()(keras.layers.ReLU()(wide))
        parts = [keras.layers.Conv2D(16, 1, name=name)(hidden) for name in ("left", "right")]
        return keras.layers.Add()([wide, keras.layers.Concatenate()(parts)])

    model = classifier(keras, body)
    graph = ChannelGraph.from_model(model)
    first = widths_to_plan(graph, [group.num_channels // 2 for group in graph.groups])
    slim = ChannelGraph.from_model(rebuild(model, first))

    names = [group.name for group in graph.groups]
    assert {"wide", "wide[1]"} <= set(names) and [group.name for group in slim.groups] == names
    second = widths_to_plan(slim, [group.num_channels // 2 for group in slim.groups])
    compose(first, second).validate(graph)


def test_a_composed_plan_builds_what_two_build_one_after_the_other():
    model = classifier(keras, keras.layers.Conv2D(12, 3, name="second"))
    random = np.random.default_rng(0)
    scores = {"first": random.random(8), "second": random.random(12)}
    first = widths_to_plan(ChannelGraph.from_model(model), (6, 8), scores=scores)
    slim = rebuild(model, first)
    scores = {"first": random.random(6), "second": random.random(8)}
    second = widths_to_plan(ChannelGraph.from_model(slim), (3, 5), scores=scores)
    at_once = rebuild(model, compose(first, second)).get_weights()
    for array, expected in zip(at_once, rebuild(slim, second).get_weights(), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_plans_that_do_not_follow_one_another_are_refused():
    first = PruningPlan({"a": (1, 3, 4)}, {"a": 6})
    with pytest.raises(PlanError, match="for 4 channels in 'a', but the first leaves 3"):
        compose(first, PruningPlan({"a": (0,)}, {"a": 4}))
