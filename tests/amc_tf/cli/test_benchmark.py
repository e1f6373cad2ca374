"""The verb benchmark: it times, stores and lists."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from amc_tf.cli import main
from amc_tf.device.convert import to_tflite
from amc_tf.device.store import MeasurementStore
from tests.trained import make_classifier

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
            "--profile is what the phone's tool tells: give -s SERIAL or --meter phone",
        ),
        (["net.tflite", "--profile", "-s=A", "-s=B"], "--profile is taken on one phone: give one -s"),
        (["net.tflite", "--fp16"], "--fp16 is about a phone"),
        (["net.tflite", "--history"], "--history lists all measurements: give no file"),
        (["--history", "--limit=0"], "--limit is 0: give 1 or more"),
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
