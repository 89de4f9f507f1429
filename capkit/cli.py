"""The command line: arguments in, one function of :mod:`capkit.commands` called, a summary out."""

from __future__ import annotations

import contextlib
import errno
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import capkit

if TYPE_CHECKING:
    from capkit.commands import Inspection, Labeling, Prediction
    from capkit.encoder import CLIPEncoder
    from capkit.labels import LabelTable

__all__ = ["main"]

# Exit codes beside 0 and 1 (it failed); 2 is click's, of arguments that cannot be.
_SOME_UNREADABLE = 3
_INTERRUPTED = 130

_EXIT_CODES = (
    "Exit codes: 0 done; 1 failed; 2 wrong arguments; 3 done, but for files that could not be "
    "read; 130 interrupted."
)
_PARADIGMS = ("ul", "ssl", "trzsl")
_FORMATS = ("csv", "parquet", "label-studio", "fiftyone")
# Files that could not be read which the summary names; all are in the table and in the report.
_SHOWN = 5


def _epilog(*examples: str) -> str:
    """Examples, each on a line of its own (the mark is click's), and the exit codes."""
    lines = "\n".join(f"  {example}" for example in examples)
    return f"\b\nExamples:\n{lines}\n\n{_EXIT_CODES}"


class _Commands(click.Group):
    """Commands in the order in which they are used, whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        from capkit.exceptions import CapkitError

        with _warnings_of_one_line():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:
                click.echo(f"Interrupted. {error}".rstrip(), err=True)
                ctx.exit(_INTERRUPTED)
            except (CapkitError, OSError, ValueError, ImportError) as error:
                closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
                if closed_pipe or ctx.params.get("traceback"):
                    raise
                raise click.ClickException(_one_line(error)) from None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


# -- options that several commands have

_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_new_file = click.Path(dir_okay=False, path_type=Path)

_photos = click.argument("photos", type=_folder)
_classes = click.option(
    "--classes",
    type=_file,
    required=True,
    help="Text file with the name of a class on each line.",
)
_format = click.option(
    "--format",
    type=click.Choice(_FORMATS),
    help="Of the labels. [default: by the suffix of --out: .csv or .parquet]",
)

_tuning = click.option(
    "--tuning",
    type=click.Choice(["auto", "adapter", "prompt"]),
    default="auto",
    show_default=True,
    help="adapter: seconds; prompt: wants a GPU; auto: prompt where there is one.",
)


def _reading_options(function: Any) -> Any:
    """Options on how images are read and encoded."""
    for option in reversed(
        (
            click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1."),
            click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True),
            click.option("--jobs", type=int, help="Workers that read images. [default: CPUs]"),
            click.option(
                "--cache",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder for features, so that a second run reads no image again.  "
                "[default: a folder for caches of the system]",
            ),
            click.option("--no-cache", is_flag=True, help="Keep no features."),
            click.option("--quiet", is_flag=True, help="No progress bars."),
        )
    ):
        function = option(function)
    return function


def _model_options(function: Any) -> Any:
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
                help="Text for a class, {} its name; several are averaged.",
            ),
        )
    ):
        function = option(function)
    return function


def _encoder(
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


# -- the commands


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="capkit COMMAND --help has examples.",
)
@click.version_option(capkit.__version__, prog_name="capkit")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def main(traceback: bool) -> None:
    """Label photos with a CLIP model that adapts to them, with few labels or none."""


@main.command(
    epilog=_epilog(
        "capkit label photos --classes names.txt --out labels.csv",
        "capkit label photos --classes names.txt --out labels.csv --labels corrections.csv",
        "capkit label photos --classes names.txt --out tasks.json --format label-studio",
    )
)
@_photos
@_classes
@click.option("--out", type=_new_file, required=True, help="File for the labels.")
@click.option(
    "--labels",
    type=_file,
    multiple=True,
    help="CSV of known labels, with columns path and label, as the report saves corrections; "
    "of several, later ones overrule earlier ones.",
)
@_format
@click.option("--report", type=_new_file, help="[default: --out with the suffix .html]")
@click.option("--no-report", is_flag=True, help="Write no report.")
@click.option("--model", type=_new_file, help="[default: --out with the suffix .capkit]")
@click.option("--no-model", is_flag=True, help="Do not keep the model.")
@click.option(
    "--paradigm",
    type=click.Choice(["auto", *_PARADIGMS]),
    default="auto",
    show_default=True,
    help="How --labels are learned from. ul: not at all; ssl: every class may be among the other "
    "images; trzsl: the other images are of classes without labels. auto: ssl where at least two "
    "classes have labels.",
)
@_tuning
@click.option(
    "--descriptions",
    type=_file,
    help="CSV or JSON of other texts for classes whose name does not fit.",
)
@click.option("--ollama", metavar="MODEL", help="Let this model of Ollama write such texts.")
@click.option(
    "--openai",
    nargs=2,
    metavar="URL MODEL",
    help="Let a model on a server of OpenAI's protocol write them, such as "
    "http://127.0.0.1:8080/v1 gemma-3-4b-it.",
)
@click.option(
    "--api-key-env", metavar="NAME", help="Environment variable that holds that server's key."
)
@click.option("--seed", type=int, default=0, show_default=True)
@_model_options
@_reading_options
def label(photos: Path, classes: Path, out: Path, **options: Any) -> None:
    """Label the images in PHOTOS and in all folders in it.

    Adapts the model to them, and writes the labels, a page that shows which of them to trust, and
    the model. Labels that you correct on the page make the next run better.
    """
    from capkit.classifier import CAPClassifier
    from capkit.commands import label_folder

    classifier = CAPClassifier(
        tuning=options.pop("tuning"),
        describer=_describer(
            *(options.pop(name) for name in ("descriptions", "ollama", "openai", "api_key_env"))
        ),
        random_state=options.pop("seed"),
        verbose=0 if options["quiet"] else 1,
    )
    labeling = label_folder(
        photos,
        classes,
        out,
        labels=options.pop("labels"),
        paradigm=options.pop("paradigm"),
        report=_unless_unwanted(options, "report"),
        model=_unless_unwanted(options, "model"),
        format=options.pop("format"),
        classifier=classifier,
        encoder=_encoder(**options),
    )
    _show_labeling(labeling)
    _leave(labeling.unreadable)


@main.command(
    short_help="Label more images by a model that is there.",
    epilog=_epilog("capkit predict labels.capkit new_photos --out new_labels.csv"),
)
@click.argument("model", type=_file)
@_photos
@click.option("--out", type=_new_file, required=True, help="File for the labels.")
@_format
@click.option(
    "--backbone", help="Where the CLIP model of MODEL is now. [default: where it was then]"
)
@_reading_options
def predict(model: Path, photos: Path, out: Path, **options: Any) -> None:
    """Label the images in PHOTOS by a MODEL that capkit label wrote."""
    from capkit.commands import predict_folder

    prediction = predict_folder(
        model,
        photos,
        out,
        format=options.pop("format"),
        backbone=options.pop("backbone"),
        encoder=_encoder(**options),
    )
    _show_table(prediction.table)
    _show_files(prediction)
    _show_written(labels=prediction.written)
    _leave(prediction.unreadable)


@main.command(
    short_help="Tell which classes are missed or confused.",
    epilog=_epilog("capkit inspect photos --classes names.txt --report look.html"),
)
@_photos
@_classes
@click.option("--report", type=_new_file, help="HTML page with pictures. [default: none]")
@_model_options
@_reading_options
def inspect(photos: Path, classes: Path, report: Path | None, **options: Any) -> None:
    """Tell which classes the model misses or confuses; nothing is trained."""
    from capkit.commands import inspect_folder

    found = inspect_folder(photos, classes, report=report, encoder=_encoder(**options))
    _show_classes(found)
    _show_files(found)
    _show_written(report=found.report)
    _leave(found.unreadable)


@main.command(
    short_help="Measure methods on images of known classes.",
    epilog=_epilog(
        "capkit compare known_photos",
        "capkit compare known_photos --method zero-shot --method CAP --plot comparison.png",
    ),
)
@_photos
@click.option(
    "--classes",
    type=_file,
    help="Text file with the name of a class on each line. [default: the folders' names]",
)
@click.option(
    "--labels", type=_file, help="CSV of the true labels. [default: the folder of each image]"
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Name of a method, as in the table; may be repeated. [default: all]",
)
@click.option(
    "--paradigm",
    "paradigms",
    type=click.Choice(_PARADIGMS),
    multiple=True,
    default=["ul"],
    show_default=True,
    help="Which labels methods are shown, see capkit label --help; may be repeated.",
)
@_tuning
@click.option("--seeds", type=click.IntRange(1), default=3, help="Runs of each. [default: 3]")
@click.option("--out", type=_new_file, help="CSV file for all numbers.")
@click.option("--plot", type=_new_file, help="File for a picture.")
@_model_options
@_reading_options
def compare(photos: Path, **options: Any) -> None:
    """Measure methods on images whose classes are known, in a folder for each class."""
    from capkit.commands import compare_folder

    comparison = compare_folder(
        photos,
        class_names=options.pop("classes"),
        labels=options.pop("labels"),
        estimators=_methods(options.pop("methods"), options.pop("tuning")),
        paradigms=options.pop("paradigms"),
        seeds=range(options.pop("seeds")),
        out=options.pop("out"),
        plot=options.pop("plot"),
        verbose=0 if options["quiet"] else 1,
        encoder=_encoder(**options),
    )
    click.echo(comparison.to_markdown())


@main.command(short_help="Label pictures of handwriting.", epilog=_epilog("capkit demo"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="capkit-demo")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(folder: Path, quiet: bool) -> None:
    """Label pictures of handwriting, written into FOLDER, by a small model of print.

    Nothing is downloaded. FOLDER is capkit-demo where it is not given.
    """
    from capkit.commands import run_demo

    done = run_demo(folder, verbose=0 if quiet else 1)
    _show_labeling(done.labeling)
    before, after = done.accuracy_before, done.accuracy_after
    click.echo(f"Right: {before:.1%} by the names alone, {after:.1%} now.")
    click.echo("With your photos: capkit label PHOTOS --classes names.txt --out labels.csv")


@main.command()
def info() -> None:
    """Show versions, device, model and what else is installed."""
    from capkit.commands import describe_installation

    facts = describe_installation()
    width = max(len(name) for name in facts)
    for name, fact in facts.items():
        click.echo(f"{name:{width}}  {fact}")


# -- from options to arguments


def _unless_unwanted(options: dict[str, Any], name: str) -> Path | str | None:
    """A file that is written unless it is not wanted."""
    path, unwanted = options.pop(name), options.pop(f"no_{name}")
    if path is not None and unwanted:
        raise click.UsageError(f"--{name} and --no-{name} contradict each other.")
    return None if unwanted else path or "auto"


def _methods(names: Sequence[str], tuning: str) -> dict[str, Any]:
    from capkit.comparison import all_methods

    methods = all_methods(tuning)
    if unknown := [name for name in names if name not in methods]:
        raise click.BadParameter(
            f"{unknown[0]!r} is none of: {', '.join(methods)}", param_hint="--method"
        )
    return {name: methods[name] for name in names or methods}


def _describer(
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


# -- summaries


def _show_labeling(labeling: Labeling) -> None:
    from capkit.report.wording import adaptation_words

    _show_table(labeling.table)
    if labeling.n_given:
        click.echo(f"{_images(labeling.n_given)} kept the label that was given.")
    words = adaptation_words(labeling.classifier.adaptation_report_)
    click.echo(click.wrap_text(" ".join(words)))
    mismatched = labeling.classifier.mismatched_names_
    if mismatched:
        click.echo(f"Names that do not fit their images: {', '.join(mismatched)}.")
    _show_files(labeling)
    _show_written(labels=labeling.written, report=labeling.report, model=labeling.model)


def _show_classes(found: Inspection) -> None:
    width = max(len(name) for name in found.class_names)
    click.echo(f"{'class':{width}}  images  mean confidence")
    rows = zip(found.class_names, found.counts, found.confidence, strict=True)
    for name, count, confidence in rows:
        mark = "  the name does not fit its images" if name in found.mismatched else ""
        mean = f"{confidence:.0%}" if count else ""
        click.echo(f"{name:{width}}  {count:6}  {mean:>15}{mark}")
    for first, second, images in found.confused_pairs():
        click.echo(f"{first} / {second}: about {images:.0f} images may be confused")


def _show_table(table: LabelTable) -> None:
    labeled = table.labels >= 0
    doubtful = sum(bool(doubt) for doubt, read in zip(table.doubts, labeled, strict=True) if read)
    click.echo(f"{_images(int(labeled.sum()))} labeled, {doubtful} of them doubtful.")


def _show_files(result: Labeling | Prediction | Inspection) -> None:
    unreadable: Mapping[str, str] = result.unreadable
    if unreadable:
        click.echo(f"{_images(len(unreadable))} could not be read:", err=True)
        for name, reason in list(unreadable.items())[:_SHOWN]:
            click.echo(f"  {name}: {reason}", err=True)
        if len(unreadable) > _SHOWN:
            click.echo(f"  and {len(unreadable) - _SHOWN} more", err=True)
    if result.other_files:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in result.other_files.items())
        click.echo(f"Files that are no images: {counts}.", err=True)


def _show_written(**files: Path | tuple[Path, ...] | None) -> None:
    for what, paths in files.items():
        for path in paths if isinstance(paths, tuple) else [paths]:
            if path is not None:
                click.echo(f"{what:6}  {path}")


def _images(n: int) -> str:
    return "1 image" if n == 1 else f"{n} images"


def _leave(unreadable: Mapping[str, str]) -> None:
    if unreadable:
        sys.exit(_SOME_UNREADABLE)
