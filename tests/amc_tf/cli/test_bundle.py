"""The verb bundle: what a run found travels in a file to where the phone is."""

import json

import pytest

from amc_tf.bundle import Bundle
from amc_tf.cli import main

SEARCH = (
    "search tiny.keras --data=data.npz --budget=macs=0.6 --meter=none --episodes=4 --round-to=4 "
    "--search-images=100 --calibration-images=64 --quiet --out"
).split()


@pytest.fixture(scope="module")
def run_folder(files, tmp_path_factory):
    """The folder of a search, which knows nothing of its model's file."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(files)
        assert main([*SEARCH, str(folder)]) == 0
    return folder


def test_make_packs_a_search_and_lists_what_is_in_it(amc, run_folder, tmp_path):
    path = tmp_path / "for my phone.zip"
    outcome = amc("bundle", "make", run_folder, "--model=tiny.keras", "--top=2", "--out", path)
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["network", "reward", "top-1", "ms"]
    assert lines[1].split() == ["original"]
    names = [network.name for network in Bundle(path).manifest.networks]
    assert [line.partition("  ")[0] for line in lines[1:-2]] == names
    assert lines[-1].startswith(f"{path}: {len(names)} networks, ")


def test_make_prints_the_manifest_and_refuses_to_overwrite(amc, run_folder, tmp_path):
    words = ["bundle", "make", run_folder, "--model=tiny.keras", "--top=1", "--out", tmp_path / "b.zip"]
    result = json.loads(amc(*words, "--json").out)
    assert result["bundle"] == str(tmp_path / "b.zip")
    assert result["bytes"] == (tmp_path / "b.zip").stat().st_size
    assert (result["run"], result["model"], result["format"]) == ("a run", "tiny.keras", "amc-tf bundle 1")
    refused = amc(*words)
    assert (refused.code, refused.out) == (1, "")
    assert "exists: give --overwrite to replace it" in refused.err
    assert amc(*words, "--overwrite", "--quiet").code == 0


def test_make_without_the_model_asks_for_it(amc, run_folder, tmp_path):
    outcome = amc("bundle", "make", run_folder, "--out", tmp_path / "b.zip")
    assert (outcome.code, outcome.out) == (1, "")
    assert "give it with --model" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["bundle"], ["bundle", "unpack"], ["bundle", "make", "run"]])
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: amc-tf bundle" in capsys.readouterr().err
