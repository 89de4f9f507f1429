"""One image: every mode and file format that Pillow writes becomes the right RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from capkit.pixels import content_key, image_key, item_key, item_name, item_to_rgb, to_rgb

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def through_file(image, format, **options):
    """Write with Pillow and open again, lazily, as a user's file is."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    buffer.seek(0)
    return Image.open(buffer)


def test_rgb_is_passed_through_without_a_copy():
    image = Image.new("RGB", (3, 2), RED)
    assert to_rgb(image) is image


def test_grayscale_is_repeated_in_each_channel():
    image = through_file(Image.new("L", (2, 2), 77), "PNG")
    assert to_rgb(image).getpixel((0, 0)) == (77, 77, 77)


def test_bilevel_becomes_black_and_white():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    rgb = to_rgb(through_file(image, "PNG"))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), WHITE]


def test_palette_is_looked_up():
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    rgb = to_rgb(through_file(image, "GIF"))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [BLUE, RED]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "La", "RGBa"])
def test_transparency_is_laid_on_white(mode):
    transparent_black = (0,) * len(Image.new(mode, (1, 1)).getbands())
    assert to_rgb(Image.new(mode, (1, 1), transparent_black)).getpixel((0, 0)) == WHITE


def test_half_transparent_color_is_mixed_with_white():
    image = through_file(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "PNG")
    # 51 / 255 = 0.2 of red over white
    assert to_rgb(image).getpixel((0, 0)) == (255, 204, 204)


def test_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([*BLUE, *RED])
    image.putpixel((1, 0), 1)
    rgb = to_rgb(through_file(image, "PNG", transparency=0))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


def test_transparent_color_of_an_rgb_file_is_white():
    image = Image.new("RGB", (2, 1), BLUE)
    image.putpixel((1, 0), RED)
    rgb = to_rgb(through_file(image, "PNG", transparency=BLUE))
    assert [rgb.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


def test_cmyk_is_converted():
    image = through_file(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert image.mode == "CMYK"
    assert to_rgb(image).getpixel((0, 0)) == RED


def test_16_bit_is_scaled_not_cut():
    values = np.array([[0, 257, 65535]], dtype=np.uint16)
    image = through_file(Image.fromarray(values), "PNG")
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(3)] == [0, 1, 255]


def test_32_bit_integers_span_16_bits():
    image = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert [to_rgb(image).getpixel((x, 0))[0] for x in range(2)] == [0, 255]
    with pytest.raises(ValueError, match="from 0 to 65535, got 0 to 65536"):
        to_rgb(Image.fromarray(np.array([[0, 65536]], dtype=np.int32)))


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        # what the upper left pixel of [[R, G], [B, W]] becomes by the EXIF standard
        (1, "RGBW"),
        (2, "GRWB"),
        (3, "WBGR"),
        (4, "BWRG"),
        (5, "RBGW"),
        (6, "BRWG"),
        (7, "WGBR"),
        (8, "GWRB"),
    ],
)
def test_exif_rotation_is_applied(orientation, expected):
    colors = {"R": RED, "G": (0, 255, 0), "B": BLUE, "W": WHITE}
    image = Image.new("RGB", (2, 2))
    image.putdata([colors[name] for name in "RGBW"])
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgb = to_rgb(through_file(image, "PNG", exif=exif))
    at = [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert [rgb.getpixel(xy) for xy in at] == [colors[name] for name in expected]


def test_broken_exif_does_not_spoil_the_pixels():
    image = through_file(Image.new("RGB", (8, 8), RED), "PNG", exif=b"Exif\0\0 no tiff header")
    assert to_rgb(image).getpixel((0, 0)) == RED


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    buffer.seek(0)
    assert to_rgb(Image.open(buffer)).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 128]], dtype=np.uint8), [0, 128]),
        (np.array([[0.0, 0.5]], dtype=np.float64), [0, 128]),
        (np.array([[0.0, 1.0]], dtype=np.float16), [0, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 65535]], dtype=np.uint16), [0, 255]),
    ],
)
def test_arrays_of_every_dtype(values, expected):
    for array in (values, values[:, :, None], np.repeat(values[:, :, None], 3, axis=2)):
        rgb = np.asarray(item_to_rgb(array))
        assert rgb.shape == (1, 2, 3)
        np.testing.assert_array_equal(rgb, np.repeat(np.array([expected])[..., None], 3, axis=2))


def test_tensor_has_its_channels_first():
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(3, 2, 5, dtype=torch.uint8)
    tensor[0] = 255
    image = item_to_rgb(tensor)
    assert image.size == (5, 2) and image.getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("item", "error", "match"),
    [
        (np.zeros((2, 2, 3)) + 1.5, ValueError, "from 0 to 1, got 1.5 to 1.5"),
        (np.full((2, 2), np.nan), ValueError, "from 0 to 1, got nan"),
        (np.zeros((2, 2, 3), dtype=np.int64), TypeError, "got int64"),
        (np.zeros((2, 2, 2), dtype=np.uint8), ValueError, r"got \(2, 2, 2\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), ValueError, "move the channels to the end"),
        (np.zeros((0, 4), dtype=np.uint8), ValueError, r"got \(0, 4\)"),
        (3.5, TypeError, "item of type float"),
    ],
)
def test_what_is_no_image_is_refused(item, error, match):
    with pytest.raises(error, match=match):
        item_to_rgb(item)


def test_label_beside_the_image_is_left_out():
    assert item_to_rgb((Image.new("RGB", (1, 1), RED), 7)).getpixel((0, 0)) == RED


def test_key_tells_pixels_and_shapes_apart():
    black, red = Image.new("RGB", (2, 3)), Image.new("RGB", (2, 3), RED)
    turned = Image.new("RGB", (3, 2))
    keys = {image_key(image) for image in (black, red, turned)}
    assert len(keys) == 3
    assert item_key(np.zeros((2, 2), np.uint8)) != item_key(np.zeros((2, 2), np.uint16))


def test_key_is_that_of_the_content_whatever_holds_it():
    image = Image.new("RGB", (2, 3), RED)
    assert item_key(image) == item_key(np.asarray(image)) == content_key((image, "label"))
    fortran = np.asfortranarray(np.asarray(image))
    assert item_key(fortran) == item_key(np.asarray(image))


def test_key_of_a_file_follows_its_changes(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (2, 2)).save(path)
    before = item_key(path)
    assert item_key(str(path)) == before
    path.touch()
    assert item_key(path) != before


def test_name_for_errors(tmp_path):
    assert item_name(tmp_path / "cat.png").endswith("cat.png")
    assert item_name((Image.new("L", (2, 3)), 1)) == "PIL image of mode L and size (2, 3)"
    assert item_name(np.zeros((4, 5))) == "ndarray of shape (4, 5)"
