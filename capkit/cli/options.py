"""Options that several commands have, and what is made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from capkit.encoder import CLIPEncoder
    from capkit.tuning import Tuning

__all__ = [
    "FILE",
    "NEW_FILE",
    "NEW_FOLDER",
    "PAPER_DATA_SETS",
    "PARADIGMS",
    "SpreadCommand",
    "SpreadOption",
    "classes_option",
    "format_option",
    "make_describer",
    "make_encoder",
    "make_methods",
    "make_tuning",
    "model_options",
    "photos_argument",
    "read_describer",
    "reading_options",
    "tuning_option",
    "unless_unwanted",
]

# As capkit.model_selection and capkit.labels have them, which are slow to import.
PARADIGMS = ("ul", "ssl", "trzsl")
# As capkit.reproduction has them.
PAPER_DATA_SETS = ("flowers102", "resisc45", "dtd", "eurosat", "cub200", "fgvc_aircraft")
_FORMATS = ("csv", "parquet", "label-studio", "fiftyone")

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

photos_argument = click.argument("photos", type=FOLDER)
classes_option = click.option(
    "--classes",
    type=FILE,
    required=True,
    help="Text file with one class name per line.",
)
format_option = click.option(
    "--format",
    type=click.Choice(_FORMATS),
    help="Format of the labels. [default: by the suffix of --out: .csv or .parquet]",
)

tuning_option = click.option(
    "--tuning",
    type=click.Choice(["auto", "adapter", "prompt"]),
    default="auto",
    show_default=True,
    help="adapter: takes seconds; prompt: needs a GPU; auto: prompt if there is a GPU.",
)


class SpreadOption(click.Option):
    """An option of a :class:`SpreadCommand` that takes one whole number or more at once."""


class SpreadCommand(click.Command):
    """A command in which ``--seeds 1 2 3`` and ``--seeds 1,2,3`` mean what they say.

    Click's options take a fixed number of values. So the numbers behind a
    :class:`SpreadOption` each get the option's name before the parser sees them.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spread the values out, and let click go on from there."""
        names = {n for p in self.params if isinstance(p, SpreadOption) for n in p.opts}
        return super().parse_args(ctx, _spread(args, names))


def _spread(args: Sequence[str], names: set[str]) -> list[str]:
    """Put the option's name in front of each further number that follows it."""
    spread: list[str] = []
    option, is_first = None, True
    for arg in _without_equals(args, names):
        if arg in names:
            option, is_first = arg, True
        elif option is not None and re.fullmatch(r"\d+(,\d+)*", arg):
            for number in arg.split(","):
                spread += [number] if is_first else [option, number]
                is_first = False
            continue
        else:
            option = None
        spread.append(arg)
    return spread


def _without_equals(args: Sequence[str], names: set[str]) -> list[str]:
    """The same with ``--seeds=1`` as two arguments."""
    return [
        part
        for arg in args
        for part in (arg.split("=", 1) if arg.partition("=")[0] in names else [arg])
    ]


def reading_options(function: Any) -> Any:
    """Options on how images are read and encoded."""
    for option in reversed(
        (
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1."),
            click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True),
            click.option("--jobs", type=int, help="Workers that read images. [default: CPUs]"),
            click.option(
                "--cache",
                type=click.Path(file_okay=False, path_type=Path),
                help="Cache folder for features; a second run does not read the images again.  "
                "[default: in the system's cache folder]",
            ),
            click.option("--no-cache", is_flag=True, help="Do not cache features."),
            click.option("--quiet", is_flag=True, help="Show no progress bars."),
        )
    ):
        function = option(function)
    return function


def model_options(function: Any) -> Any:
    """Options on which model encodes images and names."""
    for option in reversed(
        (
            click.option(
                "--backbone",
                default="auto",
                show_default=True,
                help="The CLIP model, such as ViT-L-14/openai, or the path of a checkpoint; "
                "auto is ViT-B-32/openai.",
            ),
            click.option(
                "--template",
                multiple=True,
                default=["a photo of a {}"],
                show_default=True,
                help="Text for a class, with {} for its name; several texts are averaged.",
            ),
        )
    ):
        function = option(function)
    return function


def make_encoder(
    *,
    device: str,
    batch_size: int,
    jobs: int | None,
    cache: Path | None,
    no_cache: bool,
    quiet: bool,
    backbone: str = "auto",
    template: tuple[str, ...] = (),
) -> CLIPEncoder:
    """Encoder of the options on reading, and on the model where a command has these."""
    from platformdirs import user_cache_path

    from capkit.encoder import CLIPEncoder

    if cache is not None and no_cache:
        raise click.UsageError("--cache and --no-cache contradict each other.")
    if not no_cache and cache is None:
        cache = user_cache_path("capkit") / "features"
    encoder = CLIPEncoder(
        backbone,
        batch_size=batch_size,
        device=device,
        cache_dir=None if no_cache else cache,
        n_jobs=jobs,
        verbose=0 if quiet else 1,
    )
    return encoder.set_params(template=list(template)) if template else encoder


# -- from options to arguments


def unless_unwanted(options: dict[str, Any], name: str) -> Path | str | None:
    """A file that is written unless it is not wanted."""
    path, unwanted = options.pop(name), options.pop(f"no_{name}")
    if path is not None and unwanted:
        raise click.UsageError(f"--{name} and --no-{name} contradict each other.")
    return None if unwanted else path or "auto"


def make_methods(names: Sequence[str], tuning: str) -> dict[str, Any]:
    """Methods of a comparison by their names; all without any."""
    from capkit.comparison import all_methods

    methods = all_methods(tuning)
    if unknown := [name for name in names if name not in methods]:
        raise click.BadParameter(
            f"{unknown[0]!r} is none of: {', '.join(methods)}", param_hint="--method"
        )
    return {name: methods[name] for name in names or methods}


def make_tuning(name: str, epochs: int | None) -> Tuning:
    """A way of tuning, with its own number of epochs or another one."""
    from capkit.tuning.choosing import TUNINGS

    tuning = TUNINGS[name]()
    return tuning if epochs is None else tuning.set_params(epochs=epochs)


def read_describer(path: Path | None) -> Any:
    """Descriptions that are read now: a run is known by them, not by their file's name."""
    from capkit.describers import TableDescriber, load_descriptions

    return None if path is None else TableDescriber(load_descriptions(path))


def make_describer(
    descriptions: Path | None,
    ollama: str | None,
    openai: tuple[str, str] | None,
    api_key_env: str | None,
) -> Any:
    """What writes other texts for classes whose name does not fit, if anything does."""
    named = {"--descriptions": descriptions, "--ollama": ollama, "--openai": openai}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{given[0]} and {given[1]} contradict each other.")
    if api_key_env is not None and openai is None:
        raise click.UsageError("--api-key-env is for --openai.")
    from capkit import describers

    if descriptions is not None:
        return describers.TableDescriber(descriptions)
    if ollama is not None:
        return describers.OllamaDescriber(model=ollama)
    if openai is not None:
        return describers.OpenAIDescriber(*openai, api_key_env=api_key_env)
    return None
