"""Damaged image files, and what is no image: right is what Pillow itself decodes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from capkit.exceptions import ImageReadError
from capkit.images import ImageSource
from capkit.pixels import to_rgb
from faults import damage
from faults.common import HARMLESS, Fault, WrongResult

FORMATS = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tiff",
    "PPM": ".ppm",
    "JPEG2000": ".jp2",
}
N_FLIPS = 40
_MAX_PIXELS = 10_000


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; the files lie in `folder`."""
    for name, suffix in FORMATS.items():
        content = _picture(name)
        for what, damaged in damage.damaged(content, N_FLIPS, sum(name.encode())):
            yield _fault(f"{name}, damaged", what, folder / f"picture{suffix}", damaged)
        for other in FORMATS.values():
            yield _fault(
                "image of another suffix", f"{name} as {other}", folder / f"p{other}", content
            )
    yield from of_no_files(folder)


def _fault(kind: str, name: str, path: Path, content: bytes) -> Fault:
    def attempt() -> str:
        path.write_bytes(content)
        found = np.asarray(ImageSource.from_user([path]).limited(_MAX_PIXELS)[0])
        with Image.open(io.BytesIO(content)) as image:
            right = np.asarray(to_rgb(image))
        if not np.array_equal(found, right):
            raise WrongResult(f"other pixels than Pillow's, of shape {found.shape}")
        if right.shape[0] * right.shape[1] > _MAX_PIXELS:
            raise WrongResult(f"an image of {right.shape} was decoded")
        return HARMLESS

    return Fault(kind, name, attempt, (ImageReadError,))


def of_no_files(folder: Path) -> Iterator[Fault]:
    """Pipes, folders, addresses, formats that run programs, and images of too many pixels."""
    fifo, eps, bomb = folder / "pipe.png", folder / "script.jpg", folder / "bomb.png"
    os.mkfifo(fifo)
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    Image.new("1", (4000, 4000)).save(bomb)
    wrong: dict[str, object] = {
        "a pipe": fifo,
        "a folder": folder,
        "an address": "https://example.org/a.png",
        "a file that is not there": folder / "nothing.png",
        "EPS in disguise": eps,
        "16 million pixels": bomb,
        "nothing": "",
        "an array of no height": np.zeros((0, 4, 3), np.uint8),
        "an array of no width": np.zeros((4, 0, 3), np.uint8),
        "an array with NaN": np.full((4, 4, 3), np.nan),
        "an array above 1": np.full((4, 4, 3), 7.0),
        "an array of five channels": np.zeros((4, 4, 5), np.uint8),
        "an array of one row": np.zeros(4, np.uint8),
        "a number": 3,
        "none": None,
    }
    for name, item in wrong.items():
        yield Fault(
            "no image", name, _attempt_to_read(item), (ImageReadError, ValueError, TypeError)
        )


def _attempt_to_read(item: object) -> Callable[[], str]:
    def attempt() -> str:
        image = ImageSource.from_user([item]).limited(_MAX_PIXELS)[0]
        raise WrongResult(f"an image of {image.size}")

    return attempt


def _picture(name: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 18, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name)
    return stream.getvalue()
