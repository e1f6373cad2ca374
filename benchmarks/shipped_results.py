"""Makes models/results/measured.json from the tables of benchmarks/RESULTS.md: a package has no benchmarks.

    python -m benchmarks.shipped_results

It holds the sections that `notebooks/reproduce_the_paper.ipynb` plots, each with its command and its table. A
test compares both files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
SHIPPED = ROOT / "models" / "results" / "measured.json"
# Key of each section that is shipped, and how its heading begins.
SECTIONS = {
    "mobilenet_v1": "MobileNet-V1, ImageNet weights, half the MACs",
    "mobilenet_v2": "MobileNet-V2, ImageNet weights, 70 % of the MACs",
    "resnet56": "ResNet-56, CIFAR-10, half the MACs",
    "resnet56_finetuned": "Fine-tuned",
    "plain20": "Plain-20, CIFAR-10, half the MACs",
    "reward_predicts": "Does the reward predict?",
    "cifar_latency": "CIFAR-10: half the latency of a MobileNet",
    "pixel1": "The latency table of a Pixel 1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(arguments)
    SHIPPED.parent.mkdir(exist_ok=True)
    SHIPPED.write_text(dump(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def dump(text: str) -> str:
    """Returns the contents of the file for the text of RESULTS.md."""
    return json.dumps(read_sections(text), indent=1, ensure_ascii=False) + "\n"


def read_sections(text: str) -> dict[str, Any]:
    """Returns title, command, columns and rows of each of SECTIONS.

    Raises:
        ValueError: If a heading is missing or not the only one, or its section has not exactly one table.
    """
    parts = re.split(r"^#{2,} (.+)$", text, flags=re.MULTILINE)
    titles, bodies = parts[1::2], parts[2::2]
    sections = {}
    for key, heading in SECTIONS.items():
        found = [index for index, title in enumerate(titles) if title.startswith(heading)]
        if len(found) != 1:
            raise ValueError(f"{len(found)} headings of the results begin with {heading!r}, but one should.")
        sections[key] = {"title": titles[found[0]], **_read_section(titles[found[0]], bodies[found[0]])}
    return sections


def _read_section(title: str, body: str) -> dict[str, Any]:
    tables = re.findall(r"(?:^\|.*\|\n?)+", body, flags=re.MULTILINE)
    if len(tables) != 1:
        raise ValueError(f"The section {title!r} has {len(tables)} tables, but one is shipped.")
    columns, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in tables[0].splitlines())
    command = "\n".join(re.findall(r"^ {4}(.*)$", body, flags=re.MULTILINE))
    return {"command": command, "columns": columns, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
