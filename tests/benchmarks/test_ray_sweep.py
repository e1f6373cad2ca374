import pytest


def test_the_estimate_counts_rounds_of_phones():
    pytest.importorskip("ray")
    from benchmarks.ray_sweep import estimate

    found = estimate(360.0, num_searches=1001, num_phones=100)
    assert found == {"searches": 1001, "phones": 100, "hours": 1.1, "hours_of_one_phone": 100.1}
