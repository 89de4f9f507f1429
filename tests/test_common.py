"""scikit-learn's own checks over every estimator, through subclasses that read matrices."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from _harness import (
    RowCAPClassifier,
    RowCLIPEncoder,
    RowConceptAligner,
    RowCPLClassifier,
    RowFeatureEncoder,
    RowFixMatchClassifier,
    RowFPLClassifier,
    RowGaussianTransduction,
    RowGaussianTransductionClassifier,
    RowGRIPClassifier,
    RowLabelProbe,
    RowMarginCalibrator,
    RowMismatchDetector,
    RowTransCLIPClassifier,
    RowUPLClassifier,
    RowZeroShotClassifier,
    RowZLaPClassifier,
)
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_param_validation, parametrize_with_checks

from capkit.tuning import AdapterTuning, PromptTuning

OF_CLASSIFIERS = {
    "check_classifiers_classes": "a label of -1 marks an unlabeled image and is no class",
    "check_supervised_y_no_nan": "a label of NaN marks an unlabeled image",
}
TRAINED_PEERS = (
    RowFPLClassifier,
    RowUPLClassifier,
    RowGRIPClassifier,
    RowCPLClassifier,
    RowFixMatchClassifier,
)
EXPECTED_FAILURES: dict[type, dict[str, str]] = {
    RowMismatchDetector: {
        "check_transformer_n_iter": "max_iter bounds every K-Means: there is no one n_iter_",
    },
    RowZeroShotClassifier: OF_CLASSIFIERS,
    RowGaussianTransductionClassifier: OF_CLASSIFIERS,
    RowTransCLIPClassifier: OF_CLASSIFIERS,
    RowZLaPClassifier: OF_CLASSIFIERS,
    RowLabelProbe: {
        "check_classifiers_classes": OF_CLASSIFIERS["check_classifiers_classes"],
    },
    RowCAPClassifier: OF_CLASSIFIERS,
    **dict.fromkeys(TRAINED_PEERS, OF_CLASSIFIERS),
}

# A feature in float32 depends a little on the batch that it is computed in, and the logit scale
# multiplies that; the checks that compare batches ask for 1e-7 and 1e-9.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
ROUNDED = {
    estimator_checks.check_methods_subset_invariance,
    estimator_checks.check_methods_sample_order_invariance,
}

SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4}
# With fewer rows than this trains with by default.
PAPER = {"pseudo_labels": "zero_shot", "random_state": 0}

ESTIMATORS = [
    RowCLIPEncoder(),
    RowFeatureEncoder(),
    RowMismatchDetector(random_state=0),
    RowConceptAligner(random_state=0),
    RowMarginCalibrator(),
    RowGaussianTransduction(),
    RowZeroShotClassifier(),
    RowGaussianTransductionClassifier(),
    RowTransCLIPClassifier(),
    RowZLaPClassifier(),
    RowLabelProbe(),
    RowCAPClassifier(tuning=AdapterTuning(**SHORT), random_state=0),
    RowCAPClassifier(tuning=AdapterTuning(**SHORT), **PAPER),
    RowCAPClassifier(tuning=PromptTuning(**SHORT), **PAPER),
    *(peer(tuning=AdapterTuning(**SHORT), random_state=0) for peer in TRAINED_PEERS),
]


def expected_failures(estimator):
    return EXPECTED_FAILURES.get(type(estimator), {})


@pytest.fixture(scope="module")
def squashing_backbone(random_backbone, tmp_path_factory) -> str:
    """The random backbone, which here sees a row's whole image and not its middle alone."""
    source, folder = Path(random_backbone), tmp_path_factory.mktemp("squashing_backbone")
    config = json.loads(source.with_suffix(".json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (folder / "squashing.json").write_text(json.dumps(config))
    shutil.copy(source, folder / "squashing.pt")
    return str(folder / "squashing.pt")


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_conformity(estimator, check, squashing_backbone, monkeypatch):
    if "backbone" in estimator.get_params():
        estimator.set_params(backbone=squashing_backbone)
    if check.func in ROUNDED:
        for name in ("assert_allclose", "assert_allclose_dense_sparse"):
            monkeypatch.setattr(estimator_checks, name, assert_equal_up_to_rounding)
    check(estimator)


def assert_equal_up_to_rounding(actual, desired, *, err_msg="", **tighter):
    np.testing.assert_allclose(actual, desired, **TOLERANCE, err_msg=err_msg)


@pytest.mark.parametrize("estimator", ESTIMATORS[:-2], ids=lambda one: type(one).__name__)
def test_parameters_are_checked_at_fit_with_scikit_learns_words(estimator, squashing_backbone):
    if "backbone" in estimator.get_params():
        estimator.set_params(backbone=squashing_backbone)
    check_param_validation(type(estimator).__name__, estimator)
