"""Models in a user's own files: a checkpoint with its configuration, or a folder of both."""

from __future__ import annotations

from pathlib import Path

from capkit.backbones.checkpoint import SUFFIXES
from capkit.backbones.files import CONFIG_NAME, BackboneFiles, read_config
from capkit.exceptions import BackboneMismatchError, BackboneNotFoundError

__all__ = ["FOLDER_PREFIX", "find_checkpoint", "find_in_folder", "folder_of"]

FOLDER_PREFIX = "local-dir:"
# Names of the weights in a folder, in open_clip's order.
_WEIGHTS_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_TOKENIZER_NAMES = ("tokenizer_config.json", "tokenizer.json")


def folder_of(name: str | None) -> Path | None:
    """Absolute path of the folder that ``"local-dir:FOLDER"`` names; None of other names.

    Parameters
    ----------
    name : str or None

    Returns
    -------
    Path or None
    """
    if name is None or not name.startswith(FOLDER_PREFIX):
        return None
    return Path(name.removeprefix(FOLDER_PREFIX)).expanduser().absolute()


def find_checkpoint(name: str, path: Path) -> BackboneFiles:
    """A checkpoint file and the configuration beside it.

    Parameters
    ----------
    name : str
        Name of the backbone.
    path : Path

    Returns
    -------
    BackboneFiles

    Raises
    ------
    BackboneNotFoundError
        If one of the files is not there.
    BackboneMismatchError
        If the configuration is none.
    """
    if not path.is_file():
        raise BackboneNotFoundError(f"there is no checkpoint file {str(path)!r}.")
    candidates = (path.with_suffix(".json"), path.parent / CONFIG_NAME)
    for candidate in candidates:
        if candidate.is_file():
            return BackboneFiles(name, read_config(candidate), path, config_path=candidate)
    raise BackboneNotFoundError(
        f"the checkpoint {str(path)!r} has no configuration beside it: expected "
        f"{candidates[0].name} or {candidates[1].name} in open_clip's layout, "
        '{"model_cfg": {"embed_dim": ..., "vision_cfg": {...}, "text_cfg": {...}}, '
        '"preprocess_cfg": {...}}.'
    )


def find_in_folder(folder: Path) -> BackboneFiles:
    """A folder in open_clip's layout, such as a copy of a repository of the Hub.

    Parameters
    ----------
    folder : Path
        Absolute.

    Returns
    -------
    BackboneFiles
        Of a folder that has the files of a tokenizer, that is the model's, if its configuration
        names any of transformers.

    Raises
    ------
    BackboneNotFoundError
        If the folder, its configuration or its weights are not there.
    BackboneMismatchError
        If the configuration is none, or it cannot be told which file are the weights.
    """
    if not folder.is_dir():
        raise BackboneNotFoundError(f"there is no folder {str(folder)!r}.")
    config_path = folder / CONFIG_NAME
    if not config_path.is_file():
        raise BackboneNotFoundError(
            f"the folder {str(folder)!r} has no {CONFIG_NAME}, which describes the model."
        )
    has_tokenizer = any((folder / name).is_file() for name in _TOKENIZER_NAMES)
    return BackboneFiles(
        f"{FOLDER_PREFIX}{folder}",
        read_config(config_path),
        _find_weights(folder),
        config_path=config_path,
        tokenizer_folder=folder if has_tokenizer else None,
    )


def _find_weights(folder: Path) -> Path:
    for name in _WEIGHTS_NAMES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(others) == 1:
        return others[0]
    if not others:
        raise BackboneNotFoundError(
            f"the folder {str(folder)!r} has no weights: expected {_WEIGHTS_NAMES[0]}, or one "
            f"file with a suffix of {', '.join(SUFFIXES)}."
        )
    raise BackboneMismatchError(
        f"which of {', '.join(path.name for path in others)} in {str(folder)!r} are the weights "
        "cannot be told. Pass the path of the file itself."
    )
