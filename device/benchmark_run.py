"""The command line of `benchmark_model`, and whether a run did what it asked for.

The tool has two dialects. The classic one (TensorFlow, LiteRT 1) chooses with `use_xnnpack`, `use_gpu`,
`use_nnapi`; LiteRT's CompiledModel tool with `use_cpu` and `use_gpu`. Either only warns about a flag that it
does not know and runs on without it, on the CPU if need be, so a flag is passed only where its name is in the
binary, and a run that still complains does not count.

What runs the network:

- `cpu` is XNNPACK. The classic tool is asked for it by name: builds that apply it by themselves fall back to
  slow kernels without a word where they cannot (the 2022 nightly does, on a network whose shapes are computed
  while it runs), and fail in clear words when asked. Operators that XNNPACK lacks run beside it on the CPU,
  as they would in an application. The CompiledModel tool applies it to all it runs on the CPU.
- `gpu` and `nnapi` must take the whole network.
- `fp16` lets them compute in half precision; without it a GPU, which would by default, is told not to.

LiteRT 2.0.2's CompiledModel tool accepts `num_threads` and ignores it; 2.1.0 and later honour it.
"""

from __future__ import annotations

import dataclasses
import math
import re

from amc_tf.device.benchmark_output import parse_output, tool_words
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.errors import MeasurementError, SettingsError

# What each delegate is called in a sentence.
DELEGATES = {"cpu": "XNNPACK", "gpu": "the GPU", "nnapi": "NNAPI"}

# Signals of the phone's Linux that end a program; those of this machine may have other numbers.
_SIGNALS = {
    2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV",
    13: "SIGPIPE", 15: "SIGTERM", 31: "SIGSYS",
}  # fmt: skip
_PREPARATION_S = 60.0
_UNCONSUMED = re.compile(r"Unconsumed cmdline flags:\s*(.*\S)")
_APPLIED = re.compile(
    r"[Aa]pplied (\w+) delegate, and the model graph will be (completely|partially) executed"
)
_NOT_APPLIED = re.compile(
    r"Failed to apply \w+ delegate|Though \w+ delegate is explicitly applied, the model graph will not be"
    r"|Disallowed CPU fallback|Some ops are not accelerated|GPU accelerator could not be loaded"
)
_COMPILED_MODEL = re.compile(r"\[\S*(benchmark_litert_model|litert/)\S*:\d+\]|BENCHMARK RESULTS")
_NOT_EXECUTABLE = re.compile(
    r"not executable|Exec format error|syntax error: unexpected|cannot execute binary"
)
_NOT_LINKED = re.compile(r"CANNOT LINK EXECUTABLE|error while loading shared libraries")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What one process of the tool does; the defaults are the tool's own but for one thread.

    Attributes:
        num_threads: Threads of one inference on the CPU; 1 or more.
        delegate: What runs the network: "cpu" (XNNPACK), "gpu" or "nnapi".
        fp16: Whether it may compute in half precision.
        num_runs: Fewest timed runs, unless `max_seconds` pass first; 1 or more.
        min_seconds: Shortest time of timed runs, in seconds; 0 or more.
        max_seconds: No new run starts after this many seconds, in the warm-up as in the timed runs;
            more than 0.
        warmup_runs: Fewest runs before the timed ones; 0 or more.
        warmup_seconds: Shortest warm-up, in seconds; 0 or more.
    """

    num_threads: int = 1
    delegate: str = "cpu"
    fp16: bool = False
    num_runs: int = 50
    min_seconds: float = 1.0
    max_seconds: float = 150.0
    warmup_runs: int = 1
    warmup_seconds: float = 0.5

    def __post_init__(self) -> None:
        for name, smallest in (("num_threads", 1), ("num_runs", 1), ("warmup_runs", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
                raise SettingsError(f"{name} must be an integer of {smallest} or more, but is {value!r}.")
        if self.delegate not in DELEGATES:
            raise SettingsError(f"delegate must be one of {', '.join(DELEGATES)}, but is {self.delegate!r}.")
        for name in ("min_seconds", "max_seconds", "warmup_seconds"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise SettingsError(f"{name} must be a number of 0 or more, but is {value!r}.")
        if not self.max_seconds >= max(self.min_seconds, self.warmup_seconds) or self.max_seconds == 0:
            raise SettingsError(
                f"max_seconds must be more than 0 and at least min_seconds ({self.min_seconds}) and "
                f"warmup_seconds ({self.warmup_seconds}), but is {self.max_seconds!r}."
            )

    @property
    def timeout_s(self) -> float:
        """Longest time that a process with these settings may take, in seconds.

        Warm-up and timed runs may each take `max_seconds`; a minute is for loading the network, preparing it,
        and the one run that each of them may have begun at its end.
        """
        return 2 * self.max_seconds + _PREPARATION_S


def command_line(
    tool: BenchmarkTool,
    settings: RunSettings,
    *,
    binary: str,
    graph: str,
    result_file: str | None = None,
    profile: bool = False,
) -> list[str]:
    """Returns the words of the command that makes a run; the caller quotes them for a shell.

    Args:
        tool: The benchmark binary, to know its flags.
        settings: What to run.
        binary: Path of the binary where it runs.
        graph: Path of the network where it runs.
        result_file: Path for the result's protocol buffer; left out where the binary writes none.
        profile: Whether to print the time of each operator.

    Raises:
        MeasurementError: The binary lacks what the settings ask for; the message names it.
    """
    flags = {
        "graph": graph,
        "num_threads": str(settings.num_threads),
        "num_runs": str(settings.num_runs),
        "min_secs": f"{settings.min_seconds:g}",
        "max_secs": f"{settings.max_seconds:g}",
        "warmup_runs": str(settings.warmup_runs),
        "warmup_min_secs": f"{settings.warmup_seconds:g}",
        **_delegate_flags(tool, settings),
        **_precision_flags(tool, settings),
    }
    if profile:
        flags["use_profiler" if tool.is_compiled_model else "enable_op_profiling"] = "true"
    missing = [name for name in flags if not tool.supports(name)]
    if missing:
        raise MeasurementError(
            f"The benchmark binary has no --{', --'.join(missing)}, which {_purpose(settings, profile)} "
            "needs; use another setting, or another binary with --benchmark-binary."
        )
    if result_file is not None and tool.supports("result_file_path"):
        flags["result_file_path"] = result_file
    return [binary, *(f"--{name}={value}" for name, value in flags.items())]


def check_run(output: str, exit_code: int, settings: RunSettings) -> None:
    """Makes sure that a run ended well and ran what its settings ask for.

    Args:
        output: Standard output and standard error of the tool.
        exit_code: Its exit status, 0 to 255; 128 + N where signal N ended it.
        settings: What its command line was made from.

    Raises:
        MeasurementError: It failed, ignored a flag, ran something else or timed nothing; the message repeats
            the tool's own words.
    """
    _check_refusal(output, settings.delegate)
    if exit_code != 0:
        raise MeasurementError(_failure(output, exit_code))
    unconsumed = _UNCONSUMED.search(output)
    if unconsumed:
        raise MeasurementError(
            f"The benchmark did not run what was asked ({tool_words(unconsumed.group())}); use another "
            "setting, or another binary with --benchmark-binary."
        )
    if settings.delegate != "cpu":
        _check_whole(output, settings.delegate)
    parse_output(output)


def _delegate_flags(tool: BenchmarkTool, settings: RunSettings) -> dict[str, str]:
    if not tool.is_compiled_model:
        if settings.delegate == "cpu":
            return {"use_xnnpack": "true"}
        return {f"use_{settings.delegate}": "true", "require_full_delegation": "true"}
    if settings.delegate == "cpu":
        return {"use_cpu": "true"}
    if settings.delegate == "gpu":
        return {"use_gpu": "true", "use_cpu": "false", "require_full_delegation": "true"}
    raise MeasurementError(
        "The benchmark binary is LiteRT's CompiledModel tool, which has no NNAPI; use delegate cpu or gpu, "
        "or name a classic tool with --benchmark-binary."
    )


def _precision_flags(tool: BenchmarkTool, settings: RunSettings) -> dict[str, str]:
    """Returns the flag that sets the precision: for a GPU always, else where half precision is asked for."""
    if settings.delegate == "gpu":
        if tool.is_compiled_model and tool.supports("gpu-precision"):
            return {"gpu-precision": "fp16" if settings.fp16 else "fp32"}
        name = "allow_fp16" if tool.is_compiled_model else "gpu_precision_loss_allowed"
        return {name: "true" if settings.fp16 else "false"}
    if not settings.fp16:
        return {}
    return {"xnnpack_force_fp16" if settings.delegate == "cpu" else "allow_fp16": "true"}


def _purpose(settings: RunSettings, profile: bool) -> str:
    """Returns the settings that decide which flags are needed, in words."""
    extras = [*(["fp16"] if settings.fp16 else []), *(["profiling"] if profile else [])]
    return f"delegate {settings.delegate}" + (f" with {' and '.join(extras)}" if extras else "")


def _check_refusal(output: str, delegate: str) -> None:
    """Refuses a run whose delegate did not take the network."""
    for line in output.splitlines():
        refused = _NOT_APPLIED.search(line)
        if refused and not (delegate == "cpu" and "GPU accelerator" in refused.group()):
            raise MeasurementError(
                f"The benchmark did not run the network on {DELEGATES[delegate]}: {tool_words(line)}."
            )


def _check_whole(output: str, delegate: str) -> None:
    """Refuses a run that does not say that its delegate took all of the network.

    The CompiledModel tool says nothing, but fails where it was to use no CPU and an operator needs one.
    """
    extents = [extent for name, extent in _APPLIED.findall(output) if name.lower() == delegate]
    if "partially" in extents:
        line = next(line for line in output.splitlines() if "partially executed" in line)
        raise MeasurementError(
            f"The benchmark ran only a part of the network on {DELEGATES[delegate]} and the rest on the CPU "
            f"({tool_words(line)}); measure with delegate cpu, or change the network."
        )
    if not extents and not (delegate == "gpu" and _COMPILED_MODEL.search(output)):
        raise MeasurementError(
            f"The benchmark does not say that it ran the network on {DELEGATES[delegate]}; its last words: "
            f"{tool_words(output)}."
        )


def _failure(output: str, exit_code: int) -> str:
    """Returns the sentence for a run that did not end with exit code 0."""
    words = tool_words(output)
    if exit_code == 126 or _NOT_EXECUTABLE.search(output):
        return f"The phone cannot execute the benchmark binary (another ABI, or no permission): {words}."
    if exit_code == 127 or _NOT_LINKED.search(output):
        return f"The benchmark binary or a library that it needs was not found on the phone: {words}."
    name = _SIGNALS.get(exit_code - 128)
    if name == "SIGKILL":
        return f"The benchmark was ended by SIGKILL, most likely for want of memory; its last words: {words}."
    if name:
        return f"The benchmark was ended by {name} on this network; its last words: {words}."
    return f"The benchmark failed with exit code {exit_code}: {words}."
