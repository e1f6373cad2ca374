"""Facts about every notebook that can be told without running it."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from tests.notebooks.notebooks import BADGE, FOLDER, PACKAGE, PATHS, ROOT, address, badge, cell, read

SHARED_CELLS = ("install", "quiet")


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path):
    return read(path)


def test_a_notebook_is_valid_and_written_as_nbformat_writes_it(path, notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert path.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"


def test_no_outputs_and_no_traces_of_a_run_are_stored(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_ids_of_cells_are_words_so_that_they_stay(notebook):
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell.id) for cell in notebook.cells)


def test_a_notebook_begins_with_its_badge_the_installation_and_the_parameters(path, notebook):
    title, install, parameters = notebook.cells[:3]
    assert title.source.startswith("# ") and badge(path.name) in title.source
    assert install.id == "install" and f'PACKAGE = "{PACKAGE}"' in install.source
    assert parameters.metadata.tags == ["parameters"]
    assert parameters.source.startswith("FAST = False  # True: ")
    assert all(re.match(r"[A-Z_]+ = \S+  # ", line) for line in parameters.source.splitlines())


def test_no_other_address_of_the_repository_stands_in_a_notebook(path, notebook):
    text = path.read_text(encoding="utf-8").replace(badge(path.name), "").replace(PACKAGE, "")
    assert "/amc-tf" not in text


@pytest.mark.parametrize("cell_id", SHARED_CELLS)
def test_cells_that_all_notebooks_have_are_the_same_in_all(cell_id):
    assert len({cell(read(path), cell_id).source for path in PATHS}) == 1


def test_only_the_installation_runs_other_programs(notebook):
    for item in notebook.cells:
        if item.cell_type == "code" and item.id != "install":
            assert not re.search(r"subprocess|os\.system|^\s*[!%]", item.source, re.MULTILINE)


def test_the_code_passes_the_linter_and_the_formatter():
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *words, str(FOLDER)], capture_output=True)
        assert done.returncode == 0, done.stdout.decode()


def test_the_readme_lists_every_notebook_with_its_badge():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in PATHS:
        assert f"- [{path.stem}](notebooks/{path.name}) [![Open in Colab][colab]][{path.stem}]\n" in readme
        assert f"\n[{path.stem}]: {address(path.name)}\n" in readme
    assert f"\n[colab]: {BADGE}\n" in readme


def run_install(monkeypatch, *, importable, versions_after=None):
    """Runs the cell in a session that has loaded numpy 1.0; returns the commands that it gave."""
    versions, commands = {"numpy": "1.0", "amc-dependency": "1.0"}, []

    def install(command, *, check):
        assert check
        commands.append(command)
        versions.update(versions_after)

    def distributions():
        return [SimpleNamespace(name=name, version=version) for name, version in versions.items()]

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: importable)
    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    monkeypatch.setattr(
        importlib.metadata,
        "packages_distributions",
        lambda: {"sys": ["numpy"], "amc_unloaded": ["amc-dependency"]},
    )
    monkeypatch.setattr(subprocess, "run", install)
    exec(cell(read(PATHS[0]), "install").source, {})  # noqa: S102, a cell of ours
    return commands


def test_nothing_is_installed_where_the_package_can_be_imported(monkeypatch):
    assert run_install(monkeypatch, importable=object()) == []


def test_the_package_is_installed_into_the_running_kernel(monkeypatch):
    (command,) = run_install(
        monkeypatch, importable=None, versions_after={"amc-tf": "0.1.0", "amc-dependency": "2.0"}
    )
    assert command == [sys.executable, "-m", "pip", "install", "--quiet", PACKAGE]


def test_a_session_that_has_loaded_what_was_changed_is_told_to_restart(monkeypatch):
    with pytest.raises(
        RuntimeError, match=r"earlier versions are in use of \['numpy'\]: choose Runtime > Restart session"
    ):
        run_install(monkeypatch, importable=None, versions_after={"amc-tf": "0.1.0", "numpy": "2.2.6"})
