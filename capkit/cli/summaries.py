"""What commands print when they are done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from capkit.commands import Inspection, Labeling, Prediction
    from capkit.labels import LabelTable

__all__ = ["show_classes", "show_files", "show_labeling", "show_table", "show_written"]

# Files that could not be read which the summary names; all are in the table and in the report.
_SHOWN = 5


def show_labeling(labeling: Labeling) -> None:
    """Labels, what adaptation did, files."""
    from capkit.report.wording import adaptation_words

    show_table(labeling.table)
    if labeling.n_given:
        click.echo(f"{_images(labeling.n_given)} kept the label that was given.")
    words = adaptation_words(labeling.classifier.adaptation_report_)
    click.echo(click.wrap_text(" ".join(words)))
    mismatched = labeling.classifier.mismatched_names_
    if mismatched:
        click.echo(f"Names that do not fit their images: {', '.join(mismatched)}.")
    show_files(labeling)
    show_written(labels=labeling.written, report=labeling.report, model=labeling.model)


def show_classes(found: Inspection) -> None:
    """A line for each class, and the pairs that may be confused."""
    width = max(len(name) for name in found.class_names)
    click.echo(f"{'class':{width}}  images  mean confidence")
    rows = zip(found.class_names, found.counts, found.confidence, strict=True)
    for name, count, confidence in rows:
        mark = "  the name does not fit its images" if name in found.mismatched else ""
        mean = f"{confidence:.0%}" if count else ""
        click.echo(f"{name:{width}}  {count:6}  {mean:>15}{mark}")
    for first, second, images in found.confused_pairs():
        click.echo(f"{first} / {second}: about {_images(round(images))} may be confused")


def show_table(table: LabelTable) -> None:
    """How many labels there are, and how many are doubtful."""
    labeled = table.labels >= 0
    doubtful = sum(bool(doubt) for doubt, read in zip(table.doubts, labeled, strict=True) if read)
    click.echo(f"{_images(int(labeled.sum()))} labeled, {doubtful} of them doubtful.")


def show_files(result: Labeling | Prediction | Inspection) -> None:
    """Files that have no label, and why."""
    unreadable: Mapping[str, str] = result.unreadable
    if unreadable:
        click.echo(f"{_images(len(unreadable))} could not be read:", err=True)
        for name, reason in list(unreadable.items())[:_SHOWN]:
            click.echo(f"  {name}: {reason}", err=True)
        if len(unreadable) > _SHOWN:
            click.echo(f"  and {len(unreadable) - _SHOWN} more", err=True)
    if result.other_files:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in result.other_files.items())
        click.echo(f"Files that are no images: {counts}.", err=True)


def show_written(**files: Path | tuple[Path, ...] | None) -> None:
    """Files that were written, by what they are."""
    for what, paths in files.items():
        for path in paths if isinstance(paths, tuple) else [paths]:
            if path is not None:
                click.echo(f"{what:6}  {path}")


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"
