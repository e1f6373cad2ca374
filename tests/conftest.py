"""Settings of the test process that must be made before TensorFlow is loaded."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

pytest_plugins = ["tests.adbd"]  # phones on loopback, for every folder of tests
