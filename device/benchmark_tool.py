"""Finds the benchmark_model program for a phone: the user's file, the cache, else the official download."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path

from amc_tf.errors import MeasurementError
from amc_tf.files import replace_file

_LOGGER = logging.getLogger(__name__)

DOWNLOAD_HOST = "storage.googleapis.com"
_LITERT = f"https://{DOWNLOAD_HOST}/litert/binaries"
_NIGHTLY = (
    f"https://{DOWNLOAD_HOST}/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest"
)
_MAX_SIZE = 200_000_000  # bytes; the programs have 5 to 30 million
_MAX_REDIRECTS = 5
_STALL_TIMEOUT_S = 30.0
_DOWNLOAD_TIMEOUT_S = 600.0
# The machine field of an ELF header, and what such a program is called.
_MACHINES = {3: "32-bit x86", 40: "32-bit ARM", 62: "x86-64", 183: "64-bit ARM"}
_MACHINE_OF_ABI = {"arm64-v8a": 183, "armeabi-v7a": 40, "x86": 3, "x86_64": 62}
_COMMON_FLAGS = ("graph", "num_threads", "num_runs")  # every generation of the tool has them
_OWN_BINARY = "name a program of your own with --benchmark-binary"


@dataclasses.dataclass(frozen=True)
class BenchmarkTool:
    """One benchmark_model program.

    There are two dialects: the classic tool of TensorFlow Lite, and the one of LiteRT's CompiledModel API.
    Which one a program speaks, and which flags it knows, is read from the flag names in its file, because
    `--help` ends with an error status and unknown flags are only warned about.

    Attributes:
        content: The file.
        origin: Where it came from: a path or an address.
        sha256: Of the content, in hex; recorded with every measurement.
    """

    content: bytes = dataclasses.field(repr=False)
    origin: str
    sha256: str

    @classmethod
    def from_content(cls, content: bytes, origin: str) -> BenchmarkTool:
        """Returns the tool of a file's content."""
        return cls(content, origin, hashlib.sha256(content).hexdigest())

    @property
    def is_compiled_model(self) -> bool:
        """Whether it is LiteRT's CompiledModel tool rather than the classic one."""
        return self.supports("use_npu") and self.supports("dispatch_library_path")

    def supports(self, flag: str) -> bool:
        """Whether the name of a flag, such as "result_file_path", occurs in the program.

        The characters before it do not count: linkers let a string share the end of a longer one.
        """
        return re.search(re.escape(flag.encode()) + rb"(?![\w-])", self.content) is not None


@dataclasses.dataclass(frozen=True)
class Source:
    """One official download.

    Attributes:
        url: Its address.
        sha256: What the download must hash to, in hex; None where no hash was ever published. None is today:
            Google publishes no hashes, and the nightly builds change under one address.
    """

    url: str
    sha256: str | None = None


def find_tool(
    abi: str,
    *,
    binary: str | os.PathLike[str] | None = None,
    cache_folder: Path | None = None,
    fetch: Callable[[str], bytes] | None = None,
) -> BenchmarkTool:
    """Returns the program to run on a phone.

    A file of the user's comes first, then what was downloaded before, then the download. What is in the cache
    stays in use, so that numbers of different days compare; delete the folder to fetch anew.

    Args:
        abi: The phone's first ABI, such as "arm64-v8a".
        binary: The user's file.
        cache_folder: Where downloads are kept; the user's cache folder unless given.
        fetch: Address -> content; `download` unless given.

    Raises:
        MeasurementError: The file is missing, another program or made for another processor; there is no
            download for the ABI, it fails, or it does not hash to what it must.
    """
    if binary is not None:
        tool = BenchmarkTool.from_content(_read(Path(binary)), str(binary))
        check_abi(tool.content, abi, tool.origin)
        _check_is_benchmark(tool)
        return tool
    source = source_for(abi)
    cache = _Cache(cache_folder or default_cache_folder())
    kept = cache.get(source)
    if kept is not None:
        return kept
    content = (fetch or download)(source.url)
    check_abi(content, abi, source.url)
    return cache.put(source, content)


def source_for(abi: str) -> Source:
    """Returns the official download for an ABI.

    64-bit ARM gets the release of LiteRT that is installed here. The others get the classic tool's nightly
    build. Its page names builds for Android on ARM, of 32 and 64 bits; the address for x86-64 follows their
    pattern, and whether anything is there was not seen.

    Raises:
        MeasurementError: There is none.
    """
    litert = importlib.metadata.version("ai-edge-litert")
    addresses = {
        "arm64-v8a": f"{_LITERT}/{litert}/android_arm64/benchmark_model",
        "armeabi-v7a": f"{_NIGHTLY}/android_arm_benchmark_model",
        "x86_64": f"{_NIGHTLY}/android_x86-64_benchmark_model",
    }
    if abi not in addresses:
        raise MeasurementError(
            f"There is no official benchmark_model for the ABI {abi!r}, only for {', '.join(addresses)}; "
            f"{_OWN_BINARY}."
        )
    return Source(addresses[abi])


def default_cache_folder() -> Path:
    """Returns the folder of this user that keeps downloads: benchmark_model in the cache folder of amc-tf."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("amc-tf"), "benchmark_model")


def check_abi(content: bytes, abi: str, name: str) -> None:
    """Refuses a program that the phone's processor cannot run.

    A script (its first bytes are #!) passes: what it starts cannot be known.

    Args:
        content: The file.
        abi: The phone's first ABI.
        name: What messages call the file.

    Raises:
        MeasurementError: It is no program, or one for another processor.
    """
    if content[:2] == b"#!":
        return
    if content[:4] != b"\x7fELF" or len(content) < 20:
        raise MeasurementError(
            f"{name} is no program for Android: it is neither an ELF file nor a script; "
            "use the command-line benchmark_model, not the .apk."
        )
    machine = int.from_bytes(content[18:20], "big" if content[5] == 2 else "little")
    wanted = _MACHINE_OF_ABI.get(abi, 0)
    if machine != wanted:
        made_for = _MACHINES.get(machine, f"ELF machine {machine}")
        raise MeasurementError(
            f"{name} is a program for {made_for}, but the phone's ABI is {abi}; use the benchmark_model that "
            f"is built for {_MACHINES.get(wanted, abi)}."
        )


def _check_is_benchmark(tool: BenchmarkTool) -> None:
    """Refuses another program than a benchmark of TFLite networks, by the flags that all of them have."""
    missing = [flag for flag in _COMMON_FLAGS if not tool.supports(flag)]
    if missing:
        raise MeasurementError(
            f"{tool.origin} is not benchmark_model: it has no --{' and no --'.join(missing)}; name the "
            "benchmark_model program itself."
        )


def download(url: str) -> bytes:
    """Returns the content of an official address.

    Raises:
        MeasurementError: It, or an address it redirects to, is not on the official host over HTTPS; there is
            no connection or no such file; it is too large, or does not come to its end in time.
    """
    import requests

    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    try:
        with requests.Session() as session:
            address = url
            for _ in range(_MAX_REDIRECTS):
                _check_address(address)
                with session.get(
                    address, stream=True, timeout=_STALL_TIMEOUT_S, allow_redirects=False
                ) as reply:
                    if not reply.is_redirect:
                        reply.raise_for_status()
                        return _read_limited(reply.iter_content(1 << 20), deadline)
                    address = urllib.parse.urljoin(address, reply.headers["location"])
            raise MeasurementError(f"it redirects more than {_MAX_REDIRECTS} times")
    except requests.ConnectionError as error:
        raise _not_downloaded(url, f"no connection to {DOWNLOAD_HOST}") from error
    except requests.Timeout as error:
        raise _not_downloaded(url, f"no answer in {_STALL_TIMEOUT_S:g} s") from error
    except (requests.RequestException, MeasurementError) as error:
        raise _not_downloaded(url, str(error).splitlines()[0]) from error


def _check_address(address: str) -> None:
    parts = urllib.parse.urlsplit(address)
    if parts.scheme != "https" or parts.netloc != DOWNLOAD_HOST:
        raise MeasurementError(f"{address} is not on https://{DOWNLOAD_HOST}")


def _read_limited(chunks: Iterable[bytes], deadline: float) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > _MAX_SIZE:
            raise MeasurementError(f"it has more than {_MAX_SIZE:,} bytes")
        if time.monotonic() > deadline:
            raise MeasurementError(f"it took longer than {_DOWNLOAD_TIMEOUT_S:g} s")
    return bytes(content)


def _not_downloaded(url: str, reason: str) -> MeasurementError:
    return MeasurementError(
        f"benchmark_model cannot be downloaded from {url} ({reason}); get that file another way and name it "
        "with --benchmark-binary."
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise MeasurementError(
            f"The benchmark binary {str(path)!r} {found}; name the benchmark_model program itself."
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise MeasurementError(
            f"The benchmark binary {str(path)!r} cannot be read ({error.strerror})."
        ) from error


class _Cache:
    """Downloads by content hash, with an index of what each address gave; nothing unverified is returned."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index_file = folder / "index.json"

    def get(self, source: Source) -> BenchmarkTool | None:
        """Returns what the source's address gave before, or None."""
        sha256 = source.sha256 or self._index().get(source.url)
        if not isinstance(sha256, str) or re.fullmatch("[0-9a-f]{64}", sha256) is None:
            return None
        try:
            tool = BenchmarkTool.from_content((self._folder / sha256).read_bytes(), source.url)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MeasurementError(f"The cache {self._folder} cannot be read ({error.strerror}).") from error
        if tool.sha256 != sha256:
            _LOGGER.warning("%s is damaged; fetching %s again", self._folder / sha256, source.url)
            return None
        return tool

    def put(self, source: Source, content: bytes) -> BenchmarkTool:
        """Keeps a download and returns it."""
        tool = BenchmarkTool.from_content(content, source.url)
        if source.sha256 not in (None, tool.sha256):
            raise MeasurementError(
                f"What {source.url} gave has the SHA-256 {tool.sha256}, not {source.sha256}; it was "
                f"replaced or damaged on the way, and is not used: {_OWN_BINARY}."
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._write(self._folder / tool.sha256, content)
            index = {**self._index(), source.url: tool.sha256}
            self._write(self._index_file, json.dumps(index, indent=1).encode())
        except OSError as error:
            raise MeasurementError(
                f"benchmark_model cannot be kept in {self._folder} ({error.strerror}); make room, or "
                f"{_OWN_BINARY}."
            ) from error
        return tool

    def _index(self) -> dict[str, object]:
        try:
            index = json.loads(self._index_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _LOGGER.warning("%s cannot be read (%s); fetching again", self._index_file, error)
            return {}
        return index if isinstance(index, dict) else {}

    def _write(self, path: Path, content: bytes) -> None:
        """Writes a file for this user alone."""
        replace_file(path, lambda file: file.write(content), mode=0o700)
