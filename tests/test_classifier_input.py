"""Bad input to CAPClassifier: found before anything is loaded, with an error that helps."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    GaussianTransduction,
    MainSampleRenewal,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.baselines import ZeroShotClassifier
from capkit.datasets import make_concept_space
from capkit.exceptions import BackboneError, ClassNamesError, LabelError, UnsupportedBackboneError
from capkit.tuning import AdapterTuning, PromptTuning

NAMES = ["cat", "dog", "emu"]
IMAGES = np.zeros((6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    """Loading a backbone, or beginning to train, fails the test."""

    def fail(*args, **kwargs):
        pytest.fail("bad input was not found before work began")

    for loader in ("_load_named", "_load_once", "_find_preferred"):
        monkeypatch.setattr(f"capkit.backbones.registry.{loader}", fail)
    monkeypatch.setattr("capkit.trained_classifier.train", fail)


def changed(estimator):
    """Parameters that are not their defaults."""
    default = type(estimator)().get_params()
    return {
        name: value for name, value in estimator.get_params().items() if value != default[name]
    }


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
            ({"cat", "dog", "emu"}, "got set: a set has no order"),
            (["cat", "dog", "-1"], "class name 2 is '-1', which marks unlabeled images"),
            (["cat\udc80", "dog"], "UTF-8 can write, got 'cat.* as class name 0"),
        ],
    )
    def test_wrong_names(self, names, message):
        with pytest.raises(ClassNamesError, match=message):
            fit(class_names=names)

    def test_names_that_contradict_the_constructor(self):
        with pytest.raises(ClassNamesError, match=r"differ. Pass them in one place only"):
            CAPClassifier(class_names=NAMES).fit(IMAGES, class_names=["cat", "dog"])

    def test_a_set_in_the_constructor(self):
        with pytest.raises(ClassNamesError, match="got set: a set has no order"):
            CAPClassifier(class_names=set(NAMES)).fit(IMAGES)

    def test_a_set_beside_a_space(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ClassNamesError, match="got set: a set has no order"):
            fit(images=space, class_names=set(space.class_names), tuning="adapter")

    def test_names_that_contradict_the_space(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ClassNamesError, match=r"\(2\) differ from those of the ConceptSpace"):
            fit(images=space, class_names=["cat", "dog"], tuning="adapter")

    @pytest.mark.parametrize("names", [np.array("cat"), "cat", 3])
    def test_names_that_are_no_sequence_beside_a_space(self, names):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ClassNamesError, match="class_names as a sequence of str"):
            fit(images=space, class_names=names, tuning="adapter")


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

    @pytest.mark.parametrize("estimator", [CAPClassifier, ZeroShotClassifier])
    @pytest.mark.parametrize(
        ("y", "names"),
        [
            ([0, 1, 2, 0, 1, 2], ["emu", "cat", "dog"]),  # not in alphabetical order
            ([0, 1, 0, 1, 0, 1], ["cat", "dog", "emu"]),  # no emu
            (np.array([0.0, 1.0, 2.0] * 2), ["emu", "cat", "dog"]),
        ],
    )
    def test_integers_that_may_be_positions_of_sorted_labels(self, estimator, y, names):
        with pytest.raises(LabelError, match=r"y holds an integer for each image.*Pass names"):
            estimator(class_names=names).fit(IMAGES, y)

    @pytest.mark.parametrize("paradigm", ["ul", "ssl", "trzsl"])
    def test_an_index_that_scikit_learn_may_have_made(self, paradigm):
        message = r"label 3 of image 2 is no class.*number them anew"
        with pytest.raises(LabelError, match=message):
            fit([0, 1, 3, 0, 1, 2], paradigm=paradigm)

    @pytest.mark.parametrize("estimator", [CAPClassifier, ZeroShotClassifier])
    def test_names_that_are_no_class_where_no_label_is_learned_from(self, estimator):
        y = ["cat", "dog", "cow", "emu", None, -1]
        with pytest.raises(LabelError, match="label 'cow' of image 2 is no class"):
            estimator(class_names=NAMES).fit(IMAGES, y)

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
        broken = dataclasses.replace(space, image_features=features)
        features[3, 2] = np.nan  # the space looks at the caller's array
        with pytest.raises(ValueError, match="finite features, got NaN"):
            fit(None, None, broken, tuning="adapter")

    def test_prompts_need_pixels_and_texts(self):
        space = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        for tuning in ("prompt", PromptTuning()):
            with pytest.raises(ValueError, match=r"no images and no prompts.*tuning='adapter'"):
                fit(None, None, space, tuning=tuning)


class TestParameters:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("paradigm", "sl"),
            ("tuning", "full"),
            ("inference", "best"),
            ("tau", 1.5),
            ("m", -1),
            ("t", -1),
            ("top_k", 0),
            ("temperature", 0.0),
            ("random_state", "seed"),
            ("n_devices", 0),
            ("encoder", "glyph"),
            ("renewal", 5),
            ("temperature", "fitted"),
            ("pseudo_labels", "texts"),
            ("pseudo_labels", GaussianTransduction),
            ("class_prior", "even"),
            ("class_prior", 0.5),
        ],
    )
    def test_values_out_of_range(self, name, value):
        with pytest.raises(
            InvalidParameterError, match=f"The '{name}' parameter of CAPClassifier"
        ):
            fit(**{name: value})

    @pytest.mark.parametrize("stage", ["detector", "aligner", "calibrator"])
    def test_a_class_in_place_of_an_object_is_found(self, stage):
        cls = {
            "detector": MismatchDetector,
            "aligner": ConceptAligner,
            "calibrator": MarginCalibrator,
        }[stage]
        with pytest.raises(TypeError, match=f"expected {stage} as an object, got a class"):
            fit(**{stage: cls})

    def test_one_backbone_may_be_named_twice_in_two_ways(self):
        encoder = CLIPEncoder("folder/model.pt")
        classifier = CAPClassifier(backbone=Path("folder/model.pt"), encoder=encoder)
        assert classifier._make_encoder().backbone == "folder/model.pt"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("tuning", AdapterTuning(epochs=0)),
            ("tuning", AdapterTuning(batch_size=0)),
            ("tuning", AdapterTuning(learning_rate=-0.1)),
            ("tuning", AdapterTuning(adapter_dim=2.5)),
            ("tuning", AdapterTuning(optimizer="adam")),
            ("tuning", AdapterTuning(augment=-0.5)),
            ("tuning", PromptTuning(prompt_length=0)),
            ("tuning", PromptTuning(epochs=None)),
            ("renewal", MainSampleRenewal(ramp_fraction=0)),
            ("renewal", MainSampleRenewal(every=0)),
            ("calibrator", MarginCalibrator(m=-12)),
            ("detector", MismatchDetector(n_init=-1)),
            ("aligner", ConceptAligner(n_descriptions=0)),
            ("encoder", CLIPEncoder(n_jobs=-5)),
            ("encoder", CLIPEncoder(on_error="ignore")),
            ("pseudo_labels", GaussianTransduction(kappa=0)),
            ("pseudo_labels", GaussianTransduction(max_iter=0)),
        ],
        ids=str,
    )
    def test_values_of_a_nested_object_out_of_range(self, name, value):
        ((wrong, _),) = changed(value).items()
        with pytest.raises(
            InvalidParameterError,
            match=f"The '{wrong}' parameter of {type(value).__name__} must be",
        ):
            fit(**{name: value})

    def test_values_of_the_encoder_of_a_zero_shot_classifier(self):
        with pytest.raises(
            InvalidParameterError, match="The 'batch_size' parameter of CLIPEncoder must be"
        ):
            ZeroShotClassifier(class_names=NAMES, encoder=CLIPEncoder(batch_size=0)).fit(IMAGES)

    @pytest.mark.parametrize("estimator", [CAPClassifier, ZeroShotClassifier])
    @pytest.mark.parametrize(
        ("name", "own", "given"),
        [("backbone", "glyph", "ViT-B-32/openai"), ("device", "cpu", "cuda:1")],
    )
    def test_an_encoder_that_contradicts(self, estimator, name, own, given):
        classifier = estimator(
            class_names=NAMES, encoder=CLIPEncoder(**{name: given}), **{name: own}
        )
        message = f"{name}='{own}' and the encoder's {name}='{given}' differ. Name it in one place"
        with pytest.raises(ValueError, match=message):
            classifier.fit(IMAGES)

    def test_inference_without_adapters_where_only_they_are_trained(self):
        with pytest.raises(
            ValueError, match=r"inference='no_adapters'.*'main', 'pseudo', 'ensemble'"
        ):
            fit(tuning="adapter", inference="no_adapters")

    def test_pixel_views_of_features(self):
        message = "The 'augment' parameter of AdapterTuning must be .* Got 'crop_flip' instead"
        with pytest.raises(InvalidParameterError, match=message):
            fit(tuning=AdapterTuning(augment="crop_flip"))

    def test_feature_views_of_pixels(self):
        message = "The 'augment' parameter of PromptTuning must be .* Got 0.5 instead"
        with pytest.raises(InvalidParameterError, match=message):
            fit(tuning=PromptTuning(augment=0.5))

    def test_views_without_a_meaning(self):
        with pytest.raises(ValueError, match=r"crop_flip.* Got 'mirror' instead"):
            fit(tuning=PromptTuning(augment="mirror"))

    def test_temperature_from_labels_that_are_not_looked_at(self):
        with pytest.raises(ValueError, match="temperature='labeled' needs labels"):
            fit(temperature="labeled")

    @pytest.mark.parametrize(
        "class_prior",
        [[0.5, 0.5], [1, 1, 1, 1], [1, -1, 1], [1, 0, 1], [1, np.nan, 1], [[1, 1, 1]]],
    )
    @pytest.mark.parametrize("owner", ["gaussian", "zero_shot", "stage"])
    def test_proportions_that_are_none(self, class_prior, owner):
        parameters = {"class_prior": class_prior, "pseudo_labels": owner}
        if owner == "stage":
            parameters = {"pseudo_labels": GaussianTransduction(class_prior=class_prior)}
        message = "expected class_prior as 3 proportions above 0, in the order of the class names"
        with pytest.raises(ValueError, match=message):
            fit(**parameters)

    @pytest.mark.parametrize("tuning", ["auto", "adapter", PromptTuning()])
    def test_batches_that_cannot_be_shared(self, tuning):
        with pytest.raises(ValueError, match="multiple of n_devices=3, got 32"):
            fit(n_devices=3, tuning=tuning)

    @pytest.mark.parametrize("name", ["detector", "aligner", "calibrator"])
    def test_a_stage_that_is_none(self, name):
        with pytest.raises(
            InvalidParameterError, match=f"The '{name}' parameter of CAPClassifier"
        ):
            fit(**{name: "none"})


class TestScore:
    @pytest.fixture
    def fitted(self):
        space = make_concept_space(n_images=6, n_classes=3, n_features=16).space
        classifier = ZeroShotClassifier().fit(space)
        return classifier, space, classifier.predict(space)

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ([1, 2], r"sample_weight of shape \(6,\), one for each image, got \(2,\)"),
            (3.0, r"sample_weight of shape \(6,\), one for each image, got \(\)"),
            (np.ones((6, 1)), r"of shape \(6,\), one for each image, got \(6, 1\)"),
            ([1, 1, np.nan, 1, 1, 1], "of at least 0, got nan for image 2"),
            ([1, 1, 1, -2, 1, 1], "of at least 0, got -2 for image 3"),
            (["heavy"] * 6, r"sample_weight as 6 numbers.*got \['heavy'"),
            ([0] * 6, "a sample_weight above 0 .*got 0 of all 6"),
        ],
    )
    def test_wrong_weights_are_found_before_anything_is_predicted(
        self, fitted, monkeypatch, weight, message
    ):
        classifier, space, labels = fitted
        monkeypatch.setattr(classifier, "predict", lambda X: pytest.fail("something was done"))
        with pytest.raises(ValueError, match=message):
            classifier.score(space, labels, sample_weight=weight)

    def test_no_label_at_all(self, fitted):
        classifier, space, _ = fitted
        with pytest.raises(ValueError, match="at least one labeled image, got none"):
            classifier.score(space, [-1] * 6)

    def test_indices_count_as_names_do_where_no_labels_were_fitted(self, fitted):
        classifier, space, labels = fitted
        wrong = labels[::-1]
        indices = [space.class_names.index(label) for label in wrong]
        expected = np.mean(wrong == labels)
        assert classifier.score(space, wrong) == classifier.score(space, indices) == expected


@pytest.mark.parametrize("estimator", [CAPClassifier, ZeroShotClassifier])
def test_a_device_that_computes_nothing(estimator):
    with pytest.raises(ValueError, match=r"a device that computes.*'meta'"):
        estimator(backbone="glyph", class_names=NAMES, device="meta").fit(IMAGES)


def test_a_failed_fit_leaves_no_older_one_behind(monkeypatch, random_backbone):
    monkeypatch.undo()
    classifier = CAPClassifier(
        backbone=random_backbone,
        class_names=NAMES,
        tuning=AdapterTuning(epochs=1, steps_per_epoch=1),
    ).fit(IMAGES)
    assert classifier.predict(IMAGES).shape == (6,)
    classifier.set_params(device="nowhere")
    with pytest.raises((BackboneError, ValueError)):
        classifier.fit(IMAGES)
    with pytest.raises(NotFittedError):
        classifier.predict(IMAGES)
    assert not hasattr(classifier, "history_")


def test_a_tower_without_a_place_for_prompts_is_found_before_encoding(
    monkeypatch, random_backbone
):
    monkeypatch.undo()

    def refuse(model):
        raise UnsupportedBackboneError("a ResNet")

    monkeypatch.setattr("capkit.tuning.prompt.find_visual_tower", refuse)
    for method in ("fit", "transform"):
        monkeypatch.setattr(
            CLIPEncoder, method, lambda *args, **kwargs: pytest.fail("something was encoded")
        )
    with pytest.raises(UnsupportedBackboneError, match="ResNet"):
        fit(backbone=random_backbone, tuning="prompt")
