import numpy as np

from amc_tf.masked_solve import solve_masked


def test_masked_systems_are_solved_side_by_side():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(12, 12))
    matrix = factor @ factor.T + 12 * np.eye(12)
    mask = rng.random((12, 4)) < 0.5
    right = np.where(mask, rng.normal(size=(12, 4)), 0.0)
    found = solve_masked(matrix, right, mask, num_steps=12)
    for column in range(4):
        kept = mask[:, column]
        expected = np.linalg.solve(matrix[np.ix_(kept, kept)], right[kept, column])
        np.testing.assert_allclose(found[kept, column], expected, rtol=1e-6)
        assert not found[~kept, column].any()
