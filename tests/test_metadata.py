"""Class names and labels: where they are given, what scikit-learn does to them on the way."""

from functools import partial

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline

from capkit import CAPClassifier, CLIPEncoder, MarginCalibrator
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import load_digits
from capkit.exceptions import ClassNamesError, LabelError
from capkit.model_selection import LabeledKFold
from capkit.tuning import AdapterTuning

NAMES = ["ring", "bar", "cross", "dot"]  # not in alphabetical order
SHORT = {"tuning": AdapterTuning(epochs=1, steps_per_epoch=2), "random_state": 0}
# With fewer images than this trains with by default.
PAPER = {**SHORT, "pseudo_labels": "zero_shot"}
INDICES = [0, 1, 2, 3, 0, 1, 2, 3] + [-1] * 8

# Said of trainings that are cut short on purpose, or of images that are noise.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(params=["zero-shot", "ul", "ssl", "trzsl"])
def classifier(request, random_backbone):
    if request.param == "zero-shot":
        return ZeroShotClassifier(backbone=random_backbone)
    return CAPClassifier(request.param, backbone=random_backbone, **PAPER)


def labels_for(classifier):
    """Indices that the classifier can use: `trzsl` wants classes without a label."""
    if getattr(classifier, "paradigm", None) == "trzsl":
        return [label if label < 2 else -1 for label in INDICES]
    return INDICES


# -- class names


def test_class_names_may_be_given_in_either_place(classifier, images):
    y = labels_for(classifier)
    at_fit = clone(classifier).fit(images, y, class_names=NAMES)
    at_construction = clone(classifier).set_params(class_names=NAMES).fit(images, y)
    assert at_fit.class_names_ == at_construction.class_names_ == tuple(NAMES)
    np.testing.assert_array_equal(
        at_fit.predict_proba(images), at_construction.predict_proba(images)
    )


@pytest.mark.parametrize("routing", [False, True])
def test_a_search_passes_class_names_on(routing, images, random_backbone):
    search = GridSearchCV(
        CAPClassifier("ssl", backbone=random_backbone, **PAPER), {"m": [1, 2]}, cv=LabeledKFold(2)
    )
    with config_context(enable_metadata_routing=routing):
        search.fit(images, INDICES, class_names=NAMES)
    assert search.best_estimator_.class_names_ == tuple(NAMES)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("routing", [False, True])
def test_a_pipeline_passes_class_names_on(routing, images, random_backbone):
    pipeline = Pipeline(
        [
            ("encode", CLIPEncoder(random_backbone)),
            ("calibrate", MarginCalibrator(tau=0)),
            ("cap", CAPClassifier("ssl", **PAPER)),
        ]
    )
    argument = "class_names" if routing else "encode__class_names"
    with config_context(enable_metadata_routing=routing):
        pipeline.fit(images, INDICES, **{argument: NAMES})
        scores = cross_val_score(
            pipeline, images, INDICES, cv=LabeledKFold(2), params={argument: NAMES}
        )
    assert pipeline["cap"].class_names_ == tuple(NAMES)
    assert pipeline.classes_.tolist() == [0, 1, 2, 3]
    assert np.isfinite(scores).all()


AS_LONG_AS_THE_IMAGES = [f"class {index}" for index in range(16)]


@pytest.mark.parametrize(
    "container", [list, tuple, np.array, lambda names: dict(enumerate(names))]
)
@pytest.mark.parametrize("nested", [False, True])
def test_class_names_that_were_cut_are_refused(container, nested, images, random_backbone):
    search = GridSearchCV(
        ZeroShotClassifier(backbone=random_backbone, encoder=CLIPEncoder()),
        {"encoder__template": ["{}"]},
        cv=KFold(2),
        error_score="raise",
    )
    params = {"class_names": container(AS_LONG_AS_THE_IMAGES)}
    if nested:
        run = partial(cross_val_score, search, params=params, cv=2, error_score="raise")
    else:
        run = partial(search.fit, **params)
    with pytest.raises(ClassNamesError, match="Pass class_names to the constructor instead"):
        run(images, INDICES)


def test_class_names_of_the_constructor_are_never_cut(images, random_backbone):
    classifier = ZeroShotClassifier(
        backbone=random_backbone, class_names=AS_LONG_AS_THE_IMAGES, encoder=CLIPEncoder()
    )
    cv = KFold(2, shuffle=True, random_state=0)
    search = GridSearchCV(classifier, {"encoder__template": ["{}"]}, cv=cv, error_score="raise")
    search.fit(images, AS_LONG_AS_THE_IMAGES)
    assert search.best_estimator_.class_names_ == tuple(AS_LONG_AS_THE_IMAGES)


def test_a_fold_that_misses_a_class_knows_it(classifier, images):
    seen = np.array([label if label < 2 else -1 for label in INDICES])  # none of cross and dot
    y = np.array(NAMES, dtype=object)[seen]
    y[seen < 0] = None
    fitted = classifier.set_params(class_names=NAMES).fit(images, y)
    assert fitted.classes_.tolist() == sorted(NAMES)
    assert fitted.predict_proba(images).shape == (16, 4)


# -- labels

KINDS = {
    "indices": INDICES,
    "array of indices": np.array(INDICES),
    "indices and None": [None if label < 0 else label for label in INDICES],
    "floats and NaN": np.array([np.nan if label < 0 else label for label in INDICES]),
    "names and -1": [-1 if label < 0 else NAMES[label] for label in INDICES],
    "names and None": [None if label < 0 else NAMES[label] for label in INDICES],
    "array of names": np.array(["-1" if label < 0 else NAMES[label] for label in INDICES]),
    "objects": np.array([None if label < 0 else NAMES[label] for label in INDICES], dtype=object),
}


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_of_the_kind_of_y(kind, images, random_backbone):
    classifier = CAPClassifier("ssl", backbone=random_backbone, class_names=NAMES, **PAPER)
    by_index = clone(classifier).fit(images, INDICES)
    fitted = classifier.fit(images, KINDS[kind])
    named = "name" in kind or kind == "objects"
    expected = by_index.predict(images)
    probabilities = by_index.predict_proba(images)
    if named:
        expected = np.array(NAMES)[expected]
        probabilities = probabilities[:, np.argsort(NAMES)]
    assert fitted.classes_.tolist() == (sorted(NAMES) if named else [0, 1, 2, 3])
    assert fitted.n_features_in_ == 32
    np.testing.assert_array_equal(fitted.predict(images), expected)
    np.testing.assert_allclose(fitted.predict_proba(images), probabilities, rtol=1e-6)
    np.testing.assert_array_equal(
        fitted.classes_[fitted.predict_proba(images).argmax(axis=1)], expected
    )
    labeled = np.array(INDICES) >= 0
    hits = by_index.predict(images)[labeled] == np.array(INDICES)[labeled]
    assert fitted.score(images, KINDS[kind]) == hits.mean()


def test_without_y_predictions_are_names(images, random_backbone):
    classifier = CAPClassifier(backbone=random_backbone, class_names=NAMES, **PAPER).fit(images)
    assert set(classifier.predict(images)) <= set(NAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_takes_every_kind_of_y(kind, images, random_backbone):
    classifier = CAPClassifier("ssl", backbone=random_backbone, class_names=NAMES, **PAPER)
    search = GridSearchCV(classifier, {"m": [0, 12]}, cv=LabeledKFold(2)).fit(images, KINDS[kind])
    reference = GridSearchCV(classifier, {"m": [0, 12]}, cv=LabeledKFold(2)).fit(images, INDICES)
    for key in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(search.cv_results_[key], reference.cv_results_[key])


def test_the_length_of_y_is_checked(classifier, images):
    with pytest.raises(LabelError, match="label for each of 16 images, got 15"):
        classifier.fit(images, labels_for(classifier)[:-1], class_names=NAMES)


# -- labels that scikit-learn numbers anew before the classifier sees them


@pytest.mark.parametrize("kind", ["array of indices", "array of names"])
def test_renumbered_labels_are_refused_where_images_are_unlabeled(kind, classifier, images):
    y = KINDS[kind]
    if getattr(classifier, "paradigm", None) == "trzsl":
        y = np.where(np.array(INDICES) < 2, y, np.array(-1).astype(y.dtype))
    classifier.set_params(class_names=NAMES)
    renumbered = "number (them|all labels) anew"
    with pytest.raises(LabelError, match=renumbered):
        cross_val_predict(
            classifier,
            images,
            y,
            cv=KFold(2, shuffle=True, random_state=0),
            method="predict_proba",
        )
    with pytest.raises(LabelError, match=renumbered):
        VotingClassifier([("one", classifier)]).fit(images, y)


def test_cross_val_predict_keeps_the_columns_of_names_without_y(images, random_backbone):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    predicted = cross_val_predict(classifier, images, cv=KFold(2), method="predict_proba")
    np.testing.assert_allclose(predicted, classifier.fit(images).predict_proba(images), rtol=1e-5)
    assert classifier.classes_.tolist() == sorted(NAMES)


@pytest.mark.parametrize("names", [NAMES, sorted(NAMES)])
def test_cross_val_predict_keeps_the_columns_of_indices(names, images, random_backbone):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=names)
    y = [0, 1, 2, 3] * 4
    if names == NAMES:  # these integers could be positions of sorted names
        with pytest.raises(LabelError, match="y holds an integer for each image"):
            cross_val_predict(classifier, images, y, cv=2, method="predict_proba")
        return
    predicted = cross_val_predict(classifier, images, y, cv=2, method="predict_proba")
    np.testing.assert_allclose(predicted, classifier.fit(images, y).predict_proba(images), 1e-5)


def test_indices_with_a_mark_are_no_positions(images, random_backbone):
    classifier = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    by_name = classifier.fit(images).predict(images)
    classifier.fit(images, [0, 1, 2, 3] * 3 + [0, 1, 2, -1])
    np.testing.assert_array_equal(np.array(NAMES)[classifier.predict(images)], by_name)


# -- names of images that the embedded model knows: the right answer comes out, or an error


@pytest.fixture(scope="module")
def digits():
    """200 images, the names of their classes, and all names in alphabetical order."""
    digits = load_digits(split="train")
    return (
        digits.images[:200],
        np.array(digits.class_names)[digits.target[:200]],
        sorted(digits.class_names),
    )


@pytest.fixture(params=["zero-shot", "ul"])
def unsupervised(request):
    if request.param == "zero-shot":
        return ZeroShotClassifier(backbone="glyph")
    return CAPClassifier("ul", backbone="glyph", **SHORT)


def by_probabilities(classifier, images, y):
    found = cross_val_predict(classifier, images, y, cv=2, method="predict_proba")
    return np.unique(y)[found.argmax(axis=1)]


def by_decisions(classifier, images, y):
    found = cross_val_predict(classifier, images, y, cv=2, method="decision_function")
    return np.unique(y)[found.argmax(axis=1)]


def calibrated(classifier, images, y):
    return CalibratedClassifierCV(classifier, ensemble=False, cv=2).fit(images, y).predict(images)


def voted(classifier, images, y):
    return VotingClassifier([("one", classifier)], voting="soft").fit(images, y).predict(images)


RENUMBERING = [by_probabilities, by_decisions, calibrated, voted]


@pytest.mark.parametrize("ask", RENUMBERING)
def test_renumbered_names_in_alphabetical_order_give_the_right_answer(ask, unsupervised, digits):
    images, y, names = digits
    alone = (unsupervised.set_params(class_names=names).fit(images, y).predict(images) == y).mean()
    assert alone > 0.7  # of ten classes
    found = (ask(unsupervised, images, y) == y).mean()
    assert found > 0.7
    if isinstance(unsupervised, ZeroShotClassifier) and ask is not calibrated:
        assert found == alone  # nothing is learned, so that the folds do not matter


@pytest.mark.parametrize("ask", RENUMBERING)
def test_renumbered_names_in_another_order_are_refused(ask, unsupervised, digits):
    images, y, names = digits
    unsupervised.set_params(class_names=[*names[1:], names[0]])
    with pytest.raises(LabelError, match="class_names in alphabetical order; or leave y out"):
        ask(unsupervised, images, y)


def test_names_that_are_passed_on_as_they_are_may_have_any_order(unsupervised, digits):
    images, y, names = digits
    unsupervised.set_params(class_names=[*names[1:], names[0]])
    found = cross_val_predict(unsupervised, images, y, cv=2)
    assert (found == y).mean() > 0.7
    ensemble = CalibratedClassifierCV(unsupervised, ensemble=True, cv=2).fit(images, y)
    assert (ensemble.predict(images) == y).mean() > 0.7
    assert ensemble.classes_.tolist() == names


def test_scores_of_indices_do_not_depend_on_the_order_of_names(unsupervised, digits):
    images, y, names = digits
    names = [*names[1:], names[0]]
    fitted = unsupervised.set_params(class_names=names).fit(images)
    indices = [names.index(name) for name in y]
    assert fitted.score(images, indices) == fitted.score(images, y) > 0.7
