"""The temperature under which the labels are most probable."""

import numpy as np
import pytest
from scipy.special import log_softmax

from capkit._temperature import fit_temperature


def test_by_hand():
    # Each image has the odds e^2 for class 0, and 3 of 4 belong to it: the likeliest odds are 3,
    # that is a logit of log 3.
    logits, labels = np.tile([2.0, 0.0], (4, 1)), np.array([0, 0, 0, 1])
    assert fit_temperature(logits, labels) == pytest.approx(2 / np.log(3), rel=1e-3)


def test_no_other_temperature_is_likelier():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 200)
    logits = 8 * generator.standard_normal((200, 5)) + 10 * np.eye(5)[labels]
    logits = logits.astype(np.float32)

    def likelihood(temperature):
        return log_softmax(logits / temperature, axis=1)[np.arange(200), labels].mean()

    found = fit_temperature(logits, labels)
    assert likelihood(found) >= max(map(likelihood, np.geomspace(0.01, 100, 2001)))


@pytest.mark.parametrize(
    ("labels", "limit"), [([0, 0, 0], 0.01), ([1, 1, 1], 100.0)], ids=["right", "wrong"]
)
def test_where_all_are_right_or_wrong_it_is_a_limit(labels, limit):
    logits = np.tile([0.02, 0.0], (3, 1))
    assert fit_temperature(logits, np.array(labels)) == pytest.approx(limit, rel=1e-3)


def test_it_scales_with_the_logits():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 100)
    logits = generator.standard_normal((100, 3)) + 2 * np.eye(3)[labels]
    once, tenfold = (fit_temperature(scale * logits, labels) for scale in (1, 10))
    assert tenfold == pytest.approx(10 * once, rel=1e-3)
