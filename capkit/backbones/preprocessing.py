"""How a model resizes and crops images, apart from the model, so that any process can do it."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose

__all__ = ["Preprocessing"]

# Where the shorter side is resized to the model's size and the middle kept, nothing that lies as
# many times that side from it is: an image of 20,000 x 1 pixels would be resized to a gigabyte.
_FARTHEST = 32


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resizes and crops images as a model's own preprocessing does, and nothing else.

    It can be pickled and holds nothing of the model, so that the processes that read images do
    not load it.

    Parameters
    ----------
    config : open_clip.transform.PreprocessCfg
        Size, interpolation and way of resizing; its mean and deviation are not looked at.

    Examples
    --------
    >>> from open_clip.transform import PreprocessCfg
    >>> from PIL import Image
    >>> Preprocessing(PreprocessCfg(size=16))(Image.new("RGB", (40, 20))).shape
    (16, 16, 3)
    """

    config: PreprocessCfg

    @property
    def image_size(self) -> int:
        """Height and width ``S`` of the images that the model takes, in pixels."""
        size = self.config.size
        return size if isinstance(size, int) else size[0]

    @cached_property
    def _resize_and_crop(self) -> Compose:
        # open_clip's own steps, but for the last two: to a tensor, and normalise
        steps = image_transform_v2(self.config, is_train=False).transforms
        return Compose(steps[:-2])

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Pixels of an image in the model's size; one of S x S pixels is left as it is.

        Parameters
        ----------
        image : PIL.Image.Image
            Of mode "RGB".

        Returns
        -------
        ndarray of shape (S, S, 3), dtype uint8
        """
        if image.size != (self.image_size, self.image_size):
            if self.config.resize_mode == "shortest":
                image = _without_far_ends(image)
            image = self._resize_and_crop(image)
        return np.asarray(image)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is much longer than wide, or wider than long."""
    half = _FARTHEST * min(image.size)
    cut = [max(0, side // 2 - half) for side in image.size]
    if not any(cut):
        return image
    left, top = cut
    return image.crop((left, top, image.width - left, image.height - top))
