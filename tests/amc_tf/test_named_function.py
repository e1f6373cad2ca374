"""Facts about amc_tf/named_function.py, and about rewards and importances of the user's own."""

import itertools
import re

import numpy as np
import pytest

from amc_tf.errors import DataError, SettingsError
from amc_tf.importance import find_importance
from amc_tf.named_function import find_function, is_named_function
from amc_tf.reward import Outcome, find_reward, needs_latency

OUTCOME = Outcome(top1=0.9, top5=1.0, probability=0.8, macs=30_000_000, params=1000)
_NUMBERS = itertools.count()


class Group:
    name, num_channels = "conv", 3


class Graph:
    groups = (Group(),)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module into the working folder and returns its name, a new one each time."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        name = f"own_module_{next(_NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


@pytest.mark.parametrize(
    ("name", "is_one"), [("a:b", True), ("a.b_1:c", True), ("error", False), ("a:b c", False)]
)
def test_a_name_of_module_and_function_is_told_from_others(name, is_one):
    assert is_named_function(name) is is_one


def test_a_function_of_the_working_folder_is_found_and_prints_beside_the_results(write, capsys):
    name = write("def double(x):\n    print('hello')\n    return 2 * x\n")
    assert find_function(f"{name}:double", error=SettingsError)(3) == 6
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        (
            "import no_such_package",
            "f",
            "cannot be imported .*no_such_package.*start in the folder that holds it",
        ),
        ("1 / 0", "f", "failed with ZeroDivisionError"),
        ("def f(): pass", "g", "has no function g; it has f"),
        ("f = 1", "f", "has no function f; it has none"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(write, text, function, words):
    with pytest.raises(DataError, match=words):
        find_function(f"{write(text)}:{function}", error=DataError)


def test_what_a_function_raises_is_said_in_one_sentence(write):
    name = write("def f():\n    return {}['x']\n")
    with pytest.raises(SettingsError, match=re.escape(f"{name}:f failed with KeyError: 'x'")):
        find_function(f"{name}:f", error=SettingsError)()


def test_a_reward_of_the_users_own_is_a_number_of_the_outcome(write):
    name = write(
        "def per_mac(outcome):\n    return outcome.accuracy / outcome.macs\n\ndef none(outcome): ...\n"
    )
    assert find_reward(f"{name}:per_mac")(OUTCOME) == pytest.approx(0.9 / 30e6)
    assert needs_latency(f"{name}:per_mac") is False
    with pytest.raises(SettingsError, match="none returned None, but a reward is a number"):
        find_reward(f"{name}:none")(OUTCOME)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("{}", "has none for 'conv'"),
        ("None", "has none for 'conv'"),
        ("{'conv': ['a', 'b', 'c']}", "has none for 'conv'"),
        ("{'conv': [1.0, 2.0]}", "each of the 3 channels of 'conv', but returned an array of shape .2."),
        ("{'conv': [1.0, 2.0, float('nan')]}", "NaN or infinite for 'conv'"),
    ],
)
def test_scores_of_an_importance_of_the_users_own_are_checked(write, returned, words):
    name = write(f"def score(graph, weights, calibration):\n    return {returned}\n")
    with pytest.raises(SettingsError, match=words):
        find_importance(f"{name}:score")(Graph(), {}, None)


def test_an_importance_of_the_users_own_gives_its_scores(write):
    name = write("def score(graph, weights, calibration):\n    return {'conv': (3, 1, 2)}\n")
    scores = find_importance(f"{name}:score")(Graph(), {}, None)
    np.testing.assert_array_equal(scores["conv"], [3.0, 1.0, 2.0])
