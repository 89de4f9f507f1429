"""Getting back the very model that something was made with."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from capkit.backbones.registry import is_path, load_checked
from capkit.exceptions import BackboneMismatchError, BackboneNotFoundError

if TYPE_CHECKING:
    from capkit.backbones.backbone import Backbone

__all__ = ["check_same_backbone", "reload_backbone"]


def check_same_backbone(
    found_id: str | None, expected_id: str | None, *, name: str | None, owner: str
) -> None:
    """Refuse a backbone that is not the expected one.

    Parameters
    ----------
    found_id : str or None
        Fingerprint of the backbone that is there; None where it is not known.
    expected_id : str or None
        Fingerprint of the one that it has to be; None where it is not known.
    name : str or None
        Name of the backbone that is there.
    owner : str
        What expects it, for the message.

    Raises
    ------
    BackboneMismatchError
        If both are known and differ.
    """
    if found_id is None or expected_id is None or found_id == expected_id:
        return
    raise BackboneMismatchError(
        f"{owner} expected the backbone with the fingerprint {expected_id[:12]}..., got "
        f"{name!r} with {found_id[:12]}.... Bring the old weights back, or fit again and encode "
        "all images with the same backbone."
    )


def reload_backbone(
    name: str | None, identity: str | None, *, device: str, owner: str
) -> Backbone:
    """Load a backbone by name, after a check that its files are those of the expected one.

    Parameters
    ----------
    name : str or None
        None where it is not known.
    identity : str or None
        Its fingerprint; None where it is not known.
    device : str
    owner : str
        What expects it, for the message.

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If there is no name.
    BackboneError
        If it cannot be loaded; of a file that is gone,
        :class:`~capkit.exceptions.BackboneNotFoundError` says where another may be named. If the
        name stands for other weights now, :class:`~capkit.exceptions.BackboneMismatchError`.
    """
    if name is None:
        raise ValueError(
            f"{owner} names no backbone, so that nothing can be encoded for it. Pass what "
            "CLIPEncoder makes of the images, or name the backbone of the ConceptSpace."
        )
    check = partial(check_same_backbone, expected_id=identity, name=name, owner=owner)
    try:
        return load_checked(name, device=device, check=check)
    except BackboneNotFoundError as error:
        if not is_path(name):
            raise
        known = "unknown" if identity is None else f"{identity[:12]}..."
        raise BackboneNotFoundError(
            f"{owner} needs the backbone that was at {name!r} (fingerprint {known}): {error} "
            "Bring it back there. A saved CAPClassifier also takes the same backbone from "
            "elsewhere: CAPClassifier.load(path, backbone=...)."
        ) from error
