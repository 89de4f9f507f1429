"""Read the weights of a checkpoint file, whichever way it was saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file

TOKEN_EMBEDDING = "token_embedding.weight"
TOKEN_EMBEDDING_ROWS = "token_embedding.rows"
TOKEN_EMBEDDING_SIZE = "token_embedding.size"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def load_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Load a state dict as float32 tensors on the CPU.

    No pickled code is executed: torch files are read with ``weights_only=True``.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file saved by torch. The
        state dict may stand under the key ``state_dict``, with names that start with
        ``module.``, as training scripts save it, and its token embedding may be sparse
        (:func:`expand_token_embedding`).

    Returns
    -------
    dict of str to Tensor
        Names as in the model's own ``state_dict``; floating-point tensors are float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, holds no state dict, or more than tensors.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"A checkpoint is expected to be one of {', '.join(SUFFIXES)}, got {path.name!r}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file at {str(path)!r}.")
    if path.suffix == ".safetensors":
        state = load_file(path)
    else:
        state = _unwrap(_load_tensors(path), path)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    return expand_token_embedding(state)


def expand_token_embedding(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Expand a sparse token embedding to the whole vocabulary.

    A model trained on a small part of its tokenizer's vocabulary may store the embeddings of the
    tokens that training saw alone: as rows of ``token_embedding.weight``, with their identifiers
    in ``token_embedding.rows`` (int32, ascending) and the size of the vocabulary in
    ``token_embedding.size``. Every other token gets the mean of the stored rows: an average word,
    which neither dominates a caption nor drops out of it.

    Parameters
    ----------
    state : mapping of str to Tensor
        A state dict; one with a dense embedding comes back as it is.

    Returns
    -------
    dict of str to Tensor
        A state dict with a dense embedding.
    """
    state = dict(state)
    if TOKEN_EMBEDDING_ROWS not in state:
        return state
    rows = state.pop(TOKEN_EMBEDDING_ROWS).long()
    size = int(state.pop(TOKEN_EMBEDDING_SIZE))
    stored = state[TOKEN_EMBEDDING]
    if len(rows) != len(stored) or not 0 <= int(rows.min()) <= int(rows.max()) < size:
        raise ValueError(
            f"Expected {TOKEN_EMBEDDING_ROWS} to give each of the {len(stored)} stored embeddings "
            f"an identifier below {size}, got {len(rows)} identifiers from {int(rows.min())} to "
            f"{int(rows.max())}; the checkpoint is damaged."
        )
    dense = stored.mean(dim=0).repeat(size, 1)
    dense[rows] = stored
    state[TOKEN_EMBEDDING] = dense
    return state


def _load_tensors(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError) as error:
        if "weights_only" not in str(error):
            raise
    # torch would advise to set weights_only=False, which runs what the file says.
    raise ValueError(
        f"{path.name!r} is damaged, or holds more than tensors: that could run any code when it "
        "is loaded, so it is refused. If you trust it, load it once with the program that wrote "
        "it, and there save its tensors alone: torch.save(model.state_dict(), 'weights.pt')."
    )


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    """Find the state dict in what a torch file holds."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise ValueError(
            f"Expected {path.name!r} to hold a state dict (names and tensors), or one under the "
            f"key 'state_dict', got {type(loaded).__name__}; save model.state_dict()."
        )
    return dict(loaded)
