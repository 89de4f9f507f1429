"""What all data sets of photographs that are downloaded share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from capkit._optional import require
from capkit.datasets._archives import extract, is_extracted
from capkit.datasets._characters import check_split
from capkit.datasets._download import RemoteFile, data_folder, fetch_files
from capkit.exceptions import DatasetError

__all__ = ["PhotoSet", "Photos", "number_of", "read_photos"]


@dataclasses.dataclass(frozen=True)
class Photos:
    """All images of a data set.

    Attributes
    ----------
    paths : sequence of str
        Absolute.
    target : sequence of int
        Index of each image's class.
    is_test : sequence of bool
    class_names : sequence of str
        As a prompt wants them.
    """

    paths: Sequence[str]
    target: Sequence[int]
    is_test: Sequence[bool]
    class_names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class PhotoSet:
    """A data set: where it is published, where its files go, and how they are read.

    Attributes
    ----------
    name : str
        Of its folder in the data home, and of its description.
    archive : RemoteFile
        Holds the images.
    top : str
        The archive's folder that is wanted.
    place : str
        Where this folder goes, relative to the data set's.
    read : callable
        Takes the data set's folder, gives Photos.
    template : str
        Prompt for a class name.
    annotations : tuple of RemoteFile
        Beside the archive.
    """

    name: str
    archive: RemoteFile
    top: str
    place: str
    read: Callable[[Path], Photos]
    template: str
    annotations: tuple[RemoteFile, ...] = ()

    def fetch(self, data_home: str | os.PathLike | None, split: str, download: bool) -> Bunch:
        """Download and extract what is missing, and give the images of a split.

        Parameters
        ----------
        data_home : path or None
        split : {"train", "test", "all"}
        download : bool

        Returns
        -------
        Bunch
        """
        check_split(split)
        owner = f"fetch_{self.name}"
        require(owner, "datasets", "filelock", "pooch")
        folder = data_folder(data_home, self.name)
        # torchvision's own downloads are not used: they neither resume nor look where an archive
        # writes.
        if not is_extracted(folder / self.place):
            [archive] = fetch_files([self.archive], folder, download=download, owner=owner)
            extract(archive, self.top, folder / self.place)
        fetch_files(self.annotations, folder, download=download, owner=owner)
        photos = self.read(folder)
        _check_complete(photos.paths, folder / self.place)
        return self._bunch(photos, split)

    def _bunch(self, photos: Photos, split: str) -> Bunch:
        is_test = np.array(photos.is_test, dtype=bool)
        rows = {"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}[split]
        class_names = list(photos.class_names)
        description = resources.files(__package__).joinpath(f"descr/{self.name}.rst")
        return Bunch(
            paths=[path for path, is_in in zip(photos.paths, rows, strict=True) if is_in],
            target=np.array(photos.target, dtype=np.int64)[rows],
            class_names=class_names,
            target_names=class_names,
            template=self.template,
            DESCR=description.read_text("utf-8"),
        )


def read_photos(train: Iterable, test: Iterable = ()) -> tuple[list[str], list[int], list[bool]]:
    """Paths and labels that torchvision's data sets hold, one after the other.

    Parameters
    ----------
    train, test : iterable of torchvision.datasets.VisionDataset
        Made with ``loader=os.fspath``, so that an image is its path and is not opened.

    Returns
    -------
    paths : list of str
    labels : list of int
    is_test : list of bool
    """
    rows = [
        (*dataset[index], is_test)
        for is_test, datasets in ((False, train), (True, test))
        for dataset in datasets
        for index in range(len(dataset))
    ]
    paths, labels, flags = zip(*rows, strict=True)
    return list(paths), list(labels), list(flags)


def number_of(path: str) -> int:
    """Number at the end of an image's name, ``"forest_012.jpg"`` has 12.

    Parameters
    ----------
    path : str

    Returns
    -------
    int
    """
    return int(Path(path).stem.rpartition("_")[2])


def _check_complete(paths: Sequence[str], place: Path) -> None:
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise DatasetError(
            f"{len(missing):,} of {len(paths):,} images that the annotations name are missing, "
            f"the first is {missing[0]}. Delete {place.parent} and call again."
        )
