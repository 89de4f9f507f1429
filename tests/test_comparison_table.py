"""A Comparison says what its table holds, as numbers, as Markdown and as a picture."""

import textwrap

import numpy as np
import pytest

from capkit import Comparison, compare
from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
from capkit.comparison.table import COLUMNS, MEASURES
from capkit.datasets import make_concept_space

pd = pytest.importorskip("pandas")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(200, 5, 32, random_state=0)


def table_of(scores, on=("new",), paradigm="ul", **more):
    """A table in which only the score and the seconds differ."""
    rows = [
        {"method": method, "paradigm": paradigm, "seed": seed, "on": kind, "error": ""}
        | dict.fromkeys(MEASURES, 0.5)
        | {"score": value, "n_classes": 2, "n_images": 4}
        | more
        for kind in on
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


SCORES = {"zero-shot": [0.5, 0.5], "CAP": [0.9, 0.8], "Gauss": [0.6, 0.8]}


def test_summary_has_mean_and_deviation_in_the_order_given_or_by_a_measure():
    comparison = Comparison(table_of(SCORES))
    summary = comparison.summary()
    assert summary.index.tolist() == [("ul", "new", name) for name in SCORES]
    assert summary["score", "mean"].tolist() == pytest.approx([0.5, 0.85, 0.7])
    assert summary["score", "std"].tolist() == pytest.approx([0, 0.1 / 2**0.5, 0.2 / 2**0.5])
    by_score = comparison.summary(sort_by="score").index.get_level_values("method")
    assert by_score.tolist() == ["CAP", "Gauss", "zero-shot"]
    with pytest.raises(ValueError, match=r"expected measures of score, .*got \['loss'\]"):
        comparison.summary(sort_by="loss")


def test_relative_gain_is_over_the_best_other_method():
    comparison = Comparison(table_of(SCORES, on=("adapted", "new")))
    gain = comparison.relative_gain("CAP")
    assert gain.index.tolist() == [("ul", "adapted"), ("ul", "new")]
    assert gain["best_peer"].tolist() == ["Gauss"] * 2
    assert gain["gain"].tolist() == pytest.approx([(0.85 - 0.7) / 0.7] * 2)
    assert comparison.relative_gain("zero-shot")["best_peer"].tolist() == ["CAP"] * 2
    with pytest.raises(ValueError, match="got 'cap'; there are"):
        comparison.relative_gain("cap")


def test_relative_gain_leaves_out_peers_that_failed():
    nan = [np.nan, np.nan]
    gain = Comparison(table_of(SCORES | {"Gauss": nan})).relative_gain("CAP")
    assert gain["best_peer"].tolist() == ["zero-shot"]
    gain = Comparison(table_of({"CAP": [0.5], "Gauss": [np.nan]})).relative_gain("CAP")
    assert gain["best_peer"].isna().all() and gain["gain"].isna().all()


def test_markdown_has_percentages_and_the_best_in_bold():
    expected = """
        | method    |        ul, new |
        |:----------|---------------:|
        | zero-shot |     50.0 ± 0.0 |
        | CAP       | **85.0 ± 7.1** |
        | Gauss     |    70.0 ± 14.1 |
        """
    assert Comparison(table_of(SCORES)).to_markdown() == textwrap.dedent(expected).strip()


def test_markdown_of_several_measures_names_them_and_shows_costs_once():
    table = table_of({"a|b": [0.25], "c": [0.5]}, on=("adapted", "new"), seconds=1.25)
    lines = Comparison(table).to_markdown(["score", "seconds"]).splitlines()
    cells = [[cell.strip() for cell in line.replace("\\|", "/").split("|")] for line in lines]
    assert cells[0][2:-1] == ["ul, adapted, score", "ul, seconds", "ul, new, score"]
    assert cells[2][1:-1] == ["a/b", "25.0", "**1.25**", "25.0"]
    assert cells[3][1:-1] == ["c", "**50.0**", "**1.25**", "**50.0**"]


def test_concat_keeps_data_sets_apart():
    both = Comparison.concat(
        {"digits": Comparison(table_of(SCORES)), "pets": Comparison(table_of({"CAP": [0.3]}))}
    )
    assert both.table["data"].tolist() == ["digits"] * 6 + ["pets"]
    assert both.groups == ["data", "paradigm", "on"]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in both.to_markdown().splitlines()
    ]
    assert cells[0] == ["method", "digits, ul, new", "pets, ul, new"]
    assert cells[3] == ["CAP", "**85.0 ± 7.1**", "**30.0**"]
    assert cells[4] == ["Gauss", "70.0 ± 14.1", "-"]
    assert both.zero_shot == "zero-shot"
    assert len(both.plot().axes[0].collections) == 2


def test_csv_gives_back_the_table(tmp_path):
    comparison = Comparison(table_of(SCORES | {"Gauss": [np.nan, 0.5]}))
    comparison.to_csv(tmp_path / "table.csv")
    read = Comparison.from_csv(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read.table, comparison.table, check_dtype=False)
    assert read.zero_shot == "zero-shot"


def test_a_table_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"without .*'seed'"):
        Comparison(pd.DataFrame({"method": ["a"]}))
    with pytest.raises(ValueError, match="without any row"):
        Comparison(table_of(SCORES).iloc[:0])


def test_zero_shot_is_known_by_its_class_or_name(problem):
    comparison = compare(
        {"Gauss": GaussianTransductionClassifier(), "CLIP": ZeroShotClassifier()},
        problem.space,
        problem.target,
        seeds=[0],
    )
    assert comparison.zero_shot == "CLIP"
    assert Comparison(table_of({"a": [1], "Zero_shot CLIP": [1]})).zero_shot == "Zero_shot CLIP"
    assert Comparison(table_of({"a": [1]})).zero_shot is None


# -- the picture


def test_plot_has_a_dot_a_seed_and_a_bar_at_the_mean():
    figure = Comparison(table_of(SCORES, on=("adapted", "new"))).plot()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        "accuracy (%)",
        "worst recall of a class (%)",
        "accuracy of pseudolabels (%)",
        "evenness of pseudolabels (%)",
        "seconds",
        "memory (MiB)",
    ]
    ax = figure.axes[0]
    points = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 0], [50, 50, 90, 80, 60, 80])
    np.testing.assert_allclose(points[:, 1], [0, 0, 1, 1, 2, 2], atol=1e-12)
    means, line = ax.get_lines()
    np.testing.assert_allclose(means.get_xdata(), [50, 85, 70])
    np.testing.assert_allclose(line.get_xdata(), [50, 50])  # zero-shot
    assert len(figure.axes[4].get_lines()) == 1
    assert [label.get_text() for label in ax.get_yticklabels()] == list(SCORES)
    assert ax.yaxis_inverted()
    assert figure.get_suptitle() == "New images"


def test_plot_of_several_paradigms_has_colours_and_a_legend():
    parts = [table_of(SCORES, paradigm=name) for name in ("ul", "trzsl")]
    figure = Comparison(pd.concat(parts, ignore_index=True)).plot()
    ax = figure.axes[0]
    assert ax.get_xlabel() == "accuracy (%; trzsl: harmonic mean)"
    first, second = ax.collections
    assert not np.array_equal(first.get_facecolor(), second.get_facecolor())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ul", "trzsl"]
    rows = [np.asarray(part.get_offsets())[:, 1] for part in (first, second)]
    assert (rows[0] < rows[1]).all() and np.abs(rows[0] - rows[1]).max() < 0.5


def test_plot_takes_the_images_asked_for():
    comparison = Comparison(table_of(SCORES, on=("adapted",)))
    assert comparison.plot().get_suptitle() == "Images adapted to"
    with pytest.raises(ValueError, match=r"on as one of \['adapted'\], got 'new'"):
        comparison.plot(on="new")


def test_plot_of_too_much_says_how_to_draw_a_part():
    one = Comparison(table_of(SCORES))
    with pytest.raises(ValueError, match="at most 8 pairs of data set and paradigm, got 9"):
        Comparison.concat({str(number): one for number in range(9)}).plot()
