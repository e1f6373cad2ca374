"""Errors that the documentation quotes are in the code, and it explains every error about a phone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.markdown import ROOT

HOLE = "\0"  # what an f-string fills in
DOCS = ROOT / "docs"
# Modules whose errors a user of a phone may see, besides all PhoneErrors of device/.
PHONE_MODULES = "phone* workbench benchmark_tool benchmark_run transport adb_*".split()
PHONE_ERRORS = ("PhoneError", "PhoneTimeoutError", "NotInTimeError")


def template(node: ast.AST) -> str | None:
    """Returns the text of a string in the source, holes where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    return None


def sources(*patterns: str) -> dict[Path, ast.Module]:
    paths = sorted({path for pattern in patterns for path in ROOT.glob(pattern)})
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


TEMPLATES = [
    text
    for tree in sources("amc_tf/**/*.py", "device/*.py").values()
    for node in ast.walk(tree)
    if (text := template(node))
]


def is_quoted_from(quote: str, text: str) -> bool:
    """Whether the parts of a quote, between its ellipses, stand in a text in their order."""
    position = 0
    for part in quote.replace("\\|", "|").split("…"):
        found = text.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return True


def quotes(page: str) -> list[str]:
    """Returns what stands in the first column of the tables of a page, as it is quoted there."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


def sentences(call: ast.Call, tree: ast.Module) -> list[str]:
    """Returns the messages that an error may be made with, if they are written in its module."""
    argument = call.args[0] if call.args else None
    if argument is None:
        return []
    if isinstance(argument, ast.Name):
        values = [
            node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and [ast.unparse(target) for target in node.targets] == [argument.id]
        ]
    elif isinstance(argument, ast.Call):
        made_by = ast.unparse(argument.func)
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == made_by]
        values = [
            node.value
            for function in functions
            for node in ast.walk(function)
            if isinstance(node, ast.Return) and node.value is not None
        ]
    else:
        values = [argument]
    return [text for value in values if (text := template(value)) and text.rstrip().endswith(".")]


def errors_of_phones() -> list[str]:
    found = []
    for path, tree in sources("device/*.py").items():
        kinds = PHONE_ERRORS
        if any(path.match(f"{pattern}.py") for pattern in PHONE_MODULES):
            kinds = (*PHONE_ERRORS, "MeasurementError")
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds:
                found += [f"{path.name}: {text}" for text in sentences(node, tree)]
    return found


@pytest.mark.parametrize("quote", quotes("phone-errors.md"))
def test_a_quoted_error_is_in_the_code(quote: str) -> None:
    assert any(is_quoted_from(quote, text) for text in TEMPLATES)


def test_every_error_about_a_phone_is_explained() -> None:
    explained, errors = quotes("phone-errors.md"), errors_of_phones()
    assert len(errors) > 40
    assert [error for error in errors if not any(is_quoted_from(quote, error) for quote in explained)] == []


REASONS = re.findall(r"^\|[^|]+\| `([^`]+)`", (DOCS / "limits.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("quote", REASONS)
def test_a_quoted_reason_to_freeze_channels_is_in_the_code(quote: str) -> None:
    assert any(is_quoted_from(quote, text) for text in TEMPLATES)
