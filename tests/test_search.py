"""Searches over t, tau and m: of CAPClassifier, of pipelines, nested, in every paradigm."""

import os
import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
)
from sklearn.pipeline import Pipeline

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.datasets import load_digits
from capkit.metrics import get_scorer
from capkit.model_selection import LabeledKFold
from capkit.tuning import AdapterTuning, PromptTuning

NAMES = ["ring", "bar", "cross", "dot"]
SHORT = {"tuning": AdapterTuning(epochs=1, steps_per_epoch=2), "random_state": 0}
# With fewer images than this trains with by default.
PAPER = {**SHORT, "pseudo_labels": "zero_shot"}
N_IMAGES = 24
LABELS = np.array([*range(4), *range(4), *range(4)] + [-1] * 12)

# Said of trainings that are cut short on purpose, or of images that are noise.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")

OF_CLASSIFIER = {"t": [1, 2], "tau": [0.25, 0.3], "m": [0, 12]}
OF_PIPELINE = {
    "detect__t": [1, 2],
    "calibrate__tau": [0.25, 0.3],
    "calibrate__m": [0, 12],
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (N_IMAGES, 32, 32, 3), dtype=np.uint8)


def make_pipeline(backbone, memory=None, **parameters):
    steps = [
        ("encode", CLIPEncoder(backbone, class_names=NAMES)),
        ("detect", MismatchDetector(random_state=0)),
        ("align", ConceptAligner()),
        ("calibrate", MarginCalibrator(tau=0.25)),
        ("cap", CAPClassifier(**{"paradigm": "ssl", **PAPER, **parameters})),
    ]
    return Pipeline(steps, memory=memory)


@pytest.fixture(params=["classifier", "pipeline"])
def candidate(request, random_backbone):
    """Estimator and grid."""
    if request.param == "pipeline":
        return make_pipeline(random_backbone), OF_PIPELINE
    classifier = CAPClassifier("ssl", backbone=random_backbone, class_names=NAMES, **PAPER)
    return classifier, OF_CLASSIFIER


@pytest.fixture
def counted_fits(monkeypatch):
    """Number of images of each fit of a detector."""
    fits, fit = [], MismatchDetector.fit

    def counting(self, X, y=None):
        fits.append(len(X))
        return fit(self, X, y)

    monkeypatch.setattr(MismatchDetector, "fit", counting)
    return fits


# -- every kind of search


SEARCHES = {
    "grid": (GridSearchCV, {}),
    "random": (RandomizedSearchCV, {"n_iter": 3, "random_state": 0}),
    "halving": (HalvingGridSearchCV, {"min_resources": 1, "max_resources": 4, "factor": 3}),
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_search_encodes_each_image_once(kind, candidate, images, encoded_images):
    estimator, grid = candidate
    search_class, settings = SEARCHES[kind]
    if kind == "halving":
        prefix = "cap__" if "detect__t" in grid else ""
        settings = {**settings, "resource": f"{prefix}tuning__steps_per_epoch"}
    search = search_class(estimator, grid, cv=LabeledKFold(2), error_score="raise", **settings)
    search.fit(images, LABELS)
    assert set(search.best_params_) >= set(grid)
    assert search.predict(images).shape == (N_IMAGES,)
    assert sum(encoded_images) == N_IMAGES


def test_cross_val_score_encodes_each_image_once(candidate, images, encoded_images):
    scores = cross_val_score(candidate[0], images, LABELS, cv=LabeledKFold(3), error_score="raise")
    assert ((scores >= 0) & (scores <= 1)).all()
    assert sum(encoded_images) == N_IMAGES


def test_halving_over_the_number_of_images(images, random_backbone):
    classifier = CAPClassifier("ul", backbone=random_backbone, class_names=NAMES, **PAPER)
    search = HalvingGridSearchCV(
        classifier,
        {"m": [0, 12], "tau": [0.25]},
        cv=2,
        scoring=get_scorer("infomax"),
        min_resources=8,
        factor=2,
        random_state=0,
        error_score="raise",
    )
    search.fit(images)
    assert search.n_resources_ == [8, 16]


def test_candidates_differ_by_what_is_searched(images, random_backbone):
    classifier = CAPClassifier("ssl", backbone=random_backbone, class_names=NAMES, **PAPER)
    search = GridSearchCV(classifier, OF_CLASSIFIER, cv=LabeledKFold(2)).fit(images, LABELS)
    best = search.best_estimator_
    for name, value in search.best_params_.items():
        assert getattr(best, name) == value
    assert best.calibrator_.tau == search.best_params_["tau"]
    assert best.calibrator_.m == search.best_params_["m"]
    assert best.detector_.t_ == search.best_params_["t"]


def test_nested_parameters_are_searched(images, random_backbone):
    classifier = CAPClassifier(
        "ssl", backbone=random_backbone, class_names=NAMES, encoder=CLIPEncoder(), **PAPER
    )
    grid = {
        "tuning__adapter_weight": [0.1, 0.9],
        "tuning__steps_per_epoch": [3],
        "encoder__template": ["{}", "a drawing of a {}"],
    }
    search = GridSearchCV(
        classifier, grid, cv=LabeledKFold(2), scoring="neg_log_loss", error_score="raise"
    ).fit(images, LABELS)
    best = search.best_estimator_
    assert best.tuning_.adapter_weight == search.best_params_["tuning__adapter_weight"]
    assert best.tuning_.steps_per_epoch == 3
    assert best.encoder.template == search.best_params_["encoder__template"]
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    assert classifier.tuning.steps_per_epoch == 2  # the searched one is as it was


def test_ways_of_tuning_are_searched(images, random_backbone):
    classifier = CAPClassifier("ssl", backbone=random_backbone, class_names=NAMES, **PAPER)
    ways = [
        AdapterTuning(epochs=1, steps_per_epoch=2),
        PromptTuning(epochs=1, steps_per_epoch=2, batch_size=4),
    ]
    search = GridSearchCV(
        classifier, {"tuning": ways}, cv=LabeledKFold(2), error_score="raise"
    ).fit(images, LABELS)
    assert type(search.best_estimator_.tuning_) is type(search.best_params_["tuning"])


def test_a_backbone_is_loaded_once(candidate, images, monkeypatch, tmp_path):
    from capkit.backbones import loading

    estimator, grid = candidate
    name = "encode__backbone" if "detect__t" in grid else "backbone"
    original = estimator.get_params()[name]
    for file in Path(original).parent.iterdir():  # a model that nothing has loaded before
        shutil.copy(file, tmp_path)
    loads, build = [], loading.build_backbone

    def counting(files, *arguments):
        loads.append(files.name)
        return build(files, *arguments)

    monkeypatch.setattr(loading, "build_backbone", counting)
    estimator.set_params(**{name: str(tmp_path / Path(original).name)})
    GridSearchCV(estimator, grid, cv=LabeledKFold(2)).fit(images, LABELS)
    assert len(loads) == 1


# -- several processes


def accuracy_and_backbone(estimator, X, y):
    """The score, the process, and which object the backbone is there."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    return {
        "accuracy": estimator.score(X, y),
        "process": os.getpid(),
        "backbone": id(last.backbone_),
    }


def test_processes_give_the_same_and_load_the_backbone_once_each(candidate, images):
    estimator, grid = candidate
    results = {}
    for n_jobs in (1, 2):
        search = GridSearchCV(
            estimator,
            grid,
            cv=LabeledKFold(2),
            scoring=accuracy_and_backbone,
            refit=False,
            n_jobs=n_jobs,
            error_score="raise",
        )
        results[n_jobs] = search.fit(images, LABELS).cv_results_
    for split in range(2):
        key = f"split{split}_test_accuracy"
        np.testing.assert_array_equal(results[1][key], results[2][key])
    seen = {}
    for split in range(2):
        for process, backbone in zip(
            results[2][f"split{split}_test_process"],
            results[2][f"split{split}_test_backbone"],
            strict=True,
        ):
            assert process != os.getpid()
            seen.setdefault(process, set()).add(backbone)
    assert all(len(backbones) == 1 for backbones in seen.values())


def test_threads_give_the_same(images, random_backbone):
    classifier = CAPClassifier(
        "ssl",
        backbone=random_backbone,
        class_names=NAMES,
        tuning=PromptTuning(augment="crop", epochs=1, steps_per_epoch=2, batch_size=4),
        pseudo_labels="zero_shot",
        random_state=0,
    )
    scores = []
    for backend, n_jobs in (("sequential", 1), ("threading", 4)):
        with joblib.parallel_config(backend, n_jobs=n_jobs):
            search = GridSearchCV(
                classifier,
                {"tuning__learning_rate": [0.01, 0.5]},
                cv=LabeledKFold(2),
                scoring="neg_log_loss",
                error_score="raise",
                refit=False,
            ).fit(images, LABELS)
        scores.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*scores)


# -- pipelines with memory


def test_memory_spares_what_did_not_change(images, random_backbone, tmp_path, counted_fits):
    transforms, transform = [], CLIPEncoder.transform
    pipeline = make_pipeline(random_backbone, memory=str(tmp_path))
    grid = {key: OF_PIPELINE[key] for key in ("calibrate__tau", "calibrate__m")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CLIPEncoder,
            "transform",
            lambda self, X: transforms.append(len(X)) or transform(self, X),
        )
        search = GridSearchCV(pipeline, grid, cv=LabeledKFold(2), error_score="raise")
        search.fit(images, LABELS)
    # four candidates, and the best one again; two training parts and all images
    n_training = sorted(len(train) for train, _ in LabeledKFold(2).split(images, LABELS))
    assert sorted(counted_fits) == sorted([*n_training, N_IMAGES])
    n_scored = 4 * [len(test) for _, test in LabeledKFold(2).split(images, LABELS)]
    assert sorted(transforms) == sorted([*n_training, N_IMAGES, *n_scored])


def test_memory_changes_no_result(images, random_backbone, tmp_path):
    plain = make_pipeline(random_backbone).fit(images, LABELS).predict_proba(images)
    for _ in range(2):  # computed, then read back
        pipeline = make_pipeline(random_backbone, memory=str(tmp_path)).fit(images, LABELS)
        np.testing.assert_array_equal(pipeline.predict_proba(images), plain)


def test_nested_search_in_a_pipeline_with_memory(
    images, random_backbone, tmp_path, counted_fits, encoded_images
):
    pipeline = make_pipeline(random_backbone, memory=str(tmp_path))
    inner = GridSearchCV(
        pipeline,
        {"calibrate__m": [0, 12], "align__n_descriptions": [1, 4]},
        cv=LabeledKFold(2),
        error_score="raise",
    )
    scores = cross_val_score(inner, images, LABELS, cv=LabeledKFold(2), error_score="raise")
    assert len(scores) == 2
    assert len(counted_fits) == 2 * (2 + 1)  # outer parts, each with two inner parts and itself
    assert sum(encoded_images) == N_IMAGES


# -- the embedded data, as the documentation shows it


@pytest.fixture(scope="module")
def digits():
    """80 images, half of them labeled."""
    digits = load_digits(split="train")
    digits.images, digits.target = digits.images[:80], digits.target[:80]
    digits.labels = np.where(np.arange(80) < 40, digits.target, -1)
    return digits


@pytest.mark.parametrize("paradigm", ["ul", "ssl"])
def test_a_search_scored_on_labels(paradigm, digits):
    images, y, names = digits.images, digits.labels, digits.class_names
    search = GridSearchCV(
        CAPClassifier(paradigm=paradigm, backbone="glyph", **SHORT),
        {"t": [1, 2], "tau": [0.5, 0.85], "m": [12]},
        cv=LabeledKFold(2),
        error_score="raise",
    )
    search.fit(images, y, class_names=names)
    assert search.best_score_ > 0.3  # of ten classes
    assert set(search.predict(images)) <= set(range(10))


def test_a_search_on_seen_and_unseen_classes(digits):
    seen, unseen = [0, 1, 2, 6, 7, 8, 9], [3, 4, 5]
    search = GridSearchCV(
        CAPClassifier(paradigm="trzsl", backbone="glyph", **SHORT),
        {"t": [1, 2], "tau": [0.5, 0.85], "m": [12]},
        cv=LabeledKFold(2, unseen_classes=unseen),
        scoring=get_scorer("harmonic_mean", seen_classes=seen),
        refit=False,  # on all labels, those of the unseen classes among them
        error_score="raise",
    )
    search.fit(digits.images, digits.labels, class_names=digits.class_names)
    scores = search.cv_results_["mean_test_score"]
    best = clone(search.estimator).set_params(**search.cv_results_["params"][scores.argmax()])
    best.fit(
        digits.images,
        np.where(np.isin(digits.labels, seen), digits.labels, -1),
        class_names=digits.class_names,
    )
    assert scores.max() > 0.1
    assert best.classes_.tolist() == list(range(10))


def test_fit_and_predict_in_one_line(digits):
    images, names, new_images = digits.images, digits.class_names, digits.images[:5]
    predicted = (
        CAPClassifier(paradigm="ul", backbone="glyph", **SHORT)
        .fit(images, class_names=names)
        .predict(new_images)
    )
    assert set(predicted) <= set(names)


def test_pipeline_of_all_stages(digits, tmp_path):
    pipeline = Pipeline(
        [
            ("encode", CLIPEncoder("glyph", class_names=digits.class_names)),
            ("detect", MismatchDetector()),
            ("align", ConceptAligner()),
            ("calibrate", MarginCalibrator()),
            ("cap", CAPClassifier(**SHORT)),
        ],
        memory=str(tmp_path),
    )
    assert pipeline.fit(digits.images).score(digits.images, digits.target) > 0.3
