"""Every reader of foreign bytes ends in the project's own error or in a value; `make fuzz` tries more."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmark_samples import damaged_bytes
from tests.fuzz.readers import READERS, run_reader

SAME_EXAMPLES = settings(derandomize=True, max_examples=100, deadline=None, database=None)
# The others have tests of this kind beside those of their modules.
HERE = ("plan", "table", "bundle", "store", "tflite", "adb_packets", "adb_server")


@functools.cache
def seeds(name):
    return READERS[name].make_seeds()


@pytest.mark.parametrize("name", READERS)
def test_seeds_are_read(name):
    assert sum(run_reader(READERS[name], seed) for seed in seeds(name)) >= 1


@pytest.mark.parametrize("name", HERE)
@SAME_EXAMPLES
@given(st.data())
def test_foreign_bytes_end_in_the_projects_error_or_in_a_value(name, data):
    seed = data.draw(st.sampled_from(seeds(name)))
    run_reader(READERS[name], data.draw(damaged_bytes(seed) | st.binary()))
