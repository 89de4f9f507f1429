"""CAPClassifier as it is by default: labels from the Gaussians, and a guard that holds back."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

from capkit import (
    CAPClassifier,
    ConceptAligner,
    GaussianTransduction,
    MarginCalibrator,
    MismatchDetector,
)
from capkit._temperature import fit_temperature
from capkit.baselines import GaussianTransductionClassifier
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import AdaptationWarning
from capkit.guard import AdaptationReport
from capkit.training.run import train
from capkit.tuning import AdapterTuning

# Said of what the guard holds back, which most of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::capkit.exceptions.AdaptationWarning")

BRIEF = AdapterTuning(epochs=6)
UNGUARDED = GaussianTransduction(guard=False)


def weak_texts(seed, n_images=600, text_noise=1.2):
    """Six classes whose texts say little, of which there are many images."""
    return make_concept_space(
        n_images, 6, 32, n_mismatched=0, text_noise=text_noise, random_state=seed
    )


def few_images(seed=0):
    """Five images of each of twenty classes."""
    return make_concept_space(100, 20, 64, random_state=seed)


def cap(paradigm="ul", **parameters):
    return CAPClassifier(paradigm, **{"tuning": BRIEF, "random_state": 0, **parameters})


def predicted(classifier, space):
    """As indices; nothing here has other labels than names."""
    names = {name: index for index, name in enumerate(space.class_names)}
    return np.array([names[name] for name in classifier.predict(space)])


def accuracy(classifier, problem, rows=slice(None)):
    return (predicted(classifier, problem.space) == problem.target)[rows].mean()


def few_labels(problem, n_a_class=5):
    y = np.full(len(problem.target), -1)
    for index in np.unique(problem.target):
        y[np.flatnonzero(problem.target == index)[:n_a_class]] = index
    return y


@pytest.fixture(scope="module")
def problem():
    return weak_texts(2)


@pytest.fixture(scope="module")
def fitted(problem):
    return cap().fit(problem.space)


@pytest.fixture
def training_fails(monkeypatch):
    def fail(*args):
        pytest.fail("something was trained")

    monkeypatch.setattr("capkit.trained_classifier.train", fail)


# -- where there is something to gain


@pytest.mark.parametrize("seed", range(3))
def test_it_gains_over_zero_shot_and_loses_nothing_of_the_transduction(seed):
    problem = weak_texts(seed)
    zero_shot = (problem.space.predict() == problem.target).mean()
    classifier = cap(tuning="adapter").fit(problem.space)
    transduced = (classifier.transduction_.labels_ == problem.target).mean()
    found = accuracy(classifier, problem)
    assert found > zero_shot + 0.1
    assert found > transduced - 0.01
    assert classifier.adaptation_report_.kept == "training"


@pytest.mark.parametrize(
    ("n_classes", "n_features", "seed"), [(10, 32, 0), (10, 32, 2), (20, 64, 0)]
)
def test_training_takes_nothing_from_classes_that_have_no_text(n_classes, n_features, seed):
    """Their text has no say, and what training makes of it has none either."""
    problem = make_concept_space(600, n_classes, n_features, random_state=seed)
    classifier = cap(tuning="adapter", pseudo_labels=UNGUARDED).fit(problem.space)
    assert len(classifier.transduction_.mismatched_)
    transduced = (classifier.transduction_.labels_ == problem.target).mean()
    for inference in ("main", "pseudo", "ensemble"):
        classifier.set_params(inference=inference)
        assert accuracy(classifier, problem) > transduced - 0.01, inference


def test_new_images_are_predicted_as_well(problem):
    half = np.arange(600) % 2 == 0
    classifier = cap().fit(problem.space[half])
    new = problem.space[~half]
    zero_shot = (new.predict() == problem.target[~half]).mean()
    assert (predicted(classifier, new) == problem.target[~half]).mean() > zero_shot + 0.1


def test_the_report_is_of_what_is_predicted(problem, fitted):
    report, labels = fitted.adaptation_report_, predicted(fitted, problem.space)
    assert report.n_images == 600
    assert report.n_changed == (labels != problem.space.predict()).sum()
    assert report.images_per_class == np.median(np.bincount(labels, minlength=6))
    assert report.trust == fitted.transduction_.trust_ > 0.35
    assert [step.name for step in report.steps] == ["gaussian x 1", "training"]


@pytest.mark.filterwarnings("error::capkit.exceptions.AdaptationWarning")
def test_nothing_is_said_where_nothing_is_held_back(problem):
    assert not cap().fit(problem.space).adaptation_report_.is_doubtful


@pytest.mark.parametrize("seed", range(3))
def test_a_few_labels_help_where_texts_say_little(seed):
    problem = weak_texts(seed, text_noise=1.5)
    y = few_labels(problem)
    without = accuracy(cap().fit(problem.space), problem, y < 0)
    classifier = cap("ssl").fit(problem.space, y)
    found = (classifier.predict(problem.space) == problem.target)[y < 0].mean()
    assert found > without + 0.02


def unequal_problem(seed):
    """250 images of one class, down to 41 of the last three."""
    problem = weak_texts(seed, n_images=1500, text_noise=0.8)
    numbers = 250 * np.array([6, 4, 2, 1, 1, 1]) // 6
    rows = [np.flatnonzero(problem.target == c)[:n] for c, n in enumerate(numbers)]
    rows = np.sort(np.concatenate(rows))
    problem.space, problem.target = problem.space[rows], problem.target[rows]
    return problem, numbers / numbers.sum()


@pytest.mark.parametrize("pseudo_labels", ["gaussian", "zero_shot"])
@pytest.mark.parametrize("seed", range(2))
def test_known_proportions_help_where_classes_are_unequal(seed, pseudo_labels):
    problem, share = unequal_problem(seed)
    found = {}
    for name, given in (("true", share), ("equal", "equal"), ("reversed", share[::-1])):
        classifier = cap(class_prior=given, pseudo_labels=pseudo_labels).fit(problem.space)
        found[name] = accuracy(classifier, problem)
    assert found["true"] > found["equal"] + 0.02
    assert found["equal"] > found["reversed"]


def test_proportions_may_be_counts(problem):
    counts = [100, 100, 100, 100, 100, 200]
    first = cap(class_prior=counts).fit(problem.space)
    second = cap(class_prior=np.array(counts) / 700).fit(problem.space)
    assert first.history_ == second.history_
    expected = first.predict_proba(problem.space)
    np.testing.assert_allclose(second.predict_proba(problem.space), expected, rtol=1e-4)
    assert cap(class_prior="equal").fit(problem.space).history_ != first.history_


# -- where images are too few


@pytest.mark.usefixtures("training_fails")
def test_with_few_images_a_class_nothing_is_trained_and_a_warning_says_so():
    problem = few_images()
    classifier = cap()
    with pytest.warns(
        AdaptationWarning,
        match="training: not kept; there is too little to train on, as trust 0.1",
    ) as caught:
        classifier.fit(problem.space)
    assert [warning.filename for warning in caught] == [__file__]
    assert str(caught[0].message) == str(classifier.adaptation_report_)
    assert classifier.history_ == []
    assert classifier.adaptation_report_.steps[-1].name == "training"
    assert classifier.adaptation_report_.kept != "training"


@pytest.mark.usefixtures("training_fails")
@pytest.mark.parametrize("paradigm", ["ul", "ssl"])
@pytest.mark.parametrize("n_images", [40, 100])
def test_without_training_it_is_the_gaussians_behind_the_same_stages(n_images, paradigm):
    problem = make_concept_space(n_images, 20, 64, random_state=0)
    y = few_labels(problem, 1) if paradigm == "ssl" else None
    aligner = ConceptAligner(use_centers=True)
    classifier = cap(paradigm, t=2, aligner=aligner).fit(problem.space, y)
    stages = make_pipeline(MismatchDetector(t=2, random_state=0), aligner)
    space = stages.fit_transform(problem.space)
    expected = GaussianTransductionClassifier(paradigm).fit(space, y)
    probabilities = expected.predict_proba(space)
    np.testing.assert_allclose(classifier.predict_proba(space), probabilities, atol=1e-5)
    np.testing.assert_allclose(classifier.predict_proba(problem.space), probabilities, atol=1e-5)
    assert np.array_equal(classifier.predict(space), expected.predict(space))
    # The classes are the aligned ones, the images those of the frozen model.
    assert len(space.alignment.aligned) > 0
    assert np.array_equal(classifier.text_features_, space.text_features)
    assert not np.array_equal(classifier.text_features_, problem.space.text_features)
    assert np.array_equal(classifier.transform(space), space.image_features)


@pytest.mark.usefixtures("training_fails")
def test_without_training_images_are_labeled_all_the_same():
    problem = few_images()
    classifier = cap(tau=0.999).fit(problem.space)
    labels = classifier.transduction_.labels_
    logits = classifier.decision_function(problem.space)  # columns are in the order of the names
    order = np.argsort(problem.space.class_names)
    probabilities = np.empty_like(logits)
    probabilities[:, order] = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence = probabilities.max(axis=1)
    expected = np.where(confidence > 0.999, probabilities.argmax(axis=1), -1)
    assert np.array_equal(classifier.pseudo_labels_, expected)
    given = classifier.pseudo_labels_ >= 0
    assert 0 < given.sum() < 100
    assert (classifier.pseudo_labels_ == labels)[given].mean() > 0.9
    calibrator = MarginCalibrator(tau=0.999).fit_from_predictions(
        problem.space.image_features,
        problem.space.text_features,
        probabilities.argmax(axis=1),
        confidence,
        proportions=np.exp(classifier.transduction_._classes.log_prior),
    )
    np.testing.assert_allclose(
        classifier.margin_matrix_, calibrator.margin_matrix_, rtol=1e-3, atol=1e-5
    )


def test_without_the_guard_few_images_train():
    problem = few_images()
    classifier = cap(pseudo_labels=UNGUARDED).fit(problem.space)
    assert len(classifier.history_) == 6
    assert classifier._model.weights
    assert classifier.adaptation_report_.kept == "training"
    assert not np.array_equal(classifier.transform(problem.space), problem.space.image_features)


def test_in_the_paper_s_way_few_images_train():
    classifier = cap(pseudo_labels="zero_shot").fit(few_images().space)
    assert len(classifier.history_) == 6
    assert classifier.transduction_ is None and classifier._model.prior is None
    assert classifier.adaptation_report_.kept == "training"


# -- where training does harm


@pytest.fixture
def training_does_harm(monkeypatch):
    """What was learned is overwritten by chance."""

    def train_and_spoil(task):
        state, module = train(task)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(3 * torch.randn(parameter.shape, generator=generator))
        return state, module

    monkeypatch.setattr("capkit.trained_classifier.train", train_and_spoil)


@pytest.mark.usefixtures("training_does_harm")
def test_a_training_that_does_harm_is_thrown_out(problem):
    classifier = cap(tuning=AdapterTuning(epochs=2))
    with pytest.warns(AdaptationWarning, match="training: not kept; it changes") as caught:
        classifier.fit(problem.space)
    assert [warning.filename for warning in caught] == [__file__]
    assert classifier.adaptation_report_.kept == "gaussian"
    assert len(classifier.history_) == 2  # it was trained
    expected = GaussianTransductionClassifier().fit(problem.space)
    np.testing.assert_allclose(
        classifier.predict_proba(problem.space), expected.predict_proba(problem.space), atol=1e-5
    )
    assert np.array_equal(classifier.text_features_, problem.space.text_features)


@pytest.mark.usefixtures("training_does_harm")
def test_without_the_guard_it_is_kept_and_called_doubtful(problem):
    classifier = cap(tuning=AdapterTuning(epochs=2), pseudo_labels=UNGUARDED)
    with pytest.warns(AdaptationWarning, match="training: kept; .* doubtful"):
        classifier.fit(problem.space)
    assert classifier.adaptation_report_.kept == "training"
    assert accuracy(classifier, problem) < (problem.space.predict() == problem.target).mean()


# -- in a pipeline


@pytest.mark.parametrize("paradigm", ["ul", "ssl", "trzsl"])
@pytest.mark.parametrize("size", ["many", "few"])
def test_a_pipeline_with_the_stage_equals_the_classifier_alone(paradigm, size):
    problem = weak_texts(1) if size == "many" else few_images()
    tuning = AdapterTuning(epochs=2, steps_per_epoch=10)
    y = few_labels(problem, 2)
    if paradigm == "ul":
        y = None
    elif paradigm == "trzsl":
        y[y > 2] = -1
    stages = make_pipeline(
        MismatchDetector(random_state=0),
        ConceptAligner(random_state=0),
        GaussianTransduction(paradigm=paradigm),
        cap(paradigm, tuning=tuning),
    )
    last = stages.fit(problem.space, y)[-1]
    alone = cap(paradigm, tuning=tuning).fit(problem.space, y)
    assert last.transduction_ is None and alone.transduction_ is not None
    assert last.history_ == alone.history_
    assert last.adaptation_report_ == alone.adaptation_report_
    for name in ("pseudo_labels_", "main_labels_", "margin_matrix_", "text_features_"):
        assert np.array_equal(getattr(last, name), getattr(alone, name)), name
    expected = alone.predict_proba(problem.space)
    assert np.array_equal(stages.predict_proba(problem.space), expected)


def test_a_stage_with_parameters_of_its_own_is_used(problem):
    given = GaussianTransduction(kappa=30.0, max_iter=2)
    classifier = cap(pseudo_labels=given).fit(problem.space)
    assert classifier.transduction_ is not given
    assert not hasattr(given, "labels_")
    expected = GaussianTransduction(kappa=30.0, max_iter=2).fit(problem.space)
    assert np.array_equal(classifier.transduction_.means_, expected.means_)


# -- seen and unseen classes


@pytest.mark.parametrize("size", ["many", "few"])
def test_unlabeled_images_never_get_a_seen_class(size):
    problem = weak_texts(0) if size == "many" else few_images()
    seen = np.arange(problem.space.n_classes // 2)
    # A part of the images of the seen classes is not labeled, against what is agreed on.
    labeled = np.isin(problem.target, seen) & (np.arange(len(problem.target)) % 4 > 0)
    y = np.where(labeled, problem.target, -1)
    classifier = cap("trzsl", tau=0.3).fit(problem.space, y)
    for labels in (classifier.pseudo_labels_, classifier.main_labels_):
        assert not np.isin(labels, seen).any()
        assert (labels[labeled] == -1).all()
        assert (labels >= 0).any()
    assert not np.isin(classifier.transduction_.labels_[~labeled], seen).any()
    assert classifier.transduction_.paradigm == "trzsl"


# -- temperature


def test_temperature_allows_for_how_much_too_sure_the_gaussians_are(problem, fitted):
    assert fitted.temperature_ == pytest.approx(1 + 10 * fitted.transduction_.trust_)
    paper = cap(pseudo_labels="zero_shot", tuning=AdapterTuning(epochs=1)).fit(problem.space)
    assert paper.temperature_ == 1.0
    given = cap(temperature=2.5, tuning=AdapterTuning(epochs=1)).fit(problem.space)
    assert given.temperature_ == 2.5


def test_probabilities_of_real_images_are_honest():
    digits, new = load_digits(split="train"), load_digits(split="test")
    classifier = cap(backbone="glyph", class_names=digits.class_names).fit(digits.images)
    probabilities = classifier.predict_proba(new.images)
    right = (
        classifier.classes_[probabilities.argmax(axis=1)] == np.array(new.class_names)[new.target]
    )
    too_sure = np.exp(classifier.temperature_ * np.log(probabilities))
    too_sure /= too_sure.sum(axis=1, keepdims=True)
    assert probabilities.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.03)
    assert too_sure.max(axis=1).mean() > right.mean() + 0.03


@pytest.mark.parametrize("pseudo_labels", ["gaussian", "zero_shot"])
def test_temperature_of_labels_that_were_left_out_is_above_that_of_labels_that_trained(
    pseudo_labels,
):
    # Noisy images and weak texts: what is trained on is learned by heart.
    problem = make_concept_space(
        240, 6, 32, n_mismatched=0, text_noise=1.5, noise=2.5, random_state=0
    )
    y = np.where(np.arange(240) < 60, problem.target, -1)
    classifier = cap(
        "ssl",
        pseudo_labels=pseudo_labels,
        temperature="labeled",
        tuning=AdapterTuning(epochs=15),
    ).fit(problem.space, y)
    trained, others = (
        fit_temperature(classifier.decision_function(problem.space[rows]), problem.target[rows])
        for rows in (slice(0, 60), slice(60, 240))
    )
    assert classifier.temperature_ > 1.5 * trained
    assert abs(np.log(classifier.temperature_ / others)) < abs(np.log(trained / others)) / 2


def test_temperature_can_be_fitted_to_two_labels(problem):
    y = np.full(60, -1)
    rows = np.arange(0, 600, 10)
    y[:2] = [0, 1]
    classifier = cap("ssl", temperature="labeled").fit(problem.space[rows], y)
    assert 0.01 <= classifier.temperature_ <= 100


# -- what is saved


@pytest.mark.parametrize("name", ["trained", "untrained", "paper", "labeled"])
def test_a_loaded_classifier_predicts_the_same_and_has_the_report(name, problem, fitted, tmp_path):
    of = problem if name == "trained" else few_images()
    classifier = fitted
    if name == "untrained":
        classifier = cap().fit(of.space)
    elif name == "paper":
        classifier = cap(pseudo_labels="zero_shot").fit(of.space)
    elif name == "labeled":
        classifier = cap("ssl", class_prior=list(range(1, 21))).fit(of.space, few_labels(of, 1))
    classifier.save(tmp_path / name)
    loaded = CAPClassifier.load(tmp_path / name)
    for method in ("predict_proba", "decision_function", "predict", "transform"):
        found, expected = (getattr(one, method)(of.space) for one in (loaded, classifier))
        assert np.array_equal(found, expected), method
    new = dataclasses.replace(of.space, image_features=of.space.image_features[::-1].copy() * 0.99)
    assert np.array_equal(loaded.predict_proba(new), classifier.predict_proba(new))
    assert loaded.adaptation_report_ == classifier.adaptation_report_
    assert isinstance(loaded.adaptation_report_, AdaptationReport)
    assert loaded.history_ == classifier.history_
    assert loaded.temperature_ == classifier.temperature_
    assert loaded.transduction_ is None
    assert np.array_equal(loaded.text_features_, classifier.text_features_)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()


def test_a_given_transduction_is_a_parameter_again(problem, tmp_path):
    given = GaussianTransduction(kappa=7.0, guard=False, class_prior=[1, 1, 1, 1, 1, 2])
    classifier = cap(pseudo_labels=given, tuning=AdapterTuning(epochs=1)).fit(problem.space)
    classifier.save(tmp_path / "model")
    loaded = CAPClassifier.load(tmp_path / "model")
    assert type(loaded.pseudo_labels) is GaussianTransduction
    assert loaded.pseudo_labels.get_params() == given.get_params()
    assert loaded.fit(problem.space).history_ == classifier.history_


def test_fits_and_predictions_leave_the_parameters_alone(problem):
    prior, given = np.arange(1.0, 7.0), GaussianTransduction()
    classifier = cap(class_prior=prior, tuning=AdapterTuning(epochs=1)).fit(problem.space)
    assert classifier.class_prior is prior and prior.tolist() == [1, 2, 3, 4, 5, 6]
    y = np.where(problem.target == 0, 0, -1)
    cap("trzsl", pseudo_labels=given, tuning=AdapterTuning(epochs=1)).fit(problem.space, y)
    assert given.paradigm == "ul"
