"""Facts about the networks of a sweep: what they cost, which are on the front, and their chart and page."""

import copy
import re
from xml.etree import ElementTree

import pytest

from amc_tf.front import collect_networks, front_axis
from amc_tf.front_page import front_chart, headline, render_front, standalone_svg

HOSTILE = '<script>alert("x")</script>'


def result(top1, macs, ratio, unit=2.0):
    latency = {
        "median": ratio * unit,
        "p5": 1.0,
        "p95": 3.0,
        "ratio": ratio,
        "noise": 0.0,
        "predicted": False,
    }
    counts = {"macs": macs, "params": macs // 10, "tflite_bytes": macs // 2}
    return {"top1": top1, "top5": 1.0, **counts, "latency_ms": latency}


def summary(*, uniform, found, int8, unit=2.0, epochs=3):
    return {
        "baseline": result(0.9, 1000, 1.0, unit),
        "uniform": result(*uniform, unit),
        "pruned": result(found[0] - 0.1, *found[1:], unit),
        "finetuned": result(*found, unit),
        "int8_baseline": result(0.88, 1000, 1.0, unit / 2),
        "int8": result(*int8, unit / 2),
        "settings": {"finetune": {"epochs": epochs}},
    }


SWEEP = {
    "macs=0.7": summary(uniform=(0.8, 690, 0.75), found=(0.87, 700, 0.7), int8=(0.86, 700, 0.75)),
    # The machine was twice as slow during this one.
    "macs=0.4": summary(uniform=(0.6, 390, 0.5), found=(0.7, 400, 0.45), int8=(0.84, 400, 0.5), unit=4.0),
}


def by_name(networks):
    return {(network.key, network.budget): network for network in networks}


def test_the_originals_stand_once_and_every_budget_has_its_networks():
    keys = [(network.key, network.budget) for network in collect_networks(SWEEP)]
    of_each = ("uniform", "pruned", "finetuned", "int8")
    assert keys == [
        ("baseline", None),
        ("int8_baseline", None),
        *((key, budget) for budget in SWEEP for key in of_each),
    ]


def test_latencies_are_parts_of_one_timing_of_the_original():
    networks = by_name(collect_networks(SWEEP))
    assert networks["baseline", None].latency_ms == 2.0
    assert networks["finetuned", "macs=0.4"].latency_ms == pytest.approx(0.45 * 2.0)
    assert networks["int8", "macs=0.4"].latency_ms == pytest.approx(0.5 * 1.0)
    assert networks["int8", "macs=0.4"].latency_ratio == 0.5


def test_the_front_holds_what_no_other_network_beats():
    networks = collect_networks(SWEEP)
    assert {key for key, network in by_name(networks).items() if network.on_front} == {
        ("baseline", None),  # 2.0 ms, 90 %
        ("int8_baseline", None),  # 1.0 ms, 88 %
        ("int8", "macs=0.7"),  # 0.75 ms, 86 %
        ("int8", "macs=0.4"),  # 0.5 ms, 84 %
    }


def test_without_a_meter_macs_are_what_a_network_costs():
    untimed = copy.deepcopy(SWEEP)
    for each in untimed.values():
        for key, value in each.items():
            if key != "settings":
                value["latency_ms"] = None
    networks = collect_networks(untimed)
    assert front_axis(networks) == "macs"
    assert {key for key, network in by_name(networks).items() if network.on_front} == {
        ("baseline", None), ("finetuned", "macs=0.7"), ("int8", "macs=0.4"), ("uniform", "macs=0.4")
    }  # fmt: skip
    assert "million MACs" in front_chart(networks, width=900)


def test_a_network_that_could_not_be_timed_is_listed_but_not_drawn():
    sweep = copy.deepcopy(SWEEP)
    sweep["macs=0.7"]["int8"]["latency_ms"] = None
    networks = collect_networks(sweep)
    assert by_name(networks)["int8", "macs=0.7"].latency_ms is None
    assert front_chart(networks, width=900).count("<circle") == len(networks) - 1
    assert "—" in render(networks)


def test_without_fine_tuning_the_found_plan_stands_once():
    sweep = {
        "macs=0.5": summary(uniform=(0.8, 500, 0.6), found=(0.8, 500, 0.5), int8=(0.8, 500, 0.5), epochs=0)
    }
    assert ("pruned", "macs=0.5") not in by_name(collect_networks(sweep))


def render(networks, failures=None, **facts):
    given = {"model": "demo", "data": "digits", "meter": "host", "command": "amc-tf sweep demo"}
    given = {**given, "time_unit": "ms per image", **facts}
    folders = {network.budget: network.budget for network in networks if network.budget}
    return render_front(networks, failures or {}, {**given, "folders": folders})


def test_the_headline_says_what_there_is_to_choose_from():
    assert headline(collect_networks(SWEEP)) == (
        "10 networks, 4 of them beaten by no other: down to 25 % of the latency at 84.0 % top-1, from 90.0 %."
    )


def test_the_page_shows_every_network_and_loads_nothing():
    page = render(collect_networks(SWEEP), {"macs=0.01": "too small"})
    assert page.count('role="rowheader"') == 10
    assert page.count('<tr role="row" class="final">') == 4
    assert page.count("<svg") == 2
    assert 'href="macs=0.4/report.html"' in page
    assert "macs=0.01 could not be met: too small" in page
    assert re.findall(r"https?://|url\(|@import|<script|<link|<img", page) == []


def test_hostile_names_are_shown_as_text():
    networks = collect_networks({HOSTILE: SWEEP["macs=0.4"]})
    page = render(networks, {HOSTILE: HOSTILE}, model=HOSTILE, data=HOSTILE, command=HOSTILE)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_svg_file_is_one_of_its_own_with_its_colours():
    root = ElementTree.fromstring(standalone_svg(front_chart(collect_networks(SWEEP), width=900)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.find("{http://www.w3.org/2000/svg}style")
    assert style is not None and style.text is not None
    assert "prefers-color-scheme: dark" in style.text


def test_networks_of_two_models_are_compared_with_their_own_originals():
    twice = copy.deepcopy(summary(uniform=(0.9, 1700, 0.8), found=(0.95, 1000, 0.5), int8=(0.9, 1000, 0.5)))
    twice["baseline"].update(macs=2000, params=200)
    one = SWEEP["macs=0.4"]
    networks = collect_networks({"a/macs=0.4": {**one, "model": "a"}, "b/macs=0.5": {**twice, "model": "b"}})
    facts = {"model": "a, b", "data": "", "meter": None, "time_unit": "ms", "command": "", "folders": {}}
    page = render_front(networks, {}, facts)
    found = next(network for network in networks if (network.key, network.model) == ("finetuned", "b"))
    assert (found.macs, found.on_front) == (1000, True)
    assert [network.model for network in networks if network.key == "baseline"] == ["a", "b"]
    notes = re.findall(r"(\d\.\d\d)\s×", page)
    assert "0.85" in notes  # of 2000 operations, not of the 1000 of the other model
    assert "1.70" not in notes
