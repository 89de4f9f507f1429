"""Train the model on pictures of printed characters and their captions."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.model import CLIP
from torch import nn
from torch.nn import functional as F

from augment import augment
from capkit.backbones.stem import ConvStem
from captions import CaptionTable, build_table

CONFIG_FILE = Path(__file__).with_name("config.json")
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Settings:
    """Settings of a training run; the defaults are those of the shipped model."""

    steps: int = 4500
    warmup_steps: int = 150
    characters_per_step: int = 96
    pictures_per_character: int = 3
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    ema_decay: float = 0.998
    shape_rate: float = 0.35
    min_families: int = 4
    evaluate_every: int = 250
    n_evaluation: int = 4000
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """Training pictures in order of their character; ``starts`` delimits each character's."""

    characters: list[str]
    pictures: torch.Tensor
    starts: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """Sampling probability of each character, by the square root of its pictures."""
        weights = np.sqrt(np.diff(self.starts))
        return weights / weights.sum()


def load_corpus(path: Path, min_families: int) -> Corpus:
    """Load the training pictures of the characters that enough families draw."""
    data = np.load(path)
    codes, family = data["codes"], data["family"]
    pairs = np.unique(np.stack([codes, family]), axis=1)
    unique_codes, n_families = np.unique(pairs[0], return_counts=True)
    kept = unique_codes[n_families >= min_families]
    rows = np.flatnonzero(np.isin(codes, kept))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    starts = np.append(np.searchsorted(codes[rows], kept), len(rows))
    pictures = torch.from_numpy(data["pictures"][rows])
    return Corpus([chr(code) for code in kept], pictures, starts)


def load_evaluation(
    path: Path, characters: list[str], n_pictures: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a fixed sample of the held-out families' pictures of the training characters."""
    data = np.load(path)
    index = {ord(character): i for i, character in enumerate(characters)}
    rows = np.flatnonzero(np.isin(data["codes"], list(index)))
    rows = np.random.default_rng(0).choice(rows, min(n_pictures, len(rows)), replace=False)
    labels = torch.tensor([index[int(code)] for code in data["codes"][rows]])
    return torch.from_numpy(data["pictures"][rows]), labels


def build_model(config: dict, vocab_size: int) -> CLIP:
    """Build the model with an embedding for ``vocab_size`` tokens only."""
    shape = copy.deepcopy(config["model_cfg"])
    shape["text_cfg"]["vocab_size"] = vocab_size
    model = CLIP(**shape)
    model.visual.conv1 = ConvStem(config["conv_stem"])
    return model


def preprocess(gray: torch.Tensor, config: dict) -> torch.Tensor:
    """Normalise gray levels in [0, 1], (n, 1, 32, 32), and repeat them to RGB."""
    mean, std = (
        torch.tensor(config["preprocess_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std")
    )
    return (gray - mean) / std


def encode_text(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Encode captions cut to the longest: the tower is causal and reads the end token."""
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    hidden = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(dim=1)]
    return F.normalize(ends @ model.text_projection, dim=-1)


def contrastive_loss(
    image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross entropy with several pictures, consecutive ones, to each caption.

    Parameters
    ----------
    image_features : Tensor of shape (k * n, d)
    text_features : Tensor of shape (n, d)
    logit_scale : scalar Tensor
    """
    logits = logit_scale * image_features @ text_features.T
    n_texts = len(text_features)
    n_positives = len(image_features) // n_texts
    labels = torch.arange(n_texts).repeat_interleave(n_positives)
    positives = F.one_hot(labels, n_texts).T / n_positives
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, positives)) / 2


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def make_optimizer(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW that decays matrices only, as CLIP's training does."""
    parameters = list(model.named_parameters())
    decayed = [p for name, p in parameters if p.ndim >= 2 and "embedding" not in name]
    chosen = {id(p) for p in decayed}
    rest = [p for _, p in parameters if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def draw_batch(
    corpus: Corpus, captions: CaptionTable, settings: Settings, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the augmented pictures and captions of one step, a function of seed and step alone."""
    rng = np.random.default_rng([settings.seed, step])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    chosen = rng.choice(
        len(corpus.characters),
        settings.characters_per_step,
        replace=False,
        p=corpus.probabilities,
    )
    rows = np.concatenate(
        [
            rng.choice(
                np.arange(corpus.starts[i], corpus.starts[i + 1]),
                settings.pictures_per_character,
                replace=False,
            )
            for i in chosen
        ]
    )
    pictures = augment(corpus.pictures[torch.from_numpy(rows)], generator)
    return pictures, torch.from_numpy(captions.sample(chosen, settings.shape_rate, rng))


@torch.no_grad()
def evaluate(
    model: CLIP,
    captions: CaptionTable,
    pictures: torch.Tensor,
    labels: torch.Tensor,
    config: dict,
) -> dict[str, float]:
    """Score pictures of held-out families against the captions of all training characters."""
    model.eval()
    all_texts = torch.from_numpy(captions.tokens[captions.evaluation])
    texts = torch.cat([encode_text(model, part) for part in all_texts.split(256)])
    gray = pictures.unsqueeze(1).float() / 255
    images = torch.cat(
        [model.encode_image(preprocess(p, config), normalize=True) for p in gray.split(500)]
    )
    logits = model.logit_scale.exp() * images @ texts.T
    top5 = logits.topk(5, dim=1).indices
    model.train()
    return {
        "heldout_loss": F.cross_entropy(logits, labels).item(),
        "heldout_top1": (top5[:, 0] == labels).float().mean().item(),
        "heldout_top5": (top5 == labels[:, None]).any(1).float().mean().item(),
    }


def train(work_dir: Path, settings: Settings) -> Path:
    """Train, or go on training, and return the path of the last checkpoint."""
    config = json.loads(CONFIG_FILE.read_text())
    corpus = load_corpus(work_dir / "train.npz", settings.min_families)
    captions = build_table(corpus.characters)
    held_out = load_evaluation(work_dir / "heldout.npz", corpus.characters, settings.n_evaluation)
    torch.manual_seed(settings.seed)
    model = build_model(config, len(captions.token_ids)).train()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, settings)
    first_step = 0
    checkpoint_path = work_dir / "checkpoint.pt"
    if checkpoint_path.exists():
        checkpoint = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first_step = checkpoint["step"]

    log = _Log(work_dir / "training.jsonl")
    for step in range(first_step, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        pictures, tokens = draw_batch(corpus, captions, settings, step)
        loss = contrastive_loss(
            model.encode_image(preprocess(pictures, config), normalize=True),
            encode_text(model, tokens),
            model.logit_scale.exp(),
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
            # The average starts fast, so that early checkpoints are of use.
            decay = min(settings.ema_decay, (1 + step) / (10 + step))
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        log.add_loss(loss.item())
        done = step + 1
        if done % settings.evaluate_every == 0 or done == settings.steps:
            log.write(
                step=done,
                logit_scale=average.logit_scale.exp().item(),
                **evaluate(average, captions, *held_out, config),
            )
            state = {
                "step": done,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "token_ids": torch.from_numpy(captions.token_ids),
            }
            partial = checkpoint_path.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint_path)
    return checkpoint_path


class _Log:
    """Mean training loss and scores, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.losses: list[float] = []
        self.started = time.perf_counter()

    def add_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def write(self, step: int, **scores: float) -> None:
        seconds = time.perf_counter() - self.started
        entry = {"step": step, "loss": float(np.mean(self.losses)), **scores}
        entry["seconds_per_step"] = seconds / len(self.losses)
        line = json.dumps({k: round(v, 4) for k, v in entry.items()})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)
        self.losses = []
        self.started = time.perf_counter()
