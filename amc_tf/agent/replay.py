"""The replay memory: a ring of the latest transitions."""

from dataclasses import dataclass

import numpy as np

from amc_tf.errors import SettingsError


@dataclass(frozen=True)
class Batches:
    """Transitions for several updates: K updates of B transitions each.

    Attributes:
        states: float32 [K, B, S].
        actions: float32 [K, B, 1], keep ratios that were executed.
        rewards: float32 [K, B].
        next_states: float32 [K, B, S]; without meaning where `terminals` is 1.
        terminals: float32 [K, B], 1 at the last step of an episode, else 0.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_states: np.ndarray
    terminals: np.ndarray


class ReplayMemory:
    """Keeps the latest `capacity` transitions and samples them uniformly, with replacement."""

    def __init__(self, capacity: int, state_size: int) -> None:
        self._arrays = {
            "states": np.zeros((capacity, state_size), np.float32),
            "actions": np.zeros((capacity, 1), np.float32),
            "rewards": np.zeros((capacity,), np.float32),
            "next_states": np.zeros((capacity, state_size), np.float32),
            "terminals": np.zeros((capacity,), np.float32),
        }
        self._capacity = capacity
        self._num_added = 0

    def __len__(self) -> int:
        return min(self._num_added, self._capacity)

    def add_episode(self, states: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """Adds the transitions of one finished episode, each with the episode's reward.

        Args:
            states: float32 [T, S], the state before each step.
            actions: float32 [T], the keep ratios that were executed.
            reward: The episode's reward.
        """
        num_steps = len(states)
        for step in range(num_steps):
            row = self._num_added % self._capacity
            self._arrays["states"][row] = states[step]
            self._arrays["actions"][row, 0] = actions[step]
            self._arrays["rewards"][row] = reward
            self._arrays["next_states"][row] = states[min(step + 1, num_steps - 1)]
            self._arrays["terminals"][row] = step == num_steps - 1
            self._num_added += 1

    def sample(self, num_batches: int, batch_size: int, generator: np.random.Generator) -> Batches:
        """Draws the transitions of several updates at once; the memory must not be empty."""
        rows = generator.integers(len(self), size=(num_batches, batch_size))
        return Batches(**{name: array[rows] for name, array in self._arrays.items()})

    def state(self) -> dict[str, np.ndarray]:
        """Returns copies of everything that `restore` needs."""
        arrays = {name: array.copy() for name, array in self._arrays.items()}
        return arrays | {"num_added": np.asarray(self._num_added, np.int64)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned.

        Raises:
            SettingsError: If the memory was of another size.
        """
        for name, array in self._arrays.items():
            if state[name].shape != array.shape:
                raise SettingsError(
                    f"The saved replay memory has {name} of shape {state[name].shape}, this one"
                    f" {array.shape}; continue with the settings of the saved search."
                )
        for name, array in self._arrays.items():
            array[...] = state[name]
        self._num_added = int(state["num_added"])
