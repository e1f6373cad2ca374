"""The actor and critic networks of the DDPG agent, their targets, and the compiled update."""

import functools

import keras
import numpy as np
import tensorflow as tf

from amc_tf.agent.replay import Batches
from amc_tf.errors import SettingsError
from amc_tf.settings import AgentSettings

_SMALLEST_ROOM = 1e-3  # keeps the inverted slopes finite where the sigmoid has saturated
_FINAL_LAYER_RANGE = 3e-3  # Lillicrap et al., section 7: first actions near 0.5, first values near 0


class ActorCritic:
    """Actor, critic, their targets and optimisers, and the compiled functions over them."""

    def __init__(self, state_size: int, settings: AgentSettings, generator: np.random.Generator) -> None:
        """Builds the networks.

        Args:
            state_size: S, numbers in a state.
            settings: Units, learning rates, tau and discount.
            generator: Source of the initial weights.
        """
        self._settings = settings
        self._actor = _build_actor(state_size, settings.hidden_units, generator)
        self._critic = _build_critic(state_size, settings.hidden_units, generator)
        self._target_actor = _build_actor(state_size, settings.hidden_units, generator)
        self._target_critic = _build_critic(state_size, settings.hidden_units, generator)
        self._target_actor.set_weights(self._actor.get_weights())
        self._target_critic.set_weights(self._critic.get_weights())
        self._actor_optimizer = keras.optimizers.Adam(settings.actor_learning_rate)
        self._critic_optimizer = keras.optimizers.Adam(settings.critic_learning_rate)
        self._actor_optimizer.build(self._actor.trainable_variables)
        self._critic_optimizer.build(self._critic.trainable_variables)
        states = tf.TensorSpec([None, None, state_size], tf.float32)
        scalars = tf.TensorSpec([None, None], tf.float32)
        self._compiled_act = tf.function(self._actor, input_signature=[tf.TensorSpec([1, state_size])])
        self._compiled_update = tf.function(
            self._update_all,
            input_signature=[
                states,
                tf.TensorSpec([None, None, 1], tf.float32),
                scalars,
                states,
                scalars,
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([], tf.bool),
            ],
        )

    def act(self, states: np.ndarray) -> float:
        """Returns mu of one state, float32 [1, S]."""
        return float(self._compiled_act(tf.constant(states)).numpy()[0, 0])

    def update(self, batches: Batches, baseline: float, *, moves_actor: bool = True) -> tuple[float, float]:
        """Makes one update per batch; returns the mean losses of critic and actor.

        Args:
            batches: the transitions, one batch per update.
            baseline: b, subtracted from the rewards.
            moves_actor: whether the actor learns, too, or only the critic (its loss is then 0).
        """
        losses = self._compiled_update(
            tf.constant(batches.states),
            tf.constant(batches.actions),
            tf.constant(batches.rewards),
            tf.constant(batches.next_states),
            tf.constant(batches.terminals),
            tf.constant(baseline, tf.float32),
            tf.constant(moves_actor),
        )
        return float(losses[0]), float(losses[1])

    def _update_all(
        self,
        states: tf.Tensor,
        actions: tf.Tensor,
        rewards: tf.Tensor,
        next_states: tf.Tensor,
        terminals: tf.Tensor,
        baseline: tf.Tensor,
        moves_actor: tf.Tensor,
    ) -> tf.Tensor:
        num_updates = tf.shape(states)[0]
        losses = tf.zeros([2])
        for index in tf.range(num_updates):
            next_values = self._target_critic([next_states[index], self._target_actor(next_states[index])])[
                :, 0
            ]
            targets = rewards[index] - baseline
            targets += self._settings.discount * (1.0 - terminals[index]) * next_values  # y_i, [B]
            critic_loss = self._update_critic(states[index], actions[index], targets)
            actor_loss = tf.zeros([])
            if moves_actor:
                actor_loss = self._update_actor(states[index])
                self._follow(self._target_actor, self._actor)
            self._follow(self._target_critic, self._critic)
            losses += tf.stack([critic_loss, actor_loss])
        return losses / tf.cast(num_updates, tf.float32)

    def _update_critic(self, states: tf.Tensor, actions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        variables = self._critic.trainable_variables
        with tf.GradientTape() as tape:
            values = self._critic([states, actions])[:, 0]
            loss = tf.reduce_mean(tf.square(targets - values))
        weights = [variable.value for variable in variables]
        self._critic_optimizer.apply(tape.gradient(loss, weights), variables)
        return loss

    def _update_actor(self, states: tf.Tensor) -> tf.Tensor:
        variables = self._actor.trainable_variables
        weights = [variable.value for variable in variables]
        with tf.GradientTape(persistent=True) as tape:
            actions = self._actor(states)
            loss = -tf.reduce_mean(self._critic([states, actions]))
        slopes = _invert_gradients(tape.gradient(loss, actions), actions)
        self._actor_optimizer.apply(tape.gradient(actions, weights, output_gradients=slopes), variables)
        return loss

    def _follow(self, target: keras.Model, network: keras.Model) -> None:
        tau = self._settings.target_update_rate
        for slow, fast in zip(target.trainable_variables, network.trainable_variables, strict=True):
            slow.assign_add(tau * (fast.value - slow.value))

    def _variables(self) -> dict[str, keras.Variable]:
        parts = {
            "actor": self._actor.variables,
            "critic": self._critic.variables,
            "target_actor": self._target_actor.variables,
            "target_critic": self._target_critic.variables,
            "actor_optimizer": self._actor_optimizer.variables,
            "critic_optimizer": self._critic_optimizer.variables,
        }
        return {
            f"{part}/{index}": variable
            for part, variables in parts.items()
            for index, variable in enumerate(variables)
        }

    def state(self) -> dict[str, np.ndarray]:
        """Returns copies of all weights and optimiser slots."""
        return {name: np.array(variable.numpy()) for name, variable in self._variables().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned.

        Raises:
            SettingsError: If the networks were of another size.
        """
        variables = self._variables()
        for name, variable in variables.items():
            if tuple(state[name].shape) != tuple(variable.shape):
                raise SettingsError(
                    f"The saved agent has {name} of shape {state[name].shape}, this one"
                    f" {tuple(variable.shape)}; continue with the settings of the saved search."
                )
        for name, variable in variables.items():
            variable.assign(state[name])


def _invert_gradients(slopes: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
    """Scales the slopes of the loss so that, before the sigmoid, they grow with the room left to move.

    The sigmoid's own derivative is a * (1 - a); after this scaling it is 1 - a upwards and a downwards, so
    that an action at the edge can come back.

    Args:
        slopes: dLoss/da, float32 [B, 1].
        actions: a, float32 [B, 1].
    """
    rising = slopes < 0.0
    behind = tf.where(rising, actions, 1.0 - actions)
    return slopes / tf.maximum(behind, _SMALLEST_ROOM)


def _build_actor(
    state_size: int, hidden_units: tuple[int, ...], generator: np.random.Generator
) -> keras.Model:
    inputs = keras.Input((state_size,))
    outputs = _dense_stack(inputs, hidden_units, "sigmoid", generator)
    return keras.Model(inputs, outputs, name="actor")


def _build_critic(
    state_size: int, hidden_units: tuple[int, ...], generator: np.random.Generator
) -> keras.Model:
    inputs = [keras.Input((state_size,)), keras.Input((1,))]
    outputs = _dense_stack(
        keras.layers.Concatenate(dtype="float32")(inputs), hidden_units, "linear", generator
    )
    return keras.Model(inputs, outputs, name="critic")


def _dense_stack(
    tensor: keras.KerasTensor, hidden_units: tuple[int, ...], activation: str, generator: np.random.Generator
) -> keras.KerasTensor:
    # In float32 even where the user has set a global policy of mixed precision.
    dense = functools.partial(keras.layers.Dense, dtype="float32")
    for units in hidden_units:
        initializer = keras.initializers.GlorotUniform(seed=_draw_seed(generator))
        tensor = dense(units, activation="relu", kernel_initializer=initializer)(tensor)
    initializer = keras.initializers.RandomUniform(
        -_FINAL_LAYER_RANGE, _FINAL_LAYER_RANGE, seed=_draw_seed(generator)
    )
    return dense(1, activation=activation, kernel_initializer=initializer)(tensor)


def _draw_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(2**31))
