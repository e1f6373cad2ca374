"""The real output of the benchmark tool in tests/samples, and strategies that damage it."""

from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

SAMPLES = Path(__file__).parent / "samples"
TOOL = SAMPLES / "benchmark_model"
SAME_EXAMPLES_EACH_TIME = settings(derandomize=True, max_examples=150, deadline=None, database=None)

# What LiteRT's CompiledModel tool prints on standard output ...
COMPILED_MODEL_STDOUT = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [4]
INFO: The input model file size (MB): 3.27774
INFO: Initialized session in 4.478ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=1055 first=1033 curr=473 min=443 max=1033 avg=465.319 std=18 p5=459 median=463 p95=478

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=2112 first=463 curr=459 min=442 max=979 avg=464.545 std=13 p5=460 median=462 p95=478

"""  # noqa: E501
# ... and on standard error, with a profile.
COMPILED_MODEL_STDERR = """\
INFO: [litert/runtime/accelerators/auto_registration.cc:148] CPU accelerator registered.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
INFO: [./litert/tools/benchmark_litert_model.h:81] 
========== BENCHMARK RESULTS ==========
INFO: [./litert/tools/benchmark_litert_model.h:82] Signature name:       serving_default
INFO: [./litert/tools/benchmark_litert_model.h:82] Model initialization: 4.48 ms
INFO: [./litert/tools/benchmark_litert_model.h:84] Warmup (first):       1.03 ms
INFO: [./litert/tools/benchmark_litert_model.h:86] Warmup (avg):         0.47 ms (1055 runs)
INFO: [./litert/tools/benchmark_litert_model.h:88] Inference (avg):      0.46 ms (2112 runs)
INFO: [./litert/tools/benchmark_litert_model.h:92] Inference (min):      0.44 ms
INFO: [./litert/tools/benchmark_litert_model.h:94] Inference (max):      0.98 ms
INFO: [./litert/tools/benchmark_litert_model.h:96] Inference (std):      0.01
INFO: [./litert/tools/benchmark_litert_model.h:103] Throughput:           525.55 MB/s
INFO: [./litert/tools/benchmark_litert_model.h:112] 
Memory Usage:
INFO: [./litert/tools/benchmark_litert_model.h:114] Init footprint:       8.94 MB
INFO: [./litert/tools/benchmark_litert_model.h:116] Overall footprint:    11.51 MB
INFO: [./litert/tools/benchmark_litert_model.h:120] Peak memory:          12.25 MB
INFO: [./litert/tools/benchmark_litert_model.h:126] ======================================

INFO: [./litert/tools/benchmark_litert_model.h:179] 
============================== Run Order ==============================
\t                 [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t        LiteRT::Run[buffer registration]\t    0.020\t    0.014\t  3.309%\t  3.309%\t     0.000\t        1\tLiteRT::Run[buffer registration]/0
\t        AllocateTensors\t    0.291\t    0.291\t  0.022%\t  3.331%\t   452.000\t        0\tAllocateTensors/0
\t        Fully Connected (NC, PF32) GEMM\t    0.538\t    0.382\t 93.687%\t 97.018%\t     0.000\t        1\tDelegate/Fully Connected (NC, PF32) GEMM:1
\t        LiteRT::Run[Buffer sync]\t    0.013\t    0.012\t  2.982%\t100.000%\t     0.000\t        1\tLiteRT::Run[Buffer sync]/0

============================== Top by Computation Time ==============================
"""  # noqa: E501, W291


def text(name: str) -> str:
    """Returns a file of tests/samples; bytes that are no UTF-8 are replaced, as a transport does."""
    return (SAMPLES / name).read_text(encoding="utf-8", errors="replace")


def output(run: str) -> str:
    """Returns standard output, then standard error, of a run such as "default" or "2022/xnn"."""
    return text(f"benchmark_model/{run}.stdout") + text(f"benchmark_model/{run}.stderr")


def exit_code(run: str) -> int:
    """Returns the exit status of a run."""
    return int(text(f"benchmark_model/{run}.rc"))


def runs() -> list[str]:
    """Returns the names of all runs."""
    return sorted(path.relative_to(TOOL).with_suffix("").as_posix() for path in TOOL.rglob("*.stdout"))


@st.composite
def damaged_text(draw: st.DrawFn, texts: list[str]) -> str:
    """Draws one of the texts with lines lost, doubled, moved or cut, and characters changed."""
    lines = draw(st.sampled_from(texts)).splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 6))):
        index = draw(st.integers(0, len(lines) - 1))
        damage = draw(st.sampled_from(("lose", "double", "move", "cut", "change", "end")))
        if damage == "lose" and len(lines) > 1:
            del lines[index]
        elif damage == "double":
            lines.insert(draw(st.integers(0, len(lines))), lines[index])
        elif damage == "move":
            lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(index))
        elif damage == "cut":
            lines[index] = lines[index][: draw(st.integers(0, len(lines[index])))]
        elif damage == "change":
            place = draw(st.integers(0, len(lines[index])))
            new = draw(
                st.sampled_from(["-", "nan", "inf", "e999", "9" * 5000, "\t", "=", "%", "٣", "\0", ""])
            )
            lines[index] = lines[index][:place] + new + lines[index][place + 1 :]
        elif damage == "end":
            lines = lines[: index + 1]
    return "".join(lines)


@st.composite
def damaged_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Draws the bytes with some changed, put in or lost, and perhaps cut off."""
    content = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        content[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content[: draw(st.integers(0, len(content)))]) if draw(st.booleans()) else bytes(content)
