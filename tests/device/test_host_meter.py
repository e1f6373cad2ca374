"""HostMeter: the order of runs and the stopping rules on a fake clock; loading on the real runtime."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

import pytest

from amc_tf.device.host_meter import HostMeter, Timing
from amc_tf.device.latency import LatencyMeter
from amc_tf.errors import MeasurementError, SettingsError

NO_WARMUP = {"warmup_runs": 0, "warmup_seconds": 0.0, "settle_runs": 0, "min_seconds": 0.0}


class FakeDevice:
    """A clock that only networks advance; each network is the list of its run times in milliseconds."""

    def __init__(self, **times_ms: Iterable[float]) -> None:
        self.now_ns = 0
        self.order = ""
        self.loads: list[tuple[bytes, int]] = []
        self._times: dict[str, Iterator[float]] = {
            name: chain(times, repeat(0.0)) for name, times in times_ms.items()
        }

    def clock_ns(self) -> int:
        return self.now_ns

    def load(self, tflite: bytes, num_threads: int) -> Callable[[], None]:
        self.loads.append((tflite, num_threads))
        name = tflite.decode()

        def invoke() -> None:
            self.order += name
            self.now_ns += round(next(self._times[name]) * 1e6)

        return invoke


def fake_meter(
    device: FakeDevice, reference: bytes | None = b"R", num_runs: int = 1, **timing: float
) -> HostMeter:
    settings = Timing(**{**NO_WARMUP, **timing})  # type: ignore[arg-type]
    return HostMeter(
        reference, num_runs=num_runs, timing=settings, load=device.load, clock_ns=device.clock_ns
    )


def test_candidate_and_reference_take_turns_in_blocks_that_change_sides() -> None:
    device = FakeDevice(C=repeat(1.0), R=repeat(2.0))
    latency = fake_meter(device, num_runs=6, block_runs=2).measure(b"C")
    assert device.order == "CCRR" + "RRCC" + "CCRR"
    assert latency.raw_ms == (1.0,) * 6
    assert (latency.reference_median_ms, latency.ratio) == (2.0, 0.5)


def test_settling_runs_are_made_but_not_timed() -> None:
    device = FakeDevice(C=chain([9.0, 1.0, 1.0, 9.0], repeat(1.0)), R=repeat(2.0))
    latency = fake_meter(device, num_runs=4, block_runs=2, settle_runs=1).measure(b"C")
    assert device.order == "CCCRRR" + "RRRCCC"
    assert latency.raw_ms == (1.0,) * 4


def test_warm_up_lasts_for_its_runs_and_its_seconds() -> None:
    device = FakeDevice(C=repeat(10.0))
    fake_meter(device, None, block_runs=1, warmup_runs=3, warmup_seconds=0.01).measure(b"C")
    assert device.order == "C" * (3 + 2)
    device = FakeDevice(C=repeat(10.0))
    fake_meter(device, None, block_runs=1, warmup_runs=3, warmup_seconds=0.07).measure(b"C")
    assert device.order == "C" * (7 + 2)


def test_a_device_that_slows_down_halfway_changes_the_times_but_not_the_paired_ratio() -> None:
    device = FakeDevice(C=chain([1.0] * 6, repeat(3.0)), R=chain([2.0] * 6, repeat(6.0)))
    latency = fake_meter(device, num_runs=10, block_runs=2, max_spread=10.0).measure(b"C")
    assert latency.num_runs == 10
    assert set(latency.raw_ms) == {1.0, 3.0}
    assert latency.paired_ratio == 0.5
    assert latency.noise == 0.0


def test_a_machine_that_sleeps_during_one_run_changes_neither_times_nor_ratio() -> None:
    hour_ms = 3_600_000.0
    device = FakeDevice(C=chain([1.0] * 5, [hour_ms], repeat(1.0)), R=repeat(2.0))
    latency = fake_meter(device, num_runs=9, block_runs=3).measure(b"C")
    assert (latency.median_ms, latency.reference_median_ms, latency.ratio) == (1.0, 2.0, 0.5)
    assert latency.raw_ms.count(hour_ms) == 1


def test_a_clock_that_runs_backwards_is_not_believed() -> None:
    device = FakeDevice(C=chain([5.0] * 3, [-1.0], repeat(5.0)))
    with pytest.raises(MeasurementError, match="clock cannot be trusted"):
        fake_meter(device, None, num_runs=4, block_runs=2).measure(b"C")


def test_noise_is_the_spread_of_the_rounds_and_both_series_are_kept() -> None:
    device = FakeDevice(C=chain([1.0, 1.1, 1.2], repeat(1.0)), R=repeat(2.0))
    latency = fake_meter(device, num_runs=3, block_runs=1).measure(b"C")
    assert latency.reference_raw_ms == (2.0, 2.0, 2.0)
    assert latency.noise == pytest.approx((0.575 - 0.525) / 0.55)
    alone = fake_meter(FakeDevice(C=chain([1.0, 1.1, 1.2], repeat(1.0))), None, num_runs=3, block_runs=1)
    assert alone.measure(b"C").noise == pytest.approx(0.1 / 1.1)


def test_rounds_go_on_while_the_spread_is_large_and_stop_when_it_is_small() -> None:
    device = FakeDevice(C=chain([1.0, 2.0, 3.0, 4.0], repeat(2.5)))
    latency = fake_meter(device, None, num_runs=4, block_runs=2, max_spread=0.1).measure(b"C")
    assert latency.raw_ms[:4] == (1.0, 2.0, 3.0, 4.0)
    assert latency.spread <= 0.1
    assert latency.num_runs == 8


def test_an_unsteady_network_stops_at_max_seconds() -> None:
    device = FakeDevice(C=chain.from_iterable(repeat((10.0, 90.0))))
    latency = fake_meter(device, None, block_runs=2, max_seconds=1.0).measure(b"C")
    assert latency.num_runs == 20
    assert latency.spread > 0.1


def test_a_slow_network_still_gets_two_rounds() -> None:
    device = FakeDevice(C=repeat(5000.0), R=repeat(9000.0))
    latency = fake_meter(device, num_runs=50, block_runs=1, max_seconds=1.0).measure(b"C")
    assert device.order == "CRRC"
    assert latency.num_runs == 2


def test_min_seconds_adds_rounds() -> None:
    device = FakeDevice(C=repeat(1.0), R=repeat(1.0))
    assert fake_meter(device, block_runs=5, min_seconds=0.1).measure(b"C").num_runs == 50


def test_the_reference_is_loaded_once_for_all_candidates() -> None:
    device = FakeDevice(C=repeat(1.0), D=repeat(1.0), R=repeat(2.0))
    meter = fake_meter(device)
    meter.measure(b"C")
    meter.measure(b"D")
    assert device.loads == [(b"R", 1), (b"C", 1), (b"D", 1)]


def test_no_reference_gives_no_ratio() -> None:
    latency = fake_meter(FakeDevice(C=repeat(1.0)), None).measure(b"C")
    assert (latency.ratio, latency.reference_median_ms) == (None, None)


def test_fingerprint_is_stable_and_changes_with_everything_that_is_measured() -> None:
    device = FakeDevice(R=repeat(1.0), S=repeat(1.0))
    options = {"load": device.load, "clock_ns": device.clock_ns}
    quick = Timing(**NO_WARMUP)  # type: ignore[arg-type]
    meters = [
        HostMeter(None, timing=quick, **options),
        HostMeter(b"R", timing=quick, **options),
        HostMeter(b"S", timing=quick, **options),
        HostMeter(None, num_threads=2, timing=quick, **options),
        HostMeter(None, num_runs=7, timing=quick, **options),
        HostMeter(None, timing=Timing(), **options),
    ]
    prints = [meter.fingerprint() for meter in meters]
    assert len(set(prints)) == len(prints)
    assert HostMeter(b"R", timing=quick, **options).fingerprint() == prints[1]
    facts = json.loads(prints[0])
    assert facts["cpu"]
    assert facts["runtime"].startswith("ai-edge-litert ")
    assert "\n" not in prints[0]


def test_meter_is_named_after_its_threads_and_meets_the_protocol() -> None:
    assert HostMeter(num_threads=2).name == "host:2-thread"
    assert isinstance(HostMeter(), LatencyMeter)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True, "2"])
def test_unusable_thread_counts_are_refused(num_threads: object) -> None:
    with pytest.raises(SettingsError, match="num_threads must be an integer of 1 or more"):
        HostMeter(num_threads=num_threads)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("warmup_runs", -1),
        ("block_runs", 0),
        ("settle_runs", 1.5),
        ("warmup_seconds", -0.1),
        ("min_seconds", float("nan")),
        ("max_spread", -1),
        ("max_seconds", 0.01),
    ],
)
def test_settings_outside_their_range_are_named(setting: str, value: float) -> None:
    with pytest.raises(SettingsError, match=setting):
        Timing(**{setting: value})  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="num_runs"):
        HostMeter(num_runs=0)


@pytest.mark.parametrize(
    ("tflite", "words"),
    [
        (b"", r"candidate network .*is empty \(0 bytes\)"),
        (b"not a network at all", r"no TFLite network: bytes 4 to 7 are b'a ne'"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(50), r"does not load: .*schema version 0"),
        (b"\xff\xff\xff\xffTFL3" + bytes(50), r"does not load: .*not a valid Flatbuffer"),
        ("model.tflite", r"Expected the bytes of a .tflite file, but got str"),
    ],
)
def test_damaged_networks_are_measurement_errors_that_say_what_is_wrong(tflite: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        HostMeter().measure(tflite)


def test_a_damaged_reference_fails_at_construction() -> None:
    with pytest.raises(MeasurementError, match=r"reference network .* is empty"):
        HostMeter(b"")


def test_a_network_that_fails_while_running_is_a_measurement_error() -> None:
    def load(tflite: bytes, num_threads: int) -> Callable[[], None]:
        def invoke() -> None:
            raise RuntimeError("node 3 failed to invoke")

        return invoke

    with pytest.raises(MeasurementError, match="node 3 failed to invoke"):
        HostMeter(load=load).measure(b"C")
