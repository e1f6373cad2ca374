"""Facts about amc_tf/finalists.py."""

import dataclasses

import pytest

from amc_tf.cost import Cost
from amc_tf.finalists import Finalist, best_scores, choose
from amc_tf.score import Score


def scored(width, reward, *, macs=100, feasible=True):
    return Score((width,), reward, 1.0 + reward, 1.0, 1.0 + reward, Cost(macs, 1), None, feasible)


def finalist(score):
    return Finalist(score, score.reward)


def choose_among(uniform, found, *, gains=None, others=()):
    """Chooses where recovery adds `gains` to the rewards; returns the choice and the widths it recovered."""
    looked_at = []

    def recover(score):
        looked_at.append(score.widths[0])
        return finalist(
            dataclasses.replace(score, reward=score.reward + (gains or {}).get(score.widths[0], 0.0))
        )

    choice = choose(uniform, found, recover=recover, others=others)
    return choice, looked_at


def test_the_best_after_recovery_is_chosen_not_the_best_before():
    episodes = [scored(1, -0.3), scored(2, -0.2), scored(3, -0.25)]
    choice, _ = choose_among(scored(9, -0.4), episodes, gains={3: 0.2, 2: 0.1})
    assert (choice.best.widths, choice.found_by) == ((3,), "agent")
    assert choice.best.reward == pytest.approx(-0.05)


def test_the_best_few_distinct_networks_of_a_search_are_those_of_highest_rank():
    records = [scored(width, -0.1 * width).to_json() for width in (4, 1, 3, 1, 2)]
    outside = scored(5, -0.01, feasible=False).to_json()
    dropped = {"kind": "dropped", "feasible": None, "widths": None}
    found = best_scores([*records, outside, dropped], 2)
    assert [score.widths for score in found] == [(1,), (2,)]


def test_a_network_that_was_found_twice_is_recovered_once():
    _, looked_at = choose_among(scored(9, -2.0), [scored(1, -0.1), scored(2, -0.2), scored(1, -0.1)])
    assert looked_at == [9, 1, 2]


def test_other_controls_are_recovered_whatever_their_rank():
    others = [scored(8, -3.0), scored(7, -1.0, feasible=False), scored(1, -0.1)]
    choice, looked_at = choose_among(scored(9, -2.0), [scored(1, -0.1)], others=others, gains={8: 2.95})
    assert looked_at == [9, 8, 1]
    assert (choice.best.widths, choice.found_by) == ((8,), "agent")


def test_the_control_stays_the_first_where_the_agent_found_it_too():
    choice, looked_at = choose_among(scored(9, -0.2), [scored(1, -0.1), scored(9, -0.2)])
    assert looked_at == [9, 1]
    assert choice.uniform.widths == (9,)


def test_the_control_may_win_and_is_told_recovered():
    choice, _ = choose_among(scored(9, -0.4), [scored(1, -0.3)], gains={9: 0.3})
    assert choice.found_by == "uniform"
    assert choice.best == choice.uniform
    assert choice.uniform.reward == pytest.approx(-0.1)


def test_a_network_that_recovery_takes_out_of_the_budget_does_not_win():
    def recover(score):
        return finalist(dataclasses.replace(score, feasible=score.widths != (1,)))

    choice = choose(scored(9, -0.3), [scored(1, -0.1), scored(2, -0.2)], recover=recover)
    assert choice.best.widths == (2,)


def test_there_is_no_choice_if_recovery_takes_all_out_of_the_budget():
    assert (
        choose(
            scored(9, -0.3),
            [scored(1, -0.1)],
            recover=lambda score: finalist(scored(2, -0.3, feasible=False)),
        )
        is None
    )


def test_merit_counts_before_the_reward_on_the_search_images():
    merits = {(1,): -0.5, (2,): -0.2, (9,): -0.6}
    choice = choose(
        scored(9, -0.3),
        [scored(1, -0.1), scored(2, -0.4)],
        recover=lambda score: Finalist(score, merits[score.widths]),
    )
    assert (choice.best.widths, choice.best.reward) == ((2,), -0.4)


def test_of_equal_networks_more_operations_win():
    choice, _ = choose_among(scored(9, -0.2, macs=90), [scored(1, -0.2, macs=95)])
    assert choice.found_by == "agent"


def test_networks_outside_the_budget_do_not_count():
    uniform = scored(9, -0.1, feasible=False)
    choice, looked_at = choose_among(uniform, [scored(1, -0.1, feasible=False), scored(2, -0.5)])
    assert (choice.best.widths, choice.uniform, looked_at) == ((2,), uniform, [2])
    assert choose(uniform, [], recover=finalist) is None
