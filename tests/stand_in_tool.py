"""Makes stand-ins for the official benchmark_model that a test's phone can run.

A stand-in is one Python file. By default it really runs LiteRT on the pushed network; with `run_us` or
`us_per_kb` it only prints times, starts in some 20 ms, and needs no package.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amc_tf.device.benchmark_tool import BenchmarkTool

SOURCE = Path(__file__).parent / "stand_in" / "benchmark_model.py"
# What `fault`, or {"fault": NAME} in fault.json beside the program, makes it do.
FAULTS = {
    "": "nothing wrong",
    "hang": "prints the head, then nothing for a day",
    "crash": "dies of SIGSEGV when the warm-up starts",
    "exit": "prints everything, then exits with 1",
    "silent": "prints nothing and exits with 0",
    "garbage": "prints 4,000 random bytes and exits with 0",
    "cut": "ends with 0 in the middle of the line with the timed runs",
    "count_zero": "runs the network never: count=0",
    "partial_delegate": "applies a delegate that is asked for to a part of the network",
    "no_delegate": "cannot apply a delegate that is asked for",
    "cut_result": "writes the first 20 bytes of the result protocol buffer",
}

# name: (key in the program, label in its output, default)
_COMMON_FLAGS: dict[str, tuple[str, str, Any]] = {
    "num_runs": ("num_runs", "Min num runs", 50),
    "min_secs": ("min_secs", "Min runs duration (seconds)", 1.0),
    "max_secs": ("max_secs", "Max runs duration (seconds)", 150.0),
    "run_delay": ("run_delay", "Inter-run delay (seconds)", -1.0),
    "num_threads": ("num_threads", "Num threads", -1),
    "warmup_runs": ("warmup_runs", "Min warmup runs", 1),
    "warmup_min_secs": ("warmup_min_secs", "Min warmup runs duration (seconds)", 0.5),
    "report_peak_memory_footprint": ("report_peak", "Report the peak memory footprint", False),
}
_CLASSIC_FLAGS: dict[str, tuple[str, str, Any]] = {
    "graph": ("graph", "Graph", ""),
    "signature_to_run_for": ("signature", "Signature to run", ""),
    "allow_fp16": ("fp16", "Allow fp16", False),
    "require_full_delegation": ("full_delegation", "Require full delegation", False),
    "enable_op_profiling": ("profile", "Enable op profiling", False),
    "op_profiling_output_mode": ("profile_mode", "Op profiling output mode.", "stdout"),
    "op_profiling_output_file": ("profile_file", "Op profiling output file.", ""),
    "use_xnnpack": ("xnnpack", "Use xnnpack", False),
    "xnnpack_force_fp16": ("xnnpack_fp16", "xnnpack_force_fp16", False),
    "use_gpu": ("gpu", "Use gpu", False),
    "gpu_precision_loss_allowed": ("gpu_fp16", "Allow lower precision in gpu", True),
    "use_nnapi": ("nnapi", "Use NNAPI", False),
    "nnapi_allow_fp16": ("nnapi_fp16", "Allow fp16 in NNAPI", False),
    "result_file_path": (
        "result_file",
        "File path to save the benchmark result in binary proto format",
        "",
    ),
}
_COMPILED_MODEL_FLAGS: dict[str, tuple[str, str, Any]] = {
    "graph": ("graph", "", ""),
    "signature_to_run_for": ("signature", "", ""),
    "use_cpu": ("cpu", "", True),
    "use_gpu": ("gpu", "", False),
    "use_npu": ("npu", "", False),
    "require_full_delegation": ("full_delegation", "", False),
    "use_profiler": ("profile", "", False),
    "gpu_backend": ("gpu_backend", "", ""),
    "gpu-precision": ("gpu_precision", "", ""),
    "allow_fp16": ("fp16", "", True),
    "dispatch_library_path": ("dispatch_library", "", ""),
    "model_runtime_info_output_file": ("runtime_info", "", ""),
    "result_file_path": ("result_file", "", ""),
}


def stand_in(
    dialect: str = "classic",
    *,
    without: Sequence[str] = (),
    percentiles: bool = True,
    fault: str = "",
    run_us: Sequence[int] = (),
    us_per_kb: float = 0.0,
) -> bytes:
    """Returns a program.

    Args:
        dialect: "classic" or "compiled_model".
        without: Flags of the dialect that this build lacks, as older releases do.
        percentiles: Whether it prints p5, median and p95.
        fault: What it does wrong: a key of FAULTS.
        run_us: Print these times over and over, in microseconds, instead of running LiteRT.
        us_per_kb: Print times around this many microseconds per KiB of network, instead of running LiteRT.
    """
    if fault not in FAULTS:
        raise ValueError(f"no fault {fault!r}; there are {', '.join(FAULTS)}")
    own = {"classic": _CLASSIC_FLAGS, "compiled_model": _COMPILED_MODEL_FLAGS}[dialect]
    build = {
        "dialect": dialect,
        "flags": {name: flag for name, flag in {**_COMMON_FLAGS, **own}.items() if name not in without},
        "percentiles": percentiles,
        "fault": fault,
        "run_us": list(run_us),
        "us_per_kb": us_per_kb,
    }
    option = " -SE" if run_us or us_per_kb else ""
    source = SOURCE.read_text().replace("\nBUILD = {}\n", f"\nBUILD = {build!r}\n")
    return f"#!{sys.executable}{option}\n{source}".encode()


def stand_in_tool(dialect: str = "classic", **options: Any) -> BenchmarkTool:
    """Returns `stand_in(dialect, **options)` as a tool."""
    return BenchmarkTool.from_content(stand_in(dialect, **options), "stand-in")


def write_stand_in(path: Path, dialect: str = "classic", **options: Any) -> Path:
    """Writes `stand_in(dialect, **options)` as an executable file and returns its path."""
    path.write_bytes(stand_in(dialect, **options))
    path.chmod(0o755)
    return path
