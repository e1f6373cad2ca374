"""The verb convert: write a model as TFLite and check the file against it."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from amc_tf.cli import console, meters, options
from amc_tf.cli.text import align, percent, untimed
from amc_tf.cli.text import latency as latency_text
from amc_tf.errors import SettingsError

if TYPE_CHECKING:
    from amc_tf.data import DataSplit
    from amc_tf.device.convert import Agreement
    from amc_tf.settings import FinetuneSettings

_NUM_CALIBRATION_IMAGES = 100
_NUM_VERIFICATION_IMAGES = 64
_NUM_RANDOM_IMAGES = 8
# Networks of an int8 conversion: key in the JSON result, name in the table.
_NAMES = {"float32": "float32", "int8": "int8", "int8_qat": "int8, trained"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, precision, output, data, and what goes with int8."""
    options.add_model(parser)
    parser.add_argument(
        "--precision",
        default="float32",
        metavar="NAME",
        help="float32, float16, dynamic or int8 (default: %(default)s); int8 needs --data",
    )
    options.add_output_file(parser, "the .tflite file to write")
    options.add_data(parser, required=False)
    options.add_seed(parser)
    options.add_quantization(parser)
    meters.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Converts, verifies, writes, and prints how well both agree; int8 networks are measured, too."""
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".tflite",))
        training = _check(args)
        from amc_tf.model_file import load_model
        from amc_tf.run_folder import write_atomically

        # A phone that is not there is told of before a training, not after it.
        with _open_meter(args) as meter:
            model = load_model(args.model)
            if args.precision == "int8":
                chosen, tflite, agreement, results = _quantize(model, args, training, meter)
            else:
                chosen, results = args.precision, {}
                tflite, agreement = _convert(model, args)
        write_atomically(path, lambda file: file.write(tflite))
    if args.json:
        measured = {"networks": results, "written": chosen} if results else {}
        console.print_json({"tflite": str(path), "bytes": len(tflite), **agreement.to_json(), **measured})
        return 0
    source = "validation images" if args.data else "random images"
    print(f"{path}: {_NAMES.get(chosen, chosen)}, {len(tflite) / 1000:.1f} kB")
    agreed = f"top-1 agrees in {percent(agreement.top1_agreement)} of {agreement.num_images} {source}"
    print(f"{agreed}, largest error {agreement.max_abs_error:.2g}")
    if results:
        print(f"\n{_table(results)}")
    return 0


def _check(args: argparse.Namespace) -> FinetuneSettings | None:
    """Checks the options before any work is done; returns the settings of a training, if there is one.

    Raises:
        SettingsError: A value is outside its range, or options do not go together.
    """
    from amc_tf.device.convert import PRECISIONS

    if args.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise SettingsError(f"There is no precision {args.precision!r}; choose one of {known}.")
    if args.precision == "int8" and not args.data:
        raise SettingsError("int8 needs typical images for the ranges of its numbers: give --data.")
    if not args.meter and not args.serial:
        meters.check_untimed(args, remedy="give --meter or -s too")
    training = options.qat_settings(args)
    for option, is_given in (("--qat-epochs", training), ("--meter", args.meter or args.serial)):
        if is_given and args.precision != "int8":
            raise SettingsError(f"{option} is about int8 networks: give --precision int8 too.")
    if args.meter == "gpu":
        raise SettingsError("--meter gpu times no int8 networks: give --meter phone or --meter host.")
    return training


def _open_meter(args: argparse.Namespace) -> Any:
    """Opens what times the networks; without --meter and -s nothing does."""
    return meters.open_device(args) if args.meter or args.serial else contextlib.nullcontext()


def _convert(model: Any, args: argparse.Namespace) -> tuple[bytes, Agreement]:
    """Converts to a precision without calibration, and compares on validation or random images."""
    from amc_tf.data import to_input_range
    from amc_tf.device.convert import to_tflite, verify
    from amc_tf.model_file import image_size_of

    tflite = to_tflite(model, precision=args.precision, input_shape=image_size_of(model))
    if args.data:
        pixels = options.load_images(model, args)[1].images[:_NUM_VERIFICATION_IMAGES]
    else:
        pixels = np.random.default_rng(args.seed).integers(
            0, 256, (_NUM_RANDOM_IMAGES, *image_size_of(model)), dtype=np.uint8
        )
    images = to_input_range(pixels, args.input_range)
    return tflite, verify(tflite, _predictor(model), images, precision=args.precision)


def _quantize(
    model: Any, args: argparse.Namespace, training: FinetuneSettings | None, meter: Any
) -> tuple[str, bytes, Agreement, dict[str, Any]]:
    """Makes the int8 network, by training too where that was asked for, and measures it beside float32.

    Returns:
        Which network is to be written, of two the one that is right more often on images held out of the
        training; its bytes; how it agrees with the network that it was converted from; results of all.
    """
    from amc_tf.data import split_data, to_input_range
    from amc_tf.device.convert import to_tflite, verify
    from amc_tf.model_file import image_size_of
    from amc_tf.quantize import most_accurate

    split = split_data(
        *options.load_images(model, args),
        num_calibration=_NUM_CALIBRATION_IMAGES,
        num_search=options.SEARCH.num_search_images if training else 1,
        seed=args.seed,
    )
    calibration = to_input_range(split.calibration.images, args.input_range)
    networks = {
        "int8": to_tflite(
            model,
            precision="int8",
            calibration_images=calibration,
            input_shape=image_size_of(model),
        )
    }
    sources = {"int8": model}
    if training is not None:
        sources["int8_qat"], networks["int8_qat"] = _train(model, args, training, split)
    chosen = most_accurate(networks, split.search, input_range=args.input_range)
    images = to_input_range(split.test.images[:_NUM_VERIFICATION_IMAGES], args.input_range)
    agreement = verify(networks[chosen], _predictor(sources[chosen]), images, precision="int8")
    return chosen, networks[chosen], agreement, _measure(model, networks, args, split, meter)


def _train(
    model: Any, args: argparse.Namespace, training: FinetuneSettings, split: DataSplit
) -> tuple[Any, bytes]:
    """Trains for int8; returns the trained Keras network and the int8 network."""
    from amc_tf.quantize import quantize_aware

    progress = console.make_progress(quiet=args.quiet)
    progress.stage("quantize")
    result = quantize_aware(
        model,
        split.train,
        split.search,
        settings=training,
        input_range=args.input_range,
        teacher=model,
        on_epoch=lambda record: progress.epoch(record.epoch, training.epochs, record.top1),
    )
    progress.stage("report")
    return result.finetuned.model, result.tflite


def _measure(
    model: Any, networks: Mapping[str, bytes], args: argparse.Namespace, split: DataSplit, meter: Any
) -> dict[str, Any]:
    """Returns the results of the float32 network and of the int8 ones, timed beside it with a meter."""
    from amc_tf.device.convert import to_tflite
    from amc_tf.graph import count_cost
    from amc_tf.model_file import image_size_of
    from amc_tf.results import ResultMeasurer

    cost, reference = count_cost(model), to_tflite(model, input_shape=image_size_of(model))
    measurer = ResultMeasurer(split.test, input_range=args.input_range, meter=meter)
    results = {"float32": measurer.measure_model(model, reference, cost=cost, reference=reference)}
    for name, tflite in networks.items():
        results[name] = measurer.measure_tflite(tflite, cost=cost, reference=reference)
    return {name: result.to_json() for name, result in results.items()}


def _table(results: Mapping[str, Any]) -> str:
    """Returns the results as lines; times are compared with the float32 network's."""
    base = results["float32"]["latency_ms"]
    rows = [["", "top-1", "top-5", "file", *(["latency (p5–p95)", "speed-up"] if base else [])]]
    for name, result in results.items():
        time = result["latency_ms"]
        timed = [latency_text(time), f"{base['median'] / time['median']:.2f} ×"] if time else ["", ""]
        size = f"{result['tflite_bytes'] / 1000:.1f} kB"
        row = [_NAMES[name], percent(result["top1"]), percent(result["top5"]), size, *timed]
        rows.append(row[: len(rows[0])])
    return align(rows) + untimed({_NAMES[name]: result for name, result in results.items()})


def _predictor(model: Any) -> Any:
    return lambda batch: np.asarray(model(batch, training=False))
