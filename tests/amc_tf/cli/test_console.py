import pytest

from amc_tf.cli import console

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
