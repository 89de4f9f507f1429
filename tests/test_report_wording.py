"""Plain words: they say what the numbers say."""

import numpy as np
import pytest
from report_samples import small_content

from capkit.guard import AdaptationReport, AdaptationStep
from capkit.report.wording import adaptation_words, summary_words, training_words

CLEAR = AdaptationStep("gaussian x 1", 152, 0.61, True, "it changes 152 labels")
REFUSED = AdaptationStep("training", 1, 0.1, False, "it changes 1 label")
UNTRAINED = AdaptationStep("training", 0, 0.0, False, "there is too little to train on")
UNCLEAR = AdaptationStep("training", 30, 0.1, True, "it changes 30 labels: doubtful")


def report(kept, n_changed, *steps):
    return AdaptationReport(kept, 0.5, 1200, 100.0, 1.0, n_changed, steps)


def test_summary_counts_what_there_is():
    words = " ".join(summary_words(small_content()))
    assert "6 photos got a label, out of 3 classes." in words
    assert "3 labels (50%) may well be wrong." in words
    assert "1 label came from you" in words
    assert "1 file could not be read" in words


def test_summary_is_silent_about_what_there_is_not():
    content = small_content(doubts=("",) * 6, known=np.full(6, -1), unreadable={})
    words = " ".join(summary_words(content))
    assert "Nothing speaks against any label" in words
    assert "came from you" not in words and "could not be read" not in words


@pytest.mark.parametrize(
    ("adaptation", "said", "verdict"),
    [
        (
            report("gaussian", 152, CLEAR),
            ["152 of 1,200 labels differ", "changed 152 labels, and the photos bear it out"],
            "found nothing wrong",
        ),
        (
            report("gaussian", 152, CLEAR, REFUSED),
            ["No trained model was used", "would have changed 1 label without good reason"],
            "with care",
        ),
        (
            report("zero_shot", 0, UNTRAINED),
            ["Nothing that was tried was good enough", "there is too little to train on"],
            "with care",
        ),
        (
            report("training", 30, UNCLEAR),
            ["The model was trained", "was kept, though the photos hardly bear it out"],
            "with care",
        ),
    ],
)
def test_the_guards_verdict_is_said_in_plain_words(adaptation, said, verdict):
    words = " ".join(adaptation_words(adaptation))
    assert all(part in words for part in said)
    assert verdict in words
    assert ("with care" in words) == adaptation.is_doubtful


def test_zero_shot_does_not_differ_from_itself():
    assert "differ" not in " ".join(adaptation_words(report("zero_shot", 0, UNTRAINED)))


def test_a_training_of_one_round_is_said_in_the_singular():
    assert training_words([{"loss": 1.5}]) == "The error went from 1.500 to 1.500 in 1 round."
