"""Resolving the parameter ``tuning=`` to a tuning object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from sklearn.base import clone

from capkit.backbones.prompting import find_text_tower, find_visual_tower
from capkit.exceptions import UnsupportedBackboneError
from capkit.space import ConceptSpace
from capkit.tuning.adapter import AdapterTuning
from capkit.tuning.base import Tuning
from capkit.tuning.prompt import PromptTuning

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["TUNINGS", "candidate_tunings", "choose_tuning"]

logger = logging.getLogger(__name__)

#: Tuning strategies by name.
TUNINGS: Mapping[str, type[Tuning]] = {
    tuning.name: tuning for tuning in (PromptTuning, AdapterTuning)
}

# With up to this many model parameters, prompts train in minutes on a CPU: the embedded model has
# 2 million; ViT-B/32 has 151 million and takes hours.
_SMALL_MODEL = 10_000_000


def candidate_tunings(tuning: Tuning | str) -> list[Tuning]:
    """Tuning objects that a parameter may resolve to.

    Parameters
    ----------
    tuning : Tuning, "auto", or a name in :data:`TUNINGS`

    Returns
    -------
    list of Tuning
        Copies; all of them for "auto", otherwise one.
    """
    if isinstance(tuning, Tuning):
        return [clone(tuning)]
    return [cls() for name, cls in TUNINGS.items() if tuning in (name, "auto")]


def choose_tuning(
    tuning: Tuning | str,
    space: ConceptSpace,
    device: torch.device,
    backbone: Callable[[], Backbone],
) -> Tuning:
    """Resolve a parameter to a tuning object; "auto" depends on the device and the model.

    "auto" means prompts, as in the paper, if they can be trained in reasonable time: on a GPU, or
    with a small model. Otherwise, or if the model does not support prompts, it means adapters.

    Parameters
    ----------
    tuning : Tuning, "auto", or a name in :data:`TUNINGS`
    space : ConceptSpace
        The training data.
    device : torch.device
        Device for the training.
    backbone : callable
        Loads the frozen model behind the space.

    Returns
    -------
    Tuning
    """
    if tuning != "auto":
        return candidate_tunings(tuning)[0]
    prompts = PromptTuning()
    try:
        prompts.check_images(space)
        model = backbone().model
        find_visual_tower(model), find_text_tower(model)
    except (ValueError, UnsupportedBackboneError) as error:
        logger.info("tuning='auto': adapters are trained, as prompts cannot be: %s", error)
        return AdapterTuning()
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    if device.type == "cpu" and n_parameters > _SMALL_MODEL:
        logger.info(
            "tuning='auto': adapters are trained, as prompts in a model of %.0f million "
            "parameters take hours without a GPU",
            n_parameters / 1e6,
        )
        return AdapterTuning()
    logger.info("tuning='auto': prompts are trained, on %s", device)
    return prompts
