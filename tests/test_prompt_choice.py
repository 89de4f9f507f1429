"""Weighing prompts by unlabeled images: the formula by hand, the whole on planted problems."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from capkit import ConceptSpace
from capkit.datasets import make_concept_space
from capkit.exceptions import AdaptationWarning
from capkit.prompt_choice import choose_prompts, mix_prompts, weigh_prompts


def accuracy(space, target):
    return np.mean(space.predict() == target)


@pytest.fixture(scope="module")
def problem():
    """Twenty prompts of differing worth; the mean of all has too much noise."""
    planted = make_concept_space(1000, 20, 64, n_mismatched=0, noise=2.0, random_state=0)
    rng = np.random.default_rng(0)
    scale = np.geomspace(0.2, 6.0, 20)[:, None, None]
    texts = planted.fitting_text_features
    noise = rng.standard_normal((20, *texts.shape)) / np.sqrt(texts.shape[1])
    prompts = texts + scale * noise
    return planted.space, planted.target, prompts / np.linalg.norm(prompts, axis=2, keepdims=True)


def test_mixing_without_weights_is_the_normalised_mean():
    features = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    np.testing.assert_allclose(mix_prompts(features), [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    mixed = mix_prompts(features, np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(mixed, [[0.0, 1.0]])


def test_weights_by_hand():
    images = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    # Class 0 has two prompts, of mean (1, 1) / sqrt(2), beside which all of class 1 are (0, 1).
    prompts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
    labels = np.array([0, 0, 1])
    # With the first prompt, class 0 gets images 0 and 1: three right. With the second, all ties
    # go to the others: one right. These are one standard deviation from their mean each.
    weights = weigh_prompts(images, prompts, labels)
    np.testing.assert_allclose(weights[:, 0], softmax([1.0, -1.0]))
    np.testing.assert_allclose(weights[:, 1], [0.5, 0.5])  # the same texts


def test_weights_do_not_depend_on_the_order_of_anything(problem):
    space, target, prompts = problem
    weights = weigh_prompts(space.image_features, prompts, target)
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    rows = np.random.default_rng(1).permutation(len(space))
    classes, order = np.roll(np.arange(20), 3), np.arange(20)[::-1]
    renamed = np.empty(20, dtype=int)
    renamed[classes] = np.arange(20)
    again = weigh_prompts(
        space.image_features[rows], prompts[order][:, classes], renamed[target[rows]]
    )
    np.testing.assert_allclose(again, weights[order][:, classes])


def test_better_prompts_weigh_more(problem):
    space, target, prompts = problem
    weights = weigh_prompts(space.image_features, prompts, target).mean(axis=1)
    assert weights[:8].min() > 1 / 20 > weights[-4:].max()


def test_prompts_chosen_by_images_are_better_than_their_mean(problem):
    space, target, prompts = problem
    mean = dataclasses.replace(space, text_features=mix_prompts(prompts))
    chosen = choose_prompts(space, prompts)
    assert accuracy(chosen, target) > accuracy(mean, target) + 0.02


def test_results_of_the_old_texts_are_left_out(problem):
    space, _, prompts = problem
    chosen = choose_prompts(dataclasses.replace(space, prompts=["a text"] * 20), prompts)
    assert chosen.prompts is None
    assert [getattr(chosen, stage) for stage in ("mismatch", "alignment", "margin")] == [None] * 3
    assert chosen.class_names == space.class_names


def test_all_prompts_count_alike_where_images_do_not_tell(problem):
    space, _, prompts = problem
    with pytest.warns(AdaptationWarning, match="all prompts count alike"):
        chosen = choose_prompts(space[:60], prompts)  # three images a class
    np.testing.assert_allclose(chosen.text_features, mix_prompts(prompts), atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 64), (3, 19, 64), (3, 20, 63), (0, 20, 64)])
def test_other_shapes_are_refused(problem, shape):
    space, *_ = problem
    with pytest.raises(ValueError, match=r"expected prompt_features of shape \(n_prompts, 20, 64"):
        choose_prompts(space, np.ones(shape))


def test_what_is_no_space_or_no_feature_is_refused():
    with pytest.raises(TypeError, match="expected a ConceptSpace, got ndarray"):
        choose_prompts(np.eye(3), np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match="expected finite prompt_features"):
        choose_prompts(ConceptSpace(np.eye(2), np.eye(2), ["a", "b"]), np.full((1, 2, 2), np.nan))
