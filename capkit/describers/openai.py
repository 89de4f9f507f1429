"""Descriptions by a language model on a server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import os

from capkit.describers.language_model import DEFAULT_PROMPT, LanguageModelDescriber
from capkit.describers.openai_protocol import OpenAIModel, advise, check_address, read_key
from capkit.describers.server import Advice

__all__ = ["OpenAIDescriber"]


class OpenAIDescriber(LanguageModelDescriber):
    """Descriptions by a language model on any server that speaks OpenAI's chat protocol.

    llama.cpp, vLLM, LM Studio and Ollama speak it, at an address that ends in ``/v1``, and so do
    services on the internet. The model is asked for JSON in a given layout, and for what can be
    seen rather than what is known. Answers are cached as in :class:`OllamaDescriber`.

    Parameters
    ----------
    base_url : str
        Address of the server without ``/chat/completions``, for instance
        ``"http://127.0.0.1:8080/v1"``.
    model : str
        Name of the model as the server knows it. Servers with a single model accept any name.
    api_key_env : str or None, default=None
        Name of the environment variable that holds the key, if the server needs one; for instance
        ``"OPENAI_API_KEY"``. It is read at each request. The key itself is not a parameter, so it
        is never written to a file.
    n : int, default=8
        Number of descriptions per class if the caller gives none. :class:`~capkit.ConceptAligner`
        gives its own.
    temperature : float, default=0.7
        Sampling temperature, at least 0.
    seed : int or None, default=0
        Sampling seed. None leaves it to the server.
    timeout : float, default=120.0
        Seconds to wait for a complete answer. The first one may include loading the model.
    cache_dir : path or None, default=None
        Cache folder for the answers, one JSON file each in its subfolder ``descriptions``. The key
        of an answer is the address, the model's name, the class, the number of descriptions, the
        prompt and the sampling parameters. If a cached answer turns out to be damaged or to belong
        to another question, the model is asked again.
    prompt : str, default=DEFAULT_PROMPT
        The question. It must contain ``{class_name}``, which is replaced by the quoted class name;
        ``{n}`` is replaced by the number of descriptions. Say here what kind of pictures you have.
    max_retries : int, default=3
        Number of further attempts, after 0.5, 1, 2, ... seconds, if the server has a temporary
        fault or the answer is not what was asked for.
    n_jobs : int, default=4
        Number of parallel requests.

    See Also
    --------
    OllamaDescriber : Uses Ollama's own protocol, which reveals when a model was pulled again.
    TableDescriber : Descriptions from a table.
    save_descriptions : Save the answers as a table, to read and correct them.

    Notes
    -----
    The layout is requested with ``response_format={"type": "json_schema", ...}``. A server that
    refuses this (status 400 or 422, or an error that names ``response_format``), such as
    llama-cpp-python, is asked once more with ``{"type": "json_object", "schema": ...}``. If the
    answer is prose nevertheless, the request is repeated up to `max_retries` times and then fails.

    At most 4 MiB of an answer are read. Redirects are not followed, and certificates are checked:
    class names and key are sent to no address other than `base_url` and the proxy that the
    environment names.

    The protocol does not reveal the version of a model. If another model was installed under the
    same name, delete the subfolder ``descriptions`` to get its answers.

    Examples
    --------
    >>> from capkit.describers import OpenAIDescriber
    >>> describer = OpenAIDescriber("http://127.0.0.1:8080/v1", "gemma-3-4b-it", temperature=0.2)
    >>> describer("river", 3)  # doctest: +SKIP
    ['a winding blue band between green fields', ...]
    """

    # No example of the layout: small models copy it instead of answering.
    _system_prompt = (
        f"{LanguageModelDescriber._system_prompt} "
        'The answer is an object whose only name is "descriptions"; its value is a list of texts.'
    )
    _length_option = "max_tokens"

    _parameter_constraints: dict = {
        **LanguageModelDescriber._parameter_constraints,
        "base_url": [str],
        "api_key_env": [str, None],
    }

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
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
        self.base_url = base_url
        self.api_key_env = api_key_env

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_address(self.base_url)

    def _full_name(self) -> str:
        return f"{self.model} at {self.base_url.rstrip('/')}"

    def _connect(self) -> OpenAIModel:
        key = read_key(self.api_key_env)
        return OpenAIModel(self.model, self.base_url, key, float(self.timeout))

    def _advise(self) -> Advice:
        return advise(self.base_url)
