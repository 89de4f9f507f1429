"""Bad input to CAPClassifier: found before anything is loaded, with an error that helps."""

import dataclasses

import numpy as np
import pytest
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CAPClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import BackboneError, ClassNamesError, LabelError, UnsupportedBackboneError

NAMES = ["cat", "dog", "emu"]
IMAGES = np.zeros((6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    """Loading a backbone, or beginning to train, fails the test."""

    def fail(*args, **kwargs):
        pytest.fail("bad input was not found before work began")

    monkeypatch.setattr("capkit.encoder.load_backbone", fail)
    monkeypatch.setattr("capkit.training.fitting.load_backbone", fail)
    monkeypatch.setattr("capkit.training.fitting.train", fail)


def fit(y=None, class_names=NAMES, images=IMAGES, **parameters):
    return CAPClassifier(**parameters).fit(images, y, class_names=class_names)


class TestClassNames:
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (None, "expected class_names, got none"),
            (["cat"], "at least 2 class_names, got 1"),
            (["cat", "dog", "cat"], r"got twice: \['cat'\]"),
            (["cat", 7], "every class name to be a str, got 7"),
            ("cat", "sequence of str, got str"),
            (["a", "b", "c", "d", "e", "f"], "6 class_names for 6 images"),
        ],
    )
    def test_wrong_names(self, names, message):
        with pytest.raises(ClassNamesError, match=message):
            fit(class_names=names)

    def test_names_that_contradict_the_constructor(self):
        with pytest.raises(ClassNamesError, match=r"differ. Pass them in one place only"):
            CAPClassifier(class_names=NAMES).fit(IMAGES, class_names=["cat", "dog"])

    def test_names_that_contradict_the_space(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ClassNamesError, match=r"\(2\) differ from those of the ConceptSpace"):
            fit(images=space, class_names=["cat", "dog"], tuning="adapter")


class TestLabels:
    @pytest.mark.parametrize("paradigm", ["ssl", "trzsl"])
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (["cat", "dog", "cow", -1, -1, -1], r"label 'cow' of image 2 is no class"),
            ([0, 1, 3, -1, -1, -1], r"label 3 of image 2 is no class: .* from 0 to 2"),
            ([0, 1, -1], "a label for each of 6 images, got 3"),
            ([0, "dog", -1, -1, -1, -1], "mixes class names and indices"),
            (None, "labels of some images, got none. Pass y with -1"),
            ([-1] * 6, "labels of some images, got none. .* use paradigm='ul'"),
            ([0, 1, 0, 1, 0, 1], "some unlabeled images, got a label for each of 6"),
        ],
    )
    def test_wrong_labels(self, paradigm, y, message):
        with pytest.raises(LabelError, match=message):
            fit(y, paradigm=paradigm)

    def test_ssl_with_labels_of_one_class_only(self):
        with pytest.raises(LabelError, match="at least 2 classes, got 1 class: 'dog'"):
            fit([1, 1, -1, -1, -1, -1], paradigm="ssl")

    def test_trzsl_with_every_class_labeled(self):
        with pytest.raises(LabelError, match=r"classes without any label.*all 3 have one"):
            fit([0, 1, 2, -1, -1, -1], paradigm="trzsl")

    def test_labels_of_a_space_with_the_wrong_length(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(LabelError, match="a label for each of 9 images, got 4"):
            fit([0, 1, -1, -1], None, space, paradigm="ssl", tuning="adapter")


class TestImages:
    def test_no_images(self):
        with pytest.raises(ValueError, match="0 sample"):
            fit(images=IMAGES[:0])

    @pytest.mark.parametrize("images", [7, "folder", [1, 2, 3], np.zeros((4, 5))])
    def test_no_image_at_all(self, images):
        with pytest.raises((TypeError, ValueError), match="expected"):
            fit(images=images)

    def test_features_that_are_not_finite(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        features = space.image_features.copy()
        features[3, 2] = np.nan
        broken = dataclasses.replace(space, image_features=features)
        with pytest.raises(ValueError, match="finite features, got NaN"):
            fit(None, None, broken, tuning="adapter")

    def test_prompts_need_pixels_and_texts(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ValueError, match=r"no images and no prompts.*tuning='adapter'"):
            fit(None, None, space)


class TestParameters:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("paradigm", "sl"),
            ("tuning", "full"),
            ("inference", "best"),
            ("epochs", 0),
            ("batch_size", 0),
            ("learning_rate", -0.1),
            ("tau", 1.5),
            ("m", -1),
            ("t", -1),
            ("adapter_dim", 2.5),
            ("optimizer", "adam"),
            ("temperature", 0.0),
            ("growth", 0),
            ("random_state", "seed"),
            ("n_devices", 0),
        ],
    )
    def test_values_out_of_range(self, name, value):
        with pytest.raises(
            InvalidParameterError, match=f"The '{name}' parameter of CAPClassifier"
        ):
            fit(**{name: value})

    def test_inference_without_adapters_where_only_they_are_trained(self):
        with pytest.raises(
            ValueError, match=r"inference='prompts'.*'main', 'pseudo' or 'ensemble'"
        ):
            fit(tuning="adapter", inference="prompts")

    def test_pixel_views_of_features(self):
        with pytest.raises(ValueError, match="augment='crop_flip' changes pixels"):
            fit(tuning="adapter", augment="crop_flip")

    def test_feature_views_of_pixels(self):
        with pytest.raises(ValueError, match=r"augment=0.5 is for tuning='adapter'"):
            fit(augment=0.5)

    def test_views_without_a_meaning(self):
        with pytest.raises(ValueError, match="crop_flip"):
            fit(augment="mirror")

    def test_temperature_from_labels_that_are_not_looked_at(self):
        with pytest.raises(ValueError, match="temperature='labeled' needs labels"):
            fit(temperature="labeled")

    def test_batches_that_cannot_be_shared(self):
        with pytest.raises(ValueError, match="multiple of n_devices=3, got 32"):
            fit(n_devices=3)

    @pytest.mark.parametrize("name", ["detector", "aligner", "calibrator"])
    def test_a_stage_that_is_none(self, name):
        with pytest.raises(
            InvalidParameterError, match=f"The '{name}' parameter of CAPClassifier"
        ):
            fit(**{name: "none"})


def test_a_failed_fit_leaves_no_older_one_behind(monkeypatch, random_backbone):
    monkeypatch.undo()
    classifier = CAPClassifier(
        backbone=random_backbone,
        class_names=NAMES,
        tuning="adapter",
        epochs=1,
        steps_per_epoch=1,
    ).fit(IMAGES)
    assert classifier.__sklearn_is_fitted__()
    classifier.set_params(device="nowhere")
    with pytest.raises((BackboneError, ValueError)):
        classifier.fit(IMAGES)
    assert not classifier.__sklearn_is_fitted__()
    assert not hasattr(classifier, "history_")


def test_a_tower_without_a_place_for_prompts_is_found_before_encoding(
    monkeypatch, random_backbone
):
    monkeypatch.undo()

    def refuse(model):
        raise UnsupportedBackboneError("a ResNet")

    monkeypatch.setattr("capkit.training.fitting.PromptedTowers", refuse)
    monkeypatch.setattr(
        "capkit.training.fitting.encode", lambda *args: pytest.fail("images were encoded")
    )
    with pytest.raises(UnsupportedBackboneError, match="ResNet"):
        fit(backbone=random_backbone)
