"""The peer that learns from the labeled images alone."""

import dataclasses
import pickle

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CLIPEncoder
from capkit.baselines import LabelProbe, ZeroShotClassifier
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import BackboneMismatchError, LabelError


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(200, 5, 16, n_mismatched=0, text_noise=0.8, random_state=0)


@pytest.fixture(scope="module")
def labels(problem):
    """Of the first 60 images, none of class 2."""
    labels = np.where(np.arange(200) < 60, problem.target, -1)
    labels[labels == 2] = -1
    return labels


@pytest.mark.parametrize(
    "estimator",
    [
        None,
        KNeighborsClassifier(3),
        RandomForestClassifier(5, random_state=0),
        CalibratedClassifierCV(LinearSVC(), cv=2),
    ],
)
def test_agrees_with_the_estimators_own_fit(problem, labels, estimator):
    probe = LabelProbe(estimator).fit(problem.space, labels)
    own = LogisticRegression(C=10, max_iter=1000) if estimator is None else estimator
    features = problem.space.image_features
    own.fit(features[labels >= 0], labels[labels >= 0])
    probabilities = probe.predict_proba(problem.space)
    np.testing.assert_allclose(
        probabilities[:, [0, 1, 3, 4]], own.predict_proba(features), atol=1e-6
    )
    assert probe.estimator_.classes_.tolist() == [0, 1, 3, 4]


def test_a_class_without_labeled_images_is_never_predicted(problem, labels):
    probe = LabelProbe().fit(problem.space, labels)
    assert probe.classes_.tolist() == [0, 1, 2, 3, 4]
    assert probe.predict_proba(problem.space)[:, 2].max() < 1e-20
    assert np.isfinite(probe.decision_function(problem.space)).all()
    assert set(probe.predict(problem.space)) == {0, 1, 3, 4}


def test_unlabeled_images_and_texts_are_not_looked_at(problem, labels):
    probe = LabelProbe().fit(problem.space, labels)
    kept = np.flatnonzero(labels >= 0)
    other = dataclasses.replace(
        problem.space[kept], text_features=np.roll(problem.space.text_features, 1, axis=0)
    )
    again = LabelProbe().fit(other, labels[kept])
    np.testing.assert_array_equal(
        probe.predict_proba(problem.space), again.predict_proba(problem.space)
    )


def test_names_and_indices_are_the_same_labels(problem, labels):
    order = [3, 0, 4, 2, 1]
    space = dataclasses.replace(problem.space, class_names=[f"class {c}" for c in order])
    by_index = LabelProbe().fit(space, labels)
    by_name = LabelProbe().fit(space, [None if c < 0 else f"class {order[c]}" for c in labels])
    assert by_name.classes_.tolist() == [f"class {c}" for c in range(5)]
    names = np.array(space.class_names)
    assert by_name.predict(space).tolist() == names[by_index.predict(space)].tolist()
    np.testing.assert_allclose(
        by_name.predict_proba(space)[:, order], by_index.predict_proba(space), atol=1e-9
    )


def test_few_labels_beat_vague_texts_on_new_images():
    problem = make_concept_space(
        400, 5, 32, n_mismatched=0, text_noise=1.5, logit_scale=30.0, random_state=0
    )
    old, new = problem.space[:200], problem.space[200:]
    probe = LabelProbe().fit(old, problem.target[:200])
    zero_shot = ZeroShotClassifier().fit(old)
    target = problem.target[200:]
    assert probe.score(new, target) > zero_shot.score(new, target) + 0.1


def test_the_estimator_is_copied_and_can_be_searched(problem):
    given = KNeighborsClassifier()
    search = GridSearchCV(LabelProbe(given), {"estimator__n_neighbors": [100, 1]}, cv=2)
    search.fit(problem.space, problem.target)
    assert search.best_params_ == {"estimator__n_neighbors": 1}
    assert search.best_estimator_.estimator_.n_neighbors == 1
    assert given.n_neighbors == 5
    assert not hasattr(given, "classes_")


def test_images_and_a_space_of_them_give_the_same():
    digits = load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=digits.class_names)
    space = encoder.fit_transform(digits.images)
    by_images = LabelProbe(backbone="glyph", class_names=digits.class_names)
    by_images.fit(digits.images, digits.target)
    np.testing.assert_array_equal(
        by_images.predict(digits.images), LabelProbe().fit(space, digits.target).predict(space)
    )
    again = pickle.loads(pickle.dumps(by_images))
    np.testing.assert_array_equal(
        again.predict_proba(digits.images), by_images.predict_proba(digits.images)
    )


def test_labels_of_fewer_than_two_classes_are_refused(problem):
    with pytest.raises(LabelError, match="requires y to be passed"):
        LabelProbe().fit(problem.space)
    with pytest.raises(LabelError, match="at least 2 classes, got no labeled image"):
        LabelProbe().fit(problem.space, np.full(200, -1))
    name = problem.space.class_names[3]
    with pytest.raises(LabelError, match=f"got 1 class, {name!r}"):
        LabelProbe().fit(problem.space, np.where(problem.target == 3, 3, -1))


def test_an_estimator_without_probabilities_is_refused(problem):
    with pytest.raises(ValueError, match=r"predict_proba, got LinearSVC\(\)"):
        LabelProbe(LinearSVC()).fit(problem.space, problem.target)
    with pytest.raises(InvalidParameterError, match="'estimator' parameter"):
        LabelProbe("logistic").fit(problem.space, problem.target)


def test_features_of_another_backbone_are_refused(problem):
    space = dataclasses.replace(problem.space, backbone="a", backbone_id="0" * 64)
    probe = LabelProbe().fit(space, problem.target)
    with pytest.raises(BackboneMismatchError, match="fingerprint 000000000000"):
        probe.predict(dataclasses.replace(space, backbone_id="1" * 64))
