"""The verb bundle: what a run found travels in a file to where the phone is."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amc_tf.bundle import Bundle
from amc_tf.cli import main, meters
from amc_tf.device.operators import read_operators
from amc_tf.device.store import MeasurementStore
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.errors import MeasurementError, PhoneError
from tests.stand_in_tool import write_stand_in
from tests.trained import ScriptedMeter

ROOT = Path(__file__).parents[3]

SEARCH = (
    "search tiny.keras --data=data.npz --budget=macs=0.6 --meter=none --episodes=4 --round-to=4 "
    "--search-images=100 --calibration-images=64 --quiet --out"
).split()


@pytest.fixture(scope="module")
def run_folder(files, tmp_path_factory):
    """The folder of a search, which knows nothing of its model's file."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        assert main([*SEARCH, str(folder)]) == 0
    return folder


def test_make_packs_a_search_and_lists_what_is_in_it(amc, run_folder, tmp_path):
    path = tmp_path / "for my phone.zip"
    outcome = amc("bundle", "make", run_folder, "--model=tiny.keras", "--top=2", "--out", path)
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["network", "reward", "top-1", "ms"]
    assert lines[1].split() == ["original"]
    names = [network.name for network in Bundle(path).manifest.networks]
    assert [line.partition("  ")[0] for line in lines[1:-2]] == names
    assert lines[-1].startswith(f"{path}: {len(names)} networks, ")


def test_make_prints_the_manifest_and_refuses_to_overwrite(amc, run_folder, tmp_path):
    words = ["bundle", "make", run_folder, "--model=tiny.keras", "--top=1", "--out", tmp_path / "b.zip"]
    result = json.loads(amc(*words, "--json").out)
    assert result["bundle"] == str(tmp_path / "b.zip")
    assert result["bytes"] == (tmp_path / "b.zip").stat().st_size
    assert (result["run"], result["model"], result["format"]) == ("a run", "tiny.keras", "amc-tf bundle 1")
    refused = amc(*words)
    assert (refused.code, refused.out) == (1, "")
    assert "exists: give --overwrite to replace it" in refused.err
    assert amc(*words, "--overwrite", "--quiet").code == 0


def test_make_without_the_model_asks_for_it(amc, run_folder, tmp_path):
    outcome = amc("bundle", "make", run_folder, "--out", tmp_path / "b.zip")
    assert (outcome.code, outcome.out) == (1, "")
    assert "give it with --model" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def bundle(run_folder, files, tmp_path_factory):
    """A bundle of the original and several smaller networks."""
    path = tmp_path_factory.mktemp("bundles") / "bundle.zip"
    model = str(files / "tiny.keras")
    assert main(["bundle", "make", str(run_folder), "--model", model, "--out", str(path), "--quiet"]) == 0
    return path


@dataclasses.dataclass(frozen=True)
class Phone(ScriptedMeter):
    """A meter that fails where it is told to; `errors` are by SHA-256."""

    errors: dict = dataclasses.field(default_factory=dict)

    def fingerprint(self):
        return json.dumps({"phone": self.name, "reference": super().fingerprint()})

    def measure(self, tflite):
        latency = super().measure(tflite)
        if self.seen[-1] in self.errors:
            raise self.errors[self.seen[-1]]
        return latency


@pytest.fixture
def phone(monkeypatch):
    """What `bundle measure` opens instead of a real phone."""
    meter = Phone(name="Fake Phone")
    monkeypatch.setattr(meters, "open_device", lambda args: contextlib.nullcontext(meter))
    return meter


def test_measure_times_each_network_beside_the_original(amc, bundle, phone, tmp_path):
    result = json.loads(amc("bundle", "measure", bundle, "--out", tmp_path / "p.json", "--json").out)
    networks = Bundle(bundle).manifest.networks
    assert phone.seen == [network.sha256 for network in networks] and len(networks) >= 3
    sizes = [len(Bundle(bundle).read(network)) for network in networks]
    medians = [entry["latency_ms"]["median"] for entry in result["networks"]]
    assert medians == pytest.approx([size / 10_000 for size in sizes])
    ratios = [entry["ratio"] for entry in result["networks"]]
    assert ratios == [None, *(pytest.approx(size / sizes[0]) for size in sizes[1:])]
    assert (result["meter"], result["run"], result["table"]) == (
        "Fake Phone", "a run", str(tmp_path / "p.json"),
    )  # fmt: skip


def test_what_was_measured_is_a_latency_table_that_answers_for_any_weights(amc, bundle, phone, tmp_path):
    assert amc("bundle", "measure", bundle, "--out", tmp_path / "p.json").code == 0
    table = LatencyTable.load(tmp_path / "p.json")
    read = Bundle(bundle)
    meter = TableMeter(table)
    for network in read.manifest.networks:
        latency = meter.measure(read.read(network))
        assert (latency.predicted, latency.median_ms) == (False, pytest.approx(len(read.read(network)) / 1e4))
    assert {sample.structure for sample in table.samples} == {n.structure for n in read.manifest.networks}
    assert [sample.label for sample in table.samples][:2] == [
        "a run: original",
        "a run: " + read.manifest.networks[1].name,
    ]
    assert table.error is not None


def test_measure_prints_each_network_and_where_the_table_is(amc, bundle, phone, tmp_path):
    outcome = amc("bundle", "measure", bundle, "--out", tmp_path / "p.json")
    names = [network.name for network in Bundle(bundle).manifest.networks]
    lines = outcome.out.splitlines()
    assert lines[0].split() == "network expected measured (p5–p95) of the original noise".split()
    assert [line.partition("  ")[0] for line in lines[1 : len(names) + 1]] == names
    assert "100.0 %" in lines[1]
    assert f"{tmp_path / 'p.json'}: {len(names)} of {len(names)} networks, timed on Fake Phone" in lines
    assert outcome.err.splitlines()[0].startswith("original: ")
    assert amc("bundle", "measure", bundle, "--out", tmp_path / "p.json", "--quiet").err == ""


def test_a_phone_that_drops_out_stops_it_and_the_same_command_goes_on(amc, bundle, phone, tmp_path):
    shas = [network.sha256 for network in Bundle(bundle).manifest.networks]
    phone.errors[shas[2]] = PhoneError("The phone has gone.")
    words = ["bundle", "measure", bundle, "--out", tmp_path / "p.json", "--quiet"]
    outcome = amc(*words)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == (
        f"amc-tf: The phone has gone. 2 of {len(shas)} networks are timed and kept: the same command goes on "
        "with the others.\n"
    )
    assert len(LatencyTable.load(tmp_path / "p.json").samples) == 2
    phone.errors.clear()
    phone.seen.clear()
    assert amc(*words).code == 0
    assert phone.seen == shas[2:]
    with MeasurementStore(tmp_path / "p.sqlite") as store:
        assert len(store) == len(shas)


def test_a_network_that_fails_is_told_and_does_not_stop_the_others(amc, bundle, phone, tmp_path):
    networks = Bundle(bundle).manifest.networks
    phone.errors[networks[1].sha256] = MeasurementError("The delegate was not applied.")
    outcome = amc("bundle", "measure", bundle, "--out", tmp_path / "p.json", "--quiet")
    assert outcome.code == 0
    assert outcome.err == f"{networks[1].name} failed: The delegate was not applied.\n"
    assert f"{len(networks) - 1} of {len(networks)} networks" in outcome.out
    assert "failed" in outcome.out.splitlines()[2]
    result = json.loads(amc("bundle", "measure", bundle, "--out", tmp_path / "p.json", "--json").out)
    assert result["networks"][1]["error"] == "The delegate was not applied."
    assert result["networks"][1]["latency_ms"] is None


def test_without_the_original_there_is_nothing_to_compare_with(amc, bundle, phone, tmp_path):
    phone.errors[Bundle(bundle).manifest.original.sha256] = MeasurementError("It does not run.")
    outcome = amc("bundle", "measure", bundle, "--out", tmp_path / "p.json")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "amc-tf: It does not run.\n")


def test_a_table_that_exists_is_added_to_unless_it_is_of_another_phone(amc, bundle, phone, tmp_path):
    read, path = Bundle(bundle), tmp_path / "p.json"
    words = ["bundle", "measure", bundle, "--out", path, "--quiet"]
    assert amc(*words).code == 0
    table = LatencyTable.load(path)
    last = read_operators(read.read(read.manifest.networks[-1]))
    kept = tuple(sample for sample in table.samples if sample.operators != last)
    dataclasses.replace(table, samples=kept, error=None).save(path)
    assert amc(*words).code == 0
    assert LatencyTable.load(path).samples == table.samples
    object.__setattr__(phone, "name", "Other Phone")
    outcome = amc(*words)
    assert (outcome.code, outcome.out) == (1, "")
    assert "is of another device or other settings" in outcome.err
    assert LatencyTable.load(path).samples == table.samples


def test_a_bundle_that_is_refused_leaves_nothing(amc, tmp_path):
    (tmp_path / "b.zip").write_bytes(b"no zip file")
    outcome = amc("bundle", "measure", tmp_path / "b.zip", "--out", tmp_path / "p.json")
    assert (outcome.code, outcome.out) == (1, "")
    assert f"The bundle {tmp_path / 'b.zip'} is damaged or no ZIP file" in outcome.err
    assert "must end in .json" in amc("bundle", "measure", "b.zip", "--out", tmp_path / "p.txt").err
    assert [path.name for path in tmp_path.iterdir()] == ["b.zip"]


def test_a_real_daemon_measures_a_bundle(amc, bundle, clean_adbd, tmp_path):
    tool = write_stand_in(tmp_path / "benchmark_model", us_per_kb=50.0)
    phone = ["-s", clean_adbd.serial, "--benchmark-binary", tool]
    result = json.loads(amc("bundle", "measure", bundle, "--out", tmp_path / "p.json", *phone, "--json").out)
    read = Bundle(bundle)
    sizes = [len(read.read(network)) for network in read.manifest.networks]
    medians = [entry["latency_ms"]["median"] for entry in result["networks"]]
    assert medians == pytest.approx([0.05 * size / 1024 for size in sizes], rel=0.2)
    meter = TableMeter(LatencyTable.load(tmp_path / "p.json"))
    last = meter.measure(read.read(read.manifest.networks[-1]))
    assert not last.predicted
    assert last.median_ms == pytest.approx(result["networks"][-1]["ratio"] * medians[0])


def test_this_machine_can_measure_too_and_loads_no_tensorflow(bundle, tmp_path):
    code = (
        "import sys\n"
        "from amc_tf.cli import main\n"
        f"code = main(['bundle', 'measure', {str(bundle)!r}, '--out', 'p.json', '--meter=host', '--json'])\n"
        "sys.exit(code or any(name in sys.modules for name in ('tensorflow', 'keras')))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    networks = json.loads(done.stdout)["networks"]
    assert all(0 < entry["latency_ms"]["median"] < 100 for entry in networks)
    assert all(0 < entry["ratio"] < 2 for entry in networks[1:])


@pytest.mark.parametrize("words", [["bundle"], ["bundle", "unpack"], ["bundle", "make", "run"]])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: amc-tf bundle" in capsys.readouterr().err
