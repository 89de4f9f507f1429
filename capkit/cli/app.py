"""The commands: arguments in, one function of :mod:`capkit.commands` called, a summary out."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import capkit
from capkit.cli.group import SOME_UNREADABLE, Commands, epilog
from capkit.cli.options import (
    FILE,
    NEW_FILE,
    NEW_FOLDER,
    PAPER_DATA_SETS,
    PARADIGMS,
    SpreadCommand,
    SpreadOption,
    classes_option,
    format_option,
    make_describer,
    make_encoder,
    make_methods,
    make_tuning,
    model_options,
    photos_argument,
    read_describer,
    reading_options,
    tuning_option,
    unless_unwanted,
)
from capkit.cli.summaries import (
    show_classes,
    show_files,
    show_labeling,
    show_table,
    show_written,
)

__all__ = ["main"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="capkit COMMAND --help has examples.",
)
@click.version_option(capkit.__version__, prog_name="capkit")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def main(traceback: bool) -> None:
    """Label photos with a CLIP model that adapts to them, with few labels or none."""


@main.command(
    epilog=epilog(
        "capkit label photos --classes names.txt --out labels.csv",
        "capkit label photos --classes names.txt --out labels.csv --labels corrections.csv",
        "capkit label photos --classes names.txt --out tasks.json --format label-studio",
    )
)
@photos_argument
@classes_option
@click.option("--out", type=NEW_FILE, required=True, help="File for the labels.")
@click.option(
    "--labels",
    type=FILE,
    multiple=True,
    help="CSV of known labels, with columns path and label, as the report saves corrections; "
    "of several, later ones overrule earlier ones.",
)
@format_option
@click.option("--report", type=NEW_FILE, help="[default: --out with the suffix .html]")
@click.option("--no-report", is_flag=True, help="Write no report.")
@click.option("--model", type=NEW_FILE, help="[default: --out with the suffix .capkit]")
@click.option("--no-model", is_flag=True, help="Do not keep the model.")
@click.option(
    "--paradigm",
    type=click.Choice(["auto", *PARADIGMS]),
    default="auto",
    show_default=True,
    help="How --labels are learned from. ul: not at all; ssl: every class may be among the other "
    "images; trzsl: the other images are of classes without labels. auto: ssl where at least two "
    "classes have labels.",
)
@tuning_option
@click.option(
    "--descriptions",
    type=FILE,
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
@model_options
@reading_options
def label(photos: Path, classes: Path, out: Path, **options: Any) -> None:
    """Label the images in PHOTOS and in all folders in it.

    Adapts the model to them, and writes the labels, a page that shows which of them to trust, and
    the model. Labels that you correct on the page make the next run better.
    """
    from capkit.classifier import CAPClassifier
    from capkit.commands import label_folder

    classifier = CAPClassifier(
        tuning=options.pop("tuning"),
        describer=make_describer(
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
        report=unless_unwanted(options, "report"),
        model=unless_unwanted(options, "model"),
        format=options.pop("format"),
        classifier=classifier,
        encoder=make_encoder(**options),
    )
    show_labeling(labeling)
    _leave(labeling.unreadable)


@main.command(
    short_help="Label more images by a model that is there.",
    epilog=epilog("capkit predict labels.capkit new_photos --out new_labels.csv"),
)
@click.argument("model", type=FILE)
@photos_argument
@click.option("--out", type=NEW_FILE, required=True, help="File for the labels.")
@format_option
@click.option(
    "--backbone", help="Where the CLIP model of MODEL is now. [default: where it was then]"
)
@reading_options
def predict(model: Path, photos: Path, out: Path, **options: Any) -> None:
    """Label the images in PHOTOS by a MODEL that capkit label wrote."""
    from capkit.commands import predict_folder

    prediction = predict_folder(
        model,
        photos,
        out,
        format=options.pop("format"),
        backbone=options.pop("backbone"),
        encoder=make_encoder(**options),
    )
    show_table(prediction.table)
    show_files(prediction)
    show_written(labels=prediction.written)
    _leave(prediction.unreadable)


@main.command(
    short_help="Tell which classes are missed or confused.",
    epilog=epilog("capkit inspect photos --classes names.txt --report look.html"),
)
@photos_argument
@classes_option
@click.option("--report", type=NEW_FILE, help="HTML page with pictures. [default: none]")
@model_options
@reading_options
def inspect(photos: Path, classes: Path, report: Path | None, **options: Any) -> None:
    """Tell which classes the model misses or confuses; nothing is trained."""
    from capkit.commands import inspect_folder

    found = inspect_folder(photos, classes, report=report, encoder=make_encoder(**options))
    show_classes(found)
    show_files(found)
    show_written(report=found.report)
    _leave(found.unreadable)


@main.command(
    short_help="Measure methods on images of known classes.",
    epilog=epilog(
        "capkit compare known_photos",
        "capkit compare known_photos --method zero-shot --method CAP --plot comparison.png",
    ),
)
@photos_argument
@click.option(
    "--classes",
    type=FILE,
    help="Text file with the name of a class on each line. [default: the folders' names]",
)
@click.option(
    "--labels", type=FILE, help="CSV of the true labels. [default: the folder of each image]"
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
    type=click.Choice(PARADIGMS),
    multiple=True,
    default=["ul"],
    show_default=True,
    help="Which labels methods are shown, see capkit label --help; may be repeated.",
)
@tuning_option
@click.option("--seeds", type=click.IntRange(1), default=3, help="Runs of each. [default: 3]")
@click.option("--out", type=NEW_FILE, help="CSV file for all numbers.")
@click.option("--plot", type=NEW_FILE, help="File for a picture.")
@model_options
@reading_options
def compare(photos: Path, **options: Any) -> None:
    """Measure methods on images whose classes are known, in a folder for each class."""
    from capkit.commands import compare_folder

    comparison = compare_folder(
        photos,
        class_names=options.pop("classes"),
        labels=options.pop("labels"),
        estimators=make_methods(options.pop("methods"), options.pop("tuning")),
        paradigms=options.pop("paradigms"),
        seeds=range(options.pop("seeds")),
        out=options.pop("out"),
        plot=options.pop("plot"),
        verbose=0 if options["quiet"] else 1,
        encoder=make_encoder(**options),
    )
    click.echo(comparison.to_markdown())


@main.command(
    cls=SpreadCommand,
    short_help="Repeat the paper's experiment.",
    epilog=epilog(
        "capkit reproduce dtd",
        "capkit reproduce dtd flowers102 --paradigm ul --seeds 1 2 3",
        "capkit reproduce all --paradigm all --out numbers --data /data/sets",
        "capkit reproduce eurosat --epochs 2 --seeds 1 --method CAP --yes",
    ),
)
@click.argument(
    "data_sets",
    metavar="DATASET...",
    type=click.Choice([*PAPER_DATA_SETS, "all"]),
    nargs=-1,
    required=True,
)
@click.option(
    "--paradigm",
    "paradigms",
    type=click.Choice([*PARADIGMS, "all"]),
    multiple=True,
    default=["ul"],
    show_default=True,
    help="Which labels methods are shown; may be repeated. ul: none; ssl: two a class; trzsl: "
    "all of 62% of the classes.",
)
@click.option(
    "--backbone",
    default="ViT-B-32/openai",
    show_default=True,
    help="The CLIP model; the default is the paper's.",
)
@click.option(
    "--seeds",
    cls=SpreadOption,
    multiple=True,
    type=click.IntRange(0),
    metavar="N...",
    default=[1, 2, 3],
    help="One run of each method for each.  [default: 1 2 3]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Name of a method, as in the table; may be repeated.  [default: all]",
)
@click.option(
    "--tuning",
    type=click.Choice(["prompt", "adapter"]),
    default="prompt",
    show_default=True,
    help="prompt: the paper's; adapter: minutes on a CPU, and other figures.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Fewer than the paper's 50, for a trial; its figures are marked as such.",
)
@click.option(
    "--descriptions",
    type=FILE,
    help="CSV or JSON of other texts for classes whose name does not fit.  [default: none]",
)
@click.option(
    "--out",
    type=NEW_FOLDER,
    default="reproduction",
    show_default=True,
    help="Folder for tables, and for what a stopped run goes on from.",
)
@click.option(
    "--data",
    type=NEW_FOLDER,
    help="Folder of the data sets, which are downloaded there.  [default: $CAPKIT_DATA, else a "
    "folder of the user]",
)
@click.option("--yes", is_flag=True, help="Start on a CPU too, however long it takes.")
@reading_options
def reproduce(data_sets: tuple[str, ...], yes: bool, **options: Any) -> None:
    """Repeat the paper's experiment on its data sets.

    DATASET is flowers102, resisc45, dtd, eurosat, cub200, fgvc_aircraft, several of these, or
    all. It is downloaded, every method is trained with the paper's settings, and accuracies on
    the test images are printed beside the published ones.

    How long it takes is measured first; without a GPU that is all, unless --yes is given. Run
    again, it goes on where it was stopped.
    """
    from capkit.commands import estimate_reproduction, reproduce_paper

    tuning = make_tuning(options.pop("tuning"), options.pop("epochs"))
    out, data, verbose = options.pop("out"), options.pop("data"), 0 if options["quiet"] else 1
    paradigms = options.pop("paradigms")
    describer = read_describer(options.pop("descriptions"))
    what: dict[str, Any] = {
        "paradigms": PARADIGMS if "all" in paradigms else paradigms,
        "methods": list(make_methods(options.pop("methods"), "prompt")),
        "seeds": options.pop("seeds"),
        "tuning": tuning,
        "encoder": make_encoder(**options),
    }
    estimate = estimate_reproduction(data_sets, **what)
    click.echo(f"This takes {estimate}.", err=True)
    if not (estimate.has_gpu or yes):
        click.echo("There is no GPU. To start all the same, pass --yes.", err=True)
        sys.exit(click.UsageError.exit_code)
    reproduction = reproduce_paper(
        data_sets, **what, describer=describer, out=out, data_home=data, verbose=verbose
    )
    click.echo(reproduction.to_markdown())
    show_written(tables=reproduction.written)


@main.command(short_help="Label pictures of handwriting.", epilog=epilog("capkit demo"))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="capkit-demo")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def demo(folder: Path, quiet: bool) -> None:
    """Label pictures of handwriting, written into FOLDER, by a small model of print.

    Nothing is downloaded. FOLDER is capkit-demo where it is not given.
    """
    from capkit.commands import run_demo

    done = run_demo(folder, verbose=0 if quiet else 1)
    show_labeling(done.labeling)
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


def _leave(unreadable: Mapping[str, str]) -> None:
    if unreadable:
        sys.exit(SOME_UNREADABLE)
