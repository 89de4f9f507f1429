"""Images and class names as features of one vision-language model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, _fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._arrays import unit_rows
from capkit._memory import is_out_of_memory
from capkit._validation import first_unwritable, resolve_class_names
from capkit.backbones import load_backbone
from capkit.backbones.reloading import reload_backbone
from capkit.base import ConceptStage, check_images
from capkit.decoding import read_batches
from capkit.exceptions import ImageReadError, OutOfMemoryError, SkippedImagesWarning
from capkit.feature_store import FeatureStore, open_feature_store
from capkit.images import ImageSource
from capkit.pixels import PIXELS_VERSION
from capkit.space import ConceptSpace

if TYPE_CHECKING:
    from capkit.backbones.backbone import Backbone

__all__ = ["CLIPEncoder", "encode_images", "encode_texts"]

_SHOWN_FAILURES = 20


class CLIPEncoder(ClassNamePrefixFeaturesOutMixin, ConceptStage):
    """Encode images and class names with a CLIP-like model.

    Turns images into a :class:`~capkit.ConceptSpace`, which the other stages take as input.
    Without class names it gives an array of image features, which any scikit-learn estimator
    takes. Features are cached, so that no image is encoded twice: on disk in `cache_dir`, or in
    memory for the life of the process.

    Parameters
    ----------
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`: ``"MODEL/TAG"`` of
        open_clip, ``"hf-hub:ORGANISATION/NAME"``, the path of a checkpoint,
        ``"local-dir:FOLDER"``, ``"glyph"``, or ``"auto"``.
    template : str or sequence of str, default="a photo of a {}"
        Text in which the class name replaces ``{}``. The features of several templates are
        averaged, as in zero-shot CLIP.
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`. Without them :meth:`transform`
        gives an array of features, and `template` is not used.
    batch_size : int, default=256
        Number of images that are encoded at once. Fewer need less memory.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    cache_dir : path or None, default=None
        Folder in which features are cached. A text is identified by the text with its template, an
        image by its content, a file by its path, size and modification time; in addition, all by
        the backbone and its preprocessing. ``~`` is the home folder. None keeps up to 512 MiB of
        features in memory.
    n_jobs : int or None, default=None
        Number of workers that read images: threads, unless ``joblib.parallel_config`` names
        another backend. None means the number set in ``joblib.parallel_config``, or else one
        worker for each CPU that this process may use, at most 8; -1 means one for each CPU.
    on_error : {"raise", "skip"}, default="raise"
        What happens if an image cannot be read: an error that names it, or a warning that lists
        all such images. Skipped images have no row in the ConceptSpace; its ``sample_indices`` say
        which images the rows belong to. An array of features cannot carry this information, so
        ``"skip"`` needs class names.
    max_pixels : int or None, default=67108864
        Largest number of pixels that an image file may have, also when training or prediction
        reads it: a thread needs 4 bytes for each. A larger image is not decoded but handled
        according to `on_error`. The default is 8192 x 8192. None means no limit except Pillow's
        own, ``PIL.Image.MAX_IMAGE_PIXELS``.
    verbose : int, default=0
        Above 0, a progress bar is shown while images are encoded.

    Attributes
    ----------
    class_names_ : tuple of str or None
        Names of the classes. None if there are none; so are the next two attributes.
    prompts_ : tuple of str or None
        Each class name in the (first) template.
    text_features_ : ndarray of shape (n_classes, d), dtype float32, or None
        ``W``, unit rows.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.
    n_features_out_ : int
        Width ``d`` of the features.
    backbone_name_ : str
        Name of the backbone; ``"auto"`` and relative paths are resolved.
    backbone_id_ : str
        Fingerprint of its configuration and weights.

    See Also
    --------
    ConceptAligner : Replaces the texts of classes that are far from their images.
    CAPClassifier : Encodes, aligns, and trains.

    Notes
    -----
    A feature depends slightly (by less than 1e-5 in each number) on the other images in its batch,
    because the summation order in matrix products depends on the batch size.

    JPEG, PNG, WebP, BMP, GIF, TIFF, PPM, JPEG 2000 and AVIF files are read, and HEIF if
    pillow-heif is registered. Pillow's other formats are not, because some of them run external
    programs. A PIL image that is open but not loaded is read from its file, if that has not
    changed; the image object itself stays unloaded. It is loaded if it has no file, or if its
    metadata have been accessed.

    References
    ----------
    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision",
    ICML 2021.

    Examples
    --------
    >>> from capkit import CLIPEncoder
    >>> from capkit.datasets import load_digits
    >>> digits = load_digits(split="test")
    >>> encoder = CLIPEncoder(backbone="glyph", class_names=digits.class_names)
    >>> encoder.fit_transform(digits.images[:20])
    ConceptSpace(n_images=20, n_classes=10, n_features=128)

    With many labeled images, without class names, as the input of an ordinary classifier:

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> probe = make_pipeline(CLIPEncoder(backbone="glyph"), LogisticRegression())
    >>> probe.fit(digits.images[:200], digits.target[:200]).predict(digits.images[:2]).shape
    (2,)
    """

    # class_names is routed to fit without a set_fit_request of the user
    __metadata_request__fit = {"class_names": True}

    _parameter_constraints: dict = {
        "backbone": [str, os.PathLike],
        "template": [str, "array-like"],
        "class_names": ["array-like", None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "cache_dir": [str, os.PathLike, None],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), Options(Integral, {-1}), None],
        "on_error": [StrOptions({"raise", "skip"})],
        "max_pixels": [Interval(Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        backbone: str | os.PathLike = "auto",
        *,
        template: str | Sequence[str] = "a photo of a {}",
        class_names: Sequence[str] | None = None,
        batch_size: int = 256,
        device: str = "auto",
        cache_dir: str | os.PathLike | None = None,
        n_jobs: int | None = None,
        on_error: str = "raise",
        max_pixels: int | None = 67108864,
        verbose: int = 0,
    ) -> None:
        self.backbone = backbone
        self.template = template
        self.class_names = class_names
        self.batch_size = batch_size
        self.device = device
        self.cache_dir = cache_dir
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.max_pixels = max_pixels
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: object, y: object = None, *, class_names: Sequence[str] | None = None
    ) -> CLIPEncoder:
        """Encode the class names, if there are any; the images are not used.

        Parameters
        ----------
        X : sequence of images of length n_images
            Paths, files, encoded bytes, PIL images, arrays, an array (n, H, W, 3), a tensor
            (n, 3, H, W) or a Dataset, of torch or of Hugging Face.
        y : object
            Ignored.
        class_names : sequence of str or None, default=None
            Names of the classes, if none were passed to the constructor.

        Returns
        -------
        self : CLIPEncoder

        Raises
        ------
        ClassNamesError
            If the class names are invalid.
        ValueError
            If a template has no ``{}`` for the class name or cannot be encoded in UTF-8, or if
            ``on_error="skip"`` is used without class names.
        BackboneError
            If the backbone cannot be loaded.
        """
        source = check_images(X, self)
        names = self._resolve_class_names(class_names, len(source))
        templates = _check_templates(self.template)
        backbone = load_backbone(self.backbone, device=self.device)
        self.class_names_, self.prompts_, self.text_features_ = names, None, None
        if names is not None:
            with open_feature_store(self.cache_dir) as store:
                self.text_features_ = _class_features(backbone, names, templates, store)
            self.prompts_ = tuple(templates[0].format(name) for name in names)
        self.logit_scale_ = backbone.logit_scale
        self.n_features_out_ = backbone.embed_dim
        self.backbone_name_ = backbone.name
        self.backbone_id_ = backbone.identity
        return self

    def _resolve_class_names(
        self, given: Sequence[str] | None, n_images: int
    ) -> tuple[str, ...] | None:
        if self.class_names is None and given is None:
            self._check_nothing_is_skipped()
            return None
        return resolve_class_names(self.class_names, given, n_images)

    def _check_nothing_is_skipped(self) -> None:
        if self.on_error == "skip":
            raise ValueError(
                "on_error='skip' leaves out images, and without class names the features are an "
                "array, which cannot say which. Pass class_names, for a ConceptSpace with "
                "sample_indices, or on_error='raise'."
            )

    def transform(self, X: object) -> ConceptSpace | np.ndarray:
        """Encode images; cached features are reused.

        Parameters
        ----------
        X : sequence of images of length n_images
            As in :meth:`fit`.

        Returns
        -------
        ConceptSpace, or ndarray of shape (n_images, d), dtype float32
            One row for each image, in their order; with ``on_error="skip"``, unreadable images
            have no row. Without class names the result is an array of unit rows, whatever
            ``set_output`` asks for.

        Raises
        ------
        ValueError
            If ``on_error="skip"`` is used without class names.
        ImageReadError
            If an image cannot be read; with ``on_error="skip"``, if no image can be read.
        CacheError
            If the features on disk cannot be read or written.
        OutOfMemoryError
            If a batch does not fit into memory.
        """
        check_is_fitted(self)
        if self.class_names_ is None:
            self._check_nothing_is_skipped()
        source = check_images(X, self).limited(self.max_pixels)
        backbone = self.backbone_
        with open_feature_store(self.cache_dir) as store:
            features, errors = encode_images(
                backbone,
                source,
                store,
                batch_size=self.batch_size,
                n_jobs=self.n_jobs,
                skip_errors=self.on_error == "skip",
                verbose=self.verbose,
            )
        if self.class_names_ is None or self.text_features_ is None:
            return features
        rows = None
        if errors:
            rows = _rows_without(errors, len(source))
            features, source = features[rows], source.take(rows)
        return ConceptSpace(
            image_features=features,
            text_features=self.text_features_,
            class_names=self.class_names_,
            logit_scale=self.logit_scale_,
            images=source,
            sample_indices=rows,
            prompts=self.prompts_,
            backbone=self.backbone_name_,
            backbone_id=self.backbone_id_,
        )

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    @property
    def backbone_(self) -> Backbone:
        """The model, loaded once per process and not part of the pickled encoder."""
        check_is_fitted(self)
        return reload_backbone(
            self.backbone_name_, self.backbone_id_, device=self.device, owner=type(self).__name__
        )


def _check_templates(template: str | Sequence[str]) -> tuple[str, ...]:
    templates = (template,) if isinstance(template, str) else tuple(template)
    if not templates:
        raise ValueError("expected at least one template, got none")
    for one in templates:
        try:
            fits = one.format("name") == one.replace("{}", "name") and "{}" in one
        except (AttributeError, IndexError, KeyError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "expected a template with {} where the class name belongs, as in "
                f"'a photo of a {{}}', got {one!r}"
            )
    if (unwritable := first_unwritable(templates)) is not None:
        raise ValueError(
            f"expected templates that UTF-8 can write, got {templates[unwritable]!r} as template "
            f"{unwritable}, which holds half of a surrogate pair. Read it again with the encoding "
            "of its file."
        )
    return templates


def _rows_without(errors: dict[int, ImageReadError], n_images: int) -> np.ndarray:
    """Rows that could be read; warns of the others, or raises if all could not."""
    skipped = list(errors.values())
    if len(skipped) == n_images:
        raise skipped[0]
    rows = np.delete(np.arange(n_images), list(errors))
    shown = "\n".join(
        f"  image {error.index} ({error.name}): {error.reason}"
        for error in skipped[:_SHOWN_FAILURES]
    )
    if len(skipped) > _SHOWN_FAILURES:
        others = ", ".join(str(error.index) for error in skipped[_SHOWN_FAILURES:])
        shown += f"\n  and images {others}"
    warnings.warn(
        f"{len(errors)} of {n_images} images could not be read and were skipped:\n{shown}",
        SkippedImagesWarning,
        stacklevel=3,
    )
    return rows


# -- encoding through a store


def encode_images(
    backbone: Backbone,
    source: ImageSource,
    store: FeatureStore,
    *,
    batch_size: int = 256,
    n_jobs: int | None = None,
    skip_errors: bool = False,
    verbose: int = 0,
) -> tuple[np.ndarray, dict[int, ImageReadError]]:
    """Features of images, from the store; missing ones are encoded and stored.

    Parameters
    ----------
    backbone : Backbone
    source : ImageSource
    store : FeatureStore
    batch_size : int, default=256
        Number of images that are encoded at once.
    n_jobs : int or None, default=None
        Number of workers that read images, see :class:`CLIPEncoder`.
    skip_errors : bool, default=False
        Whether to collect errors instead of raising the first.
    verbose : int, default=0
        Above 0, a progress bar is shown.

    Returns
    -------
    features : ndarray of shape (n_images, d), dtype float32
        Unit rows; zeros for images that could not be read.
    errors : dict of int to ImageReadError
        Errors of the images that could not be read, by row, ascending.

    Raises
    ------
    ImageReadError
        If an image cannot be read and `skip_errors` is false.
    OutOfMemoryError
        If a batch does not fit into memory.
    """
    from tqdm import tqdm

    context = _context(backbone, f"image {PIXELS_VERSION}")
    features = np.zeros((len(source), backbone.embed_dim), dtype=np.float32)
    keys, errors = ({}, {}) if source.keyed_by_reading else source.keys()
    if errors and not skip_errors:
        raise next(iter(errors.values()))
    if source.keyed_by_reading:
        pending = {row: [row] for row in range(len(source))}
    else:
        keys = {row: context + key for row, key in keys.items()}
        pending = _fill_from_store(features, keys, store)
    batches = read_batches(
        source,
        np.array(list(pending), dtype=np.intp),
        backbone.preprocessing,
        batch_size=batch_size,
        n_jobs=n_jobs,
    )
    hide = not verbose or not pending
    bar = tqdm(total=len(pending), desc="encoding", unit="image", disable=hide)
    with contextlib.closing(batches), bar:
        for batch in batches:
            if batch.errors and not skip_errors:
                raise next(iter(batch.errors.values()))
            for first, error in batch.errors.items():
                errors.update({row: source.error_at(row, error) for row in pending[first]})
            batch_keys = [context + key for key in batch.keys] or [keys[i] for i in batch.indices]
            encoded = _encode_batch(backbone, batch.pixels, batch_keys, store)
            for first, feature in zip(batch.indices.tolist(), encoded, strict=True):
                features[pending[first]] = feature
            bar.update(len(batch.indices) + len(batch.errors))
    return features, dict(sorted(errors.items()))


def _fill_from_store(
    features: np.ndarray, keys: dict[int, bytes], store: FeatureStore
) -> dict[int, list[int]]:
    """Fill in the stored features; return the other rows, grouped by image under the first."""
    rows = np.fromiter(keys, dtype=np.intp, count=len(keys))
    found, known = store.get(list(keys.values()), features.shape[1])
    features[rows[found]] = known
    rows_of_key: dict[bytes, list[int]] = {}
    for row in rows[~found].tolist():
        rows_of_key.setdefault(keys[row], []).append(row)
    return {rows[0]: rows for rows in rows_of_key.values()}


def _encode_batch(
    backbone: Backbone, pixels: np.ndarray, keys: list[bytes], store: FeatureStore
) -> np.ndarray:
    # Look again: another process may have encoded these meanwhile, and a Dataset's keys were not
    # known before.
    found, known = store.get(keys, backbone.embed_dim)
    features = np.empty((len(keys), backbone.embed_dim), dtype=np.float32)
    features[found] = known
    if not found.all():
        new = _run_image_tower(backbone, pixels if not found.any() else pixels[~found])
        features[~found] = new
        store.put([key for key, known in zip(keys, found, strict=True) if not known], new)
    return features


def _run_image_tower(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    writable = np.require(pixels, requirements="W")  # torch warns of memory that it may not change
    channels_first = torch.from_numpy(writable).permute(0, 3, 1, 2)
    try:
        return backbone.encode_images(channels_first).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"a batch of {len(pixels)} images of {backbone.image_size} x {backbone.image_size} "
            f"pixels does not fit into the memory of {backbone.device} with "
            f"{backbone.name!r}. Set a batch_size below {len(pixels)}."
        ) from error


def encode_texts(backbone: Backbone, texts: Sequence[str], store: FeatureStore) -> np.ndarray:
    """Features of texts, from the store; missing ones are encoded and stored.

    Parameters
    ----------
    backbone : Backbone
    texts : sequence of str of length n
    store : FeatureStore

    Returns
    -------
    ndarray of shape (n, d), dtype float32
        Unit rows.
    """
    context = _context(backbone, "text")
    keys = {row: context + _digest(text) for row, text in enumerate(texts)}
    features = np.empty((len(texts), backbone.embed_dim), dtype=np.float32)
    pending = _fill_from_store(features, keys, store)
    if pending:
        encoded = backbone.encode_texts([texts[first] for first in pending]).cpu().numpy()
        store.put([keys[first] for first in pending], encoded)
        for rows, feature in zip(pending.values(), encoded, strict=True):
            features[rows] = feature
    return features


def _class_features(
    backbone: Backbone, names: Sequence[str], templates: Sequence[str], store: FeatureStore
) -> np.ndarray:
    """Mean over the templates of each class's text features, made unit again."""
    texts = [template.format(name) for template in templates for name in names]
    features = encode_texts(backbone, texts, store).reshape(len(templates), len(names), -1)
    return unit_rows(features.mean(axis=0))


def _context(backbone: Backbone, kind: str) -> bytes:
    """First half of a key in the store: the kind of input, its preparation, and the model."""
    return _digest(f"{kind}\0{backbone.identity}")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
