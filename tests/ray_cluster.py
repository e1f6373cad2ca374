"""A Ray cluster of several nodes on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.markdown import ROOT

_STORE_BYTES = 80 << 20  # the least that Ray takes is 75 MiB


@contextlib.contextmanager
def running() -> Iterator[Any]:
    """Yields a `ray.cluster_utils.Cluster` whose head runs nothing."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # The nodes import the tests as this process does.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Any, *, num_cpus: int = 1, phones: tuple[str, ...] = ()) -> Any:
    """Adds a node with so many processors, to which these phones are attached."""
    return cluster.add_node(
        num_cpus=num_cpus,
        object_store_memory=_STORE_BYTES,
        resources={f"phone:{serial}": 1 for serial in phones},
    )
