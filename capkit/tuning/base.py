"""Base class of the tuning strategies: parameters, encoder and views."""

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
    """What a tuning strategy provides for training.

    Parameters
    ----------
    inputs : Tensor of shape (n, height, width, 3), uint8, or (n, d), float32
        Input of the encoder for every image.
    strong_view : callable
        Maps the positions (B,) of images to a Tensor of their strong views; draws from torch's
        global generator. Picklable.
    load_encoder : callable
        Maps the name of a device to a function that builds an untrained encoder there. The first
        call loads models, the second draws the initial weights. Picklable.
    """

    inputs: Tensor
    strong_view: Callable[[np.ndarray], Tensor]
    load_encoder: Callable[[str], Callable[[], Encoder]]


class Tuning(BaseEstimator, metaclass=abc.ABCMeta):
    """Base class of the tuning strategies.

    Each subclass has its own file. Its constructor takes the parameters below and any others, with
    defaults of its own, and it implements the abstract methods. An entry in
    ``capkit.tuning.choosing.TUNINGS`` gives it a name.

    Attributes
    ----------
    name : str
        Name for ``CAPClassifier(tuning=...)``.
    inference_modes : tuple of str
        Inference modes that this tuning supports.
    small_steps : bool
        Whether a step is too small to gain from threads.
    trains_encoder : bool
        Whether more than the adapters is trained, so that prediction can leave them out.
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

    # A view may be a random transform of torchvision, whose get_params is not scikit-learn's. No
    # parameter is an estimator, so nested parameters are not collected.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters of this tuning.

        Parameters
        ----------
        deep : bool, default=True
            Has no effect, because no parameter is an estimator.

        Returns
        -------
        dict of str to object
        """
        return super().get_params(deep=False)

    def __sklearn_clone__(self) -> Tuning:
        return type(self)(**copy.deepcopy(self.get_params()))

    def schedule(self) -> Schedule:
        """Training schedule: epochs, steps, batch size and optimizer settings.

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
        """Raise if an inference mode would use nothing that is trained.

        Parameters
        ----------
        inference : str or None

        Raises
        ------
        ValueError
            If it would.
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
        """Build what training needs.

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
        """Extract from a trained encoder what prediction needs.

        Parameters
        ----------
        encoder : Encoder

        Returns
        -------
        dict of str to ndarray
            ``text_features`` (C, d), before the text adapter, and any arrays specific to this
            tuning.
        """

    # -- prediction

    @abc.abstractmethod
    def default_inference(self, paradigm: str) -> str:
        """Inference mode to use if the user sets none.

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
        """Rebuild an encoder from the output of :meth:`export`.

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
        """Convert new images to the encoder's input.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        encode : callable
            Maps images to features (n, d) of the frozen model.
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
            If the images lack what is needed.
        """
