"""A search that is killed again and again ends as one that was left alone."""

import json
import multiprocessing
import random
import signal
import time

import pytest

from amc_tf.run_folder import RunFolder
from tests import killed

_KILLS = 20
_LONGEST_S = 300.0


def start(path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])
    process = context.Process(target=killed.search, args=(path,))
    process.start()
    return process


def lines_of(path):
    episodes = path / "episodes.jsonl"
    return episodes.read_bytes().count(b"\n") if episodes.exists() else 0


def episodes_of(path):
    records = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.slow
def test_twenty_kills_in_a_row_change_nothing(tmp_path):
    alone, often = tmp_path / "alone", tmp_path / "often"
    process = start(alone)
    process.join(_LONGEST_S)
    assert process.exitcode == 0

    draw = random.Random(0)
    share = killed.SETTINGS.episodes // (_KILLS + 1)
    for number in range(_KILLS):
        process = start(often)
        goal, deadline = number * share + draw.randint(0, share), time.monotonic() + _LONGEST_S
        while lines_of(often) < goal and process.is_alive():
            assert time.monotonic() < deadline
            process.join(0.01)
        process.join(draw.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        state = RunFolder(often).load_state()
        saved = 0 if state is None else int(state["agent/episode"])
        assert lines_of(often) - saved <= killed.CHECKPOINT_EVERY
    process = start(often)
    process.join(_LONGEST_S)
    assert process.exitcode == 0

    assert episodes_of(often) == episodes_of(alone)
    assert (often / "found.json").read_text() == (alone / "found.json").read_text() != "null"
