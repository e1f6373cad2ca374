"""What times networks: options that choose phone, machine, GPU or table, and the meter made of them."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from amc_tf.cli import console, options
from amc_tf.errors import SettingsError

if TYPE_CHECKING:
    from amc_tf.device.gpu_meter import GpuMeter
    from amc_tf.device.latency import LatencyMeter
    from amc_tf.device.phone_meter import PhoneMeter
    from amc_tf.device.phone_pool import PhonePool
    from amc_tf.device.table import LatencyTable

_METERS = "host, gpu, phone, table:FILE or none"
HOST_RUNS = 200
TRANSPORTS = ("auto", "server", "tcp", "usb")
DELEGATES = ("cpu", "gpu", "nnapi")
_TABLE = "table:"
_MAX_RUN_SECONDS = 150.0  # no run of the tool goes on for longer
# Options that only a phone heeds, by the name of their value, and the value that they have when not given.
_PHONE_OPTIONS = {
    "serial": None,
    "transport": "auto",
    "benchmark_binary": None,
    "delegate": "cpu",
    "fp16": False,
    "rounds": 3,
    "run_seconds": 1.0,
}


def add_meter(parser: argparse.ArgumentParser) -> None:
    """Adds what times networks: a phone, this machine, its GPU, a table, or nothing."""
    parser.add_argument(
        "--meter",
        type=_meter,
        metavar="METER",
        help=f"what times networks: {_METERS} (default: phone where -s is given, else host)",
    )
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="latency table of the phone: it steers a search, and learns from what the phone measures",
    )
    options.add_threads(parser)
    _add_batch(parser)
    add_phone(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds a phone, this machine or its GPU, for commands that do nothing but time."""
    parser.set_defaults(table=None)
    parser.add_argument(
        "--meter",
        choices=("phone", "host", "gpu"),
        help="what times networks, a phone, this machine or its GPU (default: phone where -s is given, else "
        "host)",
    )
    options.add_threads(parser)
    _add_batch(parser)
    add_phone(parser)


def add_phone(parser: argparse.ArgumentParser) -> None:
    """Adds which phone, how it is reached, and how it runs a network; threads are added apart."""
    parser.add_argument(
        "-s",
        "--serial",
        action="append",
        metavar="SERIAL",
        help="serial number or HOST:PORT of the phone (default with --meter phone: $ANDROID_SERIAL, else the "
        "only one); several phones of one model, each with its -s, share the work",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default=_PHONE_OPTIONS["transport"],
        help="how the phone is reached (default: %(default)s, the adb server where it knows the phone)",
    )
    parser.add_argument(
        "--benchmark-binary",
        metavar="FILE",
        help="benchmark_model for the phone's ABI (default: the official one, downloaded once)",
    )
    parser.add_argument(
        "--delegate",
        choices=DELEGATES,
        default=_PHONE_OPTIONS["delegate"],
        help="what runs the network on the phone (default: %(default)s, which is XNNPACK)",
    )
    parser.add_argument("--fp16", action="store_true", help="let the phone compute in half precision")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=_PHONE_OPTIONS["rounds"],
        help="fewest times that the phone runs a network beside the original, and a third of the most "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--run-seconds",
        type=float,
        metavar="S",
        default=_PHONE_OPTIONS["run_seconds"],
        help="shortest time of one run on the phone, after half as long to warm up (default: %(default)s)",
    )


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images of one run on the GPU; times are those of the whole batch (default: 1)",
    )


def meter_kind(args: argparse.Namespace) -> str:
    """Returns what times networks, "host", "gpu", "phone", "table" or "none", after checking the options.

    Raises:
        SystemExit: With 2 where an option was given that the meter does not heed.
        SettingsError: A value is outside its range, or a phone is given twice.
        RunFolderError: The table to learn has no folder.
    """
    kind = (args.meter or ("phone" if args.serial else "host")).partition(":")[0]
    given = [name for name, default in _PHONE_OPTIONS.items() if getattr(args, name) != default]
    if kind != "phone" and given:
        option = f"--{given[0].replace('_', '-')}"
        args.usage_error(f"{option} is about a phone, but networks are timed by {kind}: give --meter phone.")
    if kind not in ("host", "phone") and args.threads != 1:
        args.usage_error(f"--threads is about a processor, but networks are timed by {kind}.")
    if kind != "gpu" and args.batch is not None:
        args.usage_error(f"--batch is about a GPU, but networks are timed by {kind}: give --meter gpu.")
    if kind != "phone" and args.table:
        args.usage_error(f"--table goes with --meter phone; to do without one, give --meter {_TABLE}FILE.")
    _check_values(args)
    if args.table:
        console.check_output(args.table, overwrite=True, suffixes=(".json",))
    return kind


def check_untimed(args: argparse.Namespace, *, remedy: str) -> None:
    """Refuses options that tell how networks are timed, but not -s, in a command that times none.

    Args:
        args: Values of the options of `add_device`.
        remedy: What the user may do instead: "give --meter too".

    Raises:
        SystemExit: With 2 where one was given.
    """
    for name, default in {**_PHONE_OPTIONS, "threads": 1, "batch": None}.items():
        if name != "serial" and getattr(args, name) != default:
            option = f"--{name.replace('_', '-')}"
            args.usage_error(f"{option} is about timing, but no network is timed: {remedy}")


def _check_values(args: argparse.Namespace) -> None:
    """Refuses values that no meter can use, in the words of the options that they were given with."""
    for name in ("threads", "rounds"):
        if getattr(args, name) < 1:
            raise SettingsError(f"--{name} is {getattr(args, name)}: give 1 or more.")
    if not 0 <= args.run_seconds <= _MAX_RUN_SECONDS:
        raise SettingsError(f"--run-seconds is {args.run_seconds:g}: give 0 to {_MAX_RUN_SECONDS:g}.")
    if args.batch is not None and args.batch < 1:
        raise SettingsError(f"--batch is {args.batch}: give 1 or more.")
    serials = args.serial or []
    twice = sorted({serial for serial in serials if serials.count(serial) > 1})
    if twice:
        raise SettingsError(f"-s {twice[0]} is given twice: give each phone once.")


@contextlib.contextmanager
def open_meter(args: argparse.Namespace) -> Iterator[tuple[LatencyMeter | None, LatencyTable | None]]:
    """Opens what the options of `add_meter` chose, and closes it again; the phone is left as it was.

    Args:
        args: Values of the options of `add_meter`.

    Yields:
        The meter, None for `--meter none`; and the table that the options name, or None.

    Raises:
        SystemExit: With 2 where an option was given that the meter does not heed.
        SettingsError: A value is outside its range.
        PhoneError: There is no phone, there are several and none was chosen, or it cannot be reached.
        MeasurementError: There is no GPU or no tool for the phone, or the table cannot be read.
    """
    kind = meter_kind(args)
    if kind == "phone":
        with open_phones(args) as meter:
            yield _learning(meter, args.table) if args.table else (meter, None)
    elif kind == "table":
        from amc_tf.device.table import LatencyTable, TableMeter

        table = LatencyTable.load(args.meter.removeprefix(_TABLE))
        yield TableMeter(table), table
    elif kind == "host":
        from amc_tf.device.host_meter import HostMeter

        yield HostMeter(num_threads=args.threads), None
    elif kind == "gpu":
        yield _open_gpu(args), None
    else:
        yield None, None


@contextlib.contextmanager
def open_device(args: argparse.Namespace, *, num_runs: int | None = None) -> Iterator[LatencyMeter]:
    """Opens what the options of `add_device` chose, and closes it again; the phone is left as it was.

    Args:
        args: Values of these options.
        num_runs: Fewest timed runs, on a phone of each process; None for what is usual there.

    Raises:
        SystemExit: With 2 where an option was given that the meter does not heed.
        SettingsError: A value is outside its range.
        PhoneError: There is no phone, there are several and none was chosen, or it cannot be reached.
        MeasurementError: There is no GPU, or no tool for the phone.
    """
    kind, runs = meter_kind(args), HOST_RUNS if num_runs is None else num_runs
    if kind == "phone":
        with open_phones(args, num_runs=num_runs) as meter:
            yield meter
    elif kind == "gpu":
        yield _open_gpu(args, num_runs=runs)
    else:
        from amc_tf.device.host_meter import HostMeter

        yield HostMeter(num_threads=args.threads, num_runs=runs)


def _open_gpu(args: argparse.Namespace, *, num_runs: int | None = None) -> GpuMeter:
    """Opens the GPU, and loads TensorFlow as quietly as commands do that need it anyway."""
    console.prepare(debug=args.debug, needs_keras=True)
    from amc_tf.device.gpu_meter import GpuMeter

    batch_size = args.batch or 1
    return (
        GpuMeter(batch_size=batch_size)
        if num_runs is None
        else GpuMeter(batch_size=batch_size, num_runs=num_runs)
    )


def _learning(meter: LatencyMeter, path: str) -> tuple[LatencyMeter, LatencyTable | None]:
    """Returns a meter that teaches a table, and the table as it is, None if it knows nothing yet."""
    from amc_tf.device.table_learning import LearningMeter

    learning = LearningMeter(meter, path)
    return learning, learning.table if learning.table.samples else None


@contextlib.contextmanager
def open_phones(args: argparse.Namespace, *, num_runs: int | None = None) -> Iterator[PhoneMeter | PhonePool]:
    """Opens the phone, or several as one, that the options of `add_phone` and `add_threads` chose.

    Args:
        args: Values of these options.
        num_runs: Fewest timed runs of each process, where that was asked for.

    Yields:
        The meter; nothing but the benchmark binary is left on a phone when it is closed.

    Raises:
        SettingsError: A value is outside its range.
        PhoneError: There is no phone, there are several and none was chosen, or it cannot be reached.
        MeasurementError: There is no tool for the phone.
    """
    from amc_tf.device.benchmark_run import RunSettings
    from amc_tf.device.phone_meter import PhoneMeter, PhoneTiming
    from amc_tf.device.phone_pool import PhonePool

    settings = RunSettings(
        num_threads=args.threads,
        delegate=args.delegate,
        fp16=args.fp16,
        num_runs=RunSettings.num_runs if num_runs is None else num_runs,
        min_seconds=args.run_seconds,
        warmup_seconds=args.run_seconds / 2,
    )
    timing = PhoneTiming(min_rounds=args.rounds, max_rounds=3 * args.rounds)
    with contextlib.ExitStack() as stack:
        meters = [
            stack.enter_context(
                PhoneMeter.open(
                    serial,
                    transport=args.transport,
                    binary=args.benchmark_binary,
                    settings=settings,
                    timing=timing,
                    on_cool_down=console.make_cool_down(quiet=args.quiet),
                )
            )
            for serial in args.serial or [None]
        ]
        if len(meters) == 1:
            yield meters[0]
        else:
            yield stack.enter_context(contextlib.closing(PhonePool(meters)))


def _meter(text: str) -> str:
    """Checks a value of --meter."""
    if text in ("host", "gpu", "phone", "none") or text.removeprefix(_TABLE) not in ("", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no meter; choose {_METERS}")
