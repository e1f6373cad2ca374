"""What the pages name exists, what they measured is recorded, and they keep to the house's words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import amc_tf
from tests.markdown import PAGES, ROOT, blocks, page_name, prose

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    names = re.findall(r"`((?:amc_tf|device|models|tests|benchmarks|docs)/[\w./-]*)`", prose(page))
    names = [re.sub(r"^amc_tf/(device|models)/", r"\1/", name) for name in names]
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_names_of_the_package_that_a_page_uses_exist(page: Path) -> None:
    """As `amc_tf.sweep`, in sentences and in the reference."""
    for name in re.findall(r"(?:`|^::: )(amc_tf(?:\.\w+)+)", prose(page), re.MULTILINE):
        parts = name.split(".")[1:]
        files = [ROOT / "amc_tf" / Path(*parts[:end]) for end in range(len(parts), 0, -1)]
        files += [ROOT / Path(*parts[:end]) for end in range(len(parts), 0, -1)]
        module = next((file.with_suffix(".py") for file in files if file.with_suffix(".py").is_file()), None)
        is_public = parts[0] in amc_tf.__all__ and len(parts) == 1
        is_package = (ROOT / parts[0] / "__init__.py").is_file() and len(parts) == 1
        defined = module is not None and (parts[-1] == module.stem or f" {parts[-1]}" in module.read_text())
        assert is_public or is_package or defined, name


def test_the_reference_has_all_that_the_package_offers() -> None:
    shown = {
        name.rpartition(".")[2]
        for name in re.findall(r"^::: (.+)$", prose(DOCS / "reference.md"), re.MULTILINE)
    }
    missing = set(amc_tf.__all__) - shown - {"__version__", "AmcError"}  # the errors are shown by module
    assert sorted(missing) == []
    assert "errors" in shown


def numbers(text: str) -> list[str]:
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]|-\d)", text)


def is_recorded(number: str, recorded: list[str]) -> bool:
    digits = len(number.partition(".")[2])
    return any(round(float(other), digits) == float(number) for other in recorded)


def rows_below(page: Path, heading: str) -> str:
    section = page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Measured"), ("docs/index.md", "The first result")]
)
def test_measured_numbers_are_those_of_the_results(page: str, heading: str) -> None:
    recorded = numbers((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    shown = numbers(rows_below(ROOT / page, heading))
    assert len(shown) > 8
    assert [number for number in shown if not is_recorded(number, recorded)] == []


def test_numbers_with_a_link_to_the_results_are_recorded_there() -> None:
    """As in [84.2 to 84.7](../benchmarks/RESULTS.md#...)."""
    recorded = numbers((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    links = [
        text
        for page in PAGES
        for text in re.findall(r"\[([^\]]+)\]\((?:\.\./)+benchmarks/RESULTS\.md#", page.read_text())
    ]
    shown = [number for text in links for number in numbers(text)]
    assert len(shown) > 10
    assert [number for number in shown if not is_recorded(number, recorded)] == []


def avoided_words() -> list[str]:
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", (DOCS / "words.md").read_text(), re.MULTILINE)
    return [word.strip() for row in rows[2:] for word in row.split(",") if word.strip()]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in ("words.md", "neighbours.md")], ids=page_name
)
def test_a_page_keeps_to_the_word_list(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split()).casefold()
    assert [word for word in avoided_words() if re.search(rf"\b{re.escape(word.casefold())}s?\b", text)] == []


def test_the_word_list_is_read() -> None:
    assert "preserve ratio" in avoided_words() and len(avoided_words()) > 10


def test_links_between_pages_lead_somewhere() -> None:
    """Quickly; anchors are checked when the site is built."""
    broken = [
        f"{page_name(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose(page))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)]
    assert [page for page in pages if f" {page}\n" not in navigation] == []


def test_pages_are_not_wider_than_the_house_allows() -> None:
    """But for tables, code and the addresses of links."""
    wide = [
        f"{page_name(page)}: {line[:60]}"
        for page in PAGES
        for line in prose(page).splitlines()
        if len(line) > 125 and not line.startswith("|") and "]: https://" not in line
    ]
    assert wide == []


def test_blocks_name_their_language() -> None:
    assert [page_name(page) for page in PAGES for block in blocks(page) if not block.language] == []
