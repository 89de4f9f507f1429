"""Label other photos with a model that was adapted before."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from sklearn.base import clone

from capkit.classifier import CAPClassifier
from capkit.commands._folder import check_can_be_written, encode_folder, tabulate
from capkit.doubts import reasons_for_doubt
from capkit.encoder import CLIPEncoder
from capkit.exceptions import BackboneMismatchError
from capkit.image_files import find_images
from capkit.labels import LabelTable, check_format, format_of, write_labels

__all__ = ["Prediction", "predict_folder"]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Result of :func:`predict_folder`.

    Attributes
    ----------
    table : LabelTable
        One row per file.
    unreadable : mapping of str to str
        Name of each file that could not be read, with the reason.
    other_files : mapping of str to int
        Number of files in the folder that are not images, by suffix.
    written : tuple of Path
        Files with the labels.
    """

    table: LabelTable
    unreadable: dict[str, str]
    other_files: dict[str, int]
    written: tuple[Path, ...]


def predict_folder(
    model: str | os.PathLike,
    photos: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str | None = None,
    backbone: str | os.PathLike | None = None,
    encoder: CLIPEncoder | None = None,
) -> Prediction:
    """Label all images of a folder with a saved classifier; nothing is trained.

    Parameters
    ----------
    model : path
        File written by :func:`label_folder` or :meth:`capkit.CAPClassifier.save`.
    photos : path
        Folder of images.
    out : path
        File for the labels.
    format : {"csv", "parquet", "label-studio", "fiftyone"} or None, default=None
        Format of `out`; None means by its suffix.
    backbone : str or path or None, default=None
        New name or path of the model's backbone, if the old one no longer works, see
        :meth:`capkit.CAPClassifier.load`.
    encoder : CLIPEncoder or None, default=None
        How images are read: device, batch size, cache and so on. The backbone and the template are
        those of the model.

    Returns
    -------
    Prediction

    Raises
    ------
    OSError
        If a file does not exist, or cannot be read or written.
    ValueError
        If `model` is not a saved classifier, or there is no image in the folder.
    BackboneError
        If the model's backbone cannot be loaded.

    Examples
    --------
    >>> from capkit.commands import predict_folder
    >>> done = predict_folder("labels.capkit", "new_photos", "new.csv")  # doctest: +SKIP
    >>> done.table.labels[:2]  # doctest: +SKIP
    ('forest', 'river')
    """
    files, out = find_images(photos), Path(out)
    format = format_of(out) if format is None else format
    check_can_be_written(out)
    encoder = CLIPEncoder(verbose=1) if encoder is None else clone(encoder)
    classifier = CAPClassifier.load(model, device=encoder.device, backbone=backbone)
    if classifier.backbone_name_ is None:
        raise BackboneMismatchError(
            f"{os.fspath(model)} does not say which backbone it was fitted with, so that photos "
            "cannot be encoded for it. Fit it again by `capkit label`."
        )
    check_format(format, classifier.class_names_)
    encoder.set_params(backbone=classifier.backbone_name_)
    if classifier.encoder is not None:
        encoder.set_params(template=classifier.encoder.template)
    encoded = encode_folder(files, classifier.class_names_, encoder)
    probabilities = _in_order_of_names(classifier, classifier.predict_proba(encoded.space))
    labels = probabilities.argmax(axis=1).astype(np.int64)
    doubts = reasons_for_doubt(
        probabilities,
        labels,
        class_names=classifier.class_names_,
        similarity=encoded.space.logits().max(axis=1),
    )
    table = tabulate(encoded, probabilities, labels, doubts)
    written = write_labels(table, out, format)
    return Prediction(table, dict(encoded.unreadable), dict(files.other_files), written)


def _in_order_of_names(classifier: CAPClassifier, probabilities: np.ndarray) -> np.ndarray:
    """Reorder columns from the order of the sorted labels to that of the class names."""
    labels = classifier.classes_.tolist()
    if not isinstance(labels[0], str):
        return probabilities  # indices into the names are sorted as these are
    return probabilities[:, [labels.index(name) for name in classifier.class_names_]]
