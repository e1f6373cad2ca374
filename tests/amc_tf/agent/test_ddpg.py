"""Facts about amc_tf/agent/ddpg.py."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from amc_tf.agent.ddpg import DDPGAgent
from amc_tf.agent.networks import _invert_gradients
from amc_tf.errors import SettingsError
from amc_tf.settings import AgentSettings

NUM_STEPS = 5
SMALL = AgentSettings(hidden_units=(16, 8), batch_size=8, replay_size=40, noise_decay=0.95)


def toy_target(step, context):
    """The best action of the toy: high at even steps and low at odd ones, the more so with the context."""
    return 0.65 + 0.2 * context if step % 2 == 0 else 0.35 - 0.2 * context


def play_toy(choose, context):
    """One episode; state: step, parity, context, last action; reward, at the end: -sum (a_t - best_t)^2."""
    states, actions, last = [], [], 0.0
    for step in range(NUM_STEPS):
        state = np.array([step / (NUM_STEPS - 1), step % 2, context, last], np.float32)
        last = choose(state)
        states.append(state)
        actions.append(last)
    reward = -sum((action - toy_target(step, context)) ** 2 for step, action in enumerate(actions))
    return np.array(states), np.array(actions), reward


def mean_toy_reward(choose):
    return float(np.mean([play_toy(choose, context)[2] for context in np.linspace(0.0, 1.0, 5)]))


def train_on_toy(agent, num_episodes, generator):
    for _ in range(num_episodes):
        agent.observe_episode(*play_toy(agent.explore, generator.random()))
        agent.train()
        agent.end_episode()


def small_agent(seed=0, settings=SMALL, warmup_episodes=2):
    return DDPGAgent(4, settings, seed=seed, warmup_episodes=warmup_episodes)


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_agent_finds_the_best_policy_of_a_toy_environment():
    settings = AgentSettings(
        hidden_units=(64, 64),
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-3,
        updates_per_transition=2,
        noise_decay=0.95,
    )
    agent = DDPGAgent(4, settings, seed=0, warmup_episodes=40)
    untrained = mean_toy_reward(agent.act)
    train_on_toy(agent, 100, np.random.default_rng(0))
    generator = np.random.default_rng(1)
    at_random = np.mean([mean_toy_reward(lambda state: generator.random()) for _ in range(50)])
    assert at_random < -0.7
    assert untrained < -0.3
    assert mean_toy_reward(agent.act) > -0.12  # the optimum is 0


def test_the_same_seed_gives_the_same_agent_after_training():
    agents = [small_agent(seed=3) for _ in range(2)]
    for agent in agents:
        train_on_toy(agent, 5, np.random.default_rng(7))
    assert_same_state(agents[0].state(), agents[1].state())


def test_a_global_policy_of_mixed_precision_changes_nothing():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        agent = small_agent()
        train_on_toy(agent, 5, np.random.default_rng(0))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    same = small_agent()
    train_on_toy(same, 5, np.random.default_rng(0))
    assert_same_state(agent.state(), same.state())


def test_another_seed_gives_another_agent():
    state = np.zeros(4, np.float32)
    assert small_agent(seed=1).explore(state) != small_agent(seed=2).explore(state)


def test_a_restored_agent_continues_bit_by_bit(tmp_path):
    original = small_agent(seed=5)
    train_on_toy(original, 6, np.random.default_rng(0))
    np.savez(tmp_path / "agent.npz", **original.state())
    restored = small_agent(seed=99)
    with np.load(tmp_path / "agent.npz") as saved:
        restored.restore(dict(saved))
    assert_same_state(original.state(), restored.state())
    for agent in (original, restored):
        train_on_toy(agent, 6, np.random.default_rng(1))
    assert_same_state(original.state(), restored.state())


def test_a_fresh_agent_can_be_restored_before_its_first_reward():
    restored = small_agent(seed=1)
    restored.restore(small_agent(seed=2).state())
    assert restored.baseline is None
    assert_same_state(restored.state(), small_agent(seed=2).state())


def test_an_agent_of_other_settings_cannot_be_restored():
    saved = small_agent().state()
    with pytest.raises(
        SettingsError, match=r"replay memory has states of shape \(40, 4\), this one \(50, 4\)"
    ):
        small_agent(settings=AgentSettings(hidden_units=(16, 8), replay_size=50)).restore(saved)
    with pytest.raises(SettingsError, match="continue with the settings of the saved search"):
        small_agent(settings=AgentSettings(hidden_units=(16, 9), replay_size=40)).restore(saved)


def test_an_incomplete_saved_agent_is_refused():
    saved = small_agent().state()
    del saved["networks/actor/0"]
    with pytest.raises(SettingsError, match="lacks networks/actor/0"):
        small_agent().restore(saved)


def test_the_warmup_explores_uniformly():
    agent = small_agent(warmup_episodes=2)
    draws = [agent.explore(np.zeros(4, np.float32)) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(0.5, abs=0.03)
    assert np.std(draws) == pytest.approx(12**-0.5, abs=0.02)


def test_only_the_critic_learns_in_the_warmup():
    agent = small_agent(warmup_episodes=1)
    before = agent.state()
    agent.observe_episode(np.ones((3, 4), np.float32), np.full(3, 0.3, np.float32), -1.0)
    agent.observe_episode(np.ones((3, 4), np.float32), np.full(3, 0.7, np.float32), -0.5)
    record = agent.train()
    after = agent.state()
    assert (record.num_updates, record.actor_loss) == (3, None)
    for name in (name for name in before if "actor" in name):
        np.testing.assert_array_equal(after[name], before[name])
    assert np.abs(after["networks/critic/0"] - before["networks/critic/0"]).max() > 0


def test_an_action_that_has_run_to_the_edge_comes_back():
    actions = tf.constant([[0.9999], [0.9999], [0.0001], [0.5]])
    slopes = tf.constant(
        [[1.0], [-1.0], [-1.0], [1.0]]
    )  # the loss falls downwards, upwards, upwards, downwards
    before_sigmoid = _invert_gradients(slopes, actions) * actions * (1.0 - actions)
    np.testing.assert_allclose(before_sigmoid[:, 0], [0.0999, -1e-4, -0.0999, 0.5], rtol=2e-3)


@pytest.fixture(scope="module")
def trained_once():
    """State before, record of, and state after the training for an episode of one step."""
    agent = small_agent(warmup_episodes=0)
    before = agent.state()
    agent.observe_episode(np.ones((1, 4), np.float32), np.full(1, 0.5, np.float32), -1.0)
    record = agent.train()
    return before, record, agent.state()


def test_training_makes_one_update_per_transition_and_reports_the_losses(trained_once):
    _, record, after = trained_once
    assert record.num_updates == 1
    assert record.critic_loss is not None
    assert record.critic_loss >= 0.0
    assert after["networks/critic_optimizer/0"] == 1
    assert after["num_updates_due"] == 0


def test_the_targets_follow_by_tau(trained_once):
    before, _, after = trained_once
    for name in ("actor/0", "critic/0"):
        expected = 0.99 * before[f"networks/target_{name}"] + 0.01 * after[f"networks/{name}"]
        np.testing.assert_allclose(after[f"networks/target_{name}"], expected, atol=1e-7)


def test_the_baseline_is_the_moving_average_of_rewards():
    agent = small_agent(settings=AgentSettings(hidden_units=(4,), baseline_decay=0.75))
    for reward, expected in [(-1.0, -1.0), (-0.2, -0.8), (0.0, -0.6)]:
        agent.observe_episode(np.zeros((1, 4), np.float32), np.zeros(1, np.float32), reward)
        assert agent.baseline == pytest.approx(expected)


def test_one_update_follows_the_bellman_target_with_the_baseline():
    agent = small_agent(
        settings=AgentSettings(hidden_units=(8,), batch_size=4, discount=1.0), warmup_episodes=0
    )
    states = np.eye(2, 4, dtype=np.float32)
    agent.observe_episode(states, np.array([0.3, 0.6]), -1.0)
    agent.observe_episode(states, np.array([0.3, 0.6]), -0.5)
    before = agent.state()
    batches = agent._memory.sample(2, 4, agent._generator)
    agent.restore(before)
    parts = agent._networks
    states, actions, rewards, next_states, terminals = (array[0] for array in vars(batches).values())
    following = parts._target_actor.predict_on_batch(next_states)
    next_values = parts._target_critic.predict_on_batch([next_states, following])[:, 0]
    targets = rewards - agent.baseline + (1 - terminals) * next_values
    expected = np.mean((targets - parts._critic.predict_on_batch([states, actions])[:, 0]) ** 2)
    first = type(batches)(**{name: array[:1] for name, array in vars(batches).items()})
    assert parts.update(first, agent.baseline)[0] == pytest.approx(expected, rel=1e-5)


def test_the_noise_decays_only_after_the_warmup():
    agent = small_agent(warmup_episodes=2)
    sigmas = []
    for _ in range(5):
        sigmas.append(agent.noise_sigma)
        agent.end_episode()
    np.testing.assert_allclose(sigmas, [0.5, 0.5, 0.5, 0.475, 0.45125])


def test_the_actor_starts_in_the_middle():
    assert small_agent().act(np.ones(4, np.float32)) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("shape", "num_actions"), [((3, 5), 3), ((3, 4), 2), ((4,), 4)])
def test_an_episode_of_the_wrong_shape_is_explained(shape, num_actions):
    with pytest.raises(SettingsError, match=r"give states \[T, 4\] and actions \[T\]"):
        small_agent().observe_episode(np.zeros(shape), np.zeros(num_actions), 0.0)


def test_a_reward_that_is_not_finite_is_refused():
    with pytest.raises(SettingsError, match="reward of an episode is nan"):
        small_agent().observe_episode(np.zeros((1, 4)), np.zeros(1), float("nan"))
