"""Facts about benchmarks/new_user.py, on a repository whose `make demo` writes a made-up run."""

import json
import subprocess
import sys

import pytest

from amc_tf.cli import parse
from benchmarks import new_user
from tests.amc_tf.test_report import make_summary, write_run

MAKEFILE = """demo:
\tmkdir -p runs .venv/bin
\tcp -r made-up runs/demo
\tcp program .venv/bin/amc-tf
\tchmod +x .venv/bin/amc-tf
"""
PROGRAM = """#!/bin/sh
[ "$1" = convert ] || cp -r made-up runs/phone
"""
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@example.com"]


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    summary = make_summary()
    for row in summary.values():
        if isinstance(row, dict) and row.get("latency_ms"):
            row["latency_ms"]["ratio"] = 0.5
    write_run(folder / "made-up", summary, [])
    (folder / "made-up" / "report.html").write_text("")
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / "program").write_text(PROGRAM)
    for words in (["init", "--quiet"], ["add", "."], [*IDENTITY, "commit", "--quiet", "-m", "one"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_each_step_is_timed_with_a_command_that_the_program_takes(repository, tmp_path):
    out = tmp_path / "new_user.json"
    words = [str(repository), "--phone", "A1", "--python", sys.executable, "--out", str(out)]
    assert new_user.main(words) == 0
    report = json.loads(out.read_text())
    first, demo, *on_phone = report["steps"]
    assert first["command"].startswith("git clone --quiet ")
    assert demo["command"] == f"make PYTHON={sys.executable} demo"
    assert report["first_report_seconds"] == pytest.approx(first["seconds"] + demo["seconds"])
    programs = [step["command"].split() for step in on_phone]
    assert [words[:2] for words in programs] == [
        [".venv/bin/amc-tf", verb] for verb in ("convert", "compress")
    ]
    assert [parse(words[1:]).model for words in programs] == ["models/demo_mobilenet.keras"] * 2
    assert [parse(words[1:]).serial for words in programs] == [["A1"]] * 2
    assert report["results"]["phone"]["finetuned"]["latency_ms"] == {"median": 1.67, "ratio": 0.5}


def test_a_demo_without_a_report_is_no_first_report(repository, tmp_path):
    (repository / "made-up" / "report.html").unlink()
    subprocess.run(["git", *IDENTITY, "commit", "--quiet", "-am", "two"], cwd=repository, check=True)
    with pytest.raises(FileNotFoundError, match=r"has no report\.html"):
        new_user.main([str(repository), "--python", sys.executable, "--out", str(tmp_path / "x.json")])
