"""Facts about amc_tf/charts.py."""

from xml.etree import ElementTree

from amc_tf.chart_frame import nice_ticks
from amc_tf.charts import (
    Bar,
    Channels,
    channels_chart,
    latency_chart,
    pareto_front,
    running_median,
)


def test_ticks_are_round_and_inside_the_range():
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.93, 0.04, 4) == [-0.8, -0.6, -0.4, -0.2, 0.0]
    assert nice_ticks(1.43, 3.48, 4) == [1.5, 2.0, 2.5, 3.0]


def test_the_front_holds_what_no_other_point_beats():
    costs = [3.0, 1.0, 2.0, 2.0, 4.0]
    accuracies = [0.5, 0.2, 0.4, 0.6, 0.9]
    assert pareto_front(costs, accuracies) == [1, 3, 4]
    assert pareto_front([], []) == []


def test_running_median_looks_back_only():
    assert running_median([5.0, 1.0, 3.0, 9.0], 3) == [5.0, 3.0, 3.0, 3.0]


def test_bars_are_as_long_as_the_latency():
    bars = [Bar("a", "baseline", 4.0, 4.0, 4.0), Bar("b", "found", 1.0, 0.9, 1.2)]
    root = ElementTree.fromstring(latency_chart(bars, width=500, title="t"))
    lengths = [float(rect.get("width")) for rect in root.iter("rect")]
    assert abs(lengths[0] / lengths[1] - 4.0) < 0.01


def test_a_long_layer_name_is_cut_at_its_start_and_whole_in_the_tooltip():
    name = "block_of_the_very_deep_backbone/stage_four/expanded_conv_17/project"
    root = ElementTree.fromstring(channels_chart([Channels(name, 64, 32)], width=340, title="t"))
    texts = [element.text for element in root.iter("text")]
    assert any(text.startswith("…") and name.endswith(text[1:]) for text in texts)
    assert [title.text for title in root.iter("title")] == [name]


def test_text_is_escaped():
    assert "<b>" not in channels_chart([Channels("<b>", 8, 8)], width=340, title='"<b>"')
