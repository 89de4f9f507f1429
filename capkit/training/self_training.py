"""Which images train, with which labels: the one home of pseudolabels.

:class:`SelfTraining` is what a training asks; :class:`CAPSelfTraining` answers as the method says.
Another method of self-training is another subclass: it may fix the first choice (no renewal),
grow it round by round, keep no strong view, or give each image several candidate labels.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from capkit._validation import UNLABELED
from capkit.margins import class_counts_above, margin_cross_entropy
from capkit.pseudolabels import (
    class_balance,
    main_sample_target,
    renew_main_samples,
    top_k_pseudo_labels,
)

if TYPE_CHECKING:
    from capkit.gaussians import GaussianPrior

__all__ = [
    "CAPSelfTraining",
    "EpochPredictions",
    "PseudoLabels",
    "SelfTraining",
    "SelfTrainingState",
]


_State = TypeVar("_State", bound="SelfTrainingState")


class PseudoLabels(NamedTuple):
    """What the weak view of a batch says of the strong one.

    Attributes
    ----------
    labels : Tensor of shape (B,), int64
        Class of each image.
    confidence : Tensor of shape (B,), float32
        Its probability.
    kept : Tensor of shape (B,), bool
        Whether the strong view trains on it.
    """

    labels: Tensor
    confidence: Tensor
    kept: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class EpochPredictions:
    """Weak-view predictions and losses of one epoch, over all processes.

    Parameters
    ----------
    indices : ndarray of shape (n_drawn,), int64
        The unlabeled images in the order in which they were drawn; none where no view is.
    labels : ndarray of shape (n_drawn,), int64
    confidence : ndarray of shape (n_drawn,), float32
    losses : dict of str to float
        Mean of each part of the loss over the steps.
    learning_rate : float
        Of the last step.
    logits : ndarray of shape (n, C), float32, or None, default=None
        Of every unlabeled image, by the model as it is after the epoch; the other rows are
        zero. Where :meth:`SelfTraining.wants_logits` asks for them.
    """

    indices: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    losses: dict[str, float]
    learning_rate: float
    logits: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class SelfTrainingState:
    """What a training knows between two epochs; changed at the end of every epoch.

    Every field that is an array goes into checkpoints.

    Parameters
    ----------
    main_labels : ndarray of shape (n,), int64
        Pseudolabel of each main sample, the unlabeled images that train the main branch; -1 for
        the other images.
    margin_matrix : ndarray of shape (C, C), float32
        Margin of the epoch that comes.
    pseudo_labels : ndarray of shape (n,), int64
        Last weak-view prediction of each image, -1 where there is none.
    confidence : ndarray of shape (n,), float32
        Its probability.
    epoch : int, default=0
        Epochs completed.
    history : list of dict
        One row of numbers for each completed epoch.
    """

    main_labels: np.ndarray
    margin_matrix: np.ndarray
    pseudo_labels: np.ndarray
    confidence: np.ndarray
    epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def before_training(cls: type[_State], main_labels: np.ndarray, n_classes: int) -> _State:
        """State before the first epoch: main samples, no margin, no predictions."""
        return cls(
            main_labels=main_labels,
            margin_matrix=np.zeros((n_classes, n_classes), dtype=np.float32),
            pseudo_labels=np.full(len(main_labels), UNLABELED, dtype=np.int64),
            confidence=np.zeros(len(main_labels), dtype=np.float32),
        )

    def main_targets(self, indices: np.ndarray) -> np.ndarray:
        """What the main branch learns for these images: their class, shape (B,)."""
        return self.main_labels[indices]


class SelfTraining(abc.ABC):
    """What a training asks about its labels; picklable, so that other processes can ask too.

    Attributes
    ----------
    views : tuple of str
        Views of unlabeled images that each step draws: both, the weak one alone, or none.
    """

    views: ClassVar[tuple[str, ...]] = ("weak", "strong")

    @abc.abstractmethod
    def start(self) -> SelfTrainingState:
        """Choose the first main samples.

        Returns
        -------
        SelfTrainingState
            The same in every call. Without main samples that stream is left out.
        """

    def pseudo_label(self, weak_logits: Tensor, indices: Tensor) -> PseudoLabels:
        """Label a batch by its weak view, where that is drawn.

        Parameters
        ----------
        weak_logits : Tensor of shape (B, C)
            Without gradient.
        indices : Tensor of shape (B,), int64
            Which images these are.

        Returns
        -------
        PseudoLabels
            Strong views that are not kept are not encoded.
        """
        raise NotImplementedError

    def wants_logits(self, epoch: int) -> bool:
        """Whether all unlabeled images are to be predicted at the end of an epoch.

        Parameters
        ----------
        epoch : int
            Epochs done with this one, from 1.

        Returns
        -------
        bool
            By default never.
        """
        return False

    @abc.abstractmethod
    def losses(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Tensor], margin: Tensor
    ) -> dict[str, Tensor]:
        """Loss of each sample of each stream; the training adds the streams' means.

        Parameters
        ----------
        outputs : mapping of str
            Logits ``"labeled"`` (where there are labels) and ``"main"`` (where there are main
            samples), of shape (B, C); ``"strong"`` of the kept images, (n_kept, C); and
            ``"pseudo"``, the :class:`PseudoLabels` of the whole batch.
        targets : mapping of str to Tensor
            ``"labeled"``, classes of shape (B,), and ``"main"``, what the state's
            ``main_targets`` gives.
        margin : Tensor of shape (C, C)
            The state's margin matrix, on the device of the logits.

        Returns
        -------
        dict of str to Tensor of shape (n_samples,)
            By the name of the stream; ``n_samples`` may be 0.
        """

    @abc.abstractmethod
    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Learn from an epoch: append to the history, change margin and main samples.

        Parameters
        ----------
        state : SelfTrainingState
            Changed.
        epoch : EpochPredictions
        """


class _Calibrator(Protocol):
    """What is needed of a MarginCalibrator."""

    margin_matrix_: np.ndarray

    def fit_from_predictions(
        self, image_features, text_features, labels, confidence, seen, proportions
    ): ...


@dataclasses.dataclass(frozen=True, eq=False)
class CAPSelfTraining(SelfTraining):
    """Self-training as the method has it (sections 1 to 3).

    Parameters
    ----------
    image_features : ndarray of shape (n, d)
        ``Z``, of the frozen backbone, unit rows.
    text_features : ndarray of shape (C, d)
        ``W``, as aligned, unit rows.
    logit_scale : float
        ``s``.
    labels : ndarray of shape (n,), int64
        -1 where unlabeled. Only unlabeled images get pseudolabels.
    seen : ndarray of int
        Classes that no unlabeled image belongs to (``trzsl``); empty in the other paradigms.
    aligned : ndarray of int
        Classes whose text feature was replaced.
    tau : float
        Confidence above which a pseudolabel trains and counts.
    calibrator : MarginCalibrator
        Refitted on every epoch's predictions.
    top_k : int
        ``k``, main samples that a class starts with.
    epochs : int
        Of the whole training.
    renew_every : int or None
        Epochs between two renewals of the main samples; None keeps the first ones.
    ramp_fraction : float
        Share of the epochs after which a class has its largest number of main samples.
    max_share : float
        That largest number, as a share of the unlabeled images of an average class ...
    max_per_class : int
        ... and at most this.
    prior : GaussianPrior or None, default=None
        What other images say of each one, added to its weak view's logits. None is the paper.
    proportions : ndarray of shape (C,) or None, default=None
        How frequent the classes are, relative to equal ones: numbers of main samples and the
        margin's tendency are measured against them. None is equally (the paper).
    """

    image_features: np.ndarray
    text_features: np.ndarray
    logit_scale: float
    labels: np.ndarray
    seen: np.ndarray
    aligned: np.ndarray
    tau: float
    calibrator: _Calibrator
    top_k: int
    epochs: int
    renew_every: int | None
    ramp_fraction: float
    max_share: float
    max_per_class: int
    prior: GaussianPrior | None = None
    proportions: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        """Number of all classes ``C``."""
        return len(self.text_features)

    @property
    def unseen(self) -> np.ndarray:
        """Classes that unlabeled images may belong to, ascending."""
        return np.setdiff1d(np.arange(self.n_classes), self.seen)

    # -- the answers

    def start(self) -> SelfTrainingState:
        """Choose ``D_PL`` (section 1): the images that each class is surest of."""
        unlabeled, unseen = np.flatnonzero(self.labels == UNLABELED), self.unseen
        similarities = self.image_features[unlabeled] @ self.text_features[unseen].T
        logits, aligned = self.logit_scale * similarities, np.isin(unseen, self.aligned)
        if self.prior is not None:
            logits = self.prior(self.image_features[unlabeled])[:, unseen]
            aligned[:] = False  # they are predicted like any other class
        chosen = top_k_pseudo_labels(
            softmax(logits, axis=1),
            self._for_each_class(self.top_k)[unseen],
            similarities,
            np.flatnonzero(aligned),
        )
        main_labels = np.full(len(self.labels), UNLABELED, dtype=np.int64)
        main_labels[unlabeled] = np.where(chosen == UNLABELED, UNLABELED, self.unseen[chosen])
        return SelfTrainingState.before_training(main_labels, self.n_classes)

    def pseudo_label(self, weak_logits: Tensor, indices: Tensor) -> PseudoLabels:
        """Most probable class; the strong view trains on it above `tau` (section 3).

        In ``trzsl`` the probabilities are over the unseen classes alone.
        """
        if self.prior is not None:
            frozen = self.image_features[indices.cpu().numpy()]
            posterior = self.prior(frozen, weak_logits.cpu().numpy())
            weak_logits = torch.from_numpy(posterior).to(weak_logits.device)
        if not len(self.seen):
            confidence, labels = weak_logits.softmax(dim=1).max(dim=1)
        else:
            classes = torch.from_numpy(self.unseen).to(weak_logits.device)
            confidence, position = weak_logits[:, classes].softmax(dim=1).max(dim=1)
            labels = classes[position]
        return PseudoLabels(labels, confidence, confidence > self.tau)

    def losses(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Tensor], margin: Tensor
    ) -> dict[str, Tensor]:
        """``L_m`` of every stream (sections 2 and 3)."""
        losses = {
            name: margin_cross_entropy(outputs[name], targets[name], margin)
            for name in ("labeled", "main")
            if name in outputs
        }
        pseudo = outputs["pseudo"]
        strong = margin_cross_entropy(outputs["strong"], pseudo.labels[pseudo.kept], margin)
        return losses | {"pseudo": strong}

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Note the epoch's numbers, refit the margin, and every few epochs renew main samples."""
        labels, confidence = self._predictions_by_image(epoch)
        drawn = labels != UNLABELED
        state.pseudo_labels[drawn] = labels[drawn]
        state.confidence[drawn] = confidence[drawn]
        state.history.append(self._history_row(state, epoch, labels, confidence))
        state.epoch += 1
        self._fit_margin(state, labels, confidence)
        if self.renew_every is not None and state.epoch % self.renew_every == 0:
            target = self._for_each_class(self._main_sample_target(state.epoch))
            state.main_labels = renew_main_samples(state.main_labels, labels, confidence, target)

    def label_untrained(self, state: SelfTrainingState) -> None:
        """Label the images, and fit the margin, by what is known without any training.

        Parameters
        ----------
        state : SelfTrainingState
            Changed: its labels, their confidence and the margin.
        """
        unlabeled = np.flatnonzero(self.labels == UNLABELED)
        logits = self.logit_scale * self.image_features[unlabeled] @ self.text_features.T
        pseudo = self.pseudo_label(torch.from_numpy(logits), torch.from_numpy(unlabeled))
        state.pseudo_labels[unlabeled] = pseudo.labels.numpy()
        state.confidence[unlabeled] = pseudo.confidence.numpy()
        self._fit_margin(state, state.pseudo_labels, state.confidence)

    # -- parts of them

    def _fit_margin(
        self, state: SelfTrainingState, labels: np.ndarray, confidence: np.ndarray
    ) -> None:
        self.calibrator.fit_from_predictions(
            self.image_features,
            self.text_features,
            labels,
            confidence,
            seen=self.seen,
            proportions=self.proportions,
        )
        state.margin_matrix = np.asarray(self.calibrator.margin_matrix_, dtype=np.float32)

    def _predictions_by_image(self, epoch: EpochPredictions) -> tuple[np.ndarray, np.ndarray]:
        """The last prediction of each image that the epoch drew, -1 for the others."""
        labels = np.full(len(self.labels), UNLABELED, dtype=np.int64)
        confidence = np.zeros(len(self.labels), dtype=np.float32)
        labels[epoch.indices] = epoch.labels
        confidence[epoch.indices] = epoch.confidence
        return labels, confidence

    def _for_each_class(self, n_images: int) -> np.ndarray:
        """A number of images of an average class, as one for each class, at least 1."""
        if self.proportions is None:
            return np.full(self.n_classes, n_images)
        return np.maximum(np.rint(n_images * self.proportions), min(1, n_images)).astype(np.int64)

    def _main_sample_target(self, epoch: int) -> int:
        return main_sample_target(
            epoch,
            self.epochs,
            self.top_k,
            n_unlabeled=int((self.labels == UNLABELED).sum()),
            n_classes=len(self.unseen),
            ramp_fraction=self.ramp_fraction,
            max_share=self.max_share,
            max_per_class=self.max_per_class,
        )

    def _history_row(
        self,
        state: SelfTrainingState,
        epoch: EpochPredictions,
        labels: np.ndarray,
        confidence: np.ndarray,
    ) -> dict[str, Any]:
        counts = class_counts_above(labels, confidence, self.tau, self.n_classes)
        margin = state.margin_matrix
        off_diagonal = margin[~np.eye(len(margin), dtype=bool)]
        losses = {f"{name}_loss": value for name, value in epoch.losses.items()}
        return {
            "epoch": state.epoch + 1,
            "loss": sum(epoch.losses.values()),
            **losses,
            "learning_rate": epoch.learning_rate,
            "kept": float((epoch.confidence > self.tau).mean()),
            "class_counts": counts.tolist(),
            "class_balance": class_balance(np.delete(counts, self.seen)),
            "n_main": int((state.main_labels != UNLABELED).sum()),
            "margin_mean": float(off_diagonal.mean()),
            "margin_max": float(off_diagonal.max()),
        }
