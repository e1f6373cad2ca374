"""Settings of the test process that must be made before TensorFlow is loaded."""

import os

from hypothesis import Phase, settings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

pytest_plugins = ["tests.adbd"]  # phones on loopback, for every folder of tests

# A busy machine is no fault of an example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# For `make mutation`: that an example fails is enough, it need not be the smallest one.
settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
