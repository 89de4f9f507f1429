"""Descriptions by a language model on an Ollama server."""

from __future__ import annotations

import os

from capkit.describers.language_model import DEFAULT_PROMPT, LanguageModelDescriber
from capkit.describers.ollama_protocol import OllamaModel, advise, full_name
from capkit.describers.server import Advice

__all__ = ["OllamaDescriber"]


class OllamaDescriber(LanguageModelDescriber):
    """Descriptions by a language model on an Ollama server.

    The model is asked for JSON in a given layout, and for what can be seen rather than what is
    known. This object and its clones cache answers, with `cache_dir` on disk as well, so that no
    class is asked about twice. If all answers are cached, no server is needed.

    Parameters
    ----------
    model : str, default="llama3.2"
        Name of the model as ``ollama list`` shows it; ``":latest"`` may be left out.
    host : str or None, default=None
        Address of the server. None means the default of the ``ollama`` client: ``OLLAMA_HOST`` or
        else ``http://127.0.0.1:11434``.
    n : int, default=8
        Number of descriptions per class if the caller gives none. :class:`~capkit.ConceptAligner`
        gives its own.
    temperature : float, default=0.7
        Sampling temperature, at least 0.
    seed : int or None, default=0
        Sampling seed. None leaves it to the server.
    timeout : float, default=120.0
        Seconds to wait for a complete answer. The first one includes loading the model.
    cache_dir : path or None, default=None
        Cache folder for the answers, one JSON file each in its subfolder ``descriptions``. The key
        of an answer is the model's name, the class, the number of descriptions, the prompt and the
        sampling parameters. If a cached answer turns out to be damaged or to belong to another
        question, the model is asked again.
    prompt : str, default=DEFAULT_PROMPT
        The question. It must contain ``{class_name}``, which is replaced by the quoted class name;
        ``{n}`` is replaced by the number of descriptions. Say here what kind of pictures you have.
    max_retries : int, default=3
        Number of further attempts, after 0.5, 1, 2, ... seconds, if the server has a temporary
        fault or the answer is not what was asked for.
    n_jobs : int, default=4
        Number of parallel requests. The server queues those beyond its ``OLLAMA_NUM_PARALLEL``.

    See Also
    --------
    OpenAIDescriber : Asks a server that speaks OpenAI's protocol.
    TableDescriber : Descriptions from a table.
    save_descriptions : Save the answers as a table, to read and correct them.

    Notes
    -----
    At most 4 MiB of an answer are read, about a thousand times the size of a class's descriptions.
    Redirects are not followed: class names are sent to no address other than `host`.

    A newly pulled version of a model is noticed when the server is asked about a class that is not
    cached. Questions that the earlier version answered are then asked again. To get new answers
    for all classes, delete the subfolder ``descriptions``.

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
