"""Sets up everything that a search and its controls share for one model, its data and its budget."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from amc_tf import controls, finalists
from amc_tf.batch_norm import BatchNormEstimator
from amc_tf.budget import Bounds, Budget, WidthBounds
from amc_tf.calibration import calibrate
from amc_tf.candidate import CandidateBuilder
from amc_tf.data import DataSplit, check_data_fits, to_input_range
from amc_tf.device.convert import to_tflite
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.table import LatencyTable
from amc_tf.elite import EliteExplorer
from amc_tf.env import PruningEnv
from amc_tf.errors import BudgetError, ConversionError, MeasurementError, ModelError, SettingsError
from amc_tf.evaluate import check_not_chance
from amc_tf.executor import Executor, MakeExecutor
from amc_tf.finalists import Choice, Finalist
from amc_tf.graph import ChannelGraph
from amc_tf.latency_model import LatencyPredictor, probe_widths
from amc_tf.network import NetworkFunction
from amc_tf.recovery import Recovery
from amc_tf.reward import needs_latency
from amc_tf.run_folder import RunFolder
from amc_tf.score import Candidates, LearningPredictor, Objective, Score, Scorer, Timing
from amc_tf.search import EpisodeCallback, Search, SearchResult
from amc_tf.sequential import SequentialReconstructor
from amc_tf.settings import SearchSettings
from amc_tf.table_predictor import TablePredictor
from amc_tf.weights import Weights

_LOGGER = logging.getLogger(__name__)
# Bounds hold a prediction; aiming this much lower leaves most networks within the limit when timed.
LATENCY_MARGIN = 0.03
# Calibration images of an int8 candidate whose accuracy counts; a finished network gets more.
NUM_INT8_CANDIDATE_IMAGES = 32
_POINTS_IN_SEARCH = 16  # per image and layer, for re-fitting candidates in network order


class PruningSession:
    """One model, its data and its budget, ready to be searched.

    Args:
        model: a built functional or Sequential classifier, Keras 3 or `tf_keras`; it is not changed.
        split: the data.
        budget: what the pruned network may cost.
        settings: of the search.
        input_range: one of `amc_tf.data.INPUT_RANGES`.
        meter: times candidates; needed for a latency budget or reward, otherwise None to leave latency out.
        table: of the meter's device, to predict latency for the bounds; without one, a model that is fitted
            to the search's own measurements does.
        make_executor: makes what runs and converts networks, of the original as a function of its weights and
            as a model; by default they run here, see `amc_tf.ray_evaluation`.

    Attributes:
        network: the original as a function of its weights.
        executor: runs and converts networks.
        graph: its channels.
        groups: what is decided on one after another; the graph again, for its channel groups.
        split: the data.
        tflite: the original as float32 TFLite bytes.
        baseline_top1: top-1 of the original on the search images, in [0, 1]; as int8 TFLite where that is
            the accuracy of candidates.
        baseline_ms: its median latency in the precision of candidates, None without a meter.
        limit: the budget in absolute numbers.
        bounds: the widths that each group may be given.
        builder: makes plan and weights from widths.
        recover: makes the weights of a chosen network from its widths, after a longer recovery.
        scorer: scores widths.

    Raises:
        ModelError: if the model cannot be read, or Keras does not run on TensorFlow.
        DataError: if the data does not fit the model, or the untouched model only guesses on it.
        BudgetError: if the budget cannot be met, needs a meter, or asks for nothing.
        SettingsError: if there is no such reward or importance, the reward lacks what it needs, or int8
            latencies are asked for that nothing can measure.
        MeasurementError: if the original or a probe cannot be timed.
    """

    _is_sparse = False  # whether candidates hold zeros that are stored as such

    def __init__(  # noqa: PLR0913, each is a choice of the user
        self,
        model: Any,
        split: DataSplit,
        *,
        budget: Budget,
        settings: SearchSettings,
        input_range: str,
        meter: LatencyMeter | None = None,
        table: LatencyTable | None = None,
        make_executor: MakeExecutor | None = None,
    ) -> None:
        _check_backend()
        check_reward(settings.reward, budget, has_meter=meter is not None)
        _check_precision(settings.latency_precision, meter, table)
        self.settings = settings
        self.split = split
        self.graph = ChannelGraph.from_model(model)
        self.network = NetworkFunction(model, self.graph)
        self.executor = make_executor(self.network, model) if make_executor else Executor(self.network)
        self.groups = self._make_groups()
        self._input_range = input_range
        self._meter = meter
        self._table = table
        self.tflite = self._convert_original("float32")  # first: it says why a layer cannot be compiled
        self._check_data(model.output_shape[-1])
        self._timing = self._time_baseline()
        self.limit = budget.resolve(self.groups.count(), self.baseline_ms)
        self.builder: Candidates = self._make_builder()
        self.recover = Recovery(
            self.network,
            self.builder,
            split.calibration,
            accuracy=lambda weights: self.scorer.accuracy(weights),
            accuracy_floor=self._accuracy_floor(),
            settings=settings,
            input_range=input_range,
        )
        self.scorer = self._make_scorer()
        self._probe()
        self.bounds: Bounds = self._make_bounds()

    def uniform(self) -> Score:
        """Scores the uniform control: the widest uniform network that is within the budget, as measured.

        A latency limit is held by timing: the uniform networks, ordered by width, are halved until the widest
        one within the limit is found; the narrowest is returned if none is.
        """
        if self.limit.kind != "latency":
            return self.scorer(controls.uniform(self.bounds))
        return self._widest(controls.uniform_networks(self.bounds))

    def widened(self, score: Score) -> Score:
        """Scores the widest network of the same proportions that is within a latency limit, as measured.

        A search keeps a part of such a limit free, for its bounds can only predict. Under other limits, which
        are exact, the score itself is returned; so it is, with a warning, where a wider one cannot be timed.
        """
        if self.limit.kind != "latency" or score.latency_ms is None:
            return score
        left = (1.0 + LATENCY_MARGIN) * self.limit.limit / score.latency_ms
        most = left * self.bounds.cost(score.widths)
        wider = controls.wider_networks(self.bounds, score.widths)
        try:
            return self._widest([widths for widths in wider if self.bounds.cost(widths) <= most])
        except (ConversionError, MeasurementError) as error:
            _LOGGER.warning("The network stays as it was found, a wider one was not timed: %s", error)
            return score

    def _widest(self, networks: Sequence[tuple[int, ...]]) -> Score:
        """Halves networks, narrowest first, until the widest within the limit is found; else the first."""
        low, high = 0, len(networks)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.scorer(networks[middle]).feasible else (low, middle)
        return self.scorer(networks[low])

    def make_env(self) -> PruningEnv:
        """Returns the environment that the search plays in, for an agent of another library to train on."""
        return PruningEnv(self.groups, self.scorer, self.bounds)

    def search(
        self, folder: RunFolder | None = None, on_episode: EpisodeCallback | None = None
    ) -> SearchResult:
        """Runs the agent; see `amc_tf.search.Search.run`."""
        predictor = self._timing.predictor if self._timing else None
        search = Search(
            self.make_env(),
            self.settings,
            scorer=self.scorer,
            explorer=EliteExplorer(
                self.bounds, self.settings.elite_share, starts=self._starts(), seed=self.settings.seed
            ),
            predictor=predictor,
            identity=self._identity(),
        )
        return search.run(folder, on_episode)

    def _starts(self) -> list[tuple[int, ...]]:
        """Returns the widths that a search begins with.

        The uniform ones are those that hold a latency limit as measured: those that are predicted to, from a
        few timings, may turn out too slow, and the search would begin without a network to vary.
        """
        return [self.uniform().widths if self.limit.kind == "latency" else controls.uniform(self.bounds)]

    def choose(self, uniform: Score, result: SearchResult) -> Choice:
        """Chooses among the best networks of a search and the uniform control; see `amc_tf.finalists`.

        Under a latency limit each has grown until it uses it, see `widened`.

        Raises:
            BudgetError: if no network is within the budget.
        """
        found = finalists.best_scores(result.episodes, self.settings.num_finalists)
        choice = finalists.choose(
            uniform,
            [self.widened(score) for score in found],
            recover=self.finalist,
            others=self._other_controls(),
        )
        if choice is None:
            raise BudgetError(
                f"No network within the budget {self.limit.budget} was found in {len(result.episodes)} "
                "episodes: allow more of them or a larger budget, or lower min_keep_ratio."
            )
        return choice

    def _other_controls(self) -> list[Score]:
        """Returns controls that may be chosen beside the uniform one."""
        return []

    def finalist(self, score: Score) -> Finalist:
        """Recovers a network that may be chosen, and runs it on the search and the calibration images.

        Under a budget of accuracy the search images alone count: its networks have just what it asks for
        there, and one that misses it by luck elsewhere would lose to the untouched network.
        """
        weights, split = self.recover(score.widths), self.split
        recovered = self.scorer.rescore(score, weights)
        if self._accuracy_floor():
            return Finalist(recovered, recovered.reward)
        rewards = [recovered.reward, self.scorer.rescore(score, weights, split.calibration).reward]
        return Finalist(
            recovered, float(np.average(rewards, weights=[len(split.search), len(split.calibration)]))
        )

    def _search_top1(self, weights: Weights) -> float:
        return self.executor.accuracy(weights, self.split.search, input_range=self._input_range).top1

    def _check_data(self, num_outputs: int) -> None:
        """Checks that all data fits the model and that the model is right on it more often than by chance."""
        for part in (self.split.train, self.split.calibration, self.split.search, self.split.test):
            check_data_fits(self.network.input_shape, num_outputs, part)
        search = self.split.search
        self.baseline_top1 = self._search_top1(self.network.weights)
        check_not_chance(
            self.baseline_top1,
            num_outputs,
            num_images=len(search),
            input_range=self._input_range,
            float_range=search.float_range,
        )
        if self.settings.int8_accuracy:
            tflite = self._convert_original("int8")
            found = self.executor.tflite_accuracy(tflite, search, input_range=self._input_range)
            self.baseline_top1 = found.top1

    def _convert_original(self, precision: str) -> bytes:
        return to_tflite(
            self.network.bind(self.network.weights),
            precision=precision,
            calibration_images=self._int8_images() if precision == "int8" else None,
            input_shape=self.network.input_shape,
        )

    def _int8_images(self) -> NDArray[np.float32]:
        """Returns what int8 networks are calibrated on, float32 [N, H, W, C] in the model's range."""
        return to_input_range(self.split.calibration.images[:NUM_INT8_CANDIDATE_IMAGES], self._input_range)

    def _time_baseline(self) -> Timing | None:
        self.baseline_ms: float | None = None
        if self._meter is None:
            return None
        precision = self.settings.latency_precision
        reference = self.tflite if precision == "float32" else self._convert_original(precision)
        try:
            self.baseline_ms = self._meter.measure(reference).median_ms
            meter = self._meter.with_reference(reference)
        except MeasurementError as error:
            raise type(error)(f"The original network cannot be timed: {error}") from error
        predictor = self._make_predictor(self.baseline_ms)
        return Timing(meter, self.baseline_ms, predictor, precision, sparse=self._is_sparse)

    def _make_predictor(self, baseline_ms: float) -> LearningPredictor:
        if self._table is None:
            return LatencyPredictor(self.groups, baseline_ms)
        return TablePredictor(
            self.graph,
            self._table,
            baseline_ms,
            round_to=self.settings.round_to,
            min_keep_ratio=self.settings.min_keep_ratio,
        )

    def _make_groups(self) -> Any:
        """Finds what is decided on."""
        return self.graph

    def _make_builder(self) -> Candidates:
        settings = self.settings
        images = to_input_range(self.split.calibration.images, self._input_range)
        return CandidateBuilder(
            self.network,
            calibrate(self.network, images, seed=settings.seed),
            importance=settings.importance,
            reconstruct=settings.reconstruct,
            batch_norm=self._make_batch_norm(),
            in_order=self._make_in_order(images[: settings.num_in_order_images]),
        )

    def _make_in_order(self, images: NDArray[np.float32]) -> SequentialReconstructor | None:
        if not len(images):
            return None
        return SequentialReconstructor(
            self.network, images, points_per_image=_POINTS_IN_SEARCH, seed=self.settings.seed
        )

    def _make_batch_norm(self) -> BatchNormEstimator | None:
        if not self.settings.reestimate_batch_norm:
            return None
        images = self.split.calibration.images[: self.settings.num_batch_norm_images]
        return BatchNormEstimator(self.network, to_input_range(images, self._input_range))

    def _make_scorer(self) -> Scorer:
        objective = Objective(
            self.settings.reward,
            self.limit,
            metric=self.settings.accuracy_metric,
            latency_exponent=self.settings.latency_exponent,
            accuracy_floor=self._accuracy_floor(),
            int8_accuracy=self.settings.int8_accuracy,
        )
        return Scorer(
            self.executor,
            self.builder,
            self.split.search,
            input_range=self._input_range,
            objective=objective,
            timing=self._timing,
            calibration_images=self._int8_images(),
        )

    def _accuracy_floor(self) -> float:
        return (self.limit.budget.accuracy or 0.0) * self.baseline_top1

    def _probe(self) -> None:
        """Times uniform networks, so that the first bounds rest on more than the original, or on a table."""
        if self._timing is None or self._table is not None or self.limit.kind != "latency":
            return
        settings = self.settings
        for widths in probe_widths(
            self.graph, round_to=settings.round_to, min_keep_ratio=settings.min_keep_ratio
        ):
            self.scorer(widths)

    def _margin(self) -> float:
        """Returns the part of the limit that the bounds keep free."""
        return LATENCY_MARGIN if self.limit.kind == "latency" else 0.0

    def _make_bounds(self) -> Bounds:
        return WidthBounds(
            self.graph,
            self.limit,
            round_to=self.settings.round_to,
            min_keep_ratio=self.settings.min_keep_ratio,
            min_use=self.settings.min_budget_use,
            predictor=self._timing.predictor if self._timing else None,
            margin=self._margin(),
        )

    def _identity(self) -> Mapping[str, Any]:
        """What a checkpoint must agree with to be resumed: everything that what is found depends on."""
        settings = self.settings.to_json()
        for name in ("checkpoint_every", "num_finalists", "max_dropped_in_a_row"):
            del settings[name]
        budget, search, meter = self.limit.budget, self.split.search, self._meter
        return {
            "budget": f"{budget} (absolute)" if budget.absolute else str(budget),
            "meter": f"{meter.name} ({_digest(meter.fingerprint().encode())})" if meter else None,
            "model": _digest(self.tflite),
            "search_images": _digest(search.images.tobytes(), search.labels.tobytes()),
            "calibration_images": _digest(self.split.calibration.images.tobytes()),
            "input_range": self._input_range,
            **({} if self._table is None else {"table": self._table.sha256[:16]}),
            **settings,
        }


def starting_table(folder: RunFolder | None, table: LatencyTable | None) -> LatencyTable | None:
    """Returns the table that a search is to steer by: the one with which it began.

    A table learns while networks are timed, so that a resumed search would find another one than it began
    with, and go another way. A folder therefore keeps a copy of the first.

    Args:
        folder: of the run, None for a search in memory.
        table: as it is now, None to search without one.

    Raises:
        MeasurementError: if the copy is damaged.
        RunFolderError: if it cannot be written.
    """
    if folder is None or (folder.has_checkpoint and table is None):
        return table
    if folder.has_checkpoint:
        return LatencyTable.load(folder.table) if folder.table.exists() else None
    if table is None:
        folder.table.unlink(missing_ok=True)
    else:
        table.save(folder.table)
    return table


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def _check_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise ModelError(
            f"Keras runs on {keras.backend.backend()}, but pruning and conversion need TensorFlow: set "
            "KERAS_BACKEND=tensorflow."
        )


def check_reward(reward: str, budget: Budget, *, has_meter: bool) -> None:
    """Checks that a reward has what it needs.

    Raises:
        SettingsError: if it lacks a meter, a latency to aim at, or something to make small.
    """
    if needs_latency(reward) and not has_meter:
        raise SettingsError(f"The reward {reward} needs a measured latency: give a meter.")
    if reward == "soft_latency" and budget.kind != "latency":
        raise SettingsError(
            f"The reward soft_latency needs a latency budget to aim at, not {budget}: give latency=0.5."
        )
    if reward == "error" and budget.accuracy:
        raise SettingsError(
            f"The budget {budget} says what the network must keep, and the reward error asks for nothing "
            "else: give the reward macs, parameters or latency for what is to become small."
        )


def _check_precision(precision: str, meter: LatencyMeter | None, table: LatencyTable | None) -> None:
    if precision == "float32":
        return
    if meter is None:
        raise SettingsError(
            f"latency_precision is {precision}, but nothing is timed: give a meter, or leave it at float32."
        )
    if table is not None:
        raise SettingsError(
            f"latency_precision is {precision}, but a latency table predicts float32 networks: measure on a "
            "phone or on this machine, without a table."
        )
