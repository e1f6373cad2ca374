"""A search that a test kills; in a module of its own, which the processes that run it load once."""

from __future__ import annotations

import json
from pathlib import Path

import keras

from amc_tf.budget import Budget
from amc_tf.run_folder import RunFolder
from amc_tf.session import PruningSession
from amc_tf.settings import AgentSettings, SearchSettings
from tests.trained import RANGE, ScriptedMeter, make_classifier, make_split

CHECKPOINT_EVERY = 4
SETTINGS = SearchSettings(
    episodes=120,
    warmup_episodes=10,
    round_to=4,
    num_calibration_images=64,
    num_search_images=100,
    checkpoint_every=CHECKPOINT_EVERY,
    agent=AgentSettings(hidden_units=(8, 8), batch_size=8),
)


def search(path: Path) -> None:
    """Goes on with the search in a folder to its end, and leaves what it has found in found.json."""
    session = PruningSession(
        make_classifier(keras),
        make_split(),
        budget=Budget(latency=0.7),
        settings=SETTINGS,
        input_range=RANGE,
        meter=ScriptedMeter(),
    )
    with RunFolder(path, resume=True) as folder:
        result = session.search(folder)
    found = None if result.best is None else result.best.to_json()
    (path / "found.json").write_text(json.dumps(found))
