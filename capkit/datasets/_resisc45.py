"""NWPU-RESISC45: satellite images of scenes."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet, number_of
from capkit.image_files import find_images

__all__ = ["fetch_resisc45"]

_TRAIN_EVERY = 5
_TOP = "NWPU-RESISC45"


def _read(folder: Path) -> Photos:
    paths = find_images(folder / _TOP).paths
    folders = sorted({path.parent.name for path in paths})
    return Photos(
        paths=[str(path) for path in paths],
        target=[folders.index(path.parent.name) for path in paths],
        is_test=[number_of(str(path)) % _TRAIN_EVERY != 0 for path in paths],
        class_names=[name.replace("_", " ") for name in folders],
    )


_RESISC45 = PhotoSet(
    name="resisc45",
    archive=RemoteFile(
        "NWPU-RESISC45.zip",
        "https://hf.co/datasets/isaaccorley/resisc45/resolve/"
        "883edc0eee77b2c84225472f10f126e3ed83fa6e/NWPU-RESISC45.zip",
        "sha256:beeecd0b63656290ae6d65cf7763185b0c1c4c54a753ef8088d6fba3faaf1f53",
    ),
    top=_TOP,
    place=_TOP,
    read=_read,
    template="a satellite photo of a {}",
)


def fetch_resisc45(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load NWPU-RESISC45, downloading it the first time.

    Satellite and aerial images of 256 x 256 pixels, 700 of each of 45 kinds of scene.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``resisc45`` in it. None is the environment
        variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        There is no official split. Here the images of each class whose number is a multiple of
        five are to train with, 6,300 of them, and the other 25,200 are for testing.
    download : bool, default=True
        Download what is not there yet, some 427 MB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "airplane" to "wetland", in alphabetical order.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a satellite photo of a {}"``, a prompt for a class name.
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
    fetch_eurosat : Satellite images of ten kinds of land use.

    Examples
    --------
    >>> from capkit.datasets import fetch_resisc45
    >>> scenes = fetch_resisc45(split="test")  # doctest: +SKIP
    >>> len(scenes.paths), len(scenes.class_names)  # doctest: +SKIP
    (25200, 45)
    >>> scenes.class_names[scenes.target[0]]  # doctest: +SKIP
    'airplane'
    """
    return _RESISC45.fetch(data_home, split, download)
