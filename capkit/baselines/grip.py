"""GRIP: pseudolabels that are chosen again, and grow in number, in every round."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from capkit.baselines._self_trained import (
    PeerSelfTraining,
    SelfTrainedClassifier,
    begins_round,
    round_of_epoch,
    top_k_of_each_class,
)
from capkit.training.self_training import EpochPredictions, SelfTrainingState

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.training.callbacks import Callbacks
    from capkit.tuning import Tuning

__all__ = ["GRIPClassifier"]


@dataclasses.dataclass(frozen=True, eq=False)
class GrowingPseudolabels(PeerSelfTraining):
    """The images that are most probable for each class, more of them in every round.

    Parameters
    ----------
    rounds : int
        Number of rounds; in the last one every image is taken.
    """

    rounds: int

    def start(self) -> SelfTrainingState:
        """Choose the pseudolabels of the first round with the frozen model."""
        chosen = self._choose(self.zero_shot_logits(), round_number=1)
        return SelfTrainingState.before_training(chosen, len(self.text_features))

    def wants_logits(self, epoch: int) -> bool:
        """Before each further round."""
        return begins_round(epoch, self.epochs, self.rounds)

    def end_epoch(self, state: SelfTrainingState, epoch: EpochPredictions) -> None:
        """Record the epoch's numbers; at the end of a round choose the next pseudolabels."""
        super().end_epoch(state, epoch)
        if epoch.logits is not None:
            number = round_of_epoch(state.epoch, self.epochs, self.rounds)
            state.main_labels = self._choose(epoch.logits, number)

    def _choose(self, logits: np.ndarray, round_number: int) -> np.ndarray:
        # rounded up, or some images would be left over in the last round
        k = -(-len(self.unlabeled) * round_number // (self.rounds * len(self.classes)))
        return self.for_all_images(top_k_of_each_class(self.probabilities(logits), k))


class GRIPClassifier(SelfTrainedClassifier):
    """Train on the images that are most probable for each class, more of them in every round.

    GRIP (grow and refine iteratively pseudolabels): in round ``i`` of ``I`` each class takes its
    ``k = i * n_u / (I * C)`` most probable images (``k`` is rounded up), according to zero-shot in
    the first round and to the current model afterwards. In the last round all ``n_u`` unlabeled
    images are taken, in equal shares by the ``C`` classes.

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
        ``I``. With fewer epochs than rounds, some rounds are skipped.
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
        Classes of the last round's main samples, as indices into `class_names_`, -1 for the
        other images.
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
    FPLClassifier : Chooses pseudolabels only once.

    Notes
    -----
    Implemented from the paper's description, not from its code. The paper trains from scratch in
    every round; here the weights and the learning rate carry over, and all rounds together have
    the epochs of `tuning`, so that every method in a comparison trains equally long. Labeled
    images are a separate training stream with weight 1; the paper weights them by their number.

    References
    ----------
    Menghini, Delworth and Bach, "Enhancing CLIP with CLIP: Exploring Pseudolabeling for
    Limited-Label Prompt Tuning", NeurIPS 2023, :arxiv:`2306.01669`.

    Examples
    --------
    >>> from capkit.baselines import GRIPClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = GRIPClassifier(backbone="glyph", tuning="adapter", random_state=0)
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.1f}")
    0.9
    """

    _parameter_constraints: ClassVar[dict] = {
        **SelfTrainedClassifier._parameter_constraints,
        "rounds": [Interval(Integral, 1, None, closed="left")],
    }
    _own_parameters: ClassVar[tuple[str, ...]] = ("rounds",)

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        tuning: Tuning | str = "auto",
        rounds: int = 10,
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
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.device = device
        self.n_devices = n_devices
        self.random_state = random_state
        self.verbose = verbose

    def _choose_self_training(self, **fields: Any) -> GrowingPseudolabels:
        return GrowingPseudolabels(**fields, rounds=self.rounds)
