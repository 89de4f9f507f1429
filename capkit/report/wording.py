"""What a report's numbers mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from capkit._validation import UNLABELED
from capkit.guard import LEAST_CLARITY, AdaptationReport, AdaptationStep
from capkit.report.content import ReportContent

__all__ = ["adaptation_words", "counted", "summary_words", "training_words"]

_SUBJECTS = {
    "gaussian": "Comparing the photos with each other",
    "training": "Training on the photos",
}
_KEPT = {
    "zero_shot": "Nothing that was tried was good enough to keep: the labels are those that the "
    "class names alone give.",
    "gaussian": "Your photos were compared with each other, and photos that look alike had a say "
    "in each other's label. No trained model was used.",
    "training": "The model was trained on your photos.",
}


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Parameters
    ----------
    number : int
    noun : str
        In the singular, with a regular plural.

    Returns
    -------
    str

    Examples
    --------
    >>> from capkit.report.wording import counted
    >>> counted(1, "photo"), counted(1200, "photo")
    ('1 photo', '1,200 photos')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def summary_words(content: ReportContent) -> list[str]:
    """How many labels there are, and how far to trust them.

    Parameters
    ----------
    content : ReportContent

    Returns
    -------
    list of str
        Sentences.
    """
    return list(_summary(content))


def _summary(content: ReportContent) -> Iterator[str]:
    n_doubtful, n_images = int(content.is_doubtful.sum()), content.n_images
    classes = "1 class" if len(content.class_names) == 1 else f"{len(content.class_names)} classes"
    yield f"{counted(n_images, 'photo')} got a label, out of {classes}."
    if n_doubtful:
        share = n_doubtful / n_images
        yield (
            f"{counted(n_doubtful, 'label')} ({share:.0%}) may well be wrong. They come first "
            "below, each with the reason."
        )
        yield "Nothing speaks against the others, but no label is certain: look at some of each."
    elif n_images:
        yield "Nothing speaks against any label, but none is certain: look at some of each class."
    n_known = int((content.known != UNLABELED).sum())
    if n_known:
        yield f"{counted(n_known, 'label')} came from you and stayed as given."
    if content.unreadable:
        yield f"{counted(len(content.unreadable), 'file')} could not be read and got no label."


def adaptation_words(report: AdaptationReport | None) -> list[str]:
    """What adaptation did, and what the guard thinks of it.

    Parameters
    ----------
    report : AdaptationReport or None
        None where nothing was adapted.

    Returns
    -------
    list of str
        Sentences.

    Examples
    --------
    >>> from capkit.report.wording import adaptation_words
    >>> adaptation_words(None)
    ['Nothing was learned from your photos: the labels come from the texts of the classes alone.']
    """
    return list(_adaptation(report))


def _adaptation(report: AdaptationReport | None) -> Iterator[str]:
    if report is None:
        yield (
            "Nothing was learned from your photos: the labels come from the texts of the classes "
            "alone."
        )
        return
    yield _KEPT[report.kept]
    if report.kept != "zero_shot":
        yield (
            f"{report.n_changed:,} of {counted(report.n_images, 'label')} differ from those that "
            "the class names alone give."
        )
    for step in report.steps:
        yield _step(step)
    if report.is_doubtful:
        yield (
            "So rely on these labels with care: look through the doubtful ones, and label some "
            "photos of each class yourself. More photos of each class help too."
        )
    else:
        yield "A check that needs no correct labels found nothing wrong with this."


def _step(step: AdaptationStep) -> str:
    subject = _SUBJECTS.get(step.name.split()[0], step.name)
    changed = counted(step.n_changed, "label")
    if not step.n_changed:
        if step.kept:
            return f"{subject} changed no label."
        return f"{subject} was left out: {step.reason}."
    if not step.kept:
        return f"{subject} was not kept: it would have changed {changed} without good reason."
    if step.clarity < LEAST_CLARITY:
        return f"{subject} changed {changed} and was kept, though the photos hardly bear it out."
    return f"{subject} changed {changed}, and the photos bear it out."


def training_words(history: Sequence[Mapping[str, Any]]) -> str:
    """How a training went, as the text of its picture.

    Parameters
    ----------
    history : sequence of dict
        Not empty; each with a ``loss``.

    Returns
    -------
    str

    Examples
    --------
    >>> from capkit.report.wording import training_words
    >>> training_words([{"loss": 0.5}, {"loss": 0.02}])
    'The error went from 0.500 to 0.020 in 2 rounds.'
    """
    first, last = history[0]["loss"], history[-1]["loss"]
    return f"The error went from {first:.3f} to {last:.3f} in {counted(len(history), 'round')}."
