"""Every command and example of the documentation that needs no phone is run, in small."""

from __future__ import annotations

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

from amc_tf.cli import main
from tests.docs.in_small import SMALL_SEARCH, runs_elsewhere, small
from tests.markdown import PAGES, PHONE_MARK, ROOT, blocks, commands, page_name

RUNNABLE = [page for page in PAGES if any(not command.needs_phone for command in commands(page))]
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]
WITH_DOCTESTS = [page for page in PAGES if any(block.language == "pycon" for block in blocks(page))]
MODULES_WITH_DOCTESTS = sorted(
    path
    for folder in ("amc_tf", "device", "models")
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^ +>>> (?!.*\+SKIP)", path.read_text(encoding="utf-8"), re.MULTILINE)
)

pytestmark = pytest.mark.slow


def write_titled(page: Path, folder: Path) -> None:
    """Writes the blocks whose title is the name of a file."""
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text)


@pytest.mark.parametrize("page", RUNNABLE, ids=page_name)
def test_the_commands_of_a_page_run_one_after_the_other(page, at_work, capsys):
    write_titled(page, at_work)
    for command in commands(page):
        if command.needs_phone or runs_elsewhere(command, page):
            continue
        if "--ray" in command.words and importlib.util.find_spec("ray") is None:
            continue
        if "--help" in command.words:
            with pytest.raises(SystemExit, match="0"):
                main(command.words[1:])
            continue
        capsys.readouterr()
        words = command.words[1:] if command.output else small(*command.words[1:])
        assert main(words) == 0, f"{' '.join(command.words)}: {capsys.readouterr().err}"
        assert not command.output or capsys.readouterr().out == command.output


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_name)
def test_the_python_of_a_page_runs(page, at_work):
    for block in blocks(page):
        if block.language != "python":
            continue
        code = compile(block.text, page_name(page), "exec")
        if block.text.startswith(PHONE_MARK):
            continue
        if "amc_tf.compress(" in block.text:
            text, number = re.subn(r"(budget=amc_tf\.Budget)", SMALL_SEARCH + r"\1", block.text)
            assert number == 1
            code = compile(text, page_name(page), "exec")
        exec(code, {"__name__": "example"})  # noqa: S102, the page's own text


@pytest.mark.parametrize("page", WITH_DOCTESTS, ids=page_name)
def test_the_examples_of_a_page_give_what_they_show(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_titled(page, tmp_path)
    check("\n".join(block.text for block in blocks(page) if block.language == "pycon"), page)


@pytest.mark.parametrize("path", MODULES_WITH_DOCTESTS, ids=page_name)
def test_the_examples_of_a_module_give_what_they_show(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    name = re.sub(r"^(device|models)\b", r"amc_tf.\1", name)
    module = __import__(name, fromlist=["_"])
    results = doctest.testmod(module)
    assert (results.failed, results.attempted > 0) == (0, True)


def check(text: str, page: Path) -> None:
    """Runs the lines that begin with >>> in one namespace, and compares what they print."""
    told: list[str] = []
    test = doctest.DocTestParser().get_doctest(text, {}, page_name(page), str(page), 0)
    results = doctest.DocTestRunner().run(test, out=told.append)
    assert results.attempted > 0
    assert results.failed == 0, "".join(told)
