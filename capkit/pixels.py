"""One image: from whatever holds it to 8-bit RGB, and to a fingerprint of its content."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import threading
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

__all__ = [
    "EXPECTED_IMAGES",
    "FORMATS",
    "PIXELS_VERSION",
    "array_hasher",
    "check_array",
    "file_bytes",
    "image_key",
    "image_of",
    "is_file",
    "is_tensor",
    "item_key",
    "item_name",
    "item_to_rgb",
    "tensor_to_array",
    "to_rgb",
]

# Part of every cached feature's key: raise it when to_rgb gives other pixels than before.
PIXELS_VERSION = 1

EXPECTED_IMAGES = (
    "expected images as a sequence of paths, PIL images, arrays (H, W), (H, W, 1), (H, W, 3) or "
    "(H, W, 4), tensors (3, H, W), encoded bytes, or files opened in binary mode; an array "
    "(n, H, W, 3); a tensor (n, 3, H, W); a torch Dataset of one of these; or a split of a "
    "Hugging Face Dataset"
)

# Pillow's names of the formats that files may have, as far as the installed Pillow knows them
# (HEIF by the package pillow-heif). Of its many others, EPS starts Ghostscript.
FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "HEIF",
)

_EXIF_ORIENTATION = 0x0112
_KEY_BYTES = 16
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)

# Pillow reads an image that is not loaded, and its metadata, for one thread at a time, and a file
# has one position. They cannot be keys of a dictionary of locks: each has that of its place in
# memory.
_LOCKS = tuple(threading.Lock() for _ in range(64))


def _lock_of(item: object) -> threading.Lock:
    return _LOCKS[id(item) // 64 % len(_LOCKS)]


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any Pillow image into 8-bit RGB, as a viewer would show it.

    EXIF rotation is applied, transparency is laid on white, 16-bit values are scaled to 8 bits,
    and palettes, grayscale and CMYK are converted. Of several frames the first one counts.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode. Values of mode "I" span 0 to 65535, those of mode "F" 0 to 1.

    Returns
    -------
    PIL.Image.Image
        Of mode "RGB"; the image itself where nothing is to be done.

    Raises
    ------
    OSError
        If the file behind the image is damaged.
    ValueError
        If the height or width is 0, or the values of an image of mode "I" or "F" are outside
        their range.

    Examples
    --------
    >>> from PIL import Image
    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if 0 in image.size:
        raise ValueError(
            "expected a height and width of at least 1 pixel, got a height of "
            f"{image.height} and a width of {image.width}"
        )
    image.load()
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image)
        gray = _to_uint8(values if image.mode == "F" else _as_uint16(values))
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # Pillow goes from premultiplied gray to nothing else
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds; the pixels are fine without broken metadata
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _as_uint16(values: np.ndarray) -> np.ndarray:
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ValueError(
            f"integer values are expected from 0 to 65535, got {values.min()} to {values.max()}"
        )
    return values.astype(np.uint16)


def _to_uint8(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # NaN fails it too
        n_wrong = np.count_nonzero(~np.isfinite(values))
        if n_wrong:
            raise ValueError(
                f"float values are expected from 0 to 1, got {n_wrong} of {values.size} that are "
                "NaN or infinite: look at where they come from, or replace them by "
                "np.nan_to_num(image, posinf=1)"
            )
        raise ValueError(
            f"float values are expected from 0 to 1, got {values.min():g} to {values.max():g}: "
            "divide by 255, or give uint8"
        )
    return np.rint(values * 255).astype(np.uint8)


def _array_to_image(array: np.ndarray) -> Image.Image:
    check_array(array, "an image", dimensions=(2, 3))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array)))


def check_array(array: np.ndarray, what: str, dimensions: tuple[int, int]) -> None:
    """Raise unless `array` has a known dtype and is (..., H, W) or (..., H, W, 1 | 3 | 4)."""
    known = array.dtype in (np.uint8, np.uint16, np.bool_) or array.dtype.kind == "f"
    if not known:
        raise TypeError(
            f"expected {what} of dtype uint8, uint16, bool or float (0 to 1), got {array.dtype}. "
            "Convert it, for example by .astype(np.uint8)."
        )
    channels_last = array.ndim != dimensions[1] or array.shape[-1] in (1, 3, 4)
    height_and_width = array.shape[dimensions[0] - 2 : dimensions[0]]
    if array.ndim not in dimensions or not channels_last or 0 in height_and_width:
        hint = ""
        if 0 in height_and_width:
            hint = "; height and width are at least 1"
        elif array.ndim == dimensions[1] and array.shape[-3] in (1, 3, 4):
            hint = "; move the channels to the end: np.moveaxis(array, -3, -1)"
        shape = ("n, " if dimensions[0] == 3 else "") + "H, W"
        raise ValueError(
            f"expected {what} of shape ({shape}) or ({shape}, 1 | 3 | 4), got {array.shape}{hint}"
        )


def is_tensor(value: object) -> bool:
    """Whether this is a tensor, without importing torch for users who have none."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "permute")


def tensor_to_array(tensor: Any, *, of_many: bool) -> np.ndarray:
    """Tensor with its channels first, or without any, as an array with its channels last."""
    array = tensor.detach().cpu().numpy()
    if array.ndim != (4 if of_many else 3):
        return array
    if array.shape[-3] not in (1, 3, 4):
        raise ValueError(
            f"expected a tensor of shape ({'n, ' * of_many}1 | 3 | 4, H, W), got {array.shape}"
        )
    return np.moveaxis(array, -3, -1)


def image_of(item: Any) -> Any:
    """What of an item is the image, as Datasets give them.

    Parameters
    ----------
    item : object
        Of (image, label) the first; of Hugging Face's ``{"bytes": ..., "path": ...}`` the bytes,
        and without any the path.

    Returns
    -------
    object
        The item itself, if it is none of these.
    """
    if isinstance(item, (tuple, list)) and len(item):
        item = item[0]
    if isinstance(item, Mapping) and ("bytes" in item or "path" in item):
        item = item.get("path") if item.get("bytes") is None else item["bytes"]
    return bytes(item) if isinstance(item, (bytearray, memoryview)) else item


def item_to_rgb(
    item: Any,
    *,
    max_pixels: int | None = None,
    keep_unread: bool = False,
    least_size: int | None = None,
) -> Image.Image:
    """Read one item of a sequence of images, whatever it is, as RGB.

    Parameters
    ----------
    item : path, PIL image, ndarray, tensor, bytes, file, or what :func:`image_of` takes
        An array is (H, W) or (H, W, 1 | 3 | 4), a tensor (H, W) or (1 | 3 | 4, H, W). A file,
        and what is in bytes, has one of the :data:`FORMATS`.
    max_pixels : int or None, default=None
        Most pixels that a file may have; one of more is not decoded.
    keep_unread : bool, default=False
        Whether an opened PIL image that is not loaded stays so where that can be done: its
        file is read by an image of our own.
    least_size : int or None, default=None
        Height and width that are enough: a JPEG file may be decoded at a half, a quarter or an
        eighth of its own, which is quicker. None decodes all in full.

    Returns
    -------
    PIL.Image.Image
        Of mode "RGB".

    Raises
    ------
    TypeError, ValueError
        If this is no image, or one of too many pixels.
    OSError
        If the file cannot be read.
    """
    item = image_of(item)
    if is_file(item):
        item = file_bytes(item)
    if isinstance(item, (str, os.PathLike)):
        _file_status(item)
    if isinstance(item, (str, os.PathLike, bytes)):
        with _open(item, max_pixels) as image:
            return _within(image, max_pixels, least_size)
    if isinstance(item, Image.Image):
        return _opened_to_rgb(item, max_pixels, keep_unread)
    if is_tensor(item):
        item = tensor_to_array(item, of_many=False)
    if isinstance(item, np.ndarray):
        return to_rgb(_array_to_image(item))
    raise TypeError(f"{EXPECTED_IMAGES}, got an item of type {type(item).__name__}")


def item_name(item: Any) -> str:
    """Path of an item, or what it is, for errors."""
    if isinstance(item, (tuple, list)) and len(item):
        item = item[0]
    if isinstance(item, Mapping):
        item = item.get("path") or image_of(item)
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    if isinstance(item, bytes):
        return f"{len(item)} bytes"
    if is_file(item):
        return str(getattr(item, "name", type(item).__name__))
    if isinstance(item, Image.Image):
        name = getattr(item, "filename", "")
        return os.fspath(name) or f"PIL image of mode {item.mode} and size {item.size}"
    shape = getattr(item, "shape", None)
    return type(item).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")


# -- files


def is_file(value: object) -> bool:
    """Whether this is a file, or acts as one, and is not opened as text."""
    return (
        hasattr(value, "read") and hasattr(value, "seek") and not isinstance(value, io.TextIOBase)
    )


def file_bytes(file: IO[bytes]) -> bytes:
    """All that a file holds, from its beginning; its position stays as it was."""
    with _lock_of(file):
        try:
            position = file.tell()
            file.seek(0)
        except OSError as error:
            raise ValueError(
                f"expected a file that can be read more than once, got one that cannot go back "
                f"({error}): pass file.read()"
            ) from error
        try:
            content = file.read()
        finally:
            file.seek(position)
    if not isinstance(content, bytes):
        raise TypeError(
            f"expected a file opened in binary mode, got one that gives {type(content).__name__}: "
            "open(path, 'rb')"
        )
    return content


def _open(source: str | os.PathLike | bytes, max_pixels: int | None) -> ImageFile.ImageFile:
    """Open a file, or what was in one, of one of the formats; nothing of it is decoded."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    Image.init()
    try:
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        raise UnidentifiedImageError(
            f"expected a file of a format among {', '.join(FORMATS)}, got none of them, or a "
            "damaged one: convert it to PNG"
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, and no more than Pillow takes: "
            f"{error} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS and "
            "CLIPEncoder(max_pixels=...)"
        ) from error


def _file_status(path: str | os.PathLike) -> os.stat_result:
    """Status of a regular file; others could never end."""
    try:
        status = os.stat(path)
    except OSError:
        if _URL.match(os.fsdecode(path)):
            raise ValueError(
                "expected the path of a file, got a URL: capkit does not download. Save the "
                "image as a file and pass its path"
            ) from None
        raise
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(
            "expected a file, got a directory: pass the files in it, "
            "capkit.image_files.find_images(folder).paths"
        )
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("expected a regular file, got a pipe, a socket or a device")
    return status


def _within(
    image: ImageFile.ImageFile, max_pixels: int | None, least_size: int | None = None
) -> Image.Image:
    """RGB of an opened file that has no more than so many pixels."""
    n_pixels = image.width * image.height
    if max_pixels is not None and n_pixels > max_pixels:
        raise ValueError(
            f"expected at most max_pixels={max_pixels} pixels, got {image.width} x "
            f"{image.height} = {n_pixels}: make it smaller, or pass a larger max_pixels to "
            "CLIPEncoder"
        )
    if least_size is not None:
        image.draft(None, (least_size, least_size))
    return to_rgb(image)


# -- PIL images of users


def _opened_to_rgb(image: Image.Image, max_pixels: int | None, keep_unread: bool) -> Image.Image:
    """RGB of a PIL image, which other threads may be reading too."""
    with _lock_of(image):
        own = _opened_again(image, max_pixels) if keep_unread else None
        if own is None:
            if not isinstance(image, ImageFile.ImageFile):
                return to_rgb(image)
            if _is_unread(image) and image.format not in FORMATS:
                raise ValueError(
                    f"expected an image of a format among {', '.join(FORMATS)}, got "
                    f"{image.format}: convert it to PNG, or if you trust the file, call load() "
                    "of the image first"
                )
            return _within(image, max_pixels)
    with own:
        return _within(own, max_pixels)


def _is_unread(image: ImageFile.ImageFile) -> bool:
    # The second tells it of WebP, from Pillow 11 on.
    return bool(image.tile) or getattr(image, "_im", image) is None


def _opened_again(image: Image.Image, max_pixels: int | None) -> ImageFile.ImageFile | None:
    """Open the file of an unread PIL image anew; None where that could give another picture."""
    if not isinstance(image, ImageFile.ImageFile) or not _is_unread(image) or not image.fp:
        return None
    path = os.fsdecode(image.filename)
    try:
        # another file may stand there now; and of metadata once asked for, a user may have
        # changed the orientation
        is_same_file = os.path.samestat(os.fstat(image.fp.fileno()), os.stat(path))
        if not is_same_file or image.tell() != 0 or getattr(image, "_exif", None) is not None:
            return None
        _file_status(path)
        again = _open(path, max_pixels)
    except (AttributeError, OSError, ValueError):  # no file, a closed one, or another format
        return None
    if _header(again) == _header(image):
        return again
    again.close()
    return None


def _header(image: ImageFile.ImageFile) -> tuple:
    """All that says what will be decoded; draft() changes it."""
    return type(image), image.size, image.mode, image.tile, image.info


# -- fingerprints


def _path_key(path: str | os.PathLike) -> bytes:
    """Fingerprint of a file from its path, size and time of change: nothing is read."""
    status = _file_status(path)
    text = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.blake2b(os.fsencode(text), digest_size=_KEY_BYTES, person=b"path").digest()


def array_hasher(shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """Hash object that expects the bytes of an array of this shape and dtype."""
    header = f"{shape}{dtype.str}".encode()
    return hashlib.blake2b(header, digest_size=_KEY_BYTES, person=b"pixels")


def _array_key(array: np.ndarray) -> bytes:
    hasher = array_hasher(array.shape, array.dtype)
    hasher.update(np.ascontiguousarray(array))
    return hasher.digest()


def image_key(image: Image.Image) -> bytes:
    """Fingerprint of an image's pixels, the same as of the array of these pixels."""
    return _array_key(np.asarray(image))


def item_key(item: Any, *, max_pixels: int | None = None) -> bytes:
    """Fingerprint of an item: of a file its path, size and time of change, else its content.

    A PIL image that is not loaded counts as its file, where it has one. Of bytes, and of what an
    opened file holds, the content is that before it is decoded.
    """
    item = image_of(item)
    if is_file(item):
        item = file_bytes(item)
    if isinstance(item, (str, os.PathLike)):
        return _path_key(item)
    if isinstance(item, bytes):
        return hashlib.blake2b(item, digest_size=_KEY_BYTES, person=b"bytes").digest()
    if isinstance(item, np.ndarray):
        return _array_key(item)
    if isinstance(item, Image.Image):
        own = _opened_again(item, max_pixels)
        if own is not None:
            own.close()
            return _path_key(os.fsdecode(own.filename))
    return image_key(item_to_rgb(item, max_pixels=max_pixels))
