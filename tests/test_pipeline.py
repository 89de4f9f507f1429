"""Pipelines of capkit's stages and of scikit-learn's, and what every estimator owes to them."""

import copy
import io
import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_html_repr, get_tags, resample

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    ConceptSpace,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.baselines import ZeroShotClassifier
from capkit.exceptions import LabelError
from capkit.feature_store import _process_store
from capkit.tuning import AdapterTuning
from capkit.tuning.choosing import TUNINGS

NAMES = ["ring", "bar", "cross", "dot"]
SHORT = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 4}
LABELS = np.array([0, 1, 2, 3] * 3 + [-1] * 8)
TRUTH = np.arange(20) % 4

# Said of trainings that are cut short on purpose, or of images that are noise.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def encoder(random_backbone):
    return CLIPEncoder(random_backbone, class_names=NAMES)


def make_cap(tuning="prompt", **parameters):
    """Classifier with a short training, for which by default these images would be too few."""
    settings = {"pseudo_labels": "zero_shot", "random_state": 0, **parameters}
    return CAPClassifier(tuning=TUNINGS[tuning](**SHORT), **settings)


def all_stages(backbone, **parameters):
    """Pipeline whose stages have t, tau and m of their own."""
    return Pipeline(
        [
            ("encode", CLIPEncoder(backbone, class_names=NAMES)),
            ("detect", MismatchDetector(t=2, random_state=0)),
            ("align", ConceptAligner()),
            ("calibrate", MarginCalibrator(tau=0.25, m=5)),
            ("cap", make_cap(**parameters)),
        ]
    )


# -- one code, two ways


@pytest.mark.parametrize("paradigm", ["ul", "ssl"])
@pytest.mark.parametrize("tuning", ["adapter", "prompt"])
def test_pipeline_and_classifier_alone_agree(paradigm, tuning, images, random_backbone):
    settings = {"paradigm": paradigm, "tuning": tuning}
    pipeline = all_stages(random_backbone, **settings).fit(images, LABELS)
    alone = make_cap(
        backbone=random_backbone, class_names=NAMES, t=2, tau=0.25, m=5, **settings
    ).fit(images, LABELS)
    np.testing.assert_array_equal(pipeline.predict_proba(images), alone.predict_proba(images))
    np.testing.assert_array_equal(pipeline.transform(images), alone.transform(images))
    last = pipeline[-1]
    assert last.mismatched_names_ == alone.mismatched_names_
    assert last.history_ == alone.history_
    for name in (
        "mismatched_",
        "margin_matrix_",
        "pseudo_labels_",
        "main_labels_",
        "text_features_",
    ):
        np.testing.assert_array_equal(getattr(last, name), getattr(alone, name))


def test_any_part_of_the_stages_may_stand_before_the_classifier(images, random_backbone):
    settings = {"tuning": "adapter", "tau": 0.25}
    alone = make_cap(backbone=random_backbone, class_names=NAMES, **settings).fit(images)
    expected = alone.predict_proba(images)
    stages = [
        CLIPEncoder(random_backbone, class_names=NAMES),
        MismatchDetector(random_state=0),
        ConceptAligner(),
    ]
    for n_stages in (1, 2, 3):
        pipeline = make_pipeline(*stages[:n_stages], make_cap(**settings)).fit(images)
        np.testing.assert_array_equal(pipeline.predict_proba(images), expected)


# -- parameters


def test_nested_parameters_reach_the_stage(images, random_backbone):
    classifier = make_cap(
        backbone=random_backbone,
        class_names=NAMES,
        encoder=CLIPEncoder(),
        detector=MismatchDetector(),
        tuning="adapter",
    )
    classifier.set_params(
        encoder__template="a drawing of a {}",
        detector__t=2,
        detector__recluster="scratch",
        tuning__epochs=1,
    )
    classifier.fit(images)
    assert classifier.detector_.t_ == 2
    assert classifier.detector_.recluster == "scratch"
    assert len(classifier.history_) == 1
    encoder = CLIPEncoder(random_backbone, class_names=NAMES, template="a drawing of a {}")
    detected = MismatchDetector(t=2, recluster="scratch", random_state=0)
    space = make_pipeline(encoder, detected, ConceptAligner()).fit_transform(images)
    # Adapters leave the classes' features as they are.
    np.testing.assert_array_equal(classifier.text_features_, space.text_features)


def test_nested_parameters_of_a_pipeline(random_backbone):
    pipeline = all_stages(random_backbone)
    pipeline.set_params(detect__t=3, cap__tuning=AdapterTuning(), cap__tuning__epochs=3, cap__m=4)
    assert pipeline["detect"].t == 3
    assert pipeline["cap"].tuning.epochs == 3
    assert pipeline.get_params()["cap__m"] == 4
    with pytest.raises(ValueError, match="Invalid parameter 'tt' for estimator MismatchDetector"):
        pipeline.set_params(detect__tt=3)


def test_parameters_without_effect_are_named(images, random_backbone):
    pipeline = all_stages(random_backbone, tuning="adapter", m=3)
    with pytest.warns(UserWarning, match="m=3 has no effect: the MarginCalibrator before"):
        pipeline.fit(images)


# -- steps of scikit-learn behind ours


def test_a_classifier_of_scikit_learn_behind_the_encoder(encoder, images):
    features = np.asarray(encoder.fit_transform(images))
    probe = make_pipeline(encoder, LogisticRegression()).fit(images, TRUTH)
    expected = LogisticRegression().fit(features, TRUTH)
    np.testing.assert_allclose(
        probe.predict_proba(images), expected.predict_proba(features), rtol=1e-5
    )


def test_pca_and_kmeans_behind_the_stages(encoder, images):
    space = encoder.fit_transform(images)
    reduced = make_pipeline(encoder, MismatchDetector(random_state=0), PCA(3, random_state=0))
    np.testing.assert_allclose(
        reduced.fit_transform(images), PCA(3, random_state=0).fit_transform(space), atol=1e-6
    )
    clusters = make_pipeline(encoder, KMeans(3, n_init=1, random_state=0))
    expected = KMeans(3, n_init=1, random_state=0).fit_predict(np.asarray(space))
    np.testing.assert_array_equal(clusters.fit_predict(images), expected)


@pytest.mark.parametrize("ensemble", [False, True])
def test_calibration_around_a_pipeline(ensemble, encoder, images):
    calibrated = CalibratedClassifierCV(
        make_pipeline(encoder, LogisticRegression()), cv=2, ensemble=ensemble
    ).fit(images, np.array(NAMES)[TRUTH])
    assert calibrated.classes_.tolist() == sorted(NAMES)
    np.testing.assert_allclose(calibrated.predict_proba(images).sum(axis=1), 1)


def test_calibration_around_a_classifier_of_images(images, random_backbone):
    zero_shot = ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    calibrated = CalibratedClassifierCV(zero_shot, cv=2).fit(images, np.array(NAMES)[TRUTH])
    assert calibrated.classes_.tolist() == sorted(NAMES)
    fitted = calibrated.calibrated_classifiers_[0].estimator
    assert fitted.classes_.tolist() == sorted(NAMES)


def test_cross_val_predict_of_a_pipeline(encoder, images):
    probe = make_pipeline(encoder, LogisticRegression())
    space = encoder.fit_transform(images)
    for method in ("predict", "predict_proba"):
        np.testing.assert_allclose(
            cross_val_predict(probe, images, TRUTH, cv=2, method=method),
            cross_val_predict(LogisticRegression(), np.asarray(space), TRUTH, cv=2, method=method),
            rtol=1e-4,
        )


class Labeled(torch.utils.data.Dataset):
    """What torchvision's data sets are: items of an image and a label."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), 0


def paths_of(images, folder):
    paths = [folder / f"{row:02}.png" for row in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.mark.parametrize(
    "given_as",
    [
        lambda images, folder: list(images),
        lambda images, folder: [Image.fromarray(image) for image in images],
        paths_of,
        lambda images, folder: np.array([str(path) for path in paths_of(images, folder)]),
        lambda images, folder: pytest.importorskip("pandas").Series(paths_of(images, folder)),
        lambda images, folder: torch.from_numpy(images).permute(0, 3, 1, 2),
        lambda images, folder: Labeled(images),
    ],
    ids=["arrays", "PIL", "paths", "array of str", "pandas", "tensor", "Dataset"],
)
def test_all_kinds_of_images_are_cut_by_cross_validation(given_as, images, tmp_path, encoder):
    probe = make_pipeline(encoder, LogisticRegression())
    np.testing.assert_array_equal(
        cross_val_predict(probe, given_as(images, tmp_path), TRUTH, cv=2),
        cross_val_predict(probe, images, TRUTH, cv=2),
    )


def test_scikit_learn_cuts_a_space_by_rows(encoder, images):
    space = encoder.fit_transform(images)
    train, test, y_train, _ = train_test_split(space, TRUTH, test_size=0.25, random_state=0)
    assert isinstance(train, ConceptSpace) and isinstance(test, ConceptSpace)
    assert sorted([*train.sample_indices, *test.sample_indices]) == list(range(20))
    np.testing.assert_array_equal(y_train, TRUTH[train.sample_indices])
    np.testing.assert_array_equal(train.image_features, space.image_features[train.sample_indices])
    assert np.array_equal(np.asarray(train.images[0]), images[train.sample_indices[0]])
    drawn = resample(space, n_samples=30, random_state=0)
    assert drawn.shape == (30, 32)
    truth = np.array(NAMES)[TRUTH]
    predicted = cross_val_predict(make_cap("adapter"), space, truth, cv=2)
    assert set(predicted) <= set(NAMES)


def test_positions_in_place_of_labels_are_refused_or_are_the_labels(images, random_backbone):
    # Names: scikit-learn passes their positions in sorted order as integers.
    truth = np.array(NAMES)[TRUTH]
    classifier = make_cap("adapter", backbone=random_backbone, class_names=NAMES)
    with pytest.raises(LabelError, match=r"Pass names, .* class_names in alphabetical order"):
        cross_val_predict(classifier, images, truth, cv=2, method="predict_proba")
    classifier.set_params(class_names=sorted(NAMES))
    found = cross_val_predict(classifier, images, truth, cv=2, method="predict_proba")
    for train, test in StratifiedKFold(2).split(images, truth):
        fitted = clone(classifier).fit(images[train], truth[train])
        assert fitted.classes_.tolist() == sorted(NAMES)
        np.testing.assert_allclose(found[test], fitted.predict_proba(images[test]), rtol=1e-4)


# -- output containers and names of columns


def test_pandas_output_behind_the_stages(images, random_backbone):
    pandas = pytest.importorskip("pandas")
    pipeline = all_stages(random_backbone, tuning="adapter").set_output(transform="pandas")
    frame = pipeline.fit(images).transform(images)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.columns.tolist() == [f"capclassifier{column}" for column in range(32)]
    assert frame.columns.tolist() == pipeline.get_feature_names_out().tolist()
    np.testing.assert_array_equal(
        frame.to_numpy(), pipeline["cap"].transform(pipeline[:-1].transform(images))
    )


def test_a_global_setting_leaves_spaces_alone(encoder, images):
    pandas = pytest.importorskip("pandas")
    with config_context(transform_output="pandas"):
        pipeline = make_pipeline(encoder, MismatchDetector(random_state=0), PCA(2))
        frame = pipeline.fit_transform(images)
        assert isinstance(pipeline[:-1].transform(images), ConceptSpace)
    assert isinstance(frame, pandas.DataFrame)
    assert frame.columns.tolist() == ["pca0", "pca1"]


def test_columns_of_a_pipeline_that_ends_in_a_stage(encoder, images):
    pipeline = make_pipeline(encoder, MismatchDetector(random_state=0)).fit(images)
    names = [f"clipencoder{column}" for column in range(32)]
    assert pipeline.get_feature_names_out().tolist() == names


# -- how they look


def test_a_pipeline_is_drawn_with_every_stage(random_backbone, images):
    pipeline = all_stages(random_backbone, tuning="adapter")
    for drawn in (estimator_html_repr(pipeline), estimator_html_repr(pipeline.fit(images))):
        for name in ("CLIPEncoder", "MismatchDetector", "ConceptAligner", "CAPClassifier"):
            assert name in drawn
    assert "capkit" not in repr(pipeline["encode"].set_params(backbone="glyph", class_names=None))


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (CLIPEncoder(), "CLIPEncoder()"),
        (MismatchDetector(t=3), "MismatchDetector(t=3)"),
        (ConceptAligner(), "ConceptAligner()"),
        (MarginCalibrator(m=14), "MarginCalibrator(m=14)"),
        (ZeroShotClassifier(), "ZeroShotClassifier()"),
        (CAPClassifier("ssl", tau=0.5), "CAPClassifier(paradigm='ssl', tau=0.5)"),
    ],
)
def test_repr_shows_what_was_changed(estimator, expected):
    assert repr(estimator) == expected


# -- copies, files, and the order of images


@pytest.fixture(params=["zero-shot", "adapter", "prompt", "pipeline"])
def classifier(request, random_backbone):
    if request.param == "zero-shot":
        return ZeroShotClassifier(backbone=random_backbone, class_names=NAMES)
    if request.param == "pipeline":
        return all_stages(random_backbone, tuning="adapter")
    return make_cap(request.param, backbone=random_backbone, class_names=NAMES)


def by_joblib(estimator):
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


@pytest.mark.parametrize(
    "duplicate", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy, by_joblib]
)
def test_copies_of_a_fitted_estimator_predict_the_same(classifier, duplicate, images):
    classifier.fit(images)
    expected = classifier.predict_proba(images)
    again = duplicate(classifier)
    np.testing.assert_array_equal(again.predict_proba(images), expected)
    assert len(pickle.dumps(classifier)) < 2_000_000  # the backbone alone has more


def test_a_clone_is_not_fitted_and_fits_the_same(classifier, images):
    classifier.fit(images)
    again = clone(classifier)
    assert not hasattr(again, "classes_")
    np.testing.assert_array_equal(
        again.fit(images).predict_proba(images), classifier.predict_proba(images)
    )


@pytest.mark.parametrize("stage", range(1, 5))
def test_stages_are_copied_with_what_they_learned(stage, images, random_backbone):
    stages = all_stages(random_backbone)[:stage].fit(images)
    expected = stages.transform(images)
    for again in (pickle.loads(pickle.dumps(stages)), copy.deepcopy(stages), by_joblib(stages)):
        space = again.transform(images)
        np.testing.assert_array_equal(space.image_features, expected.image_features)
        np.testing.assert_array_equal(space.text_features, expected.text_features)
    assert joblib.hash(pickle.loads(pickle.dumps(expected))) == joblib.hash(expected)


def test_a_read_only_memmap_gives_what_the_array_gives(classifier, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    expected = classifier.fit(images).predict_proba(images)
    np.testing.assert_array_equal(clone(classifier).fit(mapped).predict_proba(mapped), expected)
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of tensors made of read-only memory
        loaded = joblib.load(tmp_path / "classifier.joblib", mmap_mode="r")
        np.testing.assert_array_equal(loaded.predict_proba(mapped), expected)


def test_a_prediction_depends_on_its_image_alone(classifier, images):
    classifier.fit(images)
    expected = classifier.predict_proba(images)
    order = np.random.default_rng(0).permutation(len(images))
    for rows in (order, order[:7], order[:1]):
        _process_store.cache_clear()  # else the features were not encoded again
        np.testing.assert_allclose(
            classifier.predict_proba(images[rows]), expected[rows], rtol=1e-3, atol=1e-5
        )


# -- what the estimators say of themselves


@pytest.mark.parametrize(
    "estimator",
    [
        CLIPEncoder(),
        MismatchDetector(),
        ConceptAligner(),
        MarginCalibrator(),
        ZeroShotClassifier(),
        CAPClassifier(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_tags_say_that_input_is_no_matrix(estimator):
    tags = get_tags(estimator)
    assert not tags.input_tags.two_d_array
    assert not tags.input_tags.sparse
    assert not tags.no_validation
    assert not tags.target_tags.required
    if tags.transformer_tags is not None:
        assert tags.transformer_tags.preserves_dtype == []
    with pytest.raises((TypeError, ValueError)):
        estimator.fit(np.zeros((4, 3)))


@pytest.mark.parametrize("paradigm", ["ssl", "trzsl"])
def test_tags_say_which_paradigms_need_labels(paradigm):
    assert get_tags(CAPClassifier(paradigm)).target_tags.required
