"""The search: episodes of environment and agent, logged, saved and resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from amc_tf.agent.ddpg import DDPGAgent, TrainingRecord
from amc_tf.elite import EliteExplorer
from amc_tf.env import STATE_SIZE, PruningEnv
from amc_tf.errors import (
    AmcError,
    ConversionError,
    MeasurementError,
    RewardError,
    RunFolderError,
    RunStoppedError,
)
from amc_tf.run_folder import RunFolder
from amc_tf.score import LearningPredictor, Score
from amc_tf.settings import SearchSettings

EpisodeCallback = Callable[[Mapping[str, Any]], bool | None]
DROPPED = "dropped"
_RECORD = (
    "episode", "kind", "reward", "top1", "top5", "probability", "fidelity", "macs", "params", "bytes",
    "latency_ms", "widths", "feasible", "best_reward", "noise", "critic_loss", "seconds",
)  # fmt: skip
_SCALARS = (
    "reward",
    "best_reward",
    "top1",
    "probability",
    "fidelity",
    "macs",
    "params",
    "latency_ms",
    "noise",
    "critic_loss",
)


class RemembersScores(Protocol):
    """A scorer that can be told scores of an earlier run.

    Attributes:
        num_scored: networks that it has measured, not recalled.
    """

    num_scored: int

    def remember(self, score: Score) -> None:
        """Takes over a score."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        best: the feasible network of the highest rank (see `Score.rank`); None if none was feasible.
        episodes: the records of all episodes, as `episodes.jsonl` holds them; those of kind `DROPPED` have a
            "reason" and no score.
    """

    best: Score | None
    episodes: tuple[Mapping[str, Any], ...]


class Search:
    """Runs a DDPG agent on a pruning environment (AMC, Figure 1).

    Each episode: the agent decides on every channel group in turn, the finished network is scored, the score
    is written on every transition, the agent trains. With a folder, each episode is logged, and the whole
    state is saved every `settings.checkpoint_every` episodes; a search that goes on from there ends as it
    would have without the interruption.

    An episode whose network cannot be converted or timed says nothing about the plan: the phone may have
    dropped out. It is dropped, and the agent learns nothing from it; nor from one whose reward is NaN or
    infinite. After `settings.max_dropped_in_a_row` of
    them the search stops. Only a network that is newly measured ends the row; episodes that play a known one
    do not. The state before the first of the row is what is saved, so that a resumed search goes the way of
    one whose phone never left, and no measurement is made twice.

    Args:
        env: the environment.
        settings: of search and agent.
        explorer: plays a share of the episodes in the actor's place.
        scorer: the one of the environment; told the scores that a resumed search has behind it.
        predictor: of latency, saved and restored with the search.
        identity: JSON values that tell one search from another; a checkpoint is only resumed by the same.
    """

    def __init__(
        self,
        env: PruningEnv,
        settings: SearchSettings,
        *,
        scorer: RemembersScores,
        explorer: EliteExplorer,
        predictor: LearningPredictor | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self._env = env
        self._settings = settings
        self._scorer = scorer
        self._explorer = explorer
        self._predictor = predictor
        self._identity = json.dumps(identity or {}, sort_keys=True)
        self._agent = DDPGAgent(
            STATE_SIZE,
            settings.agent,
            seed=settings.seed,
            warmup_episodes=settings.warmup_episodes,
            num_episodes=settings.episodes,
        )
        self._records: list[Mapping[str, Any]] = []
        self._best: Score | None = None
        self._dropped: list[AmcError] = []  # why, for each dropped episode of the present row
        self._before_dropped: dict[str, NDArray[Any]] = {}

    def run(self, folder: RunFolder | None = None, on_episode: EpisodeCallback | None = None) -> SearchResult:
        """Runs all episodes, or those that are left.

        Args:
            folder: where to log and save; a checkpoint in it is resumed.
            on_episode: called with the record of each episode, the ones resumed included; returns True to end
                the search after it. What is left of a search that ended so is played when it is resumed.

        Raises:
            RunFolderError: if the checkpoint is damaged or of another search, or a file cannot be written.
            RunStoppedError: if too many networks in a row cannot be converted, timed or rewarded.
        """
        if folder is not None:
            self._resume(folder)
        report = on_episode or (lambda record: None)
        is_stopped = True in [bool(report(record)) for record in self._records]
        with _events(folder) as write_scalars:
            while not is_stopped and self._agent.episode < self._settings.episodes:
                record = self._try_episode()
                self._records.append(record)
                if folder is not None:
                    folder.append_episode(record)
                    write_scalars(record)
                    if self._is_checkpoint_due():
                        folder.save_state(self._checkpoint())
                is_stopped = bool(report(record))
                if len(self._dropped) == self._settings.max_dropped_in_a_row:
                    self._stop(folder)
        if is_stopped and folder is not None:
            folder.save_state(self._checkpoint())
        return SearchResult(self._best, tuple(self._records))

    def _stop(self, folder: RunFolder | None) -> NoReturn:
        number, last = len(self._dropped), self._dropped[-1]
        networks = "a network" if number == 1 else f"{number} networks in a row"
        saved = ""
        if folder is not None:
            folder.save_state(self._before_dropped)
            saved = ", and everything before is saved"
        raise RunStoppedError(
            f"The search stopped at episode {self._agent.episode}: {networks} could not be scored{saved}. "
            f"The last error: {last}"
        ) from last

    def _try_episode(self) -> dict[str, Any]:
        """Runs an episode, or drops it where its network cannot be converted or timed."""
        number, num_scored = self._agent.episode, self._scorer.num_scored
        if not self._dropped:
            self._before_dropped = self._state()
        try:
            record = self._run_episode()
        except (ConversionError, MeasurementError, RewardError) as error:
            self._dropped.append(error)
            self._agent.end_episode()
            facts = {"episode": number, "kind": DROPPED, "reason": str(error)}
            return {**dict.fromkeys(_RECORD), **facts}
        if self._scorer.num_scored > num_scored:
            self._dropped.clear()
        return record

    def _run_episode(self) -> dict[str, Any]:
        agent, started = self._agent, time.perf_counter()
        number, noise = agent.episode, agent.noise_sigma
        proposal = self._explorer.propose(number, self._best.widths if self._best else None)
        kind = "elite" if proposal is not None else "warmup" if agent.is_warmup else "search"
        states, actions, score = self._play(proposal)
        agent.observe_episode(states, actions, score.reward)
        training = agent.train()
        agent.end_episode()
        if score.feasible and (self._best is None or score.rank > self._best.rank):
            self._best = score
        return self._record(number, kind, noise, score, training, time.perf_counter() - started)

    def _play(
        self, proposal: NDArray[np.float32] | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Score]:
        """Plays the proposal, or else the actor; returns states [T, S], executed actions [T], the score."""
        state, _ = self._env.reset()
        states: list[NDArray[np.float32]] = []
        actions: list[float] = []
        while True:
            action = self._agent.explore(state) if proposal is None else proposal[len(actions)]
            states.append(state)
            state, _, terminated, _, info = self._env.step(np.array([action], np.float32))
            actions.append(info["keep_ratio"])
            if terminated:
                return np.stack(states), np.array(actions, np.float32), info["score"]

    def _record(
        self, number: int, kind: str, noise: float, score: Score, training: TrainingRecord, seconds: float
    ) -> dict[str, Any]:
        return {
            "episode": number,
            "kind": kind,
            **score.to_json(),
            "best_reward": None if self._best is None else self._best.reward,
            "noise": noise,
            "critic_loss": training.critic_loss,
            "seconds": round(seconds, 4),
        }

    def _is_checkpoint_due(self) -> bool:
        done = self._agent.episode
        return done % self._settings.checkpoint_every == 0 or done == self._settings.episodes

    def _checkpoint(self) -> dict[str, NDArray[Any]]:
        """Returns the state to go on from: a row of dropped episodes that has not ended is left out."""
        return self._before_dropped if self._dropped else self._state()

    def _state(self) -> dict[str, NDArray[Any]]:
        predictor = self._predictor.state() if self._predictor else {}
        return {
            "identity": _encode(self._identity),
            "best": _encode(json.dumps(self._best.to_json() if self._best else None)),
            **{f"agent/{name}": array for name, array in self._agent.state().items()},
            **{f"predictor/{name}": array for name, array in predictor.items()},
        }

    def _resume(self, folder: RunFolder) -> None:
        """Takes over the checkpoint of a folder, if there is one, and the episodes that it knows."""
        state = folder.load_state()
        try:
            if state is not None:
                self._check_identity(folder, json.loads(_decode(state["identity"])))
                self._restore(state)
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"The checkpoint in {folder.path} is damaged ({error}): start again with --overwrite."
            ) from error
        self._records = list(folder.read_episodes(self._agent.episode))
        try:
            played = [record for record in self._records if record["kind"] != DROPPED]
            scores = [Score.from_json(dict(record)) for record in played]
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"episodes.jsonl in {folder.path} is damaged ({error!r}): start again with --overwrite."
            ) from error
        for score in scores:
            self._scorer.remember(score)

    def _check_identity(self, folder: RunFolder, saved: Mapping[str, Any]) -> None:
        given = json.loads(self._identity)
        if saved != given:
            raise RunFolderError(
                f"The checkpoint in {folder.path} is of another search: {_first_difference(saved, given)}. "
                "Give the same settings to --resume, or start again with --overwrite."
            )

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        best = json.loads(_decode(state["best"]))
        self._best = Score.from_json(best) if best else None
        if self._predictor is not None:
            self._predictor.restore(_below("predictor/", state))
        self._agent.restore(_below("agent/", state))


@contextlib.contextmanager
def _events(folder: RunFolder | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yields the function that writes the scalars of a record as TensorBoard events."""
    if folder is None:
        yield lambda record: None
        return
    with _clear_errors(folder):
        writer = tf.summary.create_file_writer(str(folder.events))

    def write(record: Mapping[str, Any]) -> None:
        with _clear_errors(folder), writer.as_default():
            for name in _SCALARS:
                if record.get(name) is not None:
                    tf.summary.scalar(name, record[name], step=record["episode"])
            writer.flush()

    try:
        yield write
    finally:
        writer.close()


@contextlib.contextmanager
def _clear_errors(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise RunFolderError(f"{folder.events} cannot be written: {error.message}.") from error


def saved_identity(folder: RunFolder) -> Mapping[str, Any]:
    """Returns the JSON values that tell the search saved in a folder from another; empty where none is saved.

    Raises:
        RunFolderError: If the checkpoint is damaged.
    """
    state = folder.load_state()
    return {} if state is None else dict(json.loads(_decode(state["identity"])))


def _first_difference(saved: Any, given: Any, name: str = "") -> str:
    """Names the first entry in which two JSON values differ, as "agent.batch_size was 64 and is now 32"."""
    if not (isinstance(saved, dict) and isinstance(given, dict)):
        return f"{name} was {saved!r} and is now {given!r}"
    key = next(key for key in {**saved, **given} if saved.get(key) != given.get(key))
    return _first_difference(saved.get(key), given.get(key), f"{name}.{key}" if name else key)


def _below(prefix: str, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _encode(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8).copy()


def _decode(array: NDArray[np.uint8]) -> str:
    return array.tobytes().decode()
