"""What a way of tuning is: its parameters, its encoder, its views."""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.module import Encoder
from capkit.training.schedule import Schedule

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["BuiltTuning", "Tuning"]


@dataclasses.dataclass(frozen=True, eq=False)
class BuiltTuning:
    """What a way of tuning gives to a training.

    Parameters
    ----------
    inputs : Tensor of shape (n, height, width, 3), uint8, or (n, d), float32
        What the encoder takes, of every image.
    strong_view : callable
        From the positions (B,) of images to a Tensor of their strong views; draws from torch's
        global generator. Picklable.
    load_encoder : callable
        From the name of a device to a function that builds an untrained encoder there. Models
        are loaded in the first call, weights are drawn in the second. Picklable.
    """

    inputs: Tensor
    strong_view: Callable[[np.ndarray], Tensor]
    load_encoder: Callable[[str], Callable[[], Encoder]]


class Tuning(BaseEstimator, metaclass=abc.ABCMeta):
    """Base of the ways of tuning.

    A subclass is a file of its own: its constructor has the parameters below and those of its
    own, with its own defaults, and it answers what is abstract here. With an entry in
    ``capkit.tuning.choosing.TUNINGS`` it has a name.

    Attributes
    ----------
    name : str
        What ``CAPClassifier(tuning=...)`` takes.
    inference_modes : tuple of str
        Ways to predict that use nothing but what was trained.
    small_steps : bool
        Whether a step is too small to gain from threads.
    trains_encoder : bool
        Whether more is trained than the adapters, so that these can be left out.
    """

    name: ClassVar[str]
    inference_modes: ClassVar[tuple[str, ...]]
    small_steps: ClassVar[bool] = False
    trains_encoder: ClassVar[bool] = False

    adapter_dim: int
    adapter_weight: float
    pseudo_adapter: bool
    epochs: int
    steps_per_epoch: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    warmup_epochs: int

    _parameter_constraints: ClassVar[dict] = {
        "adapter_dim": [Interval(Integral, 1, None, closed="left")],
        "adapter_weight": [Interval(Real, 0, None, closed="left")],
        "pseudo_adapter": ["boolean"],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "steps_per_epoch": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "optimizer": [StrOptions({"sgd", "adamw"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "warmup_epochs": [Interval(Integral, 0, None, closed="left")],
    }

    # A view may be a transform of torchvision, whose random ones have a get_params that is not
    # scikit-learn's. There is no estimator among the parameters, so none is looked for.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters of this way of tuning.

        Parameters
        ----------
        deep : bool, default=True
            Changes nothing: no parameter is an estimator.

        Returns
        -------
        dict of str to object
        """
        return super().get_params(deep=False)

    def __sklearn_clone__(self) -> Tuning:
        return type(self)(**copy.deepcopy(self.get_params()))

    def schedule(self) -> Schedule:
        """The numbers of the training.

        Returns
        -------
        Schedule
        """
        fields = dataclasses.fields(Schedule)
        return Schedule(**{field.name: getattr(self, field.name) for field in fields})

    # -- before anything is loaded or encoded

    def check_images(self, images: ConceptSpace | ImageSource) -> None:
        """Raise a ValueError if these images cannot be trained on; by default any can.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        """

    def check_backbone(self, backbone: Callable[[], Backbone]) -> None:
        """Raise an UnsupportedBackboneError if this model cannot be tuned; by default any can.

        Parameters
        ----------
        backbone : callable
            Loads it.
        """

    def check_inference(self, inference: str | None) -> None:
        """Raise if a way to predict uses none of what is trained.

        Parameters
        ----------
        inference : str or None

        Raises
        ------
        ValueError
            If it does.
        """
        if inference is None or inference in self.inference_modes:
            return
        raise ValueError(
            f"inference={inference!r} is not for tuning={self.name!r}, where it would leave out "
            f"all that is trained. Expected one of {self.inference_modes}."
        )

    # -- training

    @abc.abstractmethod
    def build(self, space: ConceptSpace, *, device: str, n_jobs: int | None) -> BuiltTuning:
        """Make what a training needs.

        Parameters
        ----------
        space : ConceptSpace
            As aligned.
        device : str
        n_jobs : int or None
            Workers that decode images.

        Returns
        -------
        BuiltTuning
        """

    @abc.abstractmethod
    def export(self, encoder: Encoder) -> dict[str, np.ndarray]:
        """Take out of a trained encoder what prediction needs.

        Parameters
        ----------
        encoder : Encoder

        Returns
        -------
        dict of str to ndarray
            ``text_features`` (C, d), before the text adapter, and what is this tuning's own.
        """

    # -- prediction

    @abc.abstractmethod
    def default_inference(self, paradigm: str) -> str:
        """With which parts to predict where the user leaves it open.

        Parameters
        ----------
        paradigm : {"ul", "ssl", "trzsl"}

        Returns
        -------
        str
            One of `inference_modes`.
        """

    @abc.abstractmethod
    def trained_encoder(
        self, weights: Mapping[str, np.ndarray], backbone: Callable[[], Backbone]
    ) -> Encoder:
        """Put an encoder together from what :meth:`export` gave.

        Parameters
        ----------
        weights : mapping of str to ndarray
        backbone : callable
            Loads the frozen model.

        Returns
        -------
        Encoder
        """

    @abc.abstractmethod
    def prediction_inputs(
        self,
        images: ConceptSpace | ImageSource,
        *,
        encode: Callable[[ConceptSpace | ImageSource], np.ndarray],
        backbone: Callable[[], Backbone],
        n_jobs: int | None,
    ) -> Tensor:
        """Read new images as the encoder takes them.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        encode : callable
            From the images to features (n, d) of the frozen model.
        backbone : callable
            Loads the frozen model.
        n_jobs : int or None
            Workers that decode images.

        Returns
        -------
        Tensor of shape (n, height, width, 3), uint8, or (n, d), float32

        Raises
        ------
        ValueError
            If the images have not what is needed.
        """
