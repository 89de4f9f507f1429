"""What is installed and what it can do, for questions and bug reports."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from PIL import Image

import capkit
from capkit.backbones.registry import PREFERRED, is_cached, resolve_device
from capkit.image_files import image_suffixes

__all__ = ["describe_installation"]

# What each extra adds, and the package that shows whether it is there.
_EXTRAS = {
    "plot": ("matplotlib", "pictures"),
    "compare": ("tabulate", "capkit compare"),
    "parquet": ("pyarrow", "--format parquet"),
    "heif": ("pillow-heif", "photos of iPhones"),
}
_PACKAGES = ("torch", "open_clip_torch", "scikit-learn", "skorch", "numpy", "pillow")


def describe_installation() -> dict[str, str]:
    """Versions, device, model and extras of this installation.

    Nothing is downloaded or loaded.

    Returns
    -------
    dict of str to str
        Names and values.

    Examples
    --------
    >>> from capkit.commands import describe_installation
    >>> list(describe_installation())[:3]
    ['capkit', 'Python', 'system']
    """
    facts = {
        "capkit": f"{capkit.__version__}, in {Path(capkit.__file__).parent}",
        "Python": platform.python_version(),
        "system": platform.platform(),
    }
    facts |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    facts["device"] = _device()
    facts[f"{PREFERRED} (auto)"] = (
        "on this disk" if is_cached(PREFERRED) else "not on this disk: fetched at first use"
    )
    facts["images"] = ", ".join(sorted(_readable_suffixes()))
    for extra, (package, use) in _EXTRAS.items():
        there = _is_installed(package)
        how = "installed" if there else f'missing: python -m pip install "capkit-clip[{extra}]"'
        facts[f"for {use}"] = how
    return facts


def _device() -> str:
    import torch

    device = resolve_device("auto")
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{name}"


def _readable_suffixes() -> set[str]:
    known = Image.registered_extensions()
    return {suffix for suffix in image_suffixes() if known.get(suffix) in Image.OPEN}


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
