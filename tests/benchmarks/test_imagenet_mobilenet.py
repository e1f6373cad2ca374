"""The controls of benchmarks/imagenet_mobilenet.py that are not the toolkit's own."""

import keras

from amc_tf.budget import Budget
from amc_tf.session import PruningSession
from amc_tf.settings import SearchSettings
from benchmarks.imagenet_mobilenet import random_search, scaled
from tests.trained import RANGE, make_classifier, make_split


def test_random_search_scores_as_many_networks_and_chooses_as_the_agent_does() -> None:
    settings = SearchSettings(episodes=6, warmup_episodes=2, round_to=1, num_finalists=3)
    session = PruningSession(
        make_classifier(keras), make_split(), budget=Budget(macs=0.5), settings=settings, input_range=RANGE
    )
    looked_at = []
    finalist = session.finalist

    def watch(score):
        looked_at.append(finalist(score))
        return looked_at[-1]

    session.finalist = watch

    widths = random_search(session, settings)

    assert session.scorer.num_scored <= settings.episodes and len(looked_at) == 3
    assert widths == max(looked_at, key=lambda found: found.rank).score.widths


def test_a_published_list_is_scaled_to_the_widest_network_within_the_budget() -> None:
    settings = SearchSettings(episodes=2, warmup_episodes=1, round_to=1)
    session = PruningSession(
        make_classifier(keras), make_split(), budget=Budget(macs=0.5), settings=settings, input_range=RANGE
    )
    given = (16, 12, 16)
    found = scaled(given, session)
    assert session.bounds.fits(found)
    factors = [width / of for width, of in zip(found, given, strict=True)]
    assert max(factors) - min(factors) <= 1 / min(given)
    wider = tuple(min(full, width + 1) for width, full in zip(found, session.bounds.full, strict=True))
    assert not session.bounds.fits(wider)
