"""How long a new user waits: from `git clone` to the first report, and from a Keras file to a phone's time.

    python -m benchmarks.new_user REPOSITORY --phone SERIAL --binary FILE --out runs/new_user.json

Clones the repository and runs `make demo` in the clone: environment, installation, compression, report. Then,
with what was installed there, one command converts the shipped Keras file to int8 and times it on the phone
beside float32, and another one compresses it to half of the phone's latency, with the lengths of the demo.
Without `--phone` both are left out. The seconds are those of the whole commands.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MODEL = "models/demo_mobilenet.keras"
_LENGTHS = "--episodes 60 --search-images 300 --calibration-images 300 --finetune-epochs 6".split()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", help="what git clones: an address or a folder")
    parser.add_argument("--phone", metavar="SERIAL", help="of a phone, or HOST:PORT")
    parser.add_argument("--binary", type=Path, help="benchmark tool for the phone; default: the official one")
    parser.add_argument("--python", default=sys.executable, help="what makes the environment")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(arguments)
    binary = ["--benchmark-binary", str(args.binary.resolve())] if args.binary else []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "amc-tf")
        steps = [
            _time(["git", "clone", "--quiet", args.repository, str(clone)], Path(folder)),
            _time(["make", f"PYTHON={args.python}", "demo"], clone),
        ]
        results = {"demo": _gain(clone / "runs" / "demo")}
        if args.phone:
            phone = ["-s", args.phone, *binary]
            program = ".venv/bin/amc-tf"
            data = ["--data", "digits"]
            convert = ["convert", _MODEL, "--precision", "int8", *data, "--out", "model_int8.tflite"]
            steps.append(_time([program, *convert, *phone], clone))
            compress = ["compress", _MODEL, *data, "--budget", "latency=0.5", "--out", "runs/phone"]
            steps.append(_time([program, *compress, *phone, *_LENGTHS], clone))
            results["phone"] = _gain(clone / "runs" / "phone")
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        )
    report = {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "first_report_seconds": steps[0]["seconds"] + steps[1]["seconds"],
        "steps": steps,
        "results": results,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0


def _time(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs a command in a folder, and stops everything where it fails."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True)
    return {"command": shlex.join(command), "seconds": round(time.perf_counter() - started, 1)}


def _gain(run: Path) -> Mapping[str, Any]:
    """Returns what a run has gained; its report must be there."""
    if not (run / "report.html").is_file():
        raise FileNotFoundError(f"{run} has no report.html.")
    summary = json.loads((run / "summary.json").read_text())
    names = ("baseline", "finetuned", "int8_baseline", "int8")
    return {
        name: {
            "top1": row["top1"],
            "latency_ms": {key: row["latency_ms"][key] for key in ("median", "ratio")},
        }
        for name in names
        if (row := summary.get(name))
    }


if __name__ == "__main__":
    sys.exit(main())
