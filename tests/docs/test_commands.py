"""Every command in the documentation is one that the program takes, and says so if it needs a phone."""

from __future__ import annotations

import re

import pytest

from amc_tf.cli import parse
from amc_tf.cli.meters import meter_kind
from tests.markdown import PAGES, ROOT, Command, blocks, command_parsers, commands, page_name, prose

COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
IDS = [f"{page_name(page)}: {' '.join(command.words[:3])}" for page, command in COMMANDS]


VERBS = command_parsers()


def needs_phone(words: tuple[str, ...]) -> bool:
    args = parse(words)
    if words[0] == "devices":
        return True
    if getattr(args, "history", False) or not hasattr(args, "meter"):
        return False
    asks = words[0] != "convert" or args.meter or args.serial  # convert times nothing by itself
    return bool(asks) and meter_kind(args) == "phone"


def test_the_documentation_has_commands_of_every_verb() -> None:
    shown = {command.words[1] for _, command in COMMANDS}
    assert sorted(name for name in VERBS if name and " " not in name and name not in shown) == []


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=IDS)
def test_a_command_is_parsed_and_marked_where_it_needs_a_phone(page, command: Command) -> None:
    words = command.words[1:]
    if "--help" in words:
        with pytest.raises(SystemExit) as caught:
            parse(words)
        assert caught.value.code == 0
        return
    assert needs_phone(words) == command.needs_phone, f"{page_name(page)}: {' '.join(command.words)}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_in_a_sentence_exist_with_their_options(page) -> None:
    """As `amc-tf devices --clean`: there are such a verb, action and options."""
    for text in re.findall(r"`amc-tf ([^`\n]+)`", prose(page)):
        words = text.split()
        name = next(name for name in (" ".join(words[:2]), words[0], "") if name in VERBS)
        assert name or words[0] in ("--help", "VERB"), f"there is no amc-tf {text}"
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        unknown = [option for option in options if option not in VERBS[name]._option_string_actions]
        assert unknown == [], f"amc-tf {text}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_options_in_a_sentence_exist_somewhere(page) -> None:
    known = {option for parser in VERBS.values() for option in parser._option_string_actions}
    of_others = ("`python ", "`tensorboard ")
    code = [text for text in re.findall(r"`[^`\n]+`", prose(page)) if not text.startswith(of_others)]
    options = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", " ".join(code)))
    assert sorted(options - known) == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_stand_in_blocks_of_a_shell_only(page) -> None:
    """In other places nothing would look at them."""
    others = [block.text for block in blocks(page) if block.language not in ("sh", "console")]
    indented = re.findall(r"^ {4,}amc-tf .*$", prose(page), re.MULTILINE)
    assert indented + re.findall(r"^amc-tf .*$", "\n".join(others), re.MULTILINE) == []


# What the pages let other programs do: Make's targets are looked up, the others are Google's and Ray's.
OTHER_PROGRAMS = ("make ", "adb ", "ray start ", "export TF_CONFIG=")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_other_programs_are_few_and_targets_of_make_exist(page) -> None:
    shells = [block.text.replace("\\\n", " ") for block in blocks(page) if block.language == "sh"]
    lines = [line for text in shells for line in text.splitlines() if line and line[0] != "#"]
    assert [line for line in lines if not line.startswith(("amc-tf ", *OTHER_PROGRAMS))] == []
    named = re.findall(
        r"(?:^|`)make (?:PYTHON=\S+ )?([\w-]+)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(set(named) - set(targets)) == []


def test_make_demo_runs_the_command_that_the_pages_show() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "\ndemo: $(VENV)/installed\n\t$(BIN)/amc-tf demo --out runs/demo --overwrite\n" in makefile
    shown = ("amc-tf", "demo", "--out", "runs/demo")
    assert shown in [command.words for command in commands(ROOT / "docs" / "commands" / "demo.md")]


def test_every_verb_has_a_page_that_shows_it() -> None:
    """Its options are added to the page when the site is built."""
    lacking = []
    for verb in (name for name in VERBS if name and " " not in name):
        page = ROOT / "docs" / "commands" / f"{verb}.md"
        if not page.is_file() or verb not in {command.words[1] for command in commands(page)}:
            lacking.append(f"docs/commands/{verb}.md")
    assert lacking == []
