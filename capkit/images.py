"""Images as users have them: read lazily, turned into RGB and fingerprinted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
from PIL import Image

from capkit.exceptions import ImageReadError
from capkit.pixels import (
    EXPECTED_IMAGES,
    array_hasher,
    check_array,
    file_bytes,
    image_key,
    image_of,
    is_file,
    is_tensor,
    item_key,
    item_name,
    item_to_rgb,
    tensor_to_array,
)

__all__ = ["ImageSource", "split_errors", "value_or_error"]


class ImageSource(Sequence):
    """Lazy sequence of RGB images over whatever the user gave.

    Nothing is decoded before it is asked for. A source can be pickled, which keeps only what
    its own images need, and cut with :meth:`take`, which copies nothing.

    Build one with :meth:`from_user`.

    Parameters
    ----------
    items : sequence
        Paths, PIL images, arrays, tensors, encoded bytes, files or (image, label) pairs; an array
        (n, H, W) or (n, H, W, channels); or a Dataset.
    positions : ndarray of shape (n_images,) or None, default=None
        Which of `items` these images are; None means all of them.
    numbers : ndarray of shape (n_images,) or None, default=None
        The image's number that errors name; None means its position.
    max_pixels : int or None, default=None
        Most pixels that a file may have; None means no limit but Pillow's own.

    Examples
    --------
    >>> import numpy as np
    >>> source = ImageSource.from_user(np.zeros((5, 8, 8, 3), dtype=np.uint8))
    >>> len(source), source[0].size, len(source.take([0, 2]))
    (5, (8, 8), 2)
    """

    def __init__(
        self,
        items: Any,
        positions: np.ndarray | None = None,
        numbers: np.ndarray | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self._items = items
        self._positions = np.arange(len(items)) if positions is None else positions
        self._numbers = self._positions if numbers is None else numbers
        self._max_pixels = max_pixels

    @classmethod
    def from_user(cls, images: Any) -> ImageSource:
        """Wrap what a user passed as images, or say what is wrong with it.

        Parameters
        ----------
        images : sequence, ndarray, tensor, Dataset or ImageSource
            Paths, PIL images, arrays of one image each, encoded bytes, files opened in binary
            mode, ``{"bytes": ..., "path": ...}``, (image, label) pairs; an array
            (n, H, W[, 1 | 3 | 4]) of uint8, uint16, bool or float from 0 to 1; a tensor
            (n, 1 | 3 | 4, H, W) of the same; a torch Dataset; a split of a Hugging Face Dataset
            with one column of images, which are taken as they are stored, whatever the format
            or transform that is set.

        Returns
        -------
        ImageSource

        Raises
        ------
        TypeError
            If this is no sequence of images.
        ValueError
            If an array has a shape that images do not have.
        """
        if isinstance(images, cls):
            return images
        _check_no_class(images)
        if hasattr(images, "iloc"):  # pandas: its [] takes labels, not positions
            images = images.to_numpy()
        if is_tensor(images):
            images = tensor_to_array(images, of_many=True)
        if isinstance(images, np.ndarray) and images.dtype.kind not in "OUT":
            return cls(_check_batch(images))
        if isinstance(images, np.ndarray):
            images = _list_of(images)
        if isinstance(images, (list, tuple)):
            return cls(_check_items(list(images)))
        if _is_table(images):
            return cls(_ImageColumn(images))
        _check_dataset(images)
        return cls(images)

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> ImageSource: ...
    def __getitem__(self, index):
        """RGB image at an integer position, or the ImageSource of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._read(index, self._to_rgb)

    def preview(self, index: int, least_size: int) -> Image.Image:
        """RGB image to be looked at, which may be smaller than the image itself.

        Parameters
        ----------
        index : int
        least_size : int
            Height and width that are enough, in pixels; what is smaller stays as it is.

        Returns
        -------
        PIL.Image.Image

        Raises
        ------
        ImageReadError
            If the image cannot be read.
        """
        return self._read(index, lambda item: self._to_rgb(item, least_size))

    def __repr__(self) -> str:
        return f"ImageSource(n_images={len(self)}, of={type(self._items).__name__})"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        whole = len(self._positions) == len(self._items)
        if not whole and isinstance(self._items, (list, np.ndarray)):
            # what other images of the source need is not sent to workers or written to caches
            items, positions = self._items, self._positions
            state["_items"] = (
                items[positions]
                if isinstance(items, np.ndarray)
                else [items[i] for i in positions]
            )
            state["_positions"] = np.arange(len(positions))
        if isinstance(state["_items"], list):
            state["_items"] = [_without_file(item) for item in state["_items"]]
        return state

    def take(self, indices: Any) -> ImageSource:
        """Images at these positions, as a new source.

        Parameters
        ----------
        indices : array-like of shape (n,), int

        Returns
        -------
        ImageSource
        """
        indices = np.asarray(indices, dtype=np.intp)
        return ImageSource(
            self._items, self._positions[indices], self._numbers[indices], self._max_pixels
        )

    def limited(self, max_pixels: int | None) -> ImageSource:
        """The same images, with another limit on the pixels that a file may have.

        Parameters
        ----------
        max_pixels : int or None
            A file of more is an error that is found before it is decoded.

        Returns
        -------
        ImageSource
        """
        return ImageSource(self._items, self._positions, self._numbers, max_pixels)

    def key(self, index: int) -> bytes:
        """Fingerprint of an image: of a file its path, size and time of change, else its content.

        Parameters
        ----------
        index : int

        Returns
        -------
        bytes
            Of length 16.

        Raises
        ------
        ImageReadError
            If the file is not there, or the content cannot be read.
        """
        return self._read(index, self._key_of)

    def _key_of(self, item: Any) -> bytes:
        if self.keyed_by_reading:
            return image_key(self._to_rgb(item))
        return item_key(item, max_pixels=self._max_pixels)

    def _to_rgb(self, item: Any, least_size: int | None = None) -> Image.Image:
        # What a Dataset opens is its own affair: it makes each image anew.
        return item_to_rgb(
            item,
            max_pixels=self._max_pixels,
            keep_unread=not self.keyed_by_reading,
            least_size=least_size,
        )

    def keys(self) -> tuple[dict[int, bytes], dict[int, ImageReadError]]:
        """Fingerprints of all images, as :meth:`key` gives them.

        Returns
        -------
        keys : dict of int to bytes
            By position, ascending.
        errors : dict of int to ImageReadError
            Errors of the images that have no key, by position, ascending.
        """
        if isinstance(self._items, np.ndarray):
            return dict(enumerate(self._array_keys())), {}
        results = [value_or_error(self.key, index) for index in range(len(self))]
        return split_errors(enumerate(results))

    def _array_keys(self) -> list[bytes]:
        # Same keys as key() gives, with all that does not depend on the image done once.
        items = np.asarray(self._items)  # an element of a memmap costs ten times as much
        start = array_hasher(items.shape[1:], items.dtype)
        contiguous = items[:1].flags.c_contiguous
        keys = []
        for position in self._positions.tolist():
            hasher = start.copy()
            hasher.update(items[position] if contiguous else np.ascontiguousarray(items[position]))
            keys.append(hasher.digest())
        return keys

    def error_at(self, index: int, error: ImageReadError) -> ImageReadError:
        """The error of another image, for this one that is the same image.

        Parameters
        ----------
        index : int
        error : ImageReadError

        Returns
        -------
        ImageReadError
        """
        return ImageReadError(int(self._numbers[index]), error.name, error.reason)

    @property
    def keyed_by_reading(self) -> bool:
        """Whether a fingerprint costs as much as the image: true of a torch Dataset."""
        return not isinstance(self._items, (list, np.ndarray, _ImageColumn))

    def has_pixels(self, size: int) -> bool:
        """Whether the images are RGB pixels of this size, with nothing to decode or resize.

        Parameters
        ----------
        size : int
            Height and width.

        Returns
        -------
        bool
        """
        items = self._items
        shape = (size, size, 3)
        is_batch = isinstance(items, np.ndarray)
        return is_batch and items.dtype == np.uint8 and items.shape[1:] == shape

    def pixels(self) -> np.ndarray:
        """The pixels of a source that :meth:`has_pixels`, without a copy where all are wanted.

        Returns
        -------
        ndarray of shape (n_images, height, width, 3), dtype uint8
        """
        whole = np.array_equal(self._positions, np.arange(len(self._items)))
        return self._items if whole else self._items[self._positions]

    def _read(self, index: int, function: Callable[[Any], Any]) -> Any:
        position, item = self._positions[index], None
        try:
            item = self._items[position if isinstance(self._items, np.ndarray) else int(position)]
            return function(item)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's plugins and users' Datasets raise any kind
            name = item_name(item) if item is not None else type(self._items).__name__
            reason = str(error) or type(error).__name__
            raise ImageReadError(int(self._numbers[index]), name, reason) from error


def value_or_error(function: Callable[[int], Any], index: int) -> Any:
    """What a function makes of an image, or the ImageReadError that it raises.

    Parameters
    ----------
    function : callable
        Of a position.
    index : int

    Returns
    -------
    object
    """
    try:
        return function(index)
    except ImageReadError as error:
        return error


def split_errors(results: Iterable[tuple[int, Any]]) -> tuple[dict, dict[int, ImageReadError]]:
    """Separate values and errors.

    Parameters
    ----------
    results : iterable of (int, object)
        Positions, with values or errors.

    Returns
    -------
    values : dict of int to object
    errors : dict of int to ImageReadError
    """
    values: dict[int, Any] = {}
    errors: dict[int, ImageReadError] = {}
    for index, result in results:
        (errors if isinstance(result, ImageReadError) else values)[index] = result
    return values, errors


def _check_batch(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.shape[1] > 4:
        raise ValueError(
            f"expected many images, got what looks like one image of shape {array.shape}. "
            "Pass [image], or an array (n, H, W, 3)."
        )
    if array.ndim == 2 and array.dtype.kind == "f":
        raise ValueError(
            f"expected images as an array (n, H, W) or (n, H, W, 1 | 3 | 4), got {array.shape}, "
            "which looks like features. What CLIPEncoder gives without class names is an array "
            "for scikit-learn's own estimators: pass it class_names for a ConceptSpace."
        )
    check_array(array, "an array of images", dimensions=(3, 4))
    return array


def _check_no_class(images: object) -> None:
    # Before anything else is asked of it: a class has the methods of its objects.
    if isinstance(images, type):
        raise TypeError(
            f"{EXPECTED_IMAGES}, got the class {images.__name__} itself. Pass an object of it."
        )


def _list_of(array: np.ndarray) -> list:
    """Items of an array of paths or other objects, which may be a table of one column."""
    if array.ndim == 0:
        raise TypeError(
            f"{EXPECTED_IMAGES}, got an array of no dimension: {array!r:.80}. Pass a list of "
            "images."
        )
    return list(array.ravel() if array.shape[1:] == (1,) else array)


def _check_items(items: list) -> list:
    for number, item in enumerate(items):
        inner = image_of(item)
        known = isinstance(inner, (str, os.PathLike, Image.Image, np.ndarray, bytes))
        if not (known or is_tensor(inner) or is_file(inner)):
            raise TypeError(f"{EXPECTED_IMAGES}; image {number} is of type {type(inner).__name__}")
    return items


def _check_dataset(images: object) -> None:
    given = type(images).__name__
    if isinstance(images, (str, os.PathLike)):
        raise TypeError(
            f"{EXPECTED_IMAGES}, got one path: {os.fspath(images)!r}. For a folder, pass "
            "capkit.image_files.find_images(folder).paths."
        )
    if isinstance(images, Mapping) and images and all(map(_is_table, images.values())):
        names = ", ".join(repr(str(name)) for name in images)
        raise TypeError(f"{EXPECTED_IMAGES}, got one {given}. Pass one of its splits: {names}.")
    if isinstance(images, (Image.Image, bytes, bytearray, Mapping)) or is_file(images):
        raise TypeError(f"{EXPECTED_IMAGES}, got one {given}. Pass a list of images.")
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise TypeError(f"{EXPECTED_IMAGES}, got {given}, which has no length or no positions.")


def _without_file(item: Any) -> Any:
    """An item that can be pickled: of an opened file what it holds."""
    inner = image_of(item)
    return file_bytes(inner) if is_file(inner) else item


# -- tables of Hugging Face's datasets, which is not imported


def _is_table(images: object) -> bool:
    features = getattr(images, "features", None)
    return isinstance(features, Mapping) and hasattr(images, "cast_column")


class _ImageColumn(Sequence):
    """The images of a Hugging Face Dataset as they are stored, not decoded.

    Parameters
    ----------
    table : datasets.Dataset
    """

    def __init__(self, table: Any) -> None:
        if not hasattr(table, "__len__"):
            raise TypeError(
                f"{EXPECTED_IMAGES}, got {type(table).__name__}, which has no length or no "
                "positions: load the Dataset without streaming=True."
            )
        self._name = _image_column(table.features)
        stored = type(table.features[self._name])(decode=False)
        of_images = table.with_format(None).select_columns([self._name])
        self._table = of_images.cast_column(self._name, stored)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index):
        return self._table[index][self._name]


def _image_column(features: Mapping[str, Any]) -> str:
    names = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
    if len(names) == 1:
        return names[0]
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    raise ValueError(
        f"expected a Dataset with one column of images, got {len(names)} among {columns}. "
        "Keep the one that is meant: dataset.select_columns(['image']); or make it one of images: "
        "dataset.cast_column('image', datasets.Image())."
    )
