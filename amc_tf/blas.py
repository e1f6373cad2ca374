"""Keeps NumPy's and SciPy's linear algebra to one thread where TensorFlow works too."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

import scipy.linalg  # noqa: F401, what is limited must be loaded
import threadpoolctl


def one_thread() -> AbstractContextManager[Any]:
    """Returns a context in which BLAS calls of all threads of the process use one thread each.

    TensorFlow's threads stay awake for a while after their work, and two pools on the same cores wait for
    each other.
    """
    limit: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limit


@functools.cache
def _libraries() -> threadpoolctl.ThreadpoolController:
    """Finds the libraries, which takes a hundred times as long as limiting them."""
    return threadpoolctl.ThreadpoolController()
