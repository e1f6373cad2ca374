"""The settings of a search and of fine-tuning: frozen values, checked when they are made, JSON both ways.

The defaults are the numbers of the AMC paper (He et al., ECCV 2018, arXiv 1802.03494) or of the authors'
code where the paper gives none; the source stands beside each.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from amc_tf.errors import SettingsError

AUGMENTATIONS = ("auto", "none", "flip", "shift", "crop_flip")
LATENCY_PRECISIONS = ("float32", "int8")
ACCURACY_METRICS = ("top1", "top5", "probability", "fidelity")
LEARNING_RATES = {"adam": 0.0005, "sgd": 0.02}  # of fine-tuning, by optimizer
MIN_KEEP_RATIO_DENSE = 0.02  # paper: fine-grained pruning takes at most 0.98 of a fully connected layer


@dataclass(frozen=True)
class AgentSettings:
    """Settings of the DDPG agent.

    Attributes:
        hidden_units: Units of each hidden layer of the actor and of the critic.
        actor_learning_rate: Learning rate of Adam for the actor.
        critic_learning_rate: Learning rate of Adam for the critic.
        target_update_rate: Tau, the part of the network that moves into its target in each update, in (0, 1].
        batch_size: Transitions per update.
        replay_size: Transitions kept in the replay memory.
        discount: Gamma, in [0, 1].
        noise_start: Standard deviation of the exploration noise up to the end of the warm-up.
        noise_decay: Factor on that deviation for each episode after the warm-up, in (0, 1]; None picks the
            one that brings the noise to a hundredth at the end of the search.
        baseline_decay: Weight of the past in the moving average of rewards, in [0, 1).
        updates_per_transition: Updates per transition of a finished episode.
    """

    hidden_units: tuple[int, ...] = (300, 300)  # paper, section 4: two hidden layers of 300 units
    actor_learning_rate: float = 1e-4  # authors' code, lr_a
    critic_learning_rate: float = 1e-3  # authors' code, lr_c
    target_update_rate: float = 0.01  # paper, section 4: tau
    batch_size: int = 64  # paper, section 4
    replay_size: int = 2000  # paper, section 4
    discount: float = 1.0  # paper, section 3.2: one reward per episode, not to be preferred early
    noise_start: float = 0.5  # paper, section 4: sigma
    noise_decay: float | None = None  # paper: "exponentially"; authors' code: 0.95 whatever the length
    baseline_decay: float = 0.95  # ours: the paper names the moving average, not its rate
    updates_per_transition: int = 1  # authors' code: one update per step, at the end of the episode

    def __post_init__(self) -> None:
        units = self.hidden_units
        if not isinstance(units, tuple) or not units or not all(_is_int(unit) and unit > 0 for unit in units):
            raise SettingsError(
                f"hidden_units is {units!r}; give a tuple of positive whole numbers such as (300, 300)."
            )
        for name in ("actor_learning_rate", "critic_learning_rate", "noise_start"):
            _check_number(self, name, above=0.0)
        _check_number(self, "target_update_rate", above=0.0, at_most=1.0)
        if self.noise_decay is not None:
            _check_number(self, "noise_decay", above=0.0, at_most=1.0)
        _check_number(self, "discount", at_least=0.0, at_most=1.0)
        _check_number(self, "baseline_decay", at_least=0.0, below=1.0)
        for name in ("batch_size", "replay_size", "updates_per_transition"):
            _check_int(self, name, at_least=1)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that `json` can write."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "AgentSettings":
        """Reads what `to_json` wrote; absent keys take their defaults.

        Raises:
            SettingsError: If a key is unknown or a value is outside its range.
        """
        values = _known_values(cls, data)
        if isinstance(values.get("hidden_units"), list):
            values["hidden_units"] = tuple(values["hidden_units"])
        return cls(**values)


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search for a pruning plan.

    Attributes:
        episodes: Episodes in total, warm-up included.
        warmup_episodes: Episodes of random actions that come first; fewer than `episodes`.
        seed: Seed of every random draw of the search.
        round_to: Widths are multiples of this number (or the untouched width).
        min_keep_ratio: Smallest part of a group's channels that is kept, in (0, 1].
        min_budget_use: Part of the budget that every network of the search should use, in [0, 1].
        importance: Name of the channel importance (see `amc_tf/importance.py`), or `module:function`.
        elite_share: Part of the episodes that vary the best plan so far instead of following the actor, in
            [0, 1]; 0 is the paper's search (see `amc_tf/elite.py`).
        reward: Name of the reward (see `amc_tf/reward.py`), or `module:function`.
        accuracy_metric: What accuracy is in the reward, one of `ACCURACY_METRICS` (see `amc_tf.reward`); it
            is top-1 under a budget of accuracy, which is one on top-1.
        reconstruct: Whether the kept weights are re-fitted by least squares.
        reestimate_batch_norm: Whether batch-norm statistics are estimated again after pruning.
        num_calibration_images: Images for reconstruction and batch-norm statistics.
        num_batch_norm_images: How many of these the batch-norm statistics of each candidate come from.
        num_in_order_images: On how many of these each candidate is re-fitted in network order, too (see
            `amc_tf.sequential`): seconds each, where networks lose so much that the usual recovery, which 0
            leaves in place, says little of what can be had in the end.
        num_search_images: Held-out training images whose accuracy is in the reward.
        num_finalists: Networks of a search that are recovered as the chosen one is, to choose among.
        checkpoint_every: Episodes between two checkpoints.
        max_dropped_in_a_row: After so many networks in a row that cannot be timed the search stops.
        latency_exponent: w of the `soft_latency` reward; negative, so that a slower network earns less.
        latency_precision: One of `LATENCY_PRECISIONS`: what candidates are converted to before they are
            timed. The original is timed in the same precision, so a latency budget is a part of that time.
        int8_accuracy: Whether the accuracy in the reward is that of the candidate as an int8 TFLite network.
        agent: Settings of the DDPG agent.
    """

    episodes: int = 400  # paper, section 4: 100 to explore, then 300 to exploit
    warmup_episodes: int = 100  # paper, section 4
    seed: int = 0
    round_to: int = 8  # authors' code, channel_round
    min_keep_ratio: float = 0.2  # authors' code, lbound
    min_budget_use: float = 0.97  # ours; 0 is the paper's Algorithm 1, which bounds from one side
    importance: str = "backward_elimination"  # ours, measured best; the paper: maximum response
    elite_share: float = 0.5  # ours
    reward: str = "error"  # paper, section 3.3: R_err for a resource-constrained search
    accuracy_metric: str = "probability"  # ours; fidelity found better networks; paper: top-1
    reconstruct: bool = True  # paper, section 3.3: least squares on the feature maps
    reestimate_batch_norm: bool = True  # ours
    num_calibration_images: int = 500  # ours
    num_batch_norm_images: int = 32  # ours; see `amc_tf.batch_norm`
    num_in_order_images: int = 0
    num_search_images: int = 500  # ours; the paper holds out 5,000 (CIFAR-10) or 3,000 (ImageNet)
    num_finalists: int = 5  # ours
    checkpoint_every: int = 10  # ours
    max_dropped_in_a_row: int = 3  # ours
    latency_exponent: float = -0.07  # MnasNet (Tan et al., CVPR 2019), section 3.1
    latency_precision: str = "float32"
    int8_accuracy: bool = False
    agent: AgentSettings = field(default_factory=AgentSettings)

    def __post_init__(self) -> None:
        for name in (
            "episodes",
            "round_to",
            "num_calibration_images",
            "num_batch_norm_images",
            "num_search_images",
            "num_finalists",
            "checkpoint_every",
            "max_dropped_in_a_row",
        ):
            _check_int(self, name, at_least=1)
        for name in ("warmup_episodes", "seed", "num_in_order_images"):
            _check_int(self, name, at_least=0)
        _check_number(self, "min_keep_ratio", above=0.0, at_most=1.0)
        _check_number(self, "min_budget_use", at_least=0.0, at_most=1.0)
        _check_number(self, "elite_share", at_least=0.0, at_most=1.0)
        _check_number(self, "latency_exponent", at_most=0.0)
        for name in ("importance", "reward"):
            _check_name(self, name)
        for name in ("reconstruct", "reestimate_batch_norm", "int8_accuracy"):
            _check_bool(self, name)
        _check_choice(self, "latency_precision", LATENCY_PRECISIONS)
        _check_choice(self, "accuracy_metric", ACCURACY_METRICS)
        if self.warmup_episodes >= self.episodes:
            raise SettingsError(
                f"warmup_episodes is {self.warmup_episodes} but there are only {self.episodes} episodes; give"
                f" more episodes or a warm-up of at most {self.episodes - 1}."
            )
        if self.num_in_order_images and not self.reconstruct:
            raise SettingsError("num_in_order_images re-fits weights, which reconstruct=False forbids.")
        if not isinstance(self.agent, AgentSettings):
            raise SettingsError(f"agent is {self.agent!r}; give an AgentSettings.")

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that `json` can write."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SearchSettings":
        """Reads what `to_json` wrote; absent keys take their defaults.

        Raises:
            SettingsError: If a key is unknown or a value is outside its range.
        """
        values = _known_values(cls, data)
        if isinstance(values.get("agent"), dict):
            values["agent"] = AgentSettings.from_json(values["agent"])
        return cls(**values)


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of fine-tuning.

    Attributes:
        epochs: Passes over the training images; 0 leaves the network as it is.
        batch_size: Images per step.
        optimizer: "adam", or "sgd" with Nesterov momentum 0.9, whose rate has to suit the network: what is
            right for a ResNet ruins a MobileNet with ImageNet weights.
        learning_rate: Highest learning rate of the cosine schedule; None takes that of `LEARNING_RATES`.
        weight_decay: Part of the kernels that each step takes away, times the learning rate: Keras' decoupled
            decay (Loshchilov & Hutter 2019), for SGD too, outside of momentum. An L2 penalty of the same
            size is, with momentum 0.9, ten times as strong.
        warmup_epochs: Epochs over which the learning rate rises; may be a fraction.
        distillation_weight: Part of the loss that is distillation from the original, in [0, 1]; 0 is off.
        distillation_temperature: Temperature that softens both networks' outputs.
        feature_weight: Weight of the squared error of hidden outputs, relative to the original's; 0 is off.
        freeze_batch_norm: Whether the network is trained as it infers: batch normalization computes with its
            moving statistics, which stay as they are, while its scale and offset are trained; Dropout is off.
        augment: One of `AUGMENTATIONS`; "auto" picks what suits the data.
        label_smoothing: Part of each label spread over all classes, in [0, 1).
        seed: Seed of shuffling and augmentation.
    """

    epochs: int = 10  # ours; the authors' code takes 150 on ImageNet
    batch_size: int = 64  # ours; the authors' code takes 256 on four GPUs
    optimizer: str = "adam"  # ours; the authors' code: SGD
    learning_rate: float | None = None  # authors' code: 0.05 at batch 256
    weight_decay: float = 4e-5  # authors' code: an L2 penalty of that size
    warmup_epochs: float = 0.5  # ours
    distillation_weight: float = 0.5  # ours
    distillation_temperature: float = 2.0  # ours
    feature_weight: float = 0.0
    freeze_batch_norm: bool = False
    augment: str = "auto"
    label_smoothing: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "seed"):
            _check_int(self, name, at_least=0)
        _check_int(self, "batch_size", at_least=1)
        _check_choice(self, "optimizer", tuple(LEARNING_RATES))
        if self.learning_rate is not None:
            _check_number(self, "learning_rate", above=0.0)
        _check_number(self, "distillation_temperature", above=0.0)
        for name in ("weight_decay", "warmup_epochs", "feature_weight"):
            _check_number(self, name, at_least=0.0)
        _check_number(self, "distillation_weight", at_least=0.0, at_most=1.0)
        _check_number(self, "label_smoothing", at_least=0.0, below=1.0)
        _check_bool(self, "freeze_batch_norm")
        _check_choice(self, "augment", AUGMENTATIONS)

    @property
    def highest_learning_rate(self) -> float:
        """The learning rate given, or that of the optimizer."""
        return LEARNING_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """Returns the settings as a dictionary that `json` can write."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FinetuneSettings":
        """Reads what `to_json` wrote; absent keys take their defaults.

        Raises:
            SettingsError: If a key is unknown or a value is outside its range.
        """
        return cls(**_known_values(cls, data))


def flat_settings(search: SearchSettings, finetuning: FinetuneSettings) -> dict[str, Any]:
    """Returns the settings of both as one dictionary, as messages name them.

    Args:
        search: each as "search NAME".
        finetuning: each as "fine-tuning NAME".
    """
    return {
        **{f"search {name}": value for name, value in search.to_json().items()},
        **{f"fine-tuning {name}": value for name, value in finetuning.to_json().items()},
    }


def quantization_settings(epochs: int, *, learning_rate: float = 0.0001, seed: int = 0) -> FinetuneSettings:
    """Returns settings of quantisation-aware training: it starts from a trained network, at a low rate.

    Args:
        epochs: passes over the training images.
        learning_rate: highest learning rate; by default a tenth of that of fine-tuning.
        seed: of shuffling and augmentation.

    Raises:
        SettingsError: if a value is outside its range.
    """
    return FinetuneSettings(epochs=epochs, learning_rate=learning_rate, warmup_epochs=0.0, seed=seed)


def noise_decay_for(num_episodes: int) -> float:
    """Returns the noise decay that brings the noise to a hundredth in so many episodes after the warm-up."""
    return 0.01 ** (1.0 / max(num_episodes, 1))


def _to_json(settings: Any) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(settings)
    return {
        name: list(value) if isinstance(value, tuple) else _plain(value) for name, value in values.items()
    }


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: list(item) if isinstance(item, tuple) else item for name, item in value.items()}


def _known_values(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    names = [item.name for item in dataclasses.fields(cls)]
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise SettingsError(
            f"{cls.__name__} has no setting {', '.join(unknown)}; its settings are {', '.join(names)}."
        )
    return dict(data)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_int(settings: Any, name: str, *, at_least: int) -> None:
    value = getattr(settings, name)
    if not _is_int(value) or value < at_least:
        raise SettingsError(f"{name} is {value!r}; give a whole number of at least {at_least}.")


def _check_number(
    settings: Any,
    name: str,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> None:
    value = getattr(settings, name)
    limits = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    expected = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (value >= at_least and value > above and value <= at_most and value < below):
        raise SettingsError(f"{name} is {value!r}; give a number {expected}.")


def _check_choice(settings: Any, name: str, choices: tuple[str, ...]) -> None:
    value = getattr(settings, name)
    if value not in choices:
        raise SettingsError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _check_name(settings: Any, name: str) -> None:
    value = getattr(settings, name)
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{name} is {value!r}; give a name.")


def _check_bool(settings: Any, name: str) -> None:
    value = getattr(settings, name)
    if not isinstance(value, bool):
        raise SettingsError(f"{name} is {value!r}; give True or False.")


# The searches by name: ours, and that of the paper, which explores around the actor alone, bounds widths from
# above alone, keeps the channels of the largest response, leaves batch-norm statistics as they are, and takes
# the network of the highest reward.
PRESETS = {
    "default": SearchSettings(),
    "paper": SearchSettings(
        importance="activation",
        elite_share=0.0,
        accuracy_metric="top1",
        min_budget_use=0.0,
        reestimate_batch_norm=False,
        num_finalists=1,
    ),
}
