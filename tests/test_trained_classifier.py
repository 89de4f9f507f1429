"""What all classifiers that train have in common, on the peers; CAP's own tests are elsewhere."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError
from skorch.callbacks import Callback, EarlyStopping, TensorBoard

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
from capkit.model_selection import LabeledKFold
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


class Rows(Callback):
    """Keeps what the net's history says at the end of each epoch, and draws random numbers."""

    def __init__(self, seen=None):
        self.seen = seen

    def initialize(self):
        self.rows_ = [] if self.seen is None else self.seen
        return self

    def on_batch_begin(self, net, **kwargs):
        torch.rand(3)

    def on_epoch_end(self, net, **kwargs):
        torch.rand(3)
        self.rows_.append(dict(net.history[-1]))


class Raises(Callback):
    def on_epoch_end(self, net, **kwargs):
        if net.state.epoch == 2:
            raise RuntimeError("the server is gone")


@pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")
class TestCallbacks:
    ALL = pytest.mark.parametrize("cls", [*PEERS, CAPClassifier])

    @staticmethod
    def quick(cls, **parameters):
        if cls is CAPClassifier:
            parameters["pseudo_labels"] = "zero_shot"
        return quick(cls, **parameters)

    @ALL
    def test_see_the_history_and_change_nothing(self, cls, problem):
        rows = Rows()
        watched = self.quick(cls, callbacks=[rows]).fit(problem.space)
        assert_same_fit(watched, self.quick(cls).fit(problem.space))
        assert [row["epoch"] for row in rows.rows_] == [1, 2, 3]
        for seen, row in zip(rows.rows_, watched.history_, strict=True):
            numbers = {name for name, value in row.items() if not isinstance(value, list)}
            assert {name: seen[name] for name in numbers} == {name: row[name] for name in numbers}

    def test_loggers_of_skorch_find_numbers(self, problem):
        class Writer:
            def add_scalar(self, tag, scalar_value, global_step):
                written.append((tag, float(scalar_value), global_step))

            def close(self):
                written.append("closed")

        written = []
        classifier = quick(callbacks=[("board", TensorBoard(Writer()))]).fit(problem.space)
        assert written[-1] == "closed"
        for row in classifier.history_:
            assert ("learning_rate", row["learning_rate"], row["epoch"]) in written
            assert ("n_main", row["n_main"], row["epoch"]) in written

    def test_one_that_raises_leaves_nothing_fitted_and_the_checkpoint(self, problem, tmp_path):
        classifier = quick(checkpoint_dir=tmp_path, callbacks=[Raises()])
        with pytest.raises(RuntimeError, match="the server is gone"):
            classifier.fit(problem.space)
        assert not hasattr(classifier, "history_")
        rows = Rows()  # not the same: callbacks are no part of what a checkpoint is found by
        again = classifier.set_params(callbacks=[rows]).fit(problem.space)
        assert [row["epoch"] for row in rows.rows_] == [3]
        assert_same_fit(again, quick().fit(problem.space))
        assert len(list(tmp_path.iterdir())) == 1

    def test_one_that_stops_the_training_interrupts_the_fit(self, problem):
        stop = EarlyStopping(monitor="n_main", patience=1, lower_is_better=False)
        with pytest.raises(TrainingInterrupted, match="FPLClassifier is not fitted"):
            quick(callbacks=[stop]).fit(problem.space)

    def test_those_of_a_clone_are_copies(self, problem):
        rows = Rows()
        classifier = quick(callbacks=[("rows", rows)])
        again = clone(classifier)
        (name, copied), *_ = again.callbacks
        assert (name, type(copied)) == ("rows", Rows)
        assert copied is not rows
        again.fit(problem.space)
        assert len(copied.rows_) == 3
        assert not hasattr(rows, "rows_")

    def test_a_search_watches_every_fit_by_a_copy(self, problem):
        y = np.where(np.arange(80) < 40, problem.target, -1)
        rows = Rows()
        search = GridSearchCV(
            quick(paradigm="ssl", callbacks=[rows]), {"top_k": [2, 4]}, cv=LabeledKFold(2)
        )
        search.fit(problem.space, y)
        assert not hasattr(rows, "rows_")
        assert len(search.best_estimator_.callbacks[0].rows_) == 3

    def test_what_is_none_is_refused_before_anything_is_encoded(self, images, encoded_images):
        with pytest.raises(TypeError, match="got the class Rows: add"):
            FPLClassifier(class_names=NAMES, backbone="glyph", callbacks=[Rows]).fit(images)
        with pytest.raises(InvalidParameterError, match="'callbacks' parameter"):
            FPLClassifier(class_names=NAMES, callbacks=Rows()).fit(images)
        assert encoded_images == []

    def test_are_not_called_in_the_fits_of_the_temperature_nor_cloned(self, problem):
        class Unclonable(Rows):
            def __init__(self):
                self.other = 0  # no parameter of the constructor

        y = np.where(np.arange(80) < 40, problem.target, -1)
        rows = Unclonable()
        rows.seen = None
        parameters = {"pseudo_labels": "zero_shot", "temperature": "labeled"}
        watched = quick(CAPClassifier, "ssl", callbacks=[rows], **parameters).fit(problem.space, y)
        assert len(rows.rows_) == 3
        expected = quick(CAPClassifier, "ssl", **parameters).fit(problem.space, y)
        assert watched.temperature_ == expected.temperature_

    def test_are_not_called_where_nothing_is_trained(self, problem):
        rows = Rows()
        few = problem.space[:12]
        classifier = quick(CAPClassifier, callbacks=[rows]).fit(few)
        assert classifier.history_ == []
        assert not hasattr(rows, "rows_")

    @pytest.mark.filterwarnings("error::UserWarning")
    def test_are_left_out_of_a_file_without_a_warning(self, problem, tmp_path):
        classifier = self.quick(CAPClassifier, callbacks=[Rows()])
        classifier.fit(problem.space).save(tmp_path / "model")
        loaded = CAPClassifier.load(tmp_path / "model")
        assert loaded.callbacks is None
        np.testing.assert_array_equal(
            loaded.predict_proba(problem.space), classifier.predict_proba(problem.space)
        )


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
