"""Label a folder of photos: adapt to it, write labels, a report and the model."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.base import clone

from capkit._validation import UNLABELED
from capkit.classifier import CAPClassifier
from capkit.commands._folder import (
    EncodedFolder,
    check_can_be_written,
    encode_folder,
    names_of_classes,
    tabulate,
)
from capkit.encoder import CLIPEncoder
from capkit.exceptions import AdaptationWarning
from capkit.image_files import ImageFiles, find_images
from capkit.labels import (
    LabelTable,
    check_format,
    format_of,
    merge_labels,
    read_labels,
    write_labels,
)
from capkit.report import ReportContent, write_report

__all__ = ["Labeling", "label_folder"]

_AUTO = "auto"
# Number of classes that must have labels before the labels can be used for learning.
_FEWEST_LABELED_CLASSES = 2


@dataclasses.dataclass(frozen=True)
class Labeling:
    """Result of :func:`label_folder`.

    Attributes
    ----------
    table : LabelTable
        One row per file.
    classifier : CAPClassifier
        The fitted classifier, saved to `model` by :meth:`~capkit.CAPClassifier.save`.
    unreadable : mapping of str to str
        Name of each file that could not be read, with the reason.
    other_files : mapping of str to int
        Number of files in the folder that are not images, by suffix.
    n_given : int
        Number of images whose label was given.
    written : tuple of Path
        Files with the labels.
    report : Path or None
        The report, if one was written.
    model : Path or None
        The classifier's file, if one was written.
    """

    table: LabelTable
    classifier: CAPClassifier
    unreadable: dict[str, str]
    other_files: dict[str, int]
    n_given: int
    written: tuple[Path, ...]
    report: Path | None
    model: Path | None


def label_folder(
    photos: str | os.PathLike,
    class_names: Sequence[str] | str | os.PathLike,
    out: str | os.PathLike,
    *,
    labels: Sequence[str | os.PathLike] = (),
    paradigm: str = _AUTO,
    report: str | os.PathLike | None = _AUTO,
    model: str | os.PathLike | None = _AUTO,
    format: str | None = None,
    encoder: CLIPEncoder | None = None,
    classifier: CAPClassifier | None = None,
) -> Labeling:
    """Label all images of a folder: adapt to them, and write labels, a report and the model.

    Invalid input and output files that cannot be written are found before any work starts.

    Parameters
    ----------
    photos : path
        Folder of images, see :func:`capkit.image_files.find_images`.
    class_names : sequence of str, or path
        Names of the classes, or a text file with one name per line.
    out : path
        File for the labels.
    labels : sequence of path, default=()
        Tables of known labels, with columns ``path`` and ``label``; later ones override earlier
        ones. Known labels are never changed.
    paradigm : {"auto", "ul", "ssl", "trzsl"}, default="auto"
        How labels are used, see :class:`~capkit.CAPClassifier`. ``"auto"`` means ``"ssl"`` if
        images of at least two classes are labeled and some images are not, otherwise ``"ul"``.
    report : path or None, default="auto"
        File for the report. ``"auto"`` means `out` with the suffix ``.html``; None writes none.
    model : path or None, default="auto"
        File for the classifier. ``"auto"`` means `out` with the suffix ``.capkit``; None writes
        none.
    format : {"csv", "parquet", "label-studio", "fiftyone"} or None, default=None
        Format of `out`; None means by its suffix, see :func:`capkit.labels.write_labels`.
    encoder : CLIPEncoder or None, default=None
        How images are encoded, and with which backbone. None means one with its defaults.
    classifier : CAPClassifier or None, default=None
        The classifier to fit; its paradigm and encoder are replaced. None means one with its
        defaults, ``random_state=0`` and progress bars.

    Returns
    -------
    Labeling

    Raises
    ------
    OSError
        If a file does not exist, or cannot be read or written.
    ClassNamesError, LabelError
        If the class names or the labels are invalid.
    ValueError
        If there is no image in the folder, or arguments contradict each other.
    BackboneError
        If the backbone cannot be loaded.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from capkit import CAPClassifier, CLIPEncoder
    >>> from capkit.commands import label_folder
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for row, image in enumerate(digits.images[:60]):
    ...         Image.fromarray(image).save(Path(folder, f"{row:02}.png"))
    ...     labeling = label_folder(
    ...         folder,
    ...         digits.class_names,
    ...         Path(folder, "labels.csv"),
    ...         encoder=CLIPEncoder("glyph"),
    ...         classifier=CAPClassifier(tuning="adapter", random_state=0),
    ...     )
    ...     labeling.written[0].name, labeling.report.name, len(labeling.table)
    ('labels.csv', 'labels.html', 60)
    """
    files, names = find_images(photos), names_of_classes(class_names)
    known = _read_known(labels, files, names)
    out = Path(out)
    report, model = _beside(out, report, ".html"), _beside(out, model, ".capkit")
    format = format_of(out) if format is None else format
    check_format(format, names)
    check_can_be_written(out, report, model)
    encoded = encode_folder(files, names, encoder)
    known = known[encoded.rows]
    fitted = _fit(encoded, known, paradigm, encoder, classifier)
    table, content = _judge(fitted, encoded, known)
    written = write_labels(table, out, format)
    if report is not None:
        write_report(content, report)
    if model is not None:
        with warnings.catch_warnings():  # of a describer that a file cannot hold
            warnings.simplefilter("ignore", UserWarning)
            fitted.save(model)
    return Labeling(
        table=table,
        classifier=fitted,
        unreadable=dict(encoded.unreadable),
        other_files=dict(files.other_files),
        n_given=int((known != UNLABELED).sum()),
        written=written,
        report=report,
        model=model,
    )


def _beside(out: Path, path: str | os.PathLike | None, suffix: str) -> Path | None:
    if path is None:
        return None
    return out.with_suffix(suffix) if path == _AUTO else Path(path)


def _read_known(
    paths: Sequence[str | os.PathLike], files: ImageFiles, class_names: tuple[str, ...]
) -> np.ndarray:
    tables = [read_labels(path, files.names, files.folder, class_names) for path in paths]
    none = np.full(len(files), UNLABELED, dtype=np.int64)
    return merge_labels([none, *tables])


def _fit(
    encoded: EncodedFolder,
    known: np.ndarray,
    paradigm: str,
    encoder: CLIPEncoder | None,
    classifier: CAPClassifier | None,
) -> CAPClassifier:
    default = CAPClassifier(random_state=0, verbose=1)
    fitted = default if classifier is None else clone(classifier)
    labeled = known != UNLABELED
    if paradigm == _AUTO:
        teaches = len(np.unique(known[labeled])) >= _FEWEST_LABELED_CLASSES
        paradigm = "ssl" if teaches and not labeled.all() else "ul"
    fitted.set_params(paradigm=paradigm, encoder=encoder)
    y = np.full(len(known), None, dtype=object)
    y[labeled] = np.array(encoded.space.class_names, dtype=object)[known[labeled]]
    with warnings.catch_warnings():  # the report says it
        warnings.simplefilter("ignore", AdaptationWarning)
        return fitted.fit(encoded.space, y)


def _judge(
    classifier: CAPClassifier, encoded: EncodedFolder, known: np.ndarray
) -> tuple[LabelTable, ReportContent]:
    """Labels with their doubts, and the content of the report."""
    content = ReportContent.from_classifier(
        classifier,
        encoded.space,
        image_names=encoded.names,
        title=encoded.files.folder.name,
        known=known,
        unreadable=encoded.unreadable,
    )
    table = tabulate(
        encoded,
        content.probabilities,
        content.labels,
        content.doubts,
        given=known != UNLABELED,
    )
    return table, content
