"""Connects to a Ray cluster; the only place that imports Ray."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from amc_tf.errors import ClusterError

# Of every process that Ray starts for us; its own threads are as many as the processors it was given.
_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
_ANSWER_S = 10.0


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connects to a cluster, and disconnects at the end; a connection that is there already is used and kept.

    Args:
        address: HOST:PORT of the head node, "auto" for the cluster that this machine is a node of, or "local"
            to start one on this machine, which ends with the connection.

    Yields:
        The module `ray`.

    Raises:
        ClusterError: if Ray is not installed, or there is no cluster at that address.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ClusterError('Ray is not installed: pip install "amc-tf[ray]".') from error
    if ray.is_initialized():
        yield ray
        return
    with _signals_kept():
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ClusterError(
                f"There is no Ray cluster at {address} ({reason}): start one with ray start --head, or give "
                "the address local for one on this machine."
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nothing answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


def task_options(num_cpus: int, num_gpus: float = 0.0) -> dict[str, Any]:
    """Returns what a task or an actor of ours asks of Ray, without the resources of its own."""
    threads = {"TF_NUM_INTRAOP_THREADS": str(num_cpus), "TF_NUM_INTEROP_THREADS": str(num_cpus)}
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "runtime_env": {"env_vars": {**_ENVIRONMENT, **threads}},
        "scheduling_strategy": "SPREAD",
    }


def check_has(ray: Any, resources: Mapping[str, float], *, hint: str) -> None:
    """Checks that a node has all of these at once, idle or busy: Ray would wait for one for ever.

    Args:
        ray: what `connected` yields.
        resources: amounts by Ray's name.
        hint: what to do, the end of the sentence.

    Raises:
        ClusterError: if no node has them.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in resources.items()) for node in nodes):
        wanted = " and ".join(f"{name} {amount:g}" for name, amount in resources.items() if amount)
        raise ClusterError(f"No node of the Ray cluster has {wanted}: {hint}.")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undoes what Ray makes of SIGTERM, which would end a command without its own end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
