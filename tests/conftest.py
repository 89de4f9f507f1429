"""Fixtures that several test modules share."""

import numpy as np
import pytest
import torch
from colour_images import COLORS
from PIL import Image

# The models here are tiny: more threads would spend their time waiting for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def random_backbone(tmp_path_factory) -> str:
    """Path of a tiny, randomly initialised CLIP, which every ``backbone=`` parameter takes."""
    from tiny_models import save_random_clip

    return str(save_random_clip(tmp_path_factory.mktemp("random_backbone")))


@pytest.fixture(scope="session")
def planted_space():
    """Space of a planted problem, two of whose classes have a text far from their images."""
    from capkit.datasets import make_concept_space

    return make_concept_space(random_state=0).space


@pytest.fixture
def encoded_images(monkeypatch) -> list[int]:
    """Number of images of each pass through an image tower; no feature is known before."""
    from capkit import feature_store
    from capkit.backbones.backbone import Backbone

    feature_store._process_store.cache_clear()
    passes, encode = [], Backbone.encode_images

    def counting(backbone, pixels):
        passes.append(len(pixels))
        return encode(backbone, pixels)

    monkeypatch.setattr(Backbone, "encode_images", counting)
    return passes


@pytest.fixture
def colour_paths(tmp_path):
    """Seven files whose red channel says which one they are."""
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 9, 3), dtype=np.uint8)
    for path, color, image in zip(paths, COLORS, pixels, strict=True):
        image[..., 0] = color[0]
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture
def broken_colour_paths(colour_paths):
    """The same files, of which 1 is cut, 3 is no image and 5 is not there."""
    colour_paths[1].write_bytes(colour_paths[1].read_bytes()[:100])
    colour_paths[3].write_text("no image")
    colour_paths[5].unlink()
    return colour_paths
