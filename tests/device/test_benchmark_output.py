"""Results of the benchmark tool: every sample file, every generation of its text, its result file, damage."""

import dataclasses
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amc_tf.device.benchmark_output import (
    BenchmarkResult,
    Memory,
    parse_output,
    parse_result_proto,
    tool_words,
)
from amc_tf.errors import MeasurementError
from tests.benchmark_samples import (
    COMPILED_MODEL_STDERR,
    COMPILED_MODEL_STDOUT,
    SAME_EXAMPLES_EACH_TIME,
    SAMPLES,
    TOOL,
    damaged_bytes,
    damaged_text,
    output,
    runs,
    text,
)

# runs, mean, min, max, std | median, p5, p95 | init, first, warm-up | memory init, overall; in ms and MB
GOOD = {
    "badflag": "58 17.4843 14.146 21.793 2.038|18.116 14.216 21.218|20.351 16.079 15.5588|41.9805 43.9805",
    "default": "50 25.0925 14.620 44.479 6.444|24.534 15.499 35.226|61.655 36.933 26.4536|42.4609 44.3359",
    "gpu": "56 18.1196 14.163 31.501 3.458|18.328 14.212 26.877|23.144 19.305 18.5846|42.5312 44.4062",
    "int8": "62 16.178 14.906 24.963 1.613|15.471 14.973 17.851|20.627 18.277 18.0005|15.4492 16.3242",
    "opprof": "69 14.4233 13.849 18.326 0.919|14.118 13.899 16.737|17.711 15.327 14.4452|42.0508 43.9258",
    "opprof_csv": "53 18.8421 16.019 23.357 1.205|18.834 16.534 21.815|27.677 21.731 18.2903|42.1719 44.1719",
    "resultfile": "55 18.4655 14.923 27.858 2.418|18.796 15.359 21.407|22.900 20.765 19.2983|41.8477 43.7227",
    "runs50": "10 18.437 16.979 23.721 1.990|17.883 16.979 23.721|22.911 17.892 17.521|41.8906 43.7656",
    "slow_over_1s": "2 12889.5 11951.753 13827.313 937.780|13827.313 11951.753 13827.313"
    "|61.698 10868.534 10868.534|4.3125 26.5312",
    "threads2": "50 31.1691 17.509 46.387 7.328|30.957 18.426 45.134|25.114 37.001 21.8383|41.8672 43.7422",
    "verbose": "60 16.6707 14.443 22.559 2.505|15.211 14.619 21.765|21.222 18.186 16.0798|41.3984 43.3984",
    "2022/badflag": "3 1704.34 1507.058 1835.663 142.028||1.018 1662.149 1662.149|3.52344 28.5898",
    "2022/default": "3 1756.89 1654.410 1872.239 89.392||0.610 1465.836 1465.836|3.32812 28.3945",
    "2022/int8": "3 1548.59 1472.783 1612.573 57.678||4.011 1743.338 1743.338|3.62109 9.62109",
    "2022/opprof": "3 1529.59 1419.612 1632.014 86.877||1.108 1881.866 1881.866|3.51172 28.5938",
    "2022/threads2": "3 1406.16 836.334 1854.614 424.476||13.263 1837.523 1837.523|3.46094 28.5742",
}
PIXEL1 = {
    "mobilenet_run1": "200 123.162 117.812 152.764 3.455||26.762 135.716 123.679|",
    "0.75mobilenet_run1": "200 73.0833 70.325 148.718 5.558||31.199 111.747 73.5151|",
    "0.5flops_run1": "200 68.3077 66.997 71.141 0.758||26.466 74.794 68.4598|",
}
BAD = {
    "dryrun": r"timed no run \(count=0\)",
    "dynamic": r"no result; its last words: INFO: Running benchmark for at least 1 iterations",
    "missing": r"Could not open '/data/local/tmp/not_there.tflite'; The model allocation is null/empty",
    "truncated": r"last words: The model is not a valid Flatbuffer buffer; Failed to load model",
    "2022/custom": r"Encountered unresolved custom op: Betainc; Node number 0 \(Betainc\) failed",
    "2022/garbage": r"last words: Model provided has model identifier '.*2', should be 'TFL3'\.$",
    "2022/missing": r"last words: Could not open '/data/local/tmp/nope.tflite'\.$",
    "2022/xnn": r"last words: Failed to apply XNNPACK delegate\.$",
}
PROTO = (TOOL / "result.pb").read_bytes()


def expected(numbers: str, model_size_mb: float | None) -> BenchmarkResult:
    times, percentiles, first, memory = (
        [float(word) for word in part.split()] for part in numbers.split("|")
    )
    num_runs, *times = times
    median, p5, p95 = percentiles or (None, None, None)
    return BenchmarkResult(
        *times, median, p5, p95, int(num_runs), *first, Memory(*memory) if memory else None, model_size_mb
    )


def assert_equal(result: BenchmarkResult, wanted: BenchmarkResult, rel: float = 1e-9) -> None:
    for name, value in vars(wanted).items():
        if name != "memory":
            assert getattr(result, name) == pytest.approx(value, rel=rel), name
    assert result.memory == wanted.memory


@pytest.mark.parametrize("run", GOOD)
def test_a_run_has_the_numbers_that_its_text_shows(run: str) -> None:
    assert_equal(parse_output(output(run)), expected(GOOD[run], 4.52714 if "int8" in run else 16.8638))


@pytest.mark.parametrize("log", PIXEL1)
def test_a_pixel_1_log_of_2018_has_the_numbers_that_it_shows(log: str) -> None:
    assert_equal(parse_output(text(f"pixel1/{log}.txt")), expected(PIXEL1[log], None))


@pytest.mark.parametrize("run", BAD)
def test_a_run_without_a_result_is_refused_in_the_words_of_the_tool(run: str) -> None:
    with pytest.raises(MeasurementError, match=BAD[run]):
        parse_output(output(run))


def test_every_sample_file_is_tested() -> None:
    """The profiles are in test_benchmark_profile.py, commands and exit codes in test_benchmark_run.py."""
    assert sorted({*GOOD, *BAD}) == runs()
    files = {path.relative_to(SAMPLES).as_posix() for path in SAMPLES.rglob("*") if path.is_file()}
    of_runs = {
        f"benchmark_model/{run}.{kind}" for run in runs() for kind in ("cmd", "rc", "stdout", "stderr")
    }
    others = {"README.md", *(f"pixel1/{log}.txt" for log in PIXEL1)}
    others |= {f"benchmark_model/{name}" for name in ("opprof.csv", "result.pb", "result.pb.txt")}
    assert files - of_runs == others
    assert of_runs - files == {f"benchmark_model/slow_over_1s.{kind}" for kind in ("cmd", "rc")}


def test_result_file_has_the_numbers_of_its_text_form() -> None:
    result = parse_result_proto(PROTO)
    words = {
        name: float(value)
        for name, value in re.findall(r"(\w+): ([\d.]+)", text("benchmark_model/result.pb.txt"))
    }
    assert result.num_runs == words["num_runs"] == 53
    assert result.memory == Memory(43076 / 1024, 44996 / 1024)
    names = {"mean": "avg", "min": "min", "max": "max", "std": "stddev", "median": "median", "p5": "p5"}
    names |= {"p95": "p95", "init": "init", "first": "first_inference", "warmup_mean": "average_warm_up"}
    for ours, theirs in names.items():
        assert getattr(result, f"{ours}_ms") == pytest.approx(words[f"{theirs}_ms"], rel=1e-6), ours
    assert result.model_size_mb == pytest.approx(words["model_size_mb"])


def test_statistics_of_2019_are_read() -> None:
    result = parse_output(
        "Running benchmark for at least 1 iterations and at least 0.5 seconds\n"
        "count=16 first=34713 curr=31009 min=30948 max=34713 avg=31341.2 std=886\n\n"
        "Running benchmark for at least 50 iterations and at least 1 seconds\n"
        "count=50 first=31013 curr=30991 min=30830 max=31508 avg=31034.6 std=120\n\n"
        "Average inference timings in us: Warmup: 31341.2, Init: 2101, no stats: 31034.6\n"
    )
    assert (result.mean_ms, result.num_runs, result.init_ms) == (pytest.approx(31.0346), 50, 2.101)
    assert (result.median_ms, result.memory, result.first_ms) == (None, None, 34.713)


def test_statistics_of_tensorflow_2_3_are_read_with_the_peak_memory() -> None:
    result = parse_output(
        "Running benchmark for at least 1 iterations and at least 0.5 seconds \n"
        "count=56 first=11147 curr=8146 min=7055 max=12036 avg=8779.68 std=1115\n\n"
        "Running benchmark for at least 50 iterations and at least 1 seconds \n"
        "count=110 first=8325 curr=10016 min=7863 max=10688 avg=8680.33 std=591\n\n"
        "Inference timings in us: Init: 1451507, First inference: 11147, Warmup (avg): 8779.68, "
        "Inference (avg): 8680.33\n"
        "Peak memory footprint (MB): init=63.4883 overall=64.5\n"
        "Overall peak memory footprint (MB) via periodic monitoring: 70.25\n"
    )
    assert (result.mean_ms, result.num_runs, result.init_ms) == (8.68033, 110, 1451.507)
    assert result.memory == Memory(63.4883, 64.5, 70.25)


@pytest.mark.parametrize(
    "streams",
    [COMPILED_MODEL_STDOUT + COMPILED_MODEL_STDERR, COMPILED_MODEL_STDERR + COMPILED_MODEL_STDOUT],
    ids=["stdout first", "stderr first"],
)
def test_compiled_model_tool_has_exact_times_on_stdout_and_memory_on_stderr(streams: str) -> None:
    result = parse_output(streams)
    assert (result.mean_ms, result.min_ms, result.max_ms) == pytest.approx((0.464545, 0.442, 0.979))
    assert (result.std_ms, result.num_runs) == (0.013, 2112)
    assert (result.median_ms, result.p5_ms, result.p95_ms) == pytest.approx((0.462, 0.46, 0.478))
    assert (result.init_ms, result.first_ms, result.warmup_mean_ms) == pytest.approx((4.478, 1.033, 0.465319))
    assert result.memory == Memory(8.94, 11.51, 12.25)
    assert result.model_size_mb == 3.27774


def test_compiled_model_block_alone_is_read_at_its_two_decimals() -> None:
    result = parse_output(COMPILED_MODEL_STDERR)
    assert (result.mean_ms, result.min_ms, result.max_ms, result.std_ms) == (0.46, 0.44, 0.98, 0.01)
    assert (result.median_ms, result.num_runs) == (None, 2112)
    assert (result.init_ms, result.first_ms, result.warmup_mean_ms) == (4.48, 1.03, 0.47)


def test_equal_runs_are_printed_without_average_and_read_with_it() -> None:
    result = parse_output(
        "Running benchmark for\ncount=1 curr=9\nRunning benchmark for\nINFO: count=50 curr=8(all same)\n"
    )
    assert (result.mean_ms, result.min_ms, result.max_ms, result.std_ms) == (0.008, 0.008, 0.008, 0.0)
    assert (result.num_runs, result.first_ms) == (50, 0.009)


def test_one_run_counts_and_so_does_one_too_fast_for_the_clock() -> None:
    result = parse_output("Running benchmark for\ncount=1 curr=9\nRunning benchmark for\ncount=1 curr=0\n")
    assert (result.num_runs, result.mean_ms, result.min_ms, result.max_ms) == (1, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("line", ["count=50 first=9 curr=8 min=7", "count=50 curr=8 max=9 avg=8", "curr=8"])
def test_a_line_of_statistics_that_lost_some_is_no_result(line: str) -> None:
    with pytest.raises(MeasurementError, match="no result"):
        parse_output(f"Running benchmark for\ncount=1 curr=9\nRunning benchmark for\n{line}\n")


def test_a_tool_that_announces_the_timed_runs_alone_has_no_warm_up() -> None:
    whole = "Running benchmark for\ncount=50 first=9 curr=8 min=7 max=9 avg=8 std=1\n"
    result = parse_output(whole + "Average inference timings in us: Warmup: 0, Init: 2101, no stats: 8\n")
    assert (result.num_runs, result.mean_ms, result.init_ms) == (50, 0.008, 2.101)
    assert (result.first_ms, result.warmup_mean_ms) == (None, None)
    with pytest.raises(MeasurementError, match="no result"):
        parse_output(whole)


def test_line_ends_of_a_terminal_change_nothing() -> None:
    assert parse_output(output("default").replace("\n", "\r\n")) == parse_output(output("default"))


def test_a_run_without_warm_up_has_a_result() -> None:
    cold = re.sub("count=19 .*", "count=0 p5=0 median=0 p95=0", output("default"))
    result = parse_output(cold)
    assert (result.num_runs, result.first_ms, result.warmup_mean_ms) == (50, None, None)


def test_warm_up_does_not_pass_for_the_timed_runs_when_the_output_is_cut_off() -> None:
    whole = output("default")
    for end in ("INFO: Running benchmark for at least 50", "INFO: count=50", "std=6444"):
        with pytest.raises(MeasurementError, match="no result"):
            parse_output(whole[: whole.index(end)])


def test_statistics_of_the_profile_do_not_pass_for_the_timed_runs() -> None:
    damaged = output("opprof").replace("INFO: count=69", "INFO: c", 1)
    with pytest.raises(MeasurementError, match="no result"):
        parse_output(damaged)


def test_times_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(MeasurementError, match="contradict each other"):
        parse_output(output("default").replace("max=44479 avg=25092.5", "max=14479 avg=25092.5"))


def test_a_mean_may_be_rounded_beyond_the_extremes_but_not_far() -> None:
    result = BenchmarkResult(10.0, 9.0, 10.0, 0.1, None, None, None, 5)
    assert dataclasses.replace(result, mean_ms=10.0005).mean_ms == 10.0005
    assert dataclasses.replace(result, mean_ms=8.9995).mean_ms == 8.9995
    for mean_ms in (10.005, 8.995):
        with pytest.raises(MeasurementError, match="contradict each other"):
            dataclasses.replace(result, mean_ms=mean_ms)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "lacks its average"),
        (PROTO[:-3], "cut off in the middle of a field"),
        (PROTO[:1], "cut off in the middle of a number"),
        (b"\x80" * 20, "cut off in the middle of a number"),
        (b"\x0b\x00", "no protocol buffer message"),
        (PROTO.replace(PROTO[3:7], struct.pack("<f", float("nan"))), "not finite"),
        (PROTO.replace(PROTO[3:7], struct.pack("<f", -1.0)), "negative"),
        (PROTO.replace(b"\x10\x35", b"\x10\x00"), r"count=0"),
        (PROTO.replace(b"\x22\x0e", b"\x22\x11\x15\0\0\xc0\x7f").replace(b"\x10\x35", b""), "not finite"),
        (PROTO.replace(b"\x08\xc4\xd0\x02", b"\x0a\x02\xd0\x02"), "holds no number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_result_file_is_refused(data: bytes, words: str) -> None:
    assert data != PROTO
    with pytest.raises(MeasurementError, match=words):
        parse_result_proto(data)


def without(field: int) -> bytes:
    """Returns the result file without one of its latencies, each of which takes five bytes."""
    start = 2 + 5 * (field - 1)
    return b"\x12\x2d" + PROTO[2:start] + PROTO[start + 5 :]


@pytest.mark.parametrize(
    "data",
    [*map(without, (1, 2, 3, 4)), PROTO.replace(b"\x22\x0e", b"\x22\x0c").replace(b"\x10\x35", b"")],
    ids="average min max deviation runs".split(),
)
def test_a_result_file_that_lacks_a_number_is_refused(data: bytes) -> None:
    with pytest.raises(MeasurementError, match="^The benchmark's result file lacks its average, extremes"):
        parse_result_proto(data)


def test_numbers_that_a_result_file_need_not_have_are_none() -> None:
    assert parse_result_proto(PROTO[:52] + PROTO[62:]) == dataclasses.replace(
        parse_result_proto(PROTO), memory=None
    )
    optional = ("median_ms", "p5_ms", "p95_ms", "init_ms", "first_ms", "warmup_mean_ms")
    for field, name in enumerate(optional, start=5):
        assert parse_result_proto(without(field)) == dataclasses.replace(
            parse_result_proto(PROTO), **{name: None}
        )


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (PROTO[54:58], Memory(43076 / 1024, None)),
        (PROTO[58:62], Memory(None, 44996 / 1024)),
        (b"\x1d" + struct.pack("<f", 1.5), Memory(None, None, 1.5)),
    ],
    ids="init overall peak".split(),
)
def test_each_part_of_the_memory_may_stand_alone(memory: bytes, expected: Memory) -> None:
    data = PROTO[:52] + b"\x1a" + bytes([len(memory)]) + memory + PROTO[62:]
    assert parse_result_proto(data).memory == expected


def test_whole_numbers_may_be_negative_and_are_refused_then() -> None:
    memory = b"\x08" + b"\xff" * 9 + b"\x01"  # init_footprint_kb: -1
    with pytest.raises(MeasurementError, match="negative"):
        parse_result_proto(PROTO[:52] + b"\x1a\x0b" + memory + PROTO[62:])


def test_whole_numbers_have_64_bits_in_ten_bytes_at_most() -> None:
    longest = bytes([0x80] * 8 + [0x7E])  # whose bits above the 64th count for nothing
    runs = PROTO.replace(b"\x22\x0e\x0d", b"\x22\x17\x0d").replace(b"\x10\x35", b"\x10\xb5" + longest)
    tag = PROTO.replace(b"\x22\x0e\x0d", b"\x22\x17\x0d").replace(b"\x10\x35", b"\x90" + longest + b"\x35")
    assert parse_result_proto(runs) == parse_result_proto(tag) == parse_result_proto(PROTO)
    with pytest.raises(MeasurementError, match="cut off in the middle of a number"):
        parse_result_proto(PROTO + b"\x38" + b"\xff" * 10 + b"\x01")


def test_fields_that_a_later_version_adds_to_the_result_file_are_skipped() -> None:
    unknown = b"\x32\x03new" + b"\x38\x96\x01" + b"\x41" + bytes(8) + b"\x4d" + bytes(4)
    assert parse_result_proto(unknown + PROTO + unknown) == parse_result_proto(PROTO)


def test_words_of_the_tool_are_its_error_lines_printable_and_short() -> None:
    assert tool_words("INFO: fine\nERROR: bad\x1b[0m thing.\nBenchmarking failed.\n") == "bad?[0m thing"
    assert tool_words("ok\nsh: x: Permission denied\nbye\n") == "sh: x: Permission denied"
    assert tool_words("one\n\n=====\n") == "one"
    assert tool_words("") == "nothing"
    assert len(tool_words("ERROR: " + "x" * 1000)) == 300
    assert tool_words("ERROR: " + "x" * 300) == "x" * 300
    assert tool_words("cannot go on\nFATAL: no file X.") == "FATAL: no file X"
    assert tool_words("cannot go on\nF0000 00:00 check") == "F0000 00:00 check"
    assert tool_words("\n".join(f"ERROR: {number}" for number in range(6))) == "2; 3; 4; 5"


TEXTS = [*(output(run) for run in GOOD), *(text(f"pixel1/{log}.txt") for log in PIXEL1)]
TEXTS.append(COMPILED_MODEL_STDOUT + COMPILED_MODEL_STDERR)


@SAME_EXAMPLES_EACH_TIME
@given(damaged_text(TEXTS) | st.text() | st.text(alphabet="count=avgmin0123456789e+. \nRunning"))
def test_damaged_output_gives_a_result_or_the_projects_error(damaged: str) -> None:
    try:
        result = parse_output(damaged)
    except MeasurementError:
        return
    assert result.num_runs >= 1 and 0 <= result.min_ms <= result.max_ms


@SAME_EXAMPLES_EACH_TIME
@given(damaged_bytes(PROTO) | st.binary())
def test_a_damaged_result_file_gives_a_result_or_the_projects_error(damaged: bytes) -> None:
    try:
        result = parse_result_proto(damaged)
    except MeasurementError:
        return
    assert result.num_runs >= 1 and 0 <= result.min_ms <= result.max_ms
