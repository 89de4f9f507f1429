"""From a folder of photos to features, and back to a label for each file."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.base import clone

from capkit._validation import resolve_class_names
from capkit.encoder import CLIPEncoder
from capkit.exceptions import ImageReadError, SkippedImagesWarning
from capkit.image_files import ImageFiles, find_images
from capkit.images import ImageSource
from capkit.labels import LabelTable, read_class_names
from capkit.space import ConceptSpace

__all__ = [
    "EncodedFolder",
    "check_can_be_written",
    "encode_folder",
    "names_of_classes",
    "tabulate",
]

_NEEDS_PILLOW_HEIF = (".heic", ".heif")


@dataclasses.dataclass(frozen=True)
class EncodedFolder:
    """The images of a folder as features.

    Attributes
    ----------
    files : ImageFiles
    space : ConceptSpace
        A row for each image that could be read.
    unreadable : mapping of str to str
        Name of each file that could not be read, with the reason.
    """

    files: ImageFiles
    space: ConceptSpace
    unreadable: Mapping[str, str]

    @property
    def rows(self) -> np.ndarray:
        """For each row of the space, its position among the files; shape (n_read,)."""
        rows = self.space.sample_indices
        return np.arange(len(self.files)) if rows is None else rows

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the file of each row of the space."""
        names = self.files.names
        return tuple(names[row] for row in self.rows)


def names_of_classes(class_names: Sequence[str] | str | os.PathLike) -> tuple[str, ...]:
    """Class names, as given or read from a file.

    Parameters
    ----------
    class_names : sequence of str, or path

    Returns
    -------
    tuple of str
    """
    if isinstance(class_names, (str, os.PathLike)):
        return read_class_names(class_names)
    return resolve_class_names(class_names, None)


def encode_folder(
    photos: str | os.PathLike | ImageFiles,
    class_names: Sequence[str],
    encoder: CLIPEncoder | None = None,
) -> EncodedFolder:
    """Encode all readable images of a folder.

    Parameters
    ----------
    photos : path or ImageFiles
    class_names : sequence of str
    encoder : CLIPEncoder or None, default=None
        None means one with its defaults and progress bars.

    Returns
    -------
    EncodedFolder

    Raises
    ------
    ImageReadError
        If no image can be read.
    """
    files = photos if isinstance(photos, ImageFiles) else find_images(photos)
    if any(path.suffix.lower() in _NEEDS_PILLOW_HEIF for path in files.paths):
        _register_heif()
    encoder = CLIPEncoder(verbose=1) if encoder is None else clone(encoder)
    encoder.set_params(class_names=tuple(class_names), on_error="skip")
    paths = list(files.paths)
    with warnings.catch_warnings():  # every one of them is listed
        warnings.simplefilter("ignore", SkippedImagesWarning)
        space = encoder.fit_transform(paths)
    source = ImageSource.from_user(paths).limited(encoder.max_pixels)
    read = range(len(files)) if space.sample_indices is None else space.sample_indices.tolist()
    skipped = sorted(set(range(len(files))).difference(read))
    names = files.names
    unreadable = {names[row]: _why_unreadable(source, row) for row in skipped}
    return EncodedFolder(files, space, unreadable)


def _register_heif() -> None:
    """Let Pillow read iPhone photos, if pillow-heif is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _why_unreadable(source: ImageSource, row: int) -> str:
    try:
        source[row]
    except ImageReadError as error:
        name, reason = Path(error.name), error.reason
        if name.suffix.lower() in _NEEDS_PILLOW_HEIF:
            reason += ' (such photos need: python -m pip install "capkit-clip[heif]")'
        return reason
    return "it could not be read a moment ago, and can be now: run this again"


def tabulate(
    encoded: EncodedFolder,
    probabilities: np.ndarray,
    labels: np.ndarray,
    doubts: Sequence[str],
    *,
    given: np.ndarray | None = None,
) -> LabelTable:
    """Labels of all files in a folder, including those that could not be read.

    Parameters
    ----------
    encoded : EncodedFolder
    probabilities : ndarray of shape (n_read, n_classes)
        Columns in the order of the class names.
    labels : ndarray of shape (n_read,), int
        Indices into the class names.
    doubts : sequence of str of length n_read
    given : ndarray of shape (n_read,), bool, or None, default=None
        Whether a label was given by a person; its confidence is then 1.

    Returns
    -------
    LabelTable
    """
    n_files, read, places = len(encoded.files), np.arange(len(labels)), encoded.rows
    others = probabilities.copy()
    others[read, labels] = -1.0
    confidence = np.full(n_files, np.nan)
    confidence[places] = probabilities[read, labels]
    if given is not None:
        confidence[places[given]] = 1.0
    columns = np.full((2, n_files), -1, dtype=np.int64)
    columns[:, places] = labels, others.argmax(axis=1)
    reasons = [
        f"could not be read: {encoded.unreadable[name]}" if name in encoded.unreadable else ""
        for name in encoded.files.names
    ]
    for place, doubt in zip(places.tolist(), doubts, strict=True):
        reasons[place] = doubt
    return LabelTable(
        folder=encoded.files.folder,
        images=encoded.files.names,
        class_names=encoded.space.class_names,
        labels=columns[0],
        runners_up=columns[1],
        confidence=confidence,
        doubts=tuple(reasons),
    )


def check_can_be_written(*paths: str | os.PathLike | None) -> None:
    """Check before any work that the output files can be written.

    Parameters
    ----------
    *paths : path or None

    Raises
    ------
    OSError
        If the folder of a file does not exist or is not writable, or the path is a folder.
    ValueError
        If two files are the same.
    """
    given = [Path(os.path.abspath(path)) for path in paths if path is not None]
    for path in given:
        if path.is_dir():
            raise IsADirectoryError(f"expected the path of a file to write, got a folder: {path}")
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"expected a file in a folder that exists, got {path}: make the folder "
                f"{path.parent} first"
            )
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"the folder {path.parent} cannot be written to")
    if len(set(given)) < len(given):
        doubled = next(path for path in given if given.count(path) > 1)
        raise ValueError(f"expected a file of its own for each output, got {doubled} twice")
