"""Prompt tuning: MaPLe prompts in both towers, and adapters, trained on pixels (the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from torch import Tensor
from torch.nn import functional as F

from capkit.backbones.prompting import PromptedTowers, find_text_tower, find_visual_tower
from capkit.backbones.reloading import reload_backbone
from capkit.decoding import decode_for_training, decode_pixels
from capkit.images import ImageSource
from capkit.space import ConceptSpace
from capkit.training.module import INFERENCE_MODES, Encoder
from capkit.tuning.base import BuiltTuning, Tuning
from capkit.tuning.maple import MaplePrompts, place_context
from capkit.tuning.views import STRONG_VIEWS, as_tensor, make_strong_view

if TYPE_CHECKING:
    from capkit.backbones import Backbone

__all__ = ["PromptTuning", "PromptedEncoder"]


class PromptedEncoder(Encoder):
    """Frozen towers with trained MaPLe prompts: from pixels to features.

    Parameters
    ----------
    backbone : Backbone
        Its model is neither registered as a submodule nor changed, so ``parameters()`` and
        ``state_dict()`` do not include it.
    texts : sequence of str of length C
        The text behind each class: a formatted template, or a description.
    shift : Tensor of shape (C, d) or None, default=None
        Added to the text tower's unit rows, which are normalised again: the correction of
        classes that were aligned without a text.
    context : str, default="a photo of a"
        Text that the prompts start from.
    prompt_length : int, default=2
        Number of prompts per layer.
    prompt_depth : int, default=8
        Number of layers with prompts, at most the depth of the shallower tower.

    Raises
    ------
    UnsupportedBackboneError
        If prompts cannot be inserted into one of the towers.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: Sequence[str],
        *,
        shift: Tensor | None = None,
        context: str = "a photo of a",
        prompt_length: int = 2,
        prompt_depth: int = 8,
    ) -> None:
        super().__init__()
        towers = PromptedTowers(backbone.model)
        placed = place_context(
            backbone.tokenize, towers.text, texts, context=context, length=prompt_length
        )
        self.backbone = backbone
        self.towers = towers
        self.dim = backbone.embed_dim
        self.start = placed.start
        self.prompts = MaplePrompts(
            placed.embeddings, towers.visual.width, min(prompt_depth, towers.n_layers)
        )
        self.register_buffer("tokens", placed.tokens, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S), uint8, to unit rows (B, d)."""
        _, visual_prompts = self.prompts()
        return self.towers.encode_image(self.backbone.normalize(inputs), visual_prompts)

    def encode_texts(self) -> Tensor:
        """Encode the classes' texts to unit rows (C, d)."""
        text_prompts, _ = self.prompts()
        features = self.towers.encode_text(self.tokens, text_prompts, start=self.start)
        if self.shift is None:
            return features
        return F.normalize(features + self.shift, dim=-1)


class _TrainedEncoder(Encoder):
    """An image tower with trained prompts, and the exported class features."""

    def __init__(self, backbone: Backbone, visual_prompts: Tensor, text_features: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.towers = PromptedTowers(backbone.model)
        self.dim = text_features.shape[1]
        (depth, _, width), tower = visual_prompts.shape, self.towers
        if (width, self.dim) != (tower.visual.width, backbone.embed_dim) or depth > tower.n_layers:
            raise ValueError(
                f"expected prompts of width {tower.visual.width} in at most {tower.n_layers} "
                f"layers and class features of width {backbone.embed_dim} for {backbone!r}, got "
                f"width {width} in {depth} layers and {self.dim}. They were trained with another "
                "model: fit again."
            )
        self.register_buffer("visual_prompts", visual_prompts)
        self.register_buffer("text_features", text_features)

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Encode pixels (B, 3, S, S), uint8, to unit rows (B, d)."""
        normalized = self.backbone.normalize(inputs)
        return self.towers.encode_image(normalized, list(self.visual_prompts))

    def encode_texts(self) -> Tensor:
        """Return the class features (C, d)."""
        return self.text_features


class PromptTuning(Tuning):
    """Train MaPLe prompts in both towers of the model, and adapters, on pixels.

    As in the paper. Every step runs both towers, so it needs a GPU or a small model.

    Parameters
    ----------
    prompt_length : int, default=2
        Number of prompts per layer.
    prompt_depth : int, default=8
        Number of layers with prompts, at most the depth of the shallower tower.
    prompt_init : str, default="a photo of a"
        Text whose first tokens initialise the prompts, not empty.
    adapter_dim : int, default=128
        Width inside the adapters.
    adapter_weight : float, default=0.01
        Residual weight of the adapters; 0 turns them off.
    pseudo_adapter : bool, default=True
        Whether strong views train a separate adapter, so that wrong pseudolabels do not affect the
        adapter that assigns them. With False they train the main adapter.
    augment : {"crop_flip", "crop", "affine"} or callable, default="crop_flip"
        Strong view. ``"crop_flip"``: random crops of the whole image, half of them flipped (as in
        the paper). ``"crop"`` and ``"affine"`` do not flip, which suits text, maps and medical
        images. Or any torchvision transform of an image preprocessed for the model, a uint8 tensor
        (3, S, S), to a tensor of the same shape and type.
    epochs : int, default=50
    steps_per_epoch : int, default=50
    batch_size : int, default=32
        Images of each of the three streams in a step, over all devices.
    optimizer : {"sgd", "adamw"}, default="sgd"
    learning_rate : float, default=0.01
        Learning rate after the warm-up; it decays to zero along a cosine.
    momentum : float, default=0.9
        Momentum of SGD; the first beta of AdamW.
    weight_decay : float, default=0.1
    warmup_epochs : int, default=1
        Number of epochs over which the learning rate rises linearly.

    See Also
    --------
    AdapterTuning : Only adapters, on features; takes seconds on a CPU.

    Notes
    -----
    For crops, decoded images are kept at twice the model's resolution, in addition to the
    preprocessed ones: 750 kB per image at 224 pixels. Beyond 1 GiB they are kept in a temporary
    file.

    References
    ----------
    Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023.

    Examples
    --------
    >>> from capkit import CAPClassifier
    >>> from capkit.tuning import PromptTuning
    >>> classifier = CAPClassifier(tuning=PromptTuning(augment="crop"))
    >>> classifier.set_params(tuning__epochs=10).tuning
    PromptTuning(augment='crop', epochs=10)
    """

    name: ClassVar[str] = "prompt"
    inference_modes: ClassVar[tuple[str, ...]] = INFERENCE_MODES
    trains_encoder: ClassVar[bool] = True

    _parameter_constraints: ClassVar[dict] = {
        **Tuning._parameter_constraints,
        "prompt_length": [Interval(Integral, 1, None, closed="left")],
        "prompt_depth": [Interval(Integral, 1, None, closed="left")],
        "prompt_init": [str],
        "augment": [StrOptions(set(STRONG_VIEWS)), callable],
    }

    def __init__(
        self,
        *,
        prompt_length: int = 2,
        prompt_depth: int = 8,
        prompt_init: str = "a photo of a",
        adapter_dim: int = 128,
        adapter_weight: float = 0.01,
        pseudo_adapter: bool = True,
        augment: str | Callable[[Tensor], Tensor] = "crop_flip",
        epochs: int = 50,
        steps_per_epoch: int = 50,
        batch_size: int = 32,
        optimizer: str = "sgd",
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.1,
        warmup_epochs: int = 1,
    ) -> None:
        self.prompt_length = prompt_length
        self.prompt_depth = prompt_depth
        self.prompt_init = prompt_init
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

    def _validate_params(self) -> None:
        super()._validate_params()
        if not self.prompt_init.strip():
            raise InvalidParameterError(
                "The 'prompt_init' parameter of PromptTuning must be a text that the prompts can "
                f"start from, such as 'a photo of a'. Got {self.prompt_init!r} instead."
            )

    def check_images(self, images: ConceptSpace | ImageSource) -> None:
        """Raise a ValueError if there are no pixels or no texts to train on.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        """
        if not isinstance(images, ConceptSpace):
            return
        needed = ("images", "prompts", "backbone")
        missing = [name for name in needed if getattr(images, name) is None]
        if missing:
            raise ValueError(
                "prompt tuning trains on pixels and texts, and the ConceptSpace has no "
                f"{' and no '.join(missing)}. Use tuning='adapter', or pass the images "
                "themselves or what CLIPEncoder makes of them."
            )

    def check_backbone(self, backbone: Callable[[], Backbone]) -> None:
        """Raise an UnsupportedBackboneError if a tower does not support prompts.

        Parameters
        ----------
        backbone : callable
            Loads the model.
        """
        model = backbone().model
        find_visual_tower(model), find_text_tower(model)

    def build(self, space: ConceptSpace, *, device: str, n_jobs: int | None) -> BuiltTuning:
        """Decode the images for both views, and prepare the construction of the prompted towers.

        Parameters
        ----------
        space : ConceptSpace
            After alignment; with images, texts and the name of their backbone.
        device : str
        n_jobs : int or None
            Workers that decode images.

        Returns
        -------
        BuiltTuning
        """
        assert space.images is not None  # check_images was called before
        load = partial(
            reload_backbone, space.backbone, space.backbone_id, owner="the ConceptSpace"
        )
        decoded = decode_for_training(
            space.images, load(device=device).preprocessing, n_jobs=n_jobs
        )
        encoder_arguments = {
            "texts": space.prompts,
            "shift": None if space.alignment is None else torch.tensor(space.alignment.shift),
            "context": self.prompt_init,
            "prompt_length": self.prompt_length,
            "prompt_depth": self.prompt_depth,
        }
        return BuiltTuning(
            inputs=as_tensor(decoded.pixels),
            strong_view=make_strong_view(self.augment, decoded),
            load_encoder=partial(_load_encoder, load, encoder_arguments),
        )

    @torch.no_grad()
    def export(self, encoder: PromptedEncoder) -> dict[str, np.ndarray]:
        """Encode the texts once and for all, and keep the visual prompts.

        The text prompts and the layers that compute the visual prompts are no longer needed,
        because prediction never runs the text tower.

        Parameters
        ----------
        encoder : PromptedEncoder

        Returns
        -------
        dict of str to ndarray
            ``text_features`` (C, d) and ``visual_prompts`` (depth, n, width).
        """
        _, visual_prompts = encoder.prompts()
        kept = {
            "text_features": encoder.encode_texts(),
            "visual_prompts": torch.stack(visual_prompts),
        }
        return {name: value.float().cpu().numpy() for name, value in kept.items()}

    def default_inference(self, paradigm: str) -> str:
        """As in the paper: prompts on, adapters off.

        Parameters
        ----------
        paradigm : {"ul", "ssl", "trzsl"}

        Returns
        -------
        str
        """
        return "no_adapters"

    def trained_encoder(
        self, weights: Mapping[str, np.ndarray], backbone: Callable[[], Backbone]
    ) -> Encoder:
        """Insert the visual prompts into the image tower again.

        Parameters
        ----------
        weights : mapping of str to ndarray
        backbone : callable
            Loads the frozen model.

        Returns
        -------
        Encoder
        """
        prompts, texts = (torch.tensor(weights[k]) for k in ("visual_prompts", "text_features"))
        return _TrainedEncoder(backbone(), prompts, texts)

    def prediction_inputs(
        self,
        images: ConceptSpace | ImageSource,
        *,
        encode: Callable[[ConceptSpace | ImageSource], np.ndarray],
        backbone: Callable[[], Backbone],
        n_jobs: int | None,
    ) -> Tensor:
        """Decode new images.

        Parameters
        ----------
        images : ConceptSpace or ImageSource
        encode : callable
            Not used: trained prompts change every feature.
        backbone : callable
            Loads the frozen model.
        n_jobs : int or None
            Workers that decode images.

        Returns
        -------
        Tensor of shape (n, S, S, 3), uint8

        Raises
        ------
        ValueError
            If a ConceptSpace has no images.
        """
        source = images.images if isinstance(images, ConceptSpace) else images
        if source is None:
            raise ValueError(
                "a classifier with tuned prompts reads pixels, and this ConceptSpace has no "
                "images. Pass the images, or what CLIPEncoder makes of them."
            )
        return as_tensor(decode_pixels(source, backbone().preprocessing, n_jobs=n_jobs))


def _load_encoder(
    load: Callable[..., Backbone], arguments: Mapping[str, Any], device: str
) -> Callable[[], Encoder]:
    return partial(PromptedEncoder, load(device=device), **arguments)
