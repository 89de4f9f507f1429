"""Small pictures of images, as data URIs that a page holds within a number of bytes."""

from __future__ import annotations

import base64
import io

import numpy as np
from joblib import Parallel, cpu_count, delayed
from PIL import Image

from capkit.exceptions import ImageReadError
from capkit.images import ImageSource

__all__ = ["make_thumbnails", "thumbnail_size"]

# Longest side of a thumbnail in pixels: the largest of which all are expected to fit.
_SIZES = (256, 160, 112)
# Bytes of a data URI that are expected for each pixel of a photo.
_BYTES_PER_PIXEL = 0.3
_QUALITY = 75
# Images that are read before it is looked how many bytes are left.
_BATCH = 64


def thumbnail_size(n_images: int, max_bytes: int) -> int:
    """Longest side of the thumbnails of so many images.

    Parameters
    ----------
    n_images : int
    max_bytes : int
        Of all of them.

    Returns
    -------
    int
        In pixels: 256, 160 or 112, the largest of which all are expected to fit; else the
        smallest.

    Examples
    --------
    >>> from capkit.report.thumbnails import thumbnail_size
    >>> thumbnail_size(100, 10_000_000), thumbnail_size(10_000, 10_000_000)
    (256, 112)
    """
    for size in _SIZES:
        if n_images * size**2 * _BYTES_PER_PIXEL <= max_bytes:
            return size
    return _SIZES[-1]


def make_thumbnails(
    images: ImageSource, rows: np.ndarray, *, max_bytes: int, n_jobs: int | None = None
) -> dict[int, str]:
    """Thumbnails of images in the order in which they are needed, as long as there is room.

    Parameters
    ----------
    images : ImageSource
    rows : ndarray of shape (n,), int
        Positions of images, those that are needed most ahead.
    max_bytes : int
        Of all data URIs together.
    n_jobs : int or None, default=None
        Threads that read images; None means one for each CPU, at most 8.

    Returns
    -------
    dict of int to str
        Data URI of a JPEG by position. Images that cannot be read any more have none.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.images import ImageSource
    >>> from capkit.report.thumbnails import make_thumbnails
    >>> images = ImageSource.from_user(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    >>> thumbnails = make_thumbnails(images, np.array([1]), max_bytes=10_000)
    >>> list(thumbnails), thumbnails[1][:23]
    ([1], 'data:image/jpeg;base64,')
    """
    size, left = thumbnail_size(len(rows), max_bytes), max_bytes
    thumbnails: dict[int, str] = {}
    n_threads = min(cpu_count(), 8) if n_jobs is None else n_jobs
    with Parallel(n_jobs=n_threads, prefer="threads") as parallel:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH].tolist()
            made = parallel(delayed(_thumbnail)(images, row, size) for row in batch)
            for row, uri in zip(batch, made, strict=True):
                if uri is None:
                    continue
                if len(uri) > left:
                    return thumbnails
                thumbnails[row] = uri
                left -= len(uri)
    return thumbnails


def _thumbnail(images: ImageSource, row: int, size: int) -> str | None:
    try:
        # copied, as thumbnail() changes it, and it may be the user's own
        image = images.preview(row, 2 * size).copy()
    except ImageReadError:
        return None
    image.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
