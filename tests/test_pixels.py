"""One image: every mode and file format that Pillow writes becomes the right RGB."""

import concurrent.futures
import io
import os
import threading

import numpy as np
import pytest
from PIL import Image, ImageFile

from capkit.pixels import (
    FORMATS,
    file_bytes,
    image_key,
    item_key,
    item_name,
    item_to_rgb,
    to_rgb,
)

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
        (np.full((2, 2), np.nan), ValueError, "got 4 of 4 that are NaN or infinite"),
        (np.array([[0.5, np.inf]]), ValueError, "got 1 of 2 that are NaN or infinite"),
        (np.zeros((2, 2, 3), dtype=np.int64), TypeError, "got int64"),
        (np.zeros((2, 2, 2), dtype=np.uint8), ValueError, r"got \(2, 2, 2\)"),
        (np.zeros((3, 8, 8), dtype=np.uint8), ValueError, "move the channels to the end"),
        (np.zeros((0, 4), dtype=np.uint8), ValueError, r"got \(0, 4\); height and width are"),
        (np.zeros((0, 4, 3), dtype=np.uint8), ValueError, r"got \(0, 4, 3\); height and width"),
        (np.zeros((4, 0, 3), dtype=np.uint8), ValueError, r"got \(4, 0, 3\); height and width"),
        (Image.new("RGB", (0, 4)), ValueError, "got a height of 4 and a width of 0"),
        (Image.new("L", (4, 0)), ValueError, "got a height of 0 and a width of 4"),
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
    assert item_key(image) == item_key(np.asarray(image)) == item_key((image, "label"))
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


# -- files


@pytest.fixture
def no_decoding(monkeypatch):
    """Decoding a file fails the test."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("was decoded"))


@pytest.fixture
def picture(tmp_path):
    """A file of 40 x 30 random pixels."""
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats_that_are_read_whatever_the_file_is_called(tmp_path, format):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "image.any", format)
    red, green, blue = item_to_rgb(tmp_path / "image.any").getpixel((4, 4))
    assert red > 250 and green < 5 and blue < 5
    assert format in FORMATS


@pytest.mark.parametrize("format", ["EPS", "PCX", "TGA"])
def test_other_formats_are_not_opened_whatever_the_file_is_called(tmp_path, no_decoding, format):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (8, 8), RED).save(path, format)
    with pytest.raises(OSError, match=r"a format among JPEG, MPO, PNG, .*convert it to PNG"):
        item_to_rgb(path)
    with Image.open(path) as opened, pytest.raises(ValueError, match=f"got {format}: convert"):
        item_to_rgb(opened, keep_unread=True)


def test_image_that_the_user_has_loaded_may_be_of_any_format():
    opened = through_file(Image.new("RGB", (8, 8), RED), "TGA")
    opened.load()
    assert item_to_rgb(opened).getpixel((0, 0)) == RED


@pytest.mark.parametrize("opened", [False, True])
def test_file_of_too_many_pixels_is_not_decoded(picture, no_decoding, opened):
    expected = r"at most max_pixels=1199 pixels, got 40 x 30 = 1200: .*max_pixels to CLIPEncoder"
    item = Image.open(picture) if opened else picture
    with pytest.raises(ValueError, match=expected):
        item_to_rgb(item, max_pixels=1199, keep_unread=True)


def test_limit_is_the_most_that_a_file_may_have(picture):
    assert item_to_rgb(picture, max_pixels=1200).size == (40, 30)
    assert item_to_rgb(np.zeros((30, 40), np.uint8), max_pixels=1).size == (40, 30)


def test_pillows_own_limit_is_named(picture, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # an error from twice that
    with pytest.raises(ValueError, match=r"1200 pixels.*1000 pixels.*PIL\.Image\.MAX_IMAGE_PIX"):
        item_to_rgb(picture, max_pixels=None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("read", [item_to_rgb, item_key])
def test_pipe_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    failures = []

    def attempt():
        for name in ("pipe.png", "link.png"):
            with pytest.raises(ValueError, match="expected a regular file, got a pipe"):
                read(tmp_path / name)
            failures.append(name)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert failures == ["pipe.png", "link.png"]


def test_link_to_a_file_is_followed(picture, tmp_path):
    (tmp_path / "link.png").symlink_to(picture)
    assert item_to_rgb(tmp_path / "link.png").size == (40, 30)


@pytest.mark.parametrize("read", [item_to_rgb, item_key])
@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("https://example.com/cat.jpg", ValueError, "capkit does not download"),
        ("data:image/png;base64,iVBORw0KGgo=", ValueError, "capkit does not download"),
        ("missing.png", FileNotFoundError, "No such file"),
        (".", IsADirectoryError, r"got a directory: pass the files in it, capkit"),
    ],
)
def test_path_that_is_no_file_says_what_it_is(read, path, error, match):
    with pytest.raises(error, match=match):
        read(path)


# -- PIL images that the user has opened


def is_unread(image):
    return image.fp is not None and not image.fp.closed  # Pillow closes it once it is read


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_opened_image_stays_unread_and_usable(tmp_path, format):
    path = tmp_path / "picture"
    Image.effect_noise((40, 30), 90).convert("RGB").save(path, format)
    expected = np.asarray(item_to_rgb(path))
    opened = Image.open(path)
    np.testing.assert_array_equal(item_to_rgb(opened, keep_unread=True), expected)
    assert item_key(opened) == item_key(path)
    assert is_unread(opened)
    np.testing.assert_array_equal(opened.convert("RGB"), expected)


def changed_by_draft(path):
    image = Image.open(path)
    image.draft("RGB", (20, 15))
    return image


def changed_orientation(path):
    image = Image.open(path)
    image.getexif()[0x0112] = 6
    return image


def changed_transparency(path):
    image = Image.open(path)
    image.info["transparency"] = (0, 0, 0)
    return image


def changed_file(path):
    image = Image.open(path)
    path.unlink()
    Image.new("RGB", (40, 30)).save(path, "JPEG")
    return image


def without_file(path):
    image = Image.open(path)
    path.unlink()
    return image


def from_memory(path):
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize(
    "open_image",
    [
        changed_by_draft,
        changed_orientation,
        changed_transparency,
        changed_file,
        without_file,
        from_memory,
    ],
)
def test_opened_image_that_is_not_its_file_is_read_itself(tmp_path, open_image):
    path = tmp_path / "picture.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    expected = to_rgb(open_image(path))
    path.write_bytes(content)
    opened = open_image(path)
    np.testing.assert_array_equal(item_to_rgb(opened, keep_unread=True), expected)
    assert item_key(opened) == image_key(expected)


def test_another_frame_is_the_one_that_the_user_chose(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    opened = Image.open(tmp_path / "two.gif")
    opened.seek(1)
    assert item_to_rgb(opened, keep_unread=True).getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("in_memory", [True, False])
def test_threads_may_read_the_same_opened_image(tmp_path, in_memory):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(path, exif=exif)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            opened = Image.open(io.BytesIO(path.read_bytes()) if in_memory else path)
            read = [threads.submit(item_to_rgb, opened, keep_unread=True) for _ in range(8)]
            for each in read:
                np.testing.assert_array_equal(each.result(), pixels[::-1, ::-1])


# -- bytes and files


def png_bytes(color=RED):
    return through_file(Image.new("RGB", (3, 2), color), "PNG").fp.getvalue()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, io.BytesIO])
def test_encoded_bytes_are_read_whatever_holds_them(kind):
    assert item_to_rgb(kind(png_bytes())).getpixel((2, 1)) == RED
    assert item_key(kind(png_bytes())) == item_key(png_bytes()) != item_key(png_bytes(BLUE))


def test_bytes_of_another_format_or_of_too_many_pixels_are_refused():
    with pytest.raises(OSError, match="expected a file of a format among JPEG"):
        item_to_rgb(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(ValueError, match=r"at most max_pixels=5 pixels, got 3 x 2 = 6"):
        item_to_rgb(png_bytes(), max_pixels=5)


def test_a_file_that_cannot_go_back_is_refused_with_what_to_do():
    read_end, write_end = os.pipe()
    os.close(write_end)
    with (
        os.fdopen(read_end, "rb") as pipe,
        pytest.raises(ValueError, match=r"pass file\.read\(\)"),
    ):
        item_to_rgb(pipe)


def test_a_file_of_text_is_refused():
    class Text:
        tell = staticmethod(lambda: 0)
        seek = staticmethod(lambda position: None)
        read = staticmethod(lambda: "text")

    with pytest.raises(TypeError, match=r"one that gives str: open\(path, 'rb'\)"):
        file_bytes(Text())


def test_threads_may_share_a_file():
    class SlowFile(io.BytesIO):
        def read(self, *size):
            os.sched_yield()
            return super().read(*size)

    file = SlowFile(png_bytes() + bytes(2**16))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(file_bytes, [file] * 200))
    assert set(contents) == {file.getvalue()}


def test_names_in_errors_of_bytes_and_files(tmp_path):
    assert item_name(b"12345") == "5 bytes"
    assert item_name(io.BytesIO()) == "BytesIO"
    assert item_name({"bytes": b"12345", "path": "a.png"}) == "a.png"
    assert item_name(({"bytes": b"12345", "path": None}, 3)) == "5 bytes"
    (tmp_path / "a.png").touch()
    with (tmp_path / "a.png").open("rb") as file:
        assert item_name(file) == str(tmp_path / "a.png")
