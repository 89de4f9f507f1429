"""What every stage refuses."""

import dataclasses

import numpy as np
import pytest

from capkit import ConceptAligner, GaussianTransduction, MarginCalibrator, MismatchDetector
from capkit.datasets import make_concept_space

STAGES = (MismatchDetector, ConceptAligner, GaussianTransduction, MarginCalibrator)


def space_of_width(n_features):
    space = make_concept_space(
        n_images=40, n_classes=4, n_features=n_features, random_state=0
    ).space
    return dataclasses.replace(space, class_names=["ant", "bee", "cat", "dog"])


@pytest.mark.parametrize("n_features", [1, 5, 9])
@pytest.mark.parametrize("stage", STAGES)
def test_transform_refuses_another_width_than_that_of_the_fit(stage, n_features):
    fitted = stage().fit(space_of_width(8))
    words = f"X has {n_features} features, but {stage.__name__} is expecting 8 features as input."
    with pytest.raises(ValueError, match=words):
        fitted.transform(space_of_width(n_features))
    assert fitted.transform(space_of_width(8)).shape == (40, 8)


def test_a_calibrator_of_bare_predictions_knows_its_width_too():
    space = space_of_width(8)
    fitted = MarginCalibrator().fit_from_predictions(
        space.image_features, space.text_features, space.predict(), np.ones(40)
    )
    with pytest.raises(ValueError, match="X has 5 features, but MarginCalibrator is expecting 8"):
        fitted.transform(space_of_width(5))
