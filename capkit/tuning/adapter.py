"""Adapter tuning: only adapters, trained on features that are computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval
from torch import Tensor
from torch.nn import functional as F

from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.module import Encoder
from capkit.tuning.base import BuiltTuning, Tuning

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["AdapterTuning", "FeatureEncoder", "FeatureView"]


class FeatureEncoder(Encoder):
    """Precomputed features: no tower runs, nothing is trained.

    Parameters
    ----------
    text_features : Tensor of shape (C, d)
        Unit rows.
    """

    def __init__(self, text_features: Tensor) -> None:
        super().__init__()
        self.dim = text_features.shape[1]
        self.register_buffer("text_features", text_features, persistent=False)

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Return the features (B, d) with unit rows."""
        return F.normalize(inputs, dim=-1)

    def encode_texts(self) -> Tensor:
        """Return the text features (C, d)."""
        return self.text_features


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureView:
    """Strong view of images given as features, which have no pixels to crop.

    Parameters
    ----------
    features : Tensor of shape (n, d)
        Unit rows.
    augment : float or callable
        Length of a random normal vector that is added to each unit row before it is normalised
        again: 0.5 rotates a feature by about 27 degrees. Or a transform of one feature, from
        Tensor (d,) to Tensor (d,). Draws from torch's global generator.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> view = FeatureView(torch.eye(3), augment=0.0)
    >>> view(np.array([1])).tolist()
    [[0.0, 1.0, 0.0]]
    """

    features: Tensor
    augment: float | Callable[[Tensor], Tensor]

    def __call__(self, indices: np.ndarray) -> Tensor:
        """Views (B, d) of the images at these positions (B,)."""
        features = self.features[torch.from_numpy(indices)]
        if callable(self.augment):
            return torch.stack([self.augment(feature) for feature in features])
        noise = torch.randn_like(features) * (self.augment / features.shape[1] ** 0.5)
        return F.normalize(features + noise, dim=1)


class AdapterTuning(Tuning):
    """Train only adapters, on features that are computed once.

    It takes seconds on a CPU, works with every backbone, and is not in the paper.

    Parameters
    ----------
    adapter_dim : int, default=64
        Width inside the adapters.
    adapter_weight : float, default=0.5
        Residual weight of the adapters.
    pseudo_adapter : bool, default=True
        Whether strong views train a separate adapter, so that wrong pseudolabels do not affect the
        adapter that assigns them. With False they train the main adapter.
    augment : float or callable, default=0.5
        Strong view: length of the random vector that is added to a unit feature, or a transform
        of a feature (d,).
    epochs : int, default=20
    steps_per_epoch : int, default=30
    batch_size : int, default=32
        Images of each of the three streams in a step, over all devices.
    optimizer : {"sgd", "adamw"}, default="adamw"
    learning_rate : float, default=0.002
        Learning rate after the warm-up; it decays to zero along a cosine.
    momentum : float, default=0.9
        Momentum of SGD; the first beta of AdamW.
    weight_decay : float, default=0.1
    warmup_epochs : int, default=1
        Number of epochs over which the learning rate rises linearly.

    See Also
    --------
    PromptTuning : As in the paper: prompts and adapters, on pixels.

    Notes
    -----
    The defaults were chosen in experiments on the training images of the data sets that come with
    capkit.

    Examples
    --------
    >>> from capkit import CAPClassifier
    >>> from capkit.tuning import AdapterTuning
    >>> CAPClassifier(tuning=AdapterTuning(epochs=5)).get_params()["tuning__epochs"]
    5
    """

    name: ClassVar[str] = "adapter"
    # Only adapters are trained, so they have to be on.
    inference_modes: ClassVar[tuple[str, ...]] = ("main", "pseudo", "ensemble")
    small_steps: ClassVar[bool] = True

    _parameter_constraints: ClassVar[dict] = {
        **Tuning._parameter_constraints,
        "adapter_weight": [Interval(Real, 0, None, closed="neither")],
        "augment": [Interval(Real, 0, None, closed="left"), callable],
    }

    def __init__(
        self,
        *,
        adapter_dim: int = 64,
        adapter_weight: float = 0.5,
        pseudo_adapter: bool = True,
        augment: float | Callable[[Tensor], Tensor] = 0.5,
        epochs: int = 20,
        steps_per_epoch: int = 30,
        batch_size: int = 32,
        optimizer: str = "adamw",
        learning_rate: float = 0.002,
        momentum: float = 0.9,
        weight_decay: float = 0.1,
        warmup_epochs: int = 1,
    ) -> None:
        self.adapter_dim = adapter_dim
        self.adapter_weight = adapter_weight
        self.pseudo_adapter = pseudo_adapter
        self.augment = augment
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs

    def build(self, space: ConceptSpace, *, device: str, n_jobs: int | None) -> BuiltTuning:
        """Use the features of images and classes as they are.

        Parameters
        ----------
        space : ConceptSpace
            As aligned.
        device : str
            Not used, because nothing is encoded.
        n_jobs : int or None
            Not used, because nothing is read.

        Returns
        -------
        BuiltTuning
        """
        inputs = torch.tensor(space.image_features)
        return BuiltTuning(
            inputs=inputs,
            strong_view=FeatureView(inputs, self.augment),
            load_encoder=partial(_load_encoder, torch.tensor(space.text_features)),
        )

    def export(self, encoder: FeatureEncoder) -> dict[str, np.ndarray]:
        """Return the class features.

        Parameters
        ----------
        encoder : FeatureEncoder

        Returns
        -------
        dict of str to ndarray
            ``text_features`` (C, d).
        """
        return {"text_features": encoder.encode_texts().cpu().numpy()}

    def default_inference(self, paradigm: str) -> str:
        """Both branches, except in ``trzsl``, where it is the main branch alone.

        In ``trzsl`` the pseudo branch has seen no image of a labeled class.

        Parameters
        ----------
        paradigm : {"ul", "ssl", "trzsl"}

        Returns
        -------
        str
        """
        return "main" if paradigm == "trzsl" else "ensemble"

    def trained_encoder(
        self, weights: Mapping[str, np.ndarray], backbone: Callable[[], Backbone]
    ) -> Encoder:
        """Rebuild the feature encoder; the backbone is not loaded.

        Parameters
        ----------
        weights : mapping of str to ndarray
        backbone : callable
            Not called.

        Returns
        -------
        Encoder
        """
        return FeatureEncoder(torch.tensor(weights["text_features"]))

    def prediction_inputs(
        self,
        images: ConceptSpace | ImageSource,
        *,
        encode: Callable[[ConceptSpace | ImageSource], np.ndarray],
        backbone: Callable[[], Backbone],
        n_jobs: int | None,
    ) -> Tensor:
        """Features of new images.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        encode : callable
            Maps images to features (n, d) of the frozen model.
        backbone : callable
            Not called.
        n_jobs : int or None
            Not used.

        Returns
        -------
        Tensor of shape (n, d), float32
        """
        return torch.tensor(encode(images))


def _load_encoder(text_features: Tensor, device: str) -> Callable[[], Encoder]:
    return partial(FeatureEncoder, text_features)
