"""What a finished stage of a run was, and how its folder keeps it to go on from."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from amc_tf.budget import Limit
from amc_tf.cost import Cost
from amc_tf.errors import RunFolderError
from amc_tf.run_folder import STAGE_RECORD, RunFolder, write_keras_model
from amc_tf.settings import FinetuneSettings, SearchSettings, flat_settings

_MODEL, _PLAN = "model.keras", "plan.json"


class Plan(Protocol):
    """What a network keeps: channels or weights."""

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-compatible values."""


@dataclasses.dataclass(frozen=True)
class StageRecord:
    """What one stage did.

    Attributes:
        limit: what it allowed, of the original's cost.
        found_by: "agent", or the control that was better; None where the network was within the limit
            already, and stayed.
        search_top1: top-1 on the search images before its fine-tuning, in [0, 1].
        finetuned_top1: the same after it.
        cost: exact cost of the network.
        latency_ratio: its latency / the original's; None where no limit of latency needs it.
    """

    limit: Limit
    found_by: str | None
    search_top1: float
    finetuned_top1: float
    cost: Cost
    latency_ratio: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of "stages" in summary.json."""
        return {
            "budget": limit_to_json(self.limit),
            "plan_found_by": self.found_by,
            "search_top1": self.search_top1,
            "finetuned_top1": self.finetuned_top1,
            "macs": self.cost.macs,
            "params": self.cost.params,
            "bytes": self.cost.size_bytes,
            "latency_ratio": self.latency_ratio,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], limit: Limit) -> StageRecord:
        """Reads what `to_json` wrote of a stage with this limit.

        Raises:
            KeyError: if an entry is missing.
        """
        return cls(
            limit,
            found_by=value["plan_found_by"],
            search_top1=float(value["search_top1"]),
            finetuned_top1=float(value["finetuned_top1"]),
            cost=_cost_from_json(value),
            latency_ratio=value["latency_ratio"],
        )


def _cost_from_json(value: Mapping[str, Any]) -> Cost:
    dense = Cost(int(value["macs"]), int(value["params"]))
    return dataclasses.replace(dense, mask_bytes=int(value["bytes"]) - dense.size_bytes)


def limit_to_json(limit: Limit) -> dict[str, Any]:
    """Returns a limit as given and in absolute numbers; a limit of null bounds nothing."""
    return {
        "kind": limit.kind,
        "value": limit.budget.value,
        "limit": None if math.isinf(limit.limit) else limit.limit,
        "unit": limit.unit,
    }


def save_stage(
    folder: RunFolder, record: StageRecord, *, model: Any, plan: Plan, identity: Mapping[str, Any]
) -> None:
    """Writes a finished stage; the record comes last, so that it marks a whole one.

    Args:
        folder: of the stage.
        record: what it did.
        model: its fine-tuned network.
        plan: what the original has kept.
        identity: what a run must agree with to go on from here.

    Raises:
        RunFolderError: if a file cannot be written.
    """
    write_keras_model(model, folder.path / _MODEL)
    folder.write_json(_PLAN, plan.to_json())
    folder.write_json(STAGE_RECORD, {**record.to_json(), "identity": dict(identity)})


def load_stage(
    folder: RunFolder,
    limit: Limit,
    *,
    restore: Callable[[Path, Path], tuple[Any, Plan]],
    identity: Mapping[str, Any],
) -> tuple[StageRecord, Any, Plan] | None:
    """Reads a finished stage back, None if it has not finished.

    Args:
        folder: of the stage.
        limit: of the stage.
        restore: reads a network and its plan from their files.
        identity: of the run that goes on.

    Returns:
        What the stage did, its network, and what of the original that has kept.

    Raises:
        RunFolderError: if a file is damaged, or the stage is one of another compression.
    """
    path = folder.path / STAGE_RECORD
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        record, saved = StageRecord.from_json(value, limit), value["identity"]
        _check_identity(
            folder, {**saved, "limit": value["budget"]}, {**identity, "limit": limit_to_json(limit)}
        )
        model, plan = restore(folder.path / _MODEL, folder.path / _PLAN)
    except RunFolderError:
        raise
    # Keras raises whatever HDF5 or the zip file raise, besides what damaged JSON does.
    except Exception as error:
        raise RunFolderError(
            f"The finished stage in {folder.path} is damaged ({error}): start again with --overwrite."
        ) from error
    return record, model, plan


def _check_identity(folder: RunFolder, saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    given = json.loads(json.dumps(given))
    usual = json.loads(json.dumps(flat_settings(SearchSettings(), FinetuneSettings())))
    for name in {**saved, **given}:
        was = saved.get(name, usual.get(name))  # stages of an earlier version lack the settings of later ones
        if was != given.get(name):
            raise RunFolderError(
                f"The stage in {folder.path} is of another compression: {name} was {was!r} and is now "
                f"{given.get(name)!r}. Give the same settings to --resume, or start again with --overwrite."
            )
