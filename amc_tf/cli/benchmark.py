"""The verb benchmark: time a .tflite file on a phone or on this machine, and list what was timed before."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from amc_tf.cli import console, meters
from amc_tf.cli.text import align, percent
from amc_tf.cli.text import latency as latency_text
from amc_tf.errors import MeasurementError, ModelError, RunFolderError, SettingsError

if TYPE_CHECKING:
    from amc_tf.device.benchmark_profile import OperatorTime
    from amc_tf.device.latency import Latency
    from amc_tf.device.phone_meter import PhoneMeter
    from amc_tf.device.store import Measurement

_HISTORY = 20
_TFLITE_IDENTIFIER = b"TFL3"  # bytes 4 to 7 of every file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the files, where and how they are timed, and the history."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument("tflite", metavar="FILE", nargs="?", help="a .tflite file")
    parser.add_argument("--reference", metavar="FILE", help="a .tflite file to compare with, timed in turns")
    meters.add_device(parser)
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help=f"fewest timed runs, on a phone of each process (default: {meters.HOST_RUNS}, on a phone 50)",
    )
    parser.add_argument(
        "--profile", action="store_true", help="time each operator too, in a run of its own on the phone"
    )
    parser.add_argument(
        "--store", metavar="FILE", help="SQLite file of all measurements (default: one for this user)"
    )
    parser.add_argument(
        "--history",
        action="store_true",
        help="list stored measurements, latest first; with -s those that this phone took part in",
    )
    parser.add_argument(
        "--limit", type=int, default=_HISTORY, metavar="N", help="longest history (default: %(default)s)"
    )


def latency_record(latency: Latency) -> dict[str, float]:
    """Returns the numbers of a latency as results show them, in ms."""
    return {
        "median": latency.median_ms,
        "p5": latency.p5_ms,
        "p95": latency.p95_ms,
        "std": latency.std_ms,
    }


def run(args: argparse.Namespace) -> int:
    """Times the network and prints it, or prints the history."""
    if args.history:
        return _list(args)
    if args.tflite is None:
        args.usage_error("give a .tflite file, or --history")
    with console.stdout_for_results():
        measurement = _measure(args)
    result = _to_json(measurement, args)
    if args.json:
        console.print_json(result)
        return 0
    print(_describe(result))
    if measurement.profile:
        print(f"\n{_operator_table(measurement.profile)}\n\n{_kind_table(measurement.profile)}")
    return 0


def _measure(args: argparse.Namespace) -> Measurement:
    """Times and stores the network, whether or not it was timed before."""
    kind = meters.meter_kind(args)
    if kind == "host" and args.profile:
        args.usage_error("--profile needs a phone: give -s SERIAL or --meter phone")
    if args.runs is not None and args.runs < 1:
        raise SettingsError(f"--runs is {args.runs}: give 1 or more.")
    network = _read(args.tflite)
    reference = _read(args.reference) if args.reference else None
    from amc_tf.device.store import Measurement, MeasurementStore, utc_now

    with MeasurementStore(_store_file(args)) as store, meters.open_device(args, num_runs=args.runs) as meter:
        if kind == "phone":
            console.say(_announcement(args, meter.name), quiet=args.quiet)
        # First the profile, which the tool may not be able to take.
        profile = cast("PhoneMeter", meter).profile(network) if args.profile else ()
        beside = meter.with_reference(reference) if reference else meter
        measurement = Measurement(
            hashlib.sha256(network).hexdigest(),
            beside.fingerprint(),
            meter.name,
            beside.measure(network),
            utc_now(),
            network=_readable(args.tflite),
            profile=profile,
        )
        store.put(measurement)
    return measurement


def _announcement(args: argparse.Namespace, meter_name: str) -> str:
    """Tells, before a phone is silent for a while, what it does and how long that takes at least."""
    what = f"{args.tflite} beside {args.reference}" if args.reference else args.tflite
    least_s = 1.5 * args.run_seconds * args.rounds * (2 if args.reference else 1)
    time = f", {least_s:.0f} s or more" if least_s >= 1 else ""
    return f"Timing {what} on {meter_name}: {args.rounds} to {3 * args.rounds} rounds{time}."


def _store_file(args: argparse.Namespace) -> Path:
    if args.store:
        return Path(args.store)
    import platformdirs

    folder = Path(platformdirs.user_data_dir("amc-tf"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be made ({error.strerror}): name the file of measurements with --store."
        ) from error
    return folder / "measurements.sqlite"


def _read(name: str) -> bytes:
    path = Path(name)
    if not path.is_file():
        raise MeasurementError(f"There is no file {path}: give a .tflite file.")
    content = path.read_bytes()
    if content[4:8] != _TFLITE_IDENTIFIER:
        raise MeasurementError(f"{path} is no TFLite network; `amc-tf convert` makes one of a Keras model.")
    from amc_tf.device.operators import read_operators

    try:
        read_operators(content)
    except ModelError as error:
        raise MeasurementError(f"{path} is damaged: {error}") from error
    return content


def _readable(name: str) -> str:
    """Returns the name of a file as text that can be stored and shown whatever bytes it has."""
    text = os.fsencode(Path(name).name).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _to_json(measurement: Measurement, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "file": args.tflite,
        "reference": args.reference,
        "file_bytes": Path(args.tflite).stat().st_size,
        **_record(measurement),
    }


def _record(measurement: Measurement) -> dict[str, Any]:
    """Returns everything that is stored of a measurement, as JSON values."""
    latency, conditions = measurement.latency, dict(measurement.latency.conditions)
    return {
        "network": measurement.network,
        "sha256": measurement.sha256,
        "meter": measurement.meter,
        "created_at": measurement.created_at,
        "device": conditions.pop("device", None),
        "binary_sha256": conditions.pop("binary_sha256", None),
        "memory": conditions.pop("memory", None),
        "latency_ms": latency_record(latency),
        "noise": latency.noise,
        "num_runs": latency.num_runs,
        "raw_ms": list(latency.raw_ms),
        "reference_median_ms": latency.reference_median_ms,
        "reference_raw_ms": list(latency.reference_raw_ms),
        "speed_up": 1 / latency.ratio if latency.ratio else None,
        "conditions": conditions,
        "profile": [dataclasses.asdict(operator) for operator in measurement.profile],
    }


def _describe(result: Mapping[str, Any]) -> str:
    noise = "" if result["noise"] is None else f", noise {percent(result['noise'])}"
    lines = [
        f"{result['file']}: {latency_text(result['latency_ms'])}{noise}, {result['num_runs']} runs on "
        f"{result['meter']}, {result['file_bytes'] / 1000:.1f} kB"
    ]
    if result["speed_up"]:
        lines.append(
            f"{result['speed_up']:.2f} × as fast as {result['reference']} in the same rounds "
            f"({result['reference_median_ms']:.3f} ms)"
        )
    lines.append("; ".join(_conditions(result)))
    return "\n".join(filter(None, lines))


def _conditions(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a phone told of how it ran the network."""
    conditions, memory = result["conditions"], result["memory"] or {}
    if result["binary_sha256"]:
        yield f"benchmark_model {result['binary_sha256'][:12]}"
    if conditions.get("cores"):
        cores, mask = conditions["cores"], conditions.get("mask")
        is_heeded = mask in (None, *(given.split()[0] for given in cores))
        asked = "" if is_heeded else f" (asked for {_core_numbers(mask)})"
        yield f"ran on {' or '.join(map(_core_numbers, cores))}{asked}"
    battery = [conditions.get(when, {}).get("battery_c") for when in ("before", "after")]
    if None not in battery:
        yield f"battery {battery[0]:.1f} → {battery[1]:.1f} °C"
    for name, size_mb in memory.items():
        if size_mb is not None:
            yield f"{name.removesuffix('_mb')} memory {size_mb:.1f} MB"


def _core_numbers(given: str) -> str:
    """Writes "f0 MaxPerformance", a mask in hex and perhaps a task profile, with the numbers of the cores."""
    mask, *profile = given.split()
    bits = int(mask, 16)
    numbers = [str(number) for number in range(bits.bit_length()) if bits >> number & 1]
    cores = f"core{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
    return f"{cores} by Android's task profile {profile[0]}" if profile else cores


def _operator_table(profile: Sequence[OperatorTime]) -> str:
    """Returns the operators in the order they run; the time is that of all calls in one inference."""
    rows = [("operator", "name", "ms", "share")]
    for operator in profile:
        time_ms = operator.mean_ms * operator.times_called
        rows.append((operator.kind, operator.name, f"{time_ms:.3f}", percent(operator.share)))
    return align(rows, left=(0, 1))


def _kind_table(profile: Sequence[OperatorTime]) -> str:
    """Returns the kinds of operators, the one that takes longest first."""
    kinds: dict[str, list[OperatorTime]] = {}
    for operator in profile:
        kinds.setdefault(operator.kind, []).append(operator)
    rows = []
    for kind, members in kinds.items():
        time_ms = sum(operator.mean_ms * operator.times_called for operator in members)
        share = sum(operator.share for operator in members)
        rows.append((time_ms, (kind, str(len(members)), f"{time_ms:.3f}", percent(share))))
    ordered = [cells for _, cells in sorted(rows, reverse=True)]
    return align([("kind", "operators", "ms", "share"), *ordered])


def _history_table(measurements: Sequence[Measurement]) -> str:
    rows = [("time (UTC)", "network", "timed on", "median (p5–p95)", "noise", "profile")]
    for measurement in measurements:
        record = _record(measurement)
        rows.append(
            (
                measurement.created_at[:19].replace("T", " "),
                measurement.network or measurement.sha256[:12],
                measurement.meter,
                latency_text(record["latency_ms"]),
                "" if record["noise"] is None else percent(record["noise"]),
                "yes" if measurement.profile else "",
            )
        )
    return align(rows, left=(0, 1, 2))


def _list(args: argparse.Namespace) -> int:
    """Prints what is stored, latest first."""
    from amc_tf.device.store import MeasurementStore

    if args.tflite is not None:
        args.usage_error("--history lists all measurements: give no file")
    meters.check_untimed(args, remedy="leave out --history or the option")
    if len(args.serial or []) > 1:
        args.usage_error("--history lists all measurements or those of one phone: give one -s")
    if args.limit < 1:
        args.usage_error(f"--limit is {args.limit}: give 1 or more")
    path, (serial,) = _store_file(args), args.serial or [None]
    measurements: tuple[Measurement, ...] = ()
    if path.exists():
        with MeasurementStore(path) as store:
            measurements = store.list(serial=serial, newest_first=True, limit=args.limit)
    if args.json:
        console.print_json({"store": str(path), "measurements": [_record(m) for m in measurements]})
    elif measurements:
        print(_history_table(measurements))
    else:
        print(f"{path} holds no measurements {'yet' if serial is None else f'of the phone {serial}'}.")
    return 0
