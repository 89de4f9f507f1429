"""Oxford Flowers-102: photographs of flowers."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet, read_photos

__all__ = ["fetch_flowers102"]

_PUBLISHED = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


def _read(folder: Path) -> Photos:
    from torchvision.datasets import Flowers102

    train, val, test = (
        Flowers102(folder, split, loader=os.fspath) for split in ("train", "val", "test")
    )
    return Photos(*read_photos([train, val], [test]), class_names=Flowers102.classes)


_FLOWERS102 = PhotoSet(
    name="flowers102",
    archive=RemoteFile(
        "102flowers.tgz", _PUBLISHED + "102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa"
    ),
    top="jpg",
    place="flowers-102/jpg",
    read=_read,
    template="a photo of a {}, a type of flower",
    annotations=(
        RemoteFile(
            "flowers-102/imagelabels.mat",
            _PUBLISHED + "imagelabels.mat",
            "md5:e0620be6f572b9609742df49c70aed4d",
        ),
        RemoteFile(
            "flowers-102/setid.mat",
            _PUBLISHED + "setid.mat",
            "md5:a5357ecc9cb78c4bef273ce3793fc85c",
        ),
    ),
)


def fetch_flowers102(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load Oxford Flowers-102, downloading it the first time.

    Photographs of 102 kinds of flowers that are common in Britain, 8,189 in all.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``flowers102`` in it. None is the environment
        variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        The publishers': 2,040 images to train with, twenty of each class (their training and
        validation sets), 6,149 to test.
    download : bool, default=True
        Download what is not there yet, some 345 MB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "pink primrose" to "blackberry lily", as torchvision names them.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a photo of a {}, a type of flower"``, a prompt for a class name.
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
    fetch_cub200 : Birds, as fine-grained.

    Examples
    --------
    >>> from capkit.datasets import fetch_flowers102
    >>> flowers = fetch_flowers102(split="test")  # doctest: +SKIP
    >>> len(flowers.paths), len(flowers.class_names)  # doctest: +SKIP
    (6149, 102)
    >>> flowers.class_names[flowers.target[0]]  # doctest: +SKIP
    'pink primrose'
    """
    return _FLOWERS102.fetch(data_home, split, download)
