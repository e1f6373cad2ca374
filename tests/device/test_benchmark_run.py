"""The benchmark's command line in both dialects, and which runs count."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.device.benchmark_run import RunSettings, check_run, command_line
from amc_tf.device.benchmark_tool import BenchmarkTool
from amc_tf.errors import MeasurementError, SettingsError
from tests.benchmark_samples import (
    COMPILED_MODEL_STDERR,
    COMPILED_MODEL_STDOUT,
    SAME_EXAMPLES_EACH_TIME,
    damaged_text,
    exit_code,
    output,
    runs,
    text,
)

COMMON = "graph num_threads num_runs min_secs max_secs warmup_runs warmup_min_secs require_full_delegation "
CLASSIC_FLAGS = COMMON + (
    "use_xnnpack xnnpack_force_fp16 use_gpu gpu_precision_loss_allowed use_nnapi allow_fp16 "
    "enable_op_profiling "
)
COMPILED_MODEL_FLAGS = COMMON + "use_cpu use_gpu use_npu dispatch_library_path allow_fp16 use_profiler "
APPLIED = "INFO: Explicitly applied {} delegate, and the model graph will be {} executed by the delegate"
GPU_WHOLE = APPLIED.format("GPU", "completely") + ".\n"


def tool(flags: str) -> BenchmarkTool:
    """Returns a binary that knows these flags."""
    return BenchmarkTool.from_content("\0".join(["", *flags.split(), ""]).encode(), "test")


CLASSIC = tool(CLASSIC_FLAGS)
COMPILED_MODEL = tool(COMPILED_MODEL_FLAGS)


def flags(binary: BenchmarkTool, settings: RunSettings, **arguments: object) -> list[str]:
    """Returns the words after the binary, the graph and the six flags that both dialects share."""
    words = command_line(binary, settings, binary="/tmp/b", graph="/tmp/m.tflite", **arguments)  # type: ignore[arg-type]
    return words[8:]


def test_the_defaults_are_spelled_out() -> None:
    words = command_line(CLASSIC, RunSettings(), binary="/data/local/tmp/b", graph="-a b; $(c).tflite")
    assert words == [
        "/data/local/tmp/b",
        "--graph=-a b; $(c).tflite",
        "--num_threads=1",
        "--num_runs=50",
        "--min_secs=1",
        "--max_secs=150",
        "--warmup_runs=1",
        "--warmup_min_secs=0.5",
        "--use_xnnpack=true",
    ]


@pytest.mark.parametrize(
    ("binary", "settings", "expected"),
    [
        (CLASSIC, RunSettings(), ["--use_xnnpack=true"]),
        (CLASSIC, RunSettings(fp16=True), ["--use_xnnpack=true", "--xnnpack_force_fp16=true"]),
        (
            CLASSIC,
            RunSettings(delegate="gpu"),
            ["--use_gpu=true", "--require_full_delegation=true", "--gpu_precision_loss_allowed=false"],
        ),
        (
            CLASSIC,
            RunSettings(delegate="nnapi", fp16=True),
            ["--use_nnapi=true", "--require_full_delegation=true", "--allow_fp16=true"],
        ),
        (COMPILED_MODEL, RunSettings(), ["--use_cpu=true"]),
        (
            COMPILED_MODEL,
            RunSettings(delegate="gpu", fp16=True),
            ["--use_gpu=true", "--use_cpu=false", "--require_full_delegation=true", "--allow_fp16=true"],
        ),
        (
            tool(COMPILED_MODEL_FLAGS + "gpu-precision"),
            RunSettings(delegate="gpu"),
            ["--use_gpu=true", "--use_cpu=false", "--require_full_delegation=true", "--gpu-precision=fp32"],
        ),
        (
            tool(COMPILED_MODEL_FLAGS + "gpu-precision"),
            RunSettings(delegate="gpu", fp16=True),
            ["--use_gpu=true", "--use_cpu=false", "--require_full_delegation=true", "--gpu-precision=fp16"],
        ),
    ],
)
def test_each_dialect_is_asked_for_delegate_and_precision_in_its_own_flags(
    binary: BenchmarkTool, settings: RunSettings, expected: list[str]
) -> None:
    assert flags(binary, settings) == expected


@pytest.mark.parametrize(
    ("binary", "flag"), [(CLASSIC, "--enable_op_profiling=true"), (COMPILED_MODEL, "--use_profiler=true")]
)
def test_each_dialect_has_its_flag_for_profiling(binary: BenchmarkTool, flag: str) -> None:
    assert flags(binary, RunSettings(), profile=True)[-1] == flag


def test_a_result_file_is_asked_for_where_the_binary_writes_one() -> None:
    path = "/tmp/r.pb"
    assert "--result_file_path=/tmp/r.pb" in flags(
        tool(CLASSIC_FLAGS + "result_file_path"), RunSettings(), result_file=path
    )
    assert flags(CLASSIC, RunSettings(), result_file=path) == flags(CLASSIC, RunSettings())


@pytest.mark.parametrize(
    ("binary", "settings", "profile", "words"),
    [
        (tool(COMMON), RunSettings(), False, "no --use_xnnpack, which delegate cpu needs"),
        (tool(COMMON + "use_xnnpack"), RunSettings(fp16=True), False, "no --xnnpack_force_fp16, which.*fp16"),
        (tool(COMMON + "use_xnnpack"), RunSettings(), True, "no --enable_op_profiling, which.*profiling"),
        (
            tool(COMMON + "use_xnnpack"),
            RunSettings(fp16=True),
            True,
            "--enable_op_profiling, which delegate cpu with fp16 and profiling needs; use another setting",
        ),
        (tool(COMMON), RunSettings(delegate="nnapi"), False, "no --use_nnapi, which delegate nnapi"),
        (tool(COMMON), RunSettings(delegate="gpu"), False, "no --use_gpu, --gpu_precision_loss_allowed"),
        (tool("use_gpu"), RunSettings(), False, "no --graph, --num_threads"),
        (COMPILED_MODEL, RunSettings(delegate="nnapi"), False, "CompiledModel tool, which has no NNAPI"),
        (COMPILED_MODEL, RunSettings(fp16=True), False, "no --xnnpack_force_fp16"),
    ],
)
def test_what_the_binary_lacks_is_named(
    binary: BenchmarkTool, settings: RunSettings, profile: bool, words: str
) -> None:
    with pytest.raises(MeasurementError, match=f"{words}.*--benchmark-binary"):
        flags(binary, settings, profile=profile)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_threads": 0}, "num_threads must be an integer of 1 or more, but is 0"),
        ({"num_runs": True}, "num_runs must be an integer"),
        ({"warmup_runs": -1}, "warmup_runs must be an integer of 0 or more"),
        ({"delegate": "npu"}, "delegate must be one of cpu, gpu, nnapi, but is 'npu'"),
        ({"min_seconds": float("nan")}, "min_seconds must be a number of 0 or more"),
        ({"max_seconds": float("inf")}, "max_seconds must be a number"),
        ({"max_seconds": 0.25}, "max_seconds must be more than 0 and at least min_seconds"),
        ({"max_seconds": 0, "min_seconds": 0, "warmup_seconds": 0}, "max_seconds must be more than 0"),
    ],
)
def test_settings_outside_their_range_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        dataclasses.replace(RunSettings(), **changes)  # type: ignore[arg-type]


def test_the_least_that_a_run_may_do_is_accepted() -> None:
    least = RunSettings(num_threads=1, num_runs=1, warmup_runs=0, warmup_seconds=0, max_seconds=1.0)
    assert least.max_seconds == least.min_seconds


def test_the_timeout_covers_warm_up_and_timed_runs() -> None:
    assert RunSettings().timeout_s == 360.0
    assert RunSettings(max_seconds=10).timeout_s == 80.0


CPU = {
    "badflag": r"not run what was asked \(Unconsumed cmdline flags: --no_such_flag=1\)",
    "dryrun": r"timed no run \(count=0\)",
    "dynamic": r"ended by SIGSEGV on this network; its last words: INFO: Running benchmark",
    "gpu": r"not run what was asked \(Unconsumed cmdline flags: --use_gpu=true\)",
    "missing": r"failed with exit code 1: Could not open '/data/local/tmp/not_there.tflite'",
    "truncated": r"failed with exit code 1: The model is not a valid Flatbuffer buffer",
    "2022/badflag": r"not run what was asked \(Unconsumed cmdline flags: --no_such_flag=1\)",
    "2022/custom": r"failed with exit code 1: Encountered unresolved custom op: Betainc",
    "2022/garbage": r"failed with exit code 1: Model provided has model identifier",
    "2022/missing": r"failed with exit code 1: Could not open '/data/local/tmp/nope.tflite'",
    "2022/xnn": r"did not run the network on XNNPACK: Failed to apply XNNPACK delegate\.",
}


@pytest.mark.parametrize("run", [run for run in runs() if run != "slow_over_1s"])
def test_every_sample_run_counts_or_is_refused_in_the_words_of_the_tool(run: str) -> None:
    command = text(f"benchmark_model/{run}.cmd")
    assert command.startswith("$ ") and "benchmark_model --graph=" in command
    settings = RunSettings(delegate="gpu" if "--use_gpu" in command else "cpu")
    if run in CPU:
        with pytest.raises(MeasurementError, match=CPU[run]):
            check_run(output(run), exit_code(run), settings)
    else:
        assert exit_code(run) == 0
        check_run(output(run), 0, settings)


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (
            1,
            "/system/bin/sh: /tmp/b: not executable: 64-bit ELF file",
            r"cannot execute .*not executable: 64-bit",
        ),
        (2, "/tmp/b[1]: syntax error: unexpected '('", r"cannot execute .*\(another ABI.*syntax error"),
        (
            126,
            "sh: /tmp/b: cannot execute binary file: Exec format error",
            "cannot execute .*Exec format error",
        ),
        (126, "sh: /sdcard/b: can't execute: Permission denied", "no permission.*Permission denied"),
        (
            127,
            "sh: /tmp/b: inaccessible or not found",
            "was not found on the phone: sh: /tmp/b: inaccessible",
        ),
        (
            1,
            'CANNOT LINK EXECUTABLE "/tmp/b": library "libX.so" not found',
            "not found on the phone: .*libX.so",
        ),
        (137, "INFO: STARTING!\nKilled", "ended by SIGKILL, most likely for want of memory; .*: Killed"),
        (134, "F0000 check failed\nAborted", "ended by SIGABRT on this network; its last words: F0000"),
        (135, "INFO: STARTING!", "ended by SIGBUS on this network"),
        (132, "INFO: STARTING!", "ended by SIGILL on this network; its last words: INFO: STARTING!"),
        (255, "", "failed with exit code 255: nothing"),
    ],
)
def test_a_failed_start_or_a_signal_is_told_in_one_sentence(code: int, said: str, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        check_run(said, code, RunSettings())


def test_a_delegate_must_say_that_it_took_the_whole_network() -> None:
    good = output("default")
    check_run(GPU_WHOLE + good, 0, RunSettings(delegate="gpu"))
    check_run(
        "Applied GPU delegate, and the model graph will be completely executed w/ the delegate.\n" + good,
        0,
        RunSettings(delegate="gpu"),
    )
    with pytest.raises(MeasurementError, match="does not say that it ran the network on NNAPI"):
        check_run(GPU_WHOLE + good, 0, RunSettings(delegate="nnapi"))
    with pytest.raises(MeasurementError, match="does not say that it ran the network on the GPU"):
        check_run(good, 0, RunSettings(delegate="gpu"))


def test_a_gpu_that_took_only_a_part_is_refused() -> None:
    line = APPLIED.format("GPU", "partially") + " w/ 2 delegate kernels.\n"
    with pytest.raises(
        MeasurementError, match=r"only a part of the network on the GPU .*w/ 2 delegate kernels\)"
    ):
        check_run(line + output("default"), 0, RunSettings(delegate="gpu"))


def test_operators_that_xnnpack_lacks_may_run_beside_it() -> None:
    line = APPLIED.format("XNNPACK", "partially") + " w/ 2 delegate kernels.\n"
    check_run(line + output("default"), 0, RunSettings())


@pytest.mark.parametrize(
    ("delegate", "line", "code"),
    [
        (
            "cpu",
            "INFO: Though XNNPACK delegate is explicitly applied, the model graph will not be executed",
            0,
        ),
        (
            "nnapi",
            "Though NNAPI delegate is explicitly applied, the model graph will not be executed",
            0,
        ),
        ("gpu", "ERROR: Disallowed CPU fallback detected.", 1),
        ("gpu", "ERROR: Some ops are not accelerated. Add kLiteRtHwAcceleratorCpu to the compilation", 1),
        (
            "gpu",
            "WARNING: [auto_registration.cc:60] GPU accelerator could not be loaded and registered: 2.",
            0,
        ),
    ],
)
def test_a_delegate_that_did_not_take_the_network_is_named(delegate: str, line: str, code: int) -> None:
    with pytest.raises(MeasurementError, match="did not run the network on .*: ") as caught:
        check_run(f"{line}\n{output('default')}", code, RunSettings(delegate=delegate))
    assert line.removeprefix("ERROR: ").rstrip(".") in str(caught.value)


def test_the_compiled_model_tool_is_believed_because_it_was_given_no_cpu() -> None:
    whole = COMPILED_MODEL_STDOUT + COMPILED_MODEL_STDERR
    check_run(whole, 0, RunSettings(delegate="gpu"))
    check_run("WARNING: GPU accelerator could not be loaded and registered\n" + whole, 0, RunSettings())


@SAME_EXAMPLES_EACH_TIME
@given(
    said=damaged_text([output(run) for run in runs()]) | st.text(),
    code=st.sampled_from([0, 0, 0, 1, 126, 127, 137, 139, 255]) | st.integers(),
    delegate=st.sampled_from(["cpu", "gpu", "nnapi"]),
)
def test_damaged_output_counts_or_gives_the_projects_error(said: str, code: int, delegate: str) -> None:
    try:
        check_run(said, code, RunSettings(delegate=delegate))
    except MeasurementError:
        return
    assert code == 0
