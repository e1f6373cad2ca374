"""Facts about amc_tf/settings.py."""

import json

import pytest

from amc_tf.errors import SettingsError
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings, noise_decay_for


def test_the_learning_rate_of_fine_tuning_is_that_of_the_optimizer_unless_it_is_given():
    assert FinetuneSettings().highest_learning_rate == 0.0005
    assert FinetuneSettings(optimizer="sgd").highest_learning_rate == 0.02
    assert FinetuneSettings(learning_rate=0.5).highest_learning_rate == 0.5
    with pytest.raises(SettingsError, match="optimizer is 'rmsprop'; choose one of adam, sgd"):
        FinetuneSettings(optimizer="rmsprop")


def test_defaults_are_the_numbers_of_the_paper():
    agent = AgentSettings()
    assert agent.hidden_units == (300, 300)
    assert (agent.actor_learning_rate, agent.critic_learning_rate) == (1e-4, 1e-3)
    assert (agent.target_update_rate, agent.batch_size, agent.replay_size) == (0.01, 64, 2000)
    assert (agent.noise_start, agent.discount) == (0.5, 1.0)
    search = SearchSettings()
    assert (search.episodes, search.warmup_episodes) == (400, 100)


@pytest.mark.parametrize(
    "settings",
    [
        AgentSettings(hidden_units=(7,), discount=0.5),
        SearchSettings(episodes=5, warmup_episodes=2, agent=AgentSettings(hidden_units=(8, 9))),
        SearchSettings(latency_precision="int8", int8_accuracy=True),
        FinetuneSettings(epochs=0, augment="flip"),
    ],
)
def test_settings_survive_json(settings):
    text = json.dumps(settings.to_json())
    assert type(settings).from_json(json.loads(text)) == settings


@pytest.mark.parametrize("cls", [AgentSettings, SearchSettings, FinetuneSettings])
def test_an_unknown_key_is_named_with_the_known_ones(cls):
    with pytest.raises(SettingsError, match="no setting colour; its settings are "):
        cls.from_json({"colour": 1})


def test_an_unknown_key_of_the_agent_inside_a_search_is_named():
    with pytest.raises(SettingsError, match="AgentSettings has no setting tau"):
        SearchSettings.from_json({"agent": {"tau": 0.1}})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (AgentSettings, {"hidden_units": ()}, r"hidden_units is \(\); give a tuple"),
        (AgentSettings, {"hidden_units": (300, -1)}, "positive whole numbers"),
        (AgentSettings, {"discount": 1.5}, "discount is 1.5; give a number at least 0 and at most 1"),
        (AgentSettings, {"baseline_decay": 1.0}, "below 1"),
        (AgentSettings, {"noise_start": float("nan")}, "noise_start is nan"),
        (AgentSettings, {"batch_size": True}, "batch_size is True; give a whole number"),
        (SearchSettings, {"episodes": 10, "warmup_episodes": 10}, "a warm-up of at most 9"),
        (SearchSettings, {"num_in_order_images": -1}, "num_in_order_images"),
        (SearchSettings, {"num_in_order_images": 5, "reconstruct": False}, "which reconstruct=False forbids"),
        (SearchSettings, {"min_keep_ratio": 0.0}, "min_keep_ratio is 0.0; give a number above 0"),
        (SearchSettings, {"latency_exponent": 0.07}, "at most 0"),
        (SearchSettings, {"reward": ""}, "reward is ''; give a name"),
        (SearchSettings, {"reconstruct": 1}, "reconstruct is 1; give True or False"),
        (SearchSettings, {"int8_accuracy": 1}, "int8_accuracy is 1; give True or False"),
        (
            SearchSettings,
            {"latency_precision": "int4"},
            "latency_precision is 'int4'; choose one of float32, int8",
        ),
        (SearchSettings, {"agent": 3}, "give an AgentSettings"),
        (FinetuneSettings, {"augment": "mixup"}, "choose one of auto, none, flip"),
        (FinetuneSettings, {"label_smoothing": 1.0}, "below 1"),
        (FinetuneSettings, {"epochs": 1.5}, "epochs is 1.5; give a whole number of at least 0"),
    ],
)
def test_a_value_out_of_range_is_explained(cls, values, message):
    with pytest.raises(SettingsError, match=message):
        cls(**values)


def test_the_noise_decay_is_made_for_the_length_of_the_search():
    assert noise_decay_for(300) ** 300 == pytest.approx(0.01)
    assert noise_decay_for(40) ** 40 == pytest.approx(0.01)
