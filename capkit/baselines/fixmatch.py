"""FixMatch: the weak view's confident predictions label the strong view."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor
from torch.nn import functional as F

from capkit._validation import UNLABELED
from capkit.baselines._self_trained import (
    PeerSelfTraining,
    SelfTrainedClassifier,
    top_k_of_each_class,
)
from capkit.training.self_training import EpochPredictions, PseudoLabels, SelfTrainingState

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.training.callbacks import Callbacks
    from capkit.tuning import Tuning

__all__ = ["FixMatchClassifier"]


@dataclasses.dataclass(frozen=True, eq=False)
class ConfidentWeakViews(PeerSelfTraining):
    """Pseudolabels assigned in every step, and main samples for classes without labeled images.

    Parameters
    ----------
    tau : float
        Confidence above which the strong view is trained on.
    top_k : int
        Number of main samples for a class without labeled images.
    """

    views: ClassVar[tuple[str, ...]] = ("weak", "strong")

    tau: float
    top_k: int

    def start(self) -> SelfTrainingState:
        """Choose the main samples that replace missing labeled images, once."""
        probabilities = self.probabilities(self.zero_shot_logits())
        chosen = self.for_all_images(top_k_of_each_class(probabilities, self.top_k))
        chosen[np.isin(chosen, self.labels[self.labels != UNLABELED])] = UNLABELED
        return SelfTrainingState.before_training(chosen, len(self.text_features))

    def pseudo_label(self, weak_logits: Tensor, indices: Tensor) -> PseudoLabels:
        """Most probable class that unlabeled images may belong to; kept above `tau`."""
        classes = torch.from_numpy(self.classes).to(weak_logits.device)
        confidence, position = weak_logits[:, classes].softmax(dim=1).max(dim=1)
        return PseudoLabels(classes[position], confidence, confidence > self.tau)

    def losses(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Tensor], margin: Tensor
    ) -> dict[str, Tensor]:
        """Cross entropy; for strong views against the labels from the weak views."""
        pseudo = outputs["pseudo"]
        strong = F.cross_entropy(outputs["strong"], pseudo.labels[pseudo.kept], reduction="none")
        return super().losses(outputs, targets, margin) | {"pseudo": strong}

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Note the epoch's numbers and predictions."""
        state.pseudo_labels[epoch.indices] = epoch.labels
        state.confidence[epoch.indices] = epoch.confidence
        super().end_epoch(state, epoch)
        state.history[-1]["kept"] = float((epoch.confidence > self.tau).mean())

    def pseudo_labels(self, state: SelfTrainingState) -> np.ndarray:
        """The last confident predictions (n,) of the weak views; -1 for the other images."""
        return np.where(state.confidence > self.tau, state.pseudo_labels, UNLABELED)


class FixMatchClassifier(SelfTrainedClassifier):
    """Train strong views on the confident predictions for weak views of the same images.

    FixMatch: in every step, classes are predicted from weak views of unlabeled images, without
    gradient. If the probability is above `tau`, the strong view is trained on that class. Labeled
    images are trained on as well.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        How labels are used, see :class:`~capkit.CAPClassifier`.
    class_names : sequence of str or None, default=None
        Names of the classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next are
        ignored if a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded. None means a :class:`~capkit.CLIPEncoder` with its
        defaults.
    tuning : {"auto", "prompt", "adapter"} or Tuning, default="auto"
        What is trained, see :class:`~capkit.CAPClassifier`: prompts without adapters, or only
        adapters.
    tau : float, default=0.95
        Probability above which a pseudolabel is used for training, in [0, 1].
    top_k : int, default=16
        Number of images that replace the labeled images of a class that has none; 0 for none.
    checkpoint_dir : path or None, default=None
        Folder in which the training state is saved after every epoch, see
        :class:`~capkit.CAPClassifier`.
    callbacks : sequence of skorch callbacks or None, default=None
        Objects that observe the training, see :class:`~capkit.CAPClassifier`.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    n_devices : int, default=1
        Number of processes that train together.
    random_state : int, RandomState instance or None, default=None
        Determines initial weights, batches and views.
    verbose : int, default=0
        Above 0, progress bars are shown.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; names if there was no `y`. The columns of
        :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order in which they were given.
    n_features_in_ : int
        Width ``d`` of the features.
    pseudo_labels_ : ndarray of shape (n_images,), dtype int64
        Class last predicted for the image in training, as an index into `class_names_`; -1 if its
        probability was not above `tau`.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Class features after training, unit rows, in the order of `class_names_`.
    history_ : list of dict
        Numbers for each epoch: ``loss`` and its parts, the ``learning_rate``, the number of
        pseudolabels for each class (``class_counts``) and their evenness (``class_balance``), the
        share of strong views ``kept``, and the number of main samples (``n_main``).
    paradigm_ : str
        Paradigm of the fit.
    tuning_ : Tuning
        The tuning object that `tuning` resolved to, with one branch.
    seed_ : int
        The seed that `random_state` resolved to.
    backbone_name_ : str or None
        Name of the backbone that made the features; None if they were given without one.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.

    See Also
    --------
    capkit.CAPClassifier : The same, with main samples, a margin, and a separate adapter for strong
        views.

    Notes
    -----
    The paper trains a network from scratch, with labeled images of every class, seven times as
    many unlabeled images in a batch, and RandAugment. Here training starts from the pretrained
    model. For a class without labeled images, its `top_k` most probable images replace them,
    chosen as in :class:`FPLClassifier`; without this, all images end up in a few classes. The
    strong view, the batches and the schedule are those of `tuning`, as for CAP.

    References
    ----------
    Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence",
    NeurIPS 2020, :arxiv:`2001.07685`.

    Examples
    --------
    >>> from capkit.baselines import FixMatchClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = FixMatchClassifier(backbone="glyph", tuning="adapter", random_state=0)
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.1f}")
    0.9
    """

    _parameter_constraints: ClassVar[dict] = {
        **SelfTrainedClassifier._parameter_constraints,
        "tau": [Interval(Real, 0, 1, closed="both")],
        "top_k": [Interval(Integral, 0, None, closed="left")],
    }
    _own_parameters: ClassVar[tuple[str, ...]] = ("tau", "top_k")

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        tuning: Tuning | str = "auto",
        tau: float = 0.95,
        top_k: int = 16,
        checkpoint_dir: str | os.PathLike | None = None,
        callbacks: Callbacks | None = None,
        device: str = "auto",
        n_devices: int = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.paradigm = paradigm
        self.class_names = class_names
        self.backbone = backbone
        self.encoder = encoder
        self.tuning = tuning
        self.tau = tau
        self.top_k = top_k
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.device = device
        self.n_devices = n_devices
        self.random_state = random_state
        self.verbose = verbose

    def _choose_self_training(self, **fields: Any) -> ConfidentWeakViews:
        return ConfidentWeakViews(**fields, tau=self.tau, top_k=self.top_k)
