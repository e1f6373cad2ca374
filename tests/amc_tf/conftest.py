"""Fixtures for the tests of the core: the same facts must hold in both flavours of Keras."""

from typing import Any

import keras
import pytest
import tf_keras


@pytest.fixture(params=[keras, tf_keras], ids=["keras", "tf_keras"])
def library(request: pytest.FixtureRequest) -> Any:
    """Returns the module that models of one flavour are built with."""
    return request.param
