"""Facts about amc_tf/agent/noise.py."""

import numpy as np
import pytest
from scipy import stats

from amc_tf.agent.noise import NoiseSchedule, truncated_normal


@pytest.mark.parametrize(("mean", "sigma"), [(0.5, 0.5), (0.9, 0.2), (0.0, 0.1), (1.0, 0.5)])
def test_draws_have_the_moments_of_the_truncated_normal(mean, sigma):
    generator = np.random.default_rng(0)
    draws = np.array([truncated_normal(mean, sigma, generator) for _ in range(4000)])
    expected = stats.truncnorm((0 - mean) / sigma, (1 - mean) / sigma, mean, sigma)
    assert draws.min() >= 0.0 and draws.max() <= 1.0
    assert draws.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert draws.std() == pytest.approx(expected.std(), abs=0.02)


@pytest.mark.parametrize("sigma", [1e-8, 1e-12])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_draws_stay_finite_and_near_the_mean_when_the_noise_has_all_but_gone(mean, sigma):
    generator = np.random.default_rng(0)
    draws = [truncated_normal(mean, sigma, generator) for _ in range(100)]
    np.testing.assert_allclose(draws, mean, atol=1e-6)


def test_every_draw_takes_one_step_of_the_generator():
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    truncated_normal(0.01, 0.5, first)
    second.random()
    assert first.bit_generator.state == second.bit_generator.state


def test_sigma_is_constant_in_the_warmup_and_then_decays_exponentially():
    schedule = NoiseSchedule(start=0.5, decay=0.9, warmup_episodes=3)
    np.testing.assert_allclose(
        [schedule.sigma(episode) for episode in (0, 3, 4, 13)], [0.5, 0.5, 0.45, 0.5 * 0.9**10]
    )
    assert 0 < NoiseSchedule(start=0.5, decay=0.1, warmup_episodes=3).sigma(2000) < 1e-9
    assert [schedule.is_warmup(episode) for episode in (0, 2, 3)] == [True, True, False]
