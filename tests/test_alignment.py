"""Concept alignment: its parts by hand, the whole on planted problems and a random backbone."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from capkit import CLIPEncoder, ConceptAligner, ConceptSpace, MarginCalibrator, MismatchDetector
from capkit.alignment import choose_descriptions, move_across_gap
from capkit.backbones import load_backbone
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.describers import TableDescriber
from capkit.exceptions import BackboneMismatchError, DescriberError
from capkit.space import MismatchResult

by_centers = partial(ConceptAligner, use_centers=True)


@pytest.fixture(scope="module")
def planted():
    return make_concept_space(400, 10, 40, n_mismatched=2, noise=2.0, random_state=0)


@pytest.fixture(scope="module")
def detected(planted):
    return MismatchDetector(t=2, random_state=0).fit_transform(planted.space)


# -- the parts


def test_move_across_gap_by_hand():
    # (0.6, 0.8) - (0.6, 0.4) + (0.3, 0) = (0.3, 0.4), of norm 0.5.
    moved = move_across_gap([[0.6, 0.8]], [0.6, 0.4], [0.3, 0.0])
    np.testing.assert_allclose(moved, [[0.6, 0.8]], atol=1e-6)
    assert moved.dtype == np.float32


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


# -- without a describer


@pytest.mark.parametrize("seed", range(3))
def test_without_a_describer_repairs_what_it_should(seed):
    planted = make_concept_space(600, 12, 48, n_mismatched=2, random_state=seed)
    detected = MismatchDetector(t=2, random_state=0).fit_transform(planted.space)
    aligner = by_centers().fit(detected)
    np.testing.assert_array_equal(aligner.aligned_, planted.mismatched)
    before, after = planted.space.predict(), aligner.transform(planted.space).predict()
    for label in planted.mismatched:
        assert np.mean(before[planted.target == label] == label) < 0.5
        assert np.mean(after[planted.target == label] == label) > 0.95
    # As good as the texts that fit, which no one told it.
    fitting = dataclasses.replace(planted.space, text_features=planted.fitting_text_features)
    assert np.mean(after == planted.target) > np.mean(fitting.predict() == planted.target) - 0.01


def test_only_mismatched_classes_change(planted, detected):
    aligner = by_centers().fit(detected)
    others = np.setdiff1d(np.arange(10), aligner.mismatched_)
    np.testing.assert_array_equal(
        aligner.text_features_[others], planted.space.text_features[others]
    )
    assert not aligner.shift_[others].any()
    np.testing.assert_allclose(
        planted.space.text_features + aligner.shift_, aligner.text_features_, atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(aligner.text_features_, axis=1), 1, atol=1e-5)
    assert aligner.descriptions_ == {} and aligner.candidate_descriptions_ == {}


def test_transform_carries_the_results(planted, detected):
    aligner = by_centers().fit(detected)
    space = aligner.transform(planted.space[:5])
    np.testing.assert_array_equal(space.text_features, aligner.text_features_)
    np.testing.assert_array_equal(space.alignment.shift, aligner.shift_)
    np.testing.assert_array_equal(space.alignment.aligned, aligner.mismatched_)
    assert space.alignment.descriptions == {}
    np.testing.assert_array_equal(space.mismatch.mismatched, aligner.mismatched_)
    assert len(space) == 5 and planted.space.alignment is None


def test_fit_transform_is_fit_then_transform(detected):
    first = by_centers().fit_transform(detected)
    second = by_centers().fit(detected).transform(detected)
    np.testing.assert_array_equal(first.text_features, second.text_features)


def test_nothing_mismatched_nothing_changes(planted):
    aligner = by_centers().fit(MismatchDetector(t=0, n_init=1).fit_transform(planted.space))
    np.testing.assert_array_equal(aligner.text_features_, planted.space.text_features)
    assert len(aligner.aligned_) == 0


def test_class_without_images_keeps_its_text(planted):
    centers = planted.fitting_text_features.copy()
    centers[4] = 0
    space = dataclasses.replace(
        planted.space, mismatch=MismatchResult(np.array([4, 7]), class_centers=centers)
    )
    aligner = by_centers().fit(space)
    assert aligner.mismatched_.tolist() == [4, 7] and aligner.aligned_.tolist() == [7]
    np.testing.assert_array_equal(aligner.text_features_[4], planted.space.text_features[4])


def test_every_class_mismatched_is_refused(planted):
    space = dataclasses.replace(
        planted.space,
        mismatch=MismatchResult(np.arange(10), class_centers=planted.fitting_text_features),
    )
    with pytest.raises(ValueError, match="every class is mismatched"):
        by_centers().fit(space)


# -- detection


def test_without_a_detection_the_default_detector_runs_first(planted):
    detector = MismatchDetector(random_state=4)
    detected = detector.fit_transform(planted.space)
    alone, behind = (
        by_centers(random_state=4).fit(planted.space),
        by_centers(),
    )
    np.testing.assert_array_equal(alone.text_features_, behind.fit(detected).text_features_)
    np.testing.assert_array_equal(alone.mismatched_, detector.mismatched_)
    assert alone.detector_.get_params() == detector.get_params()
    space = alone.transform(planted.space)
    np.testing.assert_array_equal(space.mismatch.mismatched, detector.mismatched_)
    np.testing.assert_array_equal(space.mismatch.class_centers, detected.mismatch.class_centers)


def test_same_random_state_same_result(planted):
    first, second = (by_centers(random_state=4).fit(planted.space) for _ in range(2))
    np.testing.assert_array_equal(first.text_features_, second.text_features_)
    assert first.detector_.random_state == 4


def test_a_space_that_carries_a_detection_is_not_looked_at_again(detected):
    aligner = by_centers(random_state=4).fit(detected)
    assert aligner.detector_ is None
    np.testing.assert_array_equal(aligner.mismatched_, detected.mismatch.mismatched)


# -- predictions of the aligned space


def test_a_classifier_behind_the_aligner_classifies_by_the_aligned_texts(planted):
    steps = make_pipeline(
        MismatchDetector(t=2, random_state=0),
        by_centers(),
        ZeroShotClassifier(),
    ).fit(planted.space)
    aligned = steps[:-1].transform(planted.space)
    np.testing.assert_array_equal(steps[-1].text_features_, aligned.text_features)
    names = np.array(planted.space.class_names)
    np.testing.assert_array_equal(steps.predict(planted.space), names[aligned.predict()])
    np.testing.assert_allclose(
        steps.predict_proba(planted.space),
        aligned.predict_proba()[:, np.argsort(names)],
        rtol=1e-5,
        atol=1e-12,
    )
    right = np.mean(aligned.predict() == planted.target)
    assert steps.score(planted.space, planted.target) == right
    assert right > np.mean(planted.space.predict() == planted.target) + 0.05


# -- with a describer


NAMES = ["ring", "bar", "cross", "dot", "wave", "star"]
TEXTS = {name: [f"a {name} of {stuff}" for stuff in ("ink", "wood", "light")] for name in NAMES}


@pytest.fixture(scope="module")
def encoded(random_backbone):
    """Noise in a random backbone's space, two classes of which are said to be mismatched."""
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    space = CLIPEncoder(random_backbone, class_names=NAMES, device="cpu").fit_transform(images)
    backbone = load_backbone(random_backbone, device="cpu")
    # The classes' centres are where the second text of "dot" and the third of "bar" are.
    centers = space.text_features.copy()
    centers[3] = backbone.encode_texts(TEXTS["dot"])[1]
    centers[1] = backbone.encode_texts(TEXTS["bar"])[2]
    return dataclasses.replace(space, mismatch=MismatchResult(np.array([1, 3]), centers))


def test_describer_s_fitting_texts_replace_the_prompts(encoded):
    aligner = ConceptAligner(describer=TableDescriber(TEXTS)).fit(encoded)
    assert aligner.descriptions_ == {"bar": "a bar of light", "dot": "a dot of wood"}
    assert aligner.candidate_descriptions_ == {name: TEXTS[name] for name in ("bar", "dot")}
    space = aligner.transform(encoded)
    assert space.prompts[1] == "a bar of light" and space.prompts[3] == "a dot of wood"
    assert space.prompts[0] == "a photo of a ring"
    np.testing.assert_allclose(
        space.text_features[[1, 3]], encoded.mismatch.class_centers[[1, 3]], atol=1e-5
    )
    np.testing.assert_array_equal(space.text_features[0], encoded.text_features[0])
    assert not space.alignment.shift.any()
    assert space.alignment.descriptions == aligner.descriptions_


def test_describer_pairs_the_centres_anew(encoded):
    # Detection gave each of the two classes the other's cluster; the descriptions tell better.
    centers = encoded.mismatch.class_centers.copy()
    centers[[1, 3]] = centers[[3, 1]]
    swapped = dataclasses.replace(
        encoded, mismatch=MismatchResult(encoded.mismatch.mismatched, centers)
    )
    aligner = ConceptAligner(describer=TableDescriber(TEXTS)).fit(swapped)
    assert aligner.descriptions_ == {"bar": "a bar of light", "dot": "a dot of wood"}
    np.testing.assert_array_equal(
        aligner.transform(swapped).mismatch.class_centers, encoded.mismatch.class_centers
    )


def test_any_callable_is_a_describer_and_is_asked_for_mismatched_classes_only(encoded):
    asked = []

    def describer(class_name, n):
        asked.append((class_name, n))
        return TEXTS[class_name]

    aligner = ConceptAligner(describer=describer, n_descriptions=2).fit(encoded)
    assert asked == [("bar", 2), ("dot", 2)]
    assert {len(texts) for texts in aligner.candidate_descriptions_.values()} == {2}


def test_describer_is_not_asked_where_nothing_is_mismatched(encoded):
    def describer(class_name, n):
        raise AssertionError("asked")

    space = dataclasses.replace(
        encoded, mismatch=MismatchResult(np.array([], int), encoded.text_features)
    )
    aligner = ConceptAligner(describer=describer).fit(space)
    np.testing.assert_array_equal(aligner.text_features_, encoded.text_features)
    assert aligner.prompts_ == encoded.prompts


def test_describer_that_fails_is_an_error_of_its_own(encoded):
    with pytest.raises(DescriberError, match="'bar'"):
        ConceptAligner(describer=lambda class_name, n: 1 / 0).fit(encoded)


def test_describer_needs_to_know_the_backbone_and_asks_nothing_before(detected):
    def describer(class_name, n):
        raise AssertionError("asked")

    with pytest.raises(ValueError, match="the ConceptSpace names no backbone"):
        ConceptAligner(describer=describer).fit(detected)


def test_space_of_changed_weights_is_refused(encoded):
    stale = dataclasses.replace(encoded, backbone_id="0" * 64)
    with pytest.raises(
        BackboneMismatchError,
        match=rf"the ConceptSpace expected .* 0{{12}}\.\.\., got .* {encoded.backbone_id[:12]}",
    ):
        ConceptAligner(describer=TableDescriber(TEXTS)).fit(stale)


def test_transform_refuses_another_backbone(encoded):
    aligner = by_centers().fit(encoded)
    with pytest.raises(
        BackboneMismatchError,
        match=rf"ConceptAligner expected .* {encoded.backbone_id[:12]}\.\.\., got .* 0{{12}}",
    ):
        aligner.transform(dataclasses.replace(encoded, backbone_id="0" * 64))


def test_transform_refuses_other_classes(detected):
    other = ConceptSpace(np.eye(2), np.eye(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"fitted on the 10 classes.*got 2: \('a', 'b'\)"):
        by_centers().fit(detected).transform(other)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("describer", {"cat": ["fur"]}),
        ("n_descriptions", 0),
        ("device", 0),
    ],
)
def test_parameters_are_checked_at_fit(detected, parameter, value):
    aligner = ConceptAligner(**{parameter: value})
    with pytest.raises(ValueError, match=f"The '{parameter}' parameter of ConceptAligner"):
        clone(aligner).fit(detected)


# -- in a pipeline


def test_pipeline_of_the_stages_equals_the_stages_by_hand(planted):
    stages = make_pipeline(MismatchDetector(t=2, random_state=0), by_centers(), MarginCalibrator())
    space = stages.fit_transform(planted.space)
    by_hand = MismatchDetector(t=2, random_state=0).fit_transform(planted.space)
    by_hand = MarginCalibrator().fit_transform(by_centers().fit_transform(by_hand))
    np.testing.assert_array_equal(space.text_features, by_hand.text_features)
    np.testing.assert_array_equal(space.margin.margin_matrix, by_hand.margin.margin_matrix)
    assert repr(space).endswith("stages=['mismatch', 'alignment', 'margin'])")


def test_any_scikit_learn_step_stands_behind_a_stage(planted):
    pipeline = make_pipeline(
        MismatchDetector(t=2, random_state=0),
        by_centers(),
        LogisticRegression(),
    )
    pipeline.set_params(mismatchdetector__t=1)
    pipeline.fit(planted.space, planted.target)
    assert pipeline.score(planted.space, planted.target) > 0.9
    assert pipeline[0].t_ == 1


def test_without_a_describer_all_texts_stay_unless_centres_are_asked_for(detected):
    aligner = ConceptAligner().fit(detected)
    space = aligner.transform(detected)
    np.testing.assert_array_equal(space.text_features, detected.text_features)
    assert len(aligner.mismatched_) > 0
    assert len(space.alignment.aligned) == 0
    assert not space.alignment.shift.any()
    assert len(by_centers().fit(detected).aligned_) == len(aligner.mismatched_)
