"""Checks that several estimators share: class names, labels and nested parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import column_or_1d

from capkit.exceptions import ClassNamesError, LabelError

__all__ = [
    "UNLABELED",
    "LabelCodec",
    "check_labels_of_paradigm",
    "check_ordered",
    "first_unwritable",
    "is_unlabeled",
    "resolve_class_names",
    "seeded_copy",
    "validate_nested",
]

UNLABELED = -1

_RENUMBERED = (
    " (Were these other labels when you passed them? cross_val_predict(method='predict_proba'), "
    "VotingClassifier and StackingClassifier number them anew, -1 too.)"
)


def validate_nested(estimator: BaseEstimator) -> None:
    """Check the parameters of every estimator that is a parameter of another one.

    scikit-learn checks an estimator's parameters when it is fitted, which for a nested one is
    after much of the work.

    Parameters
    ----------
    estimator : BaseEstimator

    Raises
    ------
    InvalidParameterError
        If a parameter of a nested estimator is out of its range.
    """
    for value in estimator.get_params(deep=False).values():
        if not isinstance(value, BaseEstimator):
            continue
        if hasattr(value, "_parameter_constraints"):  # estimators of others may have none
            value._validate_params()
        validate_nested(value)


def seeded_copy(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Copy of an estimator in which every ``random_state`` that is None is a seed.

    Parameters
    ----------
    estimator : BaseEstimator
    seed : int

    Returns
    -------
    BaseEstimator
        Not fitted.
    """
    copied = clone(estimator)
    unset = [
        name
        for name, value in copied.get_params(deep=True).items()
        if name.rpartition("__")[2] == "random_state" and value is None
    ]
    return copied.set_params(**dict.fromkeys(unset, seed))


def resolve_class_names(
    parameter: Sequence[str] | None,
    fit_argument: Sequence[str] | None,
    n_images: int | None = None,
) -> tuple[str, ...]:
    """Class names from the constructor or from ``fit``, checked.

    Parameters
    ----------
    parameter : sequence of str or None
        What the constructor was given.
    fit_argument : sequence of str or None
        What ``fit`` was given.
    n_images : int or None
        Number of images of this fit. scikit-learn's searches cut every fit argument that is as
        long as X; what they cut is again as long as their part of X, so a fit argument of this
        length cannot be trusted and is refused.

    Returns
    -------
    tuple of str
        At least two different names.

    Raises
    ------
    ClassNamesError
        If there are none, they contradict each other, have no order, are not strings that can be
        written, are doubled or fewer than two, or may have been cut.
    """
    if fit_argument is None:
        if parameter is None:
            raise ClassNamesError(
                "expected class_names, got none. Pass them to fit(images, class_names=names) or "
                "to the constructor: a sequence of the names of all classes."
            )
        return _as_names(parameter)
    given = None if parameter is None else _as_names(parameter)
    at_fit = _as_names(fit_argument, check=False)
    if given is not None:
        if tuple(at_fit) != given:
            raise ClassNamesError(
                f"class_names of the constructor ({_short(given)}) and of fit "
                f"({_short(at_fit)}) differ. Pass them in one place only."
            )
        return given
    if n_images is not None and len(at_fit) == n_images:
        raise ClassNamesError(
            f"fit got {len(at_fit)} class_names for {n_images} images. A cross-validation cuts "
            "fit arguments that are as long as X, so these names may not be all. Pass "
            "class_names to the constructor instead: nothing cuts them there."
        )
    return _as_names(at_fit)


def check_ordered(names: object) -> None:
    """Refuse class names that come in no order, or that are no sequence of names at all.

    A set has another order each time Python starts.

    Parameters
    ----------
    names : object

    Raises
    ------
    ClassNamesError
        If they are a set, or a view that is one, such as the keys of a dictionary; a single
        text, a mapping, or an array or table of no or two dimensions.
    """
    if isinstance(names, Set):
        raise ClassNamesError(
            "expected class_names as a sequence, whose order is that of the classes, got "
            f"{type(names).__name__}: a set has no order. Pass a list, such as "
            "sorted(class_names)."
        )
    n_dimensions = getattr(names, "ndim", 1)
    if n_dimensions != 1:
        raise ClassNamesError(
            f"expected class_names as a sequence of str, got {type(names).__name__} of "
            f"{n_dimensions} dimensions: {names!r:.80}. Pass a list of the names of all classes."
        )
    if isinstance(names, (str, bytes, Mapping)) or not isinstance(names, Iterable):
        raise ClassNamesError(
            f"expected class_names as a sequence of str, got {type(names).__name__}: "
            f"{names!r:.80}. Pass a list of the names of all classes."
        )


def first_unwritable(texts: Sequence[str]) -> int | None:
    """Position of the first text that UTF-8 cannot write, as half of a surrogate pair is in it.

    Parameters
    ----------
    texts : sequence of str

    Returns
    -------
    int or None
    """
    for position, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            return position
    return None


def _as_names(names: Iterable[str], *, check: bool = True) -> tuple[str, ...]:
    check_ordered(names)
    names = tuple(names)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise ClassNamesError(
            f"expected every class name to be a str, got {wrong[0]!r} ({type(wrong[0]).__name__})."
        )
    names = tuple(str(name) for name in names)
    if not check:
        return names
    if any(not name.strip() for name in names):
        raise ClassNamesError(f"class name {[n.strip() for n in names].index('')} is empty.")
    if (unwritable := first_unwritable(names)) is not None:
        raise ClassNamesError(
            f"expected class names that UTF-8 can write, got {names[unwritable]!r} as class name "
            f"{unwritable}, which holds half of a surrogate pair. Read it again with the encoding "
            "of its file."
        )
    if str(UNLABELED) in names:
        raise ClassNamesError(
            f"class name {names.index(str(UNLABELED))} is '-1', which marks unlabeled images in "
            "y. Give the class another name."
        )
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ClassNamesError(f"class_names must differ from each other, got twice: {doubled}.")
    if len(names) < 2:
        raise ClassNamesError(f"expected at least 2 class_names, got {len(names)}.")
    return names


def _short(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{len(names)}: {shown}{', ...' if len(names) > 3 else ''}"


@dataclasses.dataclass(frozen=True)
class LabelCodec:
    """Between the labels that users write and indices into ``class_names``.

    Parameters
    ----------
    class_names : tuple of str
    kind : {"name", "index"}
        Whether labels are names or indices into ``class_names``.

    Examples
    --------
    >>> from capkit._validation import LabelCodec
    >>> codec, indices = LabelCodec.from_labels(["dog", None, -1], ("cat", "dog"), n_images=3)
    >>> indices.tolist(), codec.classes.tolist()
    ([1, -1, -1], ['cat', 'dog'])
    """

    class_names: tuple[str, ...]
    kind: str = "name"

    @classmethod
    def from_labels(
        cls, y: Sequence | None, class_names: tuple[str, ...], n_images: int
    ) -> tuple[LabelCodec, np.ndarray]:
        """Find whether `y` holds names or indices, and encode it.

        Parameters
        ----------
        y : sequence of length n_images or None
            Names or indices into `class_names`; -1 or None (NaN in an array of floats) marks an
            unlabeled image.
        class_names : tuple of str
        n_images : int

        Returns
        -------
        codec : LabelCodec
        indices : ndarray of shape (n_images,), dtype int64
            -1 where unlabeled.

        Raises
        ------
        LabelError
            If the length is wrong, names and indices are mixed, or a label is no class.
        """
        if y is None:
            return cls(class_names), np.full(n_images, UNLABELED, dtype=np.int64)
        labels = _label_list(y, n_images)
        kind = _kind_of(labels)
        codec = cls(class_names, kind or "name")
        return codec, codec.encode(labels)

    @classmethod
    def kind_only(
        cls, y: Sequence | None, class_names: tuple[str, ...], n_images: int
    ) -> LabelCodec:
        """Codec of labels that only say whether predictions are names or indices.

        Parameters
        ----------
        y : sequence of length n_images or None
        class_names : tuple of str
        n_images : int

        Returns
        -------
        LabelCodec

        Raises
        ------
        LabelError
            If the length is wrong, names and indices are mixed, a label is no class, or indices
            cannot be told from the positions that scikit-learn passes in place of labels:
            predictions would then be read as other classes.
        """
        if y is None:
            return cls(class_names)
        labels = _label_list(y, n_images)
        codec = cls(class_names, _kind_of(labels) or "name")
        indices = codec.encode(labels)
        if codec.kind == "index":
            _check_not_positions(indices, class_names)
        return codec

    @property
    def classes(self) -> np.ndarray:
        """Labels of all classes, sorted as scikit-learn's ``classes_`` are, shape (n_classes,)."""
        if self.kind == "index":
            return np.arange(len(self.class_names))
        return np.sort(np.array(self.class_names))

    @property
    def column_order(self) -> np.ndarray:
        """Index into ``class_names`` of each of :attr:`classes`, shape (n_classes,)."""
        if self.kind == "index":
            return np.arange(len(self.class_names))
        return np.argsort(np.array(self.class_names))

    def encode(self, y: Sequence) -> np.ndarray:
        """Indices into ``class_names`` of labels; -1 where unlabeled.

        Parameters
        ----------
        y : sequence of length n

        Returns
        -------
        ndarray of shape (n,), dtype int64

        Raises
        ------
        LabelError
            If a label is no class.
        """
        position = {name: index for index, name in enumerate(self.class_names)}
        n_classes = len(self.class_names)
        indices = np.empty(len(y), dtype=np.int64)
        for row, label in enumerate(_label_list(y)):
            if is_unlabeled(label):
                indices[row] = UNLABELED
            elif self.kind == "name" and isinstance(label, str) and label in position:
                indices[row] = position[label]
            elif self.kind == "index" and _is_index(label) and 0 <= label < n_classes:
                indices[row] = int(label)
            else:
                raise LabelError(
                    f"label {label!r} of image {row} is no class: expected "
                    + (
                        f"one of {_short(self.class_names)}"
                        if self.kind == "name"
                        else f"an index from 0 to {n_classes - 1} into class_names"
                    )
                    + ", or -1 or None for an unlabeled image."
                    + self._hint(label)
                )
        return indices

    def _hint(self, label: object) -> str:
        """What may be wrong with an index, as a sentence behind a blank."""
        if self.kind == "name":
            return ""
        if isinstance(label, Real) and f"{label:g}" in self.class_names:
            return f" If the class of this name is meant, pass it as a str: '{label:g}'."
        return _RENUMBERED


def check_labels_of_paradigm(
    labels: np.ndarray, paradigm: str, class_names: Sequence[str]
) -> None:
    """Raise unless a paradigm can work with these labels.

    Parameters
    ----------
    labels : ndarray of shape (n_images,), int64
        -1 where unlabeled.
    paradigm : {"ul", "ssl", "trzsl"}
    class_names : sequence of str

    Raises
    ------
    LabelError
        If it cannot; the message says what to do.
    """
    if paradigm == "ul":
        return
    present = np.unique(labels[labels != UNLABELED])
    if not len(present):
        raise LabelError(
            f"paradigm={paradigm!r} expected labels of some images, got none. Pass y with -1 for "
            "the unlabeled images, or use paradigm='ul', which needs no label."
        )
    if (labels != UNLABELED).all():
        raise LabelError(
            f"paradigm={paradigm!r} expected some unlabeled images, got a label for each of "
            f"{len(labels)}. Mark the unlabeled ones by -1; where all are labeled, an ordinary "
            "classifier behind CLIPEncoder is what you want. (If you did mark them: "
            "cross_val_predict(method='predict_proba'), VotingClassifier and StackingClassifier "
            "number all labels anew, -1 too, and cannot be used with this paradigm.)"
        )
    if paradigm == "ssl" and len(present) < 2:
        raise LabelError(
            "paradigm='ssl' expected labels of at least 2 classes, got 1 class: "
            f"{class_names[present[0]]!r}. Label images of other classes too, or use 'trzsl' if "
            "the unlabeled images belong to the others."
        )
    if paradigm == "trzsl" and len(present) == len(class_names):
        raise LabelError(
            "paradigm='trzsl' expected classes without any label, to which the unlabeled images "
            f"belong; all {len(class_names)} have one. Use paradigm='ssl', or name the unseen "
            "classes in class_names too."
        )


def is_unlabeled(label: object) -> bool:
    """Whether a label is -1, None or NaN: an unlabeled image.

    Parameters
    ----------
    label : object

    Returns
    -------
    bool
    """
    if label is None:
        return True
    if isinstance(label, str):
        return label == "-1"  # what numpy makes of -1 in an array of strings
    return isinstance(label, Real) and (label == UNLABELED or label != label)


def _check_not_positions(indices: np.ndarray, class_names: tuple[str, ...]) -> None:
    """Refuse indices that may be positions among the sorted labels that occur.

    Where scikit-learn passes such positions, no image is unlabeled. They equal the indices where
    the names are sorted and every class occurs.
    """
    is_sorted = list(class_names) == sorted(class_names)
    if (indices == UNLABELED).any() or (is_sorted and len(np.unique(indices)) == len(class_names)):
        return
    raise LabelError(
        "y holds an integer for each image. These may be indices into class_names, or the "
        "positions of sorted labels that cross_val_predict(method='predict_proba'), "
        "CalibratedClassifierCV(ensemble=False), VotingClassifier and StackingClassifier pass in "
        "place of labels; they are the same only if class_names are in alphabetical order and "
        "every class occurs. Pass names, numpy.asarray(class_names)[y], and class_names in "
        "alphabetical order; or leave y out where nothing is scored."
    )


def _label_list(y: Sequence, n_images: int | None = None) -> list:
    is_sequence = hasattr(y, "__len__") or hasattr(y, "__array__")
    if isinstance(y, (str, bytes, Set, Mapping, type)) or not is_sequence:
        raise LabelError(
            f"expected y as a sequence of labels in the order of the images, got {y!r:.80}."
        )
    array = np.asarray(y) if hasattr(y, "__array__") else None
    if array is not None and array.ndim == 2 and array.shape[1] == 1:
        array = column_or_1d(array, warn=True)
    if array is not None and array.ndim != 1:
        raise LabelError(f"expected y of one dimension, got shape {array.shape}.")
    labels = list(y) if array is None else array.tolist()
    if n_images is not None and len(labels) != n_images:
        raise LabelError(f"expected a label for each of {n_images} images, got {len(labels)}.")
    return labels


def _is_index(label: object) -> bool:
    if isinstance(label, bool):
        return False
    return isinstance(label, Integral) or (isinstance(label, Real) and float(label).is_integer())


def _kind_of(labels: list) -> str | None:
    kinds = set()
    for label in labels:
        if is_unlabeled(label):
            continue
        if isinstance(label, str):
            kinds.add("name")
        elif _is_index(label):
            kinds.add("index")
        else:
            raise LabelError(
                f"Unknown label type: {label!r} ({type(label).__name__}) is neither a class name "
                "nor an index into class_names."
            )
    if len(kinds) > 1:
        raise LabelError("y mixes class names and indices into class_names: use one of them.")
    return kinds.pop() if kinds else None
