"""The site builds without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.markdown import ROOT, command_parsers

pytestmark = pytest.mark.slow


class Links(HTMLParser):
    """Collects what a page links to and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.targets += [given[name] for name in ("href", "src") if name in given]


def build(repository: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(words, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    result = build(ROOT, folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_link_within_the_site_has_its_page_and_its_anchor(site, pages):
    broken = []
    for page, links in pages.items():
        folder = site if page.name == "404.html" else page.parent
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or target.startswith("//"):
                continue
            file = (folder / unquote(parts.path).lstrip("/")).resolve() if parts.path else page
            file = file / "index.html" if file.is_dir() else file
            known = pages[file].anchors if file in pages else set()
            if not file.exists() or (
                parts.fragment and unquote(parts.fragment) not in known | {"__toc", "__search"}
            ):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert len(pages) > 30
    assert broken == []


def test_pages_load_nothing_from_elsewhere(site):
    """Scripts, styles, fonts and pictures: the site works without a network."""
    loaded = []
    for page in site.rglob("*.html"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if ("<script" in line or "<img" in line or 'rel="stylesheet"' in line) and "//" in line.partition(
                "src="
            )[2]:
                loaded.append(f"{page.name}: {line.strip()[:100]}")
    assert loaded == []


def test_the_page_of_a_command_lists_each_of_its_options(site):
    parsers = command_parsers()
    leaves = [name for name in parsers if name and not any(other.startswith(f"{name} ") for other in parsers)]
    assert {"compress", "table build"} <= set(leaves)
    lacking = []
    for name in leaves:
        text = (site / "commands" / f"{name.split()[0]}.html").read_text(encoding="utf-8")
        options = set(parsers[name]._option_string_actions) - {"-h", "--help"}
        lacking += [f"{name} {option}" for option in options if option not in text]
    assert lacking == []


def test_the_reference_shows_docstrings(site):
    text = (site / "reference.html").read_text(encoding="utf-8")
    assert "Finds a pruning plan within a budget, fine-tunes the slim network" in text
    assert "features 1-7 are 0" in text  # of the environment's specification
    assert "Raised when a phone cannot be reached" in text
    assert '<span class="gp">&gt;&gt;&gt; </span>' in text  # an example, as code


def test_a_broken_link_stops_the_build(tmp_path):
    clone = tmp_path / "clone"
    for name in ("docs", "amc_tf", "device", "models", "benchmarks"):
        shutil.copytree(
            ROOT / name, clone / name, ignore=shutil.ignore_patterns("*.keras", "*.npz", "__pycache__")
        )
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, clone)
    with (clone / "docs" / "words.md").open("a") as page:
        page.write("\nSee [nothing](phone.md#no-such-heading).\n")
    result = build(clone, tmp_path / "site")
    assert result.returncode == 1
    assert "no-such-heading" in result.stderr
