"""The published figures, where they belong."""

import csv
from pathlib import Path

import pytest

from capkit.comparison import all_methods
from capkit.model_selection import PARADIGMS
from capkit.reproduction import SETTINGS
from capkit.reproduction.reported import read_reported


@pytest.mark.parametrize(
    ("data_set", "paradigm", "figures"),
    [
        ("flowers102", "ul", "63.40 65.67 69.84 72.90 76.80"),
        ("resisc45", "ssl", "54.46 68.13 74.11 80.98 83.32"),
        ("dtd", "ul", "43.45 44.96 46.09 51.91 55.29"),
        ("eurosat", "ul", "30.54 48.96 57.21 67.26"),
        ("cub200", "ul", "51.57 53.04 51.42"),
    ],
)
def test_the_figures_are_those_of_the_papers_table(data_set, paradigm, figures):
    reported = read_reported(data_set, paradigm)
    order = ["zero-shot", "FPL", "GRIP", "CPL", "CAP (paper)"]
    assert list(reported) == order[: len(reported)]
    assert " ".join(figure.accuracy for figure in reported.values()) == figures


def test_what_could_not_be_checked_is_said():
    assert "could not be checked" in read_reported("resisc45", "ssl")["CAP (paper)"].note
    assert "trzsl" in read_reported("dtd", "ul")["zero-shot"].note
    assert read_reported("dtd", "ul")["CAP (paper)"].note == ""


def test_no_figure_stands_elsewhere():
    places = [(name, p) for name in SETTINGS for p in PARADIGMS if read_reported(name, p)]
    assert len(places) == 5
    names = {name for place in places for name in read_reported(*place)}
    assert names <= set(all_methods())


def test_the_page_has_the_same_figures():
    page = Path(__file__).parents[1] / "docs" / "results" / "reproduction.csv"
    with page.open() as file:
        rows = [(*list(row.values())[:4],) for row in csv.DictReader(file)]
    expected = [
        (name, paradigm, method, figure.accuracy)
        for name in SETTINGS
        for paradigm in PARADIGMS
        for method, figure in read_reported(name, paradigm).items()
    ]
    assert rows == expected
