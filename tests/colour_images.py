"""Pictures of one colour each, in every form that users have them."""

import threading
import time

import numpy as np
import torch
from PIL import Image

COLORS = [(10 * number, 0, 0) for number in range(7)]


class ColorDataset:
    """A Dataset as torch's are: length and items of (image, label)."""

    def __init__(self, n_images=7):
        self.n_images = n_images
        self.n_inside = 0
        self.most_inside = 0
        self.counting = threading.Lock()

    def __len__(self):
        return self.n_images

    def __getitem__(self, index):
        with self.counting:
            self.n_inside += 1
            self.most_inside = max(self.most_inside, self.n_inside)
        image = Image.new("RGB", (9, 6), COLORS[index])
        time.sleep(0.0001)  # lets another thread in, if one may
        with self.counting:
            self.n_inside -= 1
        return image, "label"


def reds(source):
    return [image.getpixel((0, 0))[0] for image in source]


def every_kind():
    array = np.zeros((7, 6, 9, 3), dtype=np.uint8)
    array[..., 0] = 10 * np.arange(7)[:, None, None]
    return {
        "array": array,
        "list of arrays": list(array),
        "float array": array / 255,
        "tensor": torch.from_numpy(array).permute(0, 3, 1, 2),
        "list of tensors": list(torch.from_numpy(array).permute(0, 3, 1, 2)),
        "PIL": [Image.fromarray(one) for one in array],
        "pairs": [(Image.fromarray(one), 1) for one in array],
        "Dataset": ColorDataset(),
    }
