"""What a report says: checked, and taken from fitted objects as they are."""

import dataclasses

import numpy as np
import pytest
from report_samples import gray_images, small_content
from sklearn.exceptions import NotFittedError

from capkit import CAPClassifier, CLIPEncoder, ConceptAligner, ConceptSpace, MismatchDetector
from capkit.datasets import load_digits, make_concept_space
from capkit.report import MismatchedClass, ReportContent
from capkit.space import AlignmentResult, MismatchResult
from capkit.tuning import AdapterTuning

N_DIGITS = 300


# -- checks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_names": ("a", "b")}, "expected image_names of length 6, .* got 2"),
        ({"image_names": ("a",) * 6}, "expected image_names that all differ, got 'a'"),
        ({"class_names": ("cat", "cat", "jay")}, "expected class_names that all differ"),
        ({"class_names": ("cat", "dog")}, r"expected probabilities of shape \(6, 2\)"),
        ({"class_names": ()}, "expected at least one class name"),
        ({"probabilities": np.full((6, 3), 0.5)}, "whose rows sum to 1"),
        ({"probabilities": np.full((6, 3), np.nan)}, "whose rows sum to 1"),
        ({"labels": np.array([0, 1, 2, 3, 0, 0])}, "expected labels from 0 to 2, got 0 to 3"),
        ({"labels": np.zeros(6)}, "expected labels as whole numbers"),
        ({"zero_shot": np.full(6, -1)}, "expected zero_shot from 0 to 2"),
        ({"known": np.full(6, -2)}, "expected known from -1 to 2"),
        ({"doubts": ("",)}, "expected doubts of length 6"),
        (
            {"mismatched": (MismatchedClass("owl", "an owl", None, np.array([0])),)},
            "expected mismatched classes of class_names, got 'owl'",
        ),
        (
            {"mismatched": (MismatchedClass("jay", "a jay", None, np.array([6])),)},
            "expected rows of 'jay' from 0 to 5",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_content(**changes)


# -- what follows from it, worked out by hand


def test_confidence_is_that_of_the_label_and_the_runner_up_another_class():
    content = small_content(labels=np.array([0, 0, 2, 2, 0, 1]))
    assert content.confidence.tolist() == pytest.approx([0.9, 0.45, 0.4, 0.9, 0.6, 0.9])
    assert content.runner_up.tolist() == [1, 1, 0, 1, 2, 0]


def test_doubtful_images_come_first_by_their_lead():
    # Leads: 0.85, 0.05, 0.10, 0.82, 0.30, 0.85, of which 1, 2 and 5 are doubtful.
    assert small_content().doubtful_first.tolist() == [1, 2, 5, 4, 3, 0]


def test_an_image_labeled_against_the_model_is_ahead_of_others():
    content = small_content(labels=np.array([0, 1, 2, 2, 0, 2]))  # 5: 0.05 against 0.90
    assert content.doubtful_first.tolist()[0] == 5


def test_one_class_has_itself_as_runner_up():
    content = small_content(
        class_names=("cat",),
        probabilities=np.ones((6, 1)),
        labels=np.zeros(6, dtype=int),
        zero_shot=None,
        known=np.full(6, -1),
        mismatched=(),
    )
    assert content.runner_up.tolist() == [0] * 6


# -- from a classifier


def fitted_digits(y=None, **parameters):
    digits = load_digits(split="train")
    names = digits.class_names  # zero, one, two: not in the order of the alphabet
    encoder = CLIPEncoder(class_names=names, backbone="glyph")
    space = encoder.fit_transform(digits.images[:N_DIGITS])
    tuning = AdapterTuning(epochs=2)
    classifier = CAPClassifier(tuning=tuning, random_state=0, **parameters)
    return classifier.fit(space, y), space


@pytest.fixture(scope="module")
def fitted():
    return fitted_digits()


def image_names(space):
    return [f"{row}.png" for row in range(len(space))]


def test_labels_and_probabilities_are_the_classifiers_in_the_order_of_names(fitted):
    classifier, space = fitted
    content = ReportContent.from_classifier(classifier, space, image_names=image_names(space))
    named = [content.class_names[label] for label in content.labels]
    assert named == classifier.predict(space).tolist()
    assert content.class_names == space.class_names != tuple(classifier.classes_)
    expected = classifier.predict_proba(space)
    for column, label in enumerate(classifier.classes_):
        own = content.probabilities[:, content.class_names.index(label)]
        np.testing.assert_allclose(own, expected[:, column], rtol=1e-5, atol=1e-7)
    assert content.zero_shot.tolist() == space.predict().tolist()
    assert content.adaptation == classifier.adaptation_report_
    assert content.history == classifier.history_ and len(content.history) == 2
    assert content.settings["Model"] == "glyph"


def test_labels_as_indices_give_the_same_content(fitted):
    by_name, space = fitted
    by_index, _ = fitted_digits(y=[0] * (N_DIGITS - 1) + [-1])
    assert by_index.classes_.tolist() == list(range(10))
    contents = [
        ReportContent.from_classifier(classifier, space, image_names=image_names(space))
        for classifier in (by_name, by_index)
    ]
    np.testing.assert_array_equal(contents[0].probabilities, contents[1].probabilities)


def test_labels_of_a_person_stay_and_are_doubted_only_where_the_model_is_sure(fitted):
    classifier, space = fitted
    probabilities = ReportContent.from_classifier(
        classifier, space, image_names=image_names(space)
    ).probabilities
    surest = int(probabilities.max(axis=1).argmax())
    known = np.full(len(space), -1)
    known[surest] = (probabilities[surest].argmax() + 1) % 10
    content = ReportContent.from_classifier(
        classifier, space, image_names=image_names(space), known=known
    )
    predicted = space.class_names[probabilities[surest].argmax()]
    assert content.labels[surest] == known[surest] == content.known[surest]
    assert content.doubts[surest] == f"labeled by hand, but looks like {predicted}"
    assert (np.delete(content.known, surest) == -1).all()


def planted_space(**parameters):
    problem = make_concept_space(random_state=0, **parameters)
    return dataclasses.replace(problem.space, images=gray_images(len(problem.space)))


def test_mismatched_classes_come_from_the_fitted_stages():
    space = planted_space(n_mismatched=2)
    classifier = CAPClassifier(tuning=AdapterTuning(epochs=1), random_state=0).fit(space)
    content = ReportContent.from_classifier(classifier, space, image_names=image_names(space))
    assert [found.name for found in content.mismatched] == classifier.mismatched_names_
    assert len(content.mismatched) == 2
    detector = classifier.detector_
    for found, index in zip(content.mismatched, classifier.mismatched_, strict=True):
        center = detector.cluster_centers_[detector.class_cluster_[index]]
        similarity = space.image_features[found.rows] @ center
        assert (np.diff(similarity) <= 0).all() and len(found.rows) > 5
        assert found.new_text is None


def test_clusters_are_those_of_the_aligner_where_it_exchanged_them():
    class Exchanging(ConceptAligner):
        def transform(self, X):
            space = super().transform(X)
            centers = space.mismatch.class_centers.copy()
            both = space.mismatch.mismatched
            centers[both] = centers[both[::-1]]
            found = dataclasses.replace(space.mismatch, class_centers=centers)
            return dataclasses.replace(space, mismatch=found)

    space = planted_space(n_mismatched=2)
    plain, exchanged = (
        ReportContent.from_classifier(
            CAPClassifier(aligner=aligner, tuning=AdapterTuning(epochs=1), random_state=0).fit(
                space
            ),
            space,
            image_names=image_names(space),
        ).mismatched
        for aligner in (ConceptAligner(), Exchanging())
    )
    assert plain[0].rows.tolist() == exchanged[1].rows.tolist() != exchanged[0].rows.tolist()


def test_what_was_not_fitted_or_has_no_images_is_refused(fitted):
    classifier, space = fitted
    names = image_names(space)
    with pytest.raises(NotFittedError):
        ReportContent.from_classifier(CAPClassifier(), space, image_names=names)
    without = dataclasses.replace(space, images=None)
    other = dataclasses.replace(space, class_names=[*space.class_names[1:], "digit ten"])
    with pytest.raises(ValueError, match="expected a ConceptSpace with its images"):
        ReportContent.from_classifier(classifier, without, image_names=names)
    with pytest.raises(ValueError, match=r"of the classes .* got one of"):
        ReportContent.from_classifier(classifier, other, image_names=names)
    with pytest.raises(ValueError, match=f"expected image_names of length {N_DIGITS}"):
        ReportContent.from_classifier(classifier, space, image_names=names[1:])
    with pytest.raises(ValueError, match=f"expected known of length {N_DIGITS}.*got 1"):
        ReportContent.from_classifier(classifier, space, image_names=names, known=[0])


# -- from a space


def hand_made_space(**fields):
    # Images at 0, 80, 100, 10 and 170 degrees; "jay" was given the cluster at 90 degrees.
    angles = np.deg2rad([0, 80, 100, 10, 170])
    return ConceptSpace(
        np.stack([np.cos(angles), np.sin(angles)], axis=1),
        np.array([[1, 0], [-1, 0], [0.8, -0.6]]),
        ["cat", "dog", "jay"],
        logit_scale=10.0,
        images=gray_images(5),
        prompts=["a cat", "a dog", "a jay"],
        mismatch=MismatchResult(np.array([2]), np.array([[1, 0], [-1, 0], [0, 1]])),
        **fields,
    )


def test_a_space_gives_zero_shot_labels_and_nothing_to_compare_with():
    space = hand_made_space()
    content = ReportContent.from_space(
        space, image_names="abcde", title="Pets", unreadable={"f": "cut"}
    )
    assert content.labels.tolist() == space.predict().tolist() == [0, 0, 1, 0, 1]
    np.testing.assert_array_equal(content.probabilities, space.predict_proba())
    assert content.zero_shot is content.adaptation is None
    assert (content.title, content.unreadable) == ("Pets", {"f": "cut"})


def test_the_images_of_a_cluster_are_those_nearest_to_it_the_nearest_first():
    # 80 degrees is nearer to 90 than to 0, 170 is nearer to 180; both of the first are 10 away.
    (found,) = ReportContent.from_space(hand_made_space(), image_names="abcde").mismatched
    assert (found.name, found.old_text, found.new_text) == ("jay", "a jay", None)
    assert found.rows.tolist() == [1, 2]


def test_a_class_without_a_cluster_has_no_images():
    space = hand_made_space()
    centers = np.array([[0, -1], [0, -1], [0, 0]])  # all images are away from the others
    space = dataclasses.replace(space, mismatch=MismatchResult(np.array([2]), centers))
    (found,) = ReportContent.from_space(space, image_names="abcde").mismatched
    assert found.rows.tolist() == []


def test_an_aligned_class_has_its_new_text_and_the_name_as_the_old_one():
    alignment = AlignmentResult(np.zeros((3, 2)), np.array([2]), {"jay": "a blue bird"})
    space = dataclasses.replace(
        hand_made_space(), alignment=alignment, prompts=["a cat", "a dog", "a blue bird"]
    )
    (found,) = ReportContent.from_space(space, image_names="abcde").mismatched
    assert (found.old_text, found.new_text) == ("jay", "a blue bird")


def test_detection_on_a_space_is_shown_and_doubted():
    space = MismatchDetector(random_state=0).fit_transform(planted_space(n_mismatched=2))
    content = ReportContent.from_space(space, image_names=image_names(space))
    names = [space.class_names[index] for index in space.mismatch.mismatched]
    assert [found.name for found in content.mismatched] == names != []
