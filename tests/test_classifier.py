"""Tests of CAPClassifier: what it trains, in each paradigm, and what it answers."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    MarginCalibrator,
    MismatchDetector,
)
from capkit.datasets import make_concept_space
from capkit.exceptions import BackboneMismatchError, NoConfidentPredictionWarning
from capkit.training.fitting import fit_temperature

NAMES = ["cat", "dog", "emu", "fox"]
QUICK = {"epochs": 3, "steps_per_epoch": 4, "batch_size": 8, "random_state": 0}


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
    return CAPClassifier(tuning="adapter", **QUICK)


@pytest.fixture
def prompt(random_backbone):
    return CAPClassifier(
        backbone=random_backbone, class_names=NAMES, tau=0.2, prompt_depth=2, **QUICK
    )


@pytest.fixture(scope="module")
def pickled(problem):
    return pickle.dumps(
        CAPClassifier(tuning="adapter", **QUICK).fit(problem.space, problem.target)
    )


@pytest.fixture
def fitted(pickled):
    return pickle.loads(pickled)


def partly_labeled(target, n_labeled=30):
    y = np.array(target)
    y[n_labeled:] = -1
    return y


def assert_same_training(first, second):
    assert first.history_ == second.history_
    for name, value in first._weights.items():
        assert np.array_equal(second._weights[name], value), name


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
        adapter.set_params(epochs=5, renew_every=2, top_k=2).fit(problem.space)
        numbers = [row["n_main"] for row in adapter.history_]
        assert numbers[0] == numbers[1] == 12
        assert numbers[2] == numbers[3] > numbers[1]
        assert numbers[4] > numbers[3]
        assert (adapter.main_labels_ >= 0).sum() == numbers[4]

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
        adapter.set_params(epochs=8).fit(problem.space)
        labeled = adapter.pseudo_labels_ >= 0
        assert 0.3 < labeled.mean() < 1
        agreement = adapter.pseudo_labels_[labeled] == problem.target[labeled]
        assert agreement.mean() > 0.7

    def test_augment_may_be_any_transform(self, prompt, images):
        seen = []

        def flip(pixels):
            seen.append((tuple(pixels.shape), pixels.dtype))
            return pixels.flip(-1)

        prompt.set_params(augment=flip).fit(images)
        assert set(seen) == {((3, 32, 32), torch.uint8)}
        assert len(seen) == 3 * 4 * 8

    def test_augment_of_features_may_be_any_transform(self, adapter, problem):
        seen = []

        def shrink(feature):
            seen.append(tuple(feature.shape))
            return feature * 0.9

        adapter.set_params(augment=shrink).fit(problem.space)
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
            tuning="adapter",
            t=2,
            tau=0.3,
            m=5,
            **QUICK,
        ).fit(images)
        pipeline = make_pipeline(
            CLIPEncoder(random_backbone, class_names=NAMES),
            MismatchDetector(t=2, random_state=0),
            ConceptAligner(random_state=0),
            MarginCalibrator(tau=0.3, m=5),
            CAPClassifier(tuning="adapter", **QUICK),
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
        assert adapter.mismatched_ == [
            problem.space.class_names[index] for index in detected.mismatch.mismatched
        ]

    def test_given_stages_are_cloned_and_used(self, adapter, problem):
        detector, calibrator = MismatchDetector(t=1), MarginCalibrator(m=0)
        adapter.set_params(detector=detector, calibrator=calibrator).fit(problem.space)
        assert adapter.detector_.t == 1
        assert not hasattr(detector, "mismatched_")
        assert not adapter.margin_matrix_.any()

    def test_passthrough_leaves_the_texts(self, adapter, problem):
        adapter.set_params(aligner="passthrough").fit(problem.space)
        assert adapter.aligner_ is None
        assert adapter.mismatched_ == []
        np.testing.assert_array_equal(adapter.text_features_, problem.space.text_features)

    @pytest.mark.parametrize(
        ("parameters", "remedy"),
        [
            ({"t": 2, "detector": MismatchDetector()}, "set detector__t"),
            ({"t": 2, "aligner": ConceptAligner()}, "set aligner__detector__t"),
            ({"tau": 0.5, "calibrator": MarginCalibrator()}, "set calibrator__tau"),
            ({"m": 1.0, "calibrator": MarginCalibrator()}, "set calibrator__m"),
            ({"n_descriptions": 2, "aligner": ConceptAligner()}, "set aligner__n_descriptions"),
            ({"t": 2, "aligner": "passthrough"}, "passthrough"),
        ],
    )
    def test_idle_parameters_are_named(self, adapter, problem, parameters, remedy):
        adapter.set_params(**parameters)
        with pytest.warns(UserWarning, match=f"{next(iter(parameters))}=.*{remedy}"):
            adapter.fit(problem.space)

    def test_parameters_that_earlier_stages_decide_are_named(self, adapter, problem):
        space = MarginCalibrator().fit_transform(
            ConceptAligner(random_state=0).fit_transform(problem.space)
        )
        for name, value in (("t", 2), ("tau", 0.5), ("n_descriptions", 2)):
            with pytest.warns(UserWarning, match=f"{name}=.* before this step decides"):
                clone(adapter).set_params(**{name: value}).fit(space)


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
    def test_predictions_come_in_the_kind_of_y(self, prompt, images, make_labels):
        y = make_labels(np.arange(24) % 4)
        prompt.set_params(tuning="adapter").fit(images, y)
        assert prompt.classes_.dtype.kind == y.dtype.kind
        assert set(prompt.predict(images)) <= set(y)

    def test_predictions_are_names_where_there_was_no_y(self, prompt, images):
        prompt.set_params(tuning="adapter").fit(images)
        assert set(prompt.predict(images)) <= set(NAMES)

    def test_columns_are_in_the_order_of_classes(self, prompt, images):
        names = ["fox", "cat", "emu", "dog"]
        prompt.set_params(tuning="adapter", class_names=names).fit(images)
        assert prompt.classes_.tolist() == sorted(names)
        order = [names.index(name) for name in sorted(names)]
        by_index = clone(prompt).fit(images, np.zeros(24, dtype=int)).predict_proba(images)
        np.testing.assert_allclose(prompt.predict_proba(images), by_index[:, order], rtol=1e-9)

    def test_two_classes_have_one_decision(self, prompt, images):
        prompt.set_params(tuning="adapter", class_names=["dog", "cat"]).fit(images)
        decision = prompt.decision_function(images)
        assert decision.shape == (24,)
        assert ((decision > 0) == (prompt.predict(images) == "dog")).all()

    def test_temperature_divides_the_logits(self, fitted, problem):
        hot = clone(fitted).set_params(temperature=50.0).fit(problem.space)
        assert hot.predict_proba(problem.space).max() < fitted.predict_proba(problem.space).max()
        assert (hot._scores(problem.space) == fitted._scores(problem.space)).all()

    def test_temperature_is_fitted_to_labels(self, adapter, problem):
        y = partly_labeled(problem.target, n_labeled=100)
        adapter.set_params(paradigm="ssl", temperature="labeled").fit(problem.space, y)
        assert adapter.temperature_ != 1.0
        labeled = problem.space[:100]
        scores = adapter._scores(labeled)
        assert adapter.temperature_ == fit_temperature(scores, problem.target[:100])

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

    def test_before_fit(self, problem):
        for method in ("predict", "predict_proba", "transform", "decision_function"):
            with pytest.raises(NotFittedError):
                getattr(CAPClassifier(), method)(problem.space)

    def test_space_of_another_width(self, fitted):
        other = make_concept_space(n_images=9, n_classes=3, n_features=16).space
        with pytest.raises(ValueError, match="X has 16 features, but CAPClassifier is expecting"):
            fitted.predict(other)

    def test_space_of_another_backbone(self, prompt, images):
        import dataclasses

        prompt.set_params(tuning="adapter").fit(images)
        space = CLIPEncoder(prompt.backbone, class_names=NAMES).fit_transform(images)
        with pytest.raises(BackboneMismatchError, match="Bring the old weights back"):
            prompt.predict(dataclasses.replace(space, backbone_id="0" * 64))

    def test_images_where_the_backbone_is_not_known(self, fitted, images):
        with pytest.raises(ValueError, match="names no backbone"):
            fitted.predict(images)

    def test_no_images(self, fitted, problem):
        with pytest.raises(ValueError, match="0 sample"):
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
