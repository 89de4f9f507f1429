"""CPL: several candidate labels for an image that the model is uncertain about."""

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

    An image chooses its most probable classes until their probabilities add up to a threshold, the
    `intra_quantile` of the largest probabilities of all images; a confident image chooses only
    one. A class chooses the images with the largest probability of this class; their number is
    `inter_share` of the size of an average class.

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
        Images with an empty row are not trained on.

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
    """Negative log probability that one of the candidates is right.

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
    """Candidate labels of the images, chosen again in every round.

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
        """Choose the pseudolabels of the first round with the frozen model."""
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
        """Cross entropy for labeled images; :func:`candidate_loss` for the main samples."""
        parts = {name: value for name, value in outputs.items() if name != "main"}
        losses = super().losses(parts, targets, margin)
        return losses | {"main": candidate_loss(outputs["main"], targets["main"])}

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Record the epoch's numbers; at the end of a round choose the next pseudolabels."""
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
    """Train on several candidate labels for each image that the model is uncertain about.

    CPL (candidate pseudolabel learning): in each round, an image gets the labels that both the
    image and the class choose, see ``capkit.baselines.cpl.candidate_labels``. The loss is
    ``-log(sum of their probabilities)``, the negative log probability that one of them is right.

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
    rounds : int, default=10
        How often candidates are chosen, at equal intervals over the training.
    intra_quantile : float, default=0.6
        An image takes its most probable classes until their probabilities add up to this
        quantile of all images' largest probabilities, in [0, 1].
    inter_share : float, default=0.5
        Number of images that a class takes, as a fraction of the unlabeled images of an average
        class, above 0.
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
        The most probable candidate of each image, as an index into `class_names_`; -1 for images
        without candidates.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Class features after training, unit rows, in the order of `class_names_`.
    history_ : list of dict
        Numbers for each epoch: ``loss`` and its parts, the ``learning_rate``, the number of
        pseudolabels for each class (``class_counts``) and their evenness (``class_balance``), and
        the number of main samples (``n_main``).
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
    GRIPClassifier : One label per image.

    Notes
    -----
    Implemented from the paper's description, not from its code. How the two thresholds are set is
    from memory and was not checked against the paper. There, a quantile of each class's
    probabilities (0.99) takes the place of `inter_share`. For about fifty classes this corresponds
    to a share of a half; with ten classes it would leave an average class only a tenth of its
    images. The loss is the simplest of those that the paper allows. The paper trains from scratch
    in every round; here the weights and the learning rate carry over, as in
    :class:`GRIPClassifier`.

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
