"""PhonePool: how phones of one model share rounds, and what becomes of those that drop out."""

import threading
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import pytest

from amc_tf.device.benchmark_profile import OperatorTime
from amc_tf.device.benchmark_run import RunSettings
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.phone_meter import PhoneMeter, PhoneTiming
from amc_tf.device.phone_pool import PhonePool
from amc_tf.errors import MeasurementError, PhoneError, SettingsError
from tests.fake_bench import COOL, FIXED_PERFORMANCE, FakeBench, FakePhone, conditions

TIMEOUT_S = 20.0


def bench_of(serial: str, **times_ms: Iterable[float | Exception]) -> FakeBench:
    """Returns a bench on which candidate C takes 2 ms and reference R 4 ms, unless told otherwise."""
    return FakeBench(FakePhone(serial), times_ms={"C": repeat(2.0), "R": repeat(4.0), **times_ms})


def meter_of(bench: FakeBench, **timing: Any) -> PhoneMeter:
    return PhoneMeter(
        bench,  # type: ignore[arg-type]  # all of a workbench that a meter uses
        RunSettings(),
        reference=b"R",
        timing=PhoneTiming(**timing),
    )


@pytest.fixture(name="pools")
def _pools() -> Iterator[list[PhonePool]]:
    """Pools that are closed at the end of the test."""
    pools: list[PhonePool] = []
    yield pools
    for pool in pools:
        pool.close()


def make_pool(pools: list[PhonePool], *benches: FakeBench, **timing: Any) -> PhonePool:
    pools.append(PhonePool([meter_of(bench, **timing) for bench in benches]))
    return pools[-1]


def together(*benches: FakeBench) -> None:
    """Has the first run of each phone wait until all of them run."""
    barrier = threading.Barrier(len(benches))
    for bench in benches:

        def meet(name: str, bench: FakeBench = bench) -> None:
            bench.on_run = lambda name: None
            barrier.wait(TIMEOUT_S)

        bench.on_run = meet


def test_phones_share_the_rounds_of_a_candidate(pools: list[PhonePool]) -> None:
    one, two = bench_of("A", C=repeat(1.9), R=repeat(3.8)), bench_of("B", C=repeat(2.1), R=repeat(4.2))
    together(one, two)
    latency = make_pool(pools, one, two, min_rounds=4).measure(b"C")
    assert latency.paired_ratio == pytest.approx(0.5)
    assert latency.reference_median_ms == pytest.approx(4.0)
    assert latency.median_ms == pytest.approx(2.0)
    assert len(latency.raw_ms) == 4
    assert set(latency.raw_ms) == {1.9, 2.1}
    assert one.order[:2] == two.order[:2] == "CR"
    assert one.placed == two.placed == {"R"}


def test_conditions_name_all_phones_and_tell_of_each(pools: list[PhonePool]) -> None:
    one, two = bench_of("A"), bench_of("B")
    together(one, two)
    told = make_pool(pools, one, two).measure(b"C").conditions
    assert told["device"]["serial"] == "A, B"
    assert [part["device"]["serial"] for part in told["phones"]] == ["A", "B"]
    assert told["rounds"] == sum(part["rounds"] for part in told["phones"]) == 3


def test_rounds_go_on_while_the_phones_disagree_up_to_the_most(pools: list[PhonePool]) -> None:
    one, two = bench_of("A", C=[2.0, 3.0] * 5), bench_of("B", C=[3.0, 2.0] * 5)
    together(one, two)
    latency = make_pool(pools, one, two, min_rounds=2, max_rounds=5).measure(b"C")
    assert len(latency.raw_ms) == 5
    assert latency.noise is not None and latency.noise > 0.3


def test_a_phone_that_drops_out_leaves_its_rounds_to_the_other_and_is_tried_again(
    pools: list[PhonePool], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = bench_of("A"), bench_of("B", R=chain([PhoneError("B is gone.")], repeat(4.0)))
    together(one, two)
    pool = make_pool(pools, one, two)
    latency = pool.measure(b"C")
    assert latency.raw_ms == (2.0, 2.0, 2.0)
    assert latency.conditions["device"]["serial"] == "A"
    assert "phones" not in latency.conditions
    assert "goes on without the phone B: B is gone." in caplog.text
    together(one, two)
    assert pool.measure(b"C").conditions["device"]["serial"] == "A, B"


def test_rounds_made_before_a_phone_dropped_out_count(pools: list[PhonePool]) -> None:
    one = bench_of("A")
    two = bench_of("B", C=chain([2.2], repeat(PhoneError("B is gone."))), R=repeat(4.4))
    b_is_gone = threading.Event()
    one.on_run = lambda name: one.order == "C" and b_is_gone.wait(TIMEOUT_S)
    two.on_run = lambda name: two.order == "CRRC" and b_is_gone.set()
    latency = make_pool(pools, one, two, min_rounds=4).measure(b"C")
    assert sorted(latency.raw_ms) == [2.0, 2.0, 2.0, 2.2]
    assert latency.paired_ratio == pytest.approx(0.5)


def test_nobody_waits_for_a_phone_that_reconnects(pools: list[PhonePool]) -> None:
    one, two = bench_of("A"), bench_of("B")
    back = threading.Event()
    place = two.place

    def reconnect(tflite: bytes) -> None:
        assert back.wait(TIMEOUT_S)
        place(tflite)

    two.place = reconnect  # type: ignore[method-assign]
    pool = make_pool(pools, one, two)
    assert pool.measure(b"C").conditions["device"]["serial"] == "A"
    assert pool.measure(b"C").conditions["device"]["serial"] == "A"
    back.set()
    pool.close()
    assert two.order == ""
    assert two.placed == set()


def test_nobody_waits_for_a_phone_that_cools_down(pools: list[PhonePool]) -> None:
    one, two = bench_of("A"), bench_of("B")
    two.phone.weather = [conditions(battery_c=45.0)]
    pool = make_pool(pools, one, two, poll_s=0.01)
    assert pool.measure(b"C").conditions["device"]["serial"] == "A"
    two.phone.weather = [COOL]
    pool.close()
    assert two.order == ""
    assert two.phone.events[-2:] == [f"{FIXED_PERFORMANCE} false", "remove C"]


def test_no_phone_left_is_an_error_with_the_reason_of_each(pools: list[PhonePool]) -> None:
    benches = [bench_of(serial, C=repeat(PhoneError(f"{serial} is gone."))) for serial in "AB"]
    together(*benches)
    with pytest.raises(PhoneError, match=r"None of the phones is left .*A is gone; B: B is gone"):
        make_pool(pools, *benches).measure(b"C")


def test_of_a_single_phone_the_error_is_its_own(pools: list[PhonePool]) -> None:
    pool = make_pool(pools, bench_of("A", C=[PhoneError("A is gone.")]))
    with pytest.raises(PhoneError, match=r"^A is gone\.$"):
        pool.measure(b"C")
    assert pool.name == "Google Pixel 8:cpu:1-thread"


def test_a_network_that_fails_on_one_phone_fails(pools: list[PhonePool]) -> None:
    one, two = bench_of("A"), bench_of("B", C=chain([MeasurementError("bad network")], repeat(2.0)))
    together(one, two)
    pool = make_pool(pools, one, two)
    with pytest.raises(MeasurementError, match="The candidate network cannot be timed .*bad network"):
        pool.measure(b"C")
    assert "C" not in one.placed | two.placed
    assert pool.measure(b"C").ratio == 0.5


def test_a_fault_of_the_program_is_raised_where_it_was_asked(pools: list[PhonePool]) -> None:
    with pytest.raises(ZeroDivisionError):
        make_pool(pools, bench_of("A", C=[ZeroDivisionError()])).measure(b"C")


def test_the_first_phone_that_can_makes_the_profile(pools: list[PhonePool]) -> None:
    operators = (OperatorTime("CONV_2D", "a", 1.0, None, 1.0, 0.0, 1),)
    gone = bench_of("A", C=repeat(PhoneError("A is gone.")))
    there = FakeBench(FakePhone("B"), times_ms={"C": repeat(3.0)}, profile=operators)
    pool = make_pool(pools, gone, there)
    assert [operator.mean_ms for operator in pool.profile(b"C")] == [3.0]
    with pytest.raises(PhoneError, match=r"^A is gone\.$"):
        make_pool(pools, bench_of("A", C=repeat(PhoneError("A is gone.")))).profile(b"C")


def test_with_reference_is_a_pool_of_the_same_phones(pools: list[PhonePool]) -> None:
    one, two = bench_of("A", S=repeat(8.0)), bench_of("B", S=repeat(8.0))
    pool = make_pool(pools, one, two).with_reference(b"S")
    together(one, two)
    assert pool.measure(b"C").ratio == 0.25
    assert pool.fingerprint() == meter_of(one).with_reference(b"S").fingerprint()


def test_it_is_a_meter_that_shares_measurements_with_a_single_phone(pools: list[PhonePool]) -> None:
    one = bench_of("A")
    pool = make_pool(pools, one, bench_of("B"))
    assert isinstance(pool, LatencyMeter)
    assert pool.fingerprint() == meter_of(one).fingerprint()
    assert (pool.name, pool.runs_elsewhere) == ("2 x Google Pixel 8:cpu:1-thread", True)


def test_close_closes_every_workbench() -> None:
    benches = [bench_of("A"), bench_of("B")]
    PhonePool([meter_of(bench) for bench in benches]).close()
    assert [bench.is_closed for bench in benches] == [True, True]


def test_different_models_are_refused_by_name() -> None:
    other = FakeBench(FakePhone("B", model="Pixel 6"), times_ms={})
    with pytest.raises(SettingsError, match=r"A \(Google Pixel 8.*B \(Google Pixel 6.* differ in .*model"):
        PhonePool([meter_of(bench_of("A")), meter_of(other)])


def test_different_settings_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="differ in timing; choose"):
        PhonePool([meter_of(bench_of("A")), meter_of(bench_of("B"), max_rounds=4)])


@pytest.mark.parametrize("serials", ["", "AA"])
def test_no_phone_and_one_phone_twice_are_refused(serials: str) -> None:
    with pytest.raises(SettingsError, match="one phone or more, each once"):
        PhonePool([meter_of(bench_of(serial)) for serial in serials])


def test_one_phone_by_two_names_is_refused() -> None:
    phones = [FakePhone("A", unit="1"), FakePhone("B", unit="2"), FakePhone("192.168.1.2:5555", unit="1")]
    with pytest.raises(SettingsError, match=r"A and 192\.168\.1\.2:5555 are one phone, reached in two ways"):
        PhonePool([meter_of(FakeBench(phone, times_ms={})) for phone in phones])
