import argparse

import pytest

from amc_tf.cli import main, make_parser, meters
from amc_tf.device.host_meter import HostMeter

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
        (["--meter=table:"], "'table:' is no meter; choose host, phone, table:FILE or none"),
        (["--meter=table:FILE", "--transport=radio"], "invalid choice: 'radio'"),
    ],
)
def test_options_that_the_meter_does_not_heed_are_wrong_usage(capsys, words, sentence):
    with pytest.raises(SystemExit) as stopped:
        main([*SEARCH, *words])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err


def test_this_machine_is_opened_with_its_threads():
    with meters.open_meter(parse("--threads=2")) as (meter, table):
        assert isinstance(meter, HostMeter)
        assert (meter.name, table) == ("host:2-thread", None)


def test_without_a_meter_nothing_is_opened():
    with meters.open_meter(parse("--meter=none")) as opened:
        assert opened == (None, None)
