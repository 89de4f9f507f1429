"""Damage to the files that capkit writes and reads: flipped bits, broken-off copies, zeros."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from ollama_server import OllamaServer
from tiny_models import save_random_clip

from capkit import CAPClassifier
from capkit.backbones import registry
from capkit.backbones.backbone import Backbone
from capkit.backbones.files import _sha256
from capkit.describers import (
    OllamaDescriber,
    clean_descriptions,
    load_descriptions,
    save_descriptions,
)
from capkit.exceptions import (
    BackboneError,
    CacheError,
    CacheWarning,
    CheckpointError,
    DescriberAnswerError,
)
from faults import damage
from faults.common import HARMLESS, RECOVERED, Fault, WrongResult, expect_same, warned_of
from faults.subjects import (
    TABLE,
    encoder,
    expect_same_reading,
    few_digits,
    planted_space,
    quick_classifier,
    quietly_fitted,
    read_of,
)

N_FLIPS = 160
# A feature depends that much on the images that it was encoded with, see CLIPEncoder.
TOLERANCE = 1e-5


def faults(folder: Path) -> Iterator[Fault]:
    """All faults of this kind; the files lie in `folder`."""
    yield from of_saved_model(folder)
    yield from of_checkpoint(folder)
    yield from of_feature_cache(folder)
    yield from of_kept_answers(folder)
    yield from of_tables(folder)
    yield from of_backbone(folder)


def _damaged_file(
    kind: str,
    path: Path,
    n: int,
    attempt: Callable[[], str],
    refusals: tuple[type[BaseException], ...],
    **options,
) -> Iterator[Fault]:
    """Faults of one file, which is as it was before each attempt and has one damage in it."""
    content = path.read_bytes()
    seed = sum(kind.encode())

    def on(damaged: bytes) -> Callable[[], str]:
        def run() -> str:
            path.write_bytes(damaged)
            try:
                return attempt()
            finally:
                path.write_bytes(content)

        return run

    for name, damaged in damage.damaged(content, n, seed):
        yield Fault(kind, name, on(damaged), refusals, **options)


def of_saved_model(folder: Path) -> Iterator[Fault]:
    """A digest covers all of it, so that hardly any damage is harmless."""
    space, path = planted_space(), folder / "model.capkit"
    quietly_fitted(quick_classifier(), space).save(path)
    right = read_of(CAPClassifier.load(path, device="cpu"), space)

    def attempt() -> str:
        expect_same_reading(read_of(CAPClassifier.load(path, device="cpu"), space), right)
        return HARMLESS

    yield from _damaged_file("saved model, damaged", path, N_FLIPS, attempt, (ValueError,))


def of_checkpoint(folder: Path) -> Iterator[Fault]:
    """A training that was killed after its second epoch finds the damaged file."""
    space, checkpoint_dir = planted_space(), folder / "checkpoint"
    classifier = quick_classifier(checkpoint_dir=checkpoint_dir)
    right = read_of(quietly_fitted(classifier, space), space)

    def attempt() -> str:
        expect_same_reading(read_of(quietly_fitted(classifier, space), space), right)
        return HARMLESS

    (path,) = checkpoint_dir.rglob("training.pt")
    yield from _damaged_file(
        "training checkpoint, damaged", path, N_FLIPS, attempt, (CheckpointError,)
    )


# -- caches


def of_feature_cache(folder: Path) -> Iterator[Fault]:
    """The database, and its log as a process leaves it that was killed."""
    images, names = few_digits()
    right = encoder(class_names=names).fit_transform(images)
    written, cache_dir = folder / "features", folder / "damaged features"
    encoder(class_names=names, cache_dir=written).fit_transform(images)
    database = written / "features.sqlite"

    def attempt() -> str:
        with counted_passes() as passes, warned_of(CacheWarning) as said:
            space = encoder(class_names=names, cache_dir=cache_dir).fit_transform(images)
        expect_same(space.image_features, right.image_features, "features", TOLERANCE)
        expect_same(space.text_features, right.text_features, "text features", TOLERANCE)
        if said and not passes:
            raise WrongResult("a warning of features that were not encoded again")
        return RECOVERED if passes else HARMLESS

    whole = {"features.sqlite": database.read_bytes()}
    yield from _damaged_cache("feature cache, damaged", cache_dir, whole, attempt)
    log = _log_of_killed_process(images, names, folder / "killed")
    yield from _damaged_cache("feature cache's log, damaged", cache_dir, log, attempt)


@contextlib.contextmanager
def counted_passes() -> Iterator[list[int]]:
    """Number of images or texts of each pass through a tower."""
    passes: list[int] = []
    with contextlib.ExitStack() as stack:
        for name in ("encode_images", "encode_texts"):
            of_backbone = getattr(Backbone, name)

            def counting(backbone, inputs, encode=of_backbone):
                passes.append(len(inputs))
                return encode(backbone, inputs)

            stack.enter_context(mock.patch.object(Backbone, name, counting))
        yield passes


def _log_of_killed_process(images: np.ndarray, names: list[str], cache_dir: Path) -> dict:
    """Contents of database and log while the connection that wrote them is open."""
    from capkit.feature_store import DiskFeatureStore

    store = DiskFeatureStore(cache_dir)  # while it is open, the log is kept
    encoder(class_names=names, cache_dir=cache_dir).fit_transform(images)
    content = {path.name: path.read_bytes() for path in cache_dir.iterdir()}
    store.close()
    return {name: content[name] for name in ("features.sqlite-wal", "features.sqlite")}


def _damaged_cache(
    kind: str, cache_dir: Path, content: dict[str, bytes], attempt: Callable[[], str]
) -> Iterator[Fault]:
    """Faults of the first of some files; each attempt finds a folder of these files alone."""
    (first, original), *others = content.items()

    def on(damaged: bytes) -> Callable[[], str]:
        def run() -> str:
            shutil.rmtree(cache_dir, ignore_errors=True)
            cache_dir.mkdir()
            for name, written in [(first, damaged), *others]:
                (cache_dir / name).write_bytes(written)
            return attempt()

        return run

    for name, damaged in damage.damaged(original, N_FLIPS, sum(kind.encode())):
        yield Fault(kind, name, on(damaged), (CacheError,))


def of_kept_answers(folder: Path) -> Iterator[Fault]:
    """What is damaged is asked for again; without a server it is not used."""
    cache_dir = folder / "answers"
    with OllamaServer() as server:
        options = {"host": server.host, "n": 2, "cache_dir": cache_dir, "max_retries": 0}
        right = OllamaDescriber(**options).describe(["river"])

        def attempt() -> str:
            asked = len(server.questions)
            expect_same(OllamaDescriber(**options).describe(["river"]), right, "descriptions")
            return RECOVERED if len(server.questions) > asked else HARMLESS

        (path,) = (cache_dir / "descriptions").iterdir()
        yield from _damaged_file("kept answer, damaged", path, 80, attempt, ())


# -- tables


def of_tables(folder: Path) -> Iterator[Fault]:
    """A table carries no digest, as people edit it: right is what Python's readers read in it."""
    for suffix, read in ((".json", _read_json), (".csv", _read_csv)):
        path = folder / f"table{suffix}"
        save_descriptions(path, TABLE)
        yield from _damaged_file(
            f"table of descriptions ({suffix[1:].upper()}), damaged",
            path,
            N_FLIPS,
            lambda path=path, read=read: _expect_as_read(path, read),
            (DescriberAnswerError,),
        )


def _expect_as_read(path: Path, read: Callable[[str], dict]) -> str:
    found = load_descriptions(path)
    expected = {
        name: clean_descriptions(texts, name)
        for name, texts in read(path.read_bytes().decode("utf-8-sig")).items()
    }
    expect_same(found, expected, "table")
    return HARMLESS


def _read_json(text: str) -> dict:
    return json.loads(text)


def _read_csv(text: str) -> dict:
    rows = list(csv.reader(io.StringIO(text, newline="")))
    table: dict[str, list[str]] = {}
    for name, description in (row for row in rows[1:] if row):
        table.setdefault(name, []).append(description)
    return table


# -- backbones


def of_backbone(folder: Path) -> Iterator[Fault]:
    """A saved classifier knows its backbone by the fingerprint."""
    weights, path = save_random_clip(folder), folder / "with_backbone.capkit"
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    classifier = quick_classifier(backbone=str(weights), class_names=["cat", "dog", "emu"])
    quietly_fitted(classifier, images).save(path)
    right = classifier.predict_proba(images)

    def attempt() -> str:
        _forget_backbones()
        found = CAPClassifier.load(path, device="cpu").predict_proba(images)
        if not np.array_equal(found, right):
            raise WrongResult("probabilities by another backbone")
        return HARMLESS

    for file in (weights, weights.with_suffix(".json")):
        kind = "backbone's " + ("weights" if file == weights else "configuration") + ", damaged"
        yield from _damaged_file(kind, file, 40, attempt, (BackboneError,))
    _forget_backbones()


def _forget_backbones() -> None:
    """Be as a process that has just begun: loaded models and fingerprints are not kept."""
    registry._loaded.clear()
    _sha256.cache_clear()
