"""CAPClassifier: all stages of CAP, and dual-adapter training, as one scikit-learn estimator."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions

from capkit._validation import UNLABELED
from capkit.base import ImageClassifierMixin
from capkit.exceptions import TrainingInterrupted
from capkit.training.checks import FitInput, check_fit_input, check_inference, check_settings
from capkit.training.config import INFERENCE_MODES, default_inference

if TYPE_CHECKING:
    from capkit.alignment import ConceptAligner
    from capkit.backbones import Backbone
    from capkit.margins import MarginCalibrator
    from capkit.mismatch import MismatchDetector

__all__ = ["CAPClassifier"]


class CAPClassifier(
    ClassNamePrefixFeaturesOutMixin, ImageClassifierMixin, TransformerMixin, BaseEstimator
):
    """Adapt a CLIP-like model to unlabeled images by CAP, and classify with it.

    Concept-Adaptive Pseudolabeling finds the classes whose text is far from their images and
    replaces their text (concept alignment), and then trains prompts and adapters on
    pseudolabels, with a margin that holds back classes which are predicted too often.

    Give it images, and it runs every stage itself; or put it behind the stages in a
    :class:`~sklearn.pipeline.Pipeline`, where it takes the :class:`~capkit.ConceptSpace` that
    they made. Both give the same result from the same parameters and seed.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        What labels mean. ``"ul"``: no label is used; `y` only says in which kind to predict.
        ``"ssl"``: labeled images train as a third stream. ``"trzsl"``: the labeled classes are
        the seen ones; the unlabeled images belong to the others, so that pseudolabels are only
        given from those, and the seen classes get no margin.
    class_names : sequence of str or None, default=None
        Names of all classes; here or at :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the vision-language model, see :func:`~capkit.backbones.load_backbone`. This and
        the next four are not looked at where a ConceptSpace is given.
    template : str or sequence of str, default="a photo of a {}"
        Text that a class name is put into, see :class:`~capkit.CLIPEncoder`.
    encode_batch_size : int, default=256
        Number of images that are encoded at once, also at prediction. Less needs less memory.
    n_jobs : int or None, default=None
        Threads that decode images. None means one for each CPU, at most 8.
    on_error : {"raise", "skip"}, default="raise"
        What :meth:`fit` does at an image that cannot be read, see :class:`~capkit.CLIPEncoder`.
        Prediction always raises: it owes an answer for every image.
    cache_dir : path or None, default=None
        Folder in which image and text features are kept. None keeps them in memory while the
        process lives.
    device : str, default="auto"
        ``"auto"`` is CUDA where there is a device, else the CPU.
    n_devices : int, default=1
        Processes that train together, each with a GPU of its own, or all on the CPU. More than
        one needs the package accelerate, and a ``if __name__ == "__main__":`` in the script.
    t : int, float or None, default=None
        Classes that are left when mismatch detection stops, see
        :class:`~capkit.MismatchDetector`.
    describer : callable or None, default=None
        Gives visual descriptions of mismatched classes, see :mod:`capkit.describers`. None
        aligns them without a language model.
    n_descriptions : int, default=8
        Descriptions that the describer is asked for, of each mismatched class.
    detector : MismatchDetector or None, default=None
        Instead of the one with this classifier's `t`.
    aligner : ConceptAligner, "passthrough" or None, default=None
        Instead of the one with this classifier's `describer` and `n_descriptions`.
        ``"passthrough"`` leaves the texts as they are.
    tau : float, default=0.85
        Probability above which a pseudolabel trains and counts for the margin. The paper uses
        0.5 for FGVCAircraft.
    m : float, default=12.0
        Largest margin, see :class:`~capkit.MarginCalibrator`.
    calibrator : MarginCalibrator or None, default=None
        Instead of the one with this classifier's `tau` and `m`. Training refits a clone of it
        after every epoch.
    tuning : {"prompt", "adapter"}, default="prompt"
        ``"prompt"``, the paper: MaPLe prompts in both towers, and adapters, trained on pixels.
        ``"adapter"``: adapters alone, trained on features that are computed once; seconds on a
        CPU. Where a parameter below is None, its default depends on this.
    prompt_length : int, default=2
        Prompts of a layer.
    prompt_depth : int, default=8
        Layers with prompts; no more than the towers have are used.
    prompt_init : str, default="a photo of a"
        Text whose first tokens the prompts start from.
    adapter_dim : int or None, default=None
        Width inside the adapters; 128, with adapter tuning 64.
    adapter_weight : float or None, default=None
        Residual weight of the adapters; 0.01, with adapter tuning 0.5.
    augment : str, float, callable or None, default=None
        Strong view. With prompt tuning: ``"crop_flip"`` (None; the paper), ``"crop"`` and
        ``"affine"``, which do not flip and so suit text, maps and medical images, or any
        torchvision transform of a uint8 tensor (3, S, S). With adapter tuning: length of the
        random vector that is added to a unit feature, or a transform of a feature (d,).
    epochs : int or None, default=None
        50, with adapter tuning 20.
    steps_per_epoch : int or None, default=None
        50, with adapter tuning 30.
    batch_size : int, default=32
        Images of each of the three streams in a step, over all devices.
    optimizer : {"sgd", "adamw"} or None, default=None
        ``"sgd"``, with adapter tuning ``"adamw"``.
    learning_rate : float or None, default=None
        After the warm-up; 0.01, with adapter tuning 0.002. It falls to zero on a cosine.
    momentum : float, default=0.9
        Of SGD; the first beta of AdamW.
    weight_decay : float or None, default=None
        0.1.
    warmup_epochs : int, default=1
        Epochs in which the learning rate rises linearly.
    top_k : int, default=16
        Main samples that a class starts with (``k``). The paper uses 6 for Flowers102.
    renew_every : int, default=5
        Epochs between two renewals of the main samples.
    growth : float, default=0.7
        Share of the epochs after which a class has its largest number of main samples. The
        paper uses 0.6 for FGVCAircraft.
    main_share : float, default=0.8
        That largest number, as a share of the unlabeled images of an average class ...
    main_limit : int, default=1000
        ... and at most this.
    checkpoint_dir : path or None, default=None
        Folder in which the state of the training is written after every epoch. A fit that was
        killed goes on from there when it is run again with the same arguments, and ends where
        it would have ended. A checkpoint of another training is refused.
    inference : {"prompts", "main", "pseudo", "ensemble"} or None, default=None
        With which parts to predict; may be changed after :meth:`fit`. ``"prompts"``: adapters
        off (the paper). ``"main"``, ``"pseudo"``: text adapter, and the main or the pseudo
        visual adapter. ``"ensemble"``: mean of the probabilities of these two. None means
        ``"prompts"``; with adapter tuning ``"ensemble"``, or in ``trzsl`` ``"main"``, as the
        pseudo branch trains on unseen classes alone.
    temperature : float or "labeled", default=1.0
        The logits are divided by it before the softmax. ``"labeled"`` fits it to the labels of
        the training images (``ssl``, ``trzsl``); it does not change what is predicted.
    random_state : int, RandomState instance or None, default=None
        Fixes everything: clusters, first weights, batches and views.
    verbose : int, default=0
        Above 0, progress bars with the time left are shown.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in the kind that `y` had, class names where there was none; sorted. The columns
        of :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order that was given.
    n_features_in_ : int
        Width ``d`` of the features.
    mismatched_ : list of str
        Names of the classes that were found mismatched.
    descriptions_ : dict of str to str
        The chosen description of each class that was aligned by a text.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Class features after training, unit rows, in the order of `class_names_`; before the
        text adapter.
    margin_matrix_ : ndarray of shape (n_classes, n_classes), dtype float32
        The margin after the last epoch, in the order of `class_names_`.
    pseudo_labels_ : ndarray of shape (n_images,), dtype int64
        For each training image the last class that it was predicted as, as an index into
        `class_names_`, where the confidence was above `tau`; else, and where it has a label, -1.
    main_labels_ : ndarray of shape (n_images,), dtype int64
        Class of the main samples of the last epochs, as an index into `class_names_`; else -1.
    history_ : list of dict
        Numbers of each epoch: ``loss`` and its parts, the ``learning_rate``, the share of strong
        views ``kept``, the number of images pseudolabeled above `tau` of each class
        (``class_counts``) and their evenness in [0, 1] (``class_balance``), the number of main
        samples (``n_main``), and ``margin_mean`` and ``margin_max`` over pairs of classes.
    temperature_ : float
        What the logits are divided by.
    detector_ : MismatchDetector or None
    aligner_ : ConceptAligner or None
        Fitted stages; None where they were not run here.
    calibrator_ : MarginCalibrator
        Fitted on the last epoch's predictions.
    config_ : TrainingConfig
        Settings of the training, with every default filled in.
    backbone_name_ : str or None
        Name of the backbone behind the features; None where they were given without.
    backbone_id_ : str or None
        Fingerprint of its configuration and weights.
    logit_scale_ : float
        ``s``, the factor between cosine similarities and logits.

    See Also
    --------
    CLIPEncoder, MismatchDetector, ConceptAligner, MarginCalibrator : The stages.
    capkit.baselines.ZeroShotClassifier : The same model without any training.

    Notes
    -----
    ``cross_val_predict(method="predict_proba")``, ``VotingClassifier``, ``StackingClassifier`` and
    ``CalibratedClassifierCV(ensemble=False)`` of scikit-learn pass on, in place of `y`, positions
    in the sorted labels. Nothing changes where `y` holds indices, or where `class_names` are in
    alphabetical order, as long as every class occurs in `y`. Names in another order would be
    mistaken for other names, as nothing tells positions from indices into `class_names`: pass
    indices instead, or to cross_val_predict no `y`. With ``"ssl"`` and ``"trzsl"`` there is an
    error, for the marks of unlabeled images are lost on this way.

    References
    ----------
    Wang et al., "Handling Imbalanced Pseudolabels for Vision-Language Models with Concept
    Alignment and Confusion-Aware Calibrated Margin", ICML 2025, :arxiv:`2505.02056`.

    Examples
    --------
    >>> from capkit import CAPClassifier
    >>> from capkit.datasets import load_digits
    >>> train, test = load_digits(split="train"), load_digits(split="test")
    >>> classifier = CAPClassifier(backbone="glyph", tuning="adapter", random_state=0)
    >>> classifier = classifier.fit(train.images, class_names=train.class_names)
    >>> classifier.predict(test.images[:1]).shape
    (1,)
    """

    # class_names is routed to fit without a set_fit_request of the user
    __metadata_request__fit = {"class_names": True}

    _parameter_constraints: dict = {
        "paradigm": [StrOptions({"ul", "ssl", "trzsl"})],
        "class_names": ["array-like", None],
        "backbone": [str, os.PathLike],
        "template": [str, "array-like"],
        "encode_batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "skip"})],
        "cache_dir": [str, os.PathLike, None],
        "device": [str],
        "n_devices": [Interval(Integral, 1, None, closed="left")],
        "t": [
            Interval(Integral, 0, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "describer": [callable, HasMethods(["describe"]), None],
        "n_descriptions": [Interval(Integral, 1, None, closed="left")],
        "detector": [HasMethods(["fit", "transform"]), None],
        "aligner": [HasMethods(["fit", "transform"]), StrOptions({"passthrough"}), None],
        "tau": [Interval(Real, 0, 1, closed="both")],
        "m": [Interval(Real, 0, None, closed="left")],
        "calibrator": [HasMethods(["fit_predictions"]), None],
        "tuning": [StrOptions({"prompt", "adapter"})],
        "prompt_length": [Interval(Integral, 1, None, closed="left")],
        "prompt_depth": [Interval(Integral, 1, None, closed="left")],
        "prompt_init": [str],
        "adapter_dim": [Interval(Integral, 1, None, closed="left"), None],
        "adapter_weight": [Interval(Real, 0, None, closed="neither"), None],
        "augment": [str, Interval(Real, 0, None, closed="left"), callable, None],
        "epochs": [Interval(Integral, 1, None, closed="left"), None],
        "steps_per_epoch": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions({"sgd", "adamw"}), None],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "renew_every": [Interval(Integral, 1, None, closed="left")],
        "growth": [Interval(Real, 0, 1, closed="right")],
        "main_share": [Interval(Real, 0, 1, closed="both")],
        "main_limit": [Interval(Integral, 1, None, closed="left")],
        "checkpoint_dir": [str, os.PathLike, None],
        "inference": [StrOptions(set(INFERENCE_MODES)), None],
        "temperature": [Interval(Real, 0, None, closed="neither"), StrOptions({"labeled"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        template: str | Sequence[str] = "a photo of a {}",
        encode_batch_size: int = 256,
        n_jobs: int | None = None,
        on_error: str = "raise",
        cache_dir: str | os.PathLike | None = None,
        device: str = "auto",
        n_devices: int = 1,
        t: int | float | None = None,
        describer: Callable[[str, int], list[str]] | None = None,
        n_descriptions: int = 8,
        detector: MismatchDetector | None = None,
        aligner: ConceptAligner | str | None = None,
        tau: float = 0.85,
        m: float = 12.0,
        calibrator: MarginCalibrator | None = None,
        tuning: str = "prompt",
        prompt_length: int = 2,
        prompt_depth: int = 8,
        prompt_init: str = "a photo of a",
        adapter_dim: int | None = None,
        adapter_weight: float | None = None,
        augment: str | float | Callable | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int = 32,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        momentum: float = 0.9,
        weight_decay: float | None = None,
        warmup_epochs: int = 1,
        top_k: int = 16,
        renew_every: int = 5,
        growth: float = 0.7,
        main_share: float = 0.8,
        main_limit: int = 1000,
        checkpoint_dir: str | os.PathLike | None = None,
        inference: str | None = None,
        temperature: float | str = 1.0,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.paradigm = paradigm
        self.class_names = class_names
        self.backbone = backbone
        self.template = template
        self.encode_batch_size = encode_batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.cache_dir = cache_dir
        self.device = device
        self.n_devices = n_devices
        self.t = t
        self.describer = describer
        self.n_descriptions = n_descriptions
        self.detector = detector
        self.aligner = aligner
        self.tau = tau
        self.m = m
        self.calibrator = calibrator
        self.tuning = tuning
        self.prompt_length = prompt_length
        self.prompt_depth = prompt_depth
        self.prompt_init = prompt_init
        self.adapter_dim = adapter_dim
        self.adapter_weight = adapter_weight
        self.augment = augment
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.top_k = top_k
        self.renew_every = renew_every
        self.growth = growth
        self.main_share = main_share
        self.main_limit = main_limit
        self.checkpoint_dir = checkpoint_dir
        self.inference = inference
        self.temperature = temperature
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: object,
        y: Sequence | None = None,
        *,
        class_names: Sequence[str] | None = None,
    ) -> CAPClassifier:
        """Run the stages that `X` has not gone through, and train.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace
            Paths, PIL images, arrays, an array (n, H, W, 3), a tensor (n, 3, H, W) or a Dataset;
            or what the stages before this step made.
        y : sequence of length n_images or None, default=None
            Class names or indices into `class_names`; -1 or None marks an unlabeled image.
        class_names : sequence of str or None, default=None
            Names of all classes, if the constructor was given none.

        Returns
        -------
        self : CAPClassifier

        Raises
        ------
        ClassNamesError, LabelError
            If the class names or the labels cannot be right for the paradigm.
        ValueError
            If parameters contradict each other.
        UnsupportedBackboneError
            If prompts cannot enter the backbone.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        OutOfMemoryError
            If a step does not fit into memory.
        CheckpointError
            If the checkpoint cannot be written, or is of another training.
        TrainingInterrupted
            If the user interrupts it; the classifier is not fitted then.
        """
        given = check_fit_input(self, X, y, class_names)
        check_settings(self, given.images)
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)  # an error further down must not leave an older fit behind
        try:
            self._fit(given)
        except KeyboardInterrupt:
            goes_on = " Fit again to go on from the last epoch." if self.checkpoint_dir else ""
            raise TrainingInterrupted(
                f"fit was interrupted: this {type(self).__name__} is not fitted.{goes_on}"
            ) from None
        return self

    def _fit(self, given: FitInput) -> None:
        from capkit.training import fitting  # imports torch

        result = fitting.fit(self, given)
        self._weights = result.weights
        for name, value in result.attributes.items():
            setattr(self, name, value)
        self._codec = given.codec
        self.class_names_ = given.class_names
        self.classes_ = given.codec.classes
        self.temperature_ = 1.0
        self.temperature_ = self._find_temperature(result.space, result.labels)
        fitting.prepare_predictor(self)  # now, so that predicting changes no attribute

    # -- prediction

    def predict_proba(self, X: object) -> np.ndarray:
        """Probabilities of the classes.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace

        Returns
        -------
        ndarray of shape (n_images, n_classes), dtype float64
            Columns in the order of ``classes_``.
        """
        return softmax(self._scores(X).astype(np.float64) / self.temperature_, axis=1)

    def transform(self, X: object) -> np.ndarray:
        """Adapted features of images.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace

        Returns
        -------
        ndarray of shape (n_images, d), dtype float32
            Unit rows: what ``inference`` compares with the classes; of the "ensemble" the
            normalised mean of its two branches.
        """
        from capkit.training import fitting

        return fitting.transform(self, X)

    @property
    def backbone_(self) -> Backbone:
        """The frozen model, loaded once per process and not part of the pickled classifier."""
        from capkit.training import fitting

        return fitting.load_fitted_backbone(self)

    # -- saving

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted classifier, without the frozen backbone, to one file.

        The file is safetensors with JSON in its metadata: loading it executes nothing.

        Parameters
        ----------
        path : path

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        OSError
            If the file cannot be written; an older one at `path` is left as it was.
        """
        from capkit.persistence import save_classifier

        save_classifier(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike, *, device: str = "auto") -> CAPClassifier:
        """Read a classifier that :meth:`save` wrote.

        The backbone is loaded by its name when it is first needed, and has to be the one that
        the classifier was fitted with.

        Parameters
        ----------
        path : path
        device : str, default="auto"
            Where it is to run; becomes its parameter.

        Returns
        -------
        CAPClassifier

        Raises
        ------
        ValueError
            If the file is not a saved classifier, or of a newer format.
        """
        from capkit.persistence import load_classifier

        return load_classifier(cls, path, device)

    # -- what scikit-learn asks

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # images, or a ConceptSpace
        tags.transformer_tags.preserves_dtype = []  # float32, whatever the images are
        tags.target_tags.required = self.paradigm != "ul"
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "temperature_")  # the last attribute that fit sets

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_predictor", None)  # holds the backbone
        return state

    @property
    def _n_features_out(self) -> int:
        return self.n_features_in_

    # -- private

    def _inference(self) -> str:
        check_inference(self.inference, self.config_.tuning)
        return self.inference or default_inference(self.config_.paradigm, self.config_.tuning)

    def _scores(self, X: object) -> np.ndarray:
        from capkit.training import fitting

        return fitting.scores(self, X)[:, self._codec.column_order]

    def _find_temperature(self, space, labels) -> float:
        if self.temperature != "labeled":
            return float(self.temperature)
        from capkit.training import fitting

        labeled = labels != UNLABELED
        return fitting.fit_temperature(fitting.scores(self, space[labeled]), labels[labeled])
