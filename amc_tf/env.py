"""The pruning of one network as a Gymnasium environment: one step per group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium.error import InvalidAction, ResetNeeded
from numpy.typing import NDArray

from amc_tf.budget import Bounds
from amc_tf.cost import Cost
from amc_tf.errors import RewardError

STATE_SIZE = 11


class Group(Protocol):
    """What a state tells of a group: a channel group, or a layer whose weights are pruned one by one."""

    @property
    def num_channels(self) -> int:
        """Output channels before pruning."""

    @property
    def input_channels(self) -> int:
        """Input channels before pruning."""

    @property
    def height(self) -> int:
        """Input rows."""

    @property
    def width(self) -> int:
        """Input columns."""

    @property
    def kernel_size(self) -> int:
        """Kernel rows."""

    @property
    def stride(self) -> int:
        """Stride."""


class Groups(Protocol):
    """A network as groups that are decided one after another; a `ChannelGraph` is one."""

    @property
    def groups(self) -> Sequence[Group]:
        """The groups in network order."""

    @property
    def full_widths(self) -> tuple[int, ...]:
        """How much each group has before pruning."""

    def count(self, widths: Sequence[int] | None = None) -> Cost:
        """Returns the exact cost of the network whose groups keep so much (None: all)."""

    def group_macs(self, index: int) -> int:
        """Returns the multiply-accumulates of the weights that belong to one group."""


class Scored(Protocol):
    """What a finished network is worth."""

    @property
    def reward(self) -> float:
        """The reward, higher is better."""

    @property
    def feasible(self) -> bool:
        """Whether the network is within the budget as measured."""


Scorer = Callable[[tuple[int, ...]], Scored]


class PruningEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Decides how much each group of a network keeps in turn, then scores the network.

    A group is a channel group, whose width is the number of its channels, or in fine-grained pruning a layer,
    whose width is the number of its weights.

    State, float32 [11], the paper's features (section 3.2) of the group t that is decided next. T is the
    number of groups, FLOPs are counted as multiply-accumulates, "original" is the network before pruning. A
    feature of a group is that of the first layer that makes its channels.

    | index | paper   | meaning                                                  | scaled to [0, 1] by   |
    | ----- | ------- | -------------------------------------------------------- | --------------------- |
    | 0     | t       | groups decided so far                                    | T                     |
    | 1     | n       | output channels before pruning                           | largest of all groups |
    | 2     | c       | input channels before pruning                            | largest of all groups |
    | 3     | h       | input rows                                               | largest of all groups |
    | 4     | w       | input columns                                            | largest of all groups |
    | 5     | stride  | stride                                                   | largest of all groups |
    | 6     | k       | kernel rows                                              | largest of all groups |
    | 7     | FLOPs_t | FLOPs of all layers that hold channels of group t        | largest of all groups |
    |       |         | before pruning                                           |                       |
    | 8     | reduced | FLOPs that the decisions so far have cut                 | FLOPs of the original |
    | 9     | rest    | FLOPs left in layers that hold channels of a later group | FLOPs of the original |
    | 10    | a_t-1   | keep ratio of the group before, as executed; 1 at t = 0  | is one                |

    After the last step features 1-7 are 0: there is no group left to decide.

    Action: float32 [1] in [0, 1], the part of the group's channels or weights to keep. The paper's action is
    the part removed. The action executed is the allowed width nearest to it, moved inside the bounds of the
    step: the network must be able to end within the budget (Algorithm 1) and to use most of it
    (`amc_tf.budget.Bounds`). Its keep ratio is in the info, and it is this one that an agent should learn
    from.

    Reward: 0 before the last step; at the last step the score's reward of the finished network.

    Episode: starts at the first group of the untouched network; terminates after the last group; never
    truncated. The environment draws nothing at random, so a seed changes nothing.

    Agents of other libraries, as Stable-Baselines3, train on it; `PruningSession.make_env` makes the one of a
    network, its data and a budget.

    Info: after each step "keep_ratio" (executed, float) and "width" (executed, int); after the last one also
    "widths" (tuple of int, one per group) and "score" (what the scorer returned).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012, as gymnasium.Env declares it

    def __init__(self, graph: Groups, scorer: Scorer, bounds: Bounds) -> None:
        """Prepares the environment.

        Args:
            graph: the network: a `ChannelGraph`, or the layers of fine-grained pruning.
            scorer: returns the score of the network with the given widths, one per group.
            bounds: the widths that each group may be given.
        """
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATE_SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._graph = graph
        self._scorer = scorer
        self._bounds = bounds
        self._full_macs = graph.count().macs
        self._features = _group_features(graph)
        self._chosen: tuple[int, ...] | None = None

    @property
    def num_steps(self) -> int:
        """Steps per episode, one for each group."""
        return len(self._graph.groups)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode with the untouched network."""
        super().reset(seed=seed, options=options)
        self._chosen = ()
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decides on the next group.

        Args:
            action: float32 [1], the keep ratio asked for, in [0, 1].

        Raises:
            ResetNeeded: if the episode has ended or not begun.
            InvalidAction: if the action is not one number in [0, 1].
            RewardError: if the reward of the finished network is NaN or infinite.
        """
        if self._chosen is None or len(self._chosen) == self.num_steps:
            raise ResetNeeded("The episode has ended or not begun; call reset() first.")
        width = self._bounds.bound(self._chosen, _keep_ratio(action))
        keep_ratio = width / self._graph.full_widths[len(self._chosen)]
        self._chosen = (*self._chosen, width)
        info: dict[str, Any] = {"keep_ratio": keep_ratio, "width": width}
        terminated = len(self._chosen) == self.num_steps
        reward = 0.0
        if terminated:
            score = self._scorer(self._chosen)
            reward = float(score.reward)
            if not math.isfinite(reward):
                widths = ", ".join(map(str, self._chosen))
                raise RewardError(
                    f"The reward of the network with the widths {widths} is {reward}, but must be a finite "
                    "number."
                )
            info |= {"widths": self._chosen, "score": score}
        return self._observe(), reward, terminated, False, info

    def _observe(self) -> NDArray[np.float32]:
        chosen = self._chosen or ()
        step, full = len(chosen), self._graph.full_widths
        left = self._graph.count((*chosen, *full[step:])).macs
        later = len(full[step + 1 :])
        without_later = self._graph.count((*chosen, *full[step : step + 1], *([0] * later))).macs
        last = chosen[-1] / full[step - 1] if chosen else 1.0
        state = np.zeros(STATE_SIZE, np.float32)
        state[0] = step / self.num_steps
        state[1:8] = self._features[step]
        state[8] = (self._full_macs - left) / self._full_macs
        state[9] = (left - without_later) / self._full_macs
        state[10] = last
        return state


def _group_features(graph: Groups) -> NDArray[np.float64]:
    """Returns features 1-7 of each group, scaled, and zeros for the end: float64 [T + 1, 7]."""
    rows = [
        (
            group.num_channels,
            group.input_channels,
            group.height,
            group.width,
            group.stride,
            group.kernel_size,
            graph.group_macs(index),
        )
        for index, group in enumerate(graph.groups)
    ]
    features = np.array([*rows, (0,) * 7], np.float64)
    return features / np.maximum(features.max(axis=0), 1.0)


def _keep_ratio(action: NDArray[np.float32]) -> float:
    values = np.asarray(action, np.float64).reshape(-1)
    if values.size != 1 or not 0.0 <= values[0] <= 1.0:
        raise InvalidAction(f"The action is {action!r}; give one keep ratio from 0 to 1.")
    return float(values[0])
