"""Describable Textures: photographs of textures, named by adjectives."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet, read_photos

__all__ = ["fetch_dtd"]


def _read(folder: Path) -> Photos:
    from torchvision.datasets import DTD

    train, val, test = (
        DTD(folder, split, partition=1, loader=os.fspath) for split in ("train", "val", "test")
    )
    paths, _, is_test = read_photos([train, val], [test])
    # By the image's folder: torchvision counts the classes of each split for itself.
    names = [Path(path).parent.name for path in paths]
    class_names = sorted(set(names))
    return Photos(
        paths=paths,
        target=[class_names.index(name) for name in names],
        is_test=is_test,
        class_names=[name.replace("_", " ") for name in class_names],
    )


_DTD = PhotoSet(
    name="dtd",
    archive=RemoteFile(
        "dtd-r1.0.1.tar.gz",
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
        "sha256:e42855a52a4950a3b59612834602aa253914755c95b0cff9ead6d07395f8e205",
    ),
    top="dtd",
    place="dtd/dtd",
    read=_read,
    template="a photo of a {} texture",
)


def fetch_dtd(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load the Describable Textures Dataset, downloading it the first time.

    Photographs of 47 kinds of texture that people have an adjective for, 120 of each kind.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``dtd`` in it. None is the environment
        variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        The first of the publishers' ten partitions: 3,760 images to train with (its training and
        validation sets), 1,880 to test.
    download : bool, default=True
        Download what is not there yet, some 625 MB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "banded" to "zigzagged", in alphabetical order.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a photo of a {} texture"``, a prompt for a class name.
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
    fetch_flowers102 : Flowers.

    Examples
    --------
    >>> from capkit.datasets import fetch_dtd
    >>> textures = fetch_dtd(split="test")  # doctest: +SKIP
    >>> len(textures.paths), len(textures.class_names)  # doctest: +SKIP
    (1880, 47)
    >>> textures.class_names[textures.target[0]]  # doctest: +SKIP
    'banded'
    """
    return _DTD.fetch(data_home, split, download)
