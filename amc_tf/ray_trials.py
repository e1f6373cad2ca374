"""Runs the compressions of a sweep as tasks of a Ray cluster, each of which goes on when its node dies."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import NDArray

from amc_tf.cluster import check_has, connected, task_options
from amc_tf.data import ImageData
from amc_tf.device.latency import LatencyMeter
from amc_tf.device.table import LatencyTable
from amc_tf.errors import ClusterError, RunFolderError, SettingsError
from amc_tf.model_file import model_from_bytes, model_to_bytes
from amc_tf.progress import Progress
from amc_tf.run_folder import RunFolder
from amc_tf.trials import Outcome, Trial, run_trial

OpenMeter = Callable[[str | None], AbstractContextManager[tuple[LatencyMeter | None, LatencyTable | None]]]
_MAX_NODES_LOST = 10  # under one trial
_WAIT_S = 120.0  # for the process of a node that is dying to let go of the run folder


class RayTrials:
    """A `TrialRunner` that makes each trial one Ray task; use as a context manager.

    Ray decides where a trial runs, and runs it again on another node when its own has died; the trial then
    goes on from its last checkpoint. The folder of the sweep must therefore be the same one on every node,
    under the same path. Model and images travel through Ray.

    A trial that times on a phone asks for the resource phone:SERIAL of the node that the phone is attached
    to, so that one phone times the networks of one trial at a time. Several phones take the trials in turn.

    Args:
        address: as of `amc_tf.cluster.connected`.
        open_meter: opens what times networks, on the node, given the serial number of the phone or None, and
            yields it with its table or None; None to leave latency out. It must be a function that the nodes
            can import, or a `functools.partial` of one.
        phones: serial numbers; empty where no phone times.
        num_cpus: processors of each trial.
        num_gpus: graphics processors of each trial, or the part of one.

    Raises:
        ClusterError: when entered, if there is no Ray or no cluster, or none of its nodes has what a trial
            asks for.
    """

    def __init__(
        self,
        address: str,
        *,
        open_meter: OpenMeter | None = None,
        phones: Sequence[str] = (),
        num_cpus: int = 1,
        num_gpus: float = 0.0,
    ) -> None:
        if num_cpus < 1 or num_gpus < 0:
            raise SettingsError(
                f"A trial cannot have {num_cpus} processors and {num_gpus:g} GPUs: give 1 or more, 0 or more."
            )
        self._address = address
        self._open_meter = open_meter
        self._phones = tuple(phones)
        self._asked = task_options(num_cpus, num_gpus)
        self._closing = contextlib.ExitStack()
        self._ray: Any = None

    def __enter__(self) -> RayTrials:
        """Connects, and checks that the trials can run."""
        with contextlib.ExitStack() as stack:
            self._ray = stack.enter_context(connected(self._address))
            share = {"CPU": self._asked["num_cpus"], "GPU": self._asked["num_gpus"]}
            check_has(self._ray, share, hint="let a trial ask for less")
            for phone in self._phones:
                hint = f"start the node it is attached to with --resources '{{\"phone:{phone}\": 1}}'"
                check_has(self._ray, _resources(phone), hint=hint)
                # One node has to have both.
                check_has(self._ray, {**share, **_resources(phone)}, hint="let a trial ask for less")
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnects; trials that still run are ended."""
        self._closing.close()

    def fingerprint(self) -> str | None:
        """Opens each phone on its node, and returns their fingerprint.

        Raises:
            SettingsError: if the phones differ, so that their times are not to be compared.
            PhoneError: if one of them cannot be reached.
        """
        if self._open_meter is None:
            return None
        phones = self._phones or (None,)
        asked = [self._task(_fingerprint, phone).remote(self._open_meter, phone) for phone in phones]
        found = {phone: self._get(task) for phone, task in zip(phones, asked, strict=True)}
        others = [phone for phone in phones if found[phone] != found[phones[0]]]
        if others:
            raise SettingsError(
                "Phones that share a sweep must be of one model and Android build, but "
                f"{phones[0]} and {others[0]} differ: give each kind a sweep of its own."
            )
        return found[phones[0]]

    def run(
        self,
        trials: Sequence[Trial],
        models: Mapping[str, Any],
        train: ImageData,
        validation: ImageData,
        progress: Progress,
    ) -> Iterator[tuple[Trial, Outcome]]:
        """Runs as many trials at once as the cluster has room for; one that fails leaves the others alone.

        Raises:
            AmcError: of the first trial that failed, when all have ended.
            ClusterError: if a trial lost too many nodes.
            SettingsError: if there are Keras callbacks, which could not be told from another machine.
        """
        if any(trial.options.get("callbacks") for trial in trials):
            raise SettingsError(
                "Keras callbacks cannot listen to other machines: sweep without them, or here."
            )
        put = self._ray.put
        contents = {name: put(model_to_bytes(model)) for name, model in models.items()}
        images = put(train), put(validation)
        unlabelled = put(next((trial.options.get("unlabelled") for trial in trials), None))  # one for all
        waiting = {}
        for index, trial in enumerate(trials):
            phone = self._phones[index % len(self._phones)] if self._phones else None
            options = {**trial.options, "unlabelled": None}
            moved = dataclasses.replace(trial, folder=trial.folder.resolve(), options=options)
            given = (moved, contents[trial.model], *images, unlabelled, self._open_meter, phone)
            waiting[self._task(_run, phone).remote(*given)] = trial
        failed: list[Exception] = []
        while waiting:
            ended = self._ray.wait(list(waiting))[0][0]
            trial = waiting.pop(ended)
            try:
                outcome = self._get(ended)
            except Exception as error:  # raised below
                failed.append(error)
            else:
                progress.compressed(trial.name, trial.number, trial.total)
                yield trial, outcome
        if failed:
            raise failed[0]

    def _task(self, function: Callable[..., Any], phone: str | None) -> Any:
        asked = {**self._asked, "resources": _resources(phone), "max_retries": _MAX_NODES_LOST}
        return self._ray.remote(function).options(**asked)

    def _get(self, task: Any) -> Any:
        """Returns what a task has returned, or raises what it has raised as it was there."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(task)
        except exceptions.RayTaskError as error:
            raise error.cause from None
        except exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise ClusterError(
                f"A trial was lost with its node too often ({reason}): go on with --resume when the cluster "
                "is well again."
            ) from error


def _resources(phone: str | None) -> Mapping[str, float]:
    return {} if phone is None else {f"phone:{phone}": 1}


def _fingerprint(open_meter: OpenMeter, phone: str | None) -> str | None:
    """Opens the meter on this node, and returns its fingerprint."""
    with open_meter(phone) as (meter, _):
        return None if meter is None else meter.fingerprint()


def _run(
    trial: Trial,
    model: bytes,
    train: ImageData,
    validation: ImageData,
    unlabelled: NDArray | None,
    open_meter: OpenMeter | None,
    phone: str | None,
) -> Outcome:
    """Runs a trial on this node, or goes on with it."""
    if not trial.folder.is_dir():
        raise RunFolderError(
            f"The node {platform.node()} does not see {trial.folder}: a sweep on several machines needs a "
            "folder that all of them share, under the same path."
        )
    with RunFolder(trial.folder, resume=True, wait_s=_WAIT_S):
        pass
    loaded = model_from_bytes(model)
    if open_meter is None:
        return run_trial(trial, loaded, train, validation, unlabelled=unlabelled)
    with open_meter(phone) as (meter, table):
        options = {"unlabelled": unlabelled, "meter": meter, "table": table}
        return run_trial(trial, loaded, train, validation, **options)
