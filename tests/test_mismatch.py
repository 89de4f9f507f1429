"""Mismatch detection: its parts by hand, the whole on planted problems."""

import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.cluster import KMeans

from capkit import CLIPEncoder, ConceptSpace, MismatchDetector
from capkit.datasets import load_digits, load_handwriting, make_concept_space
from capkit.mismatch import (
    fewest_predicted,
    images_of_match,
    n_classes_left,
    pair_with_centers,
    summarize_predictions,
)

BOTH_FORMS = pytest.mark.parametrize("recluster", ["warm", "scratch"])


# -- the parts


@pytest.mark.parametrize(
    ("t", "n_classes", "expected"),
    [
        (None, 10, 1),
        (None, 45, 5),
        (None, 1, 0),
        (0, 10, 0),
        (3, 10, 3),
        (0.1, 45, 5),
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (0.1, 30, 3),
        (0.01, 10, 1),
    ],
)
def test_t_is_a_number_or_a_fraction_rounded_up(t, n_classes, expected):
    assert n_classes_left(t, n_classes) == expected


@pytest.mark.parametrize("t", [10, 11, 0.95])
def test_t_has_to_leave_classes_to_match(t):
    with pytest.raises(ValueError, match=r"leaves all 10 classes.*up to 9"):
        n_classes_left(t, 10)


def test_fewest_predicted_are_ordered_by_count_then_probability_then_index():
    counts, mass = [3, 0, 0, 0, 9], [2.0, 0.4, 0.1, 0.1, 8.0]
    assert fewest_predicted(counts, mass, 4).tolist() == [2, 3, 1, 0]


def test_images_of_a_match_are_those_of_the_cluster_first():
    predicted = np.array([5, 5, 5, 5, 1])
    confidence = np.array([0.99, 0.5, 0.6, 0.7, 0.9])
    in_cluster = np.array([False, True, True, False, True])
    # In the cluster by confidence: 2, 1; then outside it: 0, 3. Image 4 is predicted otherwise.
    for limit in range(6):
        assert (
            images_of_match(5, predicted, confidence, in_cluster, limit).tolist()
            == [2, 1, 0, 3][:limit]
        )


def test_images_of_a_class_that_nobody_predicts():
    no_image = images_of_match(3, np.array([0, 1]), np.ones(2), np.ones(2, bool), 5)
    assert no_image.tolist() == []


def test_pairing_maximizes_the_sum_not_each_pair():
    # Greedy pairing would take 0.9 first and end with 0.9 + 0.0.
    assert pair_with_centers([[0.9, 0.8], [0.8, 0.0]]).tolist() == [1, 0]


def test_summary_in_chunks_equals_the_whole(planted_space, monkeypatch):
    probabilities = planted_space.predict_proba()
    monkeypatch.setattr("capkit.mismatch._CHUNK_SIZE", 7)
    summary = summarize_predictions(planted_space)
    np.testing.assert_array_equal(summary.predicted, probabilities.argmax(axis=1))
    np.testing.assert_allclose(summary.confidence, probabilities.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(summary.mass, probabilities.sum(axis=0), rtol=1e-4)
    assert summary.counts.sum() == len(planted_space)


# -- the whole


@BOTH_FORMS
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "problem",
    [
        {},
        {"n_images": 600, "n_classes": 12, "n_mismatched": 1, "noise": 2.0},
        {"n_images": 900, "n_classes": 18, "n_features": 96, "confusion": 1.0, "noise": 1.8},
        {"n_images": 1000, "n_classes": 40, "n_mismatched": 4, "noise": 1.5},
    ],
    ids=["default", "noisy", "confused", "many"],
)
def test_finds_exactly_the_planted_classes(problem, seed, recluster):
    planted = make_concept_space(random_state=seed, **problem)
    t = len(planted.mismatched)
    detector = MismatchDetector(t=t, recluster=recluster, n_init=3, random_state=seed)
    np.testing.assert_array_equal(detector.fit(planted.space).mismatched_, planted.mismatched)


@BOTH_FORMS
def test_finds_no_class_where_all_texts_fit(recluster):
    # With t = 1 a class is left and one is predicted least; they are different ones here.
    planted = make_concept_space(n_mismatched=0, random_state=1)
    detector = MismatchDetector(t=1, recluster=recluster, random_state=0).fit(planted.space)
    assert detector.mismatched_.tolist() == []


def straightforward_detection(space, t, random_state):
    """Method section 1 written down line by line."""
    rng = np.random.RandomState(random_state)
    images, texts, scale = space.image_features, space.text_features, space.logit_scale
    zero_shot = softmax(scale * images @ texts.T, axis=1)
    classes, left, order = list(range(len(texts))), list(range(len(images))), []
    while len(classes) > t:
        k_means = KMeans(len(classes), n_init=1, max_iter=100, random_state=rng).fit(images[left])
        centers = k_means.cluster_centers_
        centers = centers / np.linalg.norm(centers, axis=1, keepdims=True)
        match = softmax(scale * texts[classes] @ centers.T, axis=1)
        row, cluster = np.unravel_index(match.argmax(), match.shape)
        chosen = classes.pop(row)
        order.append(chosen)
        mine = [
            (label != cluster, -zero_shot[image].max(), image)
            for image, label in zip(left, k_means.labels_, strict=True)
            if zero_shot[image].argmax() == chosen
        ]
        for *_, image in sorted(mine)[: len(images) // len(texts)]:
            left.remove(image)
    counts = np.bincount(zero_shot.argmax(axis=1), minlength=len(texts))
    low = sorted(range(len(texts)), key=lambda c: (counts[c], zero_shot[:, c].sum()))[:t]
    return order, sorted(set(classes) & set(low))


def test_scratch_is_the_method_line_by_line():
    space = make_concept_space(300, 10, 40, noise=2.5, confusion=1.0, random_state=2).space
    order, mismatched = straightforward_detection(space, 3, random_state=7)
    detector = MismatchDetector(t=3, recluster="scratch", n_init=1, random_state=7).fit(space)
    assert detector.match_order_.tolist() == order
    assert detector.mismatched_.tolist() == mismatched


@BOTH_FORMS
def test_attributes_tell_the_story(recluster):
    planted = make_concept_space(random_state=0)
    detector = MismatchDetector(recluster=recluster, random_state=0).fit(planted.space)
    space = planted.space
    assert detector.t_ == 2 and len(detector.match_order_) == 18
    np.testing.assert_array_equal(
        np.sort(np.concatenate([detector.match_order_, detector.unmatched_])), np.arange(20)
    )
    np.testing.assert_array_equal(
        detector.prediction_counts_, np.bincount(space.predict(), minlength=20)
    )
    counts = detector.prediction_counts_
    assert (
        counts[detector.fewest_predicted_].max()
        <= np.delete(counts, detector.fewest_predicted_).min()
    )
    # Matched classes are surer than those that are left.
    confidence = detector.match_confidence_
    assert confidence[detector.match_order_].min() > confidence[detector.unmatched_].max()
    # Clusters: one each, unit norm, in the order of the matches, and where the images are.
    np.testing.assert_array_equal(np.sort(detector.class_cluster_), np.arange(20))
    np.testing.assert_array_equal(detector.class_cluster_[detector.match_order_], np.arange(18))
    np.testing.assert_allclose(np.linalg.norm(detector.cluster_centers_, axis=1), 1, atol=1e-5)
    for label in detector.match_order_:
        mean = space.image_features[planted.target == label].mean(axis=0)
        center = detector.cluster_centers_[detector.class_cluster_[label]]
        assert mean @ center / np.linalg.norm(mean) > 0.98


@BOTH_FORMS
def test_match_confidence_is_a_softmax_over_the_clusters(recluster):
    # Clusters at the three unit vectors; the first text is matched with the first one.
    images = np.repeat(np.eye(3), 4, axis=0)
    texts = [[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, 0.28, 0.96]]
    space = ConceptSpace(images, texts, ["ring", "bar", "cross"], logit_scale=5.0)
    detector = MismatchDetector(t=2, recluster=recluster, random_state=0).fit(space)
    assert detector.match_order_.tolist() == [0] and detector.unmatched_.tolist() == [1, 2]
    # Logits 5, 0, 0 in the first round. Of the clusters that are left: 3, 4 and 1.4, 4.8.
    expected = [1 / (1 + 2 * np.exp(-5)), 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-3.4))]
    np.testing.assert_allclose(detector.match_confidence_, expected, rtol=1e-5)


def test_warm_and_scratch_put_the_clusters_in_the_same_places():
    space = make_concept_space(1000, 40, random_state=5).space
    warm, scratch = (
        MismatchDetector(recluster=form, random_state=0).fit(space) for form in ("warm", "scratch")
    )
    centers = [detector.transform(space).mismatch.class_centers for detector in (warm, scratch)]
    assert np.einsum("ij,ij->i", *centers).min() > 0.98


@pytest.fixture(scope="module")
def glyph_spaces():
    spaces = {}
    for load in (load_digits, load_handwriting):
        data = load(split="train")
        encoder = CLIPEncoder("glyph", class_names=data.class_names)
        spaces[load] = encoder.fit_transform(data.images)
    return spaces


@pytest.mark.parametrize(
    ("load", "t"),
    [
        (load_digits, 1),
        (load_digits, 2),
        (load_digits, 3),
        pytest.param(load_handwriting, 7, marks=pytest.mark.slow),
    ],
)
def test_warm_and_scratch_agree_on_the_embedded_model(glyph_spaces, load, t):
    # For this seed; benchmarks/detection.py has a table over many.
    space = glyph_spaces[load]
    warm, scratch = (
        MismatchDetector(t=t, recluster=form, random_state=0).fit(space)
        for form in ("warm", "scratch")
    )
    np.testing.assert_array_equal(warm.mismatched_, scratch.mismatched_)


def test_same_seed_same_result(planted_space):
    first, second = (MismatchDetector(random_state=3).fit(planted_space) for _ in range(2))
    np.testing.assert_array_equal(first.match_order_, second.match_order_)
    np.testing.assert_array_equal(first.cluster_centers_, second.cluster_centers_)


def test_space_is_not_changed(planted_space):
    before = planted_space.image_features.copy()
    MismatchDetector(random_state=0).fit(planted_space)
    np.testing.assert_array_equal(planted_space.image_features, before)
    assert planted_space.mismatch is None


# -- transform


def test_transform_applies_what_fit_learned(planted_space):
    detector = MismatchDetector(random_state=0)
    space = detector.fit_transform(planted_space)
    few = detector.transform(planted_space[:2])
    for result in (space.mismatch, few.mismatch):
        np.testing.assert_array_equal(result.mismatched, detector.mismatched_)
        np.testing.assert_array_equal(
            result.class_centers, detector.cluster_centers_[detector.class_cluster_]
        )


def test_transform_refuses_other_classes(planted_space):
    detector = MismatchDetector(random_state=0).fit(planted_space)
    other = ConceptSpace(np.eye(2), np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"fitted on the 20 classes.*got 2: \('a', 'b'\)"):
        detector.transform(other)


# -- degenerate input


@BOTH_FORMS
def test_class_that_nobody_predicts_is_found(recluster):
    planted = make_concept_space(400, 10, 40, n_mismatched=1, noise=0.5, random_state=0)
    texts = planted.space.text_features.copy()
    texts[planted.mismatched] = -planted.space.image_features.mean(axis=0)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    space = ConceptSpace(planted.space.image_features, texts, planted.space.class_names)
    detector = MismatchDetector(recluster=recluster, random_state=0).fit(space)
    assert detector.prediction_counts_[planted.mismatched].tolist() == [0]
    np.testing.assert_array_equal(detector.mismatched_, planted.mismatched)


@BOTH_FORMS
def test_matched_class_that_nobody_predicts_takes_no_image(recluster):
    # Twins: the second one is matched with its cluster, but every image is predicted as the first.
    planted = make_concept_space(200, 5, 32, n_mismatched=0, noise=0.5, random_state=0)
    texts = planted.space.text_features.copy()
    texts[3] = texts[1]
    space = ConceptSpace(planted.space.image_features, texts, planted.space.class_names)
    with pytest.warns(UserWarning, match="'class 1' and 'class 3': the first one gets all"):
        detector = MismatchDetector(t=1, recluster=recluster, random_state=0).fit(space)
    assert detector.prediction_counts_[3] == 0
    assert detector.mismatched_.tolist() == [3]


@BOTH_FORMS
def test_fewer_images_than_classes(recluster):
    planted = make_concept_space(6, 10, 40, random_state=0)
    detector = MismatchDetector(t=8, recluster=recluster, random_state=0)
    with pytest.warns(UserWarning, match="6 images of 10 classes: too few"):
        detector.fit(planted.space)
    assert (detector.class_cluster_ == -1).sum() == 4
    assert not np.isin(np.flatnonzero(detector.class_cluster_ == -1), detector.mismatched_).any()
    centers = detector.transform(planted.space).mismatch.class_centers
    assert not centers[detector.class_cluster_ == -1].any()


@BOTH_FORMS
def test_one_image(recluster):
    space = make_concept_space(1, 3, 32, n_mismatched=0, random_state=0).space
    with pytest.warns(UserWarning, match="1 images of 3 classes"):
        detector = MismatchDetector(recluster=recluster).fit(space)
    assert detector.mismatched_.tolist() == []


@BOTH_FORMS
def test_copies_of_one_image_are_no_trouble(recluster):
    space = make_concept_space(1, 3, 32, n_mismatched=0, random_state=0).space[np.zeros(9, int)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = MismatchDetector(recluster=recluster, random_state=0).fit(space)
    assert np.isfinite(detector.cluster_centers_).all()
    assert detector.prediction_counts_.max() == 9


@BOTH_FORMS
def test_t_of_zero_detects_nothing(planted_space, recluster):
    detector = MismatchDetector(t=0, recluster=recluster, n_init=1, random_state=0)
    detector.fit(planted_space)
    assert detector.mismatched_.tolist() == [] and len(detector.match_order_) == 20
    assert detector.transform(planted_space).mismatch.class_centers.any(axis=1).all()


def test_no_images_are_refused(planted_space):
    with pytest.raises(ValueError, match=r"at least 1 image\(s\), got 0"):
        MismatchDetector().fit(planted_space[:0])


@pytest.mark.parametrize("field", ["image_features", "text_features"])
def test_nan_features_are_refused(planted_space, field):
    features = {
        "image_features": planted_space.image_features.copy(),
        "text_features": planted_space.text_features.copy(),
    }
    space = ConceptSpace(class_names=planted_space.class_names, **features)
    features[field][0, 0] = np.nan  # the space looks at the caller's array
    with pytest.raises(ValueError, match=f"NaN or infinity in {field}"):
        MismatchDetector().fit(space)


def test_plain_array_is_refused(planted_space):
    with pytest.raises(TypeError, match="MismatchDetector expected a ConceptSpace, got ndarray"):
        MismatchDetector().fit(planted_space.image_features)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("t", -1), ("t", 1.0), ("t", "2"), ("recluster", "cold"), ("n_init", 0), ("max_iter", 0)],
)
def test_parameters_are_checked_at_fit(planted_space, parameter, value):
    detector = MismatchDetector(**{parameter: value})
    with pytest.raises(ValueError, match=f"The '{parameter}' parameter of MismatchDetector"):
        clone(detector).fit(planted_space)
