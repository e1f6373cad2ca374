"""Packs the networks of a run into one ZIP file, to be timed where the phone is.

A bundle holds `manifest.json` and one `networks/SHA256.tflite` for each network. It is written whole or not
at all, the same networks always give the same bytes, and nothing of it is unpacked to disk: a network is read
into memory and its hash compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from amc_tf.errors import RunFolderError
from amc_tf.run_folder import write_atomically

FORMAT = "amc-tf bundle 1"
ORIGINAL = "original"
_MANIFEST = "manifest.json"
_NETWORK_FILE = re.compile(r"networks/([0-9a-f]{64})\.tflite")
# The earliest time that a ZIP file can name: a bundle must not depend on when it was made.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_MAX_FILES = 2000
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_NETWORK_BYTES = 2 << 30
_MAX_BUNDLE_BYTES = 16 << 30
# Weights hardly compress; what shrinks more than this was made to fill the memory.
_MAX_RATIO = 100


@dataclasses.dataclass(frozen=True)
class BundledNetwork:
    """A network of a bundle.

    Attributes:
        sha256: hexadecimal SHA-256 of its TFLite bytes.
        roles: what it is in the run: "original", "original int8", "found", "uniform", "episode 12",
            "stage 2 episode 12"; a network that is several of these is bundled once.
        structure: what tells networks of different speed apart (see `amc_tf.device.operators`).
        widths: kept channels of each channel group.
        reward: what the search was told, None for a network that is of no episode.
        top1: accuracy on the search images, in [0, 1], likewise.
        expected_ms: latency that the run's meter measured or predicted, in ms; None where it did neither.
    """

    sha256: str
    roles: tuple[str, ...]
    structure: str
    widths: tuple[int, ...]
    reward: float | None = None
    top1: float | None = None
    expected_ms: float | None = None

    @property
    def name(self) -> str:
        """Its roles, for people."""
        return ", ".join(self.roles)

    @property
    def file(self) -> str:
        """Its name within the ZIP file."""
        return f"networks/{self.sha256}.tflite"

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of the manifest."""
        return {"file": self.file, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BundledNetwork:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: if a field is missing or of the wrong type.
        """
        network = cls(
            sha256=_text(value["sha256"], "sha256"),
            roles=tuple(_text(role, "roles") for role in value["roles"]),
            structure=_text(value["structure"], "structure"),
            widths=tuple(_width(width) for width in value["widths"]),
            **{name: _number(value[name], name) for name in ("reward", "top1", "expected_ms")},
        )
        if value["file"] != network.file or not _NETWORK_FILE.fullmatch(network.file):
            raise ValueError(f"the file {value['file']!r} is not named by its hash")
        return network


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        run: name of the run folder.
        model: where the original model came from.
        meter: name of the meter behind `expected_ms`, None where it is not known.
        created_with: version of amc-tf.
        networks: the original first.
    """

    run: str
    model: str
    meter: str | None
    created_with: str
    networks: tuple[BundledNetwork, ...] = ()

    @property
    def original(self) -> BundledNetwork:
        """The network beside which the others are timed."""
        return self.networks[0]

    def to_json(self) -> dict[str, Any]:
        """Returns the contents of `manifest.json`."""
        networks = [network.to_json() for network in self.networks]
        return {"format": FORMAT, **dataclasses.asdict(self), "networks": networks}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if it is of another format, a field is missing or of the wrong type, a network is
                named twice, or the first one is not the original.
        """
        given = value.get("format") if isinstance(value, dict) else None
        if given != FORMAT:
            raise ValueError(f"the format is {given!r}, but this version reads {FORMAT!r}")
        try:
            manifest = cls(
                run=_text(value["run"], "run"),
                model=_text(value["model"], "model"),
                meter=None if value["meter"] is None else _text(value["meter"], "meter"),
                created_with=_text(value["created_with"], "created_with"),
                networks=tuple(map(BundledNetwork.from_json, value["networks"])),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a field is missing or of the wrong type ({error!r})") from error
        networks = manifest.networks
        if not networks or ORIGINAL not in networks[0].roles:
            raise ValueError("the first network is not the original")
        if len({network.sha256 for network in networks}) < len(networks):
            raise ValueError("a network is named twice")
        return manifest


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, networks: Iterable[tuple[BundledNetwork, bytes]]
) -> Manifest:
    """Writes a bundle whole, or leaves what stood there.

    Args:
        path: the file; replaced if it exists.
        manifest: what it says of itself, without networks.
        networks: each with its TFLite bytes, the original first; taken one at a time.

    Returns:
        The manifest with the networks.

    Raises:
        RunFolderError: if the file cannot be written.
    """
    written: list[BundledNetwork] = []

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for network, tflite in networks:
                archive.writestr(_member(network.file), tflite)
                written.append(network)
            whole = dataclasses.replace(manifest, networks=tuple(written))
            archive.writestr(_member(_MANIFEST), json.dumps(whole.to_json(), indent=1) + "\n")

    write_atomically(Path(path), write)
    return dataclasses.replace(manifest, networks=tuple(written))


class Bundle:
    """A bundle that has been checked: every network is there, is the only one of its name, and has its hash.

    Args:
        path: the ZIP file.

    Attributes:
        path: the ZIP file.
        manifest: what it says of itself.

    Raises:
        RunFolderError: if the file cannot be read, is no bundle of a known format, or holds anything else
            than its manifest names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with self._open() as archive:
            self._check_members(archive.infolist())
            self.manifest = self._read_manifest(archive)
            self._check_names({info.filename for info in archive.infolist()})
            for network in self.manifest.networks:
                self._read_network(archive, network)

    def read(self, network: BundledNetwork) -> bytes:
        """Returns the TFLite bytes of one of its networks.

        Raises:
            RunFolderError: if the file has changed since it was checked.
        """
        with self._open() as archive:
            return self._read_network(archive, network)

    @contextlib.contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        if not self.path.is_file():
            raise RunFolderError(f"There is no file {self.path}: give a bundle that `bundle make` wrote.")
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        # An unknown compression method or a password is a RuntimeError to zipfile.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
            raise self._refusal(f"damaged or no ZIP file ({error})") from error

    def _check_members(self, members: list[zipfile.ZipInfo]) -> None:
        """Looks at the directory of the ZIP file only, before anything is read into memory."""
        if len(members) > _MAX_FILES:
            raise self._refusal(f"refused: it holds {len(members)} files, more than {_MAX_FILES}")
        seen: set[str] = set()
        for info in members:
            if info.filename != _MANIFEST and not _NETWORK_FILE.fullmatch(info.filename):
                raise self._refusal(f"refused: a bundle holds no file {info.filename!r}")
            if info.filename in seen:
                raise self._refusal(f"refused: it holds {info.filename!r} twice")
            seen.add(info.filename)
            limit = _MAX_MANIFEST_BYTES if info.filename == _MANIFEST else _MAX_NETWORK_BYTES
            if info.file_size > limit or info.file_size > _MAX_RATIO * max(info.compress_size, 1):
                raise self._refusal(
                    f"refused: {info.filename!r} unpacks from {info.compress_size} to {info.file_size} bytes"
                )
        if sum(info.file_size for info in members) > _MAX_BUNDLE_BYTES:
            raise self._refusal(f"refused: it unpacks to more than {_MAX_BUNDLE_BYTES} bytes")
        if _MANIFEST not in seen:
            raise self._refusal(f"no bundle: it holds no {_MANIFEST}")

    def _read_manifest(self, archive: zipfile.ZipFile) -> Manifest:
        try:
            return Manifest.from_json(json.loads(archive.read(_MANIFEST)))
        except (ValueError, RecursionError) as error:
            raise self._refusal(f"no bundle that can be used: of {_MANIFEST}, {error}") from error

    def _check_names(self, present: set[str]) -> None:
        named = {_MANIFEST, *(network.file for network in self.manifest.networks)}
        for name in sorted(named ^ present):
            what = "lacks" if name in named else "holds, but does not name,"
            raise self._refusal(f"damaged: it {what} {name!r}")

    def _read_network(self, archive: zipfile.ZipFile, network: BundledNetwork) -> bytes:
        tflite = archive.read(network.file)
        if hashlib.sha256(tflite).hexdigest() != network.sha256:
            raise self._refusal(f"damaged: the contents of {network.file!r} have another hash")
        return tflite

    def _refusal(self, why: str) -> RunFolderError:
        return RunFolderError(f"The bundle {self.path} is {why}; copy it again or make a new one.")


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIMESTAMP)
    info.create_system = 3  # Unix, wherever it is made
    info.external_attr = 0o644 << 16
    return info


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"{name!r} is {value!r}, not a line of text")
    return value


def _width(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"'widths' has {value!r}, not a whole number of 1 or more")
    return value


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name!r} is {value!r}, not a number")
    return float(value)
