"""Pictures of one colour each, in every form that users have them."""

import io
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


class Image_:
    """Hugging Face's ``datasets.Image``, as far as it is looked at."""

    def __init__(self, decode=True):
        self.decode = decode


Image_.__name__ = "Image"


class Value:
    """Hugging Face's ``datasets.Value``."""


class ColorTable:
    """A split of a Hugging Face Dataset: rows of an image and a label, and a transform."""

    def __init__(self, rows=None, features=None, transform=None):
        self.rows = [{"image": one, "label": 1} for one in encoded()] if rows is None else rows
        self.features = {"image": Image_(), "label": Value()} if features is None else features
        self.transform = transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.transform is not None:
            return self.transform(self.rows[index])
        row = {name: self.rows[index][name] for name in self.features}
        for name, feature in self.features.items():
            if isinstance(feature, Image_):
                row[name] = self._image(row[name], feature)
        return row

    def _image(self, content, feature):
        if not feature.decode:
            return {"bytes": content, "path": None}
        raise AssertionError("an image was decoded by the table")

    def with_format(self, kind):
        assert kind is None
        return ColorTable(self.rows, self.features)

    def select_columns(self, names):
        features = {name: self.features[name] for name in names}
        return ColorTable(self.rows, features, self.transform)

    def cast_column(self, name, feature):
        return ColorTable(self.rows, {**self.features, name: feature}, self.transform)


def encoded():
    """The pictures as the bytes of PNG files."""
    buffers = [io.BytesIO() for _ in COLORS]
    for buffer, color in zip(buffers, COLORS, strict=True):
        Image.new("RGB", (9, 6), color).save(buffer, "PNG")
    return [buffer.getvalue() for buffer in buffers]


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
        "bytes": encoded(),
        "files": [io.BytesIO(content) for content in encoded()],
        "rows": [{"bytes": content, "path": "x.png"} for content in encoded()],
        "table": ColorTable(),
        "table with a transform": ColorTable(transform=lambda row: None),
    }
