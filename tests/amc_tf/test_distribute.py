"""Facts about fine-tuning under tf.distribute: what several replicas find is what one finds."""

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from amc_tf.distribute import Replicas, is_chief, make_strategy
from amc_tf.errors import SettingsError
from tests.markdown import ROOT

LONGEST_S = 900.0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "needs the environment variable TF_CONFIG, such as .*: it is not set"),
        ("{", "it is no such JSON"),
        ('{"cluster": {"worker": []}}', "it is no such JSON"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "an index from 0 to 0"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}', "one of its workers"),
    ],
)
def test_workers_that_are_not_described_are_refused(monkeypatch, config, words):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(SettingsError, match=words):
        make_strategy("multiworker")


def test_an_unknown_strategy_is_refused():
    with pytest.raises(SettingsError, match="no strategy 'central'; choose one of mirrored, multiworker"):
        make_strategy("central")


def test_a_process_that_is_alone_writes():
    assert is_chief(None)


@pytest.mark.parametrize(("size", "words"), [(10, "make it 9 or 12"), (2, "3 replicas: make it 3")])
def test_a_batch_that_cannot_be_shared_out_is_refused(size, words):
    with pytest.raises(SettingsError, match=words):
        Replicas(SimpleNamespace(num_replicas_in_sync=3), None, batch_size=size)


def free_ports(count):
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in with_ports]
    for server in with_ports:
        server.close()
    return ports


def start(strategy, library, out, config=None):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        **({"TF_CONFIG": json.dumps(config)} if config else {}),
    }
    words = [sys.executable, "-m", "tests.strategies", strategy, library, str(out)]
    return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def end(process, out):
    _, errors = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_two_replicas_find_what_one_finds_within_noise(tmp_path, library):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    configs = [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}} for index in (0, 1)
    ]
    outs = [tmp_path / f"worker{index}.json" for index in (0, 1)]
    both = [start("multiworker", library, out, config) for out, config in zip(outs, configs, strict=True)]
    first, second = [end(process, out) for process, out in zip(both, outs, strict=True)]
    one, mirrored = (
        end(start(name, library, tmp_path / name), tmp_path / name) for name in ("one", "mirrored")
    )
    assert [found["replicas"] for found in (one, mirrored, first, second)] == [1, 2, 2, 2]
    assert (first["is_chief"], second["is_chief"]) == (True, False)
    for found in (mirrored, first, second):
        for number in ("loss", "weights", "top1"):
            np.testing.assert_allclose(found["plain"][number], one["plain"][number], rtol=1e-4)
            # Every replica normalizes by its own half of a batch.
            np.testing.assert_allclose(found["normalized"][number], one["normalized"][number], rtol=0.1)
            np.testing.assert_allclose(found["normalized"][number], first["normalized"][number], rtol=1e-3)
    assert first["normalized"]["weights"] != one["normalized"]["weights"]
