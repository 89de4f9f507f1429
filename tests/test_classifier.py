"""Tests of CAPClassifier: what it trains, in each paradigm, and what it answers."""

import dataclasses
import inspect
import logging
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from torchvision.transforms import RandomResizedCrop

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    MainSampleRenewal,
    MarginCalibrator,
    MismatchDetector,
)
from capkit._temperature import fit_temperature
from capkit.datasets import make_concept_space
from capkit.exceptions import (
    AdaptationWarning,
    BackboneMismatchError,
    NoConfidentPredictionWarning,
    UnsupportedBackboneError,
)
from capkit.tuning import AdapterTuning, PromptTuning
from capkit.tuning.choosing import candidate_tunings

NAMES = ["cat", "dog", "emu", "fox"]
QUICK = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 8}
# The paper's own way, in which even a few images train.
PAPER = {"pseudo_labels": "zero_shot", "random_state": 0}

# Said of trainings that are cut short on purpose, or of images that are noise.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(n_images=200, n_classes=6, n_features=24, random_state=0)


@pytest.fixture(scope="module")
def images():
    """Noise with a colour for each of four classes."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 255, (4, 1, 1, 3))
    noise = generator.integers(0, 60, (24, 32, 32, 3))
    return np.clip(colours[np.arange(24) % 4] + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def adapter():
    return CAPClassifier(tuning=AdapterTuning(**QUICK), **PAPER)


@pytest.fixture
def prompt(random_backbone):
    return CAPClassifier(
        backbone=random_backbone,
        class_names=NAMES,
        tau=0.2,
        tuning=PromptTuning(prompt_depth=2, **QUICK),
        **PAPER,
    )


@pytest.fixture
def on_features(random_backbone):
    """Adapters behind the backbone: images in, features trained on."""
    return CAPClassifier(
        backbone=random_backbone,
        class_names=NAMES,
        tau=0.2,
        tuning=AdapterTuning(**QUICK),
        **PAPER,
    )


@pytest.fixture(scope="module")
def pickled(problem):
    classifier = CAPClassifier(tuning=AdapterTuning(**QUICK), **PAPER)
    return pickle.dumps(classifier.fit(problem.space, problem.target))


@pytest.fixture
def fitted(pickled):
    return pickle.loads(pickled)


@pytest.fixture
def short_prompts(monkeypatch):
    """Prompt tuning whose defaults train for one step."""
    schedule = PromptTuning.schedule
    monkeypatch.setattr(
        PromptTuning,
        "schedule",
        lambda self: dataclasses.replace(schedule(self), epochs=1, steps_per_epoch=1),
    )


def choices(caplog):
    """What was said about "auto"."""
    return [row.getMessage() for row in caplog.records if row.name == "capkit.tuning.choosing"]


def partly_labeled(target, n_labeled=30):
    y = np.array(target)
    y[n_labeled:] = -1
    return y


def assert_same_training(first, second):
    assert first.history_ == second.history_
    assert first._model.weights.keys() == second._model.weights.keys() != set()
    for name, value in first._model.weights.items():
        assert np.array_equal(second._model.weights[name], value), name


class TestTraining:
    def test_beats_zero_shot_on_a_planted_problem(self):
        planted = make_concept_space(n_images=600, n_classes=10, n_features=32, random_state=0)
        zero_shot = (planted.space.predict() == planted.target).mean()
        classifier = CAPClassifier(tuning="adapter", random_state=0).fit(planted.space)
        assert classifier.score(planted.space, planted.target) > zero_shot + 0.05

    @pytest.mark.parametrize("paradigm", ["ul", "ssl", "trzsl"])
    def test_every_paradigm_trains_prompts_from_images(self, prompt, images, paradigm):
        y = np.where(np.arange(24) % 4 < 3, np.arange(24) % 4, -1)
        if paradigm == "ssl":
            y[8:] = -1
        prompt.set_params(paradigm=paradigm).fit(images, y)
        assert prompt.predict(images).shape == (24,)
        untrained = CLIPEncoder(prompt.backbone, class_names=NAMES).fit(images)
        assert not np.allclose(prompt.text_features_, untrained.text_features_, atol=1e-4)

    def test_same_seed_same_training(self, adapter, problem):
        first = adapter.fit(problem.space)
        torch.rand(3)  # the global generator plays no part
        assert_same_training(first, clone(adapter).fit(problem.space))

    def test_other_seed_other_training(self, adapter, problem):
        first = adapter.fit(problem.space)
        second = clone(adapter).set_params(random_state=1).fit(problem.space)
        assert first.history_ != second.history_

    def test_same_seed_same_prompts(self, prompt, images):
        assert_same_training(prompt.fit(images), clone(prompt).fit(images))

    def test_only_prompts_and_adapters_change(self, prompt, images):
        model = prompt.fit(images[:8]).backbone_.model
        before = {name: value.clone() for name, value in model.state_dict().items()}
        prompt.fit(images)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_margin_is_zero_in_the_first_epoch_and_then_the_calibrator_s(self, adapter, problem):
        adapter.fit(problem.space)
        first, second = adapter.history_[:2]
        assert first["margin_max"] == 0
        assert second["margin_max"] > 0
        assert np.array_equal(adapter.margin_matrix_, adapter.calibrator_.margin_matrix_)

    def test_m_zero_means_no_margin(self, adapter, problem):
        adapter.set_params(m=0).fit(problem.space)
        assert not adapter.margin_matrix_.any()

    def test_main_samples_are_renewed_and_grow(self, adapter, problem):
        adapter.set_params(tuning__epochs=5, renewal=MainSampleRenewal(every=2), top_k=2)
        adapter.fit(problem.space)
        numbers = [row["n_main"] for row in adapter.history_]
        assert numbers[0] == numbers[1] == 12
        assert numbers[2] == numbers[3] > numbers[1]
        assert numbers[4] > numbers[3]
        assert (adapter.main_labels_ >= 0).sum() == numbers[4]

    def test_main_samples_that_are_never_renewed_stay(self, adapter, problem):
        adapter.set_params(tuning__epochs=7, renewal=MainSampleRenewal(every=None), top_k=2)
        adapter.fit(problem.space)
        assert [row["n_main"] for row in adapter.history_] == [12] * 7

    def test_history_has_every_epoch_s_numbers(self, adapter, problem):
        adapter.fit(problem.space)
        assert [row["epoch"] for row in adapter.history_] == [1, 2, 3]
        for row in adapter.history_:
            assert row["loss"] == pytest.approx(row["main_loss"] + row["pseudo_loss"])
            assert 0 <= row["kept"] <= 1
            assert 0 <= row["class_balance"] <= 1
            # 4 steps of 8 images are 32 of the 200
            assert len(row["class_counts"]) == 6
            assert sum(row["class_counts"]) <= 32

    def test_no_confident_prediction_is_survived(self, adapter, problem):
        adapter.set_params(tau=1.0)
        with pytest.warns(NoConfidentPredictionWarning):
            adapter.fit(problem.space)
        assert [row["kept"] for row in adapter.history_] == [0, 0, 0]
        assert not (adapter.pseudo_labels_ >= 0).any()

    def test_fewer_images_than_a_batch(self, adapter, problem):
        adapter.fit(problem.space[:5])
        assert adapter.predict(problem.space[:5]).shape == (5,)

    def test_pseudo_labels_are_predictions_above_tau(self, adapter, problem):
        adapter.set_params(tuning__epochs=8).fit(problem.space)
        labeled = adapter.pseudo_labels_ >= 0
        assert 0.3 < labeled.mean() < 1
        agreement = adapter.pseudo_labels_[labeled] == problem.target[labeled]
        assert agreement.mean() > 0.7

    def test_augment_may_be_any_transform(self, prompt, images):
        seen = []

        def flip(pixels):
            seen.append((tuple(pixels.shape), pixels.dtype))
            return pixels.flip(-1)

        prompt.set_params(tuning__augment=flip).fit(images)
        assert set(seen) == {((3, 32, 32), torch.uint8)}
        assert len(seen) == 3 * 4 * 8

    def test_augment_of_features_may_be_any_transform(self, adapter, problem):
        seen = []

        def shrink(feature):
            seen.append(tuple(feature.shape))
            return feature * 0.9

        adapter.set_params(tuning__augment=shrink).fit(problem.space)
        assert set(seen) == {(24,)}


class TestParadigms:
    def test_ul_does_not_look_at_labels(self, adapter, problem):
        first = adapter.fit(problem.space, problem.target)
        second = clone(adapter).fit(problem.space, problem.target[::-1])
        assert_same_training(first, second)

    def test_ssl_trains_on_the_labels(self, adapter, problem):
        y = partly_labeled(problem.target)
        first = adapter.set_params(paradigm="ssl").fit(problem.space, y)
        wrong = np.where(y >= 0, (y + 1) % 6, -1)
        second = clone(adapter).fit(problem.space, wrong)
        assert "labeled_loss" in first.history_[0]
        assert second.history_[0]["labeled_loss"] > first.history_[0]["labeled_loss"]

    def test_labeled_images_are_no_main_samples(self, adapter, problem):
        y = partly_labeled(problem.target)
        adapter.set_params(paradigm="ssl").fit(problem.space, y)
        assert (adapter.main_labels_[:30] == -1).all()
        assert (adapter.pseudo_labels_[:30] == -1).all()

    def test_trzsl_gives_pseudolabels_of_unseen_classes_only(self, adapter, problem):
        seen = [0, 2, 3]
        y = np.where(np.isin(problem.target, seen), problem.target, -1)
        adapter.set_params(paradigm="trzsl").fit(problem.space, y)
        for given in (adapter.main_labels_, adapter.pseudo_labels_):
            assert set(given[given >= 0]) <= {1, 4, 5}
        for row in adapter.history_:
            assert np.array(row["class_counts"])[seen].sum() == 0

    def test_trzsl_gives_seen_classes_no_margin(self, adapter, problem):
        seen = [0, 2, 3]
        y = np.where(np.isin(problem.target, seen), problem.target, -1)
        adapter.set_params(paradigm="trzsl").fit(problem.space, y)
        assert not adapter.margin_matrix_[seen].any()
        assert adapter.margin_matrix_[[1, 4, 5]].any()

    def test_trzsl_predicts_seen_and_unseen_classes(self, adapter, problem):
        y = np.where(np.isin(problem.target, [0, 2, 3]), problem.target, -1)
        adapter.set_params(paradigm="trzsl").fit(problem.space, y)
        assert set(adapter.predict(problem.space)) >= {0, 1, 2, 3, 4}


class TestStages:
    def test_pipeline_equals_the_classifier_alone(self, images, random_backbone):
        alone = CAPClassifier(
            backbone=random_backbone,
            class_names=NAMES,
            t=2,
            tau=0.3,
            m=5,
            tuning=AdapterTuning(**QUICK),
            **PAPER,
        ).fit(images)
        pipeline = make_pipeline(
            CLIPEncoder(random_backbone, class_names=NAMES),
            MismatchDetector(t=2, random_state=0),
            ConceptAligner(random_state=0),
            MarginCalibrator(tau=0.3, m=5),
            CAPClassifier(tuning=AdapterTuning(**QUICK), **PAPER),
        ).fit(images)
        assert_same_training(alone, pipeline[-1])
        assert np.array_equal(alone.predict_proba(images), pipeline.predict_proba(images))

    def test_pipeline_equals_the_classifier_alone_with_prompts(self, prompt, images):
        pipeline = make_pipeline(
            CLIPEncoder(prompt.backbone, class_names=NAMES),
            clone(prompt).set_params(class_names=None),
        ).fit(images)
        assert_same_training(prompt.fit(images), pipeline[-1])
        assert np.array_equal(prompt.predict_proba(images), pipeline.predict_proba(images))

    def test_what_an_earlier_stage_did_is_kept(self, adapter, problem):
        detected = MismatchDetector(t=3, random_state=5).fit_transform(problem.space)
        adapter.fit(detected)
        assert adapter.detector_ is None
        np.testing.assert_array_equal(adapter.mismatched_, detected.mismatch.mismatched)

    def test_names_of_mismatched_classes_agree_with_their_indices(self, adapter):
        planted = make_concept_space(n_images=400, n_classes=6, n_mismatched=2, random_state=0)
        names = ["yak", "cat", "emu", "ant", "fox", "dog"]
        adapter.set_params(t=2).fit(dataclasses.replace(planted.space, class_names=names))
        assert adapter.mismatched_.dtype == np.int64
        assert adapter.mismatched_.tolist() == planted.mismatched.tolist()
        assert adapter.mismatched_names_ == [names[index] for index in planted.mismatched]

    def test_descriptions_are_those_of_the_aligned_classes(self, adapter, random_backbone):
        planted = make_concept_space(n_images=400, n_classes=6, n_features=32, random_state=0)
        space = dataclasses.replace(planted.space, backbone=random_backbone)
        aligner = ConceptAligner(
            describer=lambda name, n: [f"{name}, {i}" for i in range(n)], accept="always"
        )
        adapter.set_params(t=2, aligner=aligner).fit(space)
        assert adapter.mismatched_.tolist() == planted.mismatched.tolist()
        assert list(adapter.descriptions_) == adapter.mismatched_names_
        for name, text in adapter.descriptions_.items():
            assert text in [f"{name}, {i}" for i in range(8)]
        assert adapter.descriptions_ == adapter.aligner_.descriptions_

    def test_given_stages_are_cloned_and_used(self, adapter, problem):
        detector, calibrator = MismatchDetector(t=1), MarginCalibrator(m=0)
        adapter.set_params(detector=detector, calibrator=calibrator).fit(problem.space)
        assert adapter.detector_.t == 1
        assert not hasattr(detector, "mismatched_")
        assert not adapter.margin_matrix_.any()

    def test_passthrough_leaves_the_texts(self, adapter, problem):
        adapter.set_params(aligner="passthrough").fit(problem.space)
        assert adapter.aligner_ is None
        assert adapter.descriptions_ == {}
        np.testing.assert_array_equal(adapter.text_features_, problem.space.text_features)

    def test_passthrough_detects_all_the_same(self, adapter, problem):
        adapter.set_params(aligner="passthrough", t=2).fit(problem.space)
        expected = MismatchDetector(t=2, random_state=0).fit(problem.space).mismatched_
        assert len(expected) == 2
        np.testing.assert_array_equal(adapter.mismatched_, expected)
        np.testing.assert_array_equal(adapter.detector_.mismatched_, expected)

    @pytest.mark.parametrize(
        ("parameters", "remedy"),
        [
            ({"t": 2, "detector": MismatchDetector()}, "set detector__t"),
            ({"describer": print, "aligner": ConceptAligner()}, "set aligner__describer"),
            ({"tau": 0.5, "calibrator": MarginCalibrator()}, "set calibrator__tau"),
            ({"m": 1.0, "calibrator": MarginCalibrator()}, "set calibrator__m"),
        ],
    )
    def test_idle_parameters_are_named(self, adapter, problem, parameters, remedy):
        adapter.set_params(**parameters)
        with pytest.warns(UserWarning, match=f"{next(iter(parameters))}=.*{remedy}") as caught:
            adapter.fit(problem.space)
        idle = [row for row in caught if row.category is not AdaptationWarning]
        assert [warning.filename for warning in idle] == [__file__]

    def test_describer_beside_passthrough_is_named(self, adapter, problem):
        adapter.set_params(aligner="passthrough", describer=print)
        with pytest.warns(UserWarning, match="describer=.* has no effect"):
            adapter.fit(problem.space)

    @pytest.mark.parametrize(
        ("parameters", "stage"),
        [
            ({"t": 2}, "MismatchDetector"),
            ({"detector": MismatchDetector()}, "MismatchDetector"),
            ({"describer": print}, "ConceptAligner"),
            ({"aligner": ConceptAligner()}, "ConceptAligner"),
            ({"aligner": "passthrough"}, "ConceptAligner"),
            ({"tau": 0.5}, "MarginCalibrator"),
            ({"m": 2.0}, "MarginCalibrator"),
            ({"calibrator": MarginCalibrator(m=3.0)}, "MarginCalibrator"),
        ],
    )
    def test_parameters_that_earlier_stages_decide_are_named(
        self, adapter, problem, parameters, stage
    ):
        space = MarginCalibrator().fit_transform(
            ConceptAligner(random_state=0).fit_transform(problem.space)
        )
        (name,) = parameters
        with pytest.warns(UserWarning, match=f"{name}=.*the {stage} before this step decides"):
            adapter.set_params(**parameters).fit(space)

    @pytest.mark.filterwarnings("error")
    def test_parameters_that_have_an_effect_are_not_named(self, adapter, problem):
        adapter.set_params(t=2, tau=0.5, m=1.0, detector=None).fit(problem.space)
        adapter.set_params(aligner="passthrough").fit(problem.space)

    def test_encoder_is_used_as_it_is_given(self, on_features, images):
        encoder = CLIPEncoder(template="a drawing of a {}")
        on_features.set_params(encoder=encoder, aligner="passthrough").fit(images)
        expected = CLIPEncoder(
            on_features.backbone, template="a drawing of a {}", class_names=NAMES
        ).fit(images)
        np.testing.assert_array_equal(on_features.text_features_, expected.text_features_)
        assert encoder.backbone == "auto"
        assert not hasattr(encoder, "text_features_")

    def test_backbone_and_class_names_may_be_the_encoder_s(self, on_features, images):
        expected = clone(on_features).fit(images)
        encoder = CLIPEncoder(on_features.backbone, class_names=NAMES)
        on_features.set_params(backbone="auto", class_names=None, encoder=encoder).fit(images)
        assert on_features.class_names_ == tuple(NAMES)
        assert_same_training(on_features, expected)

    def test_unreadable_images_are_skipped_where_the_encoder_says_so(
        self, on_features, images, tmp_path
    ):
        (tmp_path / "broken.png").write_bytes(b"no image")
        mixed = [*images[:10], tmp_path / "broken.png", *images[10:]]
        y = [*(["cat"] * 4), *(["dog"] * 4), None, None, "cat", *([None] * 14)]
        on_features.set_params(paradigm="ssl", encoder=CLIPEncoder(on_error="skip"))
        with pytest.warns(UserWarning, match="1 of 25 images could not be read"):
            on_features.fit(mixed, y)
        expected = clone(on_features).fit(images, [*y[:10], *y[11:]])
        assert_same_training(on_features, expected)


class TestTuning:
    """What ``tuning`` stands for, and what "auto" takes."""

    @pytest.mark.parametrize(
        ("tuning", "expected"), [("prompt", PromptTuning()), ("adapter", AdapterTuning())]
    )
    def test_names_stand_for_the_defaults(self, tuning, expected):
        (found,) = candidate_tunings(tuning)
        assert type(found) is type(expected)
        assert found.get_params() == expected.get_params()

    def test_what_it_stood_for_is_kept(self, adapter, problem):
        given = adapter.tuning
        adapter.fit(problem.space)
        assert adapter.tuning_ is not given  # a later set_params must not reach the fitted one
        assert adapter.tuning_.get_params() == given.get_params()

    def test_auto_takes_prompts_for_a_small_model(
        self, random_backbone, images, short_prompts, caplog
    ):
        caplog.set_level(logging.INFO, "capkit.tuning.choosing")
        classifier = CAPClassifier(backbone=random_backbone, class_names=NAMES, random_state=0)
        classifier.fit(images)
        assert type(classifier.tuning_) is PromptTuning
        assert classifier.tuning == "auto"
        assert choices(caplog) == ["tuning='auto': prompts are trained, on cpu"]

    def test_auto_takes_adapters_without_images(self, problem, caplog):
        caplog.set_level(logging.INFO, "capkit.tuning.choosing")
        classifier = CAPClassifier(**PAPER).fit(problem.space)
        assert type(classifier.tuning_) is AdapterTuning
        (said,) = choices(caplog)
        assert "adapters are trained, as prompts cannot be: " in said
        assert "no images" in said
        named = CAPClassifier(tuning="adapter", **PAPER).fit(problem.space)
        assert_same_training(classifier, named)

    def test_auto_takes_adapters_for_a_model_that_is_large_on_the_cpu(
        self, random_backbone, images, monkeypatch, caplog
    ):
        caplog.set_level(logging.INFO, "capkit.tuning.choosing")
        monkeypatch.setattr("capkit.tuning.choosing._SMALL_MODEL", 1_000_000)
        classifier = CAPClassifier(
            backbone=random_backbone, class_names=NAMES, device="cpu", random_state=0
        ).fit(images)
        assert type(classifier.tuning_) is AdapterTuning
        (said,) = choices(caplog)
        # 49408 * 32 numbers of token embeddings, and little else
        assert "a model of 2 million parameters take hours without a GPU" in said

    def test_auto_takes_adapters_where_prompts_cannot_enter(
        self, random_backbone, images, monkeypatch, caplog
    ):
        def refuse(model):
            raise UnsupportedBackboneError("a ResNet has no tokens")

        caplog.set_level(logging.INFO, "capkit.tuning.choosing")
        monkeypatch.setattr("capkit.tuning.choosing.find_visual_tower", refuse)
        classifier = CAPClassifier(backbone=random_backbone, class_names=NAMES, random_state=0)
        assert type(classifier.fit(images).tuning_) is AdapterTuning
        (said,) = choices(caplog)
        assert said.endswith("as prompts cannot be: a ResNet has no tokens")

    @pytest.mark.parametrize("tuning", ["prompt", "adapter"])
    def test_a_choice_of_the_user_is_not_commented(
        self, random_backbone, images, short_prompts, caplog, tuning
    ):
        caplog.set_level(logging.INFO, "capkit.tuning.choosing")
        CAPClassifier(backbone=random_backbone, class_names=NAMES, tuning=tuning).fit(images)
        assert choices(caplog) == []

    def test_auto_with_an_inference_that_adapters_do_not_have(self, problem):
        with pytest.raises(ValueError, match="inference='no_adapters' is not for tuning='adapt"):
            CAPClassifier(inference="no_adapters").fit(problem.space)


class TestParameters:
    def test_there_are_few_enough_to_read(self):
        assert len(inspect.signature(CAPClassifier).parameters) <= 24

    def test_nested_ones_are_set_by_their_owner_s_name(self):
        classifier = CAPClassifier(
            tuning=PromptTuning(), encoder=CLIPEncoder(), renewal=MainSampleRenewal()
        )
        classifier.set_params(
            tuning__epochs=7, encoder__template="{}", renewal__every=None, tau=0.5
        )
        assert classifier.tuning.epochs == 7
        assert classifier.encoder.template == "{}"
        assert classifier.renewal.every is None
        assert classifier.get_params()["tuning__epochs"] == 7

    def test_an_owner_that_is_set_in_the_same_call_counts(self):
        classifier = CAPClassifier().set_params(tuning=AdapterTuning(), tuning__epochs=7)
        assert classifier.tuning.epochs == 7

    @pytest.mark.parametrize(
        ("name", "owner"),
        [
            ("tuning__epochs", "tuning='auto'"),
            ("encoder__template", "encoder=None"),
            ("renewal__every", "renewal=None"),
            ("detector__t", "detector=None"),
        ],
    )
    def test_nested_ones_of_what_is_no_object_are_refused(self, name, owner):
        with pytest.raises(ValueError, match=f"{owner} is no object with parameters of its own"):
            CAPClassifier().set_params(**{name: 1})

    def test_unknown_ones_are_refused(self):
        with pytest.raises(ValueError, match="Invalid parameter 'epochs' for estimator"):
            CAPClassifier().set_params(epochs=1)
        with pytest.raises(ValueError, match="Invalid parameter 'depth' for estimator"):
            CAPClassifier(tuning=PromptTuning()).set_params(tuning__depth=1)

    def test_torchvision_s_transform_is_a_view_like_any_other(self, prompt, images):
        view = RandomResizedCrop(32)
        prompt.set_params(tuning__augment=view)
        assert prompt.get_params()["tuning__augment"] is view
        assert prompt.get_params(deep=False)["tuning"] is prompt.tuning
        assert "RandomResizedCrop(size=(32, 32)" in repr(prompt)
        copy = clone(prompt)
        assert copy.tuning.augment is not view
        assert copy.tuning.augment.size == (32, 32)
        assert copy.tuning.get_params().keys() == prompt.tuning.get_params().keys()
        copy.fit(images)
        assert copy.tuning_.augment.size == (32, 32)
        assert_same_training(prompt.fit(images), copy)
        assert "RandomResizedCrop" in repr(prompt)

    def test_seed_repeats_the_fit(self, adapter, problem):
        adapter.set_params(random_state=np.random.RandomState(3)).fit(problem.space)
        again = clone(adapter).set_params(random_state=adapter.seed_).fit(problem.space)
        assert_same_training(adapter, again)
        assert again.seed_ == adapter.seed_


class TestPrediction:
    @pytest.mark.parametrize("inference", ["main", "pseudo", "ensemble"])
    def test_every_way_to_predict_is_consistent(self, fitted, problem, inference):
        fitted.set_params(inference=inference)
        probabilities = fitted.predict_proba(problem.space)
        assert probabilities.shape == (200, 6)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
        predicted = fitted.classes_[probabilities.argmax(axis=1)]
        assert (predicted == fitted.predict(problem.space)).all()
        scores = fitted.decision_function(problem.space)
        assert (scores.argmax(axis=1) == probabilities.argmax(axis=1)).all()
        features = fitted.transform(problem.space)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)

    def test_ensemble_is_the_mean_of_the_branches(self, fitted, problem):
        by_mode = {
            mode: fitted.set_params(inference=mode).predict_proba(problem.space)
            for mode in ("main", "pseudo", "ensemble")
        }
        expected = (by_mode["main"] + by_mode["pseudo"]) / 2
        np.testing.assert_allclose(by_mode["ensemble"], expected, atol=1e-6)
        assert not np.allclose(by_mode["main"], by_mode["pseudo"], atol=1e-3)

    @pytest.mark.parametrize(
        ("paradigm", "default"), [("ul", "ensemble"), ("ssl", "ensemble"), ("trzsl", "main")]
    )
    def test_default_way_to_predict_uses_only_what_saw_every_class(
        self, adapter, problem, paradigm, default
    ):
        seen = problem.target < 4
        y = np.where(seen & (np.arange(len(seen)) % 2 == 0), problem.target, -1)
        adapter.set_params(paradigm=paradigm).fit(problem.space, y)
        left_open = adapter.predict_proba(problem.space)
        for mode in ("main", "ensemble"):
            probabilities = adapter.set_params(inference=mode).predict_proba(problem.space)
            assert np.array_equal(left_open, probabilities) == (mode == default)

    def test_prompts_alone_switch_the_adapters_off(self, prompt, images):
        prompt.fit(images)
        cosines = prompt.transform(images) @ prompt.text_features_.T
        expected = prompt.logit_scale_ * cosines
        np.testing.assert_allclose(prompt.decision_function(images), expected, atol=1e-3)
        other = prompt.set_params(inference="main").decision_function(images)
        assert not np.allclose(other, expected, atol=1e-3)

    @pytest.mark.parametrize("make_labels", [lambda i: np.array(NAMES)[i], lambda i: i])
    def test_predictions_come_in_the_kind_of_y(self, on_features, images, make_labels):
        y = make_labels(np.arange(24) % 4)
        on_features.fit(images, y)
        assert on_features.classes_.dtype.kind == y.dtype.kind
        assert set(on_features.predict(images)) <= set(y)

    def test_predictions_are_names_where_there_was_no_y(self, on_features, images):
        on_features.fit(images)
        assert set(on_features.predict(images)) <= set(NAMES)

    def test_columns_are_in_the_order_of_classes(self, on_features, images):
        names = ["fox", "cat", "emu", "dog"]
        on_features.set_params(class_names=names).fit(images)
        assert on_features.classes_.tolist() == sorted(names)
        order = [names.index(name) for name in sorted(names)]
        y = np.where(np.arange(24) < 23, 0, -1)  # the mark says that these are no positions
        by_index = clone(on_features).fit(images, y).predict_proba(images)
        found = on_features.predict_proba(images)
        np.testing.assert_allclose(found, by_index[:, order], rtol=1e-9)

    def test_two_classes_have_one_decision(self, on_features, images):
        on_features.set_params(class_names=["dog", "cat"]).fit(images)
        decision = on_features.decision_function(images)
        assert decision.shape == (24,)
        assert ((decision > 0) == (on_features.predict(images) == "dog")).all()

    def test_temperature_divides_the_logits(self, fitted, problem):
        hot = clone(fitted).set_params(temperature=50.0).fit(problem.space)
        assert hot.predict_proba(problem.space).max() < fitted.predict_proba(problem.space).max()
        assert (hot._scores(problem.space) == fitted._scores(problem.space)).all()

    @pytest.mark.parametrize("pseudo_labels", ["zero_shot", "gaussian"])
    def test_temperature_is_fitted_to_labels_that_were_left_out(
        self, adapter, problem, pseudo_labels
    ):
        y = partly_labeled(problem.target, n_labeled=100)
        adapter.set_params(paradigm="ssl", temperature="labeled", pseudo_labels=pseudo_labels)
        adapter.set_params(t=0)  # so that the stages before find the same without some images
        adapter.fit(problem.space, y)
        logits = np.empty((100, 6))
        for _, left_out in KFold(3, shuffle=True, random_state=0).split(np.arange(100)):
            rest = np.delete(np.arange(200), left_out)
            other = clone(adapter).set_params(temperature=1.0).fit(problem.space[rest], y[rest])
            logits[left_out] = other.decision_function(problem.space[left_out])
        found = adapter.temperature_
        assert found == pytest.approx(fit_temperature(logits, problem.target[:100]), rel=1e-4)
        assert found != 1.0

    def test_fitted_temperature_is_the_likeliest(self):
        # 3 of 4 right at a difference of 2: exp(2 / T) = 3
        logits = np.array([[2.0, 0.0]] * 4)
        found = fit_temperature(logits, np.array([0, 0, 0, 1]))
        assert found == pytest.approx(2 / np.log(3), rel=1e-4)

    def test_score_leaves_unlabeled_images_out(self, fitted, problem):
        right = fitted.predict(problem.space)
        y = np.where(np.arange(200) < 150, right, -1)
        y[:50] = (y[:50] + 1) % 6
        assert fitted.score(problem.space, y) == pytest.approx(100 / 150)
        names = np.array(problem.space.class_names, dtype=object)[right]
        assert fitted.score(problem.space, names) == 1.0
        weight = np.where(np.arange(200) < 50, 0.0, 1.0)
        assert fitted.score(problem.space, y, sample_weight=weight) == 1.0

    def test_score_of_no_labels_is_an_error(self, fitted, problem):
        with pytest.raises(ValueError, match="at least one labeled image"):
            fitted.score(problem.space, np.full(200, -1))

    def test_rows_do_not_depend_on_each_other(self, fitted, problem):
        whole = fitted.predict_proba(problem.space)
        some = fitted.predict_proba(problem.space[[7, 3]])
        np.testing.assert_allclose(some, whole[[7, 3]], atol=1e-5)

    def test_images_and_their_space_give_the_same(self, prompt, images):
        prompt.fit(images)
        space = CLIPEncoder(prompt.backbone, class_names=NAMES).fit_transform(images)
        assert np.array_equal(prompt.predict_proba(space), prompt.predict_proba(images))

    def test_no_images_at_all(self, on_features, images):
        with pytest.raises(
            ValueError, match=r"0 sample\(s\): CAPClassifier expected at least 1 im"
        ):
            on_features.fit(images).predict(images[:0])

    def test_before_fit(self, problem):
        for method in ("predict", "predict_proba", "transform", "decision_function"):
            with pytest.raises(NotFittedError):
                getattr(CAPClassifier(), method)(problem.space)

    def test_space_of_another_width(self, fitted):
        other = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ValueError, match="X has 16 features, but CAPClassifier is expecting"):
            fitted.predict(other)

    def test_space_of_another_backbone(self, on_features, images):
        on_features.fit(images)
        space = CLIPEncoder(on_features.backbone, class_names=NAMES).fit_transform(images)
        message = "CAPClassifier expected the backbone with the fingerprint .* Bring the old weigh"
        with pytest.raises(BackboneMismatchError, match=message):
            on_features.predict(dataclasses.replace(space, backbone_id="0" * 64))

    def test_images_where_the_backbone_is_not_known(self, fitted, images):
        with pytest.raises(ValueError, match="names no backbone"):
            fitted.predict(images)

    def test_no_images(self, fitted, problem):
        with pytest.raises(
            ValueError, match=r"CAPClassifier expected at least 1 image\(s\), got 0"
        ):
            fitted.predict(problem.space[[]])

    def test_copies_do_not_hold_the_backbone(self, prompt, images, tmp_path):
        prompt.fit(images)
        before = prompt.predict_proba(images)
        joblib.dump(prompt, tmp_path / "classifier.joblib")
        assert (tmp_path / "classifier.joblib").stat().st_size < 200_000  # the backbone has 6 MB
        for copy in (
            pickle.loads(pickle.dumps(prompt)),
            joblib.load(tmp_path / "classifier.joblib"),
        ):
            assert np.array_equal(copy.predict_proba(images), before)

    def test_predicts_without_the_text_tower(self, prompt, images, monkeypatch):
        prompt.fit(images)
        expected = prompt.predict(images)
        monkeypatch.setattr(type(prompt.backbone_.model), "encode_text", None)
        assert (pickle.loads(pickle.dumps(prompt)).predict(images) == expected).all()


def test_default_way_to_predict_is_that_of_the_fitted_paradigm(adapter, problem, tmp_path):
    y = np.where(problem.target < 4, problem.target, -1)
    adapter.set_params(paradigm="trzsl").fit(problem.space, y)
    expected = adapter.predict_proba(problem.space)
    adapter.set_params(paradigm="ul")
    assert np.array_equal(adapter.predict_proba(problem.space), expected)
    adapter.save(tmp_path / "model")
    loaded = CAPClassifier.load(tmp_path / "model")
    assert np.array_equal(loaded.predict_proba(problem.space), expected)
