"""The verb benchmark: it times, stores and lists."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from amc_tf.cli import main, meters
from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.convert import to_tflite
from amc_tf.device.store import MeasurementStore
from tests.stand_in_tool import write_stand_in
from tests.trained import ScriptedMeter, make_classifier

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def network():
    """A tiny network as TFLite bytes."""
    return to_tflite(make_classifier(keras))


@pytest.fixture
def benchmark(amc, network, tmp_path, monkeypatch):
    """Runs the command in a folder with net.tflite; what it stores goes to store.sqlite there."""
    (tmp_path / "net.tflite").write_bytes(network)

    def run(*words):
        monkeypatch.chdir(tmp_path)
        return amc("benchmark", "--store=store.sqlite", *words)

    return run


def history(benchmark, *words):
    return json.loads(benchmark("--history", "--json", *words).out)["measurements"]


def test_what_is_printed_is_stored(benchmark, network):
    result = json.loads(benchmark("net.tflite", "--runs=20", "--json").out)
    assert (result["file"], result["file_bytes"]) == ("net.tflite", len(network))
    assert result["sha256"] == hashlib.sha256(network).hexdigest()
    time = result["latency_ms"]
    assert 0 < time["p5"] <= time["median"] <= time["p95"]
    assert result["num_runs"] == len(result["raw_ms"]) >= 20
    assert (result["meter"], result["binary_sha256"], result["profile"]) == ("host:1-thread", None, [])
    (stored,) = history(benchmark)
    assert stored == {name: value for name, value in result.items() if name in stored}
    assert stored["network"] == "net.tflite"


def test_every_benchmark_measures_anew_and_is_kept(benchmark):
    for _ in range(3):
        assert benchmark("net.tflite", "--runs=20").code == 0
    times = [entry["created_at"] for entry in history(benchmark)]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 3
    assert [entry["created_at"] for entry in history(benchmark, "--limit=1")] == times[:1]


def test_history_lists_when_what_and_how_long(benchmark):
    benchmark("net.tflite", "--runs=20")
    entry = history(benchmark)[0]
    head, line = benchmark("--history").out.splitlines()
    assert head.split() == "time (UTC) network timed on median (p5–p95) noise profile".split()
    assert line.startswith(entry["created_at"][:19].replace("T", " "))
    assert "net.tflite" in line and "host:1-thread" in line
    assert f"{entry['latency_ms']['median']:.3f} ms" in line


def test_history_of_an_empty_store_says_so_and_makes_no_file(benchmark, tmp_path):
    assert benchmark("--history").out == "store.sqlite holds no measurements yet.\n"
    assert json.loads(benchmark("--history", "--json").out) == {"store": "store.sqlite", "measurements": []}
    assert not (tmp_path / "store.sqlite").exists()


def test_the_default_store_is_of_the_user(amc, tmp_path, network):
    (tmp_path / "net.tflite").write_bytes(network)
    assert amc("benchmark", tmp_path / "net.tflite", "--runs=20").code == 0
    path = Path(os.environ["XDG_DATA_HOME"], "amc-tf", "measurements.sqlite")
    with MeasurementStore(path) as store:
        assert len(store) == 1


def test_a_store_that_cannot_be_used_is_one_sentence(benchmark, tmp_path):
    (tmp_path / "store.sqlite").write_bytes(b"no database, but some other file")
    outcome = benchmark("net.tflite", "--runs=20")
    assert (outcome.code, outcome.out) == (1, "")
    assert "store.sqlite is damaged" in outcome.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["net.tflite", "--profile"],
            "--profile needs a phone: give -s SERIAL or --meter phone",
        ),
        (["net.tflite", "--fp16"], "--fp16 is about a phone"),
        (["net.tflite", "--history"], "--history lists all measurements: give no file"),
        (["--history", "--limit=0"], "--limit is 0: give 1 or more"),
        (["--history", "-s=A1", "-s=B2"], "or those of one phone: give one -s"),
        (
            ["--history", "--threads=4"],
            "--threads is about timing, but no network is timed: leave out --history",
        ),
        ([], "give a .tflite file, or --history"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(words, sentence, files, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.tflite").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "--store=x", *words])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["net.tflite"]


@pytest.mark.parametrize(
    "name", ["a b.tflite", "it's; $(touch evil) `touch evil`.tflite", '"q".tflite', "-x.tflite"]
)
def test_any_file_name_is_harmless(benchmark, tmp_path, network, name):
    (tmp_path / name).write_bytes(network)
    assert benchmark("--runs=20", "--", name).code == 0
    assert history(benchmark)[0]["network"] == name
    assert name in benchmark("--history").out
    assert not (tmp_path / "evil").exists()


def test_a_file_name_that_is_no_text_is_stored_readably(benchmark, tmp_path, network):
    name = os.fsdecode(b"\xff\x1b[31m.tflite")
    (tmp_path / name).write_bytes(network)
    assert benchmark("--runs=20", "--json", name).code == 0
    assert history(benchmark)[0]["network"] == "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.tflite"


PROFILE = (
    OperatorTime("CONV_2D", "[first]:0", 0.5, 0.6, 0.5, 0.0, 1),
    OperatorTime("DEPTHWISE_CONV_2D", "[second]:1", 0.2, 0.3, 0.2, 0.0, 1),
    OperatorTime("CONV_2D", "[third]:2", 0.1, None, 0.3, 12.0, 3),
)


class ProfilingMeter(ScriptedMeter):
    """A meter as of a phone."""

    def profile(self, tflite):
        return PROFILE

    def measure(self, tflite):
        conditions = {
            "device": {"model": "Pixel 8", "serial": "A1"},
            "binary_sha256": "70" * 32,
            "mask": "f0",
            "cores": ["ff"],
            "before": {"battery_c": 30.0},
            "after": {"battery_c": 31.25},
            "memory": {"init_mb": 1.5, "overall_mb": 4.0, "peak_mb": None},
        }
        return dataclasses.replace(super().measure(tflite), conditions=conditions, noise=0.012)


@pytest.fixture
def phone(monkeypatch):
    """What is opened instead of a real phone; told how many runs were asked for."""
    opened = []

    def open_phones(args, *, num_runs):
        opened.append((args.serial, num_runs))
        return contextlib.nullcontext(ProfilingMeter(name="Pixel 8:cpu:1-thread"))

    monkeypatch.setattr(meters, "open_phones", open_phones)
    return opened


def test_the_history_of_one_phone_has_its_measurements_only(benchmark, phone):
    benchmark("net.tflite", "-s=A1")
    benchmark("net.tflite", "--meter=host", "--runs=5")
    assert len(history(benchmark)) == 2
    (of_phone,) = history(benchmark, "-s=A1")
    assert of_phone["device"]["serial"] == "A1"
    assert benchmark("--history", "-s=A").out == "store.sqlite holds no measurements of the phone A.\n"


def test_a_phone_tells_device_binary_memory_and_temperatures(benchmark, phone):
    words = ["net.tflite", "--reference=net.tflite", "-s=A1", "-s=B2", "--runs=7", "--json"]
    result = json.loads(benchmark(*words).out)
    assert phone == [(["A1", "B2"], 7)]
    assert (result["device"], result["binary_sha256"]) == ({"model": "Pixel 8", "serial": "A1"}, "70" * 32)
    assert result["memory"] == {"init_mb": 1.5, "overall_mb": 4.0, "peak_mb": None}
    assert result["conditions"]["after"] == {"battery_c": 31.25}
    assert (result["noise"], result["speed_up"]) == (0.012, 1.0)
    (stored,) = history(benchmark)
    assert stored == {name: value for name, value in result.items() if name in stored}
    assert benchmark("net.tflite", "--meter=phone").out.splitlines()[1] == (
        "benchmark_model 707070707070; ran on cores 0, 1, 2, 3, 4, 5, 6, 7 (asked for cores 4, 5, 6, 7); "
        "battery 30.0 → 31.2 °C; init memory 1.5 MB; overall memory 4.0 MB"
    )


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (["f0"], "ran on cores 4, 5, 6, 7"),
        (["80"], "ran on core 7 (asked for cores 4, 5, 6, 7)"),
        (["f0 MaxPerformance"], "ran on cores 4, 5, 6, 7 by Android's task profile MaxPerformance"),
        (
            ["3 MaxPerformance", "f"],
            "ran on cores 0, 1 by Android's task profile MaxPerformance or cores 0, 1, 2, 3 "
            "(asked for cores 4, 5, 6, 7)",
        ),
    ],
)
def test_the_cores_that_a_phone_really_gave_are_named(benchmark, phone, monkeypatch, cores, expected):
    measure = ProfilingMeter.measure

    def on_those_cores(self, tflite):
        latency = measure(self, tflite)
        return dataclasses.replace(latency, conditions={**latency.conditions, "cores": cores})

    monkeypatch.setattr(ProfilingMeter, "measure", on_those_cores)
    assert f"; {expected}; " in benchmark("net.tflite", "-s=A1").out


def test_fewer_runs_than_one_are_refused(benchmark):
    assert benchmark("net.tflite", "--runs=0").err == "amc-tf: --runs is 0: give 1 or more.\n"


def test_a_phone_announces_how_long_it_takes_unless_quiet(benchmark, phone):
    words = ["net.tflite", "--reference=net.tflite", "-s=A1", "--run-seconds=2"]
    assert benchmark(*words).err == (
        "Timing net.tflite beside net.tflite on Pixel 8:cpu:1-thread: 3 to 9 rounds, 18 s or more.\n"
    )
    assert benchmark("net.tflite", "-s=A1", "--run-seconds=0.05", "--rounds=1").err == (
        "Timing net.tflite on Pixel 8:cpu:1-thread: 1 to 3 rounds.\n"
    )
    assert benchmark(*words, "--quiet").err == ""


@pytest.mark.parametrize("words", [["junk.tflite"], ["net.tflite", "--reference=junk.tflite"]])
def test_what_is_no_network_is_named_before_a_phone_is_asked(benchmark, phone, tmp_path, words):
    (tmp_path / "junk.tflite").write_bytes(b"PK\x03\x04 a model")
    assert "junk.tflite is no TFLite network" in benchmark(*words, "-s=A1").err
    assert phone == []


def test_a_comparison_names_what_it_compares_with(benchmark):
    result = benchmark("net.tflite", "--reference=net.tflite", "--runs=20").out.splitlines()[1]
    assert re.fullmatch(r"\d\.\d\d × as fast as net\.tflite in the same rounds \(\d\.\d{3} ms\)", result)


def test_a_profile_is_printed_by_operator_and_by_kind_and_can_be_read_back(benchmark, phone):
    lines = benchmark("net.tflite", "-s=A1", "--profile").out.splitlines()
    assert [line.split() for line in lines[3:7]] == [
        ["operator", "name", "ms", "share"],
        ["CONV_2D", "[first]:0", "0.500", "50.0", "%"],
        ["DEPTHWISE_CONV_2D", "[second]:1", "0.200", "20.0", "%"],
        ["CONV_2D", "[third]:2", "0.300", "30.0", "%"],
    ]
    assert [line.split() for line in lines[8:]] == [
        ["kind", "operators", "ms", "share"],
        ["CONV_2D", "2", "0.800", "80.0", "%"],
        ["DEPTHWISE_CONV_2D", "1", "0.200", "20.0", "%"],
    ]
    assert history(benchmark)[0]["profile"] == [dataclasses.asdict(operator) for operator in PROFILE]
    assert benchmark("--history").out.splitlines()[1].split()[-3:] == ["1.2", "%", "yes"]


def test_a_real_daemon_times_and_profiles_any_file_name(benchmark, network, clean_adbd, tmp_path):
    name = '-it\'s; $(touch evil) "net".tflite'
    (tmp_path / name).write_bytes(network)
    tool = write_stand_in(tmp_path / "benchmark model", us_per_kb=50.0)
    words = [
        "-s",
        clean_adbd.serial,
        "--benchmark-binary",
        tool,
        "--runs=5",
        "--profile",
        "--json",
        "--",
        name,
    ]
    result = json.loads(benchmark(*words).out)
    assert result["latency_ms"]["median"] == pytest.approx(0.05 * len(network) / 1024, rel=0.2)
    assert result["binary_sha256"] == hashlib.sha256(tool.read_bytes()).hexdigest()
    assert result["device"]["serial"] == clean_adbd.serial
    assert sum(operator["share"] for operator in result["profile"]) == pytest.approx(1.0, abs=0.01)
    total_ms = sum(operator["mean_ms"] * operator["times_called"] for operator in result["profile"])
    assert total_ms == pytest.approx(result["latency_ms"]["median"], rel=0.2)
    (stored,) = history(benchmark)
    assert (stored["network"], stored["profile"]) == (name, result["profile"])
    left = [path.name for path in clean_adbd.tmp.rglob("*") if path.is_file()]
    assert left == [f"benchmark_model-{result['binary_sha256']}"]
    assert not list(tmp_path.glob("evil"))


def test_the_command_starts_in_less_than_half_a_second_and_loads_nothing_it_does_not_need():
    code = (
        "import sys, time\n"
        "from amc_tf.cli import main\n"
        "main(['benchmark', 'nothing.tflite', '--meter=phone'])\n"
        "print(time.process_time(), *sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stderr == "amc-tf: There is no file nothing.tflite: give a .tflite file.\n"
    seconds, *modules = done.stdout.split()
    heavy = "tensorflow keras scipy sklearn ai_edge_litert adb_shell adbutils requests sqlite3"
    assert not set(heavy.split()) & set(modules)
    assert float(seconds) < 0.5
