"""The notebooks of the project, what their cells share, and where they are published."""

from __future__ import annotations

from pathlib import Path

import nbformat

import amc_tf

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))

# OWNER stands for an account that is not known yet. Once it is:
#     sed -i 's#OWNER/amc-tf#ACCOUNT/amc-tf#g' README.md notebooks/*.ipynb tests/notebooks/notebooks.py
REPOSITORY = "OWNER/amc-tf"
# Notebook and package are taken from one release, whose tag names the version.
TAG = f"v{amc_tf.__version__}"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
PACKAGE = f"amc-tf @ git+https://github.com/{REPOSITORY}@{TAG}"


def address(name: str) -> str:
    """Returns the address that opens a notebook, such as "quickstart.ipynb", in Colab."""
    return f"https://colab.research.google.com/github/{REPOSITORY}/blob/{TAG}/notebooks/{name}"


def badge(name: str) -> str:
    """Returns the Markdown of the badge that opens a notebook in Colab."""
    return f"[![Open in Colab]({BADGE})]({address(name)})"


def read(path: Path) -> nbformat.NotebookNode:
    """Reads a notebook as it is, without bringing it up to date."""
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT)


def cell(notebook: nbformat.NotebookNode, cell_id: str) -> nbformat.NotebookNode:
    """Returns the cell of an id, of which there is exactly one."""
    (found,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return found
