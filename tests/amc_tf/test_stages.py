"""Facts about compressions in several stages: what each stage may cost, and how a run of them goes on."""

import dataclasses
import json
import shutil

import keras
import pytest
import tf_keras

from amc_tf.budget import Budget
from amc_tf.compress import compress
from amc_tf.cost import Cost
from amc_tf.errors import BudgetError, RunFolderError, SettingsError
from amc_tf.graph import count_cost
from amc_tf.plan import PruningPlan
from amc_tf.progress import Progress
from amc_tf.rebuild import rebuild
from amc_tf.run_record import read_run
from amc_tf.search import SearchResult
from amc_tf.session import PruningSession
from amc_tf.settings import AgentSettings, FinetuneSettings, SearchSettings
from amc_tf.stage_record import StageRecord
from amc_tf.stages import stage_budget, stage_limit, whole_settings
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_data

SETTINGS = SearchSettings(
    episodes=4,
    warmup_episodes=2,
    round_to=2,
    num_calibration_images=64,
    num_search_images=100,
    checkpoint_every=1,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)
ONE_EPOCH = FinetuneSettings(epochs=1, batch_size=32, augment="none", learning_rate=0.002)
NONE = dataclasses.replace(ONE_EPOCH, epochs=0)
TRAIN, VALIDATION = make_data(240, 0), make_data(100, 1)
QUARTER = Budget(macs=0.25)
STAGE_FILES = {"episodes.jsonl", "plan.json", "checkpoint", "tensorboard"}


def run(model, *, budget=QUARTER, **options):
    given = {"settings": SETTINGS, "finetuning": NONE, "input_range": RANGE, "stages": 2, **options}
    return compress(model, TRAIN, VALIDATION, budget=budget, **given)


def limit_of(budget, original=1000.0):
    return budget.resolve(Cost(int(original), int(original)), latency_ms=original)


def record(**changes):
    values = {"search_top1": 0.8, "finetuned_top1": 0.9, "cost": Cost(500, 500), **changes}
    return StageRecord(limit_of(Budget(macs=0.5)), "agent", **values)


def test_limits_fall_by_one_factor_and_end_at_the_budget():
    limit = limit_of(Budget(macs=0.125))
    limits = [stage_limit(limit, number, 3).limit for number in (1, 2, 3)]
    assert limits == [pytest.approx(500), pytest.approx(250), 125.0]
    assert stage_limit(limit, 1, 1) is limit


def test_an_accuracy_bounds_every_stage_alike():
    limit = Budget(accuracy=0.9).resolve(Cost(1, 1))
    assert stage_limit(limit, 1, 3) == limit


def test_the_limit_of_a_count_is_absolute_whatever_the_stage_starts_from():
    limit = stage_limit(limit_of(Budget(params=0.25)), 1, 2)
    budget = stage_budget(limit, None, original_top1=1.0)
    assert (budget.kind, budget.value, budget.absolute) == ("params", pytest.approx(500), True)
    assert stage_budget(limit, record(cost=Cost(9, 501)), original_top1=1.0) == budget


@pytest.mark.parametrize(
    ("budget", "before"),
    [
        (Budget(macs=0.5), record(cost=Cost(500, 9))),
        (Budget(latency=0.5), record(latency_ratio=0.5)),
        (Budget(accuracy=0.95), record(finetuned_top1=0.94)),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_network_within_the_limit_already_is_left_alone(budget, before):
    limit = budget.resolve(Cost(1000, 1000), latency_ms=1.0)
    assert stage_budget(limit, before, original_top1=1.0) is None


def test_a_limit_of_latency_becomes_a_part_of_what_the_stage_starts_from():
    limit = stage_limit(limit_of(Budget(latency=0.25)), 2, 2)
    assert stage_budget(limit, record(latency_ratio=0.4), original_top1=1.0) == Budget(latency=0.25 / 0.4)
    assert stage_budget(limit, None, original_top1=1.0) == Budget(latency=0.25)


def test_an_accuracy_stays_one_of_the_originals():
    limit = Budget(accuracy=0.9).resolve(Cost(1, 1))
    budget = stage_budget(limit, record(finetuned_top1=0.75), original_top1=0.8)
    assert (budget.kind, budget.value) == ("accuracy", pytest.approx(0.96))  # 0.72 of 0.75


def test_the_whole_may_keep_as_little_as_all_stages_together():
    assert whole_settings(SETTINGS, 3).min_keep_ratio == pytest.approx(0.2**3)


@pytest.fixture(scope="module")
def model():
    return make_classifier(keras)


class Stopping(Progress):
    """Presses Ctrl-C when a step begins or an episode has ended."""

    def __init__(self, step, episode=None):
        self.step, self.last, self.now, self.steps = step, episode, "", []

    def stage(self, text):
        self.now = text
        self.steps.append(text)
        if text == self.step and self.last is None:
            raise KeyboardInterrupt

    def episode(self, record, total):
        if self.now == self.step and record["episode"] == self.last:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A run that was stopped in its second search and went on: (result, folder, steps before and after)."""
    folder, first, second = tmp_path_factory.mktemp("run"), Stopping("stage 2/2: search", 2), Stopping("")
    with pytest.raises(KeyboardInterrupt):
        run(model, out=folder, progress=first)
    return run(model, out=folder, resume=True, progress=second), folder, (first.steps, second.steps)


def test_each_stage_has_a_folder_and_the_result_lies_above(finished):
    _, folder, _ = finished
    assert {path.name for path in (folder / "stage1").iterdir()} == {
        *STAGE_FILES,
        "model.keras",
        "stage.json",
    }
    assert {path.name for path in (folder / "stage2").iterdir()} == STAGE_FILES
    assert not (folder / "episodes.jsonl").exists()
    assert {"model.keras", "plan.json", "summary.json", "report.html"} <= {p.name for p in folder.iterdir()}


def test_the_plan_is_one_of_the_original(finished, model):
    result, folder, _ = finished
    plan = PruningPlan.load(folder / "plan.json")
    assert plan == result.plan
    rebuilt = rebuild(model, plan)
    assert [w.shape for w in rebuilt.get_weights()] == [w.shape for w in result.model.get_weights()]
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in result.model.layers]
    first = PruningPlan.load(folder / "stage1" / "plan.json")
    for name, kept in plan.kept.items():
        assert set(kept) <= set(first.kept[name])


def test_each_stage_is_within_its_part_of_the_budget(finished, model):
    stages = finished[0].summary["stages"]
    macs = count_cost(model).macs
    assert [stage["budget"]["limit"] for stage in stages] == [pytest.approx(macs / 2), macs / 4]
    assert all(stage["macs"] <= stage["budget"]["limit"] for stage in stages)
    assert stages[1]["macs"] == finished[0].summary["finetuned"]["macs"] == count_cost(finished[0].model).macs
    assert finished[0].summary["budget"] == {
        "kind": "macs", "value": 0.25, "limit": macs / 4, "unit": "MACs"
    }  # fmt: skip
    assert finished[0].summary["uniform"]["macs"] <= macs / 4


def test_the_steps_of_each_stage_are_told_and_timed(finished):
    begun, stages = ["calibrate", "uniform"], [f"stage {n}/2: " for n in (1, 2)]
    first = [stages[0] + step for step in ("calibrate", "search", "finetune")]
    second = [stages[1] + step for step in ("calibrate", "search", "finetune")]
    assert finished[2][0] == [*begun, *first, *second[:2]]
    assert finished[2][1] == [*begun, *second, "convert", "measure", "report"]
    assert set(finished[0].summary["seconds"]) == {*begun, *second, "convert", "measure", "total"}


def test_the_report_shows_the_stages_and_all_their_episodes(finished):
    page = (finished[1] / "report.html").read_text(encoding="utf-8")
    assert page.count("What each stage did") == 1
    episodes = read_run(finished[1]).episodes
    assert [(line["stage"], line["episode"]) for line in episodes] == [(1 + n // 4, n) for n in range(8)]


STOPS = [
    ("stage 1/2: finetune", None),
    ("stage 2/2: calibrate", None),
    ("stage 2/2: finetune", None),
]


@pytest.fixture(scope="module")
def tuned(model):
    return run(model, finetuning=ONE_EPOCH)


@pytest.mark.slow
def test_a_run_that_went_on_ends_as_one_that_was_never_stopped(finished, model):
    whole = run(model)
    assert whole.plan == finished[0].plan
    assert whole.tflite == finished[0].tflite
    assert whole.summary["stages"] == finished[0].summary["stages"]


@pytest.mark.slow
@pytest.mark.parametrize(("step", "episode"), STOPS)
def test_a_run_ends_alike_wherever_it_was_stopped(tuned, model, tmp_path, step, episode):
    given = {"finetuning": ONE_EPOCH, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        run(model, progress=Stopping(step, episode), **given)
    again = run(model, resume=True, **given)
    assert again.plan == tuned.plan
    assert again.tflite == tuned.tflite
    assert again.summary["stages"] == tuned.summary["stages"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": 1}, "holds a run of several stages"),
        ({"budget": Budget(macs=0.3)}, r"of another compression: limit was .* and is now"),
        ({"finetuning": ONE_EPOCH}, "fine-tuning epochs was 0 and is now 1"),
        ({"settings": dataclasses.replace(SETTINGS, seed=1)}, "search seed was 0 and is now 1"),
    ],
    ids=["stages", "budget", "epochs", "seed"],
)
def test_a_run_goes_on_with_the_same_settings_only(finished, model, options, words):
    with pytest.raises(RunFolderError, match=words):
        run(model, out=finished[1], resume=True, **options)


@pytest.mark.slow
def test_a_stage_of_a_version_that_lacked_a_setting_is_gone_on_from(finished, model, tmp_path):
    folder = shutil.copytree(finished[1], tmp_path / "run")
    (file := folder / "stage1" / "stage.json").write_text(
        json.dumps({**(held := json.loads(file.read_text())), "identity": without_features(held["identity"])})
    )
    assert run(model, out=folder, resume=True).plan == finished[0].plan
    imitating = dataclasses.replace(NONE, feature_weight=1.0)
    with pytest.raises(RunFolderError, match=r"fine-tuning feature_weight was 0\.0 and is now 1\.0"):
        run(model, out=folder, resume=True, finetuning=imitating)


def without_features(identity):
    return {name: value for name, value in identity.items() if not name.endswith("feature_weight")}


@pytest.mark.slow
def test_hidden_outputs_of_the_original_are_imitated_in_every_stage(model):
    tuned = run(model, finetuning=dataclasses.replace(ONE_EPOCH, feature_weight=1.0), finetune_uniform=True)
    assert tuned.summary["settings"]["finetune"]["feature_weight"] == 1.0
    assert len(tuned.summary["stages"]) == 2


def test_a_run_of_one_stage_does_not_go_on_with_two(model, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "search.npz").touch()
    with pytest.raises(RunFolderError, match="holds a run of 1 stage, but 2 are asked for"):
        run(model, out=tmp_path, resume=True)


@pytest.mark.parametrize("name", ["stage.json", "model.keras", "plan.json"])
def test_a_damaged_stage_becomes_a_sentence(finished, model, name):
    path = finished[1] / "stage1" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        with pytest.raises(RunFolderError, match="finished stage in .*stage1 is damaged .* --overwrite"):
            run(model, out=finished[1], resume=True)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("stages", [0, -1, 1.5, True, 21])
def test_a_number_of_stages_that_is_none_is_refused(model, stages):
    with pytest.raises(SettingsError, match="give a whole number from 1 to 20"):
        run(model, stages=stages)


def test_a_stage_that_finds_nothing_is_named(model, monkeypatch):
    nothing = SearchResult(None, ())
    monkeypatch.setattr(PruningSession, "search", lambda *_: nothing)
    monkeypatch.setattr("amc_tf.budget.Limit.allows", lambda *_: False)
    with pytest.raises(BudgetError, match=r"^Stage 1 of 2: No network within the budget macs="):
        run(model)


@pytest.mark.slow
def test_a_latency_is_a_part_of_the_originals_in_every_stage(model, tmp_path):
    given = {"budget": Budget(latency=0.6), "meter": ScriptedMeter(), "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        run(model, progress=Stopping("stage 2/2: search", 1), **given)
    result = run(model, resume=True, **given)
    stages, full = result.summary["stages"], result.summary["baseline"]["latency_ms"]["median"]
    assert [stage["budget"]["limit"] for stage in stages] == pytest.approx([0.6**0.5 * full, 0.6 * full])
    assert stages[0]["latency_ratio"] <= 0.6**0.5
    assert stages[1]["latency_ratio"] <= 0.6
    assert result.summary["pruned"]["latency_ms"]["median"] <= 0.6 * full * 1.01


@pytest.mark.slow
def test_an_accuracy_is_kept_in_every_stage(model):
    settings = dataclasses.replace(SETTINGS, reward="macs", episodes=8)
    result = run(model, budget=Budget(accuracy=0.8), settings=settings)
    stages = result.summary["stages"]
    assert [stage["budget"]["limit"] for stage in stages] == [None, None]
    assert all(stage["search_top1"] >= 0.8 * 0.9 for stage in stages if stage["plan_found_by"])
    assert stages[1]["macs"] <= stages[0]["macs"] <= count_cost(model).macs


@pytest.mark.slow
def test_a_tf_keras_model_is_compressed_in_stages(tmp_path):
    model = make_classifier(tf_keras)
    with pytest.raises(KeyboardInterrupt):
        run(model, out=tmp_path, progress=Stopping("stage 2/2: search", 1))
    result = run(model, out=tmp_path, resume=True)
    assert isinstance(result.model, tf_keras.Model)
    assert count_cost(result.model).macs <= count_cost(model).macs / 4


@pytest.mark.slow
def test_uniform_is_fine_tuned_for_as_many_epochs_as_all_stages(model):
    listener, epochs = Progress(), []
    listener.epoch = lambda number, total, top1: epochs.append((number, total))
    run(model, finetuning=ONE_EPOCH, finetune_uniform=True, progress=listener)
    assert epochs == [(0, 1), (1, 1)] * 2 + [(0, 2), (1, 2), (2, 2)]


def test_overwrite_deletes_the_stages_of_an_earlier_run(finished, model, tmp_path):
    for number in (1, 2, 3):
        folder = tmp_path / f"stage{number}"
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "search.npz").touch()
        (folder / "stage.json").write_text(json.dumps({}))
    (tmp_path / "stage3" / "mine.txt").touch()
    with pytest.raises(RunFolderError, match=r"earlier run \(stage1/stage.json\)"):
        run(model, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(model, out=tmp_path, overwrite=True, progress=Stopping("calibrate"))
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "stage3/mine.txt", "checkpoint/lock", "checkpoint/measurements.sqlite", "stage1/checkpoint/lock"
    }  # fmt: skip


def test_a_run_that_never_searched_in_stages_may_become_one_of_one_stage(model, tmp_path):
    with pytest.raises(BudgetError, match="smallest network"):
        run(model, budget=Budget(macs=0.0001), out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(model, stages=1, out=tmp_path, progress=Stopping("search", 0))
    assert (tmp_path / "episodes.jsonl").exists()
