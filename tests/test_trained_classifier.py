"""What all classifiers that train have in common, on the peers; CAP's own tests are elsewhere."""

import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from capkit import CAPClassifier, CLIPEncoder
from capkit.baselines import (
    CPLClassifier,
    FixMatchClassifier,
    FPLClassifier,
    GRIPClassifier,
    UPLClassifier,
)
from capkit.datasets import make_concept_space
from capkit.exceptions import LabelError, TrainingInterrupted
from capkit.training.net import CAPNet
from capkit.tuning import AdapterTuning, PromptTuning

QUICK = {"epochs": 3, "steps_per_epoch": 2, "batch_size": 8, "adapter_dim": 4}
NAMES = ["owl", "emu", "cat"]  # not in alphabetical order
PEERS = [FPLClassifier, UPLClassifier, GRIPClassifier, CPLClassifier, FixMatchClassifier]
EACH = pytest.mark.parametrize("cls", PEERS)


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(n_images=80, n_classes=4, n_features=16, random_state=0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def quick(cls=FPLClassifier, paradigm="ul", **parameters):
    return cls(paradigm, tuning=AdapterTuning(**QUICK), random_state=0, **parameters)


def with_prompts(backbone, cls=FPLClassifier, **parameters):
    tuning = PromptTuning(prompt_depth=2, **QUICK)
    return cls(backbone=backbone, class_names=NAMES, tuning=tuning, random_state=0, **parameters)


def stop_after(monkeypatch, n_steps, error):
    steps, train_step = [], CAPNet.train_step

    def step(net, *args, **kwargs):
        steps.append(1)
        if len(steps) > n_steps:
            raise error
        return train_step(net, *args, **kwargs)

    monkeypatch.setattr(CAPNet, "train_step", step)


def assert_same_fit(first, second):
    assert first.history_ == second.history_
    np.testing.assert_array_equal(first.pseudo_labels_, second.pseudo_labels_)
    assert first._model.weights.keys() == second._model.weights.keys()
    for name, value in first._model.weights.items():
        np.testing.assert_array_equal(second._model.weights[name], value, err_msg=name)


class TestCopies:
    @EACH
    def test_a_pickled_one_predicts_the_same(self, cls, problem):
        classifier = quick(cls).fit(problem.space)
        again = pickle.loads(pickle.dumps(classifier))
        np.testing.assert_array_equal(
            again.predict_proba(problem.space), classifier.predict_proba(problem.space)
        )
        assert_same_fit(again, classifier)

    @EACH
    def test_a_clone_has_the_parameters_and_trains_the_same(self, cls, problem):
        classifier = quick(cls).fit(problem.space)
        again = clone(classifier)
        assert str(again.get_params()) == str(classifier.get_params())
        with pytest.raises(NotFittedError):
            again.predict(problem.space)
        assert_same_fit(again.fit(problem.space), classifier)
        other = clone(classifier).set_params(random_state=1).fit(problem.space)
        weights = (each._model.weights["main_adapter.fc1.weight"] for each in (classifier, other))
        assert not np.array_equal(*weights)

    def test_one_with_prompts_is_pickled_without_its_backbone(self, random_backbone, images):
        classifier = with_prompts(random_backbone).fit(images)
        expected = classifier.predict_proba(images)
        content = pickle.dumps(classifier)
        assert len(content) < 100_000  # the backbone has millions of numbers
        np.testing.assert_array_equal(pickle.loads(content).predict_proba(images), expected)


class TestTuning:
    @EACH
    def test_has_one_branch_and_the_users_own_is_not_changed(self, cls, problem):
        tuning = AdapterTuning(**QUICK)
        classifier = cls(tuning=tuning, random_state=0).fit(problem.space)
        assert (tuning.pseudo_adapter, tuning.adapter_weight) == (True, 0.5)
        assert not classifier.tuning_.pseudo_adapter
        assert classifier.tuning_.adapter_weight == 0.5
        weights = classifier._model.weights
        for part in ("fc1.weight", "fc2.weight"):
            np.testing.assert_array_equal(
                weights[f"main_adapter.{part}"], weights[f"pseudo_adapter.{part}"]
            )

    @EACH
    def test_with_prompts_no_adapter_is_trained_or_used(self, cls, random_backbone, images):
        classifier = with_prompts(random_backbone, cls).fit(images)
        assert classifier.tuning_.adapter_weight == 0.0
        weights = classifier._model.weights
        assert not weights["main_adapter.fc2.weight"].any()
        assert not weights["text_adapter.fc2.weight"].any()
        backbone = classifier.backbone_
        frozen = backbone.encode_texts([f"a photo of a {name}" for name in NAMES]).numpy()
        assert np.abs(classifier.text_features_ - frozen).max() > 1e-4

    def test_auto_stands_for_what_fits(self, problem):
        classifier = FPLClassifier(random_state=0)
        fitted = classifier.fit(problem.space[:20])  # no pixels to train prompts on
        assert fitted.tuning_.name == "adapter"
        assert not fitted.tuning_.pseudo_adapter

    def test_prompts_without_pixels_are_refused(self, problem):
        with pytest.raises(ValueError, match="prompt tuning trains on pixels"):
            FPLClassifier(tuning="prompt").fit(problem.space)


class TestTransform:
    @EACH
    def test_gives_what_is_compared_with_the_classes(self, cls, problem):
        classifier = quick(cls).fit(problem.space)
        features = classifier.transform(problem.space)
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1.0, rtol=1e-5)
        module = classifier._model._predictor(classifier._reader())
        texts = module.text_features("main").numpy()
        order = np.argsort(problem.space.class_names)
        logits = classifier.logit_scale_ * features @ texts.T
        np.testing.assert_allclose(
            classifier.predict_proba(problem.space), softmax(logits[:, order], axis=1), atol=1e-5
        )

    def test_of_prompts_is_compared_with_the_trained_texts(self, random_backbone, images):
        classifier = with_prompts(random_backbone).fit(images)
        cosines = classifier.transform(images) @ classifier.text_features_.T
        logits = classifier.logit_scale_ * cosines
        np.testing.assert_allclose(
            classifier.predict_proba(images),
            softmax(logits[:, np.argsort(NAMES)], axis=1),
            atol=1e-4,
        )
        np.testing.assert_array_equal(
            classifier.fit_transform(images), classifier.transform(images)
        )

    def test_columns_have_names(self, problem):
        classifier = quick(GRIPClassifier).fit(problem.space)
        expected = [f"gripclassifier{column}" for column in range(16)]
        assert classifier.get_feature_names_out().tolist() == expected


class TestLabels:
    @EACH
    def test_labels_train_in_ssl_and_are_not_looked_at_in_ul(self, cls, problem):
        y = np.where(np.arange(80) < 20, (problem.target + 1) % 4, -1)
        ignoring, plain = (quick(cls).fit(problem.space, labels) for labels in (y, None))
        assert_same_fit(ignoring, plain)
        assert "labeled_loss" not in plain.history_[0]
        learning = quick(cls, "ssl").fit(problem.space, y)
        assert learning.history_[0]["labeled_loss"] > 0
        assert (learning.pseudo_labels_[:20] == -1).all()
        assert ignoring.paradigm_ == "ul"
        assert learning.paradigm_ == "ssl"

    @EACH
    def test_unlabeled_classes_alone_are_pseudolabeled_in_trzsl(self, cls, problem):
        y = np.where(np.isin(problem.target, [0, 2]), problem.target, -1)
        classifier = quick(cls, "trzsl").fit(problem.space, y)
        assert (classifier.pseudo_labels_[y >= 0] == -1).all()
        assert set(classifier.pseudo_labels_[y < 0]) <= {-1, 1, 3}
        for row in classifier.history_:
            assert row["class_counts"][0] == row["class_counts"][2] == 0

    @pytest.mark.parametrize("paradigm", ["ssl", "trzsl"])
    def test_labels_that_a_paradigm_cannot_work_with_are_refused(self, paradigm, problem):
        with pytest.raises(LabelError, match=f"paradigm='{paradigm}' expected labels of some"):
            quick(paradigm=paradigm).fit(problem.space)
        with pytest.raises(LabelError, match=f"paradigm='{paradigm}' expected some unlabeled"):
            quick(paradigm=paradigm).fit(problem.space, problem.target)


class TestInterrupt:
    def test_says_that_nothing_is_fitted_and_how_to_go_on(self, problem, monkeypatch, tmp_path):
        classifier = quick(checkpoint_dir=tmp_path)
        with monkeypatch.context() as patch:
            stop_after(patch, 3, KeyboardInterrupt())
            with pytest.raises(TrainingInterrupted, match="Fit again to go on from the last ep"):
                classifier.fit(problem.space)
        assert not hasattr(classifier, "history_")
        assert_same_fit(classifier.fit(problem.space), quick().fit(problem.space))

    def test_promises_nothing_without_a_checkpoint(self, problem, monkeypatch):
        stop_after(monkeypatch, 3, KeyboardInterrupt())
        with pytest.raises(TrainingInterrupted, match=r"UPLClassifier is not fitted\.$"):
            quick(UPLClassifier).fit(problem.space)


class TestCheckpoint:
    @EACH
    def test_is_gone_on_from_bit_for_bit(self, cls, problem, monkeypatch, tmp_path):
        parameters = {"rounds": 3} if cls in (GRIPClassifier, CPLClassifier) else {}
        expected = quick(cls, **parameters).fit(problem.space)
        classifier = quick(cls, checkpoint_dir=tmp_path, **parameters)
        with monkeypatch.context() as patch:
            stop_after(patch, 5, RuntimeError("killed"))
            with pytest.raises(RuntimeError, match="killed"):
                classifier.fit(problem.space)
        assert_same_fit(classifier.fit(problem.space), expected)

    @pytest.mark.parametrize(
        ("cls", "change"),
        [
            (FPLClassifier, {"top_k": 3}),
            (UPLClassifier, {"top_k": 3}),
            (GRIPClassifier, {"rounds": 2}),
            (CPLClassifier, {"inter_share": 0.7}),
            (CPLClassifier, {"intra_quantile": 0.7}),
            (CPLClassifier, {"rounds": 2}),
            (FixMatchClassifier, {"tau": 0.5}),
            (FixMatchClassifier, {"top_k": 0}),
            (FPLClassifier, {"tuning__epochs": 4}),
            (FPLClassifier, {"tuning__adapter_weight": 0.1}),
            (FPLClassifier, {"random_state": 1}),
        ],
    )
    def test_of_other_parameters_is_not_gone_on_from(self, cls, change, problem, tmp_path):
        classifier = quick(cls, checkpoint_dir=tmp_path).fit(problem.space)
        other = clone(classifier).set_params(**change).fit(problem.space)
        assert len(list(tmp_path.iterdir())) == 2
        alone = quick(cls).set_params(**change).fit(problem.space)
        assert_same_fit(other, alone)

    def test_of_another_method_is_not_gone_on_from(self, problem, tmp_path):
        for cls in (FPLClassifier, UPLClassifier):
            assert_same_fit(
                quick(cls, checkpoint_dir=tmp_path).fit(problem.space),
                quick(cls).fit(problem.space),
            )
        assert len(list(tmp_path.iterdir())) == 2


class TestOneBranchOfCAP:
    """What a peer always has, CAP may have."""

    @pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
    def test_main_pseudo_and_ensemble_predict_the_same(self, problem, tmp_path):
        classifier = quick(CAPClassifier, pseudo_labels="zero_shot", tau=0.3)
        classifier.set_params(tuning__pseudo_adapter=False, tuning__learning_rate=0.02)
        classifier.fit(problem.space)
        assert max(row["kept"] for row in classifier.history_) > 0
        classifier.save(tmp_path / "model")
        expected = classifier.set_params(inference="main").predict_proba(problem.space)
        for each in (classifier, CAPClassifier.load(tmp_path / "model")):
            for inference in ("main", "pseudo", "ensemble"):
                found = each.set_params(inference=inference).predict_proba(problem.space)
                np.testing.assert_allclose(found, expected, atol=1e-6)
        classifier.set_params(tuning__pseudo_adapter=True).fit(problem.space)
        main, pseudo = (
            classifier.set_params(inference=inference).predict_proba(problem.space)
            for inference in ("main", "pseudo")
        )
        assert np.abs(main - pseudo).max() > 1e-3

    @pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
    def test_prompts_of_weightless_adapters_predict_as_without(self, random_backbone, images):
        classifier = with_prompts(random_backbone, CAPClassifier, pseudo_labels="zero_shot")
        classifier.set_params(tuning__adapter_weight=0.0).fit(images)
        expected = classifier.predict_proba(images)
        for inference in ("main", "pseudo", "ensemble"):
            found = classifier.set_params(inference=inference).predict_proba(images)
            np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "parameter", "value"),
    [
        (FPLClassifier, "top_k", 0),
        (UPLClassifier, "top_k", 0),
        (GRIPClassifier, "rounds", 0),
        (CPLClassifier, "rounds", 0),
        (CPLClassifier, "intra_quantile", 1.1),
        (CPLClassifier, "inter_share", 0.0),
        (FixMatchClassifier, "tau", 1.1),
        (FixMatchClassifier, "top_k", -1),
        (FPLClassifier, "paradigm", "zsl"),
        (FPLClassifier, "tuning", "lora"),
        (FPLClassifier, "n_devices", 0),
    ],
)
def test_parameters_are_checked(cls, parameter, value, problem):
    with pytest.raises(InvalidParameterError, match=f"'{parameter}' parameter of {cls.__name__}"):
        quick(cls).set_params(**{parameter: value}).fit(problem.space)


def test_images_and_a_space_of_them_train_the_same(random_backbone, images):
    by_images = with_prompts(random_backbone, GRIPClassifier, rounds=3).fit(images)
    space = CLIPEncoder(random_backbone, class_names=NAMES).fit_transform(images)
    by_space = clone(by_images).set_params(class_names=None).fit(space)
    assert_same_fit(by_images, by_space)
    np.testing.assert_array_equal(by_images.predict(images), by_space.predict(space))


def test_prompts_train_on_strong_views_alone(random_backbone, images):
    """No labels, no stand-ins, and not one view that is kept: nothing is encoded to learn from."""
    classifier = with_prompts(random_backbone, FixMatchClassifier, top_k=0, tau=1.0).fit(images)
    assert [row["kept"] for row in classifier.history_] == [0.0] * 3
    assert [row["loss"] for row in classifier.history_] == [0.0] * 3
