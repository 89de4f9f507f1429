"""CPL: several candidate labels for an image that the model is not sure of."""

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

from capkit._validation import UNLABELED
from capkit.baselines._self_trained import (
    PeerSelfTraining,
    SelfTrainedClassifier,
    begins_round,
)
from capkit.training.self_training import EpochPredictions, SelfTrainingState

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.training.callbacks import Callbacks
    from capkit.tuning import Tuning

__all__ = ["CPLClassifier", "candidate_labels", "candidate_loss"]


def candidate_labels(
    probabilities: np.ndarray, intra_quantile: float, inter_share: float
) -> np.ndarray:
    """Candidate labels of each image: those that both the image and the class choose.

    An image chooses its most probable classes until their probabilities add up to a threshold,
    which is the `intra_quantile` of all images' largest probabilities: one class where it is
    sure. A class chooses the images with the largest probability of it, as many as `inter_share`
    of an average class.

    Parameters
    ----------
    probabilities : ndarray of shape (n_images, n_classes)
    intra_quantile : float
        In [0, 1].
    inter_share : float
        In (0, n_classes].

    Returns
    -------
    ndarray of shape (n_images, n_classes), dtype bool
        A row without any is an image that does not train.

    Examples
    --------
    >>> import numpy as np
    >>> from capkit.baselines.cpl import candidate_labels
    >>> probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    >>> candidate_labels(probabilities, intra_quantile=0.5, inter_share=1.0)
    array([[ True, False],
           [ True, False],
           [False,  True],
           [False,  True]])
    """
    n_images, n_classes = probabilities.shape
    threshold = np.quantile(probabilities.max(axis=1), intra_quantile)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ordered = np.take_along_axis(probabilities, order, axis=1)
    before = np.zeros_like(ordered)  # not by subtraction: rounding would pass the threshold
    np.cumsum(ordered[:, :-1], axis=1, out=before[:, 1:])
    by_image = np.empty(probabilities.shape, dtype=bool)
    np.put_along_axis(by_image, order, before < threshold, axis=1)
    taken = min(n_images, max(1, round(inter_share * n_images / n_classes)))
    smallest = np.partition(probabilities, n_images - taken, axis=0)[n_images - taken]
    return by_image & (probabilities >= smallest)


def candidate_loss(logits: Tensor, candidates: Tensor) -> Tensor:
    """Negative logarithm of the probability that one of the candidates is right.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
    candidates : Tensor of shape (n_samples, n_classes), bool
        At least one in each row.

    Returns
    -------
    Tensor of shape (n_samples,)

    Examples
    --------
    >>> import torch
    >>> from capkit.baselines.cpl import candidate_loss
    >>> logits, candidates = torch.zeros(1, 4), torch.tensor([[True, True, False, False]])
    >>> print(f"{candidate_loss(logits, candidates).item():.4f}")
    0.6931
    """
    of_candidates = logits.masked_fill(~candidates, -torch.inf).logsumexp(dim=1)
    return logits.logsumexp(dim=1) - of_candidates


@dataclasses.dataclass(eq=False)
class CandidateState(SelfTrainingState):
    """State with candidate labels of the main samples.

    Parameters
    ----------
    candidates : ndarray of shape (n, C), bool
    """

    candidates: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0), bool))

    def main_targets(self, indices: np.ndarray) -> np.ndarray:
        """Candidates of these images, shape (B, C)."""
        return self.candidates[indices]


@dataclasses.dataclass(frozen=True, eq=False)
class CandidatePseudolabels(PeerSelfTraining):
    """Candidate labels of the images, chosen anew in every round.

    Parameters
    ----------
    rounds : int
    intra_quantile, inter_share : float
        See :func:`candidate_labels`.
    """

    rounds: int
    intra_quantile: float
    inter_share: float

    def start(self) -> CandidateState:
        """Choose the first round's by the frozen model."""
        n_classes = len(self.text_features)
        nothing = np.full(len(self.labels), UNLABELED, dtype=np.int64)
        state = CandidateState.before_training(nothing, n_classes)
        self._choose(state, self.zero_shot_logits())
        return state

    def wants_logits(self, epoch: int) -> bool:
        """Before each further round."""
        return begins_round(epoch, self.epochs, self.rounds)

    def losses(
        self, outputs: Mapping[str, Any], targets: Mapping[str, Tensor], margin: Tensor
    ) -> dict[str, Tensor]:
        """Cross entropy of labeled images; of the others that of any candidate being right."""
        parts = {name: value for name, value in outputs.items() if name != "main"}
        losses = super().losses(parts, targets, margin)
        return losses | {"main": candidate_loss(outputs["main"], targets["main"])}

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Note the epoch's numbers, and at the end of a round choose the next one's."""
        super().end_epoch(state, epoch)
        if epoch.logits is not None:
            assert isinstance(state, CandidateState)
            self._choose(state, epoch.logits)

    def _choose(self, state: CandidateState, logits: np.ndarray) -> None:
        probabilities = self.probabilities(logits)
        chosen = candidate_labels(probabilities, self.intra_quantile, self.inter_share)
        likeliest = np.where(chosen, probabilities, -1.0).argmax(axis=1)
        state.main_labels = self.for_all_images(np.where(chosen.any(axis=1), likeliest, UNLABELED))
        state.candidates = np.zeros(logits.shape, dtype=bool)
        state.candidates[np.ix_(self.unlabeled, self.classes)] = chosen


class CPLClassifier(SelfTrainedClassifier):
    """Train on several candidate labels for each image that the model is not sure of.

    CPL (candidate pseudolabel learning): round by round, each image is given the labels that both
    it and the class choose, see ``capkit.baselines.cpl.candidate_labels``, and the loss is
    that of one of them being right, ``-log(sum of their probabilities)``.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        How labels are used, see :class:`~capkit.CAPClassifier`.
    class_names : sequence of str or None, default=None
        Names of the classes; here or at :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the model, see :func:`~capkit.backbones.load_backbone`. This and the next are not
        looked at where a ConceptSpace is given.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded. None is a :class:`~capkit.CLIPEncoder` with its
        defaults.
    tuning : {"auto", "prompt", "adapter"} or Tuning, default="auto"
        What is trained, see :class:`~capkit.CAPClassifier`: prompts without adapters, or adapters
        alone.
    rounds : int, default=10
        How often candidates are chosen, evenly spread over the training.
    intra_quantile : float, default=0.6
        An image takes its most probable classes until their probabilities add up to this
        quantile of all images' largest probabilities, in [0, 1].
    inter_share : float, default=0.5
        Images that a class takes, as a share of the unlabeled images of an average class,
        above 0.
    checkpoint_dir : path or None, default=None
        Folder in which the state of the training is written after every epoch, see
        :class:`~capkit.CAPClassifier`.
    callbacks : sequence of skorch callbacks or None, default=None
        Objects that watch the training, see :class:`~capkit.CAPClassifier`.
    device : str, default="auto"
        ``"auto"`` is CUDA where there is a device, else Apple's GPU (MPS), else the CPU.
    n_devices : int, default=1
        Processes that train together.
    random_state : int, RandomState instance or None, default=None
        Fixes first weights, batches and views.
    verbose : int, default=0
        Above 0, progress bars are shown.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; names where there was none. The columns
        of :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order that was given.
    n_features_in_ : int
        Width ``d`` of the features.
    pseudo_labels_ : ndarray of shape (n_images,), dtype int64
        The likeliest candidate of each image, as an index into `class_names_`, -1 for the
        others.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Class features after training, unit rows, in the order of `class_names_`.
    history_ : list of dict
        Numbers of each epoch: ``loss`` and its parts, the ``learning_rate``, the number of
        pseudolabels of each class (``class_counts``) and their evenness (``class_balance``), and
        the number of main samples (``n_main``).
    paradigm_ : str
        Paradigm of the fit.
    tuning_ : Tuning
        What `tuning` stood for, with one branch.
    seed_ : int
        What `random_state` stood for.
    backbone_name_ : str or None
        Name of the backbone behind the features; None where they were given without.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.

    See Also
    --------
    GRIPClassifier : One label an image.

    Notes
    -----
    From the paper's description, not from its code. Recalled, and not checked against it, are how
    the two thresholds are set: the paper has a quantile of each class's probabilities (0.99) in
    place of `inter_share`, which for about fifty classes is a share of a half, and would leave an
    average class of ten a tenth of its images. Of the losses that the paper allows this is the
    simplest. The paper trains anew in every round; here the weights and the learning rate go on,
    as in :class:`GRIPClassifier`.

    References
    ----------
    Zhang, Wei, Liu and Feng, "Candidate Pseudolabel Learning: Enhancing Vision-Language Models by
    Prompt Tuning with Unlabeled Data", ICML 2024, :arxiv:`2406.10502`.

    Examples
    --------
    >>> from capkit.baselines import CPLClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = CPLClassifier(backbone="glyph", tuning="adapter", random_state=0)
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.1f}")
    0.9
    """

    _parameter_constraints: ClassVar[dict] = {
        **SelfTrainedClassifier._parameter_constraints,
        "rounds": [Interval(Integral, 1, None, closed="left")],
        "intra_quantile": [Interval(Real, 0, 1, closed="both")],
        "inter_share": [Interval(Real, 0, None, closed="neither")],
    }
    _own_parameters: ClassVar[tuple[str, ...]] = ("rounds", "intra_quantile", "inter_share")

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        tuning: Tuning | str = "auto",
        rounds: int = 10,
        intra_quantile: float = 0.6,
        inter_share: float = 0.5,
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
        self.rounds = rounds
        self.intra_quantile = intra_quantile
        self.inter_share = inter_share
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.device = device
        self.n_devices = n_devices
        self.random_state = random_state
        self.verbose = verbose

    def _choose_self_training(self, **fields: Any) -> CandidatePseudolabels:
        own = {name: getattr(self, name) for name in self._own_parameters}
        return CandidatePseudolabels(**fields, **own)
