"""The DDPG agent (Lillicrap et al., 2016) as AMC uses it (He et al., 2018, sections 3.2 and 4)."""

import json
from dataclasses import dataclass

import numpy as np

from amc_tf.agent.networks import ActorCritic
from amc_tf.agent.noise import NoiseSchedule, truncated_normal
from amc_tf.agent.replay import ReplayMemory
from amc_tf.errors import SettingsError
from amc_tf.settings import AgentSettings, noise_decay_for


@dataclass(frozen=True)
class TrainingRecord:
    """What one call of `DDPGAgent.train` did.

    Attributes:
        num_updates: Updates made.
        critic_loss: Mean squared error of the critic over those updates, or None without updates.
        actor_loss: Mean of -Q(s, mu(s)) over those updates, or None where the actor did not learn.
    """

    num_updates: int = 0
    critic_loss: float | None = None
    actor_loss: float | None = None


class DDPGAgent:
    """Learns which keep ratio to give each channel group, from one reward per finished network.

    In the paper's symbols: the actor mu(s) gives the action a, the critic Q(s, a) its value; mu' and Q' are
    their slowly following targets. An episode s_1, a_1, ..., s_T, a_T ends with one reward R, and every
    transition (s_t, a_t, R, s_t+1) of it goes to the replay memory. Then, for each update of N transitions:

        y_i = r_i - b + gamma * Q'(s_i+1, mu'(s_i+1))        (y_T = R - b at the last step)
        critic: minimise  1/N sum (y_i - Q(s_i, a_i))^2
        actor:  maximise  1/N sum Q(s_i, mu(s_i))
        Q' <- tau * Q + (1 - tau) * Q',   mu' <- tau * mu + (1 - tau) * mu'

    b is the exponential moving average of the rewards, which lowers the variance of the target. With
    gamma = 1 and R on every transition, as in the paper, Q(s_t, a_t) learns to be (T - t + 1) * (R - b): its
    scale grows with the number of groups still to come. That is kept; it does not change which action is
    best in a state.

    Where this differs from the paper (P) or from the authors' code (C):
        - the action is the part of the channels that is kept (P: removed; C: kept);
        - replay holds the action that was executed after bounding and rounding (C: the proposed one);
        - in the warm-up, actions are uniform on [0, 1] (P: noise of deviation 0.5 around mu; C: uniform);
        - in the warm-up the critic learns and the actor waits (C: both wait): an actor that follows an
          untrained critic runs to an edge of [0, 1] at once;
        - the actor's slopes are inverted gradients (Hausknecht and Stone, ICLR 2016, section 4.3), which let
          an action return from an edge where the sigmoid is flat (P, C: plain);
        - b averages the rewards of episodes (C: the mean rewards of sampled batches);
        - the last transition has no next state (C: repeats the last state and masks it, too);
        - all updates of an episode run in one compiled call after its end, from batches drawn beforehand.

    One episode of use: `explore` for each step, then `observe_episode`, `train`, `end_episode`.

    Attributes:
        episode: Episodes that have ended.
        baseline: b, or None before the first reward.
    """

    def __init__(
        self,
        state_size: int,
        settings: AgentSettings,
        *,
        seed: int = 0,
        warmup_episodes: int = 0,
        num_episodes: int = 400,
    ) -> None:
        """Builds the networks.

        Args:
            state_size: S, numbers in a state.
            settings: The agent's settings.
            seed: Seed of the initial weights, the exploration and the sampling.
            warmup_episodes: Episodes of uniform actions that come first; the actor learns after them.
            num_episodes: Episodes in total, for the decay of the noise where the settings leave it open.
        """
        self.episode = 0
        self.baseline: float | None = None
        self._settings = settings
        self._state_size = state_size
        self._generator = np.random.default_rng(seed)
        decay = settings.noise_decay or noise_decay_for(num_episodes - warmup_episodes)
        self._noise = NoiseSchedule(settings.noise_start, decay, warmup_episodes)
        self._memory = ReplayMemory(settings.replay_size, state_size)
        self._num_updates_due = 0
        self._networks = ActorCritic(state_size, settings, self._generator)

    @property
    def noise_sigma(self) -> float:
        """Standard deviation of the exploration noise in the present episode."""
        return self._noise.sigma(self.episode)

    @property
    def is_warmup(self) -> bool:
        """Whether the present episode belongs to the warm-up."""
        return self._noise.is_warmup(self.episode)

    def act(self, state: np.ndarray) -> float:
        """Returns mu(s), the keep ratio without exploration, in [0, 1].

        Args:
            state: float32 [S].
        """
        batch = np.asarray(state, np.float32).reshape(1, self._state_size)
        return float(self._networks.act(batch))

    def explore(self, state: np.ndarray) -> float:
        """Returns a keep ratio to try, in [0, 1]: uniform in the warm-up, then truncated normal around mu(s).

        Args:
            state: float32 [S].
        """
        if self.is_warmup:
            return float(self._generator.random())
        return truncated_normal(self.act(state), self.noise_sigma, self._generator)

    def observe_episode(self, states: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """Stores a finished episode and moves the baseline.

        Args:
            states: float32 [T, S], the state before each step.
            actions: float32 [T], the keep ratios that were executed.
            reward: R, the reward of the finished network.

        Raises:
            SettingsError: If the shapes do not fit the agent or each other, or the reward is not finite.
        """
        states, actions = np.asarray(states, np.float32), np.asarray(actions, np.float32)
        if states.ndim != 2 or states.shape[1] != self._state_size or actions.shape != states.shape[:1]:
            raise SettingsError(
                f"An episode has states of shape {states.shape} and actions of shape {actions.shape};"
                f" give states [T, {self._state_size}] and actions [T]."
            )
        if not np.isfinite(reward):
            raise SettingsError(f"The reward of an episode is {reward}; give a finite number.")
        decay = self._settings.baseline_decay
        self.baseline = reward if self.baseline is None else decay * self.baseline + (1.0 - decay) * reward
        self._memory.add_episode(states, actions, reward)
        self._num_updates_due = len(states) * self._settings.updates_per_transition

    def train(self) -> TrainingRecord:
        """Makes the updates that the observed episode is worth; only the critic learns in the warm-up."""
        num_updates, self._num_updates_due = self._num_updates_due, 0
        if num_updates == 0 or self.baseline is None:
            return TrainingRecord()
        batches = self._memory.sample(num_updates, self._settings.batch_size, self._generator)
        critic_loss, actor_loss = self._networks.update(
            batches, self.baseline, moves_actor=not self.is_warmup
        )
        return TrainingRecord(num_updates, critic_loss, None if self.is_warmup else actor_loss)

    def end_episode(self) -> None:
        """Moves on to the next episode, and with it to the next noise."""
        self.episode += 1

    def state(self) -> dict[str, np.ndarray]:
        """Returns all that decides what the agent does next, as named arrays that `np.savez` can write."""
        generator = json.dumps(self._generator.bit_generator.state).encode()
        return {
            "episode": np.asarray(self.episode, np.int64),
            "baseline": np.asarray(np.nan if self.baseline is None else self.baseline, np.float64),
            "num_updates_due": np.asarray(self._num_updates_due, np.int64),
            "generator": np.frombuffer(generator, np.uint8).copy(),
            **{f"replay/{name}": array for name, array in self._memory.state().items()},
            **{f"networks/{name}": array for name, array in self._networks.state().items()},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned; the agent then continues bit by bit as that one would have.

        Raises:
            SettingsError: If the state is of an agent with other settings.
        """
        missing = sorted(set(self.state()) - set(state))
        if missing:
            raise SettingsError(
                f"The saved agent lacks {missing[0]} (and {len(missing) - 1} more);"
                " continue with the settings of the saved search."
            )
        self._memory.restore(_below("replay/", state))
        self._networks.restore(_below("networks/", state))
        self.episode = int(state["episode"])
        self.baseline = None if np.isnan(state["baseline"]) else float(state["baseline"])
        self._num_updates_due = int(state["num_updates_due"])
        self._generator.bit_generator.state = json.loads(state["generator"].tobytes().decode())


def _below(prefix: str, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
