"""The guard's judgement of a training: literal cases, worked out by hand."""

import numpy as np
import pytest

from capkit.guard import (
    LEAST_CLARITY,
    AdaptationReport,
    AdaptationStep,
    change_clarity,
    judge,
    judge_labels,
    training_is_carried,
)

# Two classes at 0 and 1, so that each half of the images, in the guard's order, is 0, 0, 1, 1.
ORDER_OF_EIGHT = np.random.default_rng(0).permutation(8)
TRUTH = np.empty(8, dtype=np.int64)
TRUTH[ORDER_OF_EIGHT] = [0, 0, 1, 1, 0, 0, 1, 1]
FEATURES = TRUTH[:, None].astype(float)
ONE_CLASS = np.zeros(8, dtype=np.int64)
# Half of each class is called the other.
MIXED = np.empty(8, dtype=np.int64)
MIXED[ORDER_OF_EIGHT] = [0, 1, 0, 1, 1, 0, 1, 0]
OF_GAUSSIANS = AdaptationReport(
    kept="gaussian",
    trust=0.5,
    n_images=8,
    images_per_class=4.0,
    evenness=1.0,
    n_changed=4,
    steps=(AdaptationStep("gaussian x 1", 4, 0.9, True, "it is clear"),),
)


def judged(trained, report=OF_GAUSSIANS, *, gaussian=TRUTH, zero_shot=MIXED, guarded=True):
    return judge(FEATURES, zero_shot, gaussian, trained, report, n_classes=2, guarded=guarded)


@pytest.mark.parametrize(
    ("trust", "carried"), [(0.0, False), (0.349, False), (0.35, True), (0.7, True), (1.0, True)]
)
def test_a_training_needs_a_trust_of_035(trust, carried):
    assert training_is_carried(trust) is carried


def test_a_training_whose_labels_are_clear_is_kept():
    step = judge_labels("training", FEATURES, MIXED, TRUTH, 2)
    assert step.kept
    assert (step.name, step.n_changed) == ("training", 4)
    # As worked out in the tests of the clarity itself.
    assert step.clarity == pytest.approx((49 / 9 - 1) / (16 / 9))
    assert step.reason == f"it changes 4 labels with a clarity of {step.clarity:.2f}"


def test_a_training_whose_labels_are_not_clear_is_not_kept():
    step = judge_labels("training", FEATURES, TRUTH, MIXED, 2)
    assert change_clarity(FEATURES, TRUTH, MIXED, 2) < LEAST_CLARITY
    assert not step.kept
    assert step.n_changed == 4


def test_a_training_that_changes_nothing_is_kept():
    step = judge_labels("training", FEATURES, TRUTH, TRUTH.copy(), 2)
    assert step == AdaptationStep("training", 0, 0.0, True, "it changes no label")


def test_a_training_that_divides_one_large_class_is_not_kept_however_clear_it_is():
    step = judge_labels("training", FEATURES, ONE_CLASS, TRUTH, 2)
    assert step.clarity > LEAST_CLARITY
    assert not step.kept
    assert "may divide a large class (evenness 0.00 to 1.00)" in step.reason
    assert judged(TRUTH, zero_shot=ONE_CLASS, gaussian=ONE_CLASS).kept == "gaussian"


def test_what_was_kept_is_the_training_where_it_is_clear():
    report = judged(TRUTH)
    assert (report.kept, report.trust) == ("training", 0.5)
    assert (report.n_images, report.n_changed, report.images_per_class) == (8, 4, 4.0)
    assert report.evenness == pytest.approx(1.0)
    assert [step.name for step in report.steps] == ["gaussian x 1", "training"]
    assert all(step.kept for step in report.steps)
    assert not report.is_doubtful


def test_what_was_kept_is_what_was_there_before_where_training_is_not_clear():
    report = judged(MIXED, zero_shot=TRUTH)
    assert report.kept == "gaussian"
    assert report.n_changed == 0  # by the labels before training, which are those of zero-shot
    assert [step.kept for step in report.steps] == [True, False]
    assert report.is_doubtful


def test_training_is_measured_from_zero_shot_and_not_from_the_gaussians():
    # The Gaussians had it right already: training changes no label of theirs, and four of the
    # texts.
    assert judged(TRUTH, gaussian=TRUTH).steps[-1].n_changed == 4
    assert judged(MIXED, gaussian=TRUTH).steps[-1].n_changed == 0


def test_labels_in_the_end_are_counted():
    two = np.where(np.arange(8) < 2, 1, 0)
    report = judged(None, gaussian=two, zero_shot=ONE_CLASS)
    assert report.n_changed == 2
    assert report.images_per_class == 4.0  # the median of 6 and 2
    share = np.array([0.75, 0.25])
    assert report.evenness == pytest.approx(-(share * np.log2(share)).sum())


def test_where_images_do_not_carry_a_training_the_step_says_so():
    report = judged(None)
    assert (report.kept, report.trust, report.n_changed) == ("gaussian", 0.5, 4)
    step = report.steps[-1]
    assert (step.name, step.n_changed, step.kept) == ("training", 0, False)
    assert "too little to train on, as trust 0.50 is below 0.35" in step.reason
    assert report.is_doubtful


def test_without_a_guard_a_training_is_kept_and_called_doubtful():
    report = judged(MIXED, zero_shot=TRUTH, guarded=False)
    assert (report.kept, report.n_changed) == ("training", 4)
    assert report.steps[-1].kept
    assert report.steps[-1].reason.endswith("doubtful")
    assert report.is_doubtful
    clear = judged(TRUTH, guarded=False)
    assert clear.kept == "training"
    assert "doubtful" not in clear.steps[-1].reason
    assert not clear.is_doubtful


def test_without_gaussians_there_is_zero_shot_to_go_back_to():
    report = judged(MIXED, None, zero_shot=TRUTH)
    assert (report.kept, report.trust) == ("zero_shot", 0.0)
    assert [step.name for step in report.steps] == ["training"]
    assert judged(TRUTH, None).kept == "training"


def test_what_the_gaussians_were_held_back_from_stays_in_the_report():
    steps = tuple(
        AdaptationStep(f"gaussian x {strength:g}", 4, 0.1, False, "it is not clear")
        for strength in (1.0, 0.25, 0.1)
    )
    nothing = AdaptationReport("zero_shot", 0.0, 8, 4.0, 1.0, 0, steps)
    report = judged(None, nothing, gaussian=MIXED)
    assert (report.kept, report.trust, report.n_changed) == ("zero_shot", 0.0, 0)
    assert report.steps[:3] == steps
    assert report.steps[3].name == "training"


def test_a_report_comes_back_from_plain_values():
    report = judged(MIXED, zero_shot=TRUTH)
    assert AdaptationReport.from_dict(report.to_dict()) == report
    assert "- training: not kept; it changes 4 labels" in str(report)
