"""A model and its steps in plain torch and loops, to hold whole trainings against.

What is shared with capkit is what a method leaves open: the first weights, which images a step
draws, and the strong views. All else is written down again from the formulas.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from capkit._seeding import seeded
from capkit.decoding import TrainingPixels
from capkit.training.module import DualAdapterModule
from capkit.training.streams import epoch_positions
from capkit.tuning import AdapterTuning, PromptTuning
from capkit.tuning.adapter import FeatureEncoder, FeatureView
from capkit.tuning.prompt import PromptedEncoder
from capkit.tuning.views import make_strong_view

NAMES = ["owl", "red fox", "emu", "cat", "dog", "bee"]
C, SEED = len(NAMES), 0
STEPS, BATCH, LR, DECAY, MOMENTUM = 3, 8, 0.02, 0.05, 0.9
DIM, WEIGHT, DEPTH, LENGTH = 8, 0.4, 2, 2


class ReferenceModel:
    """The model of one tuning: `inputs` are pixels or features, `p` its parameters by name."""

    def __init__(
        self,
        space,
        inputs,
        labels,
        paradigm,
        backbone,
        *,
        epochs,
        weight=WEIGHT,
        two_branches=True,
    ):
        self.space, self.inputs, self.backbone = space, inputs, backbone
        self.Z, self.W, self.s = space.image_features, space.text_features, space.logit_scale
        self.labels, self.n = labels, len(labels)
        self.epochs, self.weight = epochs, weight
        self.seen = set(labels[labels >= 0].tolist()) if paradigm == "trzsl" else set()
        self.allowed = [c for c in range(C) if c not in self.seen]
        self.unlabeled = np.flatnonzero(labels < 0)
        with seeded(SEED):
            if backbone is None:
                encoder = FeatureEncoder(torch.tensor(self.W))
            else:
                encoder = PromptedEncoder(
                    backbone, space.prompts, prompt_length=LENGTH, prompt_depth=DEPTH
                )
            module = DualAdapterModule(
                encoder,
                self.s,
                adapter_dim=DIM,
                adapter_weight=weight,
                pseudo_adapter=two_branches,
            )
        first = dict(module.named_parameters())
        self.p = {name: value.detach().clone().requires_grad_() for name, value in first.items()}

    # -- the model (section 3)

    def adapt(self, name, x):
        hidden = F.relu(x @ self.p[f"{name}.fc1.weight"].T + self.p[f"{name}.fc1.bias"])
        residual = hidden @ self.p[f"{name}.fc2.weight"].T + self.p[f"{name}.fc2.bias"]
        return F.normalize(x + self.weight * residual, dim=-1)

    def text_prompt(self, layer):
        return self.p[f"encoder.prompts.text.{layer}"]

    def visual_prompt(self, layer):
        weight, bias = (
            self.p[f"encoder.prompts.to_visual.{layer}.{k}"] for k in ("weight", "bias")
        )
        return self.text_prompt(layer) @ weight.T + bias

    def texts(self):
        if self.backbone is None:
            return torch.tensor(self.W)
        model, rows = self.backbone.model, []
        shift = torch.zeros_like(torch.tensor(self.W))
        if self.space.alignment is not None:
            shift = torch.tensor(self.space.alignment.shift)
        for text, move in zip(self.space.prompts, shift, strict=True):
            ids = self.backbone.tokenizer.encode(text)
            ids = [49406] + (ids[LENGTH:] if text.startswith("a photo ") else ids) + [49407]
            x = model.token_embedding(torch.tensor(ids))
            x = torch.cat([x[:1], self.text_prompt(0), x[1:]])
            x = (x + model.positional_embedding[: len(x)])[None]
            for layer, block in enumerate(model.transformer.resblocks):
                if 0 < layer < DEPTH:
                    prompt = self.text_prompt(layer)[None]
                    x = torch.cat([x[:, :1], prompt, x[:, 1 + LENGTH :]], dim=1)
                x = block(x, attn_mask=model.attn_mask[: x.shape[1], : x.shape[1]])
            row = F.normalize(model.ln_final(x)[0, -1] @ model.text_projection, dim=-1)
            rows.append(F.normalize(row + move, dim=-1) if move.any() else row)
        return torch.stack(rows)

    def images(self, inputs):
        if self.backbone is None:
            return F.normalize(inputs, dim=-1)
        visual = self.backbone.model.visual
        x = visual.conv1((inputs.float() / 255 - 0.5) / 0.5).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding
        n_tokens = x.shape[1]
        for layer, block in enumerate(visual.transformer.resblocks):
            if layer < DEPTH:
                prompt = self.visual_prompt(layer).expand(len(x), -1, -1)
                x = torch.cat([x[:, :n_tokens], prompt], dim=1)
            x = block(visual.ln_pre(x) if layer == 0 else x)
        return F.normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1)

    def branch(self, inputs, texts, adapter):
        images = self.images(inputs)
        if not self.weight:
            return self.s * images @ texts.T
        return self.s * self.adapt(adapter, images) @ self.adapt("text_adapter", texts).T

    # -- what it predicts

    def guess(self, logits):
        """Class and probability, over the classes that unlabeled images may belong to."""
        p = torch.full_like(logits, 0.0)
        p[:, self.allowed] = logits[:, self.allowed].softmax(dim=1)
        confidence, label = p.max(dim=1)
        return label, confidence

    # -- a step (section 3)

    def draw_images(self, epoch, main):
        """Labeled images, main samples and unlabeled images of each step; None where none are."""
        sources = [np.flatnonzero(self.labels >= 0), np.flatnonzero(main >= 0), self.unlabeled]
        return [
            source[epoch_positions(len(source), STEPS, BATCH, (SEED, epoch, stream))]
            if len(source)
            else [None] * STEPS
            for stream, source in enumerate(sources)
        ]

    def strong_views(self, images, epoch, step):
        if self.backbone is None:
            view = FeatureView(self.inputs, 0.5)
        else:
            pixels = self.inputs.permute(0, 2, 3, 1).contiguous().numpy()
            view = make_strong_view("affine", TrainingPixels(pixels, pixels, np.ones(self.n)))
        key = np.random.SeedSequence([SEED, epoch, step, 3])
        with seeded(int(key.generate_state(1, np.uint64)[0] >> 1)):
            return view(images)

    def make_optimizer(self):
        return torch.optim.SGD(self.p.values(), LR, momentum=MOMENTUM, weight_decay=DECAY)

    def learn(self, optimizer, loss, at):
        """A warm-up of one epoch, then half a cosine; the learning rate is returned."""
        progress = (at - STEPS) / (self.epochs * STEPS - STEPS)
        cosine = LR * (1 + math.cos(math.pi * progress)) / 2
        rate = LR * (at + 1) / STEPS if at < STEPS else cosine
        for group in optimizer.param_groups:
            group["lr"] = rate
        for value in self.p.values():
            value.grad = torch.zeros_like(value)  # decays even where no view is kept
        loss.backward()
        optimizer.step()
        return rate

    @torch.no_grad()
    def probabilities(self, inputs, inference):
        """With prompts; of the adapters those that `inference` says."""
        texts, images = self.texts(), self.images(inputs)
        if inference == "no_adapters":
            return (self.s * images @ texts.T).softmax(dim=1).numpy()
        adapters = ["main", "pseudo"] if inference == "ensemble" else [inference]
        each = [self.branch(inputs, texts, f"{a}_adapter").softmax(dim=1) for a in adapters]
        return torch.stack(each).mean(dim=0).numpy()


def assert_same_weights(classifier, reference):
    """What a classifier has kept of its training is what the reference has learned."""
    weights = classifier._model.weights
    if reference.weight:
        for name in (name for name in reference.p if "adapter" in name):
            expected = reference.p[name].detach()
            np.testing.assert_allclose(weights[name], expected, atol=2e-5, err_msg=name)
    with torch.no_grad():
        np.testing.assert_allclose(classifier.text_features_, reference.texts(), atol=2e-5)
        for layer in range(DEPTH if reference.backbone is not None else 0):
            expected = reference.visual_prompt(layer)
            np.testing.assert_allclose(weights["visual_prompts"][layer], expected, atol=2e-5)


def draw_labels(target, paradigm):
    """Two labels a class (ssl), or all of the first three classes (trzsl)."""
    if paradigm == "ul":
        return np.full(len(target), -1)
    if paradigm == "trzsl":
        return np.where(target < 3, target, -1)
    y = np.full(len(target), -1)
    for c in range(C):
        y[np.flatnonzero(target == c)[:2]] = c
    return y


def draw_pictures():
    """Colours with noise, so that the random model predicts some classes more than others."""
    generator = np.random.default_rng(3)
    target = np.arange(90) % C
    colours = generator.integers(0, 255, (C, 1, 1, 3))
    noise = generator.integers(-60, 60, (90, 32, 32, 3))
    return np.clip(colours[target] + noise, 0, 255).astype(np.uint8), target


def make_tuning(name, epochs):
    """The way of tuning with the numbers from above."""
    training = {
        "epochs": epochs,
        "steps_per_epoch": STEPS,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "learning_rate": LR,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "adapter_dim": DIM,
        "adapter_weight": WEIGHT,
    }
    if name == "adapter":
        return AdapterTuning(augment=0.5, **training)
    return PromptTuning(prompt_depth=DEPTH, prompt_length=LENGTH, augment="affine", **training)
