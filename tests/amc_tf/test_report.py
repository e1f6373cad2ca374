"""Facts about amc_tf/report.py and what it reads and draws, on a made-up run folder."""

import json
import math
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from amc_tf.errors import MeasurementError, RunFolderError
from amc_tf.figures import make_figures
from amc_tf.page import unbroken
from amc_tf.report import headline, make_report, use_measured
from amc_tf.run_record import networks_of, read_run

WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024)
HOSTILE = '<script>alert("x")</script>&<img src=http://evil.example/x>'


def result(top1, macs, params, latency):
    spread = latency and {"median": latency, "p5": latency * 0.96, "p95": latency * 1.11}
    return {
        "top1": top1,
        "top5": min(1.0, top1 + 0.013),
        "macs": macs,
        "params": params,
        "tflite_bytes": 4 * params + 21_000,
        "latency_ms": spread,
    }


def make_summary():
    kept = [max(8, int(width * (0.45 + 0.4 * math.sin(i) ** 2)) // 8 * 8) for i, width in enumerate(WIDTHS)]
    return {
        "model": "demo",
        "data": "digits",
        "baseline": result(0.986, 46_300_000, 812_000, 3.42),
        "uniform": result(0.713, 22_900_000, 421_000, 1.83),
        "uniform_finetuned": result(0.972, 22_900_000, 421_000, 1.83),
        "pruned": result(0.931, 23_100_000, 388_000, 1.67),
        "finetuned": result(0.983, 23_100_000, 388_000, 1.67),
        "int8_baseline": result(0.984, 46_300_000, 812_000, 1.51),
        "int8": result(0.981, 23_100_000, 388_000, 0.83),
        "budget": {"kind": "latency", "value": 0.5, "limit": 1.71, "unit": "ms"},
        "meter": {"name": "host:1-thread", "num_runs": 50},
        "settings": {
            "search": {"episodes": 150, "seed": 7, "reward": "error", "agent": {"hidden_units": [300, 300]}},
            "finetune": {"epochs": 10, "learning_rate": 0.05},
        },
        "versions": {"amc_tf": "0.1.0", "tensorflow": "2.21.0", "keras": "3.12.4"},
        "seconds": {"search": 143.2, "finetune": 38.1, "total": 201.7},
        "channels": [
            {
                "group": f"group{i}",
                "layer": "conv1" if i == 0 else f"conv_pw_{i}",
                "before": before,
                "after": after,
                "uniform": int(before * 0.7) // 8 * 8,
            }
            for i, (before, after) in enumerate(zip(WIDTHS, kept, strict=True))
        ],
        "verification": {"float32": {"max_abs_error": 2.1e-6}, "int8": {"top1_agreement": 0.9925}},
    }


def make_episodes(count=150):
    rng = np.random.default_rng(0)
    best, lines = -math.inf, []
    for episode in range(count):
        skill = 1 - math.exp(-max(0, episode - 40) / 35)
        latency = float(rng.uniform(1.45, 1.71) if episode < 40 else rng.normal(1.66, 0.04))
        top1 = float(
            np.clip(rng.normal(0.45 + 0.45 * skill + 0.2 * (latency - 1.7), 0.12 - 0.08 * skill), 0, 1)
        )
        best = max(best, top1 - 1)
        lines.append(
            {
                "episode": episode,
                "kind": "warmup" if episode < 40 else "search",
                "reward": top1 - 1,
                "best_reward": best,
                "top1": top1,
                "top5": min(1.0, top1 + 0.1),
                "macs": int(13.6e6 * latency),
                "params": int(230e3 * latency),
                "bytes": int(920e3 * latency),
                "latency_ms": latency,
                "widths": list(WIDTHS),
                "noise": 0.5,
                "critic_loss": None,
                "seconds": 0.7,
                "feasible": True,
            }
        )
    return lines


def write_run(folder, summary=None, episodes=None):
    """Writes a run folder as a compression leaves it."""
    summary = make_summary() if summary is None else summary
    episodes = make_episodes() if episodes is None else episodes
    groups = {f"group{i}": {"num_channels": w, "kept": list(range(w // 2))} for i, w in enumerate(WIDTHS)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in episodes))
    (folder / "plan.json").write_text(json.dumps({"format": "amc-tf plan 1", "groups": groups}))
    return folder


class Page(HTMLParser):
    """The tags and the visible text of a report."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(path.read_text(encoding="utf-8").replace("<wbr>", ""))
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def count(self, tag, css):
        return sum(name == tag and css in (a.get("class") or "").split() for name, a in self.tags)


def report(folder, summary=None, episodes=None):
    return Page(make_report(write_run(folder, summary, episodes)))


def test_the_headline_says_what_was_gained():
    assert headline(make_summary()) == (
        "demo is 2.0 times as fast: 3.42 → 1.67 ms per image, 3.27 MB → 1.57 MB, top-1 98.3 % (−0.3 points)."
    )


def test_the_headline_without_a_meter_counts_macs():
    summary = make_summary()
    for key in ("baseline", "finetuned"):
        summary[key]["latency_ms"] = None
    assert headline(summary).startswith("demo needs 50 % of its MACs: 46.3 M → 23.1 M, 3.27 MB")


def test_the_headline_admits_that_nothing_was_gained():
    summary = make_summary()
    summary["finetuned"]["latency_ms"]["median"] = 3.5
    assert headline(summary).startswith("demo did not become faster: 3.42 → 3.50 ms")


def test_the_table_holds_the_numbers_of_every_network(tmp_path):
    page = report(tmp_path)
    for row in (
        "Original 98.6 % 99.9 % 46.3 M 812 k 3.27 MB 3.42 ms (3.28–3.80)",
        "Uniform 71.3 % −27.3",
        "Uniform, fine-tuned 97.2 % −1.4",
        "Found plan, fine-tuned 98.3 % −0.3 99.6 % −0.3 23.1 M 0.50 × 388 k 0.48 × 1.57 MB 0.48 ×",
        "Found plan, int8 98.1 % −0.3",
    ):
        assert row in page.text
    assert "the found plan 98.3 % (+1.1 points)" in page.text


def test_every_chart_is_there_for_wide_and_narrow_pages(tmp_path):
    page = report(tmp_path)
    assert sum(tag == "svg" for tag, _ in page.tags) == 10
    assert all(attrs["aria-label"] for tag, attrs in page.tags if tag == "svg")
    assert page.count("circle", "search") == 2 * 110
    assert page.count("circle", "warmup") == 2 * 40
    assert page.count("circle", "mark") == 2 * 5
    assert page.count("rect", "before") == 2 * 13


def test_sections_stand_in_the_order_of_interest(tmp_path):
    text = report(tmp_path, phone_summary()).text
    titles = (
        "demo is predicted", "Results", "Channels of each layer", "Accuracy against cost",
        "Latency before and after", "Noise of the measurement", "Reward over episodes", "Repeat this run",
    )  # fmt: skip
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


def test_cells_carry_the_names_of_their_columns_for_phones(tmp_path):
    cells = [attrs for tag, attrs in report(tmp_path).tags if tag == "td" and "data-label" in attrs]
    assert [cell["data-label"] for cell in cells[:6]] == [
        "Top-1", "Top-5", "MACs", "Parameters", "File", "Latency, median (p5–p95)",
    ]  # fmt: skip
    assert all(cell["role"] == "cell" for cell in cells)


def test_the_run_can_be_repeated(tmp_path):
    text = report(tmp_path).text
    assert (
        "amc-tf compress demo --data digits --budget latency=0.5 --episodes 150 --finetune-epochs 10 --seed 7"
        in text
    )
    assert "tensorflow 2.21.0" in text
    assert "Settings: search.agent hidden_units 300, 300 Settings: finetune epochs 10" in text
    assert (
        "amc-tf compress my.keras"
        in report(tmp_path / "b", {**make_summary(), "command": ["amc-tf", "compress", "my.keras"]}).text
    )


def test_a_whisker_far_beyond_all_bars_is_cut_and_said_to_be(tmp_path):
    summary = make_summary()
    summary["uniform"]["latency_ms"]["p95"] = 50.0
    del summary["uniform_finetuned"]
    figure = make_figures(read_run(write_run(tmp_path / "far", summary)))["latency"]
    assert figure.chart.end == pytest.approx(1.8 * 3.42)
    assert "Those that end in an arrow go on beyond the chart." in figure.note
    assert figure.wide.count("l6 5l-6 5") == 1
    near = make_figures(read_run(write_run(tmp_path / "near")))["latency"]
    assert near.chart.end == pytest.approx(3.42 * 1.11)
    assert "arrow" not in near.note and "l6 5l-6 5" not in near.wide


def test_images_without_labels_are_data_too(tmp_path):
    assert (
        "demo on digits and 1,200 images without labels"
        in report(tmp_path, {**make_summary(), "num_unlabelled_images": 1200}).text
    )


def test_a_number_its_unit_and_the_arrow_behind_them_stay_on_one_line():
    assert unbroken("215 k → 86.1 k, 0.7 ms") == "215\u00a0k\u00a0→ 86.1\u00a0k, 0.7\u00a0ms"


def test_the_command_breaks_between_words_only(tmp_path):
    page = report(tmp_path, {**make_summary(), "command": ["amc-tf", "compress", "a b.keras", "--seed", "1"]})
    assert "<span>--seed</span> <span>1</span></pre>" in (tmp_path / "report.html").read_text()
    assert "amc-tf compress 'a b.keras' --seed 1" in page.text


def test_nothing_is_called_fine_tuned_that_was_not(tmp_path):
    summary = make_summary()
    summary["settings"]["finetune"]["epochs"] = 0
    page = report(tmp_path, summary)
    assert "ine-tuned" not in page.text.replace("not fine-tuned", "")
    assert "reaches 97.2 % top-1; the found plan 98.3 % (+1.1 points)." in page.text
    names = [name for _, name, *_ in networks_of(summary)]
    assert names == ["Original", "Uniform", "Found plan", "Original, int8", "Found plan, int8"]


LAYERS = (
    ("conv1", 864, 300, 432, 500),
    ("conv_pw_1", 2048, 900, 1024, 800),
    ("classes", 10_240, 4000, 5120, 4300),
)


def sparse_summary():
    """A summary of single weights set to zero, from Python, without a meter."""
    names = "baseline uniform threshold pruned finetuned finetuned_dense".split()
    summary = {
        "pruning": "weights",
        "model": "demo",
        "data": "digits",
        **{name: result(0.97, 20_000_000, 5200, None) for name in names},
        "budget": {"kind": "params", "value": 0.4, "limit": 5300, "unit": "parameters"},
        "settings": {"search": {"episodes": 20, "seed": 7}, "finetune": {"epochs": 10}},
        "layers": [
            dict(zip(("layer", "weights", "kept", "uniform", "threshold"), layer, strict=True))
            for layer in LAYERS
        ],
    }
    summary["baseline"] = result(0.986, 46_300_000, 13_000, None)
    for name in names:
        summary[name] |= {"latency_ms": None, "bytes": 4000, "deflated_bytes": 21_500}
    return summary


def write_sparse_run(folder):
    """Writes a run folder as `sparsify` leaves it."""
    write_run(folder, sparse_summary(), make_episodes(20))
    kept = {layer: {"num_weights": weights, "kept": kept} for layer, weights, kept, *_ in LAYERS}
    (folder / "plan.json").write_text(json.dumps({"format": "amc-tf sparsity plan 1", "layers": kept}))
    return folder


def test_single_weights_set_to_zero_have_a_report_of_their_own_words(tmp_path):
    page = Page(make_report(write_sparse_run(tmp_path)))
    assert (
        "demo keeps 40 % of its parameters: 13.0 k → 5.20 k, 73.0 kB → 41.8 kB, top-1 97.0 % (−1.6 points)."
    ) in page.text.replace("\u00a0", " ").replace("top‑1", "top-1")
    assert "Weights of each layer" in page.text and "weights kept" in page.text
    assert "hannels" not in page.text
    assert "10240 → 4000" in page.text
    assert "One threshold" in page.text and "Found plan, stored densely" in page.text
    assert "Deflated" in page.text and "21.5 kB" in page.text.replace("\u00a0", " ")
    assert "amc-tf sparsify demo --data digits --budget params=0.4" in page.text


def test_a_plan_of_the_other_kind_is_no_plan_of_the_run(tmp_path):
    write_sparse_run(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"groups": {}}))
    with pytest.raises(RunFolderError, match="is no pruning plan: each layer needs 'kept' and 'num_weights'"):
        make_report(tmp_path)


def test_the_page_loads_nothing(tmp_path):
    page = report(tmp_path)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed"})
    assert not any({"src", "href", "xlink:href"} & set(attrs) for _, attrs in page.tags)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://|url\(|@import", source) == []


def test_hostile_names_are_shown_as_text(tmp_path):
    summary = {
        **make_summary(),
        "model": HOSTILE,
        "data": HOSTILE,
        "command": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
    }
    summary["settings"] = {HOSTILE: {HOSTILE: [HOSTILE]}}
    summary["channels"][0]["layer"] = HOSTILE
    episodes = make_episodes(20)
    episodes[3]["kind"] = f'x" onload="{HOSTILE}'
    page = report(tmp_path, summary, episodes)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img"})
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(HOSTILE) >= 6


def test_without_a_meter_there_is_no_latency(tmp_path):
    summary = {**make_summary(), "meter": None, "budget": {"kind": "macs", "value": 0.5, "limit": 2.3e7}}
    for value in summary.values():
        if isinstance(value, dict) and "latency_ms" in value:
            value["latency_ms"] = None
    episodes = [{**line, "latency_ms": None} for line in make_episodes(20)]
    page = report(tmp_path, summary, episodes)
    assert "atency" not in page.text
    assert "million MACs" in page.text
    assert sum(tag == "svg" for tag, _ in page.tags) == 8


def test_without_fine_tuning_int8_and_channels_the_rest_is_shown(tmp_path):
    left_out = (
        "finetuned",
        "uniform_finetuned",
        "int8",
        "int8_baseline",
        "channels",
        "settings",
        "verification",
    )
    summary = {key: value for key, value in make_summary().items() if key not in left_out}
    page = report(tmp_path, summary)
    assert "93.1 % (−5.5 points)." in page.text
    assert "the found plan 93.1 % (+21.8 points)" in page.text
    assert "group12" in page.text
    assert "Found plan, fine-tuned" not in page.text


def test_a_run_of_no_episodes_has_no_charts_of_them(tmp_path):
    page = report(tmp_path, episodes=[])
    assert "Reward over episodes" not in page.text
    assert "Channels of each layer" in page.text


def test_an_older_report_is_replaced_and_nothing_else_is_left(tmp_path):
    report(tmp_path)
    report(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["episodes.jsonl", "plan.json", "report.html", "summary.json"]


@pytest.mark.parametrize("name", ["summary.json", "episodes.jsonl", "plan.json"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_run(tmp_path) / name).unlink()
    with pytest.raises(RunFolderError, match=f"{name} is missing; give the folder of a finished run"):
        make_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("summary.json", "{", "summary.json is not valid JSON"),
        ("summary.json", "[]", "summary.json holds no JSON object"),
        ("summary.json", "{}", "has no results of the original network"),
        ("summary.json", '{"baseline": {}, "pruned": {}}', "lacks an entry"),
        ("plan.json", '{"groups": {"a": 3}}', "plan.json is no pruning plan"),
        ("episodes.jsonl", '{"episode": 0}\n{"epis', "episodes.jsonl, line 2, is not valid JSON"),
        ("episodes.jsonl", "[1]\n", "episodes.jsonl, line 1, is no record of an episode"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text, words):
    (write_run(tmp_path) / name).write_text(text)
    with pytest.raises(RunFolderError, match=words):
        make_report(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunFolderError, match="nowhere is not a folder; give the folder that `--out` named"):
        make_report(tmp_path / "nowhere")


def test_the_line_of_the_best_reward_starts_with_the_first_plan_within_the_budget(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:5]:
        line["best_reward"] = None
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    svg = make_figures(read_run(tmp_path))["reward"].wide
    drawn = re.search(r'class="line"[^>]*\bd="([^"]*)"|\bd="([^"]*)"[^>]*class="line"', svg)
    assert drawn is not None
    assert len(re.findall(r"-?[0-9.]+[ ,]-?[0-9.]+", drawn.group(1) or drawn.group(2))) == len(lines) - 5


def phone_summary():
    """A summary whose networks were timed on a phone, but for the fine-tuned ones, which are predicted."""
    summary = make_summary()
    for key in ("baseline", "uniform", "pruned", "int8_baseline", "int8"):
        summary[key]["latency_ms"] |= {"noise": 0.0134, "predicted": False}
        summary[key]["latency_ms"]["conditions"] = {
            moment: {"battery_c": celsius, "thermal_status": 0}
            for moment, celsius in (("before", 30.5), ("after", 33.0))
        }
    for key in ("uniform_finetuned", "finetuned"):
        summary[key]["latency_ms"] |= {"noise": None, "predicted": True}
    for key in ("baseline", "uniform", "uniform_finetuned", "pruned", "finetuned", "int8_baseline", "int8"):
        summary[key]["structure"] = key.removesuffix("_finetuned").replace("finetuned", "pruned")
    summary["meter"] = {
        "name": "Google Pixel 8:cpu:4-thread",
        "fingerprint": json.dumps(
            {
                "kind": "phone",
                "phone": {"manufacturer": "Google", "model": "Pixel 8", "android_version": "14"},
                "binary": "0123456789abcdef" * 4,
                "settings": {"num_threads": 4, "delegate": "cpu", "fp16": False},
            }
        ),
    }
    return summary


def test_predicted_latencies_are_marked_and_measured_ones_tell_their_noise(tmp_path):
    page = report(tmp_path, phone_summary())
    assert "demo is predicted to be 2.0 times as fast: 3.42 → 1.67 ms per image" in page.text
    assert "Latency 1.67 ms from 3.42 ms, predicted" in page.text
    assert "Original 98.6 % 99.9 % 46.3 M 812 k 3.27 MB 3.42 ms (3.28–3.80) noise 1.3 %" in page.text
    assert page.text.count("0.49 × · predicted, not timed") == 1
    assert page.text.count("noise 1.3 %") == 5
    assert "their range is where 90 % of measurements are expected" in page.text
    assert page.count("rect", "predicted") == 2 * 2
    assert "Dashed bars are predicted by a latency table, not timed." in page.text


def test_the_phone_and_its_temperatures_are_told(tmp_path):
    text = report(tmp_path, phone_summary()).text
    assert "on Google Pixel 8" in text.partition("times as fast")[0]
    for line in ("phone Google Pixel 8", "Android 14", "threads 4", "delegate cpu (XNNPACK)"):
        assert line in text
    assert "tool SHA-256 0123456789ab threads" in text
    assert "battery 30.5–33 °C thermal status 0" in text


def test_a_search_by_table_alone_says_that_its_episodes_are_predicted(tmp_path):
    summary = {**make_summary(), "meter": {"name": "table:Pixel 1"}}
    assert "ms per image, predicted" in report(tmp_path, summary).text


def test_a_search_by_int8_latency_is_drawn_with_the_int8_networks(tmp_path):
    summary = make_summary()
    summary["int8_qat"] = {**summary["int8"], "top1": 0.985}
    plain = report(tmp_path / "plain", summary).text
    summary["settings"] = {"search": {"latency_precision": "int8"}}
    text = report(tmp_path / "int8", summary).text
    assert "ms per image, int8" in text
    assert "ms per image, int8" not in plain
    assert "Found plan, int8, trained: top-1 98.5 %" in text
    assert "Found plan, fine-tuned: top-1" in plain
    assert "Found plan, fine-tuned: top-1" not in text


def test_int8_that_cannot_be_timed_is_shown_so(tmp_path):
    summary = make_summary()
    for key in ("int8_baseline", "int8"):
        summary[key] |= {"latency_ms": None, "not_timed": "The table has timed float32 networks only."}
    assert (
        "Found plan, int8 98.1 % −0.3 99.4 % −0.3 23.1 M 0.50 × 388 k 0.48 × 1.57 MB 0.48 × — could not"
        in (report(tmp_path, summary).text)
    )


def test_dropped_episodes_are_counted_and_left_out_of_the_charts(tmp_path):
    episodes = make_episodes(20)
    for number in (3, 7):
        episodes[number] = {
            **dict.fromkeys(episodes[0]), "episode": number, "kind": "dropped", "reason": "It is gone."
        }  # fmt: skip
    page = report(tmp_path, episodes=episodes)
    assert (
        "2 of 20 episodes were dropped because their networks could not be scored; the last one: It is gone."
        in page.text
    )
    assert page.count("circle", "dot") == 2 * 18


def make_table(name="Google Pixel 8:cpu:4-thread", **medians):
    """A table of networks known by the structures that a summary names."""
    samples = [
        SimpleNamespace(structure=key, median_ms=ms, p5_ms=0.9 * ms, p95_ms=1.1 * ms, num_runs=150)
        for key, ms in medians.items()
    ]
    return SimpleNamespace(name=name, samples=samples)


def test_what_a_table_has_timed_takes_the_place_of_what_was_predicted(tmp_path):
    write_run(tmp_path, phone_summary())
    names = use_measured(tmp_path, make_table(baseline=3.5, pruned=1.4, other=9.0))
    assert names == ("Found plan, fine-tuned",)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["finetuned"]["latency_ms"] == {
        "median": 1.4, "p5": 0.9 * 1.4, "p95": 1.1 * 1.4, "ratio": 1.4 / 3.5, "noise": None,
        "predicted": False, "num_runs": 150,
        "conditions": {"table": "Google Pixel 8:cpu:4-thread", "predicted_ms": 1.67},
    }  # fmt: skip
    expected = phone_summary()
    del summary["finetuned"], expected["finetuned"]
    assert summary == expected
    text = Page(make_report(tmp_path)).text
    assert "demo is 2.4 times as fast: 3.42 → 1.40 ms" in text
    assert use_measured(tmp_path, make_table(pruned=1.3)) == ()


def test_a_run_without_latencies_gets_those_of_a_table(tmp_path):
    summary = phone_summary()
    summary["meter"] = None
    for key in ("baseline", "uniform", "uniform_finetuned", "pruned", "finetuned", "int8_baseline", "int8"):
        summary[key]["latency_ms"] = None
    write_run(tmp_path, summary)
    names = use_measured(tmp_path, make_table(baseline=3.5, pruned=1.4))
    assert names == ("Original", "Found plan", "Found plan, fine-tuned")
    assert "demo is 2.5 times as fast: 3.50 → 1.40 ms" in Page(make_report(tmp_path)).text


def test_latencies_of_two_devices_do_not_stand_side_by_side(tmp_path):
    summary = phone_summary()
    summary["meter"] = {"name": "table:Pixel 1"}
    before = json.dumps(summary)
    write_run(tmp_path, summary)
    with pytest.raises(
        MeasurementError, match=r"of Pixel 2 and has timed .*fine-tuned, but not Original.*too"
    ):
        use_measured(tmp_path, make_table("Pixel 2", pruned=1.4))
    assert (tmp_path / "summary.json").read_text() == before
    assert use_measured(tmp_path, make_table("2 x Pixel 1", pruned=1.4)) == ("Found plan, fine-tuned",)


def stage(budget, found_by, pruned, tuned, macs):
    return {
        "budget": {"kind": "macs", "value": 0.25, "limit": budget, "unit": "MACs"},
        "plan_found_by": found_by,
        "search_top1": pruned,
        "finetuned_top1": tuned,
        "macs": macs,
        "params": macs // 100,
        "bytes": macs // 25,
        "latency_ratio": None,
    }


def write_staged_run(folder):
    """Writes a run of three stages, the second of which had nothing to do."""
    stages = [
        stage(29_200_000, "agent", 0.8, 0.9, 21_000_000),
        stage(23_000_000, None, 0.9, 0.9, 21_000_000),
        stage(18_000_000, "uniform", 0.7, 0.88, 17_900_000),
    ]
    write_run(folder, {**make_summary(), "stages": stages})
    (folder / "episodes.jsonl").unlink()
    for number in (1, 3):
        (folder / f"stage{number}").mkdir()
        lines = "".join(json.dumps(line) + "\n" for line in make_episodes(60))
        (folder / f"stage{number}" / "episodes.jsonl").write_text(lines)
    return folder


def test_stages_are_told_in_a_table(tmp_path):
    page = Page(make_report(write_staged_run(tmp_path)))
    for row in (
        "1 29.2 M MACs agent 80.0 % 90.0 % 21.0 M 210 k",
        "2 23.0 M MACs within the limit already 90.0 % 90.0 % 21.0 M 210 k",
        "3 18.0 M MACs uniform 70.0 % 88.0 % 17.9 M 179 k",
    ):
        assert row in page.text
    assert "Plan found by" not in report(tmp_path / "one").text


def test_episodes_of_stages_are_drawn_one_after_the_other_each_with_its_line_and_its_warm_up(tmp_path):
    record = read_run(write_staged_run(tmp_path))
    assert [line["episode"] for line in record.episodes] == list(range(120))
    assert [line["stage"] for line in record.episodes] == 60 * [1] + 60 * [3]
    figures = make_figures(record)
    for figure in (figures["reward"], figures["accuracy"]):
        assert figure.wide.count('class="line"') == 2
        assert figure.wide.count('class="shade"') == 2


def test_times_of_a_batch_are_called_so(tmp_path):
    meter = {"name": "gpu:batch-8", "fingerprint": json.dumps({"kind": "gpu", "batch_size": 8})}
    page = report(tmp_path, {**make_summary(), "meter": meter})
    assert "3.42 → 1.67 ms per batch of 8, " in page.text
    assert "ms per image" not in page.text


def with_operators(count):
    rows = [
        {"name": f"{i} conv 3×3", "before_ms": 0.1 + 0.01 * i, "after_ms": 0.05} for i in range(1, count + 1)
    ]
    return {**make_summary(), "operators": {"rows": rows}}


def test_operators_are_shown_before_and_after_where_they_were_profiled(tmp_path):
    page = report(tmp_path, with_operators(3))
    assert "1 conv 3×3 0.110 → 0.050" in page.text
    assert page.text.index("Operators before and after") < page.text.index("Reward over episodes")
    assert (
        "Operators before and after"
        not in report(tmp_path / "none", {**make_summary(), "operators": None}).text
    )


def test_of_many_operators_the_dearest_are_shown(tmp_path):
    page = report(tmp_path, with_operators(90))
    assert "Shown are the 40 of 90 that take longest" in page.text
    assert "51 conv 3×3" in page.text
    assert "50 conv 3×3" not in page.text


def test_why_there_is_no_profile_is_told(tmp_path):
    summary = {**make_summary(), "operators": {"error": f"The tool cannot. {HOSTILE}"}}
    assert (
        f"There are no times of single operators: The tool cannot. {HOSTILE}"
        in report(tmp_path, summary).text
    )
