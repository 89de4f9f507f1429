"""Rendering a report's content as one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from capkit._files import write_atomically
from capkit.report.content import MismatchedClass, ReportContent
from capkit.report.selection import (
    N_CLUSTER_IMAGES,
    class_examples,
    confused_pairs,
    rows_by_need,
)
from capkit.report.thumbnails import make_thumbnails
from capkit.report.wording import adaptation_words, counted, summary_words, training_words

__all__ = ["write_report"]

# Bytes of a page, and of these at most for thumbnails.
_PAGE_BYTES, _THUMBNAIL_BYTES = 19_000_000, 14_000_000
# Most thumbnails: reading a large photo takes a quarter of a second.
_MOST_THUMBNAILS = 3000
# What a page needs besides its data and thumbnails.
_OTHER_BYTES = 1_500_000
# Cards that are there without JavaScript.
_STATIC_CARDS = 12
# Characters of a reason, as class names may be of any length.
_REASON_CHARACTERS = 300
# Numbers of an epoch that are shown, as far as a training has them.
_EPOCH_COLUMNS = {
    "epoch": ("Round", "{:d}"),
    "loss": ("Error", "{:.3f}"),
    "kept": ("Photos surely labeled", "{:.0%}"),
    "n_main": ("Most typical photos", "{:,d}"),
    "class_balance": ("Evenness of classes", "{:.2f}"),
}
# UTF-8 cannot write them; names of files have them in place of bytes that are no UTF-8.
_SURROGATES = re.compile("[\ud800-\udfff]")


def write_report(
    content: ReportContent, path: str | os.PathLike, *, n_jobs: int | None = None
) -> None:
    """Write a report as one HTML file that neither loads nor sends anything.

    The file stays below 20 MB, even for 10,000 images of 200 classes. It contains the most
    important pictures, as many as fit, at most 3000.

    Parameters
    ----------
    content : ReportContent
    path : path
        Path of the HTML file, in a folder that exists. An existing file is replaced once the new
        one is complete.
    n_jobs : int or None, default=None
        Threads that read images; None means one for each CPU, at most 8.

    Raises
    ------
    OSError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from capkit import CLIPEncoder
    >>> from capkit.datasets import load_digits
    >>> from capkit.report import ReportContent, write_report
    >>> digits = load_digits(split="test")
    >>> encoder = CLIPEncoder(class_names=digits.class_names, backbone="glyph")
    >>> space = encoder.fit_transform(digits.images[:20])
    >>> content = ReportContent.from_space(space, image_names=[f"{n}.png" for n in range(20)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(content, Path(folder) / "report.html")
    ...     text = (Path(folder) / "report.html").read_text(encoding="utf-8")
    >>> text[:15]
    '<!DOCTYPE html>'
    """
    data = _data_of(content)
    room = _PAGE_BYTES - _OTHER_BYTES - len(_json(data))
    thumbnails = make_thumbnails(
        content.images,
        rows_by_need(content)[:_MOST_THUMBNAILS],
        max_bytes=max(0, min(room, _THUMBNAIL_BYTES)),
        n_jobs=n_jobs,
    )
    data["pictured"] = sorted(thumbnails)
    page = _render(content, data, thumbnails)
    write_atomically(path, _SURROGATES.sub("\ufffd", page).encode())


def _data_of(content: ReportContent) -> dict[str, Any]:
    """What the script needs to know of each image, in lists of length n."""
    doubts = {row: doubt for row, doubt in enumerate(content.doubts) if doubt}
    rows = np.arange(content.n_images)
    return {
        "classes": content.class_names,
        "names": content.image_names,
        "labels": content.labels.tolist(),
        "percents": _percents(content.confidence),
        "runnersUp": content.runner_up.tolist(),
        "runnerUpPercents": _percents(content.probabilities[rows, content.runner_up]),
        "zeroShot": None if content.zero_shot is None else content.zero_shot.tolist(),
        "known": content.known.tolist(),
        "doubts": {row: _shortened(doubt) for row, doubt in doubts.items()},
        "doubtfulFirst": content.doubtful_first.tolist(),
    }


def _percents(probabilities: np.ndarray) -> list[int]:
    return np.rint(100 * probabilities).astype(int).tolist()


def _shortened(text: str) -> str:
    return text if len(text) <= _REASON_CHARACTERS else f"{text[: _REASON_CHARACTERS - 1]}…"


def _json(data: dict[str, Any]) -> str:
    """JSON that neither ends its script element nor begins a comment, whatever it says."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# -- rendering


def _render(content: ReportContent, data: dict[str, Any], thumbnails: dict[int, str]) -> str:
    files = {name: _package_file(name) for name in ("template.html", "report.css", "report.js")}
    style, script = files["report.css"], files["report.js"]
    # A thumbnail is the background of a class, so that it is there once, also without JavaScript.
    pictures = "\n".join(f".p{row}{{background-image:url({u})}}" for row, u in thumbnails.items())
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["counted"] = counted
    return environment.from_string(files["template.html"]).render(
        policy=_policy(script, (style, pictures)),
        style=Markup(style),
        pictures=Markup(pictures),
        script=Markup(script),
        data=Markup(_json(data)),
        content=content,
        image=lambda row: _image(content, int(row), thumbnails),
        n_doubtful=int(content.is_doubtful.sum()),
        n_changed=None if content.zero_shot is None else _n_changed(content),
        static_rows=content.doubtful_first[: min(content.is_doubtful.sum(), _STATIC_CARDS)],
        summary=summary_words(content),
        adaptation=adaptation_words(content.adaptation),
        classes=_class_rows(content),
        mismatched=[_mismatched_row(found) for found in content.mismatched],
        pairs=confused_pairs(content),
        training=_training(content),
    )


def _package_file(name: str) -> str:
    text = resources.files("capkit.report").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # as a browser reads it, of which the policy has the hash


def _policy(script: str, styles: tuple[str, ...]) -> str:
    """Content security policy: nothing but what stands in the file, and that unchanged."""
    style_sources = " ".join(_source_hash(style) for style in styles)
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"script-src {_source_hash(script)}",
            f"style-src {style_sources}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _n_changed(content: ReportContent) -> int:
    return int(np.count_nonzero(content.zero_shot != content.labels))


def _image(content: ReportContent, row: int, thumbnails: dict[int, str]) -> dict[str, Any]:
    return {
        "row": row,
        "name": content.image_names[row],
        "label": content.class_names[content.labels[row]],
        "percent": f"{content.confidence[row]:.0%}",
        "sureness": _sureness(content, row),
        "doubt": _shortened(content.doubts[row]),
        "is_pictured": row in thumbnails,
    }


def _sureness(content: ReportContent, row: int) -> str:
    """How sure the model is, and of which class next, as the script writes it too."""
    runner_up, label = int(content.runner_up[row]), int(content.labels[row])
    words = f"{content.confidence[row]:.0%} sure"
    if runner_up == label:
        return words
    share = content.probabilities[row, runner_up]
    return f"{words}, or {content.class_names[runner_up]} {share:.0%}"


def _class_rows(content: ReportContent) -> list[dict[str, Any]]:
    """The table of classes, those of most doubtful labels ahead."""
    n_classes = len(content.class_names)

    def counts_of(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels, weights, minlength=n_classes)

    now = counts_of(content.labels)
    before = None if content.zero_shot is None else counts_of(content.zero_shot)
    doubtful = counts_of(content.labels[content.is_doubtful])
    confidence = counts_of(content.labels, content.confidence) / np.maximum(now, 1)
    most = max(1, int(now.max()), 0 if before is None else int(before.max()))
    examples = class_examples(content)
    return [
        {
            "index": index,
            "name": content.class_names[index],
            "before": None if before is None else int(before[index]),
            "before_width": 0.0 if before is None else round(100 * before[index] / most, 1),
            "now": int(now[index]),
            "now_width": round(100 * now[index] / most, 1),
            "confidence": f"{confidence[index]:.0%}" if now[index] else "–",
            "n_doubtful": int(doubtful[index]),
            "examples": examples[index],
        }
        for index in np.argsort(-doubtful, kind="stable").tolist()
    ]


def _mismatched_row(found: MismatchedClass) -> dict[str, Any]:
    return {
        "name": found.name,
        "old_text": found.old_text,
        "new_text": found.new_text,
        "n_images": len(found.rows),
        "rows": found.rows[:N_CLUSTER_IMAGES],
    }


def _training(content: ReportContent) -> dict[str, Any] | None:
    """The table of epochs and the line of the loss, 100 wide and 30 high."""
    history = content.history
    if not history:
        return None
    columns = {key: value for key, value in _EPOCH_COLUMNS.items() if key in history[0]}
    losses = np.array([epoch["loss"] for epoch in history])
    highest = losses.max() or 1.0
    across = np.linspace(0, 100, len(losses)) if len(losses) > 1 else np.zeros(1)
    points = zip(across, 30 * (1 - losses / highest), strict=True)
    return {
        "words": training_words(history),
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points),
        "columns": [heading for heading, _ in columns.values()],
        "rows": [
            [form.format(epoch[key]) for key, (_, form) in columns.items()] for epoch in history
        ],
    }
