"""Functions of the user's own, named as `module:function`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amc_tf.errors import AmcError

_PATTERN = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def is_named_function(name: str) -> bool:
    """Tells whether a name has the form `module:function`."""
    return _PATTERN.fullmatch(name) is not None


def find_function(name: str, *, error: type[AmcError], expected: str = "") -> Callable[..., Any]:
    """Imports a function by its name, from the working folder or from what is installed.

    Importing runs the module's code. What the function prints goes to standard error, and what it raises
    is told in one sentence.

    Args:
        name: `module:function`.
        error: raised where there is no such function, and where it fails.
        expected: what else the name may be, for the message.

    Returns:
        The function; the working folder can be imported from while it runs.
    """
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise error(f"{name!r} has not the form module:function.")
    module_name, function_name = match.groups()
    with _working_folder_importable():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                module = importlib.import_module(module_name)
        except ImportError as reason:
            advice = f"start in the folder that holds it{f', or give {expected}' if expected else ''}"
            raise error(f"The module of {name} cannot be imported ({reason}): {advice}.") from reason
        # Whatever the user's module raises is reported in one sentence; --debug shows the rest.
        except Exception as reason:
            raise error(f"The module of {name} failed with {type(reason).__name__}: {reason}") from reason
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise error(f"{module_name} has no function {function_name}; it has {', '.join(known) or 'none'}.")
    return functools.partial(_call, function, name, error)


def _call(function: Callable[..., Any], name: str, error: type[AmcError], *arguments: Any) -> Any:
    try:
        with _working_folder_importable(), contextlib.redirect_stdout(sys.stderr):
            return function(*arguments)
    except AmcError:
        raise
    except Exception as reason:  # as above
        raise error(f"{name} failed with {type(reason).__name__}: {reason}") from reason


@contextlib.contextmanager
def _working_folder_importable() -> Iterator[None]:
    """Lets modules of the working folder be imported, which console scripts leave out of the path."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
