"""One image: from whatever holds it to 8-bit RGB, and to a fingerprint of its content."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "EXPECTED_IMAGES",
    "PIXELS_VERSION",
    "array_hasher",
    "check_array",
    "content_key",
    "image_key",
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
    "(H, W, 4), or tensors (3, H, W); an array (n, H, W, 3); a tensor (n, 3, H, W); or a torch "
    "Dataset of one of these"
)

_EXIF_ORIENTATION = 0x0112
_KEY_BYTES = 16


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
        If the values of an image of mode "I" or "F" are outside their range.

    Examples
    --------
    >>> from PIL import Image
    >>> to_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
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
    if array.ndim not in dimensions or not channels_last or 0 in array.shape[-2:]:
        hint = ""
        if array.ndim == dimensions[1] and array.shape[-3] in (1, 3, 4):
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


def item_to_rgb(item: Any) -> Image.Image:
    """Read one item of a sequence of images, whatever it is, as RGB.

    Parameters
    ----------
    item : path, PIL image, ndarray, tensor, or a tuple that starts with one
        An array is (H, W) or (H, W, 1 | 3 | 4), a tensor (H, W) or (1 | 3 | 4, H, W).

    Returns
    -------
    PIL.Image.Image
        Of mode "RGB".

    Raises
    ------
    TypeError, ValueError
        If this is no image.
    OSError
        If the file cannot be read.
    """
    if isinstance(item, (tuple, list)) and len(item):
        item = item[0]  # (image, label), as Datasets give them
    if isinstance(item, (str, os.PathLike)):
        with Image.open(item) as image:
            return to_rgb(image)
    if isinstance(item, Image.Image):
        return to_rgb(item)
    if is_tensor(item):
        item = tensor_to_array(item, of_many=False)
    if isinstance(item, np.ndarray):
        return to_rgb(_array_to_image(item))
    raise TypeError(f"{EXPECTED_IMAGES}, got an item of type {type(item).__name__}")


def item_name(item: Any) -> str:
    """Path of an item, or what it is, for errors."""
    if isinstance(item, (tuple, list)) and len(item):
        item = item[0]
    if isinstance(item, (str, os.PathLike)):
        return os.fspath(item)
    if isinstance(item, Image.Image):
        name = getattr(item, "filename", "")
        return os.fspath(name) or f"PIL image of mode {item.mode} and size {item.size}"
    shape = getattr(item, "shape", None)
    return type(item).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")


# -- fingerprints


def _path_key(path: str | os.PathLike) -> bytes:
    """Fingerprint of a file from its path, size and time of change: nothing is read."""
    status = os.stat(path)
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


def content_key(item: Any) -> bytes:
    """Fingerprint of an item's RGB pixels, which have to be read for it."""
    return image_key(item_to_rgb(item))


def item_key(item: Any) -> bytes:
    """Fingerprint of an item: of a path its size and time of change, else its content."""
    if isinstance(item, (tuple, list)) and len(item):
        item = item[0]
    if isinstance(item, (str, os.PathLike)):
        return _path_key(item)
    if isinstance(item, np.ndarray):
        return _array_key(item)
    return content_key(item)
