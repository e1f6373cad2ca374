"""Loads the model that a user names: a .keras or .h5 file of either Keras flavour, or a zoo network."""

from __future__ import annotations

import dataclasses
import importlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amc_tf.errors import ModelError
from amc_tf.models.zoo import list_zoo, load_zoo_model
from amc_tf.trace import DEFAULT_IMAGE_SIZE

SUFFIXES = (".keras", ".h5", ".hdf5")
_LIBRARIES = ("keras", "tf_keras")
_MAX_DESCRIPTION_BYTES = 64 << 20  # ResNet-152 takes 0.5 MB


def load_model(source: str) -> Any:
    """Loads a model, not compiled, without running code that its file may hold.

    Args:
        source: Path of a .keras or .h5 file, or a name of the zoo (see `amc_tf.models.zoo`).

    Returns:
        A `keras.Model`, or a `tf_keras.Model` where only Keras 2 can read the file.

    Raises:
        ModelError: There is no such file or name, the file is damaged, or it needs classes that are not
            Keras' own.

    Example:
        >>> load_model("demo").input_shape
        (None, 64, 64, 3)
    """
    path = Path(source).expanduser()
    if source in list_zoo() and not path.exists():
        return load_zoo_model(source)
    _check_path(path, source)
    saved = _read_file(path)
    _refuse_lambda(saved.config, path)
    reasons = []
    for library in _LIBRARIES:
        try:
            return importlib.import_module(library).models.load_model(path, compile=False, safe_mode=True)
        except ModuleNotFoundError as error:
            reasons.append(f"{library} is not installed" if error.name == library else _first_line(error))
        # Keras raises whatever its layers, HDF5 or the zip file raise.
        except Exception as error:
            reasons.append(_first_line(error))
    foreign = ", ".join(dict.fromkeys(_foreign_classes(saved.config)))
    if foreign:
        raise ModelError(
            f"{path} needs the class {foreign}, which is not Keras' own and not stored in the file: a "
            "subclassed model or a custom layer. Build the network of Keras layers as "
            "keras.Model(inputs, outputs), and save that."
        )
    raise ModelError(
        f"{path} cannot be loaded (saved by Keras {saved.version}): {reasons[0]}; save it again with "
        "model.save, or copy it again if it was copied."
    )


def model_to_bytes(model: Any) -> bytes:
    """Returns the .keras file of a model, as another process can load it by `model_from_bytes`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def model_from_bytes(content: bytes) -> Any:
    """Loads a model from the bytes of its .keras file.

    Raises:
        ModelError: As of `load_model`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        path.write_bytes(content)
        return load_model(str(path))


def image_size_of(model: Any) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the images that a model takes; open sizes become 224.

    Raises:
        ModelError: The model has not one input of images.
    """
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] is None:
        raise ModelError(
            f"'{model.name}' takes {shape or 'inputs of unknown shape'}, but one input of images (None, "
            "height, width, channels) was expected."
        )
    height, width = (size or default for size, default in zip(shape[1:3], DEFAULT_IMAGE_SIZE, strict=True))
    return height, width, shape[3]


@dataclasses.dataclass(frozen=True)
class _SavedModel:
    """What a file says of itself, read without building anything."""

    config: dict[str, Any]
    version: str


def _check_path(path: Path, source: str) -> None:
    expected = f"give a .keras or .h5 file, or one of: {', '.join(list_zoo())}"
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder, but a file was expected: load the model as it was saved, save it with "
            "model.save('x.keras'), and give that."
        )
    if not path.exists():
        is_name = not path.suffix and len(path.parts) == 1
        what = f"no network '{source}'" if is_name else f"no file {path}"
        raise ModelError(f"There is {what}; {expected}.")
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{path} is no Keras model by its name; {expected}.")


def _read_file(path: Path) -> _SavedModel:
    is_zip = path.suffix.lower() == ".keras"
    kind = "zip archive that .keras files are" if is_zip else "HDF5 file that .h5 files are"
    try:
        return _read_zip(path) if is_zip else _read_hdf5(path)
    except PermissionError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(
            f"{path} is damaged or no Keras model: it is not the {kind} ({_first_line(error)})."
        ) from error


def _read_zip(path: Path) -> _SavedModel:
    with zipfile.ZipFile(path) as archive:
        config, metadata = (
            json.loads(_read_member(archive, name)) for name in ("config.json", "metadata.json")
        )
    return _SavedModel(config, str(metadata.get("keras_version", "unknown")))


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns a member; one that unpacks to far more than any description of a network is not unpacked."""
    size = archive.getinfo(name).file_size
    if size > _MAX_DESCRIPTION_BYTES:
        raise ValueError(f"its {name} has {size} bytes, more than {_MAX_DESCRIPTION_BYTES}")
    return archive.read(name)


def _read_hdf5(path: Path) -> _SavedModel:
    import h5py

    with h5py.File(path, "r") as file:
        config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "unknown")
    if config is None:
        raise ModelError(
            f"{path} holds weights without the model: save the whole model with model.save('x.keras')."
        )
    return _SavedModel(json.loads(config), str(version))


def _refuse_lambda(config: dict[str, Any], path: Path) -> None:
    """Refuses Lambda layers by the file's own words: not every loader of HDF5 files heeds safe mode."""
    for entry in _entries(config):
        if entry["class_name"] in ("Lambda", "__lambda__"):
            inner = entry.get("config")
            name = inner.get("name", "lambda") if isinstance(inner, dict) else "lambda"
            raise ModelError(
                f"{path} has the Lambda layer '{name}', which is Python code inside the file and is not run: "
                "replace it by Keras layers or operations, and save the model again."
            )


def _foreign_classes(config: dict[str, Any]) -> Iterator[str]:
    """Yields the classes that a file names and Keras does not have."""
    for entry in _entries(config):
        module = entry.get("module", "keras")
        root = str(module or "").partition(".")[0]
        is_registered = ">" in str(entry.get("registered_name"))
        if root not in ("keras", "tf_keras", "builtins", "tensorflow") or is_registered:
            yield str(entry["class_name"])


def _entries(config: Any) -> Iterator[dict[str, Any]]:
    """Yields every serialised object of a configuration, outermost first."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            yield config
        for value in config.values():
            yield from _entries(value)
    elif isinstance(config, list):
        for value in config:
            yield from _entries(value)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
