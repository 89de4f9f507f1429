"""Decoding images in parallel: for encoding, for training, for prediction."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import joblib
import numpy as np
from joblib.parallel import get_active_backend
from PIL import Image

from capkit.exceptions import ImageReadError
from capkit.images import ImageSource, split_errors, value_or_error
from capkit.pixels import image_key

if TYPE_CHECKING:
    from capkit.backbones.preprocessing import Preprocessing

__all__ = ["Batch", "TrainingPixels", "decode_for_training", "decode_pixels", "read_batches"]

# Bytes above which an array of pixels is kept in a temporary file instead of memory.
_MEMORY_LIMIT = 2**30

# Images of a batch where all are decoded at once: their copies for training are large.
_DECODING_BATCH = 64


class Batch(NamedTuple):
    """What :func:`read_batches` gives.

    Attributes
    ----------
    indices : ndarray of shape (n_read,), int
        Positions in the source of the images that could be read.
    pixels : ndarray of shape (n_read, S, S, 3), dtype uint8
    keys : list of bytes
        Their fingerprints if the source is keyed by reading, else empty.
    errors : dict of int to ImageReadError
        Errors of the other images by position.
    """

    indices: np.ndarray
    pixels: np.ndarray
    keys: list[bytes]
    errors: dict[int, ImageReadError]


def read_batches(
    source: ImageSource,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    n_jobs: int | None = None,
) -> Generator[Batch, None, None]:
    """Read and resize images with joblib, a batch ahead of the one that is being used.

    Parameters
    ----------
    source : ImageSource
    indices : ndarray of shape (n,), int
        Positions in `source`, in the order wanted.
    preprocessing : Preprocessing
        Resizes and crops: PIL RGB image to (S, S, 3) uint8.
    batch_size : int, default=256
    n_jobs : int or None, default=None
        Number of workers: threads, unless ``joblib.parallel_config`` names another backend. None
        means the number that it says, and without one a worker for each CPU that this process
        may use, at most 8; -1 means one for each CPU.

    Yields
    ------
    Batch

    Raises
    ------
    ValueError
        If `n_jobs` is below 1 and not -1, or that of ``joblib.parallel_config`` is 0.

    Examples
    --------
    >>> import numpy as np
    >>> from open_clip.transform import PreprocessCfg
    >>> from capkit.backbones.preprocessing import Preprocessing
    >>> source = ImageSource.from_user(np.zeros((5, 8, 8, 3), dtype=np.uint8))
    >>> preprocessing = Preprocessing(PreprocessCfg(size=4))
    >>> for batch in read_batches(source, np.array([4, 0, 2]), preprocessing, batch_size=2):
    ...     print(batch.indices, batch.pixels.shape)
    [4 0] (2, 4, 4, 3)
    [2] (1, 4, 4, 3)
    """
    n_workers = _n_workers(n_jobs)
    size = preprocessing.image_size
    if source.has_pixels(size):
        for at in range(0, len(indices), batch_size):
            batch = indices[at : at + batch_size]
            yield Batch(batch, source.take(batch).pixels(), [], {})
        return
    with contextlib.closing(
        _read(source, indices, preprocessing, batch_size, n_workers)
    ) as batches:
        for results in batches:
            yield _gather(results, size)


def _gather(results: list[tuple[int, Any]], size: int) -> Batch:
    read, errors = split_errors(results)
    pixels = np.empty((len(read), size, size, 3), dtype=np.uint8)
    for row, (_, image) in enumerate(read.values()):
        pixels[row] = image
    keys = [key for key, _ in read.values() if key is not None]
    return Batch(np.fromiter(read, dtype=np.intp, count=len(read)), pixels, keys, errors)


def _n_workers(n_jobs: int | None) -> int:
    if n_jobs is not None and n_jobs < 1 and n_jobs != -1:
        raise ValueError(
            "expected n_jobs of at least 1, or -1 for one worker for each CPU, or None, "
            f"got {n_jobs}"
        )
    if n_jobs is None:
        _, n_jobs = get_active_backend()
    if n_jobs == 0:
        raise ValueError(
            "expected joblib.parallel_config with n_jobs of at least 1, or negative for all CPUs "
            "but some, got 0"
        )
    if n_jobs is None:
        n_jobs = min(joblib.cpu_count(), 8)
    # joblib.effective_n_jobs would ask for processes where no backend is configured
    backend, _ = get_active_backend(prefer="threads")
    return backend.effective_n_jobs(n_jobs)


def _read(
    source: ImageSource,
    indices: np.ndarray,
    convert: Callable[[Image.Image], Any],
    batch_size: int,
    n_workers: int,
) -> Generator[list[tuple[int, Any]], None, None]:
    """Position of each image of a batch with (key or None, what `convert` gives) or its error."""
    if not len(indices):
        return
    read_chunk = _ChunkReader(convert)
    chunk_size = max(1, min(batch_size, len(indices)) // (2 * n_workers))
    stopped = False

    def tasks(batch: np.ndarray) -> Iterator[tuple]:
        for at in range(0, len(batch), chunk_size):
            if stopped:
                return
            yield joblib.delayed(read_chunk)(source.take(batch[at : at + chunk_size]))

    # One call for each batch: within a call, joblib goes on as fast as images are read, however
    # slowly they are used, and memory would fill with them.
    with joblib.Parallel(n_workers, prefer="threads", return_as="generator") as parallel:
        ahead = parallel(tasks(indices[:batch_size]))
        try:
            for at in range(0, len(indices), batch_size):
                results = [result for chunk in ahead for result in chunk]
                ahead = parallel(tasks(indices[at + batch_size : at + 2 * batch_size]))
                yield list(zip(indices[at : at + batch_size].tolist(), results, strict=True))
        finally:
            stopped = True
            for _ in ahead:  # joblib kills processes, and warns, where a call is left half-way
                pass


class _ChunkReader:
    """Reads a few images of a source, for a thread or a process to run.

    Parameters
    ----------
    convert : callable
        PIL RGB image to what is wanted of it.
    """

    def __init__(self, convert: Callable[[Image.Image], Any]) -> None:
        self._convert = convert
        # A Dataset is written for one reader at a time: it may share a file or a random
        # generator. Another process has a Dataset of its own, and so a lock of its own.
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple]:
        return _ChunkReader, (self._convert,)

    def __call__(self, chunk: ImageSource) -> list[Any]:
        """Key, None where reading is not needed for it, and converted image, or the error."""
        read = self._read_with_key if chunk.keyed_by_reading else self._read
        return [value_or_error(lambda at: read(chunk, at), at) for at in range(len(chunk))]

    def _read(self, chunk: ImageSource, at: int) -> tuple[bytes | None, Any]:
        return None, self._convert(chunk[at])

    def _read_with_key(self, chunk: ImageSource, at: int) -> tuple[bytes | None, Any]:
        with self._lock:
            image = chunk[at]
        return image_key(image), self._convert(image)


# -- decoding all at once


class TrainingPixels(NamedTuple):
    """What :func:`decode_for_training` gives.

    Attributes
    ----------
    pixels : ndarray of shape (n_images, S, S, 3), dtype uint8
        Resized and cropped as the model does.
    whole : ndarray of shape (n_images, L, L, 3), dtype uint8
        The whole images, squashed to squares of L = 2 S, or `pixels` itself where the source
        has no more than these.
    aspect : ndarray of shape (n_images,), dtype float32
        Width / height of the images before they were squashed.
    """

    pixels: np.ndarray
    whole: np.ndarray
    aspect: np.ndarray


def decode_pixels(
    source: ImageSource, preprocessing: Preprocessing, *, n_jobs: int | None = None
) -> np.ndarray:
    """Decode and resize all images at once.

    Parameters
    ----------
    source : ImageSource
    preprocessing : Preprocessing
        Resizes and crops: PIL RGB image to (S, S, 3) uint8.
    n_jobs : int or None, default=None
        Number of workers, see :func:`read_batches`.

    Returns
    -------
    ndarray of shape (n_images, S, S, 3), dtype uint8
        Above 1 GiB in a temporary file, which is deleted with the array.

    Raises
    ------
    ImageReadError
        If an image cannot be read.
    OSError
        If the disk has no room for the temporary file.
    ValueError
        If `n_jobs` is below 1 and not -1, or that of ``joblib.parallel_config`` is 0.

    Examples
    --------
    >>> from open_clip.transform import PreprocessCfg
    >>> from PIL import Image
    >>> from capkit.backbones.preprocessing import Preprocessing
    >>> source = ImageSource.from_user([Image.new("RGB", (40, 20))])
    >>> decode_pixels(source, Preprocessing(PreprocessCfg(size=16))).shape
    (1, 16, 16, 3)
    """
    n_workers = _n_workers(n_jobs)
    size = preprocessing.image_size
    if source.has_pixels(size):
        return source.pixels()
    pixels = _allocate((len(source), size, size, 3))
    for index, image in _read_all(source, preprocessing, n_workers):
        pixels[index] = image
    return pixels


def decode_for_training(
    source: ImageSource, preprocessing: Preprocessing, *, n_jobs: int | None = None
) -> TrainingPixels:
    """Decode all images once, so that no training step has to, into the copies it cuts from.

    Parameters
    ----------
    source : ImageSource
    preprocessing : Preprocessing
        Resizes and crops: PIL RGB image to (S, S, 3) uint8.
    n_jobs : int or None, default=None
        Number of workers, see :func:`read_batches`.

    Returns
    -------
    TrainingPixels
        Each array above 1 GiB is in a temporary file, which is deleted with the array.

    Raises
    ------
    ImageReadError
        If an image cannot be read.
    OSError
        If the disk has no room for the temporary files.
    ValueError
        If `n_jobs` is below 1 and not -1, or that of ``joblib.parallel_config`` is 0.

    Examples
    --------
    >>> from open_clip.transform import PreprocessCfg
    >>> from PIL import Image
    >>> from capkit.backbones.preprocessing import Preprocessing
    >>> source = ImageSource.from_user([Image.new("RGB", (40, 20))])
    >>> copies = decode_for_training(source, Preprocessing(PreprocessCfg(size=16)))
    >>> copies.pixels.shape, copies.whole.shape, copies.aspect.tolist()
    ((1, 16, 16, 3), (1, 32, 32, 3), [2.0])
    """
    n_workers = _n_workers(n_jobs)
    size, n_images = preprocessing.image_size, len(source)
    if source.has_pixels(size):
        pixels = source.pixels()
        return TrainingPixels(pixels, pixels, np.ones(n_images, dtype=np.float32))
    copies = TrainingPixels(
        pixels=_allocate((n_images, size, size, 3)),
        whole=_allocate((n_images, 2 * size, 2 * size, 3)),
        aspect=np.empty(n_images, dtype=np.float32),
    )
    for index, image in _read_all(source, _TrainingCopies(preprocessing), n_workers):
        for array, value in zip(copies, image, strict=True):
            array[index] = value
    return copies


@dataclasses.dataclass(frozen=True)
class _TrainingCopies:
    """The values of one image in each array of :class:`TrainingPixels`."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray, float]:
        side = 2 * self.preprocessing.image_size
        whole = image.resize((side, side), Image.Resampling.BICUBIC)
        return self.preprocessing(image), np.asarray(whole), image.width / image.height


def _read_all(
    source: ImageSource, convert: Callable[[Image.Image], Any], n_workers: int
) -> Iterator[tuple[int, Any]]:
    """Position and converted image of all images; raises at the first that cannot be read."""
    indices = np.arange(len(source))
    with contextlib.closing(
        _read(source, indices, convert, _DECODING_BATCH, n_workers)
    ) as batches:
        for results in batches:
            for index, result in results:
                if isinstance(result, ImageReadError):
                    raise result
                yield index, result[1]


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    n_bytes = int(np.prod(shape))
    if n_bytes <= _MEMORY_LIMIT:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile(prefix="capkit-pixels-") as file:
        if hasattr(os, "posix_fallocate"):
            # a full disk is an error here, where it would be a bus error at the first write
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
