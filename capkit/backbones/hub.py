"""Models in repositories of the Hugging Face Hub, from its local cache or fetched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from capkit.backbones.files import CONFIG_NAME, BackboneFiles, read_config
from capkit.exceptions import BackboneNotFoundError

__all__ = ["HUB_PREFIX", "HubName", "find_on_hub", "is_hub_name", "why_unreachable"]

logger = logging.getLogger(__name__)

HUB_PREFIX = "hf-hub:"
_PROBE_SECONDS = 3.0


class HubName(NamedTuple):
    """What a name ``"hf-hub:ORGANISATION/NAME@REVISION"`` says.

    Attributes
    ----------
    repository : str
    revision : str or None
        A branch, a tag or a commit; None is the main branch.
    """

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Read a name.

        Parameters
        ----------
        name : str

        Returns
        -------
        HubName

        Raises
        ------
        BackboneNotFoundError
            If no repository can have this name.
        """
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        repository, at, revision = name.removeprefix(HUB_PREFIX).partition("@")
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise BackboneNotFoundError(
                f"expected {HUB_PREFIX}ORGANISATION/NAME, or with @REVISION behind it, got "
                f"{name!r}: {error}"
            ) from error
        if at and not revision:
            raise BackboneNotFoundError(
                f"expected a branch, a tag or a commit behind the @ of {name!r}, got nothing."
            )
        return cls(repository, revision or None)


def is_hub_name(name: str | None) -> bool:
    """Whether a name stands for a repository of the Hub.

    Parameters
    ----------
    name : str or None

    Returns
    -------
    bool
    """
    return name is not None and name.startswith(HUB_PREFIX)


def find_on_hub(name: str, cache_dir: str | None) -> BackboneFiles:
    """Files of a repository in open_clip's layout; what is in the local cache is not asked for.

    Configuration and weights are of one commit, also where the repository changes in between.

    Parameters
    ----------
    name : str
        ``"hf-hub:ORGANISATION/NAME"``, with ``"@REVISION"`` behind it or without.
    cache_dir : str or None
        None is the Hub's own cache.

    Returns
    -------
    BackboneFiles

    Raises
    ------
    BackboneNotFoundError
        If there is no such model, or it is not in the cache and cannot be fetched.
    BackboneMismatchError
        If its configuration is none.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, revision = HubName.parse(name)
    config_path = _get(name, repository, [CONFIG_NAME], revision, cache_dir)
    config, commit = read_config(config_path), config_path.parent.name
    names = [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    weights = _get(name, repository, names, commit, cache_dir)
    text_cfg = config["model_cfg"]["text_cfg"]
    has_tokenizer = isinstance(text_cfg, dict) and text_cfg.get("hf_tokenizer_name") == repository
    return BackboneFiles(
        name, config, weights, tokenizer_revision=commit if has_tokenizer else None
    )


def _get(
    name: str, repository: str, filenames: Sequence[str], revision: str | None, cache: str | None
) -> Path:
    """First of these files that the cache has, or else the repository."""
    from huggingface_hub import try_to_load_from_cache

    for filename in filenames:
        found = try_to_load_from_cache(repository, filename, cache, revision)
        if isinstance(found, str):
            return Path(found)
    reason: object = why_unreachable(repository, filenames[0], revision)
    if reason is None:
        logger.info("downloading %s of %s", " or ".join(filenames), name)
        try:
            return _fetch(name, repository, filenames, revision, cache)
        except BackboneNotFoundError:
            raise
        except Exception as error:  # the hub's client raises many kinds
            reason = error
    raise BackboneNotFoundError(
        f"{' or '.join(filenames)} of {name!r} is not in the local cache and could not be "
        f"fetched: {str(reason).strip().rstrip('.')}. Connect to the network once, copy the cache "
        "from a machine that has it, or pass backbone='local-dir:FOLDER' with a copy of the "
        "repository."
    ) from (reason if isinstance(reason, Exception) else None)


def _fetch(
    name: str, repository: str, filenames: Sequence[str], revision: str | None, cache: str | None
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for filename in filenames:
        try:
            return Path(hf_hub_download(repository, filename, revision=revision, cache_dir=cache))
        except LocalEntryNotFoundError:  # an EntryNotFoundError that says nothing of the Hub
            raise
        except EntryNotFoundError:
            continue
        except GatedRepoError as error:
            raise BackboneNotFoundError(
                f"{name!r} is only for those who accepted its terms. Accept them on its page, and "
                "log in by 'hf auth login'."
            ) from error
        except RepositoryNotFoundError as error:
            raise BackboneNotFoundError(
                f"the Hub has no repository {repository!r} that you may see. Look at the "
                "spelling; if it is private, log in by 'hf auth login'."
            ) from error
        except RevisionNotFoundError as error:
            raise BackboneNotFoundError(
                f"the repository {repository!r} has no branch, tag or commit {revision!r}."
            ) from error
    raise BackboneNotFoundError(
        f"the repository {repository!r} is no model in open_clip's layout: it has no "
        f"{' or '.join(filenames)}. Look for one whose page names the library open_clip."
    )


def why_unreachable(
    repository: str, filename: str, revision: str | None = None, *, patient: bool = True
) -> str | None:
    """Why the Hub cannot be asked, or None.

    The Hub's own client tries again and again for most of a minute without a network. One that
    does not answer in time counts as unreachable unless the caller is `patient`.

    Parameters
    ----------
    repository : str
    filename : str
        Any answer counts, also that there is no such file.
    revision : str or None, default=None
    patient : bool, default=True

    Returns
    -------
    str or None
    """
    result: list[str | None] = [None if patient else f"no answer in {_PROBE_SECONDS:.0f} seconds"]
    # Looking up a host's name blocks beyond every time-out, hence the thread.
    arguments = (repository, filename, revision, result)
    probe = threading.Thread(target=_probe, args=arguments, daemon=True)
    probe.start()
    probe.join(_PROBE_SECONDS)
    return result[0]


def _probe(repository: str, filename: str, revision: str | None, result: list[str | None]) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    try:
        url = hf_hub_url(repository, filename, revision=revision)
        get_hf_file_metadata(url, timeout=_PROBE_SECONDS)
        result[0] = None
    except HfHubHTTPError:  # an answer, if only that the file has another name
        result[0] = None
    except Exception as error:  # whatever else is raised: there is no answer
        result[0] = f"{type(error).__name__}: {error}".splitlines()[0]
