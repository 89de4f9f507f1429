"""CAPClassifier: all stages of CAP and the dual-adapter training as one scikit-learn estimator."""

from __future__ import annotations

import dataclasses
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions
from sklearn.utils.validation import check_is_fitted

from capkit._saved import check_saved
from capkit._temperature import fit_temperature
from capkit._validation import UNLABELED, LabelCodec, seeded_copy
from capkit.adapted import AdaptedModel
from capkit.alignment import ConceptAligner
from capkit.backbones.hub import is_hub_name
from capkit.backbones.registry import is_path
from capkit.backbones.reloading import reload_backbone
from capkit.encoder import CLIPEncoder
from capkit.exceptions import AdaptationWarning, BackboneMismatchError
from capkit.gaussians import GaussianPrior, evidence_temperature
from capkit.guard import AdaptationReport, judge, training_is_carried
from capkit.images import ImageSource
from capkit.margins import MarginCalibrator
from capkit.mismatch import MismatchDetector
from capkit.persistence import SavedModel, read_model, write_model
from capkit.renewal import MainSampleRenewal
from capkit.space import ConceptSpace
from capkit.trained_classifier import TrainedClassifier
from capkit.training.callbacks import Callbacks, check_callbacks
from capkit.training.fingerprint import sketch_of_gaussians
from capkit.training.module import INFERENCE_MODES
from capkit.training.self_training import CAPSelfTraining, SelfTrainingState
from capkit.transduction import GaussianTransduction, check_class_prior
from capkit.tuning import Tuning
from capkit.tuning.choosing import TUNINGS

__all__ = ["CAPClassifier"]

# For each stage, the class that may run before this step, and the parameters of its default.
_STAGES = {
    "detector": (MismatchDetector, ("t",)),
    "aligner": (ConceptAligner, ("describer",)),
    "calibrator": (MarginCalibrator, ("tau", "m")),
}
# Number of parts of the labeled images; each is held out once to fit the temperature.
_N_FOLDS = 3
# The only classes that a saved file can name.
_SAVED_CLASSES = (
    CLIPEncoder,
    MismatchDetector,
    ConceptAligner,
    GaussianTransduction,
    MarginCalibrator,
    MainSampleRenewal,
    *TUNINGS.values(),
)
_SAVED_ARRAYS = ("mismatched_", "margin_matrix_", "pseudo_labels_", "main_labels_")
_SAVED_VALUES = (
    "n_features_in_",
    "descriptions_",
    "history_",
    "paradigm_",
    "tuning_",
    "seed_",
    "backbone_name_",
    "backbone_id_",
    "logit_scale_",
    "temperature_",
)


class CAPClassifier(TrainedClassifier):
    """Adapt a CLIP-like model to unlabeled images by CAP, and classify with it.

    Concept-Adaptive Pseudolabeling finds the classes whose text is far from their images and
    replaces their text (concept alignment). It then trains prompts and adapters on pseudolabels,
    with a margin that counteracts classes that are predicted too often.

    Beyond the paper, all images are first considered together
    (:class:`~capkit.GaussianTransduction`): pseudolabels come from the class texts and from how
    the images lie relative to each other, and both also enter every prediction. A guard that needs
    no labels discards whatever the images do not support: the training, if there are few images
    per class, or all of the adaptation, which leaves the zero-shot predictions.
    ``pseudo_labels="zero_shot"`` follows the paper.

    Given images, it runs every stage itself. It can also be the last step of a
    :class:`~sklearn.pipeline.Pipeline` of the stages; it then takes the
    :class:`~capkit.ConceptSpace` that they produce. With the same parameters and seed, both give
    the same result.

    Parameters
    ----------
    paradigm : {"ul", "ssl", "trzsl"}, default="ul"
        How labels are used. ``"ul"``: not at all; `y` only determines whether predictions are
        names or indices. ``"ssl"``: labeled images are a third training stream. ``"trzsl"``: the
        labeled classes are the seen ones. The unlabeled images belong to the other classes, so
        only those are given as pseudolabels, and the seen classes get no margin.
    class_names : sequence of str or None, default=None
        Names of all classes; pass them here or to :meth:`fit`.
    backbone : str or path, default="auto"
        Name of the vision-language model, see :func:`~capkit.backbones.load_backbone`. This and
        `encoder` are ignored if a ConceptSpace is given.
    t : int, float or None, default=None
        Number or fraction of the classes that remain when mismatch detection stops, see
        :class:`~capkit.MismatchDetector`.
    tau : float, default=0.85
        Probability above which a pseudolabel is used for training and counts for the margin. The
        paper uses 0.5 for FGVCAircraft.
    m : float, default=12.0
        Largest margin, see :class:`~capkit.MarginCalibrator`.
    encoder : CLIPEncoder or None, default=None
        How images and class names are encoded: templates, batch size, cache, and how unreadable
        images are handled. None means a :class:`~capkit.CLIPEncoder` with its defaults. It uses
        this classifier's backbone and device unless it sets its own.
    describer : callable or None, default=None
        Gives visual descriptions of mismatched classes, see :mod:`capkit.describers`. With None
        their texts are not changed, see :class:`~capkit.ConceptAligner`.
    detector : MismatchDetector or None, default=None
        Used instead of a default one with this classifier's `t`.
    aligner : ConceptAligner, "passthrough" or None, default=None
        Used instead of a default one with this classifier's `describer`. ``"passthrough"`` does
        not change the texts.
    calibrator : MarginCalibrator or None, default=None
        Used instead of a default one with this classifier's `tau` and `m`. Training refits a clone
        of it after every epoch.
    tuning : {"auto", "prompt", "adapter"} or Tuning, default="auto"
        What is trained, and how. ``"prompt"`` (as in the paper): prompts in both towers, and
        adapters, on pixels, see :class:`~capkit.tuning.PromptTuning`. ``"adapter"``: adapters
        only, on features that are computed once, see :class:`~capkit.tuning.AdapterTuning`; takes
        seconds on a CPU. ``"auto"``: prompts if there is a GPU or the model is small, else
        adapters. Pass an object of one of these classes to set its parameters.
    pseudo_labels : {"gaussian", "zero_shot"} or GaussianTransduction, default="gaussian"
        Where pseudolabels come from. ``"gaussian"``: from the class texts and from how the images
        lie relative to each other, see :class:`~capkit.GaussianTransduction`; pass an object of
        that class to set its parameters. ``"zero_shot"`` (as in the paper): from the model being
        trained, which starts out as the zero-shot classifier; the guard is off.
    class_prior : "estimated", "equal" or array-like of shape (n_classes,), default="estimated"
        Proportions of the classes, in the order of the class names. The number of main samples of
        a class and its margin are relative to them. ``"estimated"`` means equal if `pseudo_labels`
        is ``"zero_shot"``.
    top_k : int, default=16
        ``k``: number of main samples that each class starts with. The paper uses 6 for Flowers102.
    renewal : MainSampleRenewal or None, default=None
        How the main samples are renewed. None means a :class:`~capkit.MainSampleRenewal` with its
        defaults.
    inference : {"no_adapters", "main", "pseudo", "ensemble"} or None, default=None
        Which trained parts predict; may be changed after :meth:`fit`. ``"no_adapters"``: prompts
        only (as in the paper). ``"main"``, ``"pseudo"``: the text adapter, and the main or the
        pseudo visual adapter. ``"ensemble"``: the mean of the probabilities of these two, before
        the Gaussians are added. None means ``"no_adapters"``; with adapter tuning it means
        ``"ensemble"``, or ``"main"`` in ``trzsl``, because the pseudo branch only trains on unseen
        classes.
    temperature : float, "auto" or "labeled", default="auto"
        The logits are divided by it before the softmax; it does not change which class is
        predicted. ``"auto"`` corrects for the overconfidence of the Gaussians, see
        :func:`capkit.gaussians.evidence_temperature`. ``"labeled"`` (``ssl``, ``trzsl``)
        calibrates on held-out labeled images: it fits three more times, each time without a third
        of them.
    checkpoint_dir : path or None, default=None
        Folder in which the training state is saved after every epoch, in a separate folder for
        each training. A fit that was killed resumes from there when it is run again with the same
        arguments, and gives the result that it would have given.
    callbacks : sequence of skorch callbacks or None, default=None
        Objects of :class:`skorch.callbacks.Callback`, or pairs of a name and such an object, that
        observe the training, for instance skorch's loggers. ``net.history[-1]`` has the numbers of
        the finished epoch, as in `history_`. Callbacks are not part of the training state: a
        checkpoint can be resumed with other callbacks, which then see the remaining epochs, and
        :meth:`save` leaves them out. They are not called if nothing is trained, nor in the extra
        fits of ``temperature="labeled"``. With several `n_devices`, copies of them observe the
        first process. A callback that stops the training, as skorch's ``EarlyStopping`` does,
        interrupts the fit.
    device : str, default="auto"
        ``"auto"`` means CUDA if there is a device, else Apple's GPU (MPS), else the CPU.
    n_devices : int, default=1
        Number of processes that train together, each with its own GPU, or all on the CPU. More
        than one needs the package accelerate, and ``if __name__ == "__main__":`` in the script.
    random_state : int, RandomState instance or None, default=None
        Determines all randomness: clusters, initial weights, batches and views.
    verbose : int, default=0
        Above 0, progress bars with the remaining time are shown.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, sorted: names or indices, as in `y`; names if there was no `y`. The columns of
        :meth:`predict_proba` are in this order.
    class_names_ : tuple of str
        Names of the classes, in the order in which they were given.
    n_features_in_ : int
        Width ``d`` of the features.
    mismatched_ : ndarray of shape (n_mismatched,), dtype int64
        Indices into `class_names_` of the classes that were found mismatched, ascending.
    mismatched_names_ : list of str
        Their names.
    descriptions_ : dict of str to str
        The chosen description of each class that was aligned with a text.
    text_features_ : ndarray of shape (n_classes, d), dtype float32
        Class features after training but before the text adapter: unit rows, in the order of
        `class_names_`.
    margin_matrix_ : ndarray of shape (n_classes, n_classes), dtype float32
        The margin after the last epoch, in the order of `class_names_`.
    pseudo_labels_ : ndarray of shape (n_images,), dtype int64
        For each training image, the class that training last predicted for it, as an index into
        `class_names_`; -1 if the confidence was not above `tau` or the image has a label.
    main_labels_ : ndarray of shape (n_images,), dtype int64
        Class of each image that was a main sample in the last epochs, as an index into
        `class_names_`; -1 for all other images.
    adaptation_report_ : AdaptationReport
        Whether adaptation helps on these images, as far as the guard can tell: what was tried and
        what was kept, see :class:`capkit.guard.AdaptationReport`.
    history_ : list of dict
        Numbers for each epoch: ``loss`` and its parts, the ``learning_rate``, the share of strong
        views ``kept``, the number of images pseudolabeled above `tau` for each class
        (``class_counts``) and their evenness in [0, 1] (``class_balance``), the number of main
        samples (``n_main``), and ``margin_mean`` and ``margin_max`` over pairs of classes. Empty
        if nothing was trained.
    temperature_ : float
        The number that the logits are divided by.
    detector_ : MismatchDetector or None
    aligner_ : ConceptAligner or None
    transduction_ : GaussianTransduction or None
        Fitted stages; None for those that were not run here.
    calibrator_ : MarginCalibrator or None
        Fitted on the last epoch's predictions; None after :meth:`load`, as are the other three.
    paradigm_ : str
        Paradigm of the fit, which determines the meaning of ``inference=None``.
    tuning_ : Tuning
        The tuning object that `tuning` resolved to.
    seed_ : int
        The seed that `random_state` resolved to; passed as `random_state`, it reproduces the fit.
    backbone_name_ : str or None
        Name of the backbone that made the features; None if they were given without one.
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
    With ``"ssl"`` and ``"trzsl"``, scikit-learn functions that replace labels by their positions
    in sorted order, such as ``cross_val_predict(method="predict_proba")``, end in an error,
    because this loses the -1 of unlabeled images.

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

    _parameter_constraints: ClassVar[dict] = {
        **TrainedClassifier._parameter_constraints,
        "t": [
            Interval(Integral, 0, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            None,
        ],
        "tau": [Interval(Real, 0, 1, closed="both")],
        "m": [Interval(Real, 0, None, closed="left")],
        "describer": [callable, HasMethods(["describe"]), None],
        "detector": [HasMethods(["fit", "transform"]), None],
        "aligner": [HasMethods(["fit", "transform"]), StrOptions({"passthrough"}), None],
        "calibrator": [HasMethods(["fit_from_predictions"]), None],
        "pseudo_labels": [StrOptions({"gaussian", "zero_shot"}), GaussianTransduction],
        "class_prior": [StrOptions({"estimated", "equal"}), "array-like"],
        "top_k": [Interval(Integral, 1, None, closed="left")],
        "renewal": [MainSampleRenewal, None],
        "inference": [StrOptions(set(INFERENCE_MODES)), None],
        "temperature": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"auto", "labeled"}),
        ],
    }

    def __init__(
        self,
        paradigm: str = "ul",
        *,
        class_names: Sequence[str] | None = None,
        backbone: str | os.PathLike = "auto",
        t: int | float | None = None,
        tau: float = 0.85,
        m: float = 12.0,
        encoder: CLIPEncoder | None = None,
        describer: Callable[[str, int], list[str]] | None = None,
        detector: MismatchDetector | None = None,
        aligner: ConceptAligner | str | None = None,
        calibrator: MarginCalibrator | None = None,
        tuning: Tuning | str = "auto",
        pseudo_labels: GaussianTransduction | str = "gaussian",
        class_prior: Sequence[float] | str = "estimated",
        top_k: int = 16,
        renewal: MainSampleRenewal | None = None,
        inference: str | None = None,
        temperature: float | str = "auto",
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
        self.t = t
        self.tau = tau
        self.m = m
        self.encoder = encoder
        self.describer = describer
        self.detector = detector
        self.aligner = aligner
        self.calibrator = calibrator
        self.tuning = tuning
        self.pseudo_labels = pseudo_labels
        self.class_prior = class_prior
        self.top_k = top_k
        self.renewal = renewal
        self.inference = inference
        self.temperature = temperature
        self.checkpoint_dir = checkpoint_dir
        self.callbacks = callbacks
        self.device = device
        self.n_devices = n_devices
        self.random_state = random_state
        self.verbose = verbose

    detector_: MismatchDetector | None
    aligner_: ConceptAligner | None
    transduction_: GaussianTransduction | None
    calibrator_: MarginCalibrator | None
    adaptation_report_: AdaptationReport

    # -- fit: the base class has checked the input and encoded it

    def _fit_space(self, space: ConceptSpace, labels: np.ndarray) -> None:
        tuning, seed = self._choose_tuning(space), self._choose_seed(space, labels)
        self._check_inference(tuning)
        self._warn_of_idle_parameters(space)
        space = self._align(self._detect(space, seed), seed)
        space = self._transduce(space, labels)
        prior, calibrator = self._choose_prior(space), self._choose_calibrator(space)
        self_training = self._choose_self_training(space, labels, calibrator, tuning, prior)
        self.paradigm_, self.tuning_, self.seed_ = self.paradigm, tuning, seed
        self.calibrator_ = calibrator
        model = AdaptedModel(space.text_features, space.logit_scale, prior, {}, tuning)
        if self._guarded and prior and not training_is_carried(prior.classes.trust):
            state = self_training.start()
            self_training.label_untrained(state)
        else:
            settings = self._settings(space, self_training, calibrator)
            state, module = self._train(space, labels, tuning, self_training, settings)
            model = AdaptedModel.from_training(space, prior, module, tuning)
        self._keep(space, labels, state, model)
        confident = (state.confidence > calibrator.tau) & (labels == UNLABELED)
        self.pseudo_labels_ = np.where(confident, state.pseudo_labels, UNLABELED)
        self.temperature_ = self._find_temperature(space, labels)

    def _detect(self, space: ConceptSpace, seed: int) -> ConceptSpace:
        """Find the mismatched classes, unless a stage before this step has (section 1)."""
        self.detector_ = None
        if space.mismatch is not None:
            return space
        default = MismatchDetector(t=self.t)
        self.detector_ = seeded_copy(default if self.detector is None else self.detector, seed)
        return self.detector_.fit_transform(space)

    def _align(self, space: ConceptSpace, seed: int) -> ConceptSpace:
        """Replace their texts, unless a stage before this step has (section 1)."""
        self.aligner_ = None
        if space.alignment is not None or isinstance(self.aligner, str):
            return space
        default = ConceptAligner(describer=self.describer, device=self._make_encoder().device)
        self.aligner_ = seeded_copy(default if self.aligner is None else self.aligner, seed)
        return self.aligner_.fit_transform(space)

    def _transduce(self, space: ConceptSpace, labels: np.ndarray) -> ConceptSpace:
        """Fit the Gaussians to all images, unless a stage before this step has."""
        self.transduction_ = None
        if space.transduction is not None or self.pseudo_labels == "zero_shot":
            return space
        stage = self._choose_transduction()
        with warnings.catch_warnings():  # its warnings are in this classifier's report
            warnings.simplefilter("ignore", AdaptationWarning)
            self.transduction_ = stage.fit(space, labels)
        return self.transduction_.transform(space)

    def _choose_transduction(self) -> GaussianTransduction:
        if isinstance(self.pseudo_labels, str):
            stage = GaussianTransduction(class_prior=self.class_prior)
        else:
            stage = clone(self.pseudo_labels)
        return stage.set_params(paradigm=self.paradigm)

    def _choose_prior(self, space: ConceptSpace) -> GaussianPrior | None:
        """The Gaussians' contribution to the logits; None when following the paper."""
        result = space.transduction
        if result is None or self.pseudo_labels == "zero_shot":
            return None
        return GaussianPrior(
            space.text_features, space.logit_scale, result.classes, result.mismatched
        )

    @property
    def _guarded(self) -> bool:
        """Whether the guard may discard adaptation; it may not when following the paper."""
        if isinstance(self.pseudo_labels, str):
            return self.pseudo_labels != "zero_shot"
        return self.pseudo_labels.guard

    def _choose_calibrator(self, space: ConceptSpace) -> MarginCalibrator:
        """The margin's calibrator, which training fits after every epoch (section 2)."""
        if space.margin is not None:
            return clone(space.margin.calibrator)
        if self.calibrator is not None:
            return clone(self.calibrator)
        return MarginCalibrator(m=self.m, tau=self.tau)

    def _choose_renewal(self) -> MainSampleRenewal:
        return MainSampleRenewal() if self.renewal is None else self.renewal

    def _choose_self_training(
        self,
        space: ConceptSpace,
        labels: np.ndarray,
        calibrator: MarginCalibrator,
        tuning: Tuning,
        prior: GaussianPrior | None,
    ) -> CAPSelfTraining:
        """Which images train, with which labels (sections 1 and 3)."""
        renewal = self._choose_renewal()
        of_labels = np.unique(labels[labels != UNLABELED])
        none = np.empty(0, dtype=np.int64)
        seen = of_labels if self.paradigm == "trzsl" else none
        return CAPSelfTraining(
            image_features=space.image_features,
            text_features=space.text_features,
            logit_scale=space.logit_scale,
            labels=labels,
            seen=seen,
            aligned=none if space.alignment is None else space.alignment.aligned,
            tau=calibrator.tau,
            calibrator=calibrator,
            top_k=self.top_k,
            epochs=tuning.epochs,
            renew_every=renewal.every,
            ramp_fraction=renewal.ramp_fraction,
            max_share=renewal.max_share,
            max_per_class=renewal.max_per_class,
            prior=prior,
            proportions=self._proportions(space.n_classes, seen, prior),
        )

    def _proportions(
        self, n_classes: int, seen: np.ndarray, prior: GaussianPrior | None
    ) -> np.ndarray | None:
        """How frequent the classes are, relative to equal ones that images may belong to."""
        if prior is not None:
            proportions = prior.proportions
        else:
            log_prior = check_class_prior(self.class_prior, n_classes)
            if log_prior is None:
                return None
            proportions = np.exp(log_prior)
        unseen = np.delete(proportions, seen)
        return proportions / unseen.mean() if len(unseen) else proportions

    def _settings(
        self, space: ConceptSpace, self_training: CAPSelfTraining, calibrator: MarginCalibrator
    ) -> dict[str, Any]:
        """All that determines a training besides the tuning, by name."""
        prior, proportions = self_training.prior, self_training.proportions
        means = None if prior is None else prior.classes.whitened_means
        return {
            "aligned classes": self_training.aligned,
            "top_k": self.top_k,
            "renewal": self._choose_renewal().get_params(),
            "proportions": None if proportions is None else torch.from_numpy(proportions),
            "Gaussians": None if means is None else sketch_of_gaussians(means),
            **calibrator.get_params(),
        }

    def _keep(
        self,
        space: ConceptSpace,
        labels: np.ndarray,
        state: SelfTrainingState,
        model: AdaptedModel,
    ) -> None:
        """Store the results of training as fitted attributes."""
        self._model = self._hold_back(space, labels, model)
        alignment, mismatch = space.alignment, space.mismatch
        none = np.empty(0, dtype=np.int64)
        self.mismatched_ = none if mismatch is None else mismatch.mismatched
        self.descriptions_ = {} if alignment is None else dict(alignment.descriptions)
        self.text_features_ = self._model.trained_text_features()
        self.margin_matrix_ = state.margin_matrix
        self.main_labels_ = state.main_labels
        self.history_ = state.history

    def _hold_back(
        self, space: ConceptSpace, labels: np.ndarray, model: AdaptedModel
    ) -> AdaptedModel:
        """Discard the trained weights if the guard says so, and write the report."""

        def labels_by(model: AdaptedModel) -> np.ndarray:
            predicted = model.logits(space, self._inference(), self._reader()).argmax(axis=1)
            return np.where(labels == UNLABELED, predicted, labels)

        transduction = None if model.prior is None else space.transduction
        trained = labels_by(model) if model.weights else None
        zero_shot = np.where(labels == UNLABELED, space.predict(), labels)
        self.adaptation_report_ = report = judge(
            space.image_features,
            zero_shot,
            zero_shot if model.prior is None else labels_by(model.untrained()),
            trained,
            None if transduction is None else transduction.report,
            n_classes=space.n_classes,
            guarded=self._guarded,
        )
        if report.is_doubtful:
            warnings.warn(str(report), AdaptationWarning, stacklevel=6)
        return model if report.kept == "training" else model.untrained()

    def _find_temperature(self, space: ConceptSpace, labels: np.ndarray) -> float:
        if self.temperature == "labeled":
            return fit_temperature(*self._held_out_logits(space, labels))
        if self.temperature == "auto":
            prior = self._model.prior
            return 1.0 if prior is None else evidence_temperature(prior.classes.trust)
        return float(self.temperature)

    def _held_out_logits(
        self, space: ConceptSpace, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits of labeled images by models that were fitted without them, and their labels."""
        space = dataclasses.replace(space, transduction=None)  # that knows all labels
        labeled = np.flatnonzero(labels != UNLABELED)
        folds = KFold(min(_N_FOLDS, len(labeled)), shuffle=True, random_state=0)
        logits = np.empty((len(labeled), space.n_classes), dtype=np.float32)
        # Without its callbacks from the start: not all of them can be cloned.
        changes = {"temperature": 1.0, "checkpoint_dir": None, "callbacks": None}
        changes["random_state"] = self.seed_
        alone = type(self)(**{**self.get_params(deep=False), **changes})
        for _, fold in folds.split(labeled):
            other = clone(alone)
            for name in ("class_names_", "n_features_in_", "logit_scale_"):
                setattr(other, name, getattr(self, name))
            other.backbone_name_, other.backbone_id_ = self.backbone_name_, self.backbone_id_
            rest = np.delete(np.arange(len(space)), labeled[fold])
            with warnings.catch_warnings():  # the fit on all images has warned
                warnings.simplefilter("ignore")
                other._fit_space(space[rest], labels[rest])
            logits[fold] = other._logits(space[labeled[fold]])
        return logits, labels[labeled]

    # -- checks before anything is loaded

    def _check_labels(self, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        super()._check_labels(labels, class_names)
        check_class_prior(self.class_prior, len(class_names))
        if not isinstance(self.pseudo_labels, str):
            check_class_prior(self.pseudo_labels.class_prior, len(class_names))

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        if self.temperature == "labeled" and self.paradigm == "ul":
            raise ValueError(
                "temperature='labeled' needs labels, and paradigm='ul' looks at none. Pass a "
                "number."
            )
        for stage in _STAGES:
            if isinstance(getattr(self, stage), type):
                raise TypeError(
                    f"expected {stage} as an object, got a class: add () behind its name."
                )
        super()._check_settings(images)

    def _check_inference(self, tuning: Tuning) -> None:
        tuning.check_inference(self.inference)

    def _warn_of_idle_parameters(self, space: ConceptSpace) -> None:
        """Warn of parameters that have no effect because a stage sets them itself."""
        reason = self._reason_class_prior_is_idle(space)
        if reason and not (isinstance(self.class_prior, str) and self.class_prior == "estimated"):
            value = self.class_prior
            warnings.warn(f"class_prior={value!r:.40} has no effect: {reason}.", stacklevel=5)
        done = {
            "detector": space.mismatch or space.alignment,
            "aligner": space.alignment,
            "calibrator": space.margin,
        }
        for stage, (cls, parameters) in _STAGES.items():
            for name in (stage, *parameters):
                if done[stage] is not None:
                    reason = f"the {cls.__name__} before this step decides"
                elif name != stage and isinstance(getattr(self, stage), str):
                    reason = f"{stage}={getattr(self, stage)!r} leaves all as it is"
                elif name != stage and getattr(self, stage) is not None:
                    reason = f"{stage} is given; set {stage}__{name}"
                else:
                    continue
                default = inspect.signature(type(self)).parameters[name].default
                value = getattr(self, name)
                if value is not default and value != default:
                    warnings.warn(f"{name}={value!r} has no effect: {reason}.", stacklevel=5)

    def _reason_class_prior_is_idle(self, space: ConceptSpace) -> str | None:
        if self.pseudo_labels == "zero_shot":
            return None
        if space.transduction is not None:
            return "the GaussianTransduction before this step decides"
        if not isinstance(self.pseudo_labels, str):
            return "pseudo_labels is given; set pseudo_labels__class_prior"
        return None

    # -- prediction

    @property
    def _temperature(self) -> float:
        return self.temperature_

    def _inference(self) -> str:
        self.tuning_.check_inference(self.inference)
        return self.inference or self.tuning_.default_inference(self.paradigm_)

    @property
    def mismatched_names_(self) -> list[str]:
        """Names of the classes that were found mismatched."""
        return [self.class_names_[index] for index in self.mismatched_]

    # -- saving

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted classifier, without the frozen backbone, to one file.

        The file is safetensors with JSON in its metadata: loading it executes nothing. It contains
        the results of the stages, but not the fitted stages (``detector_``, ``aligner_``,
        ``calibrator_``) nor ``callbacks``. Parameters that JSON cannot represent, such as a
        function, are left out and named in a warning.

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
        check_is_fitted(self)
        values = {name: getattr(self, name) for name in _SAVED_VALUES}
        values |= {"class_names_": self.class_names_, "label_kind": self._codec.kind}
        values["adaptation_report_"] = self.adaptation_report_.to_dict()
        arrays = self._model.to_arrays() | {name: getattr(self, name) for name in _SAVED_ARRAYS}
        parameters = self.get_params(deep=False)
        del parameters["callbacks"]  # of the training, which is over
        model = SavedModel(parameters, values, arrays)
        left_out = write_model(path, model, _SAVED_CLASSES)
        if left_out:
            warnings.warn(
                f"these parameters cannot be saved and will be their defaults in what is loaded: "
                f"{', '.join(left_out)}. Predictions do not depend on them.",
                UserWarning,
                stacklevel=2,
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        device: str = "auto",
        backbone: str | os.PathLike | None = None,
    ) -> CAPClassifier:
        """Read a classifier that :meth:`save` wrote.

        The backbone is loaded by its name when it is first needed, and has to be the one that the
        classifier was fitted with. A file cannot determine where files are written:
        ``checkpoint_dir`` and the encoder's ``cache_dir`` are None. If the file has no fingerprint
        of its backbone, a path or a Hub repository in it is not followed: such a classifier only
        predicts for a ConceptSpace.

        Parameters
        ----------
        path : path
        device : str, default="auto"
            Where the classifier runs; becomes its parameter.
        backbone : str, path or None, default=None
            New name or path of the backbone, if it is no longer where it was at the fit. It
            becomes the classifier's parameter, the name in the file is ignored, and the backbone
            is loaded at once.

        Returns
        -------
        CAPClassifier

        Raises
        ------
        ValueError
            If the file is not a saved classifier, has another format, or contains values that no
            classifier can have.
        BackboneError
            If `backbone` cannot be loaded; BackboneMismatchError if it is not the backbone of the
            fit, or if the file has no fingerprint to check it against.
        """
        parameters, values, arrays = read_model(path, _SAVED_CLASSES, cls._check_saved)
        classifier = cls._without_paths(parameters).set_params(device=device)
        if backbone is not None:
            name = classifier._take_backbone(os.fspath(backbone), values["backbone_id_"])
            values["backbone_name_"] = name
        elif values["backbone_id_"] is None and _is_anyones(values["backbone_name_"]):
            values["backbone_name_"] = None
        classifier._model = AdaptedModel.from_arrays(
            arrays, values["logit_scale_"], values["tuning_"]
        )
        classifier.text_features_ = classifier._model.trained_text_features()
        classifier.adaptation_report_ = AdaptationReport.from_dict(values["adaptation_report_"])
        classifier.class_names_ = tuple(values["class_names_"])
        classifier._codec = LabelCodec(classifier.class_names_, values["label_kind"])
        classifier.classes_ = classifier._codec.classes
        classifier.detector_ = classifier.aligner_ = classifier.calibrator_ = None
        classifier.transduction_ = None
        for source, names in ((arrays, _SAVED_ARRAYS), (values, _SAVED_VALUES)):
            for name in names:
                setattr(classifier, name, source[name])
        return classifier

    @classmethod
    def _check_saved(cls, model: SavedModel) -> None:
        """Raise a ValueError at anything that :meth:`save` cannot have written."""
        check_saved(model)
        classifier = cls(**model.parameters)
        classifier._validate_params()
        check_callbacks(classifier.callbacks)
        model.values["tuning_"].check_inference(classifier.inference)

    def _take_backbone(self, name: str, identity: str | None) -> str:
        """Take a backbone in place of the file's, and give its whole name."""
        owner = "the saved CAPClassifier"
        if identity is None:
            raise BackboneMismatchError(
                f"{owner} has no fingerprint of a backbone, so that nothing tells whether it is "
                f"{name!r}. Encode the images by CLIPEncoder, and pass the ConceptSpace."
            )
        found = reload_backbone(name, identity, device=self.device, owner=owner)
        self.set_params(backbone=found.name)
        if self.encoder is not None:
            self.set_params(encoder__backbone="auto")  # which is this classifier's
        return found.name

    @classmethod
    def _without_paths(cls, parameters: dict[str, Any]) -> CAPClassifier:
        """Classifier with the parameters of a file, except those that name where to write."""
        classifier = cls(**parameters)
        places = [
            name
            for name in classifier.get_params(deep=True)
            if name.rpartition("__")[2] in ("cache_dir", "checkpoint_dir")
        ]
        return classifier.set_params(**dict.fromkeys(places))


def _is_anyones(backbone: str | None) -> bool:
    """Whether a name is a path or a Hub name, whose content may come from anyone."""
    return is_path(backbone) or is_hub_name(backbone)
