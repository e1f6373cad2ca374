"""Facts about amc_tf/cli/options.py."""

import dataclasses

import pytest

from amc_tf.cli import options, parse
from amc_tf.settings import PRESETS, SearchSettings

SEARCH = ["search", "demo", "--data", "digits", "--budget", "macs=0.5", "--out", "run"]


def settings_of(*words):
    return options.search_settings(parse([*SEARCH, *words]))


def test_without_options_a_search_has_the_default_settings() -> None:
    assert settings_of() == settings_of("--preset", "default") == SearchSettings() == PRESETS["default"]


def test_the_paper_preset_is_the_search_of_the_paper() -> None:
    assert settings_of("--preset", "paper") == PRESETS["paper"]
    assert PRESETS["paper"].elite_share == PRESETS["paper"].min_budget_use == 0.0


@pytest.mark.parametrize("turned", [False, True], ids=["before", "after"])
def test_what_is_given_beside_a_preset_wins_wherever_it_stands(turned) -> None:
    given = ["--importance", "l1_consumer", "--batch-norm", "--episodes", "40"]
    preset = ["--preset", "paper"]
    found = settings_of(*(given + preset if turned else preset + given))
    assert found == dataclasses.replace(
        PRESETS["paper"],
        importance="l1_consumer",
        reestimate_batch_norm=True,
        episodes=40,
        warmup_episodes=10,
    )


def test_of_two_presets_the_last_counts() -> None:
    assert settings_of("--preset", "paper", "--preset", "default") == SearchSettings()


def test_an_unknown_preset_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        settings_of("--preset", "papers")
    assert "invalid choice: 'papers' (choose from" in capsys.readouterr().err
