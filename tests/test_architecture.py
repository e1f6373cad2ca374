"""The rules of the code base that no single module can hold: import order, lazy loading, docstrings."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up: a module may import only what stands above its own line here.
# A name that ends in .* is a package whose modules may import one another.
LAYERS = (
    "amc_tf.errors",
    "amc_tf.files",
    "amc_tf.settings",
    "amc_tf.cluster",
    "amc_tf.device.transport",
    "amc_tf.device.adb_keys",
    "amc_tf.device.adb_link",
    "amc_tf.device.adb_usb",
    "amc_tf.device.adb_direct",
    "amc_tf.device.adb_stream",
    "amc_tf.device.adb_server",
    "amc_tf.device.phone_facts",
    "amc_tf.device.phone",
    "amc_tf.device.discovery",
    "amc_tf.device.benchmark_output",
    "amc_tf.device.benchmark_profile",
    "amc_tf.device.benchmark_tool",
    "amc_tf.device.benchmark_run",
    "amc_tf.device.litert",
    "amc_tf.device.latency",
    "amc_tf.device.phone_scripts",
    "amc_tf.device.phone_folder",
    "amc_tf.device.workbench",
    "amc_tf.device.phone_rounds",
    "amc_tf.device.phone_state",
    "amc_tf.device.phone_session",
    "amc_tf.device.phone_meter",
    "amc_tf.device.phone_pool",
    "amc_tf.device.interleaved",
    "amc_tf.device.host_meter",
    "amc_tf.device.tensorflow_network",
    "amc_tf.device.gpu_meter",
    "amc_tf.device.store",
    "amc_tf.device.stored_meters",
    "amc_tf.device.operators",
    "amc_tf.device.tflite_file",
    "amc_tf.device.metadata_schema",
    "amc_tf.device.model_metadata",
    "amc_tf.device.template",
    "amc_tf.device.operator_times",
    "amc_tf.device.table_file",
    "amc_tf.device.table_samples",
    "amc_tf.device.table",
    "amc_tf.device.table_learning",
    "amc_tf.clone",
    "amc_tf.device.convert",
    "amc_tf.batch_normalize",
    "amc_tf.twin",
    "amc_tf.models.*",
    "amc_tf.named_function",
    "amc_tf.image_data",
    "amc_tf.image_folder",
    "amc_tf.keras_data",
    "amc_tf.data",
    "amc_tf.trace",
    "amc_tf.model_file",
    "amc_tf.layers.*",
    "amc_tf.cost",
    "amc_tf.graph",
    "amc_tf.plan",
    "amc_tf.published",
    "amc_tf.latency_model",
    "amc_tf.table_predictor",
    "amc_tf.budget",
    "amc_tf.weights",
    "amc_tf.sparse_layers",
    "amc_tf.sparsity_plan",
    "amc_tf.rebuild",
    "amc_tf.network",
    "amc_tf.distillation",
    "amc_tf.evaluate",
    "amc_tf.executor",
    "amc_tf.ray_evaluation",
    "amc_tf.table_networks",
    "amc_tf.windows",
    "amc_tf.blas",
    "amc_tf.calibration",
    "amc_tf.elimination",
    "amc_tf.importance",
    "amc_tf.reconstruct",
    "amc_tf.masked_solve",
    "amc_tf.sparse_reconstruct",
    "amc_tf.activation_fit",
    "amc_tf.sequential",
    "amc_tf.batch_norm",
    "amc_tf.candidate",
    "amc_tf.sparse_candidate",
    "amc_tf.reward",
    "amc_tf.run_folder",
    "amc_tf.score",
    "amc_tf.env",
    "amc_tf.agent.*",
    "amc_tf.controls",
    "amc_tf.elite",
    "amc_tf.search",
    "amc_tf.finalists",
    "amc_tf.recovery",
    "amc_tf.session",
    "amc_tf.sparse_session",
    "amc_tf.bundle",
    "amc_tf.bundle_maker",
    "amc_tf.augment",
    "amc_tf.fused_norm",
    "amc_tf.distribute",
    "amc_tf.hints",
    "amc_tf.finetune",
    "amc_tf.sparsity",
    "amc_tf.quantize",
    "amc_tf.latency_facts",
    "amc_tf.run_record",
    "amc_tf.timing_facts",
    "amc_tf.chart_data",
    "amc_tf.chart_frame",
    "amc_tf.charts",
    "amc_tf.figures",
    "amc_tf.page",
    "amc_tf.slides",
    "amc_tf.report",
    "amc_tf.android",
    "amc_tf.comparison",
    "amc_tf.comparison_page",
    "amc_tf.results",
    "amc_tf.operator_rows",
    "amc_tf.progress",
    "amc_tf.keras_callbacks",
    "amc_tf.summary_parts",
    "amc_tf.task",
    "amc_tf.sparse_task",
    "amc_tf.stage_record",
    "amc_tf.stages",
    "amc_tf.compress",
    "amc_tf.sparsify",
    "amc_tf.front",
    "amc_tf.front_page",
    "amc_tf.trials",
    "amc_tf.ray_trials",
    "amc_tf.sweep",
    "amc_tf.cli.*",
)
HEAVY = ("tensorflow", "keras", "tf_keras")


def module_files() -> dict[str, Path]:
    """Returns the file of every module of the package by import name."""
    files = {}
    for folder, prefix in (("amc_tf", "amc_tf"), ("device", "amc_tf.device"), ("models", "amc_tf.models")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            files[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return files


MODULE_FILES = module_files()


def rank(module: str) -> int | None:
    """Returns the line of LAYERS that a module belongs to, or None."""
    for index, layer in enumerate(LAYERS):
        package = layer.removesuffix(".*")
        if module == package or (layer.endswith(".*") and module.startswith(package + ".")):
            return index
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(tree: ast.Module, *, inside_functions: bool) -> Iterator[str]:
    """Yields the modules that a module imports when it runs, not those it imports for type checkers."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole package path"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in submodules if name in MODULE_FILES] or [str(node.module)]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        elif is_type_checking(node):
            pending.extend(node.orelse)  # type: ignore[attr-defined]  # is_type_checking saw an ast.If
            continue
        pending.extend(ast.iter_child_nodes(node))


def parse(module: str) -> ast.Module:
    return ast.parse(MODULE_FILES[module].read_text(encoding="utf-8"))


def is_heavy(name: str) -> bool:
    return name.split(".")[0] in HEAVY


@pytest.mark.parametrize("module", MODULE_FILES)
def test_imports_point_down_only(module: str) -> None:
    if module in ("amc_tf", "amc_tf.device"):
        return
    own = rank(module)
    assert own is not None, f"{module} is new: give it its line in LAYERS"
    upward = []
    for name in imported_modules(parse(module), inside_functions=True):
        if not name.startswith("amc_tf."):
            continue
        other = rank(name)
        same_package = other == own and LAYERS[own].endswith(".*")
        if not same_package and (other is None or other >= own):
            upward.append(name)
    assert upward == []


@pytest.mark.parametrize("module", MODULE_FILES)
def test_device_and_command_line_load_tensorflow_inside_functions_only(module: str) -> None:
    if module == "amc_tf" or module.startswith(("amc_tf.device", "amc_tf.cli")):
        assert [n for n in imported_modules(parse(module), inside_functions=False) if is_heavy(n)] == []


@pytest.mark.parametrize("module", [name for name in MODULE_FILES if name.startswith("amc_tf.device.")])
def test_no_device_module_but_two_doors_knows_tensorflow(module: str) -> None:
    if module not in ("amc_tf.device.convert", "amc_tf.device.tensorflow_network"):
        assert [n for n in imported_modules(parse(module), inside_functions=True) if is_heavy(n)] == []


@pytest.mark.parametrize("module", MODULE_FILES)
def test_keras_is_never_reached_through_tensorflow(module: str) -> None:
    tree = parse(module)
    assert "tensorflow.keras" not in {n[:16] for n in imported_modules(tree, inside_functions=True)}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "keras"]
    assert [n.lineno for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "tf"] == []


@pytest.mark.parametrize("module", MODULE_FILES)
def test_tensorflow_model_optimization_has_two_doors(module: str) -> None:
    names = set(imported_modules(parse(module), inside_functions=True))
    doors = ("amc_tf.sparsity", "amc_tf.quantize")
    assert module in doors or not any(name.startswith("tensorflow_model_optimization") for name in names)


@pytest.mark.parametrize("module", MODULE_FILES)
def test_no_mutable_state_at_module_level(module: str) -> None:
    """An empty container at module level is there to be filled later: a registry."""
    statements = [node for node in parse(module).body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    values = {node.lineno: ast.unparse(node.value) for node in statements if node.value}
    containers = ("[]", "{}", "list()", "dict()", "set()")
    empty = [line for line, text in values.items() if text in containers or text.startswith("defaultdict(")]
    assert empty == []


# What is stored beside a measurement, and the time of a file on a phone: wrong, they change no result.
WALL_CLOCKS = {"amc_tf.device.store": ["datetime.datetime.now"], "amc_tf.device.adb_server": ["time.time"]}


@pytest.mark.parametrize("module", MODULE_FILES)
def test_waits_and_durations_do_not_follow_a_clock_that_may_jump(module: str) -> None:
    calls = [ast.unparse(node.func) for node in ast.walk(parse(module)) if isinstance(node, ast.Call)]
    names = (
        "time.time",
        "time.localtime",
        "time.strftime",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
    )
    assert [name for name in calls if name in names] == WALL_CLOCKS.get(module, [])


@pytest.mark.parametrize("module", MODULE_FILES)
def test_everything_public_has_a_docstring(module: str) -> None:
    tree = parse(module)
    assert ast.get_docstring(tree), "the module has no docstring"
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    functions = [
        node for owner in (tree, *classes) for node in owner.body if isinstance(node, ast.FunctionDef)
    ]
    public = [*classes, *(function for function in functions if function.name[0] != "_")]
    bare = [f"line {node.lineno}: {node.name}" for node in public if not ast.get_docstring(node)]
    assert bare == []


def run_python(*args: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_importing_the_package_loads_no_tensorflow() -> None:
    code = "import sys, amc_tf.device; print([n for n in ('tensorflow', 'keras') if n in sys.modules])"
    assert run_python("-c", code).stdout == "[]\n"


def test_help_of_the_command_line_loads_no_tensorflow() -> None:
    code = (
        "import sys, contextlib\n"
        "from amc_tf.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])\n"
        "print([n for n in ('tensorflow', 'keras') if n in sys.modules], file=sys.stderr)\n"
    )
    result = run_python("-c", code)
    assert "compress" in result.stdout
    assert result.stderr == "[]\n"


@pytest.mark.parametrize("folder", ["device", "models"])
def test_nested_folders_refuse_to_be_imported_by_their_common_names(folder: str) -> None:
    result = run_python("-c", f"import {folder}")
    assert result.returncode == 1
    assert f"it is the package amc_tf.{folder}" in result.stderr
