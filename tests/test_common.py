"""scikit-learn's own checks over every estimator, through subclasses that read matrices."""

import json
import shutil
from pathlib import Path

import pytest
from _harness import (
    RowCAPClassifier,
    RowCLIPEncoder,
    RowConceptAligner,
    RowMarginCalibrator,
    RowMismatchDetector,
    RowZeroShotClassifier,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

EXPECTED_FAILURES: dict[type, dict[str, str]] = {
    RowMismatchDetector: {
        "check_transformer_n_iter": "max_iter bounds each of many K-Means; there is no one n_iter_",
    },
}

SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4, "random_state": 0}

ESTIMATORS = [
    RowCLIPEncoder(),
    RowMismatchDetector(random_state=0),
    RowConceptAligner(),
    RowMarginCalibrator(),
    RowZeroShotClassifier(),
    RowCAPClassifier(tuning="adapter", **SHORT),
    RowCAPClassifier(tuning="prompt", **SHORT),
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
def test_scikit_learn_conformity(estimator, check, squashing_backbone):
    if "backbone" in estimator.get_params():
        estimator.set_params(backbone=squashing_backbone)
    check(estimator)
