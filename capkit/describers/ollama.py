"""Descriptions by a language model that an Ollama server runs."""

from __future__ import annotations

import os

from capkit.describers.language_model import DEFAULT_PROMPT, LanguageModelDescriber
from capkit.describers.ollama_protocol import OllamaModel, advise, full_name
from capkit.describers.server import Advice

__all__ = ["OllamaDescriber"]


class OllamaDescriber(LanguageModelDescriber):
    """Descriptions by a language model on an Ollama server.

    The server is asked for an answer of a given JSON layout and for what can be seen, not for
    what is known. Answers are kept, by this object and its clones and with `cache_dir` on disk
    too, so that no class is asked for twice. Where all that is asked for is kept, no server is
    needed.

    Parameters
    ----------
    model : str, default="llama3.2"
        Name of the model as ``ollama list`` shows it; ``":latest"`` may be left out.
    host : str or None, default=None
        Address of the server. None: what the ``ollama`` client takes, that is ``OLLAMA_HOST`` or
        else ``http://127.0.0.1:11434``.
    n : int, default=8
        Descriptions a class where the caller names no number. :class:`~capkit.ConceptAligner`
        names its own.
    temperature : float, default=0.7
        Sampling temperature, at least 0.
    seed : int or None, default=0
        Seed of the sampling. None leaves it to the server.
    timeout : float, default=120.0
        Seconds to wait for the whole of one answer. The first one includes loading the model.
    cache_dir : path or None, default=None
        Folder for the answers, one JSON file each in its subfolder ``descriptions``. An answer
        is kept for a model's name, a class, a number of descriptions, a prompt and the sampling
        parameters. One that turns out damaged, or to be for something else, is asked for again.
    prompt : str, default=DEFAULT_PROMPT
        The question. ``{class_name}`` stands for the quoted class name and must be there,
        ``{n}`` for the number of descriptions. Say here what kind of pictures they are.
    max_retries : int, default=3
        Further attempts after a passing fault of the server or an answer that is not what was
        asked for, after 0.5, 1, 2, ... seconds.
    n_jobs : int, default=4
        Requests under way at once. The server queues what is more than its
        ``OLLAMA_NUM_PARALLEL``.

    See Also
    --------
    OpenAIDescriber : Asks a server that speaks OpenAI's protocol.
    TableDescriber : Descriptions from a table.
    save_descriptions : Keep the answers as a table, to read and correct them.

    Notes
    -----
    Of an answer at most 4 MiB are read, about a thousand times what a class's descriptions take.
    Redirects are not followed: class names go to no other address than `host`.

    Whether a model was pulled anew is seen when the server is asked for a class that is not kept.
    What the model's earlier version answered is then asked for again. To have all answers anew,
    remove the subfolder ``descriptions``.

    Examples
    --------
    >>> from capkit.describers import OllamaDescriber
    >>> describer = OllamaDescriber(model="gemma3:4b", temperature=0.2)
    >>> describer("river", 3)  # doctest: +SKIP
    ['a winding blue band between green fields', ...]
    """

    _length_option = "num_predict"

    _parameter_constraints: dict = {
        **LanguageModelDescriber._parameter_constraints,
        "host": [str, None],
    }

    def __init__(
        self,
        model: str = "llama3.2",
        *,
        host: str | None = None,
        n: int = 8,
        temperature: float = 0.7,
        seed: int | None = 0,
        timeout: float = 120.0,
        cache_dir: str | os.PathLike | None = None,
        prompt: str = DEFAULT_PROMPT,
        max_retries: int = 3,
        n_jobs: int = 4,
    ):
        super().__init__(
            model, n, temperature, seed, timeout, cache_dir, prompt, max_retries, n_jobs
        )
        self.host = host

    def _full_name(self) -> str:
        return full_name(self.model)

    def _connect(self) -> OllamaModel:
        return OllamaModel(self.model, self.host, float(self.timeout))

    def _advise(self) -> Advice:
        return advise(self.model)
