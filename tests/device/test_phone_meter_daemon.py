"""Meters on real debug daemons: what a candidate leaves there, and drop-outs between and within runs."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amc_tf.device.adb_direct import AdbTcp
from amc_tf.device.adb_keys import load_keys
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.phone import Phone
from amc_tf.device.phone_meter import CoolDown, PhoneMeter, PhoneTiming
from amc_tf.device.phone_pool import PhonePool
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter
from amc_tf.device.workbench import Workbench
from tests.adbd import Daemon
from tests.stand_in_tool import stand_in_tool
from tests.tflite_files import chain

SETTINGS = RunSettings(num_runs=5, min_seconds=0, warmup_seconds=0, max_seconds=5)
CANDIDATE = chain([8, 16])
REFERENCE = chain([32, 64])

Start = Callable[..., PhoneMeter]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    return load_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def start(keys: tuple[object, ...]) -> Iterator[Start]:
    """Makes meters on daemons whose tool takes longer for larger networks."""
    with contextlib.ExitStack() as stack:

        def meter(daemon: Daemon, *, timing: PhoneTiming | None = None, **options: Any) -> PhoneMeter:
            phone = stack.enter_context(Phone(AdbTcp(daemon.serial, keys=keys), connect_timeout_s=5.0))
            workbench = stack.enter_context(
                Workbench(phone, stand_in_tool(us_per_kb=100.0), reconnect_s=10.0)
            )
            timing = timing or PhoneTiming(min_rounds=2, max_rounds=2)
            return PhoneMeter(workbench, SETTINGS, reference=REFERENCE, timing=timing, **options)

        yield meter


def networks_on(daemon: Daemon) -> int:
    return len(list(daemon.tmp.glob("amc-tf/run-*/*.tflite")))


def heat(daemon: Daemon, tenths_c: int) -> None:
    path = daemon.phone / "dumpsys" / "battery"
    path.write_text(re.sub(r"temperature: \d+", f"temperature: {tenths_c}", path.read_text()))


def test_a_candidate_is_timed_beside_the_reference_and_removed(adbd: Daemon, start: Start) -> None:
    meter = start(adbd)
    latency = meter.measure(CANDIDATE)
    assert latency.ratio == pytest.approx(len(CANDIDATE) / len(REFERENCE), rel=0.1)
    assert (len(latency.raw_ms), len(latency.reference_raw_ms), latency.num_runs) == (2, 2, 10)
    assert latency.conditions["device"]["serial"] == adbd.serial
    assert latency.conditions["fixed_performance"] is False
    assert "cmd" in latency.conditions["fixed_performance_refusal"]
    assert latency.conditions["before"]["battery_c"] is not None
    assert networks_on(adbd) == 1
    meter.close()
    assert list(adbd.tmp.glob("amc-tf/run-*")) == []


def test_a_stored_candidate_asks_nothing_of_the_phone(adbd: Daemon, start: Start) -> None:
    meter = start(adbd)
    with MeasurementStore() as store:
        first = CachedMeter(meter, store).measure(CANDIDATE)
        meter.close()
        cached = CachedMeter(meter, store)
        assert cached.measure(CANDIDATE) == first
        assert (cached.num_measured, cached.num_cached) == (0, 1)
        assert store.list(serial=adbd.serial)[0].device == first.conditions["device"]
    assert list(adbd.tmp.glob("amc-tf/run-*")) == []


def test_a_phone_that_drops_out_while_it_cools_is_found_again(
    start_adbd: Callable[..., Daemon], start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    daemon = start_adbd()
    heat(daemon, 455)

    def drop_out(cool_down: CoolDown) -> None:
        if not cool_down.is_over:
            heat(daemon, 300)
            daemon.kill()

    timing = PhoneTiming(min_rounds=2, max_rounds=2, poll_s=0.01)
    latency = start(daemon, timing=timing, on_cool_down=drop_out).measure(CANDIDATE)
    assert "Reconnecting" in caplog.text
    assert len(latency.raw_ms) == 2
    assert latency.conditions["before"]["battery_c"] == 45.5
    assert latency.conditions["after"]["battery_c"] == 30.0
    assert networks_on(daemon) == 1


@pytest.mark.slow
def test_two_phones_share_a_candidate_and_one_goes_on_alone(
    start_adbd: Callable[..., Daemon], start: Start
) -> None:
    one, two = start_adbd(), start_adbd()
    timing = PhoneTiming(min_rounds=4, max_rounds=4)
    pool = PhonePool([start(one, timing=timing), start(two, timing=timing)])
    latency = pool.measure(CANDIDATE)
    serials = latency.conditions["device"]["serial"].split(", ")
    assert sorted(serials) == sorted([one.serial, two.serial])
    assert latency.ratio == pytest.approx(len(CANDIDATE) / len(REFERENCE), rel=0.1)
    two.down()
    alone = pool.measure(CANDIDATE)
    assert alone.conditions["device"]["serial"] == one.serial
    assert len(alone.raw_ms) == 4
    two.up()
    pool.close()
    assert networks_on(one) == networks_on(two) == 0
