"""compare gives every method the same images and labels, and counts what comes out."""

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from capkit import (
    CAPClassifier,
    CLIPEncoder,
    ConceptAligner,
    ConceptSpace,
    GaussianTransduction,
    MismatchDetector,
    compare,
)
from capkit.baselines import GaussianTransductionClassifier, LabelProbe, ZeroShotClassifier
from capkit.comparison import all_methods
from capkit.comparison.run import PeakMemory, prepare
from capkit.datasets import load_digits, make_concept_space
from capkit.exceptions import ClassNamesError, LabelError, SkippedImagesWarning
from capkit.model_selection import subsample_long_tail
from capkit.tuning import AdapterTuning

pd = pytest.importorskip("pandas")
matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).parents[1]
NAMES = ("b", "a", "c")  # not in alphabetical order


class Scripted(ClassifierMixin, BaseEstimator):
    """Says what the images' first feature holds: tenths are the class that it answers."""

    def __init__(self, log=None, fail_after=None, error=ValueError, random_state=None, other=None):
        self.log = log
        self.fail_after = fail_after
        self.error = error
        self.random_state = random_state
        self.other = other

    def fit(self, X, y):
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{self.random_state}\n")
        if self.fail_after is not None and len(fits(self.log)) > self.fail_after:
            raise self.error("no more")
        self.classes_ = np.array(sorted(NAMES))
        self.y_ = list(y)
        return self

    def predict(self, X):
        return np.array(NAMES)[np.rint(10 * X.image_features[:, 0]).astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


class Confident(Scripted):
    """The same with a probability, which the second feature holds."""

    def predict_proba(self, X):
        sure = X.image_features[:, 1].astype(np.float64)
        answers = np.searchsorted(self.classes_, self.predict(X))
        probabilities = np.repeat((1 - sure[:, None]) / 2, 3, axis=1)
        probabilities[np.arange(len(sure)), answers] = sure
        return probabilities


class Pseudolabeled(Scripted):
    """Has labels of its own: none for every second image, else what `other` says."""

    def fit(self, X, y):
        super().fit(X, y)
        self.pseudo_labels_ = np.where(np.arange(len(X)) % 2, self.other, -1)
        return self


def fits(log) -> list[str]:
    return Path(log).read_text().split() if Path(log).exists() else []


def scripted_space(answers, confidence=None):
    confidence = np.full(len(answers), 0.9) if confidence is None else confidence
    features = np.column_stack([np.array(answers) / 10, confidence])
    return ConceptSpace(features, np.eye(3, 2), NAMES)


@pytest.fixture(scope="module")
def problem():
    return make_concept_space(200, 5, 32, random_state=0)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def rows_of(comparison, **values):
    table = comparison.table
    for name, value in values.items():
        table = table[table[name] == value]
    return table


def only(comparison, **values):
    rows = rows_of(comparison, **values)
    assert len(rows) == 1
    return rows.iloc[0]


# -- the numbers


def test_numbers_are_those_worked_out_by_hand():
    target = [0, 0, 0, 0, 1, 1, 2, 2]
    answers = [0, 0, 0, 1, 1, 1, 1, 2]
    sure = np.array([0.9, 0.8, 0.9, 0.5, 0.95, 0.6, 0.7, 0.9])
    methods = {"scripted": Confident()}
    comparison = compare(methods, scripted_space(answers, sure), target, test_size=0, seeds=[3])
    row = only(comparison)
    assert list(row[["method", "paradigm", "seed", "on"]]) == ["scripted", "ul", 3, "adapted"]
    assert row["score"] == row["accuracy"] == 6 / 8
    assert row["mean_recall"] == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)
    assert row["worst_recall"] == 1 / 2
    right = np.array(target) == answers
    assert row["auc"] == roc_auc_score(right, sure)
    # Bins of a fifteenth: 0.5 | 0.6 | 0.7 | 0.8 | three times 0.9 | 0.95.
    gaps = [0.5, 0.4, 0.7, 0.2, 0.3, 0.05]
    assert row["calibration_error"] == pytest.approx(sum(gaps) / 8)
    assert row["pseudolabel_accuracy"] == 6 / 8
    share = np.array([3, 4, 1]) / 8
    assert row["pseudolabel_evenness"] == pytest.approx(-(share * np.log(share)).sum() / np.log(3))
    assert row["seconds"] > 0 and row["memory"] >= 0
    assert (row["n_classes"], row["n_images"], row["error"]) == (3, 8, "")


def test_without_probabilities_confidence_is_not_judged():
    row = only(compare({"a": Scripted()}, scripted_space([0, 1]), [0, 2], test_size=0, seeds=[0]))
    assert row["accuracy"] == 0.5
    assert np.isnan(row["auc"]) and np.isnan(row["calibration_error"])


def test_in_trzsl_the_score_is_the_harmonic_mean():
    target, answers = [0, 0, 1, 1, 2, 2, 2, 2], [0, 0, 1, 1, 2, 2, 2, 0]
    comparison = compare(
        {"a": Scripted()},
        scripted_space(answers),
        target,
        paradigms="trzsl",
        test_size=lambda y, seed: (np.arange(8), []),
        seeds=range(6),
    )
    # Two of three classes are seen. Of seen and unseen images are right: 1 and 3/4 where class 2
    # is unseen, else 5/6 and 1.
    assert set(comparison.table["score"].round(9)) == {round(6 / 7, 9), round(10 / 11, 9)}
    assert set(comparison.table["accuracy"]) == {7 / 8}
    assert set(comparison.table["n_images"]) == {8}


def test_in_ssl_labeled_images_do_not_count():
    target = [0] * 3 + [1] * 5 + [2] * 2
    answers = [1] * 3 + [1] * 5 + [2] * 2
    comparison = compare(
        {"a": Scripted()},
        scripted_space(answers),
        target,
        paradigms=["ssl", "ul"],
        n_labeled=2,
        test_size=0,
        seeds=[0],
    )
    ssl, ul = only(comparison, paradigm="ssl"), only(comparison, paradigm="ul")
    measures = ["n_images", "accuracy", "mean_recall", "pseudolabel_accuracy"]
    assert ul[measures].tolist() == [10, 7 / 10, pytest.approx(2 / 3), 7 / 10]
    assert ssl[measures].tolist() == [4, 3 / 4, 1 / 2, 3 / 4]  # one of class 0, three of 1


def test_pseudolabels_are_the_estimators_own_where_it_has_some():
    target = [0, 0, 2, 1, 2, 2, 1, 2]
    space = scripted_space(target)
    row = only(compare({"a": Pseudolabeled(other=2)}, space, target, test_size=0, seeds=[0]))
    # Images 1, 3, 5 and 7 are called 2, of which 5 and 7 are.
    assert row["accuracy"] == 1
    assert (row["pseudolabel_accuracy"], row["pseudolabel_evenness"]) == (0.5, 0)
    row = only(compare({"a": Pseudolabeled(other=-1)}, space, target, test_size=0, seeds=[0]))
    assert np.isnan(row["pseudolabel_accuracy"])


def test_evenness_in_trzsl_is_over_unseen_classes():
    target = [0, 1, 2] * 2
    comparison = compare(
        {"a": Scripted()},
        scripted_space(target),
        target,
        paradigms=["trzsl"],
        seen_fraction=0.34,
        test_size=0,
        seeds=[0],
    )
    assert only(comparison)["pseudolabel_evenness"] == pytest.approx(1)


# -- what methods are given


class Recorder(Scripted):
    """Writes what it is given."""

    def fit(self, X, y):
        given = {"y": list(y), "seeds": [self.random_state, self.other.random_state]}
        Path(self.log).write_text(json.dumps(given))
        self.classes_ = np.array(sorted(NAMES))
        return self


@pytest.mark.parametrize(
    ("paradigm", "expected"), [("ul", {-1: 9}), ("ssl", {"a": 1, "b": 1, "c": 1, -1: 6})]
)
def test_methods_see_names_of_what_the_paradigm_shows(tmp_path, paradigm, expected):
    log = tmp_path / "given"
    compare(
        {"a": Recorder(log=log, other=MismatchDetector())},
        scripted_space([0, 1, 2] * 3),
        [0, 1, 2] * 3,
        paradigms=[paradigm],
        n_labeled=1,
        test_size=0,
        seeds=[0],
    )
    y = json.loads(log.read_text())["y"]
    assert {label: y.count(label) for label in y} == expected
    assert all(label in (-1, name) for label, name in zip(y, NAMES * 3, strict=True))


def test_seed_and_paradigm_reach_nested_parameters_of_a_copy(tmp_path):
    log = tmp_path / "given"
    method = Recorder(log=log, other=MismatchDetector(), random_state=77)
    compare({"a": method}, scripted_space([0, 1] * 2), [0, 1] * 2, test_size=0, seeds=[5])
    assert json.loads(log.read_text())["seeds"] == [5, 5]
    assert method.random_state == 77 and method.other.random_state is None
    assert not hasattr(method, "classes_")

    nested = CAPClassifier(aligner=ConceptAligner(), pseudo_labels=GaussianTransduction())
    copied = prepare(nested, "trzsl", 4).get_params()
    ends = {name: value for name, value in copied.items() if name.endswith("random_state")}
    assert set(ends.values()) == {4}
    assert copied["paradigm"] == copied["pseudo_labels__paradigm"] == "trzsl"
    assert nested.paradigm == "ul" and nested.random_state is None


def test_plain_classifiers_learn_from_labeled_images_alone(problem):
    methods = {"LR": LogisticRegression(), "SVC": LinearSVC(), "zero-shot": ZeroShotClassifier()}
    comparison = compare(
        methods, problem.space, problem.target, paradigms=["ssl"], test_size=0.5, seeds=[0]
    )
    assert (comparison.table["error"] == "").all()
    assert only(comparison, method="LR", on="new")["accuracy"] > 0.5
    assert np.isnan(only(comparison, method="SVC", on="new")["auc"])


def test_plain_classifier_of_some_classes_gives_the_others_nothing():
    space = scripted_space([0, 1, 2, 0, 1, 2, 0, 1, 2])
    target = np.array([0, 1, 2] * 3)
    comparison = compare(
        {"LR": LogisticRegression(C=1e6)},
        space,
        target,
        paradigms=["trzsl"],
        test_size=0,
        seeds=[0, 1],
    )
    assert set(comparison.table["accuracy"]) == {2 / 3}
    assert set(comparison.table["score"]) == {0.0}


def test_plain_classifiers_take_no_part_without_labels(problem):
    methods = {"LR": LogisticRegression(), "zero-shot": ZeroShotClassifier()}
    with pytest.warns(UserWarning, match=r"\['LR'\] cannot take part in paradigm 'ul'"):
        comparison = compare(methods, problem.space, problem.target, seeds=[0])
    assert comparison.methods == ["zero-shot"]
    with pytest.raises(ValueError, match=r"needs no label for paradigm 'ul', got \['LR'\]"):
        compare({"LR": LogisticRegression()}, problem.space, problem.target)


def test_pipelines_and_searches_are_known_by_their_steps(problem):
    stages = (MismatchDetector(n_init=1), ConceptAligner(use_centers=True))
    alone = {
        "zero-shot": ZeroShotClassifier(),
        "aligned": make_pipeline(*stages, ZeroShotClassifier()),
    }
    labeled = {
        "scaled": make_pipeline(StandardScaler(), LogisticRegression()),
        "behind stages": make_pipeline(*stages, LogisticRegression()),
        "LR": LogisticRegression(),
        "search": GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2),
    }
    with pytest.warns(UserWarning, match=r"\['scaled', 'behind stages', 'LR', 'search'\] cannot"):
        comparison = compare(
            {**alone, **labeled},
            problem.space,
            problem.target,
            paradigms=["ul", "ssl"],
            seeds=[0],
        )
    assert set(comparison.table["error"]) == {""}
    assert set(rows_of(comparison, paradigm="ul")["method"]) == set(alone)
    zero_shot, aligned = (only(comparison, paradigm="ul", on="new", method=m) for m in alone)
    assert aligned["accuracy"] > zero_shot["accuracy"]
    scores = {m: only(comparison, paradigm="ssl", on="new", method=m)["score"] for m in labeled}
    # Stages replace texts, which a LogisticRegression behind them does not see.
    assert scores["behind stages"] == scores["LR"] == scores["search"] > 0.5


# -- images


def test_new_images_are_a_stratified_half_drawn_anew_for_each_seed(problem):
    comparison = compare({"a": ZeroShotClassifier()}, problem.space, problem.target, seeds=[0, 1])
    assert comparison.table["on"].tolist() == ["adapted"] * 2 + ["new"] * 2
    assert set(comparison.table["n_images"]) == {100}
    first, second = rows_of(comparison, on="new")["accuracy"]
    both = rows_of(comparison, seed=0)["accuracy"].mean()
    assert first != second
    assert both == pytest.approx((problem.space.predict() == problem.target).mean())


def test_new_images_can_be_given(problem):
    space, target = problem.space, problem.target
    comparison = compare(
        {"a": ZeroShotClassifier()},
        space[:150],
        target[:150],
        X_test=space[150:],
        y_test=target[150:],
        seeds=[0],
    )
    right = space.predict() == target
    assert only(comparison, on="adapted")["accuracy"] == pytest.approx(right[:150].mean())
    assert only(comparison, on="new")["accuracy"] == pytest.approx(right[150:].mean())


def test_a_callable_chooses_the_rows(problem):
    def long_tail(y, seed):
        rows = subsample_long_tail(y, 10, random_state=seed)
        return rows, np.setdiff1d(np.arange(len(y)), rows)

    comparison = compare(
        {"a": ZeroShotClassifier()}, problem.space, problem.target, test_size=long_tail, seeds=[0]
    )
    n_adapted = len(long_tail(problem.target, 0)[0])
    assert comparison.table["n_images"].tolist() == [n_adapted, 200 - n_adapted]
    with pytest.raises(ValueError, match="got 2 and 2, 1 of them in both"):
        compare(
            {"a": ZeroShotClassifier()},
            problem.space,
            problem.target,
            test_size=lambda y, seed: ([0, 1], [1, 2]),
        )


def test_classes_of_one_image_are_split_too():
    target = [0] * 5 + [1]
    comparison = compare({"a": Scripted()}, scripted_space(target), target, seeds=[0])
    assert comparison.table["n_images"].tolist() == [3, 3]


def test_images_give_what_their_space_gives(encoded_images):
    digits = load_digits(split="test")
    images, target = digits.images[:60], digits.target[:60]
    encoder = CLIPEncoder(backbone="glyph")
    methods = {"zero-shot": ZeroShotClassifier(), "Gauss": GaussianTransductionClassifier()}
    settings = {"seeds": [0], "n_labeled": 1}
    names = digits.class_names
    first = compare(methods, images, target, class_names=names, encoder=encoder, **settings)
    assert sum(encoded_images) == 60
    space = CLIPEncoder(backbone="glyph", class_names=names).fit_transform(images)
    second = compare(methods, space, np.array(names)[target], **settings)
    measures = ["method", "on", "score", "worst_recall", "auc", "pseudolabel_evenness"]
    pd.testing.assert_frame_equal(first.table[measures], second.table[measures])
    assert encoder.class_names is None


def test_labels_of_images_that_cannot_be_read_are_left_out(broken_colour_paths, random_backbone):
    encoder = CLIPEncoder(backbone=random_backbone, on_error="skip", class_names=["a", "b"])
    with pytest.warns(SkippedImagesWarning, match="3 of 7"):
        comparison = compare(
            {"zero-shot": ZeroShotClassifier()},
            broken_colour_paths,
            [0, 1, 0, 1, 0, 1, 0],
            encoder=encoder,
            test_size=0,
            seeds=[0],
        )
    assert comparison.table["n_images"].tolist() == [4]


# -- what is wrong is said before any work


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"estimators": {}}, ValueError, "at least one estimator, got none"),
        ({"estimators": [("a", Scripted()), ("a", Scripted())]}, ValueError, r"twice: \['a'\]"),
        ({"estimators": {"a": Scripted}}, TypeError, r"add \(\) behind Scripted"),
        ({"estimators": {"a": "zero-shot"}}, TypeError, "'a' with fit and predict"),
        ({"estimators": [Scripted()]}, TypeError, "as a dict of name and estimator"),
        ({"paradigms": ["ul", "few"]}, ValueError, r"ul, ssl, trzsl, got \('ul', 'few'\)"),
        ({"paradigms": []}, ValueError, "expected paradigms"),
        ({"seeds": []}, ValueError, r"one or more ints of at least 0, got \[\]"),
        ({"seeds": [0.5]}, ValueError, "ints of at least 0"),
        ({"y": [0, 1, -1, None]}, LabelError, "got 2 of 4 without one"),
        ({"y": [0, 1]}, LabelError, "each of 4 images, got 2"),
        ({"y": None}, LabelError, "got 4 of 4 without one"),
        ({"y": [0, 1, 2, 3]}, LabelError, "label 3 of image 3 is no class"),
        ({"class_names": ["x", "y"]}, ClassNamesError, "differ from those of the ConceptSpace"),
        ({"X": np.zeros((4, 8, 8, 3))}, ClassNamesError, "class_names, as y has indices"),
        ({"X_test": 1, "y_test": [0], "test_size": 0.5}, ValueError, "exclude each other"),
        ({"X_test": 1}, ValueError, "X_test and y_test together"),
        ({"X_test": np.zeros((1, 8, 8, 3)), "y_test": [0]}, TypeError, "both as images or both"),
        ({"test_size": 1.0}, ValueError, "share from 0 to below 1"),
        ({"test_size": True}, ValueError, "share from 0 to below 1"),
        ({"paradigms": ["ssl"], "n_labeled": 2}, LabelError, "no class has more among 4 images"),
        ({"paradigms": ["trzsl"], "seen_fraction": 0.9}, LabelError, "got 2 seen ones of 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, changes, error, message):
    log = tmp_path / "fits"
    arguments = {
        "estimators": {"a": Scripted(log=log)},
        "X": scripted_space([0, 1, 0, 1]),
        "y": [0, 1, 0, 1],
    }
    with pytest.raises(error, match=message):
        compare(**(arguments | changes))
    assert not fits(log)


def test_new_images_of_another_model_are_refused(problem):
    other = ConceptSpace(np.eye(2, 32), np.eye(5, 32), problem.space.class_names, logit_scale=3)
    with pytest.raises(ValueError, match="X and X_test differ in their logit_scale"):
        compare(
            {"a": ZeroShotClassifier()}, problem.space, problem.target, X_test=other, y_test=[0, 1]
        )


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch, problem):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(
        ImportError, match=r'requires psutil.*python -m pip install "capkit-clip\[comp'
    ):
        compare({"a": ZeroShotClassifier()}, problem.space, problem.target)


def test_importing_it_needs_no_package_of_the_extra():
    code = (
        "import sys; packages = ['pandas', 'matplotlib', 'psutil']; "
        "sys.modules.update(dict.fromkeys(packages)); "  # each of them cannot be imported
        "import capkit; print(capkit.compare.__name__, capkit.Comparison.__name__)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "compare Comparison"


# -- runs that fail, end, and are known from before


def test_a_run_that_fails_leaves_its_error_and_the_others(tmp_path):
    methods = {
        "good": Scripted(),
        "bad": Scripted(log=tmp_path / "fits", fail_after=1),
    }
    space = scripted_space([0, 1] * 4)
    with pytest.warns(UserWarning, match="bad, ul, seed 1 failed: ValueError: no more"):
        comparison = compare(methods, space, [0, 1] * 4, seeds=[0, 1])
    assert len(comparison.table) == 8
    failed = rows_of(comparison, method="bad", seed=1)
    assert set(failed["error"]) == {"ValueError: no more"} and failed["score"].isna().all()
    assert (rows_of(comparison, method="good")["score"] == 1).all()
    assert comparison.summary().loc[("ul", "new", "bad"), ("error", "count")] == 1
    assert "**100.0** (1 failed)" in comparison.to_markdown()
    assert "2 failed" in repr(comparison)


def test_answers_that_are_no_class_are_an_error():
    class Odd(Scripted):
        def predict(self, X):
            return np.full(len(X), "z")

    with pytest.warns(UserWarning, match="expected predictions of the 3 class names.*got 'z'"):
        compare({"odd": Odd()}, scripted_space([0, 1]), [0, 1], test_size=0, seeds=[0])


def test_what_is_known_is_not_run_again(tmp_path):
    log, memory = tmp_path / "fits", tmp_path / "memory"
    space, target = scripted_space([0, 1, 2] * 4), [0, 1, 2] * 4

    def run(y=target, seeds=(0, 1), **parameters):
        before = len(fits(log))
        methods = {"a": Scripted(log=log, **parameters)}
        table = compare(methods, space, y, seeds=seeds, memory=memory).table
        return len(fits(log)) - before, table

    first, again = run(), run()
    assert (first[0], again[0]) == (2, 0)
    pd.testing.assert_frame_equal(first[1], again[1])  # seconds too
    assert run(seeds=(0, 1, 2))[0] == 1
    assert run(y=[1, 0, 2] * 4)[0] == 2
    assert run(other="changed")[0] == 2


def test_failed_runs_are_tried_again(tmp_path):
    log = tmp_path / "fits"
    for expected in (1, 2):
        with pytest.warns(UserWarning, match="failed"):
            compare(
                {"a": Scripted(log=log, fail_after=0)},
                scripted_space([0, 1]),
                [0, 1],
                test_size=0,
                seeds=[0],
                memory=tmp_path / "memory",
            )
        assert len(fits(log)) == expected


def test_a_comparison_that_was_stopped_goes_on(tmp_path):
    log = tmp_path / "fits"
    arguments = (scripted_space([0, 1, 2] * 4), [0, 1, 2] * 4)
    settings = {"seeds": range(4), "memory": tmp_path / "memory"}
    method = Scripted(log=log, fail_after=2, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        compare({"a": method}, *arguments, **settings)
    assert fits(log) == ["0", "1", "2"]
    log.write_text("")  # from here on two more may run
    comparison = compare({"a": method}, *arguments, **settings)
    assert fits(log) == ["2", "3"]
    assert (comparison.table["score"] == 1).all()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(problem):
    methods = {"zero-shot": ZeroShotClassifier(), "Gauss": GaussianTransductionClassifier()}
    one, two = (
        compare(methods, problem.space, problem.target, seeds=[0, 1], n_jobs=n_jobs).table.drop(
            columns=["seconds", "memory"]
        )
        for n_jobs in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two)


def test_memory_is_the_largest_in_the_block_above_that_before():
    before = np.ones((64, 2**17))  # 64 MiB
    with PeakMemory() as memory:
        values = np.ones((128, 2**17))
        time.sleep(0.1)
        del values
    assert 120 < memory.mib < 160 and len(before) == 64


def test_progress_is_shown_if_asked_for(capfd, problem):
    for verbose in (0, 1):
        compare(
            {"Method": ZeroShotClassifier()},
            problem.space,
            problem.target,
            seeds=[7],
            verbose=verbose,
        )
        shown = capfd.readouterr().err
        assert ("Method, ul, seed 7" in shown) == bool(verbose)


def test_nothing_warns_of_the_future(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison = compare(
            {"zero-shot": ZeroShotClassifier()}, problem.space, problem.target, seeds=[0, 1]
        )
        comparison.to_markdown(["score", "memory"])
        comparison.plot()
        comparison.summary(sort_by="score")


# -- the methods and names that need not be given


def test_all_methods_take_part_where_they_can(problem):
    methods = all_methods(AdapterTuning(epochs=1, steps_per_epoch=2))
    parameters = {"seeds": [0], "paradigms": ["ul", "ssl"]}
    with pytest.warns(UserWarning, match="'labels alone'.*cannot take part in paradigm 'ul'"):
        comparison = compare(methods, problem.space, problem.target, **parameters)
    assert set(comparison.table["error"]) == {""}
    of_ul = set(rows_of(comparison, paradigm="ul")["method"])
    assert set(methods) - of_ul == {"labels alone"}
    assert set(rows_of(comparison, paradigm="ssl")["method"]) == set(methods)


def test_without_estimators_all_are_compared(problem, monkeypatch):
    few = {"a": ZeroShotClassifier(), "labels alone": LabelProbe()}
    monkeypatch.setattr("capkit.comparison.protocol.all_methods", lambda: few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nobody asked for what cannot take part
        comparison = compare(None, problem.space, problem.target, seeds=[0])
    assert comparison.methods == ["a"]


def test_methods_that_train_share_a_tuning_and_no_object():
    tuning = AdapterTuning(epochs=3)
    trained = [m for m in all_methods(tuning).values() if "tuning" in m.get_params(deep=False)]
    assert len(trained) == 7
    assert {method.tuning.epochs for method in trained} == {3}
    assert len({id(method.tuning) for method in trained} | {id(tuning)}) == 8


def test_names_are_those_in_the_labels_where_none_are_given():
    digits = load_digits(split="test")
    names = np.array(digits.class_names)[digits.target]
    encoder = CLIPEncoder(backbone="glyph")
    methods = {"zero-shot": ZeroShotClassifier()}
    given = compare(
        methods, digits.images, names, class_names=digits.class_names, seeds=[0], encoder=encoder
    )
    found = compare(methods, digits.images, names, seeds=[0], encoder=encoder, test_size=0)
    everything = compare(
        methods,
        digits.images,
        digits.target,
        class_names=digits.class_names,
        seeds=[0],
        encoder=encoder,
        test_size=0,
    )
    assert only(found)["score"] == only(everything)["score"]
    assert given.table["n_classes"].tolist() == [10, 10]
