import dataclasses
import itertools
import json
import re
import shutil

import keras
import numpy as np
import pytest

from amc_tf.budget import Budget, WidthBounds
from amc_tf.controls import uniform
from amc_tf.device.store import MeasurementStore
from amc_tf.device.stored_meters import CachedMeter
from amc_tf.elite import EliteExplorer
from amc_tf.env import PruningEnv
from amc_tf.errors import ConversionError, MeasurementError, PhoneError, RunFolderError, RunStoppedError
from amc_tf.graph import ChannelGraph
from amc_tf.latency_model import LatencyPredictor
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score, Timing
from amc_tf.search import Search
from amc_tf.settings import AgentSettings, SearchSettings
from tests.trained import ScriptedMeter, make_classifier

AGENT = AgentSettings(hidden_units=(8, 8), batch_size=8, replay_size=20)
SETTINGS = SearchSettings(
    episodes=14, warmup_episodes=5, round_to=2, checkpoint_every=3, min_budget_use=0.5, agent=AGENT
)
IDENTITY = {"budget": "macs=0.5", "model": "abc", "agent": {"batch_size": 8}}


class ScriptedScorer:
    """Rewards closeness to certain widths; with a meter, networks are timed through the store."""

    def __init__(self, graph, timing=None, *, limit_ms=None):
        self.asked = []
        self.num_scored = 0
        self._graph = graph
        self._timing = timing
        self._limit_ms = limit_ms
        self._known = {}

    def __call__(self, widths):
        self.asked.append(widths)
        if widths not in self._known:
            self._known[widths] = self._score(widths)
            self.num_scored += 1
        return self._known[widths]

    def remember(self, score):
        self._known[score.widths] = score

    def _score(self, widths):
        distance = float(np.abs(np.array(widths) / np.array(self._graph.full_widths) - (0.4, 0.9, 0.6)).sum())
        latency_ms = None
        if self._timing is not None:
            latency_ms = self._timing.latency_ms(bytes(sum(widths)) + json.dumps(widths).encode())
            self._timing.predictor.observe(widths, latency_ms)
        feasible = latency_ms is None or latency_ms <= self._limit_ms
        top1, cost = 1 - distance / 3, self._graph.count(widths)
        return Score(widths, -distance, top1, 1.0, top1, cost, latency_ms, feasible)


class Setup:
    """What one process would build for a search; `store` is the measurement file of a latency search."""

    def __init__(self, graph, *, settings=SETTINGS, identity=IDENTITY, store=None, meter=None):
        self.meter = meter or ScriptedMeter(reference=bytes(60))
        budget, predictor, timing = Budget(macs=0.5), None, None
        if store is not None:
            predictor = LatencyPredictor(graph, 10.0)
            timing = Timing(CachedMeter(self.meter, store), 10.0, predictor)
            budget = Budget(latency=0.9)
        limit = budget.resolve(graph.count(), 10.0)
        self.scorer = ScriptedScorer(graph, timing, limit_ms=limit.limit)
        bounds = WidthBounds(
            graph, limit, round_to=settings.round_to, min_use=settings.min_budget_use, predictor=predictor
        )
        self.search = Search(
            PruningEnv(graph, self.scorer, bounds),
            settings,
            scorer=self.scorer,
            explorer=EliteExplorer(
                bounds, settings.elite_share, starts=[uniform(bounds)], seed=settings.seed
            ),
            predictor=predictor,
            identity=identity,
        )


@pytest.fixture(scope="module")
def graph():
    return ChannelGraph.from_model(make_classifier(keras))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of the uninterrupted search under a budget of MACs."""
    return tmp_path_factory.mktemp("macs")


@pytest.fixture(scope="module")
def uninterrupted(graph, finished, tmp_path_factory):
    """Runs once for each kind of budget: result, final checkpoint and number of networks measured."""

    def run(path, *, latency):
        with RunFolder(path) as folder:
            with MeasurementStore(folder.measurements) as store:
                setup = Setup(graph, store=store if latency else None)
                result = setup.search.run(folder)
            return result, folder.load_state(), len(setup.meter.seen)

    latency_path = tmp_path_factory.mktemp("latency")
    return {"macs": run(finished, latency=False), "latency": run(latency_path, latency=True)}


def without_seconds(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def run_until(graph, path, stop, *, latency=False, meter=None):
    """Runs a search in a folder until Ctrl-C comes after the episode `stop`; None runs to the end."""

    def interrupt(record):
        if record["episode"] == stop:
            raise KeyboardInterrupt

    with RunFolder(path, resume=True) as folder, MeasurementStore(folder.measurements) as store:
        setup = Setup(graph, store=store if latency else None, meter=meter)
        if stop is None:
            return setup.search.run(folder), folder.load_state(), setup
        with pytest.raises(KeyboardInterrupt):
            setup.search.run(folder, interrupt)
    return None


def assert_same_run(found, expected, path):
    (result, state, _), (expected_result, expected_state, _) = found, expected
    assert without_seconds(result.episodes) == without_seconds(expected_result.episodes)
    assert result.best == expected_result.best
    assert state.keys() == expected_state.keys()
    for name, array in expected_state.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    lines = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    assert lines == list(result.episodes)


@pytest.mark.parametrize(
    "stops",
    [pytest.param([0], marks=pytest.mark.slow), pytest.param([3], marks=pytest.mark.slow), [4, 8]],
    ids=str,
)
def test_a_resumed_search_is_the_uninterrupted_one_to_the_last_bit(graph, uninterrupted, tmp_path, stops):
    for stop in stops:
        run_until(graph, tmp_path, stop)
    assert_same_run(run_until(graph, tmp_path, None), uninterrupted["macs"], tmp_path)


@pytest.mark.parametrize("stops", [pytest.param([1], marks=pytest.mark.slow), [10]], ids=str)
def test_a_resumed_latency_search_measures_nothing_twice(graph, uninterrupted, tmp_path, stops):
    for stop in stops:
        run_until(graph, tmp_path, stop, latency=True)
    with MeasurementStore(tmp_path / "checkpoint" / "measurements.sqlite") as store:
        num_before = len(store)
    found = run_until(graph, tmp_path, None, latency=True)
    assert_same_run(found, uninterrupted["latency"], tmp_path)
    assert num_before > 0
    assert num_before + len(found[2].meter.seen) == uninterrupted["latency"][2]


def stop_after(number):
    return lambda record: record["episode"] >= number


@pytest.mark.parametrize("stop", [6, pytest.param(8, marks=pytest.mark.slow)])  # 8 ends at a checkpoint
def test_a_search_that_is_told_to_stop_is_saved_and_goes_on_later(graph, uninterrupted, tmp_path, stop):
    with RunFolder(tmp_path) as folder:
        stopped = Setup(graph).search.run(folder, stop_after(stop))
    expected = uninterrupted["macs"][0]
    assert without_seconds(stopped.episodes) == without_seconds(expected.episodes)[: stop + 1]
    scores = [Score.from_json(dict(record)) for record in stopped.episodes]
    assert stopped.best == max(scores, key=lambda score: score.rank)

    with RunFolder(tmp_path, resume=True) as folder:
        again = Setup(graph)
        assert again.search.run(folder, stop_after(stop)) == stopped
        assert again.scorer.asked == [], "it is told again of all episodes, and stops"
    assert_same_run(run_until(graph, tmp_path, None), uninterrupted["macs"], tmp_path)


def test_a_search_that_is_told_to_stop_needs_no_folder(graph, uninterrupted):
    stopped = Setup(graph).search.run(on_episode=stop_after(2))
    expected = without_seconds(uninterrupted["macs"][0].episodes)
    assert without_seconds(stopped.episodes) == expected[:3]


def test_a_search_that_is_done_reports_its_episodes_and_plays_none(graph, uninterrupted, finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    seen = []
    with RunFolder(tmp_path, resume=True) as folder:
        setup = Setup(graph)
        result = setup.search.run(folder, lambda record: seen.append(record["episode"]))
    assert result == uninterrupted["macs"][0]
    assert setup.scorer.asked == []
    assert seen == list(range(14))


def test_a_folder_changes_nothing_about_the_search(graph, uninterrupted):
    result = Setup(graph).search.run()
    assert without_seconds(result.episodes) == without_seconds(uninterrupted["macs"][0].episodes)


def test_a_clock_that_jumps_changes_nothing(graph, uninterrupted, tmp_path, monkeypatch):
    jumps = itertools.cycle([0.0, 4e9, 1e6, 2e9])
    monkeypatch.setattr("time.time", lambda: next(jumps))
    found = run_until(graph, tmp_path, None)
    monkeypatch.undo()
    assert_same_run(found, uninterrupted["macs"], tmp_path)
    assert all(0 < record["seconds"] < 100 for record in found[0].episodes)


@pytest.mark.slow
def test_another_seed_finds_other_networks(graph, uninterrupted):
    other = Setup(graph, settings=dataclasses.replace(SETTINGS, seed=1)).search.run()
    first = [record["widths"] for record in uninterrupted["macs"][0].episodes]
    assert [record["widths"] for record in other.episodes] != first


def test_best_is_the_feasible_network_of_highest_rank(graph, uninterrupted):
    for name in ("macs", "latency"):
        result = uninterrupted[name][0]
        scores = [Score.from_json(dict(record)) for record in result.episodes]
        assert result.best == max((score for score in scores if score.feasible), key=lambda score: score.rank)
    assert any(not record["feasible"] for record in uninterrupted["latency"][0].episodes)


def test_no_network_is_over_an_exact_budget(graph, uninterrupted):
    limit = 0.5 * graph.count().macs
    assert all(record["macs"] <= limit for record in uninterrupted["macs"][0].episodes)


def test_records_tell_the_course_of_the_search(uninterrupted):
    records = uninterrupted["macs"][0].episodes
    assert [record["episode"] for record in records] == list(range(14))
    assert {record["kind"] for record in records[:5]} <= {"warmup", "elite"}
    assert {record["kind"] for record in records[5:]} == {"search", "elite"}
    best = np.maximum.accumulate([record["reward"] for record in records])
    assert [record["best_reward"] for record in records] == best.tolist()
    noise = [record["noise"] for record in records]
    assert noise[:6] == [0.5] * 6
    assert all(np.diff(noise[5:]) < 0)
    assert all(isinstance(record["critic_loss"], float) for record in records)
    assert set(records[0]) == {
        "episode", "kind", "reward", "best_reward", "top1", "top5", "probability", "fidelity", "macs",
        "params", "bytes", "latency_ms", "widths", "noise", "critic_loss", "seconds", "feasible",
    }  # fmt: skip


def test_without_a_feasible_network_there_is_no_best(graph):
    setup = Setup(graph, settings=dataclasses.replace(SETTINGS, episodes=2, warmup_episodes=1))
    setup.scorer._score = lambda widths: Score(widths, -1.0, 0.0, 0.0, 0.0, graph.count(widths), None, False)
    result = setup.search.run()
    assert result.best is None
    assert [record["best_reward"] for record in result.episodes] == [None, None]


@pytest.fixture(scope="module")
def checkpoint(graph, tmp_path_factory):
    """Files of a search that stopped after its first checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint")
    run_until(graph, path, 3)
    state = path / "checkpoint" / "search.npz"
    return {
        "checkpoint/search.npz": state.read_bytes(),
        "episodes.jsonl": (path / "episodes.jsonl").read_bytes(),
    }


def restore_files(files, path):
    (path / "checkpoint").mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({**IDENTITY, "budget": "macs=0.4"}, "budget was 'macs=0.5' and is now 'macs=0.4'"),
        ({**IDENTITY, "agent": {"batch_size": 9}}, r"agent\.batch_size was 8 and is now 9"),
        ({**IDENTITY, "seed": 1}, "seed was None and is now 1"),
    ],
)
def test_a_checkpoint_of_another_search_is_refused_naming_the_difference(
    graph, checkpoint, tmp_path, identity, words
):
    restore_files(checkpoint, tmp_path)
    with (
        RunFolder(tmp_path, resume=True) as folder,
        pytest.raises(RunFolderError, match=rf"of another search: {words}\. .* --resume, .* --overwrite"),
    ):
        Setup(graph, identity=identity).search.run(folder)
    assert (tmp_path / "episodes.jsonl").read_bytes() == checkpoint["episodes.jsonl"]


@pytest.mark.parametrize("missing", ["identity", "best", "agent/episode"])
def test_a_checkpoint_that_lacks_something_becomes_a_sentence(graph, checkpoint, tmp_path, missing):
    restore_files(checkpoint, tmp_path)
    with RunFolder(tmp_path, resume=True) as folder:
        state = folder.load_state()
        del state[missing]
        folder.save_state(state)
        with pytest.raises(RunFolderError, match=r"The checkpoint .* is damaged .*--overwrite"):
            Setup(graph).search.run(folder)


@pytest.mark.parametrize("line", [b"{}", b'{"widths": 3}'])
def test_an_episode_that_lacks_something_becomes_a_sentence(graph, checkpoint, tmp_path, line):
    lines = checkpoint["episodes.jsonl"].splitlines()
    restore_files(
        {**checkpoint, "episodes.jsonl": b"\n".join([lines[0], line, *lines[2:]]) + b"\n"}, tmp_path
    )
    with (
        RunFolder(tmp_path, resume=True) as folder,
        pytest.raises(RunFolderError, match=r"episodes\.jsonl .* is damaged .*--overwrite"),
    ):
        Setup(graph).search.run(folder)


def test_scalars_go_to_tensorboard(graph, tmp_path):
    settings = dataclasses.replace(SETTINGS, episodes=3, warmup_episodes=1)
    with RunFolder(tmp_path) as folder:
        Setup(graph, settings=settings).search.run(folder)
        events = b"".join(path.read_bytes() for path in folder.events.iterdir())
    for tag in (b"reward", b"best_reward", b"top1", b"macs", b"noise", b"critic_loss"):
        assert tag in events
    assert b"latency_ms" not in events


def test_tensorboard_shows_each_episode_while_the_search_runs(graph, tmp_path):
    seen = []
    with RunFolder(tmp_path) as folder:

        def look(record):
            seen.append(b"".join(path.read_bytes() for path in folder.events.iterdir()).count(b"best_reward"))

        settings = dataclasses.replace(SETTINGS, episodes=3, warmup_episodes=1)
        Setup(graph, settings=settings).search.run(folder, look)
    assert seen == [1, 2, 3]


def test_tensorboard_events_that_cannot_be_written_become_a_sentence(graph, tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.events.write_text("a file where the folder should be")
        with pytest.raises(RunFolderError, match=r"tensorboard cannot be written"):
            Setup(graph).search.run(folder)


@dataclasses.dataclass(frozen=True)
class UnsteadyMeter(ScriptedMeter):
    """Drops out at some of the networks that it is asked to time, counted from 0."""

    reference: bytes | None = bytes(60)
    out: range = range(0)
    asked: list[None] = dataclasses.field(default_factory=list, compare=False)

    def measure(self, tflite):
        self.asked.append(None)
        if len(self.asked) - 1 in self.out:
            raise PhoneError(f"The phone is gone (network {len(self.asked) - 1}).")
        return super().measure(tflite)


def run_with_drops(graph, path, out, **settings):
    """Runs a whole search whose phone drops out now and then; returns result and final checkpoint."""
    settings = dataclasses.replace(SETTINGS, **settings)
    with RunFolder(path) as folder, MeasurementStore(folder.measurements) as store:
        setup = Setup(graph, settings=settings, store=store, meter=UnsteadyMeter(out=out))
        return setup.search.run(folder), folder.load_state()


def test_an_episode_without_a_latency_is_dropped_and_teaches_nothing(graph, tmp_path):
    result, state = run_with_drops(graph, tmp_path, range(2, 4))
    dropped = [record for record in result.episodes if record["kind"] == "dropped"]
    assert [record["reason"] for record in dropped] == [
        "The phone is gone (network 2).",
        "The phone is gone (network 3).",
    ]
    good = result.episodes[0]
    assert set(dropped[0]) == {*good, "reason"}
    assert {name for name, value in dropped[0].items() if value is not None} == {"episode", "kind", "reason"}
    assert [record["episode"] for record in result.episodes] == list(range(14))
    assert state["agent/episode"] == 14
    assert state["agent/replay/num_added"] == 12 * len(graph.groups)
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(result.episodes)


@pytest.mark.parametrize("first", [pytest.param(0, marks=pytest.mark.slow), 7])
def test_a_search_whose_phone_has_gone_stops_and_resumes_to_the_uninterrupted_one(
    graph, uninterrupted, tmp_path, first
):
    meter = UnsteadyMeter(out=range(first, 99))
    with RunFolder(tmp_path) as folder, MeasurementStore(folder.measurements) as store:
        with pytest.raises(RunStoppedError) as caught:
            Setup(graph, store=store, meter=meter).search.run(folder)
        num_stored = len(store)
    assert re.fullmatch(
        r"The search stopped at episode \d+: 3 networks in a row could not be scored, and everything before "
        rf"is saved\. The last error: The phone is gone \(network {first + 2}\)\.",
        str(caught.value),
    )
    assert isinstance(caught.value.__cause__, PhoneError)
    assert num_stored == first
    found = run_until(graph, tmp_path, None, latency=True)
    assert_same_run(found, uninterrupted["latency"], tmp_path)
    assert num_stored + len(found[2].meter.seen) == uninterrupted["latency"][2]


def test_a_resumed_search_plays_again_what_an_unfinished_row_dropped(graph, uninterrupted, tmp_path):
    # The second of two dropped episodes ends at a checkpoint, and Ctrl-C comes after it.
    records = uninterrupted["latency"][0].episodes
    first = len({tuple(record["widths"]) for record in records[:4]})
    run_until(graph, tmp_path, 5, latency=True, meter=UnsteadyMeter(out=range(first, 99)))
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [line["kind"] == "dropped" for line in lines] == [False] * 4 + [True] * 2
    found = run_until(graph, tmp_path, None, latency=True)
    assert_same_run(found, uninterrupted["latency"], tmp_path)


def test_a_known_network_does_not_end_a_row_of_dropped_ones(graph, uninterrupted, tmp_path):
    with RunFolder(tmp_path) as folder, MeasurementStore(folder.measurements) as store:
        setup = Setup(graph, store=store, meter=UnsteadyMeter(out=range(4, 99)))
        propose = setup.search._explorer.propose

        def repeat_every_other(number, best):
            known = setup.scorer.num_scored == 4 and number % 2
            return np.array(best) / np.array(graph.full_widths) if known else propose(number, best)

        setup.search._explorer.propose = repeat_every_other
        with pytest.raises(RunStoppedError, match="3 networks in a row could not be scored"):
            setup.search.run(folder)
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    kinds = "".join("x" if line["kind"] == "dropped" else "." for line in lines)
    assert kinds.count("x") == 3
    assert "." in kinds.strip(".")
    assert_same_run(run_until(graph, tmp_path, None, latency=True), uninterrupted["latency"], tmp_path)


@pytest.mark.slow
def test_dropped_episodes_of_a_row_that_ended_stay_dropped_when_resumed(graph, tmp_path):
    whole = run_with_drops(graph, tmp_path / "whole", range(2, 4))
    run_until(graph, tmp_path / "cut", 8, latency=True, meter=UnsteadyMeter(out=range(2, 4)))
    found = run_until(graph, tmp_path / "cut", None, latency=True)
    assert_same_run(found, (*whole, None), tmp_path / "cut")


def test_a_network_that_does_not_convert_is_dropped_too(graph):
    setup = Setup(graph, settings=dataclasses.replace(SETTINGS, episodes=3, warmup_episodes=1))
    score = setup.scorer._score

    def fail_once(widths):
        setup.scorer._score = score
        raise ConversionError("The candidate does not convert.")

    setup.scorer._score = fail_once
    kinds = [record["kind"] for record in setup.search.run().episodes]
    assert [kind == "dropped" for kind in kinds] == [True, False, False]


def test_a_search_in_memory_that_stops_does_not_claim_to_have_saved_anything(graph):
    setup = Setup(graph, settings=dataclasses.replace(SETTINGS, max_dropped_in_a_row=1))

    def fail(widths):
        raise MeasurementError("The tool is too old.")

    setup.scorer._score = fail
    words = r"stopped at episode 1: a network could not be scored\. The last error: The tool is too old\.$"
    with pytest.raises(RunStoppedError, match=words):
        setup.search.run()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_teaches_nothing(graph, tmp_path, number):
    setup = Setup(graph, settings=dataclasses.replace(SETTINGS, episodes=5, warmup_episodes=1))
    score = setup.scorer._score

    def fail_once(widths):
        reward = {"reward": number} if setup.scorer.num_scored == 0 else {}
        return dataclasses.replace(score(widths), **reward)

    setup.scorer._score = fail_once
    with RunFolder(tmp_path) as folder:
        result = setup.search.run(folder)
        state = folder.load_state()
    dropped = [record for record in result.episodes if record["kind"] == "dropped"]
    assert dropped[0]["episode"] == 0
    assert 0 < len(dropped) < 3  # the same network may come again
    widths = ", ".join(map(str, setup.scorer.asked[0]))
    assert dropped[0]["reason"] == (
        f"The reward of the network with the widths {widths} is {number}, but must be a finite number."
    )
    assert np.isfinite(result.best.reward)
    assert state["agent/replay/num_added"] == (5 - len(dropped)) * len(graph.groups)
    assert all(np.isfinite(array).all() for array in state.values() if array.dtype.kind == "f")


def test_rewards_that_are_never_numbers_stop_the_search(graph):
    setup = Setup(graph)
    score = setup.scorer._score
    setup.scorer._score = lambda widths: dataclasses.replace(score(widths), reward=np.nan)
    with pytest.raises(
        RunStoppedError, match=r"3 networks in a row could not be scored\. .* is nan, but must"
    ):
        setup.search.run()
