"""What the trained peers share: everything except the choice of images and their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional as F

from capkit._validation import UNLABELED
from capkit.adapted import AdaptedModel
from capkit.pseudolabels import class_balance, top_k_pseudo_labels
from capkit.space import ConceptSpace
from capkit.trained_classifier import TrainedClassifier
from capkit.training.self_training import EpochPredictions, SelfTraining, SelfTrainingState
from capkit.tuning import Tuning

__all__ = [
    "PeerSelfTraining",
    "SelfTrainedClassifier",
    "begins_round",
    "round_of_epoch",
    "top_k_of_each_class",
]


def top_k_of_each_class(probabilities: np.ndarray, k: int) -> np.ndarray:
    """Give each class its most probable images, whatever these are predicted as.

    An image that several classes claim goes to the most probable of them; the others continue down
    their own lists.

    Parameters
    ----------
    probabilities : ndarray of shape (n_images, n_classes)
    k : int
        Largest number of images of a class.

    Returns
    -------
    ndarray of shape (n_images,), dtype int64
        -1 for images that no class takes.
    """
    every_class = np.arange(probabilities.shape[1])
    return top_k_pseudo_labels(probabilities, k, probabilities, every_class)


def round_of_epoch(epoch: int, epochs: int, rounds: int) -> int:
    """Round, from 1, that the next epoch belongs to, when all rounds are equally long.

    Parameters
    ----------
    epoch : int
        Epochs done, less than `epochs`.
    epochs : int
    rounds : int

    Returns
    -------
    int
    """
    return epoch * rounds // epochs + 1


def begins_round(epoch: int, epochs: int, rounds: int) -> bool:
    """Whether another round begins after an epoch.

    Parameters
    ----------
    epoch : int
        Epochs done, from 1.
    epochs : int
    rounds : int

    Returns
    -------
    bool
        False after the last epoch.
    """
    number = round_of_epoch(epoch, epochs, rounds)
    return epoch < epochs and number > round_of_epoch(epoch - 1, epochs, rounds)


@dataclasses.dataclass(frozen=True, eq=False)
class PeerSelfTraining(SelfTraining):
    """Cross entropy on labeled images and main samples, which a subclass chooses.

    Parameters
    ----------
    image_features : ndarray of shape (n, d)
        Of the frozen backbone, unit rows.
    text_features : ndarray of shape (C, d)
        Unit rows.
    logit_scale : float
    labels : ndarray of shape (n,), int64
        -1 where unlabeled. Only unlabeled images get pseudolabels.
    seen : ndarray of int
        Classes that no unlabeled image belongs to (``trzsl``); empty in the other paradigms.
    epochs : int
        Of the whole training.
    """

    views: ClassVar[tuple[str, ...]] = ()

    image_features: np.ndarray
    text_features: np.ndarray
    logit_scale: float
    labels: np.ndarray
    seen: np.ndarray
    epochs: int

    @property
    def unlabeled(self) -> np.ndarray:
        """Indices of the unlabeled images."""
        return np.flatnonzero(self.labels == UNLABELED)

    @property
    def classes(self) -> np.ndarray:
        """Classes that unlabeled images may belong to, ascending."""
        return np.setdiff1d(np.arange(len(self.text_features)), self.seen)

    def zero_shot_logits(self) -> np.ndarray:
        """Logits (n, C) of the frozen model."""
        return self.logit_scale * self.image_features @ self.text_features.T

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of the unlabeled images, over the classes that they may belong to.

        Parameters
        ----------
        logits : ndarray of shape (n, C)
            Of all images and classes.

        Returns
        -------
        ndarray of shape (n_unlabeled, n_unseen)
        """
        return softmax(logits[np.ix_(self.unlabeled, self.classes)], axis=1)

    def for_all_images(self, chosen: np.ndarray) -> np.ndarray:
        """Labels (n,) from positions in `classes` of the unlabeled images, (n_unlabeled,)."""
        labels = np.full(len(self.labels), UNLABELED, dtype=np.int64)
        labels[self.unlabeled] = np.where(chosen == UNLABELED, UNLABELED, self.classes[chosen])
        return labels

    def losses(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Tensor], margin: Tensor
    ) -> dict[str, Tensor]:
        """Cross entropy of the labeled images and main samples."""
        return {
            name: F.cross_entropy(outputs[name], targets[name], reduction="none")
            for name in ("labeled", "main")
            if name in outputs
        }

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Note the epoch's numbers; the main samples stay."""
        losses = {f"{name}_loss": value for name, value in epoch.losses.items()}
        labels = self.pseudo_labels(state)
        counts = np.bincount(labels[labels >= 0], minlength=len(self.text_features))
        state.epoch += 1
        state.history.append(
            {
                "epoch": state.epoch,
                "loss": sum(epoch.losses.values()),
                **losses,
                "learning_rate": epoch.learning_rate,
                "class_counts": counts.tolist(),
                "class_balance": class_balance(counts[self.classes]),
                "n_main": int((state.main_labels >= 0).sum()),
            }
        )

    def pseudo_labels(self, state: SelfTrainingState) -> np.ndarray:
        """The labels (n,) that unlabeled images train with; -1 for the others."""
        return state.main_labels


class SelfTrainedClassifier(TrainedClassifier):
    """Base class of the trained peers: CAP's tuning, other pseudolabels, no margin, one branch.

    With prompt tuning only the prompts are trained, as in the peers' papers. With adapter tuning
    there are only the adapters, and strong views train the adapter that assigns the pseudolabels.

    A subclass implements ``_choose_self_training``, and its ``_own_parameters`` names the
    constructor parameters that affect training.
    """

    _own_parameters: ClassVar[tuple[str, ...]] = ()

    pseudo_labels_: np.ndarray
    history_: list[dict[str, Any]]
    text_features_: np.ndarray

    def _choose_self_training(self, **fields: Any) -> PeerSelfTraining:
        """Put the peer's self-training together from the fields that all have."""
        raise NotImplementedError

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        self.paradigm_, self.seed_ = self.paradigm, self._choose_seed(space, labels)
        self.tuning_ = tuning = _with_one_branch(self._choose_tuning(space))
        of_labels = np.unique(labels[labels != UNLABELED])
        self_training = self._choose_self_training(
            image_features=space.image_features,
            text_features=space.text_features,
            logit_scale=space.logit_scale,
            labels=labels,
            seen=of_labels if self.paradigm == "trzsl" else of_labels[:0],
            epochs=tuning.epochs,
        )
        settings = {"method": type(self).__name__}
        settings |= {name: getattr(self, name) for name in self._own_parameters}
        state, module = self._train(space, labels, tuning, self_training, settings)
        self._model = AdaptedModel.from_training(space, None, module, tuning)
        self.text_features_ = self._model.trained_text_features()
        self.pseudo_labels_ = self_training.pseudo_labels(state)
        self.history_ = state.history

    def _inference(self) -> str:
        return self.tuning_.inference_modes[0]  # prompts alone, or the main adapters


def _with_one_branch(tuning: Tuning) -> Tuning:
    weight = 0.0 if tuning.trains_encoder else tuning.adapter_weight
    return tuning.set_params(pseudo_adapter=False, adapter_weight=weight)
