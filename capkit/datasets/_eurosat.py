"""EuroSAT: satellite images of land use."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet, number_of, read_photos

__all__ = ["fetch_eurosat"]

_TEST_EVERY = 5
# What the folders' names leave out.
_NAMES = {
    "Industrial": "industrial buildings",
    "Residential": "residential buildings",
    "SeaLake": "sea or lake",
}


def _read(folder: Path) -> Photos:
    from torchvision.datasets import EuroSAT

    dataset = EuroSAT(folder, loader=os.fspath)
    paths, target, _ = read_photos([dataset])
    return Photos(
        paths=paths,
        target=target,
        is_test=[number_of(path) % _TEST_EVERY == 0 for path in paths],
        class_names=[_name(folder_name) for folder_name in dataset.classes],
    )


def _name(folder_name: str) -> str:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", folder_name).lower()
    return _NAMES.get(folder_name, apart)


_EUROSAT = PhotoSet(
    name="eurosat",
    archive=RemoteFile(
        "EuroSAT.zip",
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
        "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
        "md5:c8fa014336c82ac7804f0398fcb19387",
    ),
    top="2750",
    place="eurosat/2750",
    read=_read,
    template="a satellite photo of {}",
)


def fetch_eurosat(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load EuroSAT, downloading it the first time.

    Images of 64 x 64 pixels from the Sentinel-2 satellites, of ten kinds of land use in Europe,
    27,000 in all.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``eurosat`` in it. None is the environment
        variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        There is no official split. Here every fifth image of each class by its number is for
        testing, 5,400 of them, and the other 21,600 are to train with.
    download : bool, default=True
        Download what is not there yet, some 94 MB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "annual crop" to "sea or lake", the names of its folders in plain words.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a satellite photo of {}"``, a prompt for a class name.
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
    fetch_resisc45 : Satellite images of 45 kinds of scene, more finely resolved.

    Examples
    --------
    >>> from capkit.datasets import fetch_eurosat
    >>> land = fetch_eurosat(split="test")  # doctest: +SKIP
    >>> len(land.paths), len(land.class_names)  # doctest: +SKIP
    (5400, 10)
    >>> land.class_names[land.target[0]]  # doctest: +SKIP
    'annual crop'
    """
    return _EUROSAT.fetch(data_home, split, download)
