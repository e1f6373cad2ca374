import ast
import importlib
from pathlib import Path

import pytest

import amc_tf
from amc_tf.errors import AmcError

SOURCE = Path(__file__).parents[2] / "amc_tf" / "__init__.py"


def test_what_type_checkers_see_is_what_is_loaded_lazily() -> None:
    block = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == amc_tf._MODULE_OF
    assert {*seen, "__version__"} == set(amc_tf.__all__)


@pytest.mark.parametrize("name", amc_tf._MODULE_OF)
def test_public_name_is_the_one_of_its_module_even_when_the_module_shares_the_name(name: str) -> None:
    module_name = amc_tf._MODULE_OF[name]
    assert getattr(amc_tf, name) is getattr(importlib.import_module(module_name), name)


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'amc_tf' has no attribute 'nothing'"):
        _ = amc_tf.nothing


def test_dir_lists_the_names_not_yet_loaded() -> None:
    assert {"compress", "ChannelGraph", "__version__"} <= set(dir(amc_tf))


def test_root_error_is_public() -> None:
    assert amc_tf.AmcError is AmcError


def test_binding_a_submodule_does_not_hide_the_function_of_its_name() -> None:
    module = type(amc_tf)("amc_tf.rebuild")
    amc_tf.rebuild = module
    assert amc_tf.__dict__.get("rebuild") is not module
