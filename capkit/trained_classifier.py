"""Base of the classifiers that train adapters or prompts: which way, one training, prediction."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._param_validation import Interval, StrOptions

from capkit._validation import check_labels_of_paradigm
from capkit.adapted import AdaptedModel, Reader
from capkit.backbones import Backbone, load_backbone
from capkit.backbones.registry import resolve_device
from capkit.backbones.reloading import reload_backbone
from capkit.image_classifier import ImageClassifier
from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.callbacks import Callbacks, check_callbacks
from capkit.training.fingerprint import as_fingerprint, digest, sketch, sketch_of_gaussians
from capkit.training.folders import TrainingFolder, check_folder, choose_folder, draw_seed
from capkit.training.module import DualAdapterModule
from capkit.training.run import TrainingTask, check_devices, train
from capkit.training.self_training import SelfTraining, SelfTrainingState
from capkit.training.streams import TrainingImages
from capkit.tuning import Tuning
from capkit.tuning.choosing import TUNINGS, candidate_tunings, choose_tuning

__all__ = ["TrainedClassifier"]

# Parameters that do not change a training, or only by what the space that it gets shows.
_NOT_OF_TRAINING = frozenset(
    {
        "backbone",
        "callbacks",
        "checkpoint_dir",
        "class_names",
        "device",
        "encoder",
        "inference",
        "n_devices",
        "random_state",
        "temperature",
        "verbose",
    }
)


class TrainedClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageClassifier):
    """Base of the classifiers that train adapters or prompts on images.

    A subclass's ``_fit_space`` chooses a way of tuning and a
    :class:`~capkit.training.self_training.SelfTraining`, calls ``_train``, and sets ``_model``,
    ``paradigm_``, ``tuning_`` and ``seed_``.

    Its constructor has the parameters of :class:`~capkit.image_classifier.ImageClassifier`, and
    ``paradigm``, ``tuning``, ``checkpoint_dir``, ``callbacks``, ``n_devices`` and
    ``random_state``.
    """

    paradigm: str
    tuning: Tuning | str
    checkpoint_dir: str | os.PathLike | None
    callbacks: Callbacks | None
    n_devices: int
    random_state: int | np.random.RandomState | None

    paradigm_: str
    tuning_: Tuning
    seed_: int
    _model: AdaptedModel
    _folder: TrainingFolder | None = None  # of the checkpoints of the training that runs

    _parameter_constraints: ClassVar[dict] = {
        **ImageClassifier._parameter_constraints,
        "paradigm": [StrOptions({"ul", "ssl", "trzsl"})],
        "tuning": [StrOptions({"auto", *TUNINGS}), Tuning],
        "checkpoint_dir": [str, os.PathLike, None],
        "callbacks": [list, tuple, None],
        "n_devices": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    # -- checks before anything is loaded

    @property
    def _uses_labels(self) -> bool:
        return self.paradigm != "ul"

    def _check_labels(self, labels: np.ndarray, class_names: tuple[str, ...]) -> None:
        check_labels_of_paradigm(labels, self.paradigm, class_names)

    def _check_settings(self, images: ConceptSpace | ImageSource) -> None:
        encoder, tunings = self._make_encoder(), candidate_tunings(self.tuning)
        for tuning in tunings:
            check_devices(self.n_devices, tuning.batch_size)
        check_callbacks(self.callbacks)
        self._folder = None
        if self.checkpoint_dir is not None:
            check_folder(self.checkpoint_dir)
        if len(tunings) > 1:
            return  # "auto" takes what fits
        self._check_inference(tunings[0])
        tunings[0].check_images(images)
        if not isinstance(images, ConceptSpace):
            tunings[0].check_backbone(
                lambda: load_backbone(encoder.backbone, device=encoder.device)
            )

    def _check_inference(self, tuning: Tuning) -> None:
        """Raise a ValueError where a way to predict uses none of what is trained."""

    # -- training

    def _choose_tuning(self, space: ConceptSpace) -> Tuning:
        device = resolve_device(self._make_encoder().device)
        return choose_tuning(self.tuning, space, device, lambda: self._backbone_of(space))

    def _backbone_of(self, space: ConceptSpace) -> Backbone:
        device, owner = self._make_encoder().device, "the ConceptSpace"
        return reload_backbone(space.backbone, space.backbone_id, device=device, owner=owner)

    def _choose_seed(self, space: ConceptSpace, labels: np.ndarray) -> int:
        """Seed of the training; of the one that was killed, where this fit goes on with that."""
        if self.checkpoint_dir is None:
            return draw_seed(self.random_state)
        known = self._known(space, labels)
        self._folder = choose_folder(self.checkpoint_dir, known, self.random_state)
        return self._folder.seed

    def _train(
        self,
        space: ConceptSpace,
        labels: np.ndarray,
        tuning: Tuning,
        self_training: SelfTraining,
        settings: dict[str, Any],
    ) -> tuple[SelfTrainingState, DualAdapterModule]:
        """Train; `settings` are what decides the training besides the tuning's parameters.

        `space` and `labels` are those of :meth:`_choose_seed`, the space with what stages added.
        """
        encoder = self._make_encoder()
        device = str(resolve_device(encoder.device))
        built = tuning.build(space, device=device, n_jobs=encoder.n_jobs)
        task = TrainingTask(
            schedule=tuning.schedule(),
            seed=self.seed_,
            images=TrainingImages(built.inputs, labels),
            strong_view=built.strong_view,
            load_encoder=built.load_encoder,
            logit_scale=space.logit_scale,
            adapter_dim=tuning.adapter_dim,
            adapter_weight=tuning.adapter_weight,
            pseudo_adapter=tuning.pseudo_adapter,
            self_training=self_training,
            fingerprint=self._fingerprint(space, tuning, settings),
            device=device,
            checkpoint_dir=None if self._folder is None else self._folder.path,
            n_devices=self.n_devices,
            one_thread=tuning.small_steps,
            callbacks=tuple(self.callbacks or ()),
            verbose=self.verbose,
        )
        return train(task)

    def _known(self, space: ConceptSpace, labels: np.ndarray) -> dict[str, Any]:
        """What a training depends on before any stage has run; each part by its name."""
        parameters = self.get_params(deep=False)
        given = space.transduction
        return as_fingerprint(
            {
                "method": type(self).__name__,
                "parameters": {
                    name: value
                    for name, value in parameters.items()
                    if name not in _NOT_OF_TRAINING
                },
                "class_names": space.class_names,
                "backbone fingerprint": space.backbone_id,
                "logit scale": space.logit_scale,
                "labels": digest(labels),
                "images": sketch(space.image_features),
                "given texts": space.prompts,
                "given class features": sketch(space.text_features),
                "given mismatch": None if space.mismatch is None else space.mismatch.mismatched,
                "given Gaussians": (
                    None if given is None else sketch_of_gaussians(given.classes.whitened_means)
                ),
                "given calibrator": None if space.margin is None else space.margin.calibrator,
            }
        )

    def _fingerprint(
        self,
        space: ConceptSpace,
        tuning: Tuning,
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """What a checkpoint must agree with; each part by its name."""
        if self._folder is None:
            return {}
        found = {
            "class texts": space.prompts,
            "class features": sketch(space.text_features),
            "tuning": tuning.name,
            "seed": self.seed_,
        }
        return {**self._folder.known, **as_fingerprint(found | tuning.get_params() | settings)}

    def _after_interrupt(self) -> str:
        if self._folder is None or not self._folder.is_begun:
            return ""
        if self.random_state is None or isinstance(self.random_state, (int, np.integer)):
            return " Fit again to go on from the last epoch."
        return (
            f" Fit again with random_state={self._folder.seed} to go on from the last epoch: the "
            "RandomState object has moved on."
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_folder": None}  # of a training that is over

    # -- prediction

    def _inference(self) -> str:
        """With which parts to predict, one of the tuning's ``inference_modes``."""
        raise NotImplementedError

    def _logits(self, images: ConceptSpace | ImageSource) -> np.ndarray:
        inference = self._inference()  # a wrong one is found before anything is encoded
        return self._model.logits(images, inference, self._reader())

    def transform(self, X: object) -> np.ndarray:
        """Adapted features of images.

        Parameters
        ----------
        X : sequence of images of length n_images, or ConceptSpace

        Returns
        -------
        ndarray of shape (n_images, d), dtype float32
            Unit rows, the features that are compared with the classes. If the probabilities of two
            branches are averaged, the normalised mean of both branches' features. If no training
            was kept, the features of the frozen model.
        """
        images, inference = self._read(X), self._inference()
        return self._model.transform(images, inference, self._reader())

    def _reader(self) -> Reader:
        encoder = self._make_encoder()
        return Reader(
            encode=self._encode_new,
            backbone=lambda: self.backbone_,
            device=str(resolve_device(encoder.device)),
            batch_size=encoder.batch_size,
            n_jobs=encoder.n_jobs,
        )

    # -- scikit-learn's interface

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # float32, whatever the images are
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_features_in_
