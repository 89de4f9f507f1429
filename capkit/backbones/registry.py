"""Finding backbones by name, and loading each once per process."""

from __future__ import annotations

import difflib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capkit.backbones.checkpoint import SUFFIXES
from capkit.backbones.files import BackboneFiles
from capkit.backbones.hub import HUB_PREFIX, find_on_hub, is_hub_name, why_unreachable
from capkit.backbones.local import FOLDER_PREFIX, find_in_folder, folder_of
from capkit.backbones.local import find_checkpoint as _find_local
from capkit.exceptions import BackboneError, BackboneNotFoundError

if TYPE_CHECKING:
    import torch

    from capkit.backbones.backbone import Backbone

__all__ = [
    "is_cached",
    "is_path",
    "list_backbones",
    "load_backbone",
    "load_checked",
    "resolve_device",
]

logger = logging.getLogger(__name__)

AUTO = "auto"
PREFERRED = "ViT-B-32/openai"
EMBEDDED = "glyph"

_EMBEDDED_FILES = {EMBEDDED: Path(__file__).parent / "weights" / "glyph.safetensors"}

_lock = threading.RLock()
_loaded: dict[tuple, Backbone] = {}


def load_backbone(
    name: str | os.PathLike = AUTO,
    *,
    device: str | torch.device = "auto",
    cache_dir: str | os.PathLike | None = None,
) -> Backbone:
    """Load a frozen vision-language model by name, once per process.

    Parameters
    ----------
    name : str or path, default="auto"
        - ``"MODEL/TAG"``, any pretrained model of open_clip (``"ViT-B-32/openai"``), which
          open_clip downloads on first use;
        - the path of a local checkpoint (``.safetensors``, ``.pt``, ``.pth``, ``.bin``) with its
          JSON configuration beside it: ``NAME.json`` or ``open_clip_config.json``;
        - ``"hf-hub:ORGANISATION/NAME"``, a repository of the Hugging Face Hub in open_clip's
          layout (``"hf-hub:imageomics/bioclip"``), from the local cache or else downloaded; append
          ``"@REVISION"`` for a certain branch, tag or commit;
        - ``"local-dir:FOLDER"``, a folder in the same layout;
        - ``"glyph"``, the small model of printed characters that comes with capkit;
        - ``"auto"``: OpenAI's ViT-B/32, from the local cache or else downloaded.
    device : str or torch.device, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    cache_dir : path or None, default=None
        Folder for downloaded weights; None means open_clip's and the Hub's own defaults.

    Returns
    -------
    Backbone
        The same object for every call with the same model and device.

    Raises
    ------
    BackboneNotFoundError
        If there is no such backbone, or its weights cannot be downloaded.
    BackboneMismatchError
        If weights and configuration do not belong together.
    BackboneError
        If the checkpoint is damaged, or the device is not available.

    Examples
    --------
    >>> from capkit.backbones import load_backbone
    >>> backbone = load_backbone("glyph", device="cpu")
    >>> backbone.name, backbone.image_size
    ('glyph', 32)
    """
    device = resolve_device(device)
    cache_dir = None if cache_dir is None else os.fspath(cache_dir)
    with _lock:
        if name != AUTO:
            return _load_named(os.fspath(name), device, cache_dir)
        return _load_once((PREFERRED, device), lambda: _find_preferred(cache_dir))


def load_checked(name: str, *, device: str, check: Callable[[str], None]) -> Backbone:
    """Load a backbone, checking its fingerprint before anything is built from its files.

    Parameters
    ----------
    name : str
        As in :func:`load_backbone`. For "auto", whose model is not known in advance, the
        fingerprint is checked once it is loaded.
    device : str
    check : callable
        Raises if the backbone with this fingerprint must not be loaded.

    Returns
    -------
    Backbone
    """
    if name == AUTO:
        backbone = load_backbone(name, device=device)
    else:
        with _lock:
            backbone = _load_named(name, resolve_device(device), None, check)
    check(backbone.identity)  # it may have been loaded before
    return backbone


def list_backbones() -> list[str]:
    """Names that :func:`load_backbone` accepts, except local checkpoints and Hub repositories.

    Returns
    -------
    list of str
        ``"auto"``, the embedded models, and every ``"MODEL/TAG"`` of open_clip.

    Examples
    --------
    >>> from capkit.backbones import list_backbones
    >>> names = list_backbones()
    >>> "glyph" in names, "ViT-B-32/openai" in names
    (True, True)
    """
    from open_clip import list_pretrained  # takes seconds to import

    return [AUTO, *_EMBEDDED_FILES, *(f"{model}/{tag}" for model, tag in list_pretrained())]


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve ``"auto"`` or a name to an available device.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``,
        ``"mps"``, ...

    Returns
    -------
    torch.device

    Raises
    ------
    BackboneError
        If the device is not available.
    ValueError
        If torch knows no such device, or the device cannot compute ("meta").
    """
    import torch

    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"expected device 'auto' or one that torch knows ('cpu', 'cuda', 'cuda:1', 'mps'), "
            f"got {device!r}"
        ) from error
    if resolved.type == "meta":
        raise ValueError(
            "expected a device that computes ('auto', 'cpu', 'cuda', 'cuda:1', 'mps'), got "
            "'meta', whose tensors have no content"
        )
    try:
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BackboneError(
            f"device {str(resolved)!r} is not available here: {error}. "
            "Pass device='auto' to use what is there."
        ) from error
    return resolved


def is_cached(name: str) -> bool:
    """Whether the weights of a pretrained model are on disk; nothing is downloaded or loaded.

    Parameters
    ----------
    name : str
        ``"MODEL/TAG"``.

    Returns
    -------
    bool

    Raises
    ------
    BackboneNotFoundError
        If open_clip knows no such model.
    """
    _, tag_cfg = _pretrained_config(_pretrained_name(name))
    return _cached_weights(tag_cfg, None) is not None


def is_path(name: str | None) -> bool:
    """Whether a name refers to a user's own file or folder.

    Parameters
    ----------
    name : str or None

    Returns
    -------
    bool
    """
    if name is None or name in _EMBEDDED_FILES:
        return False
    return folder_of(name) is not None or _checkpoint_path(name) is not None


def _pass(identity: str) -> None:
    pass


def _load_named(
    name: str,
    device: torch.device,
    cache_dir: str | None,
    check: Callable[[str], None] = _pass,
) -> Backbone:
    files = _find_own(name)
    if files is not None:
        return _load_once((files.name, device, files.version), lambda: files, check)
    if is_hub_name(name):
        return _load_once((name, device), lambda: find_on_hub(name, cache_dir), check)
    known = _pretrained_name(name)
    return _load_once((known, device), lambda: _find_pretrained(known, cache_dir), check)


def _find_own(name: str) -> BackboneFiles | None:
    """Files of the embedded model or of a user's own model; None for other names."""
    folder, path = folder_of(name), _checkpoint_path(name)
    if folder is not None:
        return find_in_folder(folder)
    if path is None:
        _refuse_path(name)
        return None
    return _find_local(name if name in _EMBEDDED_FILES else str(path), path)


def _load_once(
    key: tuple, find: Callable[[], BackboneFiles], check: Callable[[str], None] = _pass
) -> Backbone:
    """Backbone loaded earlier under this key, or else loaded from the files of `find`."""
    from capkit.backbones.loading import build_backbone

    if key not in _loaded:
        files = find()
        check(files.identity)
        logger.info("loading backbone %s from %s", files.name, files.weights)
        _loaded[key] = build_backbone(files, key[1], _reload)
    return _loaded[key]


def _refuse_path(name: str) -> None:
    """Raise an error that says why a path is not a checkpoint."""
    path = Path(name).expanduser()
    if path.is_absolute() or name.startswith("."):
        what = (
            f"is a folder: write {FOLDER_PREFIX + name!r}, if it holds a model"
            if path.is_dir()
            else f"is not there: expected the path of a checkpoint ({', '.join(SUFFIXES)})"
        )
        raise BackboneNotFoundError(f"{name!r} {what}.")


def _reload(name: str, device: str) -> Backbone:
    return load_backbone(name, device=device)


def _checkpoint_path(name: str) -> Path | None:
    """File that `name` refers to, or None if it can only be a name of open_clip or the Hub."""
    if name in _EMBEDDED_FILES:
        return _EMBEDDED_FILES[name]
    if name.startswith((HUB_PREFIX, FOLDER_PREFIX)):
        return None
    path = Path(name).expanduser()
    return path.absolute() if path.suffix in SUFFIXES or path.is_file() else None


# -- open_clip's pretrained models


def _pretrained_name(name: str) -> str:
    """open_clip's spelling: papers also write "ViT-B/32/openai"."""
    model, _, tag = name.rpartition("/")
    return f"{model.replace('/', '-')}/{tag}" if model else name


def _find_pretrained(name: str, cache_dir: str | None, *, patient: bool = True) -> BackboneFiles:
    model_cfg, tag_cfg = _pretrained_config(name)
    weights = _cached_weights(tag_cfg, cache_dir)
    if weights is None:
        weights = _fetch_weights(name, tag_cfg, cache_dir, patient)
    if tag_cfg.get("quick_gelu"):
        # OpenAI's weights under the plain model name: open_clip would only warn, and then
        # compute with another activation than the one they were trained with
        model_cfg["quick_gelu"] = True
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess_cfg = {key: tag_cfg[key] for key in keys if tag_cfg.get(key) is not None}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    return BackboneFiles(name, config, weights)


def _pretrained_config(name: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Configurations of the model and of its weights, as open_clip has them."""
    from open_clip import get_model_config, list_models, list_pretrained_tags_by_model
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = name.rpartition("/")
    tag_cfg = get_pretrained_cfg(model, tag)
    model_cfg = get_model_config(model)
    if tag_cfg and model_cfg:
        return model_cfg, tag_cfg
    for candidate in (model, name.replace("/", "-")):
        if candidate in list_models():
            tags = list_pretrained_tags_by_model(candidate)
            names = ", ".join(f"{candidate}/{known}" for known in tags) or "none"
            raise BackboneNotFoundError(
                f"expected a pretrained model 'MODEL/TAG', got {name!r}. Of {candidate} there "
                f"are: {names}."
            )
    raise BackboneNotFoundError(_unknown_message(name))


def _unknown_message(name: str) -> str:
    known = list_backbones()
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=4, cutoff=0.5)
    meant = " or ".join(repr(by_lower_case[match]) for match in close)
    return (
        f"there is no backbone {name!r}."
        + (f" Did you mean {meant}?" if close else "")
        + (f" Or {HUB_PREFIX + name!r}, on the Hugging Face Hub?" if name.count("/") == 1 else "")
        + f" Expected 'auto', {', '.join(map(repr, _EMBEDDED_FILES))}, the path of a checkpoint "
        f"({', '.join(SUFFIXES)}), '{FOLDER_PREFIX}FOLDER', '{HUB_PREFIX}ORGANISATION/NAME', or "
        f"one of open_clip's {len(known)} pretrained models "
        "'MODEL/TAG', such as 'ViT-B-32/openai' or 'ViT-L-14/openai'; "
        "capkit.backbones.list_backbones() lists them."
    )


def _cached_weights(tag_cfg: Mapping[str, Any], cache_dir: str | None) -> Path | None:
    """Weights that were downloaded before; only looks on disk."""
    from huggingface_hub import try_to_load_from_cache

    if "file" in tag_cfg:
        return Path(tag_cfg["file"])
    repository, filename = os.path.split(tag_cfg.get("hf_hub", ""))
    for candidate in _hub_files(filename) if repository else ():
        path = try_to_load_from_cache(repository, candidate, cache_dir=cache_dir)
        if isinstance(path, str):
            return Path(path)
    return None


def _hub_files(filename: str) -> tuple[str, ...]:
    """Names under which a hub repository may hold the weights, in open_clip's order."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if not filename:
        return HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    return str(Path(filename).with_suffix(".safetensors")), filename


def _fetch_weights(
    name: str, tag_cfg: Mapping[str, Any], cache_dir: str | None, patient: bool
) -> Path:
    from open_clip.pretrained import download_pretrained

    reason: object = _why_unreachable(tag_cfg, patient)
    if reason is None:
        logger.info("downloading the weights of %s", name)
        try:
            return Path(download_pretrained(dict(tag_cfg), cache_dir=cache_dir))
        except Exception as error:  # the hub, urllib and open_clip each raise their own kinds
            reason = error
    raise BackboneNotFoundError(
        f"the weights of {name!r} are not in the local cache and could not be fetched: "
        f"{str(reason).rstrip('.')}. Connect to the network once, or pass the path of a "
        f"checkpoint file. (backbone={EMBEDDED!r}, which comes with capkit, reads printed "
        "characters and knows nothing of photographs.)"
    ) from (reason if isinstance(reason, Exception) else None)


def _why_unreachable(tag_cfg: Mapping[str, Any], patient: bool) -> str | None:
    """Why the hub that has these weights cannot be asked, or None."""
    repository, filename = os.path.split(tag_cfg.get("hf_hub", ""))
    if not repository:
        return None
    return why_unreachable(repository, _hub_files(filename)[0], patient=patient)


# -- "auto"


def _find_preferred(cache_dir: str | None) -> BackboneFiles:
    """Files of the preferred backbone; does not wait for an unresponsive network."""
    return _find_pretrained(PREFERRED, cache_dir, patient=False)
