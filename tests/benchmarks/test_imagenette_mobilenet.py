"""What benchmarks/imagenette_mobilenet.py finds again when its command is given a second time."""

import argparse
from pathlib import Path

import keras
import numpy as np
import pytest

from amc_tf.errors import RunFolderError
from amc_tf.plan import PruningPlan
from benchmarks import imagenette_mobilenet
from benchmarks.imagenette_mobilenet import Slim
from tests.trained import make_classifier, make_split


def test_networks_of_a_search_are_searched_for_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = argparse.Namespace(
        out=tmp_path, original=None, budget="latency=0.5", episodes=8, accuracy_metric="top1", round_to=8
    )
    model, split = make_classifier(keras), make_split()
    seeds = []

    def search(model, split, seed, given):
        seeds.append(seed)
        plan = PruningPlan({"first": (0, 2, 5)}, {"first": 8})
        networks = {name: Slim(make_classifier(keras), plan) for name in ("agent", "width 0.70")}
        return networks, {"widths": {name: [4, 8] for name in networks}, "agent_found_by": "agent"}

    monkeypatch.setattr(imagenette_mobilenet, "search", search)

    first, told = imagenette_mobilenet.searched(model, split, 3, given)
    again, told_again = imagenette_mobilenet.searched(model, split, 3, given)
    imagenette_mobilenet.searched(model, split, 4, given)

    assert seeds == [3, 4]
    assert told == told_again
    assert list(first) == list(again) == ["agent", "width 0.70"]
    for name, network in first.items():
        assert network.plan == again[name].plan
        for array, same in zip(network.model.get_weights(), again[name].model.get_weights(), strict=True):
            np.testing.assert_array_equal(array, same)
    given.round_to = 16
    with pytest.raises(RunFolderError, match="another search"):
        imagenette_mobilenet.searched(model, split, 3, given)


def test_a_folder_from_before_an_option_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "before" / "seed3"
    folder.mkdir(parents=True)
    (folder / "search.json").write_text('{"original": null, "widths": {}}')
    given = argparse.Namespace(
        out=tmp_path, original=None, budget="latency=0.5", episodes=8, accuracy_metric="top1", round_to=8
    )
    with pytest.raises(RunFolderError, match="another search"):
        imagenette_mobilenet.searched(make_classifier(keras), make_split(), 3, given)


@pytest.mark.parametrize(
    ("finetune", "seeds"),
    [(None, [3, 4]), (["original"], []), (["original", "agent"], [3]), (["width 0.70"], [3])],
)
def test_only_what_is_asked_for_is_searched_for(finetune: list[str] | None, seeds: list[int]) -> None:
    given = argparse.Namespace(seeds=[3, 4], finetune=finetune)
    assert imagenette_mobilenet.seeds_to_search(given) == seeds
