"""The verb export: write what an Android application needs to run the networks of a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from amc_tf.cli import console
from amc_tf.cli.text import align

if TYPE_CHECKING:
    from amc_tf.android import AndroidExport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run folder, the folder to fill, and what the run may not tell."""
    parser.set_defaults(needs_keras=False)
    parser.add_argument("run_folder", metavar="RUN", help="folder that --out of compress or sparsify named")
    parser.add_argument(
        "--android",
        metavar="DIR",
        required=True,
        help="folder to fill: .tflite files with metadata, labels.txt, and Kotlin for the LiteRT Interpreter",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="names of the classes, one per line in the order of the outputs (default: as the run has them)",
    )
    parser.add_argument(
        "--input-range",
        metavar="RANGE",
        help="pixel values that the model takes, such as -1..1 or imagenet (default: as the run has it)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier export in that folder"
    )


def run(args: argparse.Namespace) -> int:
    """Exports and lists the files."""
    with console.stdout_for_results():
        from amc_tf.android import export_android, read_class_names

        export = export_android(
            args.run_folder,
            args.android,
            class_names=read_class_names(args.labels) if args.labels else None,
            input_range=args.input_range,
            overwrite=args.overwrite,
        )
    if args.json:
        console.print_json(export.to_json())
        return 0
    print(_table(export))
    if export.class_names is None:
        print("\nThe names of the classes are not known: the labels are their numbers. Give --labels FILE.")
    return 0


def _table(export: AndroidExport) -> str:
    """Returns a line for each file."""
    height, width, channels = export.image_size
    notes = [
        *(f"{precision} network with metadata" for precision in export.models),
        f"{export.num_classes} classes",
        f"Kotlin for {height}x{width}x{channels} images, input range {export.input_range}",
    ]
    rows = [(str(export.folder / name), note) for name, note in zip(export.files, notes, strict=True)]
    return align(rows, left=(0, 1))
