"""MkDocs hooks: arguments of the commands, pages that stand elsewhere, the sources for the reference."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
# Pages whose text stands in a file that people read without the site, too.
_ELSEWHERE = {"results.md": "benchmarks/RESULTS.md", "changelog.md": "CHANGELOG.md"}
_COMMANDS = "commands/"


def on_startup(command: Literal["build", "gh-deploy", "serve"], dirty: bool) -> None:
    """Lays the sources out as they are installed, for mkdocstrings, which reads them and imports nothing."""
    package = ROOT / "build" / "docs-source" / "amc_tf"
    shutil.rmtree(package, ignore_errors=True)
    only_python = shutil.ignore_patterns("__pycache__", "*.keras", "*.npz", "*.json")
    shutil.copytree(ROOT / "amc_tf", package, ignore=only_python)
    for nested in ("device", "models"):
        shutil.copytree(ROOT / nested, package / nested, ignore=only_python)
    for module in package.rglob("*.py"):
        # What mkdocstrings shows as code; under the singular it takes >>> for a quotation.
        text = re.sub(
            r"^( +)Example:$", r"\1Examples:", module.read_text(encoding="utf-8"), flags=re.MULTILINE
        )
        module.write_text(text, encoding="utf-8")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that stand elsewhere."""
    for page, source in _ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to files that are pages here to these, and adds its arguments to the page of a command."""
    for own, source in _ELSEWHERE.items():
        markdown = markdown.replace(f"../{source}", own)
    name = page.file.src_uri
    if not name.startswith(_COMMANDS) or name == f"{_COMMANDS}index.md":
        return markdown
    verb = name.removeprefix(_COMMANDS).removesuffix(".md")
    parsers = command_parsers()
    if verb not in parsers:
        raise PluginError(f"docs/{name} is about a command that amc-tf does not have.")
    return f"{markdown}\n\n{describe(parsers[verb])}\n"


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Returns the parser of each verb, by its name."""
    sys.path.insert(0, str(ROOT))  # the clone that the pages are of, wherever mkdocs was started
    from amc_tf.cli import make_parser

    return _subparsers(make_parser())


def describe(parser: argparse.ArgumentParser) -> str:
    """Returns the arguments of a command as Markdown, those of each action below a heading of its own."""
    actions = _subparsers(parser)
    if actions:
        return "\n\n".join(_section(action.prog, action) for action in actions.values())
    return _section("Arguments", parser)


def _section(title: str, parser: argparse.ArgumentParser) -> str:
    summary = f"{parser.description}\n\n" if title == parser.prog else ""
    return f"## {title}\n\n{summary}" + "\n\n".join(_arguments(parser))


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields a definition for each argument, those without a dash first."""
    arguments = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for argument in sorted(arguments, key=lambda argument: bool(argument.option_strings)):
        # argparse fills help texts in with the argument's own attributes.
        help_text = (argument.help or "") % {**vars(argument), "prog": parser.prog}
        yield f"`{_usage(argument)}`{' (required)' if _is_required(argument) else ''}\n:   {help_text}"


def _usage(argument: argparse.Action) -> str:
    """Writes how an argument is given: "-s, --serial SERIAL"."""
    choices = None if argument.choices is None else f"{{{','.join(map(str, argument.choices))}}}"
    value = "" if argument.nargs == 0 else str(argument.metavar or choices or argument.dest)
    return " ".join(filter(None, (", ".join(argument.option_strings), value)))


def _is_required(argument: argparse.Action) -> bool:
    return bool(argument.option_strings) and argument.required


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, Any]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}
