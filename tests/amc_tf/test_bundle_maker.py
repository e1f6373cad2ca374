"""A bundle has the networks of a run that are worth timing, each once, built to their widths."""

import json

import keras
import numpy as np
import pytest

from amc_tf.bundle import Bundle
from amc_tf.bundle_maker import make_bundle
from amc_tf.device.convert import to_tflite
from amc_tf.device.litert import load_interpreter
from amc_tf.errors import ModelError, PlanError, RunFolderError, SettingsError
from amc_tf.graph import ChannelGraph
from amc_tf.image_data import to_input_range
from amc_tf.plan import widths_to_plan
from amc_tf.rebuild import rebuild
from amc_tf.run_folder import RunFolder
from tests.trained import RANGE, make_classifier, make_data

ORIGINAL = (16, 24, 16)
FOUND = (8, 12, 8)
# Widths, reward, and whether the network was within the budget.
EPISODES = (
    ((8, 16, 8), 0.5, True),
    (FOUND, 0.9, True),
    ((12, 12, 8), 0.95, False),
    ((8, 16, 8), 0.5, True),
    ((12, 16, 12), 0.7, True),
)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


def episode(number, widths, reward, feasible):
    return {
        "episode": number, "kind": "search", "reward": reward, "top1": 0.8, "top5": 1.0,
        "probability": 0.7, "macs": 1000, "params": 10, "bytes": 40, "latency_ms": 0.125 * number,
        "widths": list(widths), "feasible": feasible,
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(model):
    """The network that was found with other weights, as fine-tuning leaves it: float32 and int8."""
    graph = ChannelGraph.from_model(model)
    plan = widths_to_plan(graph, FOUND, scores={g.name: range(g.num_channels) for g in graph.groups})
    slim = rebuild(model, plan)
    images = to_input_range(make_data(8, 0).images, RANGE)
    return to_tflite(slim), to_tflite(slim, precision="int8", calibration_images=images)


@pytest.fixture
def search(tmp_path, model):
    """The folder of a search: no summary, an episode that was dropped."""
    folder = tmp_path / "my run"
    folder.mkdir()
    records = [episode(number, *facts) for number, facts in enumerate(EPISODES)]
    records.append({"episode": 5, "kind": "dropped", "error": "The phone has gone."})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "episodes.jsonl").write_text(text)
    widths_to_plan(ChannelGraph.from_model(model), FOUND).save(folder / "plan.json")
    return folder


@pytest.fixture
def compression(search, model, trained):
    """The folder of a compression."""
    model.save(search.parent / "tiny.keras")
    for precision, tflite in zip(("float32", "int8"), trained, strict=True):
        (search / f"model_{precision}.tflite").write_bytes(tflite)
    uniform = [{"group": str(number), "uniform": width} for number, width in enumerate((12, 16, 12))]
    summary = {
        "model": str(search.parent / "tiny.keras"),
        "meter": {"name": "host:1-thread"},
        "channels": uniform,
        "baseline": {"latency_ms": {"median": 4.0}},
        "uniform": {"latency_ms": {"median": 3.0}},
        "finetuned": {"latency_ms": {"median": 2.0}},
        "int8_baseline": {"latency_ms": {"median": 1.5}},
        "int8": {"latency_ms": None},
    }
    (search / "summary.json").write_text(json.dumps(summary))
    return search


def make(run, **options):
    path = run.parent / "bundle.zip"
    manifest = make_bundle(run, path, **options)
    bundle = Bundle(path)
    assert bundle.manifest == manifest
    return bundle


def facts(bundle):
    return {network.name: network.widths for network in bundle.manifest.networks}


def test_a_search_gives_the_original_the_found_network_and_the_best_episodes(search, model):
    bundle = make(search, model=model)
    assert facts(bundle) == {
        "original": ORIGINAL,
        "found, episode 1": FOUND,
        "episode 4": (12, 16, 12),
        "episode 0": (8, 16, 8),
        "episode 2": (12, 12, 8),  # beyond the budget, so after all that are within
    }
    assert (bundle.manifest.run, bundle.manifest.model, bundle.manifest.meter) == ("my run", "tiny", None)


def test_each_network_has_the_channels_of_its_widths(search, model):
    bundle = make(search, model=model)
    for network in bundle.manifest.networks:
        interpreter = load_interpreter(bundle.read(network))
        shapes = [tuple(details["shape"]) for details in interpreter.get_tensor_details()]
        for width, size in zip(network.widths, (8, 8, 4), strict=True):
            assert (1, size, size, width) in shapes


def test_what_the_episodes_tell_goes_with_them(search, model):
    networks = {network.name: network for network in make(search, model=model).manifest.networks}
    best = networks["found, episode 1"]
    assert (best.reward, best.top1, best.expected_ms) == (0.9, 0.8, 0.125)
    assert networks["original"].reward is None


def test_the_structure_tells_widths_and_precision_apart_but_not_weights(compression, trained):
    networks = make(compression).manifest.networks
    assert len({network.structure for network in networks}) == len(networks) == 7
    (compression / "model_float32.tflite").unlink()
    sliced = make(compression).manifest.networks[1]
    assert sliced.structure == networks[1].structure
    assert sliced.sha256 != networks[1].sha256


def test_top_limits_the_episodes_only(search, model):
    assert list(facts(make(search, model=model, top=2))) == ["original", "found, episode 1", "episode 4"]
    assert list(facts(make(search, model=model, top=0))) == ["original", "found"]
    with pytest.raises(SettingsError, match="-1 networks of episodes were asked for; give 0 or more"):
        make(search, model=model, top=-1)


def test_a_search_that_was_stopped_has_no_found_network(search, model):
    (search / "plan.json").unlink()
    assert list(facts(make(search, model=model, top=1))) == ["original", "episode 1"]


def test_a_compression_gives_its_files_and_the_uniform_network_too(compression, trained):
    bundle = make(compression, top=3)
    assert facts(bundle) == {
        "original": ORIGINAL,
        "found, episode 1": FOUND,
        "original int8": ORIGINAL,
        "found int8": FOUND,
        "uniform, episode 4": (12, 16, 12),
        "episode 0": (8, 16, 8),
    }
    _, found, int8_original, int8, uniform, _ = bundle.manifest.networks
    assert (bundle.read(found), bundle.read(int8)) == trained
    assert (found.expected_ms, found.reward) == (2.0, 0.9)
    assert (uniform.expected_ms, int8_original.expected_ms, int8.expected_ms) == (3.0, 1.5, None)
    assert bundle.manifest.meter == "host:1-thread"
    assert load_interpreter(bundle.read(int8_original)).get_input_details()[0]["dtype"] == np.int8


def test_episodes_that_were_timed_as_int8_networks_are_packed_as_such(compression):
    summary = json.loads((compression / "summary.json").read_text())
    summary["settings"] = {"search": {"latency_precision": "int8"}}
    (compression / "summary.json").write_text(json.dumps(summary))
    bundle = make(compression, top=2)
    assert list(facts(bundle)) == [
        "original",
        "found",
        "original int8",
        "found int8, episode 1",
        "uniform",
        "episode 4",
    ]
    episode = bundle.manifest.networks[-1]
    assert load_interpreter(bundle.read(episode)).get_input_details()[0]["dtype"] == np.int8
    assert episode.expected_ms == 0.5


def test_without_a_summary_the_checkpoint_tells_the_precision(search, model):
    folder, identity = RunFolder(search), json.dumps({"latency_precision": "int8"})
    folder.checkpoint_folder.mkdir()
    folder.save_state({"identity": np.frombuffer(identity.encode(), np.uint8)})
    bundle = make(search, model=model, top=1)
    assert list(facts(bundle)) == ["original", "found", "episode 1"]
    episode = bundle.manifest.networks[-1]
    assert load_interpreter(bundle.read(episode)).get_input_details()[0]["dtype"] == np.int8


def test_of_a_run_in_stages_the_last_stage_gives_the_episodes(search, model):
    for number, widths in ((1, (16, 16, 16)), (2, (12, 16, 12)), (10, (8, 16, 8)), (11, None)):
        folder = search / f"stage{number}"
        folder.mkdir()
        text = json.dumps(episode(3, widths, 0.5, True)) + "\n" if widths else ""  # one has just begun
        (folder / "episodes.jsonl").write_text(text)
    (search / "episodes.jsonl").unlink()
    assert list(facts(make(search, model=model)))[2:] == ["stage 10 episode 3"]
    (search / "plan.json").unlink()  # of one that is not finished
    assert list(facts(make(search, model=model))) == ["original", "stage 10 episode 3"]


def test_the_same_run_gives_the_same_bytes(search, model):
    make(search, model=model, top=1)
    first = (search.parent / "bundle.zip").read_bytes()
    make(search, model=model, top=1)
    assert (search.parent / "bundle.zip").read_bytes() == first


def test_progress_is_told(search, model):
    told = []
    make(search, model=model, top=1, on_network=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_a_run_that_names_no_model_that_is_there_asks_for_one(search):
    with pytest.raises(ModelError, match=r"does not tell which model was pruned: give it with --model"):
        make(search)
    (search / "summary.json").write_text('{"model": "gone.keras"}')
    with pytest.raises(ModelError, match=r"give it with --model: There is no file gone.keras"):
        make(search)


def test_the_model_of_another_run_is_refused(search):
    images = keras.Input((8, 8, 3))
    hidden = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, name="other")(images))
    with pytest.raises(PlanError, match="it is the plan of another model"):
        make(search, model=keras.Model(images, keras.layers.Dense(4)(hidden)))
    assert not (search.parent / "bundle.zip").exists()


def test_a_folder_without_a_run_is_refused(tmp_path, model):
    with pytest.raises(RunFolderError, match="holds no run: it has neither plan.json nor episodes"):
        make_bundle(tmp_path, tmp_path / "bundle.zip", model=model)


def test_a_last_episode_that_is_half_written_is_left_out(search, model, tmp_path):
    with (search / "episodes.jsonl").open("a") as file:
        file.write('{"episode": 99, "wid')
    names = [network.name for network in make_bundle(search, tmp_path / "b.zip", model=model).networks]
    assert names[0] == "original"
    assert not any("99" in name for name in names)


@pytest.mark.parametrize("line", ["{", "[]", '{"widths": [8, 12, 8]}'])
def test_a_damaged_episode_is_named(search, model, line):
    (search / "episodes.jsonl").write_text(f"{line}\n")
    with pytest.raises(RunFolderError, match=r"episodes.jsonl.*cannot be bundled"):
        make(search, model=model)
