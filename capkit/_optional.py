"""Packages that only some functions need."""

from __future__ import annotations

import importlib

__all__ = ["require"]


def require(owner: str, extra: str, *packages: str) -> None:
    """Raise where a package that a function needs is missing.

    Parameters
    ----------
    owner : str
        What needs it.
    extra : str
        The extra of capkit's distribution that holds it.
    *packages : str

    Raises
    ------
    ImportError
        That says how to install it.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"{owner} requires {package}. You can install it with `python -m pip install "
                f'"capkit-clip[{extra}]"`.'
            ) from error
