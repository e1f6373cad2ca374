"""Facts about amc_tf/comparison.py and the page that shows it, on made-up run folders."""

import json
import re
from pathlib import Path, PureWindowsPath

import pytest

from amc_tf.comparison import _parts, unique_names
from amc_tf.comparison_page import (
    comparison_figures,
    headline,
    make_comparison,
    read_comparison,
    warnings,
)
from amc_tf.errors import RunFolderError
from tests.amc_tf.test_report import HOSTILE, Page, make_summary, write_run, write_sparse_run

HOST = {"kind": "host", "cpu": "fast", "num_runs": 50, "reference": "abc"}


def summary(cpu="fast", **changes):
    """Returns a summary of networks that were timed beside their originals on one machine."""
    made = make_summary()
    for key, reference in (("baseline", "baseline"), ("finetuned", "baseline"), ("int8", "int8_baseline")):
        median = made[reference]["latency_ms"]["median"]
        made[key]["latency_ms"]["ratio"] = made[key]["latency_ms"]["median"] / median
    made["meter"] = {"name": "host:1-thread", "fingerprint": json.dumps({**HOST, "cpu": cpu})}
    return {**made, **changes}


def without_latency(made):
    return {
        key: {**value, "latency_ms": None} if isinstance(value, dict) and "latency_ms" in value else value
        for key, value in {**made, "meter": None}.items()
    }


def read(tmp_path, *summaries):
    folders = [
        write_run(tmp_path / name, made, []) for name, made in zip("abcdefghij", summaries, strict=False)
    ]
    return read_comparison(folders)


def show(tmp_path, comparison):
    make_comparison(comparison, tmp_path / "comparison.html")
    return Page(tmp_path / "comparison.html")


def slower(factor):
    """Returns a summary whose device ran slower by a factor, the original too."""
    made = summary(budget={"kind": "macs", "value": 0.4})
    for value in made.values():
        if isinstance(value, dict) and "latency_ms" in value:
            value["latency_ms"] = {
                **value["latency_ms"], "median": value["latency_ms"]["median"] * factor
            }  # fmt: skip
    return made


def test_runs_of_one_original_stand_in_one_table_with_its_row_once(tmp_path):
    page = show(tmp_path, read(tmp_path, summary(), slower(2.0)))
    assert "2 runs of demo: down to 49 % of the latency at 98.3 % top-1, from 98.6 %." in page.text
    for row in (
        "Original 98.6 % 46.3 M 812 k 3.27 MB 3.42 ms (3.28–3.80) 98.4 % 3.27 MB · 1.51 ms",
        "1 a latency=0.5 98.3 % −0.3 23.1 M 0.50 × 388 k 0.48 × 1.57 MB 0.48 × 1.67 ms (1.60–1.85) 0.49 ×",
        "2 b macs=0.4 98.3 %",
    ):
        assert row in page.text
    assert page.text.count("Original 98.6 %") == 1
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["a/report.html", "b/report.html"]
    assert page.count("p", "warning") == 0


def test_a_device_that_was_slower_as_a_whole_does_not_make_a_network_look_slow(tmp_path):
    comparison = read(tmp_path, summary(), slower(2.0))
    marks = {mark.kind: mark.cost for mark in comparison_figures(comparison)["tradeoff"].chart.marks}
    assert marks["run1"] == pytest.approx(1.67)
    assert marks["run2"] == pytest.approx(1.67)
    assert marks["run2 int8"] == pytest.approx(0.83)
    assert marks["baseline"] == pytest.approx(3.42)


def test_the_line_joins_networks_of_one_original_only(tmp_path):
    assert comparison_figures(read(tmp_path, summary(), slower(2.0)))["tradeoff"].chart.front != ()
    other = summary(data="cifar10")
    assert comparison_figures(read(tmp_path, summary(), other))["tradeoff"].chart.front == ()


def test_runs_of_different_originals_are_not_mixed(tmp_path):
    other = summary(data="cifar10", baseline={**make_summary()["baseline"], "top1": 0.9})
    comparison = read(tmp_path, summary(), other, summary())
    assert headline(comparison) == "3 runs of 2 originals."
    (sentence,) = warnings(comparison)
    assert "start from 2 different originals (different data, top-1)" in sentence
    text = show(tmp_path, comparison).text
    places = [
        text.index(row) for row in ("Original, demo on digits", "1 a", "3 c", "Original, demo on cifar10")
    ]
    assert text.index("2 b latency=0.5 98.3 % +8.3") > places[-1] > places[0]
    assert "original of 1, 3" in text


def test_latencies_of_two_devices_are_marked_and_left_out_of_the_chart(tmp_path):
    comparison = read(tmp_path, summary(), summary(cpu="slow"))
    (sentence,) = warnings(comparison)
    assert "Latencies are not comparable" in sentence
    assert "1 a: host:1-thread (A); 2 b: host:1-thread (B)" in sentence
    assert "host:1-thread (A) is cpu fast. host:1-thread (B) is cpu slow." in sentence
    assert comparison_figures(comparison)["tradeoff"].chart.cost_name == "million MACs"
    assert "0.49 × · on host:1-thread (B)" in show(tmp_path, comparison).text


def test_settings_of_the_timing_make_no_other_device(tmp_path):
    longer = summary()
    longer["meter"]["fingerprint"] = json.dumps({**HOST, "num_runs": 90, "reference": "def"})
    assert warnings(read(tmp_path, summary(), longer)) == []


def test_a_run_without_latencies_makes_the_chart_one_of_macs(tmp_path):
    comparison = read(tmp_path, summary(), without_latency(summary()))
    assert "1 a: host:1-thread; 2 b: not timed" in warnings(comparison)[0]
    both = read(tmp_path, without_latency(summary()), without_latency(summary()))
    assert warnings(both) == []
    assert "atency, median" not in show(tmp_path, both).text


def test_channels_stand_side_by_side_where_the_layers_are_the_same(tmp_path):
    narrow, other = summary(), summary()
    narrow["channels"] = [{**row, "after": 8} for row in narrow["channels"]]
    other["channels"] = other["channels"][:3]
    figures = comparison_figures(read(tmp_path, summary(), narrow, other))
    chart = figures["channels"].chart
    assert chart.kinds == ("run1", "run2")
    assert chart.rows[1].kept == (summary()["channels"][1]["after"], 8)
    assert set(figures) == {"tradeoff", "channels"}


def test_weights_that_are_zero_are_told_apart_from_removed_channels(tmp_path):
    sparse = [write_sparse_run(tmp_path / name) for name in ("x", "y")]
    mixed = read_comparison([*sparse, write_run(tmp_path / "z", summary(), [])])
    assert (
        "1 x, 2 y: single weights were set to zero, and MACs and parameters count what is not zero"
        in " ".join(warnings(mixed))
    )
    figures = comparison_figures(mixed)
    assert figures["channels"].title == "Weights of each layer"
    assert figures["channels"].chart.what == "weights"
    assert [row.kept for row in figures["channels"].chart.rows] == [(300, 300), (900, 900), (4000, 4000)]
    assert warnings(read_comparison(sparse)) == []


def test_only_settings_that_differ_are_listed(tmp_path):
    other = summary()
    other["settings"]["search"] = {**other["settings"]["search"], "seed": 8}
    del other["settings"]["finetune"]["learning_rate"]
    text = show(tmp_path, read(tmp_path, summary(), other)).text.partition("Different settings")[2]
    assert "search.seed 7 8 finetune.learning_rate 0.05 —" in text
    assert "search.episodes" not in text
    assert "All settings are the same." in show(tmp_path, read(tmp_path, summary(), summary())).text


def test_hostile_names_are_shown_as_text_and_nothing_is_loaded(tmp_path):
    hostile = summary(model=HOSTILE, data=HOSTILE, meter={"name": HOSTILE, "fingerprint": HOSTILE})
    hostile["channels"][0]["layer"] = HOSTILE
    hostile["settings"] = {HOSTILE: HOSTILE}
    folders = [write_run(tmp_path / name, hostile, []) for name in ("<b>", 'x" onload="y')]
    folders.append(write_run(tmp_path / "plain", summary(), []))
    page = show(tmp_path, read_comparison(folders))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "b", "link"})
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert re.findall(r"url\(|@import", (tmp_path / "comparison.html").read_text()) == []
    assert "%22%20onload%3D%22y/report.html" in (tmp_path / "comparison.html").read_text()


def test_ten_runs_take_turns_with_eight_colours(tmp_path):
    marks = comparison_figures(read(tmp_path, *[without_latency(summary())] * 10))["tradeoff"].chart.marks
    assert [mark.note for mark in marks[1:]] == [str(number) for number in range(1, 11)]
    assert marks[1].kind == marks[9].kind == "run1"


def test_folders_are_named_by_as_much_of_their_paths_as_it_takes(tmp_path):
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert list(unique_names(folders).values()) == ["x/run", "y/run"]
    assert list(unique_names([tmp_path / "x", tmp_path / "y"]).values()) == ["x", "y"]
    assert list(unique_names([Path("/out"), Path("/data/out")]).values()) == ["out", "data/out"]
    drives = [_parts(PureWindowsPath(f"{drive}:/runs/a")) for drive in "CD"]
    assert drives == [("C", "runs", "a"), ("D", "runs", "a")]


def test_one_folder_of_images_written_in_two_ways_is_the_same_data(tmp_path):
    comparison = read(tmp_path, *[summary(data=data) for data in ("photos", "photos/", "./photos")])
    assert {run.original for run in comparison.runs} == {0}


def test_a_run_given_twice_and_a_damaged_one_are_named(tmp_path):
    folder = write_run(tmp_path / "a", summary(), [])
    with pytest.raises(RunFolderError, match="is given twice"):
        read_comparison([folder, tmp_path / "b" / ".." / "a"])
    write_run(tmp_path / "b", summary(baseline={"top1": 0.9}), [])
    with pytest.raises(RunFolderError, match=r"b lacks an entry or holds a wrong one \(KeyError: 'macs'\)"):
        read_comparison([folder, tmp_path / "b"])
