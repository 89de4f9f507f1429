"""A demo of labeling without photos of your own: handwriting, with a model of printed text."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from PIL import Image

from capkit.classifier import CAPClassifier
from capkit.commands.label import Labeling, label_folder
from capkit.datasets import load_digits
from capkit.encoder import CLIPEncoder

__all__ = ["Demo", "run_demo"]


@dataclasses.dataclass(frozen=True)
class Demo:
    """Result of :func:`run_demo`.

    Attributes
    ----------
    photos : Path
        Folder with the pictures of handwritten digits.
    class_names : Path
        File with one class name per line.
    labeling : Labeling
        Result of the labeling; report, labels and model are in the same folder.
    accuracy_before : float
        Accuracy with the class names alone.
    accuracy_after : float
        Accuracy after adaptation. True labels are only used for these two numbers.
    """

    photos: Path
    class_names: Path
    labeling: Labeling
    accuracy_before: float
    accuracy_after: float


def run_demo(folder: str | os.PathLike = "capkit-demo", *, verbose: int = 1) -> Demo:
    """Write pictures of handwritten digits into a folder, and label them.

    It uses the small model that comes with capkit, which was trained only on printed characters;
    nothing is downloaded.

    Parameters
    ----------
    folder : path, default="capkit-demo"
        Created if it does not exist.
    verbose : int, default=1
        Above 0, progress bars are shown.

    Returns
    -------
    Demo

    Raises
    ------
    OSError
        If the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from capkit.commands import run_demo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     demo = run_demo(folder, verbose=0)
    >>> demo.accuracy_after > demo.accuracy_before
    True
    """
    folder, digits = Path(folder), load_digits()
    photos, names = folder / "photos", folder / "names.txt"
    photos.mkdir(parents=True, exist_ok=True)
    for row, image in enumerate(digits.images):
        Image.fromarray(image).save(photos / f"digit-{row:04}.png")
    names.write_text("\n".join(digits.class_names) + "\n", encoding="utf-8")
    encoder = CLIPEncoder("glyph", verbose=verbose)
    labeling = label_folder(
        photos,
        names,
        folder / "labels.csv",
        encoder=encoder,
        classifier=CAPClassifier(tuning="adapter", random_state=0, verbose=verbose),
    )
    truth = np.asarray(digits.target)
    space = encoder.set_params(verbose=0).fit_transform(
        digits.images, class_names=digits.class_names
    )
    return Demo(
        photos=photos,
        class_names=names,
        labeling=labeling,
        accuracy_before=float((space.predict() == truth).mean()),
        accuracy_after=float((labeling.table.labels == truth).mean()),
    )
