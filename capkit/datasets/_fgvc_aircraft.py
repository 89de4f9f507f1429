"""FGVC-Aircraft: photographs of aircraft."""

from __future__ import annotations

import os
from pathlib import Path

from sklearn.utils import Bunch

from capkit.datasets._download import RemoteFile
from capkit.datasets._fetching import Photos, PhotoSet, read_photos

__all__ = ["fetch_fgvc_aircraft"]

_TOP = "fgvc-aircraft-2013b"


def _read(folder: Path) -> Photos:
    from torchvision.datasets import FGVCAircraft

    train = FGVCAircraft(folder, "trainval", "variant", loader=os.fspath)
    test = FGVCAircraft(folder, "test", "variant", loader=os.fspath)
    return Photos(*read_photos([train], [test]), class_names=train.classes)


_FGVC_AIRCRAFT = PhotoSet(
    name="fgvc_aircraft",
    archive=RemoteFile(
        "fgvc-aircraft-2013b.tar.gz",
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        "md5:d4acdd33327262359767eeaa97a4f732",
    ),
    top=_TOP,
    place=_TOP,
    read=_read,
    template="a photo of a {}, a type of aircraft",
)


def fetch_fgvc_aircraft(
    data_home: str | os.PathLike | None = None, *, split: str = "train", download: bool = True
) -> Bunch:
    """Load FGVC-Aircraft, downloading it the first time.

    Photographs of 100 variants of aircraft, 100 of each, 10,000 in all.

    Parameters
    ----------
    data_home : path or None, default=None
        Folder for data sets; this one gets a folder ``fgvc_aircraft`` in it. None is the
        environment variable ``CAPKIT_DATA``, or else the user's own folder for capkit's data.
    split : {"train", "test", "all"}, default="train"
        The publishers': 6,667 images to train with (their training and validation sets), 3,333 to
        test.
    download : bool, default=True
        Download what is not there yet, some 2.75 GB. Otherwise that is an error.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        paths : list of str
            Absolute paths of the images, none of which is opened.
        target : ndarray of shape (n_images,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            "707-320" to "Yak-42", the variants as the publishers name them.
        target_names : list of str
            The same, under scikit-learn's name.
        template : str
            ``"a photo of a {}, a type of aircraft"``, a prompt for a class name.
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
    >>> from capkit.datasets import fetch_fgvc_aircraft
    >>> aircraft = fetch_fgvc_aircraft(split="test")  # doctest: +SKIP
    >>> len(aircraft.paths), len(aircraft.class_names)  # doctest: +SKIP
    (3333, 100)
    >>> aircraft.class_names[aircraft.target[0]]  # doctest: +SKIP
    '707-320'
    """
    return _FGVC_AIRCRAFT.fetch(data_home, split, download)
