"""The verb devices: list phones, how they are, and what to do about those that cannot be used."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from amc_tf.cli import console
from amc_tf.cli.meters import TRANSPORTS
from amc_tf.cli.text import align
from amc_tf.errors import MeasurementError, PhoneError

if TYPE_CHECKING:
    from amc_tf.device.discovery import ListedPhone
    from amc_tf.device.phone import Conditions, PhoneInfo

_HEADER = ("serial", "model", "SoC", "Android", "ABI", "cores", "temperature", "battery", "state")
_BYTES_PER_MB = 1e6


@dataclasses.dataclass(frozen=True)
class _Row:
    """A phone that was listed, and what it told if it is ready."""

    phone: ListedPhone
    info: PhoneInfo | None = None
    conditions: Conditions | None = None
    freed_bytes: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds which phones, and how they are reached."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument(
        "-s",
        "--serial",
        action="append",
        metavar="SERIAL",
        help="serial number or HOST:PORT of the only phone to show; may be given several times (default: all "
        "that are found, and that of $ANDROID_SERIAL)",
    )
    parser.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="auto",
        help="how phones are reached (default: %(default)s, the adb server where it knows the phone)",
    )
    parser.add_argument(
        "--clean",
        action="store_true",
        help="remove everything that amc-tf left on the phones shown, end what it still runs there, and free "
        "their clocks",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the phones; 1 if there is none, or one that was asked for by name cannot be used."""
    from amc_tf.device.discovery import NO_PHONE

    with tqdm(_listed(args), desc="ask", unit="phone", leave=False, disable=args.quiet or None) as bar:
        rows = [_ask(phone, clean=args.clean) for phone in bar]
    if not rows:
        raise PhoneError(NO_PHONE)
    if args.json:
        console.print_json({"phones": [_record(row) for row in rows]})
    else:
        _print(rows)
    asked_for = args.serial or [os.environ.get("ANDROID_SERIAL")]
    return 0 if all(row.phone.is_ready for row in rows if row.phone.serial in asked_for) else 1


def _listed(args: argparse.Namespace) -> tuple[ListedPhone, ...]:
    """Returns the phones to show: those asked for, else all that are found and that of $ANDROID_SERIAL."""
    from amc_tf.device.discovery import ListedPhone, best_transport, list_phones

    chosen = os.environ.get("ANDROID_SERIAL")
    found: tuple[ListedPhone, ...] = ()
    if not args.serial and not (chosen and args.transport == "tcp"):
        found = list_phones(args.transport)
    serials = args.serial or ([chosen] if chosen and chosen not in {phone.serial for phone in found} else [])
    is_auto = args.transport == "auto"
    return found + tuple(
        ListedPhone(serial, "ready", best_transport(serial) if is_auto else args.transport)
        for serial in dict.fromkeys(serials)
    )


def _ask(phone: ListedPhone, *, clean: bool) -> _Row:
    """Asks a phone that seems ready what it is and how it is."""
    from amc_tf.device.discovery import failed_phone, find_phone

    if not phone.is_ready:
        return _Row(phone)
    try:
        with find_phone(phone.serial, transport=phone.transport) as connected:
            row = _Row(phone, connected.info(), connected.conditions())
            if clean:
                from amc_tf.device.workbench import clean_phone

                row = dataclasses.replace(row, freed_bytes=clean_phone(connected))
            return row
    except MeasurementError as error:
        return _Row(failed_phone(phone, error))


def _print(rows: list[_Row]) -> None:
    print(align([_HEADER, *map(_cells, rows)], left=range(len(_HEADER))))
    for row in rows:
        if row.freed_bytes is not None:
            print(f"{row.phone.serial}: {row.freed_bytes / _BYTES_PER_MB:.1f} MB freed")
        if row.phone.advice:
            console.say(_advice(row.phone))


def _cells(row: _Row) -> tuple[str, ...]:
    info, conditions = row.info, row.conditions
    if info is None or conditions is None:
        return (row.phone.serial, *[""] * (len(_HEADER) - 2), row.phone.state)
    heat, charge = conditions.battery_c, conditions.battery_percent
    return (
        row.phone.serial,
        info.name,
        info.soc,
        info.android_version,
        info.abi,
        _cores(info),
        "" if heat is None else f"{heat:.1f} °C",
        "" if charge is None else f"{charge} %",
        f"throttling ({conditions.thermal_status})" if conditions.thermal_status else row.phone.state,
    )


def _advice(phone: ListedPhone) -> str:
    sentence = f"{phone.advice.rstrip('.')}."
    return sentence if phone.serial in sentence else f"{phone.serial}: {sentence}"


def _cores(info: PhoneInfo) -> str:
    """Returns the clusters, slowest first: "4×1.80 + 3×2.42 + 1×2.84 GHz"."""
    if not all(core.max_khz for core in info.cores):
        return str(len(info.cores))
    counts = [f"{len(cluster)}×{cluster[0].max_khz / 1e6:.2f}" for cluster in reversed(info.clusters)]
    return f"{' + '.join(counts)} GHz" if counts else ""


def _record(row: _Row) -> dict[str, Any]:
    return {
        **dataclasses.asdict(row.phone),
        "info": row.info and dataclasses.asdict(row.info),
        "conditions": row.conditions and dataclasses.asdict(row.conditions),
        "freed_bytes": row.freed_bytes,
    }
