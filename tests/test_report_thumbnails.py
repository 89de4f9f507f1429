"""Thumbnails: small, within their bytes, and none of what cannot be read."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_samples import gray_images

from capkit.images import ImageSource
from capkit.report.thumbnails import make_thumbnails, thumbnail_size


def decoded(uri: str) -> Image.Image:
    header, _, content = uri.partition(",")
    assert header == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content, validate=True)))


def test_the_size_is_the_largest_of_which_all_are_expected_to_fit():
    # 0.3 bytes a pixel: 19660.8 of 256 x 256, 7680 of 160 x 160.
    assert thumbnail_size(10, 196_608) == 256
    assert thumbnail_size(10, 196_607) == 160
    assert thumbnail_size(10, 76_799) == 112
    assert thumbnail_size(1_000_000, 1) == 112


def test_a_thumbnail_is_a_small_jpeg_of_the_same_shape():
    wide = Image.new("RGB", (900, 300), (250, 10, 10))
    (uri,) = make_thumbnails(
        ImageSource.from_user([wide]), np.array([0]), max_bytes=1_000_000
    ).values()
    image = decoded(uri)
    assert (image.format, image.size, image.mode) == ("JPEG", (256, 85), "RGB")
    assert np.abs(np.asarray(image).mean(axis=(0, 1)) - (250, 10, 10)).max() < 3
    assert wide.size == (900, 300)  # the user's own stays as it is


def test_a_small_or_thin_image_is_not_made_larger():
    images = [Image.new("RGB", (5, 4)), Image.new("RGB", (1, 4000))]
    thumbnails = make_thumbnails(
        ImageSource.from_user(images), np.array([0, 1]), max_bytes=1_000_000
    )
    assert [decoded(thumbnails[row]).size for row in (0, 1)] == [(5, 4), (1, 256)]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_images_have_thumbnails_in_the_order_of_need_as_long_as_there_is_room(n_jobs):
    images, rows = gray_images(200), np.arange(200)[::-1]
    every = make_thumbnails(images, rows, max_bytes=10_000_000, n_jobs=n_jobs)
    assert list(every) == rows.tolist()
    room = sum(len(every[row]) for row in rows[:90].tolist())
    some = make_thumbnails(images, rows, max_bytes=room, n_jobs=n_jobs)
    assert list(some) == rows[:90].tolist()
    fewer = make_thumbnails(images, rows, max_bytes=room - 1, n_jobs=n_jobs)
    assert list(fewer) == rows[:89].tolist()


def test_no_room_is_no_thumbnail():
    assert make_thumbnails(gray_images(2), np.array([0, 1]), max_bytes=0) == {}


def test_images_that_cannot_be_read_any_more_have_none(broken_colour_paths):
    images = ImageSource.from_user(broken_colour_paths)
    thumbnails = make_thumbnails(images, np.arange(7), max_bytes=1_000_000)
    assert list(thumbnails) == [0, 2, 4, 6]
