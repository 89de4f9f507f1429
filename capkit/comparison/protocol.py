"""Comparing methods on a user's own images, to see whether adaptation helps."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_memory
from tqdm import tqdm

import capkit
from capkit._optional import require
from capkit._validation import UNLABELED, LabelCodec, resolve_class_names
from capkit.backbones.registry import resolve_device
from capkit.base import check_concept_space, check_images, expected_n_labels, labels_of_rows
from capkit.baselines import ZeroShotClassifier
from capkit.comparison.methods import all_methods
from capkit.comparison.run import Problem, attempt, needs_labels, prepare, run
from capkit.comparison.table import COLUMNS, MEASURES, Comparison
from capkit.encoder import CLIPEncoder
from capkit.exceptions import ClassNamesError, LabelError
from capkit.images import ImageSource
from capkit.model_selection import PARADIGMS, make_paradigm
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare"]

_DEFAULT_TEST_SIZE = 0.5


def compare(
    estimators: Mapping[str, BaseEstimator] | Iterable[tuple[str, BaseEstimator]] | None,
    X: object,
    y: Sequence,
    *,
    class_names: Sequence[str] | None = None,
    X_test: object = None,
    y_test: Sequence | None = None,
    test_size: float | Callable | None = None,
    paradigms: Sequence[str] = ("ul",),
    n_labeled: int = 2,
    seen_fraction: float = 0.62,
    seeds: Sequence[int] = (0, 1, 2),
    encoder: CLIPEncoder | None = None,
    memory: str | os.PathLike | joblib.Memory | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Comparison:
    """Compare several methods on the same images: how good they are, and what they cost.

    Images are encoded once for all methods. Each seed determines the held-out images, the labels
    that a paradigm reveals, and the methods' own randomness; it is the same for all methods.

    Parameters
    ----------
    estimators : mapping of str to estimator, sequence of (str, estimator), or None
        The methods by name; None means those of :func:`capkit.comparison.all_methods`. They can be
        capkit classifiers, Pipelines of the steps after CLIPEncoder, or scikit-learn classifiers;
        the latter learn only from the features of the labeled images and so are left out in
        ``ul``. Estimators are cloned, and their parameters `paradigm` and `random_state` are set,
        in nested estimators too. Parameters for encoding are ignored.
    X : sequence of images of length n_images, or ConceptSpace
        Input of :class:`~capkit.CLIPEncoder`, or its output.
    y : sequence of length n_images
        The true class, name or index, of every image. Methods only see the labels that a paradigm
        reveals.
    class_names : sequence of str or None, default=None
        Names of all classes, if `X` is not a ConceptSpace; pass them here or in `encoder`. None
        means the names that occur in `y`.
    X_test : sequence of images of length n_test, or ConceptSpace, or None, default=None
        New images to test on. None takes them from `X`.
    y_test : sequence of length n_test or None, default=None
        Their true classes.
    test_size : float, int, callable or None, default=None
        Fraction or number of images of `X` to hold out as new images, stratified by class if every
        class has two images; 0 holds out none. Or a callable ``(y, seed) -> (rows, new_rows)``
        that chooses both sets of rows, where ``y`` has indices into the class names; it may use
        :func:`capkit.model_selection.subsample_long_tail`. None means 0.5, or 0 if `X_test` is
        given.
    paradigms : sequence of {"ul", "ssl", "trzsl"}, default=("ul",)
        Which labels the methods see, see :func:`capkit.model_selection.make_paradigm`.
    n_labeled : int, default=2
        Number of labels per class in ``ssl``.
    seen_fraction : float, default=0.62
        Fraction of the classes that are seen in ``trzsl``.
    seeds : sequence of int, default=(0, 1, 2)
        Each method and paradigm is run once per seed.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded, and with which backbone. None means a
        :class:`~capkit.CLIPEncoder` with its defaults.
    memory : path, joblib.Memory or None, default=None
        Folder in which finished runs are cached, so that an interrupted comparison resumes, and an
        extended one only runs what is new. A run is identified by its method, data, labels, seed,
        kind of device, and capkit's version. Failed runs are not cached.
    n_jobs : int or None, default=None
        Number of runs in parallel, see :class:`joblib.Parallel`. The measured time and memory are
        those of a single method only if runs are not parallel.
    verbose : int, default=0
        Above 0, progress bars are shown.

    Returns
    -------
    Comparison
        Its `table` has a row for each method, paradigm, seed and kind of images. If a run fails,
        its row has the error and a warning is issued; the other runs continue.

    Raises
    ------
    ClassNamesError, LabelError
        If the class names or the labels are invalid, or a label is missing.
    TypeError, ValueError
        If arguments contradict each other or are invalid.
    ImportError
        If pandas or psutil is missing (``python -m pip install "capkit-clip[compare]"``).

    See Also
    --------
    capkit.baselines : Baselines.
    capkit.comparison.all_methods : All of them.

    Examples
    --------
    >>> from capkit import CLIPEncoder, compare
    >>> from capkit.baselines import GaussianTransductionClassifier, ZeroShotClassifier
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits()
    >>> comparison = compare(
    ...     {"zero-shot": ZeroShotClassifier(), "Gauss": GaussianTransductionClassifier()},
    ...     digits.images,
    ...     digits.target,
    ...     class_names=digits.class_names,
    ...     seeds=[0],
    ...     encoder=CLIPEncoder(backbone="glyph"),
    ... )
    >>> print(comparison.to_markdown())
    | method    |   ul, adapted |   ul, new |
    |:----------|--------------:|----------:|
    | zero-shot |          85.8 |      81.7 |
    | Gauss     |      **93.5** |  **93.2** |
    """
    require("capkit.compare", "compare", "pandas", "psutil")
    methods = all_methods() if estimators is None else _check_estimators(estimators)
    paradigms, seeds = _check_paradigms(paradigms), _check_seeds(seeds)
    pairs = _pairs_to_run(methods, paradigms)
    if estimators is not None:
        _warn_of_left_out(methods, paradigms)
    tasks = [
        _Task(name, prepare(methods[name], paradigm, seed), paradigm, seed)
        for paradigm, name in pairs
        for seed in seeds
    ]
    split = _check_split(test_size, X_test, y_test)
    owner = next(iter(methods.values()))
    encoder = CLIPEncoder() if encoder is None else clone(encoder)
    names = _class_names(X, y, class_names, encoder)
    images = _read_images(X, y, names, owner)
    new_images = None if X_test is None else _read_new_images(X_test, y_test, images, names, owner)
    shown: dict[str, Any] = {"n_labeled": n_labeled, "seen_fraction": seen_fraction}
    for paradigm in paradigms:  # errors before anything is encoded
        make_paradigm(images.target, paradigm, **shown, random_state=0)

    encoder.set_params(class_names=names, verbose=max(encoder.verbose, verbose))
    if not isinstance(images.source, ConceptSpace):
        encoder.fit(images.source)
    images = _encode(images, encoder)
    new_images = None if new_images is None else _encode(new_images, encoder)
    problems = {
        (paradigm, seed): _draw(images, new_images, split, paradigm, seed, shown)
        for seed in seeds
        for paradigm in paradigms
    }
    context = (capkit.__version__, str(resolve_device(encoder.device)))
    results = _run_all(tasks, problems, context, memory, n_jobs, verbose)
    zero_shot = [name for name in methods if isinstance(methods[name], ZeroShotClassifier)]
    table = _make_table(tasks, problems, results)
    return Comparison(table, zero_shot=zero_shot[0] if zero_shot else None)


# -- checks before any work


def _check_estimators(
    estimators: Mapping[str, BaseEstimator] | Iterable[tuple[str, BaseEstimator]],
) -> dict[str, BaseEstimator]:
    pairs = list(estimators.items() if isinstance(estimators, Mapping) else estimators)
    if not pairs:
        raise ValueError("expected at least one estimator, got none.")
    for pair in pairs:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                "expected estimators as a dict of name and estimator, or as (name, estimator), "
                f"got {pair!r:.80}."
            )
        name, estimator = pair
        if isinstance(estimator, type):
            raise TypeError(
                f"expected the estimator {name!r} as an object, got a class: add () behind "
                f"{estimator.__name__}."
            )
        if not all(hasattr(estimator, method) for method in ("fit", "predict", "get_params")):
            raise TypeError(
                f"expected the estimator {name!r} with fit and predict, as scikit-learn's have "
                f"them, got {type(estimator).__name__}."
            )
    names = [name for name, _ in pairs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"names of estimators must differ from each other, got twice: {doubled}.")
    return dict(pairs)


def _check_paradigms(paradigms: Sequence[str]) -> tuple[str, ...]:
    given = (paradigms,) if isinstance(paradigms, str) else tuple(paradigms)
    if not given or any(paradigm not in PARADIGMS for paradigm in given):
        raise ValueError(f"expected paradigms of {', '.join(PARADIGMS)}, got {given}.")
    return tuple(dict.fromkeys(given))


def _check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    given = tuple(seeds) if isinstance(seeds, Iterable) else (seeds,)
    if not given or any(not isinstance(seed, Integral) or seed < 0 for seed in given):
        raise ValueError(f"expected seeds as one or more ints of at least 0, got {seeds!r}.")
    return tuple(dict.fromkeys(int(seed) for seed in given))


def _pairs_to_run(
    methods: Mapping[str, BaseEstimator], paradigms: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of a paradigm and a method that can be run in it."""
    plain = [name for name, estimator in methods.items() if needs_labels(estimator)]
    pairs = [(p, name) for p in paradigms for name in methods if p != "ul" or name not in plain]
    if not pairs:
        raise ValueError(
            f"expected an estimator that needs no label for paradigm 'ul', got {plain}. Compare "
            "them in 'ssl', or with capkit.baselines.ZeroShotClassifier()."
        )
    return pairs


def _warn_of_left_out(methods: Mapping[str, BaseEstimator], paradigms: Sequence[str]) -> None:
    left_out = [name for name, estimator in methods.items() if needs_labels(estimator)]
    if left_out and "ul" in paradigms:
        warnings.warn(
            f"{left_out} cannot take part in paradigm 'ul': they learn from labels only.",
            stacklevel=3,
        )


def _check_split(test_size: Any, X_test: object, y_test: object) -> Any:
    """The resolved `test_size`; 0 if new images are given."""
    if (X_test is None) != (y_test is None):
        raise ValueError("expected X_test and y_test together, got one of them.")
    if X_test is not None:
        if test_size is not None:
            raise ValueError(
                f"X_test and test_size={test_size!r} exclude each other: new images are either "
                "given or taken out of X."
            )
        return 0
    if test_size is None:
        return _DEFAULT_TEST_SIZE
    if callable(test_size):
        return test_size
    whole = isinstance(test_size, Integral)
    is_number = isinstance(test_size, Real) and not isinstance(test_size, bool)
    if not is_number or not 0 <= float(test_size) < (np.inf if whole else 1):
        raise ValueError(
            "expected test_size as a share from 0 to below 1, a number of images, or a callable, "
            f"got {test_size!r}."
        )
    return test_size


# -- images and labels


@dataclasses.dataclass(frozen=True, eq=False)
class _Images:
    """Images, encoded or not yet, and their true classes."""

    source: Any
    target: np.ndarray


def _class_names(
    X: object, y: Sequence, class_names: Sequence[str] | None, encoder: CLIPEncoder
) -> tuple[str, ...]:
    if not isinstance(X, ConceptSpace):
        if class_names is None and encoder.class_names is None:
            class_names = sorted({label for label in y if isinstance(label, str)})
        if class_names is not None and not len(class_names):
            raise ClassNamesError(
                "compare expected class_names, as y has indices: a sequence of the names of all "
                "classes, in their order."
            )
        return resolve_class_names(encoder.class_names, class_names)
    if class_names is not None and tuple(class_names) != X.class_names:
        raise ClassNamesError(
            f"class_names ({len(class_names)}) differ from those of the ConceptSpace "
            f"({X.n_classes}). Leave them out."
        )
    return resolve_class_names(X.class_names, None)


def _read_images(X: object, y: Sequence, names: tuple[str, ...], owner: BaseEstimator) -> _Images:
    """Images and their true classes, checked; errors name `owner`."""
    if isinstance(X, ConceptSpace):
        source: ConceptSpace | ImageSource = check_concept_space(X, owner, min_images=1)
    else:
        source = check_images(X, owner)
    _, target = LabelCodec.from_labels(y, names, expected_n_labels(y, source))
    n_missing = int((target == UNLABELED).sum())
    if n_missing:
        raise LabelError(
            f"compare expected the true class of every image, got {n_missing} of {len(target)} "
            "without one. What is not known cannot be judged: leave these images out."
        )
    return _Images(source, target)


def _read_new_images(
    X_test: object, y_test: Any, images: _Images, names: tuple[str, ...], owner: BaseEstimator
) -> _Images:
    space = images.source
    if isinstance(X_test, ConceptSpace) != isinstance(space, ConceptSpace):
        raise TypeError(
            "expected X and X_test both as images or both as ConceptSpace, got one of each."
        )
    if isinstance(X_test, ConceptSpace):
        for field in ("class_names", "backbone_id", "logit_scale"):
            if getattr(X_test, field) != getattr(space, field):
                raise ValueError(
                    f"X and X_test differ in their {field}: encode both by the same CLIPEncoder."
                )
    return _read_images(X_test, y_test, names, owner)


def _encode(images: _Images, encoder: CLIPEncoder) -> _Images:
    """Features and labels of the readable images; a space is returned unchanged."""
    space = images.source
    if not isinstance(space, ConceptSpace):
        space = encoder.transform(space)
    return _Images(space, labels_of_rows(images.target, space))


# -- what each seed draws


def _draw(
    images: _Images,
    new_images: _Images | None,
    split: Any,
    paradigm: str,
    seed: int,
    shown: Mapping[str, Any],
) -> Problem:
    rows, new_rows = _split(images.target, split, seed)
    if new_images is not None:
        new_rows = np.arange(len(new_images.target))
    else:
        new_images = images
    labels, seen = make_paradigm(images.target[rows], paradigm, random_state=seed, **shown)
    return Problem(
        space=images.source,
        target=images.target,
        rows=rows,
        labels=labels,
        seen=seen,
        new_space=new_images.source,
        new_target=new_images.target,
        new_rows=new_rows,
    )


def _split(target: np.ndarray, split: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the images to adapt to, and of new ones."""
    rows = np.arange(len(target))
    if callable(split):
        chosen, new = (np.asarray(part, dtype=np.int64) for part in split(target, seed))
        n_common = len(np.intersect1d(chosen, new))
        if not len(chosen) or n_common:
            raise ValueError(
                "expected test_size(y, seed) to give rows to adapt to, and rows of other images, "
                f"got {len(chosen)} and {len(new)}, {n_common} of them in both."
            )
        return chosen, new
    if split == 0:
        return rows, rows[:0]
    parameters = {"test_size": split, "random_state": seed}
    try:
        parts = train_test_split(rows, stratify=target, **parameters)
    except ValueError:  # a class of one image, or fewer images than classes
        parts = train_test_split(rows, **parameters)
    return np.sort(parts[0]), np.sort(parts[1])


# -- the runs


class _Task(NamedTuple):
    """One fit."""

    method: str
    estimator: BaseEstimator
    paradigm: str
    seed: int


class _Result(NamedTuple):
    """Measures by kind of images; empty, with an error, if the run failed."""

    rows: Mapping[str, Mapping[str, float]]
    error: str


def _run_all(
    tasks: Sequence[_Task],
    problems: Mapping[tuple[str, int], Problem],
    context: tuple[str, ...],
    memory: str | os.PathLike | joblib.Memory | None,
    n_jobs: int | None,
    verbose: int,
) -> list[_Result]:
    """Run what is not cached; warn of runs that failed."""
    folder = os.fspath(memory) if isinstance(memory, os.PathLike) else memory
    cached = check_memory(folder).cache(run, ignore=["problem"])
    prints = _fingerprints(problems)
    calls = []
    for number, task in enumerate(tasks):
        key = task.paradigm, task.seed
        call = joblib.delayed(attempt)
        known_by = (*context, *map(str, key))
        calls.append(call(cached, number, task.estimator, problems[key], prints[key], known_by))
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    results: dict[int, _Result] = {}
    with tqdm(total=len(tasks), desc="comparing", unit="run", disable=not verbose) as bar:
        for number, rows, error in parallel(calls):
            task, results[number] = tasks[number], _Result(rows, error)
            place = f"{task.method}, {task.paradigm}, seed {task.seed}"
            bar.set_postfix_str(place, refresh=False)
            bar.update()
            if error:
                warnings.warn(f"{place} failed: {error}", stacklevel=3)
    return [results[number] for number in range(len(tasks))]


def _fingerprints(problems: Mapping[tuple[str, int], Problem]) -> dict[tuple[str, int], str]:
    """Fingerprint of each problem, by which its cached runs are found; images by features."""
    any_problem = next(iter(problems.values()))
    spaces = joblib.hash([_content(any_problem.space), _content(any_problem.new_space)])
    targets = any_problem.target, any_problem.new_target
    return {
        key: joblib.hash(
            (spaces, targets, problem.rows, problem.new_rows, problem.labels, problem.seen)
        )
        for key, problem in problems.items()
    }


def _content(space: ConceptSpace) -> dict[str, Any]:
    values = {field.name: getattr(space, field.name) for field in dataclasses.fields(space)}
    # Prompts can only be trained on images, so it matters whether there are any.
    return values | {"images": space.images is not None, "sample_indices": None}


def _make_table(
    tasks: Sequence[_Task],
    problems: Mapping[tuple[str, int], Problem],
    results: Sequence[_Result],
) -> pd.DataFrame:
    """A row for each run and kind of images; by paradigm, kind, method and seed."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for task, result in zip(tasks, results, strict=True):
        problem = problems[task.paradigm, task.seed]
        for on, n_images in problem.n_judged.items():
            row = {"method": task.method, "paradigm": task.paradigm, "seed": task.seed, "on": on}
            row |= result.rows.get(on, dict.fromkeys(MEASURES, np.nan))
            row |= {"n_classes": problem.space.n_classes, "n_images": n_images}
            rows.append(row | {"error": result.error})
    paradigms = list(dict.fromkeys(task.paradigm for task in tasks))
    rows.sort(key=lambda row: (paradigms.index(row["paradigm"]), row["on"]))
    return pd.DataFrame(rows, columns=list(COLUMNS))
