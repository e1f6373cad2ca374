import os

import pytest

from amc_tf.cli import console
from amc_tf.device.phone_state import CoolDown

GOOD = {
    "episode": 9,
    "kind": "search",
    "reward": -0.25,
    "best_reward": None,
    "top1": 0.75,
    "macs": 1_200_000,
    "latency_ms": 1.5,
}
DROPPED = {**dict.fromkeys(GOOD), "episode": 3, "kind": "dropped", "reason": "The phone is gone."}


def test_lines_tell_every_tenth_episode_and_every_one_that_was_dropped(capsys):
    progress = console.LineProgress()
    for record in (DROPPED, {**GOOD, "episode": 4}, GOOD):
        progress.episode(record, 40)
    assert capsys.readouterr().err.splitlines() == [
        "episode 4/40: dropped The phone is gone.",
        "episode 10/40: reward -0.250, best none, top-1 75.0%, MACs 1.2M, ms 1.500",
    ]


@pytest.mark.parametrize("record", [GOOD, DROPPED], ids=["good", "dropped"])
def test_a_bar_moves_with_every_episode(capsys, record):
    progress = console.TerminalProgress()
    progress.stage("search")
    progress.episode(record, 40)
    progress.stage("report")
    error = capsys.readouterr().err
    assert f"{record['episode'] + 1}/40" in error
    assert ("episode 4 was dropped: The phone is gone." in error) == (record is DROPPED)


WAITS = (
    CoolDown(0.0, 600.0, 42.3, 1),
    CoolDown(5.0, 600.0, 41.0, 0),
    CoolDown(10.2, 600.0, 38.9, 0, is_over=True),
)


def test_the_wait_for_a_hot_phone_is_told_at_its_begin_and_its_end(capsys):
    show = console.make_cool_down(quiet=False)
    for wait in WAITS:
        show(wait)
    show(CoolDown(0.0, 600.0, None, 2))
    show(CoolDown(0.0, 600.0, 28.5, 3))
    assert capsys.readouterr().err.splitlines() == [
        "The phone is too hot (battery 42.3 °C, thermal status 1 of 6); it gets up to 600 s to cool down.",
        "The phone was given 10 s to cool down (battery 38.9 °C, thermal status 0 of 6).",
        "The phone is too hot (thermal status 2 of 6); it gets up to 600 s to cool down.",
        "The phone is too hot (battery 28.5 °C, thermal status 3 of 6); it gets up to 600 s to cool down.",
    ]


def test_on_a_terminal_the_wait_for_a_hot_phone_is_a_bar(capsys):
    show = console.CoolDownBar()
    for wait in (*WAITS, *WAITS):
        show(wait)
    error = capsys.readouterr().err
    assert "the phone cools down" in error
    assert "0/600" in error


def test_quiet_means_no_word_of_a_hot_phone():
    assert console.make_cool_down(quiet=True) is None


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_fast_kernels_are_on_unless_the_user_turns_them_off(monkeypatch, given, expected):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    console.prepare(debug=True, needs_keras=False)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == expected
