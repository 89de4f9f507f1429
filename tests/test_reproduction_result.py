"""Ours beside what was published, and where it cannot be compared."""

import numpy as np
import pytest

from capkit import Comparison
from capkit.comparison.table import COLUMNS
from capkit.reproduction import Reproduction
from capkit.reproduction.result import departures_of
from capkit.tuning import AdapterTuning, PromptTuning

pd = pytest.importorskip("pandas")


def comparison_of(scores, paradigm="ul"):
    """Scores on test images by method and seed; of images adapted to all are 0.1."""
    rows = [
        dict.fromkeys(COLUMNS, np.nan)
        | {"method": method, "paradigm": paradigm, "seed": seed, "on": on, "score": score}
        | {"error": "" if on == "adapted" or score == score else "it broke"}
        for on in ("adapted", "new")
        for method, values in scores.items()
        for seed, value in enumerate(values)
        for score in [value if on == "new" else 0.1]
    ]
    return Comparison(pd.DataFrame(rows, columns=list(COLUMNS)))


SCORES = {"zero-shot": [0.43, 0.43], "UPL": [0.5, 0.52], "CAP (paper)": [0.55, 0.57]}


def test_each_set_and_paradigm_has_a_table_beside_what_was_published():
    text = Reproduction({("dtd", "ul"): comparison_of(SCORES)}).to_markdown()
    assert text == "\n".join(
        [
            "dtd, ul",
            "",
            "| method | ours | reported |",
            "| :-- | --: | --: |",
            "| zero-shot | 43.0 ± 0.0 | 43.45* |",
            "| UPL | 51.0 ± 1.4 |  |",
            "| CAP (paper) | 56.0 ± 1.4 | 55.29 |",
            "",
            "Accuracy in percent on test images, mean ± standard deviation of 2 seeds.",
            "* The authors of GRIP publish this figure for trzsl, and another one for ul.",
        ]
    )


def test_where_nothing_was_published_the_column_is_empty():
    one = Reproduction({("dtd", "trzsl"): comparison_of({"zero-shot": [0.43]}, "trzsl")})
    text = one.to_markdown()
    assert "| zero-shot | 43.0 |  |" in text
    assert text.endswith(
        "Harmonic mean of the accuracies of seen and unseen classes in percent on test images, "
        "one seed."
    )


def test_another_experiment_is_marked_and_has_nothing_to_be_held_against():
    results = {("dtd", "ul"): comparison_of(SCORES), ("cub200", "ul"): comparison_of(SCORES)}
    departures = {"dtd": ("epochs is 2, not 50",)}
    first, _, second = Reproduction(results, departures).to_markdown().partition("\n\ncub200")
    assert "This is not the paper's experiment: epochs is 2, not 50." in first
    assert "| zero-shot | 43.0 ± 0.0 |\n" in first and "reported" not in first
    assert "43.45" not in first and "55.29" not in first and "GRIP" not in first
    assert "51.57" in second and "not the paper's" not in second


def test_runs_that_failed_are_counted():
    comparison = comparison_of({"CAP": [0.5, np.nan], "UPL": [np.nan, np.nan]})
    text = Reproduction({("dtd", "ul"): comparison}).to_markdown()
    assert "| CAP | 50.0 (1 failed) |" in text
    assert "| UPL | - (2 failed) |" in text


def test_all_rows_are_in_one_table():
    results = {("dtd", "ul"): comparison_of(SCORES), ("dtd", "ssl"): comparison_of(SCORES, "ssl")}
    table = Reproduction(results).table
    assert table.groupby(["data", "paradigm"]).size().to_dict() == {
        ("dtd", "ul"): 12,
        ("dtd", "ssl"): 12,
    }


def test_the_papers_experiment_departs_in_nothing():
    assert departures_of("ViT-B-32/openai", PromptTuning()) == ()


@pytest.mark.parametrize(
    ("backbone", "tuning", "said"),
    [
        ("ViT-L-14/openai", PromptTuning(), "the backbone is ViT-L-14/openai"),
        ("ViT-B-32/openai", PromptTuning(epochs=2), "epochs is 2, not 50"),
        ("ViT-B-32/openai", AdapterTuning(), "tuning is adapter, not prompt"),
    ],
)
def test_what_departs_from_the_paper_is_said(backbone, tuning, said):
    assert departures_of(backbone, tuning) == (said,)
