"""CUB-200-2011: photographs of birds."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet

__all__ = ["fetch_cub200"]

_TOP = "CUB_200_2011"


def _read(folder: Path) -> Photos:
    place = folder / _TOP
    images = _table(place / "images.txt")
    labels = _table(place / "image_class_labels.txt")
    is_training = _table(place / "train_test_split.txt")
    classes = _table(place / "classes.txt")
    index = {number: row for row, number in enumerate(classes)}
    return Photos(
        paths=[str(place / "images" / name) for name in images.values()],
        target=[index[labels[image]] for image in images],
        is_test=[is_training[image] == "0" for image in images],
        class_names=[_name(folder_name) for folder_name in classes.values()],
    )


def _table(path: Path) -> dict[str, str]:
    """Each line is a number and, behind a blank, what belongs to it."""
    lines = path.read_text("utf-8").splitlines()
    return dict(line.strip().split(" ", 1) for line in lines if line.strip())


def _name(folder_name: str) -> str:
    """Words in lower case follow a hyphen: Black-footed Albatross, Black-and-white Warbler."""
    first, *words = folder_name.partition(".")[2].split("_")
    return first + "".join(f"-{word}" if word.islower() else f" {word}" for word in words)


_CUB200 = PhotoSet(
    name="cub200",
    archive=RemoteFile(
        "CUB_200_2011.tgz",
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "md5:97eceeb196236b17998738112f37df78",
    ),
    top=_TOP,
    place=_TOP,
    read=_read,
    template="a photo of a {}, a type of bird",
)


def fetch_cub200(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load CUB-200-2011, downloading it the first time.

    Photographs of 200 kinds of birds, most of them from North America, 11,788 in all.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``cub200`` in it. None is the environment
        variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        The publishers': 5,994 images to train with, 5,794 to test.
    download : bool, default=True
        Download what is not there yet, some 1.15 GB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "Black-footed Albatross" to "Common Yellowthroat", in the order of their numbers.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a photo of a {}, a type of bird"``, a prompt for a class name.
        DESCR : str
            Description of the data set, its source, terms and citation.

    Raises
    ------
    ValueError
        If ``split`` is unknown.
    DatasetDownloadError
        If the files cannot be downloaded; it says where to put them by hand.
    DatasetError
        If files are not there and ``download=False``, or are damaged or incomplete.
    OSError
        If files cannot be written.
    ImportError
        If the packages of the extra ``datasets`` are not installed.

    See Also
    --------
    fetch_flowers102 : Flowers, as fine-grained.

    Examples
    --------
    >>> from capkit.datasets import fetch_cub200
    >>> birds = fetch_cub200(split="test")  # doctest: +SKIP
    >>> len(birds.paths), len(birds.class_names)  # doctest: +SKIP
    (5794, 200)
    >>> birds.class_names[birds.target[0]]  # doctest: +SKIP
    'Black-footed Albatross'
    """
    return _CUB200.fetch(data_home, split, download)
