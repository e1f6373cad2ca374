"""The verb table: it builds a table, tells how good it is, and goes on after an interruption."""

import contextlib
import json

import pytest

from amc_tf.cli import meters
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.errors import PhoneError
from tests.fake_times import FakePhone
from tests.stand_in_tool import write_stand_in

BUILD = "table build tiny.keras --round-to=4 --networks=8".split()


@pytest.fixture
def phone(monkeypatch):
    """The phone that every command finds."""
    phone = FakePhone()

    @contextlib.contextmanager
    def open_meter(args):
        yield phone, None

    monkeypatch.setattr(meters, "open_meter", open_meter)
    return phone


def test_a_table_is_built_on_a_phone_and_its_error_told(amc, phone, tmp_path):
    path = tmp_path / "my phone.json"
    outcome = amc(*BUILD, "-s", "PHONE1", "--out", path)
    assert outcome.code == 0
    progress = [line.partition(":")[0] for line in outcome.err.splitlines()]
    assert progress[:2] == ["original", "uniform 0.75"] and len(progress) == 8
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["network", "measured", "predicted", "unseen", "error"]
    assert lines[1].split()[0] == "original" and lines[2].startswith("uniform 0.75")
    table = LatencyTable.load(path)
    assert len(table.samples) == len(phone.measured) == 8
    assert lines[-2] == f"{path}: 8 networks on Pixel 8:cpu, 8 profiled"
    assert lines[-1].startswith("Each was predicted by a table without it: off by ")
    assert table.error.median < 0.05
    assert table.source.startswith("amc-tf table build tiny.keras, 8 networks on Pixel 8:cpu")


def test_the_result_is_one_json_document(amc, phone, tmp_path):
    result = json.loads(amc(*BUILD, "--out", tmp_path / "t.json", "--json").out)
    table = LatencyTable.load(tmp_path / "t.json")
    assert (result["num_networks"], result["num_profiled"], result["meter"]) == (8, 8, "Pixel 8:cpu")
    assert result["error"] == {"median": table.error.median, "largest": table.error.largest}
    first = result["networks"][0]
    assert first["label"] == "original"
    assert first["error"] == pytest.approx(first["predicted_ms"] / first["measured_ms"] - 1)


def test_an_interrupted_build_is_resumed(amc, phone, tmp_path):
    path = tmp_path / "t.json"
    measure = phone.measure
    phone.with_reference = lambda tflite: phone
    phone.measure = lambda tflite: measure(tflite) if len(phone.measured) < 3 else _drop_out()
    outcome = amc(*BUILD, "--out", path)
    assert (outcome.code, outcome.out) == (1, "") and "The phone has gone" in outcome.err
    phone.measure = measure
    refused = amc(*BUILD, "--out", path)
    assert refused.code == 1 and "exists: give --resume to add" in refused.err
    assert amc(*BUILD, "--out", path, "--resume").code == 0
    assert len(phone.measured) == 8 == len(LatencyTable.load(path).samples)


def test_an_overwritten_table_stays_until_there_is_something_to_replace_it(amc, phone, tmp_path):
    path = tmp_path / "t.json"
    assert amc(*BUILD, "--out", path).code == 0
    before, measure = path.read_text(), phone.measure
    phone.measure = lambda tflite: _drop_out()
    assert amc(*BUILD, "--out", path, "--overwrite").code == 1
    assert path.read_text() == before
    phone.measure = measure
    assert amc(*BUILD, "--out", path, "--overwrite", "--quiet").code == 0
    assert len(phone.measured) == 16


def _drop_out():
    raise PhoneError("The phone has gone.")


def test_this_machine_can_be_the_device(amc, tmp_path):
    path = tmp_path / "host.json"
    outcome = amc("table", "build", "tiny.keras", "--round-to=4", "--networks=3", "--out", path, "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 networks on host:1-thread, 0 profiled" in outcome.out
    table = LatencyTable.load(path)
    assert table.measured_with["kind"] == "host" and "reference" not in table.measured_with
    assert TableMeter(table).name == "table:host:1-thread"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--networks=1"], "at least 2 networks"),
        (["--round-to=0"], "round_to=0"),
        (["--threads=0"], "--threads is 0: give 1 or more"),
        (["--out=table.txt"], "table.txt must end in .json"),
        (["--out=none/table.json"], "there is no folder none"),
    ],
)
def test_bad_values_are_one_sentence(amc, tmp_path, words, why):
    outcome = amc(*BUILD, "--out", tmp_path / "t.json", *words)
    assert (outcome.code, outcome.out) == (1, "")
    assert why in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["--meter=table:x.json"], ["--meter=host", "--fp16"], ["--resume", "--overwrite"]]
)
def test_options_that_do_not_go_together_are_wrong_usage(amc, tmp_path, words):
    with pytest.raises(SystemExit) as stopped:
        amc(*BUILD, "--out", tmp_path / "t.json", *words)
    assert stopped.value.code == 2


@pytest.mark.parametrize("network", ["tiny.keras", pytest.param("demo", marks=pytest.mark.slow)])
def test_a_table_is_built_over_adb(amc, clean_adbd, tmp_path, network):
    """The stand-in runs the larger network and tells its operators; of the tiny one it makes up times."""
    is_real = network == "demo"
    tool = write_stand_in(tmp_path / "benchmark model", us_per_kb=None if is_real else 50.0)
    path = tmp_path / "phone.json"
    words = ["-s", clean_adbd.serial, "--benchmark-binary", tool, "--out", path, "--quiet"]
    outcome = amc("table", "build", network, "--networks=2", "--round-to=4", *words)
    assert (outcome.code, outcome.err) == (0, "")
    table = LatencyTable.load(path)
    assert table.measured_with["kind"] == "phone"
    assert [sample.label for sample in table.samples] == ["original", "uniform 0.75"]
    assert all((sample.times_ms is not None) == is_real for sample in table.samples)
