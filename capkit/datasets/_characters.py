"""Handwritten characters: scikit-learn's digits, and letters and digits of typefaces."""

from __future__ import annotations

import json
import unicodedata
from importlib import resources

import numpy as np
from PIL import Image
from sklearn import datasets as sklearn_datasets
from sklearn.utils import Bunch, check_random_state

from capkit._sampling import long_tail

SPLITS = ("train", "test", "all")
IMAGE_SIZE = 32
# A margin of two cells of the 8 x 8 grid gives the digits about the height that capitals
# have in the pictures of typefaces.
DIGIT_MARGIN = 2
MAX_DIGIT_INK = 16
TEST_EVERY = 3


def load_digits(*, split="train", imbalance_ratio=None, random_state=0, return_X_y=False):
    """Load scikit-learn's handwritten digits as images.

    The 1,797 digits of :func:`sklearn.datasets.load_digits`, 43 people's handwriting scanned to
    8 x 8 pixels, enlarged to 32 x 32 (bicubic, dark ink on light paper). Every third image of
    each class is for testing: 1,201 images to train with, 596 to test.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        The images to load.
    imbalance_ratio : float or None, default=None
        If given, thin the classes out to a long tail: class sizes fall geometrically from the
        size of the smallest class to that divided by the ratio (at least one image), in an
        order of the classes drawn from ``random_state``. 1 makes them equal.
    random_state : int, RandomState instance or None, default=0
        Draws the order of the classes and the images that stay; used only with
        ``imbalance_ratio``.
    return_X_y : bool, default=False
        Return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        images : ndarray of shape (n_images, 32, 32, 3), dtype uint8
            RGB images with equal channels.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "digit zero" to "digit nine", their Unicode names.
        target_names : list of str
            The same, under scikit-learn's name.
        descriptions : dict of str to list of str
            What each class looks like, in several descriptions.
        sources : ndarray of shape (n_images,), dtype str
            Where each image comes from: its row in scikit-learn's data set.
        DESCR : str
            Description of the data set, its sources and licences.

    (images, target) : tuple if ``return_X_y`` is True

    Raises
    ------
    ValueError
        If ``split`` is unknown or ``imbalance_ratio`` is below 1.

    See Also
    --------
    load_handwriting : A harder set of 62 classes.

    Examples
    --------
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits(split="test")
    >>> digits.images.shape
    (596, 32, 32, 3)
    >>> digits.class_names[digits.target[0]]
    'digit zero'
    """
    check_split(split)
    raw = sklearn_datasets.load_digits()
    is_test = _every_nth_of_class(raw.target, TEST_EVERY)
    rows = _select(raw.target, is_test, split, imbalance_ratio, random_state)
    return _make_bunch(
        images=np.stack([_enlarge_digit(image) for image in raw.images[rows]]),
        target=raw.target[rows],
        class_names=[_class_name(str(digit)) for digit in raw.target_names],
        name="digits",
        return_X_y=return_X_y,
        sources=np.array([f"sklearn.datasets.load_digits, row {row}" for row in rows]),
    )


def load_handwriting(*, split="train", imbalance_ratio=None, random_state=0, return_X_y=False):
    """Load letters and digits of handwriting typefaces.

    A to Z, a to z and 0 to 9, drawn once in each of 56 open handwriting typefaces that the
    embedded model was not trained on. The split is by typeface: 40 (2,480 images) to train
    with, 16 others (992 images) to test.

    Parameters
    ----------
    split : {"train", "test", "all"}, default="train"
        The images to load.
    imbalance_ratio : float or None, default=None
        If given, thin the classes out to a long tail: class sizes fall geometrically from the
        size of the smallest class to that divided by the ratio (at least one image), in an
        order of the classes drawn from ``random_state``. 1 makes them equal.
    random_state : int, RandomState instance or None, default=0
        Draws the order of the classes and the images that stay; used only with
        ``imbalance_ratio``.
    return_X_y : bool, default=False
        Return ``(images, target)`` instead of a Bunch.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        images : ndarray of shape (n_images, 32, 32, 3), dtype uint8
            RGB images with equal channels.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "latin capital letter a" to "digit nine", their Unicode names.
        target_names : list of str
            The same, under scikit-learn's name.
        descriptions : dict of str to list of str
            What each class looks like, in several descriptions.
        families : ndarray of shape (n_images,), dtype str
            The typeface of each image.
        sources : ndarray of shape (n_images,), dtype str
            Where each image comes from: typeface and code point.
        DESCR : str
            Description of the data set, its sources and licences.

    (images, target) : tuple if ``return_X_y`` is True

    Raises
    ------
    ValueError
        If ``split`` is unknown or ``imbalance_ratio`` is below 1.

    See Also
    --------
    load_digits : An easier set of 10 classes.

    Examples
    --------
    >>> from capkit.datasets import load_handwriting
    >>> handwriting = load_handwriting()
    >>> handwriting.images.shape
    (2480, 32, 32, 3)
    >>> handwriting.class_names[:2]
    ['latin capital letter a', 'latin capital letter b']
    >>> long_tail = load_handwriting(imbalance_ratio=20)
    >>> int(np.bincount(long_tail.target).max()), int(np.bincount(long_tail.target).min())
    (40, 2)
    """
    check_split(split)
    with resources.files(__package__).joinpath("data/handwriting.npz").open("rb") as file:
        raw = dict(np.load(file))
    target = raw["target"].astype(np.int64)
    is_test = (raw["splits"] == "test")[raw["family"]]
    rows = _select(target, is_test, split, imbalance_ratio, random_state)
    families = raw["families"][raw["family"][rows]]
    code_points = [f"U+{ord(character):04X}" for character in raw["characters"]]
    return _make_bunch(
        images=raw["images"][rows],
        target=target[rows],
        class_names=[_class_name(character) for character in raw["characters"]],
        name="handwriting",
        return_X_y=return_X_y,
        families=families,
        sources=np.array(
            [f"{f}, {code_points[label]}" for f, label in zip(families, target[rows], strict=True)]
        ),
    )


def _class_name(character: str) -> str:
    """Name a class as the Unicode standard names its character, in lower case."""
    return unicodedata.name(character).lower()


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is expected to be one of {', '.join(SPLITS)}, got {split!r}.")


def _every_nth_of_class(target: np.ndarray, n: int) -> np.ndarray:
    """Mark every n-th image of each class, in the order of the data set."""
    marked = np.zeros(len(target), dtype=bool)
    for label in np.unique(target):
        marked[np.flatnonzero(target == label)[n - 1 :: n]] = True
    return marked


def _enlarge_digit(image: np.ndarray) -> np.ndarray:
    """Turn an 8 x 8 image of ink from 0 to 16 into 32 x 32 gray levels, dark on light."""
    gray = np.pad(255 - image * (255 / MAX_DIGIT_INK), DIGIT_MARGIN, constant_values=255)
    small = Image.fromarray(np.rint(gray).astype(np.uint8))
    return np.asarray(small.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _select(
    target: np.ndarray,
    is_test: np.ndarray,
    split: str,
    imbalance_ratio: float | None,
    random_state: int | np.random.RandomState | None,
) -> np.ndarray:
    """Give the rows of a split, ascending, thinned out where a long tail is asked for."""
    kept = {"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}[split]
    rows = np.flatnonzero(kept)
    if imbalance_ratio is None:
        return rows
    smallest = int(np.bincount(target[rows]).min())
    chosen = long_tail(
        target[rows], imbalance_ratio, check_random_state(random_state), largest=smallest
    )
    return rows[chosen]


def _make_bunch(
    images: np.ndarray,
    target: np.ndarray,
    class_names: list[str],
    name: str,
    return_X_y: bool,
    **provenance: np.ndarray,
) -> Bunch | tuple[np.ndarray, np.ndarray]:
    """Complete a data set with what its files say about it."""
    images = np.repeat(images[..., np.newaxis], 3, axis=-1)
    target = target.astype(np.int64)
    if return_X_y:
        return images, target
    package = resources.files(__package__)
    descriptions = package.joinpath(f"data/{name}_descriptions.json").read_text("utf-8")
    return Bunch(
        images=images,
        target=target,
        class_names=class_names,
        target_names=class_names,
        descriptions=json.loads(descriptions),
        DESCR=package.joinpath(f"descr/{name}.rst").read_text("utf-8"),
        **provenance,
    )
