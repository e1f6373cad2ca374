"""Facts about amc_tf/charts.py."""

from xml.etree import ElementTree

from amc_tf.chart_data import (
    Bar,
    Channels,
    ChannelsChart,
    LatencyChart,
    Point,
    TradeoffChart,
    pareto_front,
    percent_tick,
    running_median,
)
from amc_tf.chart_frame import labels_width, nice_ticks
from amc_tf.charts import channels_chart, latency_chart, tradeoff_chart


def test_ticks_are_round_and_inside_the_range():
    assert nice_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.93, 0.04, 4) == [-0.8, -0.6, -0.4, -0.2, 0.0]
    assert nice_ticks(1.43, 3.48, 4) == [1.5, 2.0, 2.5, 3.0]


def test_labels_of_accuracies_that_lie_close_together_have_room():
    assert labels_width((0.0, 1.0), percent_tick) == 52.0
    marks = tuple(Point(cost, accuracy, "", "found") for cost, accuracy in ((1.0, 0.9915), (2.0, 0.9945)))
    svg = tradeoff_chart(TradeoffChart("t", "ms", (), marks, ()), width=340)
    labels = [text for text in ElementTree.fromstring(svg).iter("text") if "%" in (text.text or "")]
    assert max(len(label.text) for label in labels) == len("99.45 %")
    assert all(float(label.get("x")) >= 6.0 * len(label.text) for label in labels)


def test_the_front_holds_what_no_other_point_beats():
    costs = [3.0, 1.0, 2.0, 2.0, 4.0]
    accuracies = [0.5, 0.2, 0.4, 0.6, 0.9]
    assert pareto_front(costs, accuracies) == [1, 3, 4]
    assert pareto_front([], []) == []


def test_running_median_looks_back_only():
    assert running_median([5.0, 1.0, 3.0, 9.0], 3) == [5.0, 3.0, 3.0, 3.0]


def test_bars_are_as_long_as_the_latency():
    bars = (Bar("a", "baseline", 4.0, 4.0, 4.0), Bar("b", "found", 1.0, 0.9, 1.2))
    root = ElementTree.fromstring(latency_chart(LatencyChart("t", "ms", bars), width=500))
    lengths = [float(rect.get("width")) for rect in root.iter("rect")]
    assert abs(lengths[0] / lengths[1] - 4.0) < 0.01


def test_a_long_layer_name_is_cut_at_its_start_and_whole_in_the_tooltip():
    name = "block_of_the_very_deep_backbone/stage_four/expanded_conv_17/project"
    chart = ChannelsChart("t", (Channels(name, 64, (32,)),))
    root = ElementTree.fromstring(channels_chart(chart, width=340))
    texts = [element.text for element in root.iter("text")]
    assert any(text.startswith("…") and name.endswith(text[1:]) for text in texts)
    assert [title.text for title in root.iter("title")] == [name]


def test_text_is_escaped():
    chart = ChannelsChart('"<b>"', (Channels("<b>", 8, (8,)),))
    assert "<b>" not in channels_chart(chart, width=340)


def test_two_plans_stand_side_by_side_as_bars_of_their_shares():
    chart = ChannelsChart("t", (Channels("a", 64, (32, 16)),), kinds=("run1", "run2"))
    root = ElementTree.fromstring(channels_chart(chart, width=1000))
    whole, first, second = (float(rect.get("width")) for rect in root.iter("rect"))
    assert abs(first / whole - 0.5) < 0.01
    assert abs(second / whole - 0.25) < 0.01
    assert "64 → 32, 16" in [element.text for element in root.iter("text")]
