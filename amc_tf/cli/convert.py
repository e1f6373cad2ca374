"""The verb convert: write a model as TFLite and check the file against it."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amc_tf.cli import console, options
from amc_tf.cli.text import percent
from amc_tf.errors import SettingsError

_NUM_CALIBRATION_IMAGES = 100
_NUM_VERIFICATION_IMAGES = 64
_NUM_RANDOM_IMAGES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds model, precision, output and data."""
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


def run(args: argparse.Namespace) -> int:
    """Converts, verifies, writes, and prints how well both agree."""
    with console.stdout_for_results():
        path = console.check_output(args.out, overwrite=args.overwrite, suffixes=(".tflite",))
        from amc_tf.device.convert import PRECISIONS, to_tflite, verify
        from amc_tf.model_file import image_size_of, load_model
        from amc_tf.run_folder import write_atomically

        if args.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise SettingsError(f"There is no precision {args.precision!r}; choose one of {known}.")
        if args.precision == "int8" and not args.data:
            raise SettingsError("int8 needs typical images for the ranges of its numbers: give --data.")
        model = load_model(args.model)
        calibration, images, source = _images(model, args)
        tflite = to_tflite(
            model,
            precision=args.precision,
            calibration_images=calibration if args.precision == "int8" else None,
            input_shape=image_size_of(model),
        )
        agreement = verify(
            tflite, lambda batch: np.asarray(model(batch, training=False)), images, precision=args.precision
        )
        write_atomically(path, lambda file: file.write(tflite))
    if args.json:
        console.print_json({"tflite": str(path), "bytes": len(tflite), **agreement.to_json()})
        return 0
    agreed = f"top-1 agrees in {percent(agreement.top1_agreement)} of {agreement.num_images} {source}"
    print(f"{path}: {args.precision}, {len(tflite) / 1000:.1f} kB")
    print(f"{agreed}, largest error {agreement.max_abs_error:.2g}")
    return 0


def _images(
    model: Any, args: argparse.Namespace
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], str]:
    """Returns images to calibrate and to verify with in the model's range, and what the latter are."""
    from amc_tf.data import to_input_range
    from amc_tf.model_file import image_size_of

    if not args.data:
        pixels = np.random.default_rng(args.seed).integers(
            0, 256, (_NUM_RANDOM_IMAGES, *image_size_of(model)), dtype=np.uint8
        )
        return None, to_input_range(pixels, args.input_range), "random images"
    train, validation = options.load_images(model, args)
    order = np.random.default_rng(args.seed).permutation(len(train))[:_NUM_CALIBRATION_IMAGES]
    return (
        to_input_range(train.images[np.sort(order)], args.input_range),
        to_input_range(validation.images[:_NUM_VERIFICATION_IMAGES], args.input_range),
        "validation images",
    )
