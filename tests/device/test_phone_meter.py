"""PhoneMeter: the order of the rounds, heat, fixed clocks, what is recorded, what is left on the phone."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from typing import Any

import pytest

from amc_tf.device.benchmark_output import BenchmarkResult
from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.phone_meter import CoolDown, PhoneMeter, PhoneTiming
from amc_tf.device.transport import ShellResult
from amc_tf.errors import MeasurementError, PhoneError
from tests.fake_bench import (
    COOL,
    FIXED_PERFORMANCE,
    TOOL,
    FakeBench,
    FakeClock,
    FakePhone,
    conditions,
    result,
)

HOT = conditions(battery_c=43.5)
THROTTLED = conditions(thermal_status=2)


def steady(
    phone: FakePhone | None = None, **times_ms: Iterable[float | BenchmarkResult | Exception]
) -> FakeBench:
    """Returns a bench on which candidate C takes 2 ms and reference R 4 ms, unless told otherwise."""
    return FakeBench(phone, times_ms={"C": repeat(2.0), "R": repeat(4.0), **times_ms})


def make_meter(
    bench: FakeBench,
    reference: bytes | None = b"R",
    *,
    settings: RunSettings | None = None,
    on_cool_down: Callable[[CoolDown], None] | None = None,
    **timing: Any,
) -> PhoneMeter:
    clock = FakeClock()
    return PhoneMeter(
        bench,  # type: ignore[arg-type]  # all of a workbench that a meter uses
        settings or RunSettings(num_threads=4),
        reference=reference,
        timing=PhoneTiming(**timing),
        on_cool_down=on_cool_down,
        sleep=clock.sleep,
        clock=clock,
    )


def test_candidate_and_reference_take_turns_that_change_sides() -> None:
    bench = steady()
    latency = make_meter(bench).measure(b"C")
    assert bench.order == "CRRCCR"
    assert (latency.median_ms, latency.reference_median_ms, latency.paired_ratio) == (2.0, 4.0, 0.5)
    assert (latency.raw_ms, latency.reference_raw_ms) == ((2.0,) * 3, (4.0,) * 3)
    assert (latency.noise, latency.num_runs) == (0.0, 150)


def test_a_drift_of_the_phone_cancels_in_the_ratio() -> None:
    bench = steady(C=[2.0, 3.0, 4.0], R=[4.0, 6.0, 8.0])
    latency = make_meter(bench).measure(b"C")
    assert (latency.median_ms, latency.paired_ratio, latency.noise) == (3.0, 0.5, 0.0)


def test_rounds_that_disagree_are_followed_by_more() -> None:
    bench = steady(C=chain([2.0, 3.0], repeat(2.0)))
    latency = make_meter(bench, max_spread=0.01).measure(b"C")
    assert len(bench.order) == 2 * 5
    assert latency.paired_ratio == 0.5
    bench = steady(C=[2.0, 3.0] * 5)
    latency = make_meter(bench, max_rounds=5).measure(b"C")
    assert len(bench.order) == 2 * 5
    assert latency.noise == pytest.approx((0.75 - 0.5) / 0.5)


def test_without_a_reference_only_the_candidate_runs() -> None:
    bench = steady()
    latency = make_meter(bench, None).measure(b"C")
    assert bench.order == "CCC"
    assert (latency.median_ms, latency.ratio, latency.noise) == (2.0, None, 0.0)


def test_conditions_tell_how_it_was_measured() -> None:
    phone = FakePhone("SN42")
    phone.weather = [conditions(31.0), conditions(31.5), conditions(32.0), conditions(33.0)]
    latency = make_meter(steady(phone)).measure(b"C")
    assert latency.conditions == {
        "device": {**phone.info().identity(), "serial": "SN42"},
        "binary_sha256": TOOL.sha256,
        "tool": "a test",
        "mask": "f0",
        "cores": ["4-7"],
        "fixed_performance": True,
        "before": dataclasses.asdict(conditions(31.0)),
        "after": dataclasses.asdict(conditions(33.0)),
        "init_ms": 3.0,
        "memory": {"init_mb": 1.5, "overall_mb": 4.0, "peak_mb": None},
        "rounds": 3,
        "discarded": 0,
        "cooled_s": 0.0,
        "seconds": 0.0,
    }
    json.dumps(latency.to_json())


def test_the_cores_are_enough_for_the_threads() -> None:
    bench = steady()
    make_meter(bench, settings=RunSettings(num_threads=6)).measure(b"C")
    assert "run C ff" in bench.phone.events
    bench = steady()
    make_meter(bench, settings=RunSettings(num_threads=1)).measure(b"C")
    assert "run C f0" in bench.phone.events


def test_clocks_are_fixed_while_it_measures_and_freed_afterwards() -> None:
    bench = steady()
    make_meter(bench, None).measure(b"C")
    assert bench.phone.events == [
        "place C", f"{FIXED_PERFORMANCE} true", "look", "run C f0", "look", "run C f0", "look", "run C f0",
        "look", f"{FIXED_PERFORMANCE} false", "remove C",
    ]  # fmt: skip


def test_a_phone_that_cannot_fix_its_clocks_is_measured_all_the_same() -> None:
    phone = FakePhone()
    phone.refusal = ShellResult("", "Failed to set FIXED_PERFORMANCE mode\n", 255)
    told = make_meter(steady(phone)).measure(b"C").conditions
    assert told["fixed_performance"] is False
    assert told["fixed_performance_refusal"] == "Failed to set FIXED_PERFORMANCE mode"
    assert f"{FIXED_PERFORMANCE} false" not in phone.events
    old = FakePhone(sdk=29)
    told = make_meter(steady(old)).measure(b"C").conditions
    assert told["fixed_performance_refusal"] == "needs Android 11 (SDK 30), the phone has SDK 29"
    assert not any(FIXED_PERFORMANCE in event for event in old.events)


def test_the_reference_stays_and_the_candidate_goes_also_after_an_error() -> None:
    bench = steady(C=chain([2.0, MeasurementError("no memory")], repeat(2.0)))
    meter = make_meter(bench)
    with pytest.raises(MeasurementError, match="The candidate network cannot be timed .*no memory"):
        meter.measure(b"C")
    assert bench.placed == {"R"}
    assert bench.phone.events[-2:] == [f"{FIXED_PERFORMANCE} false", "remove C"]
    assert meter.measure(b"C").ratio == 0.5


def test_the_reference_measured_as_a_candidate_stays_too() -> None:
    bench = steady()
    assert make_meter(bench).measure(b"R").paired_ratio == 1.0
    assert bench.placed == {"R"}


def test_an_error_of_the_reference_is_told_from_one_of_the_candidate() -> None:
    bench = steady(R=[MeasurementError("bad flag")])
    with pytest.raises(
        MeasurementError, match=r"The reference network cannot be timed on Google Pixel 8:cpu"
    ):
        make_meter(bench).measure(b"C")


def test_a_phone_that_drops_out_is_no_fault_of_a_network_and_its_clocks_are_freed_later() -> None:
    bench = steady()
    meter = make_meter(bench)

    def drop_out(name: str) -> None:
        bench.phone.is_gone = name == "R"
        bench.phone.note(name)

    bench.on_run = drop_out
    with pytest.raises(PhoneError, match="The phone A1 does not answer"):
        meter.measure(b"C")
    bench.on_run = lambda name: None
    bench.phone.is_gone = False
    bench.phone.events.clear()
    meter.close()
    assert bench.phone.events == [f"{FIXED_PERFORMANCE} false"]
    assert bench.is_closed


def test_closing_frees_the_clocks_of_a_phone_that_comes_back_meanwhile(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = steady()
    meter = make_meter(bench)
    bench.on_run = lambda name: setattr(bench.phone, "is_gone", True)
    with pytest.raises(PhoneError):
        meter.measure(b"C")
    assert "its restart or `amc-tf devices --clean`: The phone A1 does not answer" in caplog.text
    monkeypatch.setattr(bench, "close", lambda: setattr(bench.phone, "is_gone", False))
    meter.close()
    assert bench.phone.events[-1] == f"{FIXED_PERFORMANCE} false"


def test_meters_on_one_workbench_free_the_clocks_for_each_other() -> None:
    bench = steady()
    meter = make_meter(bench, None)
    other = meter.with_reference(b"R")
    assert other.measure(b"C").ratio == 0.5

    def drop_out(name: str) -> None:
        bench.phone.is_gone = True
        bench.phone.note(name)

    bench.on_run = drop_out
    with pytest.raises(PhoneError):
        other.measure(b"C")
    bench.phone.is_gone = False
    meter.close()
    assert bench.phone.events[-1] == f"{FIXED_PERFORMANCE} false"


def test_a_hot_phone_cools_down_below_the_limit_before_it_starts() -> None:
    phone = FakePhone()
    phone.weather = [HOT, conditions(41.0), conditions(39.5), conditions(39.0), COOL]
    bench = steady(phone)
    seen: list[CoolDown] = []
    latency = make_meter(bench, on_cool_down=seen.append, poll_s=20.0).measure(b"C")
    assert [(look.seconds_waited, look.battery_c, look.is_over) for look in seen] == [
        (0.0, 43.5, False), (20.0, 41.0, False), (40.0, 39.5, False), (60.0, 39.0, True),
    ]  # fmt: skip
    assert {look.limit_s for look in seen} == {600.0}
    assert latency.conditions["cooled_s"] == 60.0
    assert phone.events.index("run C f0") > 4


def test_a_phone_that_stays_hot_is_given_up_with_its_temperature_and_advice() -> None:
    phone = FakePhone()
    phone.weather = [HOT]
    bench = steady(phone)
    seen: list[CoolDown] = []
    meter = make_meter(bench, on_cool_down=seen.append, cool_down_s=12.0)
    with pytest.raises(
        PhoneError, match=r"A1 is still too hot after 12 s .*43\.5 °C \(limit 40\.0 °C\).* case"
    ):
        meter.measure(b"C")
    assert [look.seconds_waited for look in seen] == [0.0, 5.0, 10.0, 12.0, 12.0]
    assert bench.order == ""
    assert bench.placed == set()
    assert phone.events[-2:] == [f"{FIXED_PERFORMANCE} false", "remove C"]


def test_a_round_in_which_the_phone_began_to_throttle_is_made_again() -> None:
    phone = FakePhone()
    phone.weather = [COOL, THROTTLED, COOL]
    bench = steady(phone, C=chain([20.0], repeat(2.0)))
    latency = make_meter(bench).measure(b"C")
    assert bench.order == "CR" + "CRRCCR"
    assert latency.raw_ms == (2.0, 2.0, 2.0)
    assert (latency.conditions["rounds"], latency.conditions["discarded"]) == (3, 1)
    assert latency.conditions["cooled_s"] == 5.0


def test_a_phone_that_throttles_again_and_again_is_given_up() -> None:
    phone = FakePhone()
    phone.weather = [COOL, *[THROTTLED, COOL] * 9]
    bench = steady(phone)
    with pytest.raises(PhoneError, match="began to throttle in 3 rounds of one network: .*thermal status 2"):
        make_meter(bench, max_discarded=2).measure(b"C")
    assert len(bench.order) == 2 * 3


def test_a_round_in_which_the_phone_dropped_out_is_made_again_with_fixed_clocks() -> None:
    bench = steady(R=chain([9.0], repeat(4.0)))

    def restart(name: str) -> None:
        if bench.order == "CR":
            bench.num_preparations += 1

    bench.on_run = restart
    latency = make_meter(bench).measure(b"C")
    assert bench.order == "CR" + "CRRCCR"
    assert latency.paired_ratio == 0.5
    assert latency.conditions["discarded"] == 1
    switched = [event for event in bench.phone.events if event.startswith(FIXED_PERFORMANCE)]
    assert switched == [f"{FIXED_PERFORMANCE} {state}" for state in ("true", "true", "false")]


def test_a_round_on_different_cores_is_made_again_and_a_phone_that_goes_on_so_is_given_up() -> None:
    bench = steady()
    bench.cores = ["f0", "ff", "f0"]
    latency = make_meter(bench).measure(b"C")
    assert (latency.conditions["cores"], latency.conditions["discarded"]) == (["f0"], 1)
    bench.cores = ["f0", "ff"] * 9
    with pytest.raises(PhoneError, match=r"A1 lost 2 rounds .* different cores \(f0, ff\); check"):
        make_meter(bench, max_discarded=1).measure(b"C")


def test_a_battery_that_grows_hot_in_a_round_spoils_only_the_next_start() -> None:
    phone = FakePhone()
    phone.weather = [COOL, conditions(40.5), conditions(38.0)]
    latency = make_meter(steady(phone)).measure(b"C")
    assert (latency.conditions["rounds"], latency.conditions["discarded"]) == (3, 0)
    assert latency.conditions["cooled_s"] == 5.0


def test_a_phone_that_tells_no_temperature_is_measured() -> None:
    phone = FakePhone()
    phone.weather = [conditions(None, None)]
    assert make_meter(steady(phone)).measure(b"C").ratio == 0.5


def test_a_profile_is_scaled_to_the_median_of_a_plain_run() -> None:
    operators = (
        OperatorTime("CONV_2D", "a", mean_ms=1.0, first_ms=2.0, share=0.4, memory_kb=0.0, times_called=1),
        OperatorTime("ADD", "b", mean_ms=0.75, first_ms=None, share=0.6, memory_kb=0.0, times_called=2),
    )
    bench = FakeBench(times_ms={"C": [2.0, 3.0]}, profile=operators)
    profile = make_meter(bench).profile(b"C")
    assert [operator.mean_ms for operator in profile] == pytest.approx([0.8, 0.6])
    assert [operator.first_ms for operator in profile] == [pytest.approx(1.6), None]
    assert sum(operator.mean_ms * operator.times_called for operator in profile) == pytest.approx(2.0)
    assert [event for event in bench.phone.events if "C f0" in event] == ["run C f0", "profile C f0"]
    assert bench.placed == set()


def test_a_profile_of_no_time_is_left_as_it_is() -> None:
    operators = (OperatorTime("ADD", "b", 0.0, None, 1.0, 0.0, 1),)
    bench = FakeBench(times_ms={"C": [2.0, 3.0]}, profile=operators)
    assert make_meter(bench).profile(b"C") == operators


def test_fingerprint_changes_with_what_changes_the_numbers_only() -> None:
    base = make_meter(steady()).fingerprint()
    assert "A1" not in base
    same = [
        make_meter(steady(FakePhone("B2"))),
        make_meter(steady(), cool_down_s=5.0, poll_s=1.0, max_discarded=9),
    ]
    assert {meter.fingerprint() for meter in same} == {base}
    others = [
        make_meter(steady(FakePhone(model="Pixel 6"))),
        make_meter(steady(), b"other"),
        make_meter(steady(), None),
        make_meter(steady(), max_rounds=4),
        make_meter(steady(), max_battery_c=35.0),
        make_meter(steady(), settings=RunSettings(num_threads=4, fp16=True)),
    ]
    assert len({base, *(meter.fingerprint() for meter in others)}) == 7


def test_it_is_a_meter_with_a_name_for_people() -> None:
    meter = make_meter(steady())
    assert isinstance(meter, LatencyMeter)
    assert (meter.name, meter.serial, meter.runs_elsewhere) == ("Google Pixel 8:cpu:4-thread", "A1", True)
    half = RunSettings(num_threads=1, delegate="gpu", fp16=True)
    assert make_meter(steady(), settings=half).name == "Google Pixel 8:gpu-fp16:1-thread"


def test_a_network_that_cannot_be_removed_hides_no_other_error(caplog: pytest.LogCaptureFixture) -> None:
    bench = steady(C=chain([MeasurementError("no memory")], repeat(2.0)))

    def refuse(tflite: bytes) -> None:
        raise MeasurementError("permission denied")

    bench.remove = refuse  # type: ignore[method-assign]
    meter = make_meter(bench)
    with pytest.raises(MeasurementError, match="no memory"):
        meter.measure(b"C")
    assert "stays on the phone A1 for now: permission denied" in caplog.text
    with pytest.raises(MeasurementError, match="permission denied"):
        meter.measure(b"C")


def test_numbers_without_percentiles_are_paired_too() -> None:
    old = dataclasses.replace(result(2.0), median_ms=None, p5_ms=None, p95_ms=None)
    assert make_meter(steady(C=repeat(old))).measure(b"C").ratio == pytest.approx(2.1 / 4.0)
