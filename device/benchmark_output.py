"""Reads what the official `benchmark_model` says about a run: its text, or its result protocol buffer.

The text has changed over the years, and every form of it is read:

- 2018 (`native : benchmark_tflite_model.cc:440 count=200 first=...`) and 2019;
- TensorFlow 2.3 and later: `count=` without a prefix, `Inference timings in us: ...`, memory footprint;
- the later classic tool: the same lines with `INFO: ` before them; `p5= median= p95=` since LiteRT 1.1;
- LiteRT's CompiledModel tool: the `count=` lines on standard output and a `BENCHMARK RESULTS` block, in
  milliseconds with two decimals, on standard error.

The tool prints `Running benchmark for ...` before the warm-up and again before the timed runs, each followed
by one line of statistics in microseconds; only the one after the last announcement is the result. The block
is read where that line is missing.
"""

from __future__ import annotations

import dataclasses
import math
import re
import struct
from collections.abc import Iterator, Mapping

from amc_tf.errors import MeasurementError

_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"
_PAIR = re.compile(rf"\b([a-z0-9]+)={_NUMBER}(?![\w.])")
_ANNOUNCEMENT = re.compile(r"\bRunning benchmark for\b")
_SUMMARY = re.compile(r"\bInference timings in us:|\bAverage inference timings in us:|\bBENCHMARK RESULTS\b")
_OTHER_STATISTICS = ("Timings (microseconds)", "Memory (bytes)")
_FIXED = {1: "<d", 5: "<f"}  # wire types of a protocol buffer with a fixed length
_NOISE = re.compile(
    r"^[\s=]*$|Benchmarking failed\.|Note: as the benchmark tool|Created TensorFlow Lite|^(real|user|sys)\s"
)
_COMPLAINT = re.compile(
    r"\b(fail(ed|ure)?|error|cannot|killed|denied|not (executable|found|accelerated)|no (such|space)|aborted"
    r"|fault|unresolved|disallowed|invalid)\b",
    re.IGNORECASE,
)
_WORDS_LENGTH = 300
_NEEDED = {"count", "avg", "min", "max", "std"}
_NO_RUN = "The benchmark timed no run (count=0); allow it at least one."


@dataclasses.dataclass(frozen=True)
class Memory:
    """How much memory the tool's process had taken, in MB of 2**20 bytes; None where it does not say.

    Attributes:
        init_mb: Growth from the tool's start until the network was ready.
        overall_mb: Growth from the tool's start until the last run.
        peak_mb: Highest footprint seen by sampling, where the tool was asked for it.
    """

    init_mb: float | None
    overall_mb: float | None
    peak_mb: float | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What one process of the tool measured; times in milliseconds.

    Attributes:
        mean_ms: Mean over the timed runs.
        min_ms: Fastest timed run.
        max_ms: Slowest timed run.
        std_ms: Standard deviation of the timed runs.
        median_ms: Median; None where the tool prints no percentiles, as before LiteRT 1.1.
        p5_ms: 5th percentile, or None likewise.
        p95_ms: 95th percentile, or None likewise.
        num_runs: Number of timed runs; 1 or more.
        init_ms: Loading the network and preparing it, or None.
        first_ms: The very first inference of the process, or None.
        warmup_mean_ms: Mean over the warm-up, or None.
        memory: Memory of the process, or None.
        model_size_mb: Size of the network's file in MB of 10**6 bytes, or None.
    """

    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    median_ms: float | None
    p5_ms: float | None
    p95_ms: float | None
    num_runs: int
    init_ms: float | None = None
    first_ms: float | None = None
    warmup_mean_ms: float | None = None
    memory: Memory | None = None
    model_size_mb: float | None = None

    def __post_init__(self) -> None:
        numbers = {**vars(self), "memory": None, **(vars(self.memory) if self.memory else {})}.values()
        if not all(number is None or (math.isfinite(number) and number >= 0) for number in numbers):
            raise MeasurementError("A number of the benchmark is negative or not finite; measure again.")
        if self.num_runs < 1:
            raise MeasurementError(_NO_RUN)
        slack = 1e-4 * self.max_ms
        inner = [time for time in (self.mean_ms, self.median_ms, self.p5_ms, self.p95_ms) if time is not None]
        if any(time < self.min_ms - slack or time > self.max_ms + slack for time in inner):
            raise MeasurementError(
                f"The benchmark's times contradict each other (mean, median, p5, p95 {inner} outside "
                f"{self.min_ms} to {self.max_ms} ms); its output was damaged, so measure again."
            )


def parse_output(text: str) -> BenchmarkResult:
    """Reads the result in the tool's text.

    Args:
        text: Standard output and standard error, together in any order or one after the other.

    Raises:
        MeasurementError: The text has no complete statistics of timed runs, or there was none (`count=0`);
            the message repeats the tool's last words.
    """
    parts = _ANNOUNCEMENT.split(text)
    warmup = _block(text, "Warmup") | (_statistics(parts[1]) if len(parts) > 2 else {})
    is_timed = len(parts) > 2 or (len(parts) == 2 and _SUMMARY.search(text))
    candidates = (_statistics(parts[-1]) if is_timed else {}, _block(text, "Inference"))
    timed = next((found for found in candidates if found.get("count") == 0 or found.keys() >= _NEEDED), None)
    if timed is None:
        raise MeasurementError(f"The benchmark gave no result; its last words: {tool_words(text)}.")
    if timed["count"] < 1:
        raise MeasurementError(_NO_RUN)
    return BenchmarkResult(
        mean_ms=timed["avg"],
        min_ms=timed["min"],
        max_ms=timed["max"],
        std_ms=timed["std"],
        median_ms=timed.get("median"),
        p5_ms=timed.get("p5"),
        p95_ms=timed.get("p95"),
        num_runs=int(timed["count"]),
        init_ms=_init_ms(text),
        first_ms=warmup.get("first"),
        warmup_mean_ms=warmup.get("avg"),
        memory=_memory(text),
        model_size_mb=_find(r"The input model file size \(MB\): " + _NUMBER, text),
    )


def parse_result_proto(data: bytes) -> BenchmarkResult:
    """Decodes the file that `--result_file_path` names: a `tflite.tools.benchmark.BenchmarkResult`.

    Its numbers are exact where the text has six digits. Fields that later versions may add are skipped.

    Args:
        data: Contents of the file.

    Raises:
        MeasurementError: The bytes are cut off or no such message, lack a field, or hold no possible times.
    """
    messages = {field: value for field, value in _fields(data) if isinstance(value, bytes)}
    latency, memory, misc = (dict(_fields(messages.get(field, b""))) for field in (2, 3, 4))
    init_kb, overall_kb = _number(memory, 1), _number(memory, 2)
    num_runs = _number(misc, 2)
    mean, low, high, std = (_number(latency, field) for field in (1, 2, 3, 4))
    if mean is None or low is None or high is None or std is None or num_runs is None:
        raise MeasurementError(
            "The benchmark's result file lacks its average, extremes, deviation or number of runs; "
            "it was cut off or another program wrote it."
        )
    return BenchmarkResult(
        mean_ms=mean,
        min_ms=low,
        max_ms=high,
        std_ms=std,
        median_ms=_number(latency, 5),
        p5_ms=_number(latency, 6),
        p95_ms=_number(latency, 7),
        num_runs=int(_finite(num_runs)),
        init_ms=_number(latency, 8),
        first_ms=_number(latency, 9),
        warmup_mean_ms=_number(latency, 10),
        memory=Memory(
            None if init_kb is None else init_kb / 1024,
            None if overall_kb is None else overall_kb / 1024,
            _number(memory, 3),
        )
        if memory
        else None,
        model_size_mb=_number(misc, 1),
    )


def tool_words(text: str) -> str:
    """Returns what a failed program said, for an error message: at most 300 printable characters.

    Its error lines, if it wrote any, else lines that complain, else the last line.
    """
    lines = [line.strip() for line in text.splitlines() if not _NOISE.search(line)]
    errors = [line for line in lines if line.startswith(("ERROR", "FATAL", "F0000"))]
    complaints = errors or [line for line in lines if _COMPLAINT.search(line)] or lines[-1:]
    unique = list(dict.fromkeys(line.removeprefix("ERROR: ").rstrip(".") for line in complaints))
    words = "; ".join(unique[-4:]) or "nothing"
    words = "".join(character if character.isprintable() else "?" for character in words)
    return words if len(words) <= _WORDS_LENGTH else f"{words[: _WORDS_LENGTH - 4]} ..."


def _statistics(part: str) -> dict[str, float]:
    """Returns the first line of statistics: `count`, and the other numbers that it has in ms; or nothing."""
    for line in part.splitlines():
        if "count=" not in line or any(name in line for name in _OTHER_STATISTICS):
            continue
        pairs = {key: _finite(value) for key, value in _PAIR.findall(line)}
        if "avg" not in pairs and "min" not in pairs and "curr" in pairs:  # one run, or all the same
            pairs = {**dict.fromkeys(("avg", "min", "max", "first"), pairs["curr"]), "std": 0.0, **pairs}
        return {key: value if key == "count" else value / 1000 for key, value in pairs.items()}
    return {}


def _block(text: str, phase: str) -> dict[str, float]:
    """Returns what the CompiledModel tool's own summary says of a phase, in ms as `_statistics`."""
    units = {"avg": " ms", "min": " ms", "max": " ms", "std": "", "first": " ms"}
    found = {name: _find(rf"{phase} \({name}\):\s+{_NUMBER}{unit}", text) for name, unit in units.items()}
    found["count"] = _find(rf"{phase} \(avg\):.*\(([0-9]+) runs\)", text)
    return {name: value for name, value in found.items() if value is not None}


def _init_ms(text: str) -> float | None:
    microseconds = _find(rf"timings in us:.*?\bInit: {_NUMBER}", text)
    if microseconds is not None:
        return microseconds / 1000
    seconds = _find(rf"Initialized session in {_NUMBER}s", text)
    if seconds is not None:
        return seconds * 1000
    milliseconds = _find(rf"Initialized session in {_NUMBER}ms", text)
    return milliseconds if milliseconds is not None else _find(rf"Model initialization: {_NUMBER} ms", text)


def _memory(text: str) -> Memory | None:
    line = rf"(?:Memory footprint delta|Peak memory footprint).*?\binit={_NUMBER} overall={_NUMBER}"
    memory = Memory(
        init_mb=_first(_find(line, text), _find(rf"Init footprint:\s+{_NUMBER} MB", text)),
        overall_mb=_first(_find(line, text, group=2), _find(rf"Overall footprint:\s+{_NUMBER} MB", text)),
        peak_mb=_first(
            _find(rf"Overall peak memory footprint \(MB\) via periodic monitoring: {_NUMBER}", text),
            _find(rf"Peak memory:\s+{_NUMBER} MB", text),
        ),
    )
    return None if memory == Memory(None, None) else memory


def _find(pattern: str, text: str, *, group: int = 1) -> float | None:
    found = re.search(pattern, text)
    return None if found is None else _finite(found.group(group))


def _finite(number: str | float) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise MeasurementError("A number of the benchmark is not finite; measure again.")
    return value


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _number(message: Mapping[int, float | bytes], field: int) -> float | None:
    value = message.get(field)
    if isinstance(value, bytes):
        raise MeasurementError(f"Field {field} of the benchmark's result file holds no number.")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, float | bytes]]:
    """Yields the fields of a protocol buffer message: a number each, or bytes for what has a length."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(data, position)
            yield field, float(value - (1 << 64) if value >> 63 else value)
            continue
        if wire_type == 2:
            length, position = _varint(data, position)
        elif wire_type in _FIXED:
            length = struct.calcsize(_FIXED[wire_type])
        else:
            raise MeasurementError("The benchmark's result file is no protocol buffer message.")
        content = data[position : position + length]
        position += length
        if len(content) < length:
            raise MeasurementError("The benchmark's result file was cut off in the middle of a field.")
        yield field, content if wire_type == 2 else struct.unpack(_FIXED[wire_type], content)[0]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns a variable-length integer of at most 64 bits and the position behind it."""
    value = 0
    for index, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & ((1 << 64) - 1), position + index + 1
    raise MeasurementError("The benchmark's result file was cut off in the middle of a number.")
