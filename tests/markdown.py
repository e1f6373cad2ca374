"""What the documentation says, taken apart: its pages, their blocks of code, and the commands in them."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from amc_tf.cli import make_parser

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
# The one way in which a command, or a block of Python, says that it needs a phone.
PHONE_MARK = "# needs a phone"

_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "console")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: "sh", "pycon" and the like.
        title: file name that stands in its title, or "".
        text: what is in it.
    """

    language: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of amc-tf.

    Attributes:
        words: all words, "amc-tf" the first of them.
        needs_phone: whether the comment behind it says so.
        output: what a "console" block shows below it, else "".
    """

    words: tuple[str, ...]
    needs_phone: bool
    output: str = ""


def page_name(page: Path) -> str:
    """Names a page in the output of the tests."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Returns the fenced blocks of a page."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    titles = [re.search(r'title="([^"]+)"', info) for _, info, _ in found]
    return [
        Block(language, title[1] if title else "", text)
        for (language, _, text), title in zip(found, titles, strict=True)
    ]


def prose(page: Path) -> str:
    """Returns a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page: Path) -> list[Command]:
    """Returns the command lines of amc-tf in the blocks of a page, in their order."""
    return [command for block in blocks(page) if block.language in _SHELLS for command in _read(block)]


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each command, those of actions by both words: "table build"."""
    found: dict[str, argparse.ArgumentParser] = {}
    pending = [("", make_parser())]
    while pending:
        name, parser = pending.pop()
        found[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += [(f"{name} {verb}".strip(), child) for verb, child in action.choices.items()]
    return found


def _read(block: Block) -> Iterator[Command]:
    if block.language == "console":
        for part in block.text.split("$ ")[1:]:
            line, _, output = part.partition("\n")
            yield _command(line, output)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("amc-tf "):
            yield _command(line, "")


def _command(line: str, output: str) -> Command:
    return Command(tuple(shlex.split(line, comments=True)), PHONE_MARK in line, output)
