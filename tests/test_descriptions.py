"""Whether a description is a better text for its class: each part by hand."""

import dataclasses

import numpy as np
import pytest

from capkit.datasets import make_concept_space
from capkit.descriptions import (
    choose_descriptions,
    doubt_of_text,
    labels_with_texts,
    resembles_own_cluster,
    resembles_own_name,
)


@pytest.fixture(scope="module")
def planted():
    return make_concept_space(400, 10, 40, n_mismatched=2, noise=2.0, random_state=0)


def test_each_class_gets_the_description_nearest_to_its_own_centre():
    centers = np.eye(3)
    descriptions = [
        np.array([[0.0, 0.6, 0.8], [0.0, 0.8, 0.6]]),  # second one fits centre 1
        np.array([[0.0, 0.99, 0.14], [0.6, 0.8, 0.0], [0.8, 0.6, 0.0]]),  # third one fits 0
        np.array([[0.0, 0.0, 1.0]]),
    ]
    # Class 1 alone would rather have centre 1 (0.99), but then class 0 would be left with 0.
    # 0.8 + 0.8 + 1 is more than 0.99 + 0 + 1 and than 0.99 + 0.8 + 0.
    chosen, center_of_class = choose_descriptions(descriptions, centers)
    assert center_of_class.tolist() == [1, 0, 2]
    assert chosen.tolist() == [1, 2, 0]


def test_resembling_the_own_name_is_told_without_what_all_texts_share():
    # All texts share (0, 0, 0, 3): raw similarities hardly differ, what is left of them does.
    names = np.concatenate([np.eye(3), np.full((3, 1), 3.0)], axis=1)
    descriptions = np.array([[0.9, 0.3, 0.0, 3.0], [0.3, 0.9, 0.0, 3.0], [0.0, 0.0, 0.0, 9.0]])
    assert resembles_own_name(descriptions, names, 0).tolist() == [True, False, False]
    assert resembles_own_name(descriptions, names, 1).tolist() == [False, True, False]


def test_resembling_the_own_cluster_by_hand():
    centers = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    image_mean = np.array([0.5, 0.5, 0.0])  # clusters deviate by (1, -1, 0) and (-1, 1, 0)
    texts = np.array([[0.3, 0.0, 0.9], [0.0, 0.6, 0.0], [0.3, 0.0, -0.9]])
    descriptions = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    for label, expected in enumerate([[True, False], [False, False], [False, False]]):
        found = resembles_own_cluster(descriptions, texts, centers, image_mean, label)
        # The text of class 1 is where its cluster is: nothing comes nearer. Class 2 has none.
        assert found.tolist() == expected


def test_labels_with_texts_are_those_of_the_space_with_each_text_in_place(planted):
    space, fitting = planted.space, planted.fitting_text_features
    candidates = np.stack([fitting[2], (fitting[2] + fitting[5]) / 2])
    labels = labels_with_texts(space.image_features, space.text_features, 2, candidates)
    for candidate, found in zip(candidates, labels, strict=True):
        texts = space.text_features.copy()
        texts[2] = candidate
        replaced = dataclasses.replace(space, text_features=texts)
        np.testing.assert_array_equal(found, replaced.predict())


def test_a_text_is_doubted_that_takes_images_from_a_class_or_gives_none():
    rng = np.random.default_rng(0)
    truth = np.arange(150) % 3
    images = np.eye(3)[truth] + 0.1 * rng.standard_normal((150, 3))
    starved = np.where(truth == 2, 1, truth)
    assert doubt_of_text(images, starved, truth, label=2, n_classes=3) is None
    assert "no more images" in doubt_of_text(images, truth, starved, label=2, n_classes=3)
    swallowing = np.where(rng.random(150) < 0.5, 2, starved)
    assert "not clear" in doubt_of_text(images, starved, swallowing, label=2, n_classes=3)
