"""Concept alignment: its parts by hand, the whole on planted problems and a random backbone."""

import dataclasses
import pickle
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from capkit import CLIPEncoder, ConceptAligner, ConceptSpace, MarginCalibrator, MismatchDetector
from capkit.alignment import move_across_gap
from capkit.backbones import load_backbone
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import load_digits, make_concept_space
from capkit.describers import TableDescriber
from capkit.exceptions import AdaptationWarning, BackboneMismatchError, DescriberError
from capkit.space import MismatchResult

by_centers = partial(ConceptAligner, use_centers=True)
always = partial(ConceptAligner, accept="always")


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
    aligner = always(describer=TableDescriber(TEXTS)).fit(encoded)
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
    aligner = always(describer=TableDescriber(TEXTS)).fit(swapped)
    assert aligner.descriptions_ == {"bar": "a bar of light", "dot": "a dot of wood"}
    np.testing.assert_array_equal(
        aligner.transform(swapped).mismatch.class_centers, encoded.mismatch.class_centers
    )


def test_any_callable_is_a_describer_and_is_asked_for_mismatched_classes_only(encoded):
    asked = []

    def describer(class_name, n):
        asked.append((class_name, n))
        return TEXTS[class_name]

    aligner = always(describer=describer, n_descriptions=2).fit(encoded)
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
        ("accept", "never"),
        ("device", 0),
    ],
)
def test_parameters_are_checked_at_fit(detected, parameter, value):
    aligner = ConceptAligner(**{parameter: value})
    with pytest.raises(ValueError, match=f"The '{parameter}' parameter of ConceptAligner"):
        clone(aligner).fit(detected)


# -- descriptions that the images judge


class FeatureAligner(ConceptAligner):
    """Encodes by a table: planted problems have no text tower."""

    def _text_encoder(self, space):
        return lambda texts: np.array([FEATURES[text] for text in texts])


FEATURES: dict[str, np.ndarray] = {}


@pytest.fixture(scope="module")
def described(planted):
    """Descriptions of each class of the planted problem, the second nearer to its images."""
    noise = np.random.default_rng(0).standard_normal((2, 10, 40)) / np.sqrt(40)
    table = {}
    for label, name in enumerate(planted.space.class_names):
        table[name] = [f"{name}, roughly", f"{name}, well"]
        for text, scale, of_text in zip(table[name], (0.6, 0.1), noise, strict=True):
            feature = planted.fitting_text_features[label] + scale * of_text[label]
            FEATURES[text] = (feature / np.linalg.norm(feature)).astype(np.float32)
    nonsense = planted.space.text_features.mean(axis=0) + 0.5 * noise[0]
    for row, feature in enumerate(nonsense):
        FEATURES[f"file {row}"] = (feature / np.linalg.norm(feature)).astype(np.float32)
    return table


def accuracy(space, target):
    return np.mean(space.predict() == target)


def test_good_descriptions_are_accepted(planted, detected, described):
    aligner = FeatureAligner(describer=TableDescriber(described))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        space = aligner.fit_transform(detected)
    names = [planted.space.class_names[label] for label in planted.mismatched]
    assert list(aligner.descriptions_) == names and aligner.rejected_descriptions_ == {}
    np.testing.assert_array_equal(aligner.aligned_, planted.mismatched)
    fitting = dataclasses.replace(planted.space, text_features=planted.fitting_text_features)
    assert accuracy(space, planted.target) > accuracy(fitting, planted.target) - 0.02
    assert accuracy(space, planted.target) > accuracy(planted.space, planted.target) + 0.05


def wrong_tables(described, mismatched):
    """What a table can say that is not of its classes."""
    names = list(described)
    first, second = (names[label] for label in mismatched)
    others = iter(name for name in names if name not in (first, second))
    nonsense = {name: [f"file {row}" for row in range(10)] for name in names}
    return {
        "nonsense": nonsense,
        "another class's": {first: described[next(others)], second: described[next(others)]},
        "exchanged": {first: described[second], second: described[first]},
    }


@pytest.mark.parametrize("kind", ["nonsense", "another class's", "exchanged"])
def test_wrong_descriptions_change_nothing_and_are_named(planted, detected, described, kind):
    table = wrong_tables(described, planted.mismatched)[kind]
    names = [planted.space.class_names[label] for label in planted.mismatched]
    aligner = FeatureAligner(describer=TableDescriber(table))
    with pytest.warns(AdaptationWarning, match=f"'{names[0]}' .*'{names[1]}' "):
        aligner.fit(detected)
    assert list(aligner.rejected_descriptions_) == names
    assert aligner.descriptions_ == {} and len(aligner.aligned_) == 0
    assert list(aligner.candidate_descriptions_) == names
    space = aligner.transform(detected)
    np.testing.assert_array_equal(space.text_features, planted.space.text_features)
    np.testing.assert_array_equal(space.mismatch.class_centers, detected.mismatch.class_centers)


@pytest.mark.parametrize("kind", ["nonsense", "another class's", "exchanged"])
def test_wrong_descriptions_are_taken_where_all_are(planted, detected, described, kind):
    table = wrong_tables(described, planted.mismatched)[kind]
    aligner = FeatureAligner(describer=TableDescriber(table), accept="always")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aligner.fit(detected)
    np.testing.assert_array_equal(aligner.aligned_, planted.mismatched)
    assert aligner.rejected_descriptions_ == {} and len(aligner.descriptions_) == 2


def test_a_good_description_is_found_among_wrong_ones(planted, detected, described):
    first, second = (planted.space.class_names[label] for label in planted.mismatched)
    table = {
        first: [described[second][1], "file 3", described[first][1]],
        second: [described[first][1], "file 4", described[second][1]],
    }
    aligner = FeatureAligner(describer=TableDescriber(table)).fit(detected)
    assert aligner.descriptions_ == {first: described[first][1], second: described[second][1]}


def test_one_class_can_be_refused_beside_another(planted, detected, described):
    first, second = (planted.space.class_names[label] for label in planted.mismatched)
    other = next(name for name in described if name not in (first, second))
    table = {first: described[other], second: described[second]}
    with pytest.warns(AdaptationWarning, match=f"text, which stays, of '{first}' "):
        aligner = FeatureAligner(describer=TableDescriber(table)).fit(detected)
    assert list(aligner.rejected_descriptions_) == [first]
    assert list(aligner.descriptions_) == [second]
    assert aligner.aligned_.tolist() == [planted.mismatched[1]]


@pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
def test_descriptions_that_resemble_their_names_pair_the_centres_anew(
    planted, detected, described
):
    # Names that fit, and two classes each of which detection gave the other's cluster.
    centers = detected.mismatch.class_centers.copy()
    centers[planted.mismatched] = centers[planted.mismatched[::-1]]
    swapped = dataclasses.replace(
        detected,
        text_features=planted.fitting_text_features,
        mismatch=MismatchResult(planted.mismatched, centers),
    )
    first, second = (planted.space.class_names[label] for label in planted.mismatched)
    table = {first: described[first], second: described[second]}
    space = FeatureAligner(describer=TableDescriber(table)).fit_transform(swapped)
    np.testing.assert_array_equal(space.mismatch.class_centers, detected.mismatch.class_centers)
    # Descriptions that were exchanged too seem to fit these clusters, but say nothing of them.
    table = {first: described[second], second: described[first]}
    space = FeatureAligner(describer=TableDescriber(table)).fit_transform(swapped)
    np.testing.assert_array_equal(space.mismatch.class_centers, centers)


def test_clones_and_pickles_keep_what_was_refused(detected, described):
    table = {name: ["file 1", "file 2"] for name in described}
    aligner = FeatureAligner(describer=TableDescriber(table), accept="images")
    with pytest.warns(AdaptationWarning):
        aligner.fit(detected)
    loaded = pickle.loads(pickle.dumps(aligner))
    assert loaded.rejected_descriptions_ == aligner.rejected_descriptions_ != {}
    assert clone(aligner.set_params(accept="always")).accept == "always"


def test_the_embedded_models_texts_are_judged():
    data = load_digits(split="train")
    encoder = CLIPEncoder("glyph", class_names=data.class_names, device="cpu")
    space = encoder.fit_transform(data.images)
    seven, eight = (data.class_names.index(f"digit {name}") for name in ("seven", "eight"))
    centers = MismatchDetector(t=1, random_state=0).fit_transform(space).mismatch.class_centers
    detected = dataclasses.replace(space, mismatch=MismatchResult(np.array([seven]), centers))
    before = accuracy(space, data.target)
    good = ConceptAligner(describer=TableDescriber(data.descriptions)).fit_transform(detected)
    assert accuracy(good, data.target) > before + 0.01
    nonsense = ["IMG_0001.jpg", "42", "[1, 2, 3]"]
    for texts in (nonsense, data.descriptions[data.class_names[eight]]):
        aligner = ConceptAligner(describer=TableDescriber({"digit seven": texts}))
        with pytest.warns(AdaptationWarning, match="'digit seven'"):
            aligner.fit(detected)
        taken = ConceptAligner(describer=aligner.describer, accept="always").fit(detected)
        assert accuracy(taken.transform(space), data.target) < before - 0.01


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
