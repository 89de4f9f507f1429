"""Planted concept spaces have the geometry that they promise."""

import dataclasses

import numpy as np
import pytest

from capkit.datasets import make_concept_space


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(random_state=0)


def test_features_are_unit_rows(problem):
    for features in (
        problem.space.image_features,
        problem.space.text_features,
        problem.fitting_text_features,
    ):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_images_and_texts_lie_in_two_cones_with_a_gap_between(problem):
    images, texts = problem.space.image_features, problem.space.text_features
    assert (images @ images.T).mean() > 0.35
    assert (texts @ texts.T).mean() > 0.6
    assert (images @ texts.T).mean() < 0.1


def test_mismatched_classes_are_hardly_predicted_and_would_be_with_their_own_text(problem):
    recall = class_recall(problem.space, problem.target)
    others = np.setdiff1d(np.arange(20), problem.mismatched)
    assert recall[problem.mismatched].max() < 0.3
    assert recall[others].min() > 0.9
    fitting = dataclasses.replace(problem.space, text_features=problem.fitting_text_features)
    assert class_recall(fitting, problem.target).min() > 0.9
    np.testing.assert_array_equal(
        problem.space.text_features[others], problem.fitting_text_features[others]
    )


def class_recall(space, target):
    predicted = space.predict()
    return np.array([np.mean(predicted[target == c] == c) for c in range(space.n_classes)])


def test_classes_of_a_group_resemble_each_other(problem):
    texts = problem.fitting_text_features
    similarity = texts @ texts.T
    same_group = np.equal.outer(np.arange(20) // 5, np.arange(20) // 5)
    np.fill_diagonal(similarity, np.nan)
    assert np.nanmean(similarity[same_group]) > np.nanmean(similarity[~same_group]) + 0.04


def test_classes_have_the_same_number_of_images_up_to_one():
    problem = make_concept_space(47, 10, 40, random_state=0)
    assert set(np.bincount(problem.target)) == {4, 5}


def test_more_classes_than_features():
    problem = make_concept_space(400, 40, 24, n_mismatched=3, random_state=0)
    assert problem.space.shape == (400, 24) and len(problem.mismatched) == 3
    assert class_recall(problem.space, problem.target).mean() > 0.3


def test_same_seed_same_problem():
    first, second = (make_concept_space(50, 5, 20, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(first.space.image_features, second.space.image_features)
    np.testing.assert_array_equal(first.mismatched, second.mismatched)


def test_more_mismatched_classes_than_classes_are_refused():
    with pytest.raises(ValueError, match="expected n_mismatched from 0 to 3, got 4"):
        make_concept_space(n_classes=3, n_mismatched=4)
