"""Contents of reports for tests, of images that cost nothing."""

import dataclasses

import numpy as np

from capkit.images import ImageSource
from capkit.report import MismatchedClass, ReportContent

CLASS_NAMES = ("cat", "dog", "jay")
# Six images: of each its label is doubtful, close, or sure.
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.45, 0.50, 0.05],
        [0.30, 0.30, 0.40],
        [0.02, 0.08, 0.90],
        [0.60, 0.10, 0.30],
        [0.05, 0.90, 0.05],
    ]
)
DOUBTS = ("", "may be cat as well (45%)", "may be cat as well (30%)", "", "", "cat by the names")


def gray_images(n_images: int, size: int = 8) -> ImageSource:
    """Each of another gray, as far as there are grays."""
    pixels = np.empty((n_images, size, size, 3), dtype=np.uint8)
    pixels[:] = (np.arange(n_images) % 256)[:, None, None, None]
    return ImageSource.from_user(pixels)


def small_content(**changes) -> ReportContent:
    """Three classes, six images of which three labels are doubtful."""
    content = ReportContent(
        title="Labels of pets",
        images=gray_images(6),
        image_names=tuple(f"pets/{number}.jpg" for number in range(6)),
        class_names=CLASS_NAMES,
        probabilities=PROBABILITIES,
        labels=PROBABILITIES.argmax(axis=1),
        zero_shot=np.array([0, 1, 2, 2, 0, 0]),
        known=np.array([-1, -1, -1, 2, -1, -1]),
        doubts=DOUBTS,
        unreadable={"pets/broken.jpg": "the file ends too early"},
        mismatched=(MismatchedClass("jay", "a photo of a jay", "a blue bird", np.array([3, 2])),),
        adaptation=None,
        history=[],
        settings={"Model": "glyph"},
    )
    return dataclasses.replace(content, **changes)


def large_content(n_images: int, n_classes: int, images: ImageSource) -> ReportContent:
    """Images in turn of each class, every third of them doubtful."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_images) % n_classes
    logits = rng.normal(size=(n_images, n_classes))
    logits[np.arange(n_images), labels] += 8
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    doubts = ["may be another class as well (20%)" if n % 3 == 0 else "" for n in range(n_images)]
    return ReportContent(
        title="Labels of many photos",
        images=images,
        image_names=[f"folder {n // 100:03d}/photo {n:05d}.jpg" for n in range(n_images)],
        class_names=[f"class {label:03d}" for label in range(n_classes)],
        probabilities=probabilities,
        labels=labels,
        zero_shot=np.roll(labels, 1),
        known=np.full(n_images, -1),
        doubts=doubts,
        unreadable={},
        mismatched=(),
        adaptation=None,
        history=[],
        settings={},
    )
