"""Settings of the test process that must be made before TensorFlow is loaded."""

import gc
import os

import pytest
from hypothesis import Phase, settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# Graphs are many objects that live long: looking at them again and again took a tenth of the time.
gc.set_threshold(50_000, 10, 10)

pytest_plugins = ["tests.adbd"]  # phones on loopback, for every folder of tests

# A busy machine is no fault of an example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# For `make mutation`: that an example fails is enough, it need not be the smallest one.
settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first, so that the quick ones fill up what is left of each process."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
