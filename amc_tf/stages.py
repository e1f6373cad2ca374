"""A compression in stages: each prunes, within a smaller limit, what the one before has fine-tuned.

He et al. (ECCV 2018) prune ResNet-50 in four rounds with fine-tuning between them. A network that loses few
channels at a time keeps enough accuracy for the reward to tell plans apart; one that loses many at once keeps
almost none (github.com/mit-han-lab/amc issue 14).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from amc_tf.budget import Budget, Limit
from amc_tf.cost import Cost
from amc_tf.errors import BudgetError, RunFolderError, SettingsError
from amc_tf.finalists import Choice
from amc_tf.keras_callbacks import listening
from amc_tf.progress import Clock, Progress
from amc_tf.run_folder import RunFolder
from amc_tf.score import Score
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from amc_tf.stage_record import StageRecord, load_stage, save_stage

MAX_STAGES = 20


class StageTask(Protocol):
    """What stages ask of the job that they are of: `CompressionTask` or `SparsityTask`."""

    @property
    def model(self) -> Any:
        """The original."""

    @property
    def settings(self) -> SearchSettings:
        """Settings of each search."""

    @property
    def progress(self) -> Progress:
        """Who is told of episodes and epochs."""

    @property
    def callbacks(self) -> tuple[Any, ...]:
        """Keras callbacks that are told of the episodes of each search."""

    def session(self, model: Any, budget: Budget) -> PruningSession:
        """Prepares the search of a network: the original, or one that an earlier stage has made of it."""

    def build(self, session: Any, model: Any, score: Score) -> tuple[Any, Any]:
        """Builds the network of a score, recovered without training, and its plan."""

    def compose(self, before: Any, step: Any) -> Any:
        """Returns what is left of the original, of what was before and what a stage kept."""

    def restore(self, model: Path, plan: Path) -> tuple[Any, Any]:
        """Reads the network of a finished stage, and its plan."""

    def latency_ratio(
        self, slim: Any, original_ms: float | None, *, input_shape: tuple[int, ...]
    ) -> float | None:
        """Times a network beside the original, where the next stage starts from what it takes."""

    def finetune(self, slim: Any, plan: Any) -> tuple[Any, float | None]:
        """Trains a network; returns it with its top-1, or as it was and None."""

    def identity(self, model: bytes) -> Mapping[str, Any]:
        """Returns what a finished stage must agree with to be gone on from."""


@dataclasses.dataclass(frozen=True)
class Original:
    """What later stages and the results ask of the original.

    Attributes:
        model: the Keras model.
        tflite: the model as float32 TFLite bytes.
        input_shape: (height, width, channels) of its images.
        cost: its exact cost.
        top1: its accuracy on the search images, in [0, 1].
        latency_ms: its median latency, None without a meter.
        limit: the budget in absolute numbers.
    """

    model: Any
    tflite: bytes
    input_shape: tuple[int, ...]
    cost: Cost
    top1: float
    latency_ms: float | None
    limit: Limit

    @classmethod
    def of(cls, model: Any, session: PruningSession) -> Original:
        """Takes from the session of the original what outlives it."""
        return cls(
            model,
            session.tflite,
            session.network.input_shape,
            session.graph.count(),
            session.baseline_top1,
            session.baseline_ms,
            session.limit,
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What the stages ended in.

    Attributes:
        pruned: the slim network of the last stage before its fine-tuning.
        model: the same after it.
        plan: what is left of the original; None before the first stage.
        records: what each stage did.
    """

    pruned: Any
    model: Any
    plan: Any
    records: tuple[StageRecord, ...]

    @property
    def found_by(self) -> str:
        """Returns "agent" if the agent found the plan of any stage, else the control that was taken last."""
        found = [record.found_by for record in self.records if record.found_by]
        return "agent" if "agent" in found else found[-1]


def stage_limit(limit: Limit, number: int, num_stages: int) -> Limit:
    """Returns what a stage allows: each takes the same factor off the original's cost.

    Args:
        limit: of the whole compression; that of the last stage.
        number: 1 for the first stage.
        num_stages: how many there are.
    """
    if number == num_stages or math.isinf(limit.limit):
        return limit
    part = (limit.limit / limit.original) ** (number / num_stages)
    return dataclasses.replace(limit, limit=part * limit.original)


def stage_budget(limit: Limit, before: StageRecord | None, *, original_top1: float) -> Budget | None:
    """Returns the budget of a stage for the network that it starts from, None if that is within it already.

    A limit of latency becomes a ratio of the starting network's latency, so that a device that has become
    slower since does not pass for a slower network. An accuracy stays one of the original's: of a starting
    network that is less accurate a greater part is asked for.

    Args:
        limit: of the stage.
        before: the stage before, None if the original is what the stage starts from.
        original_top1: accuracy of the original on the search images, in [0, 1].
    """
    kind = limit.kind
    if kind == "accuracy":
        floor = limit.budget.value * (original_top1 / before.finetuned_top1 if before else 1.0)
        return Budget(accuracy=floor) if floor <= 1.0 else None
    if kind == "latency":
        ratio = (
            limit.limit / limit.original / (before.latency_ratio if before and before.latency_ratio else 1.0)
        )
        return Budget(latency=ratio) if ratio < 1.0 else None
    if before is not None and limit.allows(before.cost):
        return None
    return Budget(**{kind: limit.limit}, absolute=True)


def check_num_stages(num_stages: int) -> None:
    """Checks the number of stages.

    Raises:
        SettingsError: if it is none.
    """
    if isinstance(num_stages, bool) or not isinstance(num_stages, int) or not 1 <= num_stages <= MAX_STAGES:
        raise SettingsError(f"stages is {num_stages!r}; give a whole number from 1 to {MAX_STAGES}.")


def whole_settings(settings: SearchSettings, num_stages: int) -> SearchSettings:
    """Returns the settings that bound in one step what the stages bound in several.

    `min_keep_ratio` holds in each stage, so that its power holds in all of them together.
    """
    return dataclasses.replace(settings, min_keep_ratio=settings.min_keep_ratio**num_stages)


def run_only_stage(task: StageTask, session: PruningSession, folder: RunFolder | None, clock: Clock) -> Found:
    """Runs a compression of one stage.

    Args:
        task: what is compressed, and how.
        session: of the original and the budget.
        folder: of the run, which is the stage's too; None to write nothing.
        clock: told of each step.

    Raises:
        BudgetError: if no network within the budget is found.
        RunFolderError: if the folder holds a run of several stages, or cannot be written.
        RunStoppedError: if too many networks in a row cannot be timed.
    """
    if folder is not None and folder.num_stages:
        raise RunFolderError(
            f"{folder.path} holds a run of several stages: give their number to --resume, or start again "
            "with --overwrite."
        )
    choice = _search(task, session, folder)
    score = choice.best
    pruned, plan = task.build(session, task.model, score)
    clock.begin("finetune")
    model, top1 = task.finetune(pruned, plan)
    record = StageRecord(
        session.limit, choice.found_by, score.top1, score.top1 if top1 is None else top1, score.cost
    )
    return Found(pruned, model, plan, (record,))


def run_stages(
    task: StageTask, original: Original, *, num_stages: int, folder: RunFolder | None, clock: Clock
) -> Found:
    """Runs the stages of a compression one after the other.

    With a folder each stage has its own below it: episodes, checkpoint and plan, and once it has finished its
    network and its record. A run that goes on takes finished stages from there; the last one, whose network
    is the result, goes on from its search.

    Args:
        task: what is compressed, and how.
        original: the network that the first stage starts from.
        num_stages: how many there are, 2 or more.
        folder: of the run; None to write nothing.
        clock: told of each step.

    Raises:
        BudgetError: if a stage finds no network within its budget.
        MeasurementError: if the network of a stage cannot be timed.
        RunFolderError: if the folder holds a run of another number of stages, a file is damaged, of another
            compression, or cannot be written.
        RunStoppedError: if too many networks in a row cannot be timed.
    """
    if folder is not None:
        _check_folder(folder, num_stages)
    stages = _Stages(task, original, num_stages, clock)
    found = Found(original.model, original.model, None, ())
    for number in range(1, num_stages + 1):
        with folder.stage(number) if folder else contextlib.nullcontext() as stage_folder:
            found = stages.run(number, found, stage_folder)
    return found


class _Stages:
    """The stages of one compression: `run` runs one, or takes it from its folder."""

    def __init__(self, task: StageTask, original: Original, num_stages: int, clock: Clock) -> None:
        self._task = task
        self._original = original
        self._num_stages = num_stages
        self._clock = clock
        self._identity = task.identity(original.tflite)

    def run(self, number: int, before: Found, folder: RunFolder | None) -> Found:
        limit = stage_limit(self._original.limit, number, self._num_stages)
        return self._load(limit, before, folder) or self._run(number, limit, before, folder)

    def _load(self, limit: Limit, before: Found, folder: RunFolder | None) -> Found | None:
        """Returns what the stages up to one that has finished earlier ended in, None if it has not."""
        if folder is None:
            return None
        loaded = load_stage(folder, limit, restore=self._task.restore, identity=self._identity)
        if loaded is None:
            return None
        record, model, plan = loaded
        return Found(model, model, plan, (*before.records, record))

    def _run(self, number: int, limit: Limit, before: Found, folder: RunFolder | None) -> Found:
        budget = stage_budget(limit, _last(before), original_top1=self._original.top1)
        if budget is None:
            found = _unchanged(limit, before)
        else:
            try:
                found = self._prune(number, limit, budget, before, folder)
            except BudgetError as error:
                raise BudgetError(f"Stage {number} of {self._num_stages}: {error}") from error
        if folder is not None and number < self._num_stages:
            save_stage(folder, found.records[-1], model=found.model, plan=found.plan, identity=self._identity)
        elif folder is not None:
            folder.write_json("plan.json", found.plan.to_json())
        return found

    def _prune(
        self, number: int, limit: Limit, budget: Budget, before: Found, folder: RunFolder | None
    ) -> Found:
        """Searches within a budget of the network that the stage starts from, and fine-tunes the best."""
        self._begin(number, "calibrate")
        session = self._task.session(before.model, budget)
        self._begin(number, "search")
        choice = _search(self._task, session, folder)
        score = choice.best
        pruned, step = self._task.build(session, before.model, score)
        plan = self._task.compose(before.plan, step)
        self._begin(number, "finetune")
        model, top1 = self._task.finetune(pruned, plan)
        record = StageRecord(
            limit,
            choice.found_by,
            score.top1,
            score.top1 if top1 is None else top1,
            score.cost,
            self._latency_ratio(pruned),
        )
        return Found(pruned, model, plan, (*before.records, record))

    def _latency_ratio(self, model: Any) -> float | None:
        """Times a network beside the original, where a limit of latency asks for it."""
        original = self._original
        if original.limit.kind != "latency":
            return None
        return self._task.latency_ratio(model, original.latency_ms, input_shape=original.input_shape)

    def _begin(self, number: int, step: str) -> None:
        self._clock.begin(f"stage {number}/{self._num_stages}: {step}")


def _last(found: Found) -> StageRecord | None:
    return found.records[-1] if found.records else None


def _unchanged(limit: Limit, before: Found) -> Found:
    """Returns a stage that does nothing, because the network that it starts from is within its limit."""
    last = before.records[-1]
    record = dataclasses.replace(last, limit=limit, found_by=None, search_top1=last.finetuned_top1)
    return Found(before.model, before.model, before.plan, (*before.records, record))


def _search(task: StageTask, session: PruningSession, folder: RunFolder | None) -> Choice:
    uniform = session.uniform()
    with listening(task.callbacks, task.progress, task.settings.episodes) as tell:
        result = session.search(folder, tell)
    return session.choose(uniform, result)


def _check_folder(folder: RunFolder, num_stages: int) -> None:
    """Checks that a run in the folder, if there is one, is of several stages and not of more."""
    held = 1 if folder.has_checkpoint else folder.num_stages
    if held > num_stages or folder.has_checkpoint:
        raise RunFolderError(
            f"{folder.path} holds a run of {held} stage{'s' if held > 1 else ''}, but {num_stages} are asked "
            "for: give the same number to --resume, or start again with --overwrite."
        )
