"""Hands the networks of a run over to an Android application: metadata, labels, Kotlin that runs them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from amc_tf import __version__
from amc_tf.device.litert import load_interpreter
from amc_tf.device.model_metadata import (
    LABELS_FILE,
    ClassifierMetadata,
    ClassifierShape,
    add_metadata,
    label_lines,
    read_shape,
)
from amc_tf.errors import DataError, ModelError, RunFolderError, SettingsError
from amc_tf.image_data import INPUT_RANGES, format_size, pixel_statistics
from amc_tf.run_folder import clear_errors, write_atomically
from amc_tf.run_record import is_number, read_summary

KOTLIN_FILE = "ImageClassifier.kt"
_MODEL_FILES = {"float32": "model_float32.tflite", "int8": "model_int8.tflite"}


@dataclasses.dataclass(frozen=True)
class AndroidExport:
    """What was written for an Android application.

    Attributes:
        folder: where the files are.
        models: name of the network of each precision, "float32" and, where the run has one, "int8".
        image_size: (height, width, channels) that the networks take.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        class_names: names of the classes; None if they are not known, and the labels are their numbers.
        num_classes: how many there are.
    """

    folder: Path
    models: Mapping[str, str]
    image_size: tuple[int, int, int]
    input_range: str
    class_names: tuple[str, ...] | None
    num_classes: int

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files, the networks first."""
        return (*self.models.values(), LABELS_FILE, KOTLIN_FILE)

    @property
    def labels(self) -> tuple[str, ...]:
        """Lines of the file of labels, in the order of the outputs."""
        return self.class_names or tuple(map(str, range(self.num_classes)))

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {**dataclasses.asdict(self), "folder": str(self.folder), "files": self.files}


def export_android(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    input_range: str | None = None,
    overwrite: bool = False,
) -> AndroidExport:
    """Writes what an Android application needs to run the networks of a finished run.

    These are the TFLite files with TFLite Model Metadata (size, normalization and names of the classes; the
    labels are packed into each file), the labels once more as a file, and a Kotlin class for the LiteRT
    Interpreter that prepares bitmaps for these networks. Other files in the folder stay. MediaPipe Tasks take
    the float32 network, too; int8 inputs they refuse.

    Args:
        run: folder of a run of `compress` or `sparsify`.
        out: folder to fill; made with its parents if missing.
        class_names: name of each class in the order of the outputs; by default those of the run's data.
        input_range: what pixels are scaled to, one of `amc_tf.data.INPUT_RANGES`; by default that of the run.
        overwrite: replace the files of an earlier export.

    Returns:
        What was written.

    Raises:
        RunFolderError: if the folder holds no finished run or a file of it is missing, or if files of `out`
            would be replaced without `overwrite` or cannot be written.
        ModelError: if a network is damaged or is no classifier of grey or colour images.
        DataError: if the names are not one line of text for each class, or the range is not for such images.
        SettingsError: if the range is not known, or is none of `INPUT_RANGES`.
    """
    folder, target = Path(run), Path(out)
    summary = read_summary(folder)
    networks = _read_networks(folder, summary)
    shape = read_shape(networks["float32"])
    names = summary.get("class_names") if class_names is None else class_names
    export = AndroidExport(
        folder=target,
        models={precision: _MODEL_FILES[precision] for precision in networks},
        image_size=shape.image_size,
        input_range=_input_range(folder, summary) if input_range is None else input_range,
        class_names=None if names is None else _checked_names(names, shape.num_classes),
        num_classes=shape.num_classes,
    )
    mean, std = pixel_statistics(export.input_range, shape.image_size[2])
    contents = {
        export.models[precision]: add_metadata(
            tflite,
            ClassifierMetadata(
                name=Path(str(summary.get("model", "classifier"))).stem,
                description=_describe(summary, precision, export),
                mean=mean,
                std=std,
                labels=export.labels,
            ),
        )
        for precision, tflite in networks.items()
    }
    contents[LABELS_FILE] = label_lines(export.labels)
    contents[KOTLIN_FILE] = _render_kotlin(export, shape, mean, std).encode()
    _write(target, contents, overwrite=overwrite)
    return export


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads the names of classes from a text file, UTF-8, one line each.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    return tuple(text.removesuffix("\n").split("\n"))


def _read_networks(folder: Path, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns the networks of a run by precision, once the runtime has loaded them."""
    networks = {}
    for precision in ("float32", "int8") if "int8" in summary else ("float32",):
        path = folder / _MODEL_FILES[precision]
        try:
            networks[precision] = path.read_bytes()
            load_interpreter(networks[precision])
        except FileNotFoundError as error:
            raise RunFolderError(
                f"{path} is missing, but summary.json tells of it: put it back, or run the compression again."
            ) from error
        except OSError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror or error}.") from error
        except ModelError as error:
            raise ModelError(f"{path} cannot be exported: {error}") from error
    return networks


def _input_range(folder: Path, summary: Mapping[str, Any]) -> str:
    known = summary.get("input_range")
    if known is None or summary.get("image_dtype") == "float32":
        raise SettingsError(
            f"The run {folder} does not tell how pixels are scaled (images of floats are in the model's own "
            f"range): give --input-range, one of {', '.join(INPUT_RANGES)}."
        )
    return str(known)


def _checked_names(names: Any, num_classes: int) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise DataError(f"The names of the classes are {names!r}, but must be a sequence of texts.")
    if len(names) != num_classes:
        raise DataError(
            f"There are {len(names)} names of classes, but the network has {num_classes} outputs: give one "
            "name for each, in their order."
        )
    for number, name in enumerate(map(str, names)):
        if not name.strip() or name.splitlines() != [name]:
            raise DataError(f"The name of class {number} is {name!r}, but must be one line, and not blank.")
    return tuple(map(str, names))


def _describe(summary: Mapping[str, Any], precision: str, export: AndroidExport) -> str:
    """Returns what the metadata tell people of a network."""
    key = summary.get("int8_written", "int8") if precision == "int8" else "finetuned"
    top1 = (summary.get(key) or {}).get("top1")
    accuracy = f" Top-1 accuracy of the run: {top1:.1%}." if is_number(top1) else ""
    return (
        f"Tells {export.num_classes} classes of {format_size(export.image_size)} images apart; {precision}."
        f"{accuracy} Made by amc-tf {__version__}."
    )


def _render_kotlin(
    export: AndroidExport, shape: ClassifierShape, mean: Sequence[float], std: Sequence[float]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("amc_tf", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{KOTLIN_FILE}.jinja").render(
        version=__version__,
        labels_file=LABELS_FILE,
        models=list(export.models.values()),
        num_channels=shape.image_size[2],
        gives_probabilities=shape.gives_probabilities,
        input_range=export.input_range,
        mean=_literals(mean),
        std=_literals(std),
    )


def _literals(values: Sequence[float]) -> str:
    return ", ".join(f"{np.float32(value)}f" for value in values)


def _write(target: Path, contents: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Writes the files; networks of an earlier export that this one has not go."""
    if (target / "summary.json").exists():
        raise RunFolderError(f"{target} is the folder of a run: name another folder for the export.")
    names = {*_MODEL_FILES.values(), *contents}
    found = [name for name in sorted(names) if (target / name).exists()]
    if found and not overwrite:
        raise RunFolderError(
            f"{target} holds {found[0]}: give --overwrite to replace the files of an earlier export, or name "
            "another folder."
        )
    with clear_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in set(found) - contents.keys():
            (target / name).unlink()
    for name, content in contents.items():
        write_atomically(target / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
