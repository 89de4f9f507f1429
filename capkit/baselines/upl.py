"""UPL: the most confident images among those predicted as each class, chosen once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from capkit.baselines._self_trained import PeerSelfTraining, SelfTrainedClassifier
from capkit.pseudolabels import top_k_pseudo_labels
from capkit.training.self_training import SelfTrainingState

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.training.callbacks import Callbacks
    from capkit.tuning import Tuning

__all__ = ["UPLClassifier"]


@dataclasses.dataclass(frozen=True, eq=False)
class SurestPredictions(PeerSelfTraining):
    """The most confident of the images that the frozen model predicts as each class.

    Parameters
    ----------
    top_k : int
        Number of images per class; fewer if fewer are predicted as the class.
    """

    top_k: int

    def start(self) -> SelfTrainingState:
        """Choose these images once."""
        probabilities = self.probabilities(self.zero_shot_logits())
        chosen = self.for_all_images(top_k_pseudo_labels(probabilities, self.top_k))
        return SelfTrainingState.before_training(chosen, len(self.text_features))


class UPLClassifier(SelfTrainedClassifier):
    """Train on the most confident zero-shot predictions of each class.

    UPL (unsupervised prompt learning): images are pseudolabeled with their most probable class,
    and the `top_k` most confident ones of each class are kept throughout training. A class that is
    never predicted has no pseudolabels.

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
    top_k : int, default=16
        Number of images per class.
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
        Classes of the main samples, as indices into `class_names_`, -1 for the other images.
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
    FPLClassifier : Takes the same number of images for each class, whatever they are predicted as.

    Notes
    -----
    Implemented from the paper's description, not from its code. The paper trains text prompts that
    replace the template, uses pseudolabels from several models, and averages the predictions of
    several prompts; here there is one model, trained as `tuning` says. The paper uses no labels;
    here labeled images, if there are any, are a separate training stream.

    References
    ----------
    Huang, Chu and Wei, "Unsupervised Prompt Learning for Vision-Language Models",
    :arxiv:`2204.03649`.

    Examples
    --------
    >>> from capkit.baselines import UPLClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = UPLClassifier(backbone="glyph", tuning="adapter", random_state=0)
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> print(f"{classifier.score(test.images, test.target):.1f}")
    0.9
    """

    _parameter_constraints: ClassVar[dict] = {
        **SelfTrainedClassifier._parameter_constraints,
        "top_k": [Interval(Integral, 1, None, closed="left")],
    }
    _own_parameters: ClassVar[tuple[str, ...]] = ("top_k",)

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        encoder: CLIPEncoder | None = None,
        tuning: Tuning | str = "auto",
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
        self.top_k = top_k
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.device = device
        self.n_devices = n_devices
        self.random_state = random_state
        self.verbose = verbose

    def _choose_self_training(self, **fields: Any) -> SurestPredictions:
        return SurestPredictions(**fields, top_k=self.top_k)
