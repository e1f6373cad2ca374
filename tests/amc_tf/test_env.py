"""Facts about amc_tf/env.py."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from amc_tf.budget import Budget, WidthBounds
from amc_tf.env import STATE_SIZE, PruningEnv
from amc_tf.graph import ChannelGraph


@pytest.fixture(scope="module")
def graph():
    """Groups of 16, 32 and 20 channels: 3x3 stride 2 on 16x16x3, 1x1 after a depthwise layer, Dense."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.Conv2D(32, 1, use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(20, use_bias=False),
            layers.Dense(10, use_bias=False),
        ]
    )
    return ChannelGraph.from_model(model)


def env_for(graph, *, budget=Budget(macs=0.5), scored=None, round_to=4):  # noqa: B008, a frozen value
    def scorer(widths):
        if scored is not None:
            scored.append(widths)
        return SimpleNamespace(reward=-1.0 / sum(widths), feasible=True)

    bounds = WidthBounds(graph, budget.resolve(graph.count()), round_to=round_to)
    return PruningEnv(graph, scorer, bounds)


def play(env, actions):
    """Returns states [T + 1, 11], rewards, infos of one episode."""
    states, rewards, infos = [env.reset(seed=0)[0]], [], []
    for action in actions:
        state, reward, terminated, truncated, info = env.step(np.array([action], np.float32))
        states.append(state)
        rewards.append(reward)
        infos.append(info)
        assert terminated == (len(infos) == len(actions))
        assert not truncated
    return np.array(states), rewards, infos


@pytest.mark.filterwarnings("error")
def test_the_environment_passes_the_checker_of_gymnasium(graph):
    check_env(env_for(graph), skip_render_check=True)


@pytest.mark.slow
def test_an_agent_of_stable_baselines3_learns_on_the_environment(graph):
    stable_baselines3 = pytest.importorskip("stable_baselines3", exc_type=ImportError)
    from stable_baselines3.common import env_checker, noise

    rewards = []

    def scorer(widths):
        distance = np.abs(np.array(widths) / graph.full_widths - (0.4, 0.9, 0.6)).sum()
        rewards.append(1.0 - float(distance))
        return SimpleNamespace(reward=rewards[-1], feasible=True)

    bounds = WidthBounds(graph, Budget.none().resolve(graph.count()), round_to=4)
    env = PruningEnv(graph, scorer, bounds)
    with pytest.warns(UserWarning, match="We recommend you to use a symmetric and normalized Box"):
        env_checker.check_env(env)
    rewards.clear()
    agent = stable_baselines3.DDPG(
        "MlpPolicy",
        env,
        learning_rate=3e-3,
        gamma=1.0,
        learning_starts=90,
        action_noise=noise.NormalActionNoise(np.zeros(1), np.full(1, 0.3)),
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
        device="cpu",
    )
    agent.learn(450)
    assert len(rewards) == 450 / env.num_steps
    assert np.mean(rewards[-30:]) > np.mean(rewards[:30]) + 0.2


def test_the_first_state_is_the_table_of_the_docstring_by_hand(graph):
    state = env_for(graph).reset()[0]
    macs = [64 * 27 * 16, 64 * 9 * 16, 64 * 16 * 32, 32 * 20, 20 * 10]
    assert graph.count().macs == sum(macs)
    of_group = [sum(macs[:3]), macs[2] + macs[3], macs[3] + macs[4]]
    expected = [0, 16 / 32, 3 / 32, 1, 1, 1, 1, 1, 0, sum(macs[2:]) / sum(macs), 1]
    assert of_group[0] == max(of_group)
    np.testing.assert_allclose(state, expected, rtol=1e-6)
    assert state.dtype == np.float32


def test_the_state_follows_the_decisions(graph):
    states, _, _ = play(env_for(graph, budget=Budget.none()), [0.5, 0.5, 0.4])
    full = graph.count().macs
    second = [1 / 3, 1, 16 / 32, 8 / 16, 8 / 16, 1 / 2, 1 / 3]
    np.testing.assert_allclose(states[1][:7], second, rtol=1e-6)
    assert states[1][8] == pytest.approx(1 - graph.count([8, 32, 20]).macs / full, rel=1e-5)
    assert states[1][9] == pytest.approx((32 * 20 + 20 * 10) / full, rel=1e-5)
    assert states[1][10] == pytest.approx(0.5)
    assert states[2][9] == pytest.approx(0.0)
    np.testing.assert_array_equal(states[3][1:8], 0.0)
    assert states[3][0] == 1.0
    assert states[3][8] == pytest.approx(1 - graph.count([8, 16, 8]).macs / full, rel=1e-5)


def test_the_reward_comes_with_the_last_step_only(graph):
    scored = []
    _, rewards, infos = play(env_for(graph, scored=scored), [0.3, 0.9, 0.5])
    assert rewards[:2] == [0.0, 0.0]
    assert rewards[2] == infos[2]["score"].reward == -1.0 / sum(infos[2]["widths"])
    assert scored == [infos[2]["widths"]]
    assert "score" not in infos[1]


def test_the_info_has_the_executed_ratio_not_the_one_asked_for(graph):
    _, _, infos = play(env_for(graph, budget=Budget(macs=0.4)), [1.0, 1.0, 1.0])
    widths = infos[-1]["widths"]
    assert [info["width"] for info in infos] == list(widths)
    np.testing.assert_allclose([info["keep_ratio"] for info in infos], np.array(widths) / [16, 32, 20])
    assert infos[0]["keep_ratio"] < 1.0


@settings(max_examples=40, deadline=None)
@given(ratio=st.floats(0.25, 0.95), actions=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_any_actions_end_within_the_budget_and_in_the_state_space(graph, ratio, actions):
    env = env_for(graph, budget=Budget(macs=ratio))
    states, _, infos = play(env, actions)
    assert graph.count(infos[-1]["widths"]).macs <= ratio * graph.count().macs
    assert states.shape == (4, STATE_SIZE)
    assert all(env.observation_space.contains(state) for state in states)


def test_two_episodes_of_the_same_actions_are_the_same(graph):
    env = env_for(graph)
    first, second = play(env, [0.2, 0.8, 0.6]), play(env, [0.2, 0.8, 0.6])
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_a_step_outside_an_episode_asks_for_reset(graph):
    env = env_for(graph)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(np.array([0.5], np.float32))
    play(env, [0.5] * 3)
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step(np.array([0.5], np.float32))


@pytest.mark.parametrize("action", [[1.5], [-0.1], [float("nan")], [0.5, 0.5], []])
def test_an_action_that_is_no_keep_ratio_is_refused(graph, action):
    env = env_for(graph)
    env.reset()
    with pytest.raises(InvalidAction, match="give one keep ratio from 0 to 1"):
        env.step(np.array(action, np.float32))
