"""CLIP features of satellite pictures that their authors publish: a real result in seconds."""

from __future__ import annotations

import os
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from capkit._arrays import unit_rows
from capkit.datasets._download import RemoteFile, data_folder, fetch_files
from capkit.exceptions import DatasetError
from capkit.space import ConceptSpace

__all__ = ["fetch_whurs19_features"]

_SOURCE = (
    "https://raw.githubusercontent.com/elkhouryk/RS-TransCLIP/"
    "01df065d361eb67f30e6f85437dcef3c14c99377/"
)
_CLASS_NAMES = "datasets/WHURS19/class_changes.txt"
_N_IMAGES, _N_CLASSES = 1005, 19
_LOGIT_SCALE = 100.0

# Accuracy of the mean of all prompts and of TransCLIP behind it, in [0, 1], which the authors
# publish beside the features.
_PUBLISHED = {
    "CLIP/RN50": (0.7154, 0.9592),
    "CLIP/ViT-B-32": (0.8129, 0.9035),
    "CLIP/ViT-L-14": (0.8547, 0.9910),
    "GeoRSCLIP/ViT-B-32": (0.8876, 0.9871),
    "GeoRSCLIP/ViT-L-14": (0.8846, 0.9891),
    "GeoRSCLIP/ViT-H-14": (0.9045, 0.9970),
    "RemoteCLIP/RN50": (0.9542, 0.9841),
    "RemoteCLIP/ViT-B-32": (0.9522, 0.9791),
    "RemoteCLIP/ViT-L-14": (0.9353, 0.9721),
    "SkyCLIP50/ViT-B-32": (0.9104, 0.9781),
    "SkyCLIP50/ViT-L-14": (0.8746, 0.9920),
}
# Another model's or another prompt's features are farther off; half precision is not.
_TOLERANCE = 0.005

_KINDS = (
    *("a bad", "a black and white", "a blurry", "a bright", "a close-up", "a cropped", "a dark"),
    *("a good", "a jpeg corrupted", "a low resolution"),
)
_LOOKS = ("cool", "hard to see", "large", "nice", "small", "weird")


def _prompts() -> tuple[str, ...]:
    """The 106 templates, without the class's name and the full stop at their end."""
    prompts = ["a satellite photo of a"]
    for article, noun in (("an", "aerial"), ("a", "remote sensing"), ("a", "satellite")):
        plain = f"{article} {noun} image of"
        prompts += [f"{kind} {noun} image of {end}" for kind in _KINDS for end in ("a", "the")]
        prompts += [f"{plain} {end}" for end in ("a", "the", "many")]
        prompts += [f"{plain} {end} {look}" for end in ("a", "the") for look in _LOOKS]
    return tuple(sorted(prompts))


def fetch_whurs19_features(
    model: str = "ViT-B-32",
    *,
    data_home: str | os.PathLike | None = None,
    download: bool = True,
) -> Bunch:
    """Fetch real CLIP features of 1,005 satellite pictures in 19 classes.

    Of the pictures of WHU-RS19 and of the texts of 106 prompts, computed and published by the
    authors of Remote-sensing TransCLIP; about three megabytes, no weights and no images. No
    checksums are published for the files, which are pinned to one commit; what they hold is
    checked by the accuracy that the authors publish for them.

    Parameters
    ----------
    model : str, default="ViT-B-32"
        Which model's features: ``"ViT-B-32"``, ``"ViT-L-14"`` or ``"RN50"`` of OpenAI's CLIP, or
        one that was trained on satellite pictures: ``"GeoRSCLIP/ViT-B-32"``,
        ``"GeoRSCLIP/ViT-L-14"``, ``"GeoRSCLIP/ViT-H-14"``, ``"RemoteCLIP/RN50"``,
        ``"RemoteCLIP/ViT-B-32"``, ``"RemoteCLIP/ViT-L-14"``, ``"SkyCLIP50/ViT-B-32"`` or
        ``"SkyCLIP50/ViT-L-14"``.
    data_home : path or None, default=None
        Folder of all data sets. None is the environment variable ``CAPKIT_DATA``, or else the
        user's data folder.
    download : bool, default=True
        Whether to download what is not there.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes.

        space : ConceptSpace
            Features of the pictures, and of each class the mean text feature of all prompts.
        target : ndarray of shape (1005,), dtype int64
            Indices into ``class_names``.
        class_names : list of str
            The 19 classes.
        target_names : list of str
            The same, under scikit-learn's name.
        prompts : list of str
            The 106 prompts, ``{}`` in place of the class's name.
        prompt_features : ndarray of shape (106, 19, n_features), dtype float32
            Unit text features of each prompt and class, for :mod:`capkit.prompt_choice`.
        published : dict of str to float
            Accuracies that the authors publish for these features, in [0, 1]: ``"zero-shot"``
            with the mean of all prompts, ``"TransCLIP"`` with it.
        DESCR : str
            Description of the data set, its sources and licences.

    Raises
    ------
    ValueError
        If there is no such model.
    DatasetDownloadError
        If a file cannot be downloaded; the message says where to put it by hand.
    DatasetError
        If a file is not there and not to be downloaded, or does not hold what it should.
    ImportError
        If a package of the extra ``datasets`` is missing.

    See Also
    --------
    capkit.prompt_choice.choose_prompts : Weigh the prompts by the pictures.

    Examples
    --------
    >>> from capkit import CAPClassifier
    >>> from capkit.datasets import fetch_whurs19_features
    >>> satellite = fetch_whurs19_features()  # doctest: +SKIP
    >>> (satellite.space.predict() == satellite.target).mean()  # doctest: +SKIP
    0.813
    >>> model = CAPClassifier(tuning="adapter", random_state=0)  # doctest: +SKIP
    >>> model.fit(satellite.space).score(satellite.space, satellite.target)  # doctest: +SKIP
    0.97
    """
    full_name = model if "/" in model else f"CLIP/{model}"
    if full_name not in _PUBLISHED:
        names = [name.removeprefix("CLIP/") for name in _PUBLISHED]
        raise ValueError(f"expected a model of {', '.join(names)}, got {model!r}.")
    folder = data_folder(data_home, "whurs19_features")
    remote = _files(full_name)
    files = fetch_files(remote, folder, download=download, owner="fetch_whurs19_features")
    class_names, target, images, mean_texts, *texts = map(_read, files)
    prompts = _prompts()
    if len(class_names) != _N_CLASSES:
        raise _wrong(files[0], f"{_N_CLASSES} names", f"{len(class_names)}")
    images = _features(images, _N_IMAGES, files[2])
    width = images.shape[1]
    target = _labels(target, files[1])
    mean_texts = _features(mean_texts, _N_CLASSES, files[3], width)
    _check_accuracy(full_name, images, mean_texts, target, files[2].parent)
    zero_shot, transclip = _PUBLISHED[full_name]
    return Bunch(
        space=ConceptSpace(
            image_features=images,
            text_features=mean_texts,
            class_names=tuple(class_names),
            logit_scale=_LOGIT_SCALE,
        ),
        target=target,
        class_names=class_names,
        target_names=class_names,
        prompts=[f"{prompt} {{}}." for prompt in prompts],
        prompt_features=np.stack(
            [
                _features(text, _N_CLASSES, file, width)
                for text, file in zip(texts, files[4:], strict=True)
            ]
        ),
        published={"zero-shot": zero_shot, "TransCLIP": transclip},
        DESCR=_read_description(),
    )


def _files(full_name: str) -> list[RemoteFile]:
    """Names of the classes, labels, images, mean texts, and the texts of each prompt."""
    folder = f"results/WHURS19/{full_name}"
    parts = ["classes", "images", "texts_averageprompt"]
    parts += [f"texts_{prompt.replace(' ', '_')}" for prompt in _prompts()]
    names = [_CLASS_NAMES, *[f"{folder}/{part}.pt" for part in parts]]
    return [RemoteFile(name, _SOURCE + name, None) for name in names]


def _read_description() -> str:
    folder = resources.files("capkit.datasets") / "descr"
    return (folder / "whurs19_features.rst").read_text("utf-8")


# -- reading


def _read(path: Path) -> Any:
    """Lines of a text, or the tensor in a file, which may hold tensors and nothing else."""
    import torch

    if path.suffix == ".txt":
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, (list, tuple)):
            content = torch.stack([torch.as_tensor(part) for part in content])
        return torch.as_tensor(content).numpy()
    except (OSError, RuntimeError, EOFError, TypeError, ValueError, pickle.PickleError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise _wrong(path, "a tensor", reason) from error


def _features(array: np.ndarray, n_rows: int, path: Path, width: int | None = None) -> np.ndarray:
    """Unit rows, whichever way the matrix lies."""
    if array.ndim == 2 and array.shape[0] != n_rows:
        array = array.T
    if array.ndim != 2 or array.shape[0] != n_rows or width not in (None, array.shape[1]):
        expected = f"features of shape ({n_rows}, {'n' if width is None else width})"
        raise _wrong(path, expected, f"shape {array.shape}")
    rows = array.astype(np.float32)
    if not np.isfinite(rows).all() or not rows.any(axis=1).all():
        raise _wrong(path, "finite features", "NaN, infinity or a row of zeros")
    return unit_rows(rows)


def _labels(array: np.ndarray, path: Path) -> np.ndarray:
    labels = array.ravel()
    if array.size != _N_IMAGES or not np.array_equal(np.unique(labels), np.arange(_N_CLASSES)):
        expected = f"{_N_IMAGES} labels from 0 to {_N_CLASSES - 1}"
        raise _wrong(path, expected, f"{array.size} from {labels.min()} to {labels.max()}")
    return labels.astype(np.int64)


def _check_accuracy(
    full_name: str, images: np.ndarray, texts: np.ndarray, target: np.ndarray, folder: Path
) -> None:
    """Wrong files would show: there is no checksum."""
    accuracy = float(((images @ texts.T).argmax(axis=1) == target).mean())
    published = _PUBLISHED[full_name][0]
    if abs(accuracy - published) > _TOLERANCE:
        raise _wrong(folder, f"features that label {published:.2%} right", f"{accuracy:.2%}")


def _wrong(path: Path, expected: str, got: str) -> DatasetError:
    return DatasetError(
        f"expected {expected} in {path}, got {got}. Delete it and call again to download it anew."
    )
