"""Files of labels: CSV, Parquet, and what Label Studio and FiftyOne import."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote
from xml.etree import ElementTree

import capkit
from capkit._files import write_atomically
from capkit._optional import require
from capkit.exceptions import ClassNamesError
from capkit.labels.table import COLUMNS, LabelTable

__all__ = ["FORMATS", "check_format", "format_of", "write_labels"]

# Characters that spreadsheet programs interpret as the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_labels(
    table: LabelTable, path: str | os.PathLike, format: str = "csv"
) -> tuple[Path, ...]:
    """Write a table of labels to a file; an existing file is replaced as a whole.

    Parameters
    ----------
    table : LabelTable
    path : path
        In a folder that exists. :func:`format_of` infers a format from its ending.
    format : {"csv", "parquet", "label-studio", "fiftyone"}, default="csv"
        See the notes.

    Returns
    -------
    tuple of Path
        The files written: `path`, and for ``"label-studio"`` also the labeling configuration.

    Raises
    ------
    ValueError
        If there is no such format.
    FileNotFoundError
        If the folder of `path` does not exist.
    ClassNamesError
        If a class name contains control characters, which ``"label-studio"`` does not allow.
    ImportError
        If pandas or pyarrow, needed for ``"parquet"``, is missing.
    OSError
        If a file cannot be written.

    See Also
    --------
    read_labels : Read labels from a CSV file.

    Notes
    -----
    **csv**: UTF-8, one line per image, columns ``path``, ``label``, ``runner_up``, ``confidence``
    (four decimals) and ``doubt``; the middle three are empty if an image could not be read.
    Spreadsheet programs treat a cell that starts with ``=``, ``+``, ``-`` or ``@`` as a formula.
    Such paths are prefixed with ``./``: they remain valid, but a file name chosen by a stranger
    cannot run a formula. Class names are your own and are not changed.

    **parquet**: the same columns, with full-precision confidence; missing values if an image could
    not be read. Needs ``pip install "capkit-clip[parquet]"``.

    **label-studio**: tasks with the labels as predictions to correct, scored by their confidence,
    and next to the file the labeling configuration, ``labels.config.xml`` for ``labels.json``.
    Images that could not be read are left out, because Label Studio could not show them either. To
    import it,

    1. start Label Studio, on the machine that has the images, with the variables
       ``LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true`` and
       ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`` set to the folder that ``table.folder`` lies in;
    2. make a project, and paste the configuration into *Settings > Labeling Interface > Code*;
    3. under *Settings > Cloud Storage* add a source storage of *Local Files* with
       ``table.folder`` as its absolute local path, and save it without syncing: this only lets
       Label Studio show the images;
    4. import the tasks.

    **fiftyone**: read it with ``fiftyone.Dataset.from_dir(labels_path="labels.json",
    dataset_type=fiftyone.types.FiftyOneImageClassificationDataset)``, confidences included;
    ``runner_up`` and ``doubt`` (if there is one) are attributes of the labels. Images are given by
    absolute paths, because FiftyOne drops the ending of relative paths and could mistake ``1.txt``
    or ``1.png`` in the same folder for ``1.jpg``. Images that could not be read are left out.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from capkit.labels import LabelTable, write_labels
    >>> table = LabelTable(
    ...     folder="/photos",
    ...     images=["1.jpg", "2.jpg"],
    ...     class_names=["forest", "river"],
    ...     labels=[0, -1],
    ...     runners_up=[1, -1],
    ...     confidence=[0.97, float("nan")],
    ...     doubts=["", "could not be read: it is cut off"],
    ... )
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels.csv"
    >>> [written.name for written in write_labels(table, path)]
    ['labels.csv']
    >>> print(path.read_text(), end="")
    path,label,runner_up,confidence,doubt
    1.jpg,forest,river,0.9700,
    2.jpg,,,,could not be read: it is cut off
    """
    check_format(format, table.class_names)
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"expected a path in a folder that exists, got {str(path)!r}: make the folder first."
        )
    files = FORMATS[format](table, path)
    for written, content in files.items():
        write_atomically(written, content)
    return tuple(files)


def check_format(format: str, class_names: Sequence[str]) -> None:
    """Check before any work that labels can be written in a format.

    Parameters
    ----------
    format : str
    class_names : sequence of str

    Raises
    ------
    ValueError
        If there is no such format.
    ClassNamesError
        If the format does not allow one of the names.
    ImportError
        If a package is missing.

    Examples
    --------
    >>> from capkit.labels import check_format
    >>> check_format("csv", ["forest", "river"])
    >>> check_format("xls", ["forest", "river"])
    Traceback (most recent call last):
        ...
    ValueError: expected a format of csv, parquet, label-studio, fiftyone, got 'xls'.
    """
    if format not in FORMATS:
        raise ValueError(f"expected a format of {', '.join(FORMATS)}, got {format!r}.")
    if format == "parquet":
        require("Writing Parquet", "parquet", "pandas", "pyarrow")
    if format == "label-studio":
        _labeling_config(class_names)


def format_of(path: str | os.PathLike) -> str:
    """Infer the format of a file from the ending of its name.

    Parameters
    ----------
    path : path

    Returns
    -------
    str
        ``"csv"`` or ``"parquet"``.

    Raises
    ------
    ValueError
        If the name has another ending; ``.json`` is ambiguous.

    Examples
    --------
    >>> from capkit.labels import format_of
    >>> format_of("labels.parquet")
    'parquet'
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".parquet"):
        return suffix[1:]
    raise ValueError(
        f"expected a path ending in .csv or .parquet, got {os.fspath(path)!r}: name the format, "
        f"one of {', '.join(FORMATS)}."
    )


# -- one function a format: the files that make it up


def _csv(table: LabelTable, path: Path) -> dict[Path, bytes]:
    texts = (*table.images, *table.class_names, *table.doubts)
    # Python's writer does not quote a lone carriage return, which its reader ends a line at.
    has_return = any("\r" in text for text in texts)
    stream = io.StringIO(newline="")
    writer = csv.writer(
        stream,
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL,
    )
    writer.writerow(COLUMNS)
    for row in table.rows():
        if row["path"].startswith(_FORMULA):
            row["path"] = f"./{row['path']}"
        if row["confidence"] is not None:
            row["confidence"] = f"{row['confidence']:.4f}"
        writer.writerow(row.values())
    return {path: stream.getvalue().encode()}


def _parquet(table: LabelTable, path: Path) -> dict[Path, bytes]:
    stream = io.BytesIO()
    table.to_frame().to_parquet(stream, engine="pyarrow", index=False)
    return {path: stream.getvalue()}


def _label_studio(table: LabelTable, path: Path) -> dict[Path, bytes]:
    tasks = [
        {
            "data": {
                # Relative to the folder's parent: Label Studio shows no files of its root itself.
                "image": "/data/local-files/?d=" + quote(f"{table.folder.name}/{row['path']}"),
                "path": row["path"],
                "runner_up": row["runner_up"],
                "doubt": row["doubt"],
            },
            "predictions": [
                {
                    "model_version": f"capkit {capkit.__version__}",
                    "score": row["confidence"],
                    "result": [
                        {
                            "from_name": "label",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [row["label"]]},
                        }
                    ],
                }
            ],
        }
        for row in table.rows()
        if row["label"] is not None
    ]
    config = path.with_name(f"{path.stem}.config.xml")
    return {config: _labeling_config(table.class_names), path: _json(tasks)}


def _labeling_config(class_names: Sequence[str]) -> bytes:
    """What Label Studio shows: an image and a choice of one class."""
    for name in class_names:
        if _NOT_XML.search(name):
            raise ClassNamesError(
                "Label Studio expects class names without control characters, got "
                f"{name!r}. Give the class another name."
            )
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    choices = ElementTree.SubElement(
        view, "Choices", name="label", toName="image", choice="single", showInline="true"
    )
    for name in class_names:
        ElementTree.SubElement(choices, "Choice", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="utf-8") + b"\n"


def _fiftyone(table: LabelTable, path: Path) -> dict[Path, bytes]:
    position = {name: index for index, name in enumerate(table.class_names)}
    labels = {}
    for row in table.rows():
        if row["label"] is None:
            continue
        attributes = {"runner_up": row["runner_up"]}
        if row["doubt"]:
            attributes["doubt"] = row["doubt"]
        labels[str(table.folder / row["path"])] = {
            "label": position[row["label"]],
            "confidence": row["confidence"],
            "attributes": attributes,
        }
    return {path: _json({"classes": table.class_names, "labels": labels})}


def _json(content: object) -> bytes:
    # Not indented: that would take Python's slow encoder.
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


#: Names of the formats that :func:`write_labels` takes.
FORMATS: Mapping[str, Callable[[LabelTable, Path], dict[Path, bytes]]] = MappingProxyType(
    {
        "csv": _csv,
        "parquet": _parquet,
        "label-studio": _label_studio,
        "fiftyone": _fiftyone,
    }
)
