"""How a training runs: every number of it, with the defaults of both ways of tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["DEFAULTS", "INFERENCE_MODES", "TrainingConfig", "default_inference"]

INFERENCE_MODES = ("prompts", "main", "pseudo", "ensemble")

#: What None stands for. "prompt" is the paper's (section 3 of the method and its appendix);
#: "adapter" was found by experiment on the training parts of the embedded data sets.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "prompt": {
        "augment": "crop_flip",
        "adapter_dim": 128,
        "adapter_weight": 0.01,
        "epochs": 50,
        "steps_per_epoch": 50,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "weight_decay": 0.1,
    },
    "adapter": {
        "augment": 0.5,
        "adapter_dim": 64,
        "adapter_weight": 0.5,
        "epochs": 20,
        "steps_per_epoch": 30,
        "optimizer": "adamw",
        "learning_rate": 0.002,
        "weight_decay": 0.1,
    },
}


def default_inference(paradigm: str, tuning: str) -> str:
    """With which parts to predict where the user leaves it open.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}
    tuning : {"prompt", "adapter"}

    Returns
    -------
    str
        One of :data:`INFERENCE_MODES`. "prompts" is the paper's. Adapters trained alone have to
        be on; in ``trzsl`` the pseudo branch has seen no image of a labeled class, so the main
        branch predicts without it.
    """
    if tuning == "prompt":
        return "prompts"
    return "main" if paradigm == "trzsl" else "ensemble"


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of one training, complete: nothing is None.

    The fields are parameters of :class:`~capkit.CAPClassifier` and are documented there.
    """

    paradigm: str
    tuning: str
    prompt_length: int
    prompt_depth: int
    prompt_init: str
    adapter_dim: int
    adapter_weight: float
    augment: Any
    epochs: int
    steps_per_epoch: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_epochs: int
    renew_every: int
    top_k: int
    growth: float
    main_share: float
    main_limit: int
    seed: int

    @classmethod
    def resolve(cls, parameters: Mapping[str, Any], seed: int) -> TrainingConfig:
        """Take the fields from an estimator's parameters and fill in what is None.

        Parameters
        ----------
        parameters : mapping of str to object
            Has every field but `seed`; other keys are left alone.
        seed : int

        Returns
        -------
        TrainingConfig
        """
        defaults = DEFAULTS[parameters["tuning"]]
        given = {
            field.name: parameters[field.name]
            for field in dataclasses.fields(cls)
            if field.name != "seed"
        }
        for name, value in given.items():
            if value is None:
                given[name] = defaults[name]
        return cls(**given, seed=seed)

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def fingerprint(self) -> dict[str, Any]:
        """Every field as a value of JSON, to compare two trainings by."""
        values = dataclasses.asdict(self)
        if callable(self.augment):
            values["augment"] = repr(self.augment)
        return values
