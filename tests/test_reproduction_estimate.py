"""The time of an experiment: steps are measured as they are, and added up by hand."""

import pytest

from capkit import CAPClassifier, CLIPEncoder
from capkit.reproduction import PaperSettings, estimate
from capkit.reproduction.estimate import Estimate, SetEstimate, StepCost, estimate_time
from capkit.tuning import AdapterTuning, PromptTuning

SETTINGS = PaperSettings("toys", 10, n_train=100, n_test=50, k=16, tau=0.85, m=12, growth=0.8)
SHORT = {"epochs": 2, "steps_per_epoch": 5}


@pytest.fixture
def measured(monkeypatch):
    """Costs without measuring; what was asked for is noted."""
    asked = []

    def measure(settings, encoder, tuning, *, labeled):
        asked.append((settings.data_set, labeled))
        return StepCost(3.0, 0.2, 0.0) if labeled else StepCost(2.0, 0.1, 0.0)

    monkeypatch.setattr(estimate, "measure_step", measure)
    return asked


def estimate_toys(tuning, paradigms=("ul",), methods=("zero-shot", "UPL", "CAP")):
    return estimate_time(
        [SETTINGS],
        encoder=CLIPEncoder("glyph", device="cpu"),
        tuning=tuning,
        methods=methods,
        paradigms=paradigms,
        n_seeds=3,
    )


def test_steps_of_all_trainings_and_passes_over_the_images_are_added_up(measured):
    (part,) = estimate_toys(PromptTuning(**SHORT), ("ul", "trzsl")).sets
    # Two methods train, three times in each paradigm. The features of 150 images: 30 s. A
    # training: 10 steps, and 2 * 100 + 50 images; ul 6 * (20 + 25) s, trzsl 6 * (30 + 50) s.
    assert (part.n_trainings, part.n_steps) == (12, 120)
    assert part.seconds == pytest.approx(30 + 270 + 480)
    assert part.cost.step_seconds == 3.0
    assert measured == [("toys", False), ("toys", True)]


def test_adapters_pass_over_no_image(measured):
    (part,) = estimate_toys(AdapterTuning(**SHORT)).sets
    assert part.seconds == pytest.approx(150 * 0.1 + 6 * 10 * 2)
    assert measured == [("toys", False)]


def test_methods_that_do_not_train_cost_the_features_alone(measured):
    result = estimate_toys(PromptTuning(), methods=("zero-shot", "TransCLIP"))
    assert result.sets[0].seconds == pytest.approx(15)
    assert "nothing is trained" in str(result)
    assert not result.has_gpu


def test_ssl_and_trzsl_are_measured_once(measured):
    (part,) = estimate_toys(PromptTuning(**SHORT), ("ssl", "trzsl")).sets
    assert measured == [("toys", True)]
    assert part.seconds == pytest.approx(30 + 2 * 480)


def test_the_words_have_the_sum_and_the_dearest_step():
    parts = [
        SetEstimate("a", 6, 60, StepCost(1.5, 0.1, 0.0), 3600.0),
        SetEstimate("b", 3, 30, StepCost(0.5, 0.1, 0.0), 7200.0),
    ]
    assert str(Estimate("a toaster", False, tuple(parts))) == (
        "about 3 hours on a toaster at most, downloads aside: 90 steps in 9 trainings, up to "
        "1500 ms a step"
    )
    assert str(Estimate("a toaster", False, (parts[0],))).startswith("about an hour")
    short = SetEstimate("c", 1, 1, StepCost(0.1, 0.1, 0.0), 600.0)
    assert str(Estimate("a toaster", False, (short,))).startswith("about 10 minutes")


def test_the_median_of_steps_leaves_out_the_first_one():
    clock = estimate._Clock().initialize()
    clock.times = [90.0, 91.0, 93.0, 94.0, 105.0, 106.0]
    assert clock.seconds == 1.0


@pytest.mark.parametrize("labeled", [False, True])
def test_a_real_training_is_measured_with_all_its_streams(monkeypatch, labeled):
    fitted = []
    fit = CAPClassifier.fit

    def note(self, *arguments, **keywords):
        fitted.append(fit(self, *arguments, **keywords))
        return fitted[-1]

    monkeypatch.setattr(CAPClassifier, "fit", note)
    cost = estimate.measure_step(
        SETTINGS, CLIPEncoder("glyph"), PromptTuning(batch_size=4), labeled=labeled
    )
    (classifier,) = fitted
    (epoch,) = classifier.history_
    assert epoch["kept"] == 1.0
    assert ("labeled_loss" in epoch) == labeled
    assert len(classifier.class_names_) == 10
    assert len(classifier.callbacks[0].times) == 6
    assert 0 < cost.image_seconds < 1 and 0 < cost.step_seconds < 5
