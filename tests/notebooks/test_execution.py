"""Executes every notebook with FAST outside the checkout, with the project installed from its wheel."""

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from amc_tf.device.table import LatencyTable
from tests.notebooks.notebooks import FOLDER, PACKAGE, PATHS, ROOT, cell, read
from tests.stand_in_tool import write_stand_in

pytestmark = pytest.mark.slow
CELL_TIMEOUT_S = 1200  # on a machine that has other work
SOURCES = ("amc_tf", "device", "models", "setup.py", "pyproject.toml", "requirements.txt", "MANIFEST.in")
DOCUMENTS = ("README.md", "CHANGELOG.md", "LICENSE")
Execute = Callable[..., str]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*SOURCES, *DOCUMENTS):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", target, source], check=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Jupyter folder whose kernel "clean" has all packages of this environment but the project itself."""
    folder = tmp_path_factory.mktemp("kernel")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    paths = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    links = folder / "packages"
    links.mkdir()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not package.name.startswith(("amc_tf", "__editable__")):
            (links / package.name).symlink_to(package)
    site = Path(sysconfig.get_path("purelib", "venv", vars=paths))
    (site / "packages.pth").write_text(f"{links}\n", encoding="utf-8")
    specification = folder / "jupyter" / "kernels" / "clean"
    specification.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (specification / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "clean"}))
    return folder / "jupyter"


@pytest.fixture
def execute(kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Executes a notebook in a kernel and a folder of its own; returns what one more cell prints."""
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_PATH", str(kernels))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def run(notebook: nbformat.NotebookNode, last: str) -> str:
        notebook.cells.append(nbformat.v4.new_code_cell(last))
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=CELL_TIMEOUT_S, kernel_name="clean", resources=resources).execute()
        return "".join(output.text for output in notebook.cells[-1].outputs)

    return run


def prepared(path: Path, wheel: Path, **parameters: object) -> nbformat.NotebookNode:
    """Returns a notebook that takes the package from the wheel, with parameters changed."""
    notebook = read(path)
    install, chosen = cell(notebook, "install"), cell(notebook, "parameters")
    install.source = install.source.replace(f'"{PACKAGE}"', repr(str(wheel)))
    lines = chosen.source.splitlines()
    for name, value in {"FAST": True, **parameters}.items():
        (index,) = [index for index, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[index] = f"{name} = {value!r}"
    chosen.source = "\n".join(lines)
    return notebook


WHERE = """
import sys
import amc_tf.device
import amc_tf.models
paths = *amc_tf.__path__, *amc_tf.device.__path__, *amc_tf.models.__path__
print(all(path.startswith(sys.prefix) for path in paths))
"""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_installed_wheel_alone(path, execute, wheel):
    notebook = prepared(path, wheel)
    assert execute(notebook, WHERE) == "True\n"
    plots = [
        output
        for item in notebook.cells
        if item.cell_type == "code"
        for output in item.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(plots) >= 2


def test_with_a_phone_the_steps_at_home_run_too(execute, wheel, adbd, tmp_path):
    tool = write_stand_in(tmp_path / "benchmark_model", us_per_kb=10.0)
    path = FOLDER / "on_device_latency.ipynb"
    notebook = prepared(path, wheel, SERIAL=adbd.serial, BENCHMARK_BINARY=str(tool))
    execute(notebook, "")
    printed = "".join(
        output.text
        for item in notebook.cells
        if item.cell_type == "code"
        for output in item.outputs
        if output.output_type == "stream"
    )
    assert "Skipped" not in printed
    assert "Now measured in the report: Uniform, Found plan" in printed
    table = LatencyTable.load(tmp_path / "phone.json")
    assert f"The whole network on {table.name}: " in printed
    labels = [sample.label for sample in table.samples]
    assert labels[0] == "original" and any(label.startswith("on_device: ") for label in labels)
