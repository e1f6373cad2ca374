"""A stand-in for the official benchmark_model: runs LiteRT and writes what the official tool writes.

`tests/stand_in_tool.py` makes a program of this file: it puts an interpreter in front and a build in the
place of BUILD. Flag names occur in the build only, so that a program's dialect shows in its file as in the
official ones. Times, memory and sizes are those of this process. Two things are made up: which processor runs
the network (it is always the CPU, whatever delegate is named), and how the time splits over the operators: by
their MACs, because LiteRT's Python interface tells no operator's time.

A file `fault.json` beside the program, {"fault": NAME, "once": true}, makes it misbehave from outside; FAULTS
in `stand_in_tool.py` lists the names.
"""

import itertools
import json
import math
import os
import random
import resource
import signal
import struct
import sys
import time

# Replaced in the program; flags are name -> key, label, default.
BUILD = {}

LOGGED_ALWAYS = ("graph", "signature")
# How XNNPACK names what it makes of a TFLite operator; {} is the precision.
XNNPACK_KINDS = {
    "DEPTHWISE_CONV_2D": "Convolution (NHWC, {}) DWConv",
    "FULLY_CONNECTED": "Fully Connected (NC, {}) GEMM",
    "MEAN": "Mean (ND) Reduce2",
    "SOFTMAX": "Softmax (NC, {})",
    "ADD": "Add (ND, {})",
    "AVERAGE_POOL_2D": "Average Pooling (NHWC, {})",
    "MAX_POOL_2D": "Max Pooling (NHWC, {})",
}


def say(text, stream=sys.stdout):
    stream.write(text)
    stream.flush()


def info(text):
    say(f"INFO: {text}\n")


def litert_info(text):
    say(f"INFO: [benchmark_litert_model.h:64] {text}\n", sys.stderr)


def fail(*lines):
    for line in (*lines, "Benchmarking failed."):
        say(f"ERROR: {line}\n", sys.stderr)
    sys.exit(1)


def read_fault():
    """Returns the name of the fault that is built in or asked for beside the program."""
    path = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "fault.json")
    if not os.path.exists(path):
        return BUILD["fault"]
    with open(path) as file:
        wish = json.load(file)
    if wish.get("once"):
        os.unlink(path)
    return wish["fault"]


class Settings:
    """The command line: one attribute per flag, named by its key in the build."""

    def __init__(self, words):
        self.given = set()
        self.unconsumed = []
        for key, _, default in BUILD["flags"].values():
            setattr(self, key, default)
        for word in words:
            name, _, text = word.removeprefix("--").partition("=")
            if not word.startswith("--") or "=" not in word or name not in BUILD["flags"]:
                self.unconsumed.append(word)
                continue
            key, _, default = BUILD["flags"][name]
            setattr(self, key, parse(text, default))
            self.given.add(key)

    def get(self, key):
        """Returns the value of a flag, None where this build has no such flag."""
        return getattr(self, key, None)

    def log(self):
        info("STARTING!")
        if self.unconsumed:
            say(f"WARN: Unconsumed cmdline flags: {' '.join(self.unconsumed)}\n")
        info("Log parameter values verbosely: [0]")
        for key, label, _ in BUILD["flags"].values():
            classic = BUILD["dialect"] == "classic"
            if label and (key in self.given or (classic and key in LOGGED_ALWAYS)):
                value = getattr(self, key)
                info(f"{label}: [{int(value) if isinstance(value, bool) else show(value)}]")
        if self.get("num_threads") > 0 and BUILD["dialect"] == "classic":
            info(f"#threads used for CPU inference: [{self.num_threads}]")


def parse(text, default):
    if isinstance(default, bool):
        return text in ("true", "1")
    return type(default)(text)


def show(value):
    return f"{value:g}" if isinstance(value, float) else value


class Network:
    """The network behind --graph, and one inference of it."""

    def __init__(self, settings):
        path = settings.graph
        if not os.path.isfile(path):
            fail(
                f"Could not open '{path}'.",
                "The model allocation is null/empty",
                f"Failed to load model {path}",
            )
        self.size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(8)
        if head[4:] != b"TFL3":
            fail("The model is not a valid Flatbuffer buffer", f"Failed to load model {path}")
        self.interpreter = None
        self.input_bytes = 0
        self.scripted = scripted_times(self.size)
        if self.scripted is None:
            self._load(path, settings)

    def _load(self, path, settings):
        import numpy as np
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        no_delegate = settings.get("xnnpack") is False and "xnnpack" in settings.given
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if no_delegate else OpResolverType.AUTO
        threads = settings.num_threads if settings.num_threads > 0 else 1
        try:
            self.interpreter = Interpreter(path, num_threads=threads, experimental_op_resolver_type=resolver)
            self.interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            fail(str(error).splitlines()[0], f"Failed to load model {path}")
        generator = np.random.default_rng(0)
        for details in self.interpreter.get_input_details():
            values = generator.random(details["shape"]) * (1 if details["dtype"] == np.float32 else 100)
            self.interpreter.set_tensor(details["index"], values.astype(details["dtype"]))
            self.input_bytes += values.size * np.dtype(details["dtype"]).itemsize

    def run_us(self):
        """Runs once and returns the time in whole microseconds; a scripted time passes without a wait."""
        if self.scripted is not None:
            return next(self.scripted)
        start = time.perf_counter_ns()
        self.interpreter.invoke()
        return (time.perf_counter_ns() - start) // 1000


def scripted_times(size):
    """Returns an endless series of times where the build scripts them, else None."""
    if BUILD["run_us"]:
        return itertools.cycle(BUILD["run_us"])
    if BUILD["us_per_kb"]:
        generator = random.Random(size)
        mean = BUILD["us_per_kb"] * size / 1024
        return (max(1, round(mean * generator.gauss(1, 0.01))) for _ in itertools.count())
    return None


class Series:
    """The one-line statistics of a series of times, in microseconds."""

    def __init__(self, times):
        self.times = times
        self.ordered = sorted(times)

    @property
    def average(self):
        return sum(self.times) / len(self.times) if self.times else 0.0

    @property
    def std(self):
        average = self.average
        return math.sqrt(sum((t - average) ** 2 for t in self.times) / max(1, len(self.times)))

    def percentile(self, percent):
        if not self.ordered:
            return 0
        return self.ordered[min(len(self.ordered) - 1, len(self.ordered) * percent // 100)]

    def line(self):
        count, times = len(self.times), self.times
        if count == 0:
            text = "count=0"
        elif len(set(times)) == 1:
            text = f"count={count} curr={times[-1]}" + ("(all same)" if count > 1 else "")
        else:
            text = (
                f"count={count} first={times[0]} curr={times[-1]} min={self.ordered[0]} "
                f"max={self.ordered[-1]} avg={self.average:g} std={int(self.std)}"
            )
        if BUILD["percentiles"]:
            text += "".join(
                f" {name}={self.percentile(p)}" for name, p in (("p5", 5), ("median", 50), ("p95", 95))
            )
        return text


def run_for(network, min_runs, min_secs, max_secs, fault):
    info(
        f"Running benchmark for at least {min_runs} iterations and at least {min_secs:g} seconds but "
        f"terminate if exceeding {max_secs:g} seconds."
    )
    if fault == "hang":
        time.sleep(86400)
    if fault == "crash":
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    times, spent = [], 0
    while (
        fault != "count_zero"
        and (len(times) < min_runs or spent < min_secs * 1e6)
        and spent <= max_secs * 1e6
    ):
        times.append(network.run_us())
        spent += times[-1]
    series = Series(times)
    if fault == "cut" and min_runs > 1:
        say(f"INFO: {series.line()}"[:40])
        os._exit(0)
    info(f"{series.line()}\n")
    return series


def memory_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def log_delegate(settings, fault):
    """Says what the official tool says of a delegate that was asked for; nothing is delegated."""
    asked = next((key for key in ("gpu", "nnapi", "xnnpack") if settings.get(key)), None)
    if asked is None:
        return
    name = {"gpu": "GPU", "nnapi": "NNAPI", "xnnpack": "XNNPACK"}[asked]
    if fault == "no_delegate":
        fail(f"Failed to apply {name} delegate.")
    if BUILD["dialect"] != "classic":
        if fault == "partial_delegate":
            litert_info("Replacing 3 out of 31 node(s) with delegate (LITERT_CL) node")
            fail("[compiled_model.cc:390] Some ops are not accelerated. Add kLiteRtHwAcceleratorCpu")
        return
    how = "completely executed by the delegate."
    if fault == "partial_delegate":
        how = "partially executed by the delegate w/ 3 delegate kernels."
    info(f"{name} delegate created.")
    info(f"Explicitly applied {name} delegate, and the model graph will be {how}")


def main():
    settings = Settings(sys.argv[1:])
    fault = read_fault()
    if fault == "silent":
        return
    if fault == "garbage":
        sys.stdout.buffer.write(bytes(random.Random(0).randrange(256) for _ in range(4000)))
        return
    base_kb = memory_kb()
    settings.log()
    start = time.perf_counter_ns()
    network = Network(settings)
    if BUILD["dialect"] == "classic":
        info(f"Loaded model {settings.graph}")
    else:
        litert_info(f"Loading model from: {settings.graph}")
    log_delegate(settings, fault)
    info(f"The input model file size (MB): {network.size / 1e6:g}")
    init_us = (time.perf_counter_ns() - start) // 1000
    info(f"Initialized session in {init_us / 1000:g}ms.")
    init_kb = memory_kb() - base_kb
    limits = (settings.max_secs, fault)
    warmup = run_for(network, settings.warmup_runs, settings.warmup_min_secs, *limits)
    runs = run_for(network, settings.num_runs, settings.min_secs, *limits)
    outcome = Outcome(settings, network, warmup, runs, init_us, init_kb, memory_kb() - base_kb)
    outcome.write(fault)
    if fault == "exit":
        fail("Failed to run inference.")


class Outcome:
    """All numbers of one run, in the formats of both dialects."""

    def __init__(self, settings, network, warmup, runs, init_us, init_kb, overall_kb):
        self.settings, self.network, self.warmup, self.runs = settings, network, warmup, runs
        self.init_us, self.init_kb, self.overall_kb = init_us, init_kb, overall_kb
        self.peak_mb = memory_kb() / 1024 if settings.report_peak else 0.0

    def write(self, fault):
        if BUILD["dialect"] == "classic":
            self._write_classic()
            self._write_result(fault, info)
            self._write_profile()
            return
        self._write_compiled_model()
        self._write_result(fault, litert_info)
        if self.settings.profile:
            litert_info("\n" + "\n".join(self._regular_runs(text_row)))

    def _write_classic(self):
        first = self.warmup.times[0] if self.warmup.times else 0
        info(
            f"Inference timings in us: Init: {self.init_us}, First inference: {first}, "
            f"Warmup (avg): {self.warmup.average:g}, Inference (avg): {self.runs.average:g}"
        )
        info(
            "Note: as the benchmark tool itself affects memory footprint, the following is only "
            "APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at "
            "your discretion."
        )
        info(
            f"Memory footprint delta from the start of the tool (MB): init={self.init_kb / 1024:g} "
            f"overall={self.overall_kb / 1024:g}"
        )
        if self.peak_mb:
            info(f"Overall peak memory footprint (MB) via periodic monitoring: {self.peak_mb:g}")

    def _write_compiled_model(self):
        warmup, runs = self.warmup, self.runs
        lines = [
            "\n========== BENCHMARK RESULTS ==========",
            f"Model initialization: {self.init_us / 1000:.2f} ms",
            f"Warmup (first):       {(warmup.times or [0])[0] / 1000:.2f} ms",
            f"Warmup (avg):         {warmup.average / 1000:.2f} ms ({len(warmup.times)} runs)",
            f"Inference (avg):      {runs.average / 1000:.2f} ms ({len(runs.times)} runs)",
        ]
        if runs.times:
            lines += [
                f"Inference (min):      {runs.ordered[0] / 1000:.2f} ms",
                f"Inference (max):      {runs.ordered[-1] / 1000:.2f} ms",
                f"Inference (std):      {runs.std / 1000:.2f}",
            ]
        else:
            lines += ["No inference runs were performed."]
        lines += [
            f"Throughput:           {self._throughput():.2f} MB/s"
            if self._throughput()
            else "No throughput data available (throughput <= 0).",
            "\nMemory Usage:",
            f"Init footprint:       {self.init_kb / 1024:.2f} MB",
            f"Overall footprint:    {self.overall_kb / 1024:.2f} MB",
            f"Peak memory:          {self.peak_mb:.2f} MB"
            if self.peak_mb
            else "Peak memory usage not available. (peak_mem_mb <= 0)",
            "======================================\n",
        ]
        for line in lines:
            litert_info(line)

    def _throughput(self):
        return self.network.input_bytes / 2**20 / (self.runs.average / 1e6) if self.runs.average else 0.0

    def _write_result(self, fault, log):
        path = self.settings.get("result_file")
        if not path:
            return
        runs, warmup = self.runs, self.warmup
        ends = [(runs.ordered or [0])[0], (runs.ordered or [0])[-1]]
        latency_us = [runs.average, *ends, runs.std, *map(runs.percentile, (50, 5, 95)), self.init_us]
        latency_us += [(warmup.times or [0])[0], warmup.average]
        latency = b"".join(real(number, us / 1000) for number, us in enumerate(latency_us, 1))
        memory = whole(1, max(0, self.init_kb)) + whole(2, max(0, self.overall_kb))
        if self.peak_mb:
            memory += real(3, self.peak_mb)
        misc = real(1, self.network.size / 1e6) + whole(2, len(runs.times)) + whole(3, len(warmup.times))
        misc += real(4, self._throughput())
        content = nested(2, latency) + nested(3, memory) + nested(4, misc)
        log(f"Saving benchmark result to: {path}")
        with open(path, "wb") as file:
            file.write(content[:20] if fault == "cut_result" else content)
        log(f"Saved benchmark result to: {path}")

    def _write_profile(self):
        if not self.settings.profile:
            return
        row = csv_row if self.settings.profile_mode == "csv" else text_row
        init_ms = self.init_us / 1000
        steps = [("ModifyGraphWithDelegate", 0.75), ("AllocateTensors", 0.25)]
        init = [(name, init_ms * part, init_ms * part, part, f"{name}/0") for name, part in steps]
        sections = [
            "\n".join(["Profiling Info for Benchmark Initialization:", *tables(init, [self.init_us], row)]),
            "\n".join(["Operator-wise Profiling Info for Regular Benchmark Runs:", *self._regular_runs(row)]),
        ]
        if row is csv_row and self.settings.profile_file:
            with open(self.settings.profile_file, "w") as file:
                file.write("\n\n\n".join(sections) + "\n")
            return
        for section in sections:
            info(f"{section}\n\n\n")

    def _regular_runs(self, row):
        return tables(split_by_macs(self.network, self.runs), self.runs.times, row)


def tables(operators, times_us, row):
    """Yields the lines of a profile: run order, top ten, by node type, statistics."""
    titles = TEXT_TITLES if row is text_row else CSV_TITLES
    tops = sorted(operators, key=lambda operator: -operator[2])[:10]
    for title, chosen in (("Run Order", operators), ("Top by Computation Time", tops)):
        yield f"============================== {title} =============================="
        yield titles[0]
        share = 0.0
        for kind, first, average, portion, name in chosen:
            share += portion
            yield row(kind, [first, average], [portion, share], "1", name)
        yield ""
    yield f"Number of nodes executed: {len(operators)}"
    yield "============================== Summary by node type =============================="
    yield titles[1]
    share = 0.0
    for kind, count, average, portion in by_kind(operators):
        share += portion
        yield row(kind, [count, average], [portion, share], str(count), None)
    yield ""
    yield f"Timings (microseconds): {Series(times_us).line().partition(' p5=')[0]}"
    yield "Memory (bytes): count=0"
    yield f"{len(operators)} nodes observed"


TEXT_TITLES = (
    f"\t{'[node type]':>40}\t{'[first]':>9}\t{'[avg ms]':>9}\t{'[%]':>8}\t{'[cdf%]':>8}\t{'[mem KB]':>10}"
    "\t[times called]\t[Name]",
    f"\t{'[Node type]':>40}\t{'[count]':>9}\t{'[avg ms]':>10}\t{'[avg %]':>11}\t{'[cdf %]':>11}"
    f"\t{'[mem KB]':>10}\t[times called]",
)
CSV_TITLES = (
    "node type, first, avg_ms, %, cdf%, mem KB, times called, name",
    "node type, count, avg_ms, avg %, cdf %, mem KB, times called",
)


def text_row(kind, numbers, portions, times_called, name):
    first, average = numbers
    if name is None:
        cells = [f"{first:>9}", f"{average:>10.3f}", *(f"{p:>10.3%}" for p in portions), f"{0:>10.3f}"]
    else:
        cells = [f"{first:>9.3f}", f"{average:>9.3f}", *(f"{p:>7.3%}" for p in portions), f"{0:>10.3f}"]
    return "\t".join(["", f"{kind:>40}", *cells, f"{times_called:>9}", *([name] if name else [])])


def csv_row(kind, numbers, portions, times_called, name):
    cells = [kind, *(f"{n:g}" for n in numbers), *(f"{100 * p:g}%" for p in portions), "0", times_called]
    return ", ".join([*cells, *([name.replace(",", "\t")] if name else [])])


def split_by_macs(network, runs):
    """Returns (kind, first ms, average ms, share, name) of each operator in order."""
    macs = operator_macs(network)
    total = sum(count for _, count, _ in macs)
    first_ms, average_ms = (runs.times or [0])[0] / 1000, runs.average / 1000
    return [
        (kind, first_ms * count / total, average_ms * count / total, count / total, name)
        for kind, count, name in macs
    ]


def operator_macs(network):
    """Returns (kind, MACs or output values, name) of each operator; one made-up operator without LiteRT."""
    if network.interpreter is None:
        return [("Convolution (NHWC, F32) IGEMM", 1, "Delegate/Convolution (NHWC, F32) IGEMM:0")]
    tensors = {details["index"]: details for details in network.interpreter.get_tensor_details()}
    rows = []
    for operator in network.interpreter._get_ops_details():
        if operator["op_name"] == "DELEGATE":
            continue
        output = tensors[operator["outputs"][0]]
        values = int(output["shape"].prod())
        kind, per_value = operator["op_name"], 1
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            kernel = tensors[operator["inputs"][1]]["shape"]
            per_value = int(kernel.prod()) // int(kernel[-1 if kind[0] == "D" else 0])
            if kind == "CONV_2D" and kernel[1] == kernel[2] == 1:
                kind = "FULLY_CONNECTED"
        number = len(rows)
        name = xnnpack_kind(kind, output)
        label = f"Delegate/{name}:{number}" if name != kind else f"[{output['name']}]:{number}"
        rows.append((name, values * per_value, label))
    return rows


def xnnpack_kind(kind, output):
    precision = "F32" if output["dtype"].__name__ == "float32" else "QC8"
    if kind == "CONV_2D":
        return f"Convolution (NHWC, {precision}) IGEMM"
    return XNNPACK_KINDS.get(kind, kind).format(precision)


def by_kind(operators):
    kinds = {}
    for kind, _, average, portion, _ in operators:
        count, total, share = kinds.get(kind, (0, 0.0, 0.0))
        kinds[kind] = (count + 1, total + average, share + portion)
    return sorted(((kind, *sums) for kind, sums in kinds.items()), key=lambda row: -row[2])


def real(number, value):
    return bytes([number << 3 | 5]) + struct.pack("<f", value)


def whole(number, value):
    return bytes([number << 3]) + varint(value)


def nested(number, content):
    return bytes([number << 3 | 2]) + varint(len(content)) + content


def varint(value):
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


if __name__ == "__main__":
    main()
