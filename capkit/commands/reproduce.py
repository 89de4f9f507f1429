"""Repeat the experiment of the paper, on its data sets and with its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.base import clone

from capkit._optional import require
from capkit.encoder import CLIPEncoder
from capkit.model_selection import PARADIGMS
from capkit.reproduction import SETTINGS, Estimate, PaperSettings, Reproduction
from capkit.reproduction.estimate import estimate_time
from capkit.reproduction.protocol import run_protocol
from capkit.reproduction.settings import methods_of
from capkit.tuning import Tuning
from capkit.tuning.choosing import TUNINGS

__all__ = ["estimate_reproduction", "reproduce_paper"]

_BACKBONE = "ViT-B-32/openai"


def reproduce_paper(
    data_sets: str | Sequence[str] = "all",
    *,
    paradigms: Sequence[str] = ("ul",),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    tuning: Tuning | str = "prompt",
    encoder: CLIPEncoder | None = None,
    describer: Any = None,
    out: str | os.PathLike = "reproduction",
    data_home: str | os.PathLike | None = None,
    verbose: int = 1,
) -> Reproduction:
    """Adapt to the paper's data sets with its settings, and judge on their test images.

    With the paper's prompts it wants a GPU, see :func:`estimate_reproduction`. Stopped, it goes
    on where it was when it is called again with the same arguments.

    Parameters
    ----------
    data_sets : "all", str or sequence of str, default="all"
        Of ``"flowers102"``, ``"resisc45"``, ``"dtd"``, ``"eurosat"``, ``"cub200"``,
        ``"fgvc_aircraft"``. They are downloaded where they are missing.
    paradigms : sequence of {"ul", "ssl", "trzsl"}, default=("ul",)
        Which labels methods are shown: none, two a class, or all of 62% of the classes.
    methods : sequence of str or None, default=None
        Names of methods of :func:`capkit.comparison.all_methods`. None are all.
    seeds : sequence of int, default=(1, 2, 3)
        One run of each method for each.
    tuning : {"prompt", "adapter"} or Tuning, default="prompt"
        Of all methods that train. The paper's is ``"prompt"``; with other parameters, such as
        fewer epochs, figures are no reproduction, and are marked so.
    encoder : CLIPEncoder or None, default=None
        The backbone, the device, and how images are read; the template is the data set's. None
        is one of ``"ViT-B-32/openai"``, the paper's.
    describer : callable or None, default=None
        Gives visual descriptions of mismatched classes, see :mod:`capkit.describers`. None
        leaves their texts as they are.
    out : path, default="reproduction"
        Folder that keeps a CSV file of all numbers for each data set and paradigm, the runs that
        are finished, and checkpoints of the one that is not. Made if it is not there.
    data_home : path or None, default=None
        Folder of the data sets. None is ``$CAPKIT_DATA``, else one of the user's.
    verbose : int, default=1
        Above 0, progress bars are shown.

    Returns
    -------
    Reproduction
        Its ``to_markdown()`` has the figures beside those that were published.

    Raises
    ------
    ValueError
        If there is no such data set, paradigm or method.
    OSError
        If a data set cannot be read or downloaded, or `out` not be written.
    ImportError
        If a package of the extras ``compare`` and ``datasets`` is missing.

    See Also
    --------
    capkit.compare : Compares methods on images of one's own.

    Examples
    --------
    >>> from capkit.commands import reproduce_paper
    >>> reproduction = reproduce_paper("dtd", seeds=[1])  # doctest: +SKIP
    >>> print(reproduction.to_markdown())  # doctest: +SKIP
    """
    _require("reproduce_paper")
    sets = _check(data_sets, paradigms, methods)
    return run_protocol(
        sets,
        encoder=_choose_encoder(encoder),
        tuning=_choose_tuning(tuning),
        methods=methods,
        paradigms=paradigms,
        seeds=seeds,
        out=Path(out),
        data_home=None if data_home is None else Path(data_home),
        describer=describer,
        verbose=verbose,
    )


def estimate_reproduction(
    data_sets: str | Sequence[str] = "all",
    *,
    paradigms: Sequence[str] = ("ul",),
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (1, 2, 3),
    tuning: Tuning | str = "prompt",
    encoder: CLIPEncoder | None = None,
) -> Estimate:
    """Measure how long :func:`reproduce_paper` takes here, from its beginning, at most.

    A few real training steps are made on random images, with as many classes as each data set
    has. Nothing is downloaded but the backbone.

    Parameters
    ----------
    data_sets : "all", str or sequence of str, default="all"
    paradigms : sequence of {"ul", "ssl", "trzsl"}, default=("ul",)
    methods : sequence of str or None, default=None
    seeds : sequence of int, default=(1, 2, 3)
    tuning : {"prompt", "adapter"} or Tuning, default="prompt"
    encoder : CLIPEncoder or None, default=None
        As :func:`reproduce_paper` takes them.

    Returns
    -------
    Estimate
        With ``hours``; as text it is half a sentence.

    Raises
    ------
    ValueError
        If there is no such data set, paradigm or method.
    ImportError
        If a package of the extras ``compare`` and ``datasets`` is missing.

    Examples
    --------
    >>> from capkit import CLIPEncoder
    >>> from capkit.commands import estimate_reproduction
    >>> encoder = CLIPEncoder("glyph")
    >>> estimate = estimate_reproduction("eurosat", methods=["zero-shot"], encoder=encoder)
    >>> [part.data_set for part in estimate.sets], estimate.sets[0].n_trainings
    (['eurosat'], 0)
    """
    _require("estimate_reproduction")
    sets = _check(data_sets, paradigms, methods)
    return estimate_time(
        sets,
        encoder=_choose_encoder(encoder),
        tuning=_choose_tuning(tuning),
        methods=methods,
        paradigms=paradigms,
        n_seeds=len(seeds),
    )


def _require(owner: str) -> None:
    """All packages that the experiment needs, before anything is measured or trained."""
    require(owner, "compare", "pandas", "psutil")
    require(owner, "datasets", "filelock", "pooch")


def _check(
    data_sets: str | Sequence[str], paradigms: Sequence[str], methods: Sequence[str] | None
) -> list[PaperSettings]:
    """Settings of the data sets; what cannot be is found before anything is downloaded."""
    if not paradigms or any(paradigm not in PARADIGMS for paradigm in paradigms):
        raise ValueError(f"expected paradigms of {', '.join(PARADIGMS)}, got {paradigms!r}.")
    sets = _find_settings(data_sets)
    methods_of(sets[0], methods)
    return sets


def _find_settings(data_sets: str | Sequence[str]) -> list[PaperSettings]:
    given = (data_sets,) if isinstance(data_sets, str) else tuple(data_sets)
    names = list(SETTINGS) if "all" in given else list(dict.fromkeys(given))
    if unknown := [name for name in names if name not in SETTINGS]:
        raise ValueError(f"expected data sets of {', '.join(SETTINGS)}, got {unknown[0]!r}.")
    if not names:
        raise ValueError(f"expected one or more data sets of {', '.join(SETTINGS)}, got none.")
    return [SETTINGS[name] for name in names]


def _choose_encoder(encoder: CLIPEncoder | None) -> CLIPEncoder:
    return CLIPEncoder(_BACKBONE) if encoder is None else clone(encoder)


def _choose_tuning(tuning: Tuning | str) -> Tuning:
    if isinstance(tuning, Tuning):
        return clone(tuning)
    if tuning not in TUNINGS:
        raise ValueError(f"expected tuning as one of {', '.join(TUNINGS)}, got {tuning!r}.")
    return TUNINGS[tuning]()
