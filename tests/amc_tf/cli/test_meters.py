import argparse
import json

import keras
import pytest

from amc_tf.cli import main, make_parser, meters
from amc_tf.device import gpu_meter, phone_meter
from amc_tf.device.host_meter import HostMeter
from amc_tf.device.phone import Phone
from amc_tf.device.phone_meter import PhoneMeter
from amc_tf.device.phone_pool import PhonePool
from amc_tf.device.table import LatencyTable, TableMeter
from amc_tf.device.table_learning import LearningMeter, measured_with
from amc_tf.errors import MeasurementError, PhoneError, RunFolderError, SettingsError
from tests.fake_bench import TOOL
from tests.fake_phone import FakePhoneTransport
from tests.trained import make_classifier, make_table

SEARCH = ["search", "tiny.keras", "--data=data.npz", "--budget=macs=0.5", "--out=x"]


def parse(*words) -> argparse.Namespace:
    return make_parser().parse_args([*SEARCH, *words])


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ([], "host"),
        (["--meter", "none"], "none"),
        (["--meter", "table:my phone.json"], "table"),
        (["--meter", "phone"], "phone"),
        (["-s", "PHONE1"], "phone"),
        (["--meter", "gpu", "--batch=16"], "gpu"),
        (["--meter", "phone", "-s", "A", "-s", "B", "--delegate=gpu", "--fp16"], "phone"),
    ],
)
def test_a_serial_alone_means_the_phone_and_nothing_means_this_machine(words, kind):
    assert meters.meter_kind(parse(*words)) == kind


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--meter=host", "-s", "A"], "--serial is about a phone, but networks are timed by host"),
        (["--meter=none", "--fp16"], "--fp16 is about a phone, but networks are timed by none"),
        (["--delegate=gpu"], "--delegate is about a phone, but networks are timed by host"),
        (["--meter=table:x.json", "--benchmark-binary=y"], "--benchmark-binary is about a phone"),
        (["--table=x.json"], "--table goes with --meter phone; to do without one, give --meter table:FILE"),
        (["--meter=table:"], "'table:' is no meter; choose host, gpu, phone, table:FILE or none"),
        (["--batch=4"], "--batch is about a GPU, but networks are timed by host: give --meter gpu"),
        (["--meter=gpu", "--threads=2"], "--threads is about a processor, but networks are timed by gpu"),
        (
            ["--meter=table:x.json", "--threads=4"],
            "--threads is about a processor, but networks are timed by table",
        ),
        (["--meter=none", "--threads=0"], "--threads is about a processor, but networks are timed by none"),
        (["--meter=gpu", "-s", "A"], "--serial is about a phone, but networks are timed by gpu"),
        (["--meter=table:FILE", "--transport=radio"], "invalid choice: 'radio'"),
    ],
)
def test_options_that_the_meter_does_not_heed_are_wrong_usage(capsys, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        main([*SEARCH, *words])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--threads=0"], "--threads is 0: give 1 or more"),
        (["--meter=gpu", "--batch=0"], "--batch is 0: give 1 or more"),
        (["-s=A", "--rounds=0"], "--rounds is 0: give 1 or more"),
        (["-s=A", "--run-seconds=-1"], "--run-seconds is -1: give 0 to 150"),
        (["-s=A", "--run-seconds=nan"], "--run-seconds is nan: give 0 to 150"),
        (["-s=A", "-s=B", "-s=A"], "-s A is given twice: give each phone once"),
    ],
)
def test_a_value_out_of_range_is_told_by_the_name_of_its_option(words, sentence):
    with pytest.raises(SettingsError, match=f"^{sentence}"):
        meters.meter_kind(parse(*words))


def test_a_table_to_learn_is_refused_before_anything_runs_if_it_cannot_be_written(tmp_path):
    for name, words in (("no/t.json", "there is no folder"), ("t.txt", "must end in .json")):
        with pytest.raises(RunFolderError, match=words):
            meters.meter_kind(parse("-s=A", f"--table={tmp_path / name}"))


def test_this_machine_is_opened_with_its_threads():
    with meters.open_meter(parse("--threads=2")) as (meter, table):
        assert isinstance(meter, HostMeter)
        assert (meter.name, table) == ("host:2-thread", None)


def test_without_a_meter_nothing_is_opened():
    with meters.open_meter(parse("--meter=none")) as opened:
        assert opened == (None, None)


@pytest.fixture(scope="module")
def table():
    return make_table(make_classifier(keras))


def test_a_table_is_the_meter_and_bounds_the_search(table, tmp_path):
    path = tmp_path / "my phone.json"
    table.save(path)
    with meters.open_meter(parse(f"--meter=table:{path}")) as (meter, found):
        assert isinstance(meter, TableMeter)
        assert (meter.name, found) == ("table:scripted", table)


def test_a_table_that_is_not_there_is_named(tmp_path):
    words = f"{tmp_path}/no.json"
    with pytest.raises(MeasurementError, match=words), meters.open_meter(parse(f"--meter=table:{words}")):
        pytest.fail("nothing is there to be opened")


def test_without_a_gpu_a_search_by_one_stops_before_any_work(amc, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_meter, "list_gpus", list)
    outcome = amc(*SEARCH[:-1], f"--out={tmp_path / 'x'}", "--meter=gpu", "--batch=8")
    assert outcome.code == 1
    assert outcome.err.startswith("amc-tf: TensorFlow sees no GPU on this machine: ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_the_batch_reaches_the_gpu(monkeypatch):
    monkeypatch.setattr(gpu_meter, "list_gpus", lambda: ["/CPU:0"])
    monkeypatch.setattr(gpu_meter, "compiles_with_xla", lambda device: False)
    with meters.open_meter(parse("--meter=gpu", "--batch=8")) as (meter, table):
        assert (meter.name, table) == ("gpu:batch-8", None)
    with meters.open_device(make_parser().parse_args(["benchmark", "x.tflite", "--meter=gpu"])) as meter:
        assert meter.name == "gpu:batch-1"


class Shelf:
    """The phones that can be found; `asked` takes down by what they were looked for."""

    def __init__(self):
        self.phones = {serial: FakePhoneTransport(serial) for serial in ("A", "B")}
        self.asked = []

    def find_phone(self, serial, *, transport):
        self.asked.append((serial, transport))
        if serial == "C":
            raise PhoneError("There is no phone C.")
        return Phone(self.phones[serial or "A"])

    def find_tool(self, abi, *, binary):
        self.asked.append((abi, binary and str(binary)))
        return TOOL

    def is_anything_open(self):
        return any(phone._is_open for phone in self.phones.values())


@pytest.fixture
def shelf(monkeypatch):
    shelf = Shelf()
    monkeypatch.setattr(phone_meter, "find_phone", shelf.find_phone)
    monkeypatch.setattr(phone_meter, "find_tool", shelf.find_tool)
    return shelf


def test_the_phone_that_was_named_is_opened_with_what_was_asked_and_closed_again(shelf):
    words = (
        "-s B --transport=tcp --benchmark-binary=my_tool --threads=4 --delegate=gpu --fp16 --rounds=5 "
        "--run-seconds=0.5"
    )
    with meters.open_meter(parse(*words.split())) as (meter, table):
        assert isinstance(meter, PhoneMeter)
        assert (meter.name, table) == ("Google Pixel 8:gpu-fp16:4-thread", None)
        settings = json.loads(meter.fingerprint())["settings"]
        assert (settings["min_seconds"], settings["warmup_seconds"]) == (0.5, 0.25)
        assert (meter.timing.min_rounds, meter.timing.max_rounds) == (5, 15)
        assert (settings["num_threads"], settings["delegate"], settings["fp16"]) == (4, "gpu", True)
        assert shelf.is_anything_open()
    assert shelf.asked == [("B", "tcp"), ("arm64-v8a", "my_tool")]
    assert not shelf.is_anything_open()


def test_several_phones_are_one_meter(shelf):
    with meters.open_meter(parse("-s", "A", "-s", "B")) as (meter, _):
        assert isinstance(meter, PhonePool)
        assert meter.name == "2 x Google Pixel 8:cpu:1-thread"
    assert not shelf.is_anything_open()


@pytest.mark.parametrize(
    ("words", "error"),
    [("-s A -s C", PhoneError), ("-s A -s A", SettingsError), ("-s A --threads=0", SettingsError)],
)
def test_phones_that_cannot_be_used_together_leave_none_open(shelf, words, error):
    with pytest.raises(error), meters.open_meter(parse(*words.split())):
        pytest.fail("nothing is there to be opened")
    assert not shelf.is_anything_open()


def test_an_error_while_a_phone_is_in_use_closes_it(shelf):
    with pytest.raises(KeyboardInterrupt), meters.open_meter(parse("--meter=phone")):
        raise KeyboardInterrupt
    assert shelf.asked[0] == (None, "auto")
    assert not shelf.is_anything_open()


def test_a_phone_teaches_the_table_that_steers_the_search(shelf, table, tmp_path):
    path = tmp_path / "phone.json"
    with meters.open_meter(parse("--meter=phone", f"--table={path}")) as (meter, found):
        assert isinstance(meter, LearningMeter)
        assert found is None  # there is no table yet that could steer
        known = LatencyTable("Pixel 8", measured_with(meter), "by hand", table.samples)
    known.save(path)
    with meters.open_meter(parse("--meter=phone", f"--table={path}")) as (_, found):
        assert found == known


def test_a_phone_does_not_teach_the_table_of_another_device(shelf, table, tmp_path):
    path = tmp_path / "phone.json"
    table.save(path)
    words = parse("--meter=phone", f"--table={path}")
    with pytest.raises(MeasurementError, match="of another device"), meters.open_meter(words):
        pytest.fail("the table is of another device")
    assert not shelf.is_anything_open()
