"""Resizing and cropping as a model does it."""

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg
from PIL import Image

from capkit.backbones import preprocessing
from capkit.backbones.preprocessing import Preprocessing


@pytest.mark.parametrize("size", [(2001, 10), (10, 2000), (1300, 20)])
def test_ends_that_are_cropped_anyway_are_not_resized(monkeypatch, size):
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size)
    to_16 = Preprocessing(PreprocessCfg(size=16))
    found = to_16(smooth).astype(int)
    monkeypatch.setattr(preprocessing, "_without_far_ends", lambda image: image)
    assert np.abs(found - to_16(smooth)).max() <= 2  # of 255


@pytest.mark.parametrize("size", [(20_000_000, 1), (1, 20_000_000)])
def test_a_line_of_pixels_takes_no_memory_to_resize(size):
    # resized whole, its shorter side to 224 pixels, it would take 3 terabytes
    assert Preprocessing(PreprocessCfg(size=224))(Image.new("RGB", size)).shape == (224, 224, 3)


def test_images_of_usual_shapes_are_left_whole():
    image = Image.new("RGB", (640, 10))
    assert preprocessing._without_far_ends(image) is image
