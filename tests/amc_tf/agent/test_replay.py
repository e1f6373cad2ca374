"""Facts about amc_tf/agent/replay.py."""

import numpy as np
import pytest

from amc_tf.agent.replay import ReplayMemory
from amc_tf.errors import SettingsError


def add(memory, first, num_steps, reward=-1.0):
    states = np.arange(first, first + num_steps, dtype=np.float32)[:, None]
    memory.add_episode(states, states[:, 0] / 100, reward)


def test_the_reward_of_the_episode_is_on_every_transition():
    memory = ReplayMemory(10, 1)
    add(memory, 1, 3, reward=-0.25)
    state = memory.state()
    np.testing.assert_array_equal(state["rewards"][:3], [-0.25] * 3)
    np.testing.assert_array_equal(state["terminals"][:3], [0, 0, 1])
    np.testing.assert_array_equal(state["states"][:3, 0], [1, 2, 3])
    np.testing.assert_array_equal(state["next_states"][:2, 0], [2, 3])
    np.testing.assert_allclose(state["actions"][:3, 0], [0.01, 0.02, 0.03])


def test_the_oldest_transitions_are_overwritten():
    memory = ReplayMemory(4, 1)
    add(memory, 1, 3)
    add(memory, 11, 3)
    assert len(memory) == 4
    assert set(memory.state()["states"][:, 0]) == {3, 11, 12, 13}


def test_samples_are_whole_transitions_of_what_was_added():
    memory = ReplayMemory(100, 1)
    add(memory, 1, 5)
    batches = memory.sample(3, 50, np.random.default_rng(0))
    assert batches.states.shape == (3, 50, 1) and batches.rewards.shape == (3, 50)
    assert set(batches.states.ravel()) == {1, 2, 3, 4, 5}
    np.testing.assert_allclose(batches.actions, batches.states / 100)
    inner = batches.terminals == 0
    np.testing.assert_array_equal(batches.next_states[inner], batches.states[inner] + 1)


def test_a_restored_memory_samples_the_same():
    memory, restored = ReplayMemory(4, 1), ReplayMemory(4, 1)
    add(memory, 1, 6)
    restored.restore(memory.state())
    add(memory, 20, 2)
    add(restored, 20, 2)
    for name, array in memory.state().items():
        np.testing.assert_array_equal(restored.state()[name], array)


def test_a_memory_of_another_size_cannot_be_restored():
    with pytest.raises(SettingsError, match=r"shape \(4, 1\), this one \(5, 1\)"):
        ReplayMemory(5, 1).restore(ReplayMemory(4, 1).state())
