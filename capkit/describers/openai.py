"""Descriptions by a language model on a server that speaks OpenAI's chat protocol."""

from __future__ import annotations

import os

from capkit.describers.language_model import DEFAULT_PROMPT, LanguageModelDescriber
from capkit.describers.openai_protocol import OpenAIModel, advise, check_address, read_key
from capkit.describers.server import Advice

__all__ = ["OpenAIDescriber"]


class OpenAIDescriber(LanguageModelDescriber):
    """Descriptions by a language model on any server that speaks OpenAI's chat protocol.

    llama.cpp, vLLM, LM Studio and Ollama speak it, under the address that ends in ``/v1``, and so
    do services on the internet. The server is asked for an answer of a given JSON layout and for
    what can be seen, not for what is known. Answers are kept as :class:`OllamaDescriber` keeps
    them.

    Parameters
    ----------
    base_url : str
        Address of the server: what stands before ``/chat/completions``, for instance
        ``"http://127.0.0.1:8080/v1"``.
    model : str
        Name of the model as the server knows it. Servers of one model take any name.
    api_key_env : str or None, default=None
        Name of the environment variable that holds the key, where the server wants one; for
        instance ``"OPENAI_API_KEY"``. It is read when the server is asked. The key itself is no
        parameter, so that it gets into no file.
    n : int, default=8
        Descriptions a class where the caller names no number. :class:`~capkit.ConceptAligner`
        names its own.
    temperature : float, default=0.7
        Sampling temperature, at least 0.
    seed : int or None, default=0
        Seed of the sampling. None leaves it to the server.
    timeout : float, default=120.0
        Seconds to wait for the whole of one answer. The first one may include loading the model.
    cache_dir : path or None, default=None
        Folder for the answers, one JSON file each in its subfolder ``descriptions``. An answer
        is kept for an address, a model's name, a class, a number of descriptions, a prompt and
        the sampling parameters. One that turns out damaged, or to be for something else, is asked
        for again.
    prompt : str, default=DEFAULT_PROMPT
        The question. ``{class_name}`` stands for the quoted class name and must be there,
        ``{n}`` for the number of descriptions. Say here what kind of pictures they are.
    max_retries : int, default=3
        Further attempts after a passing fault of the server or an answer that is not what was
        asked for, after 0.5, 1, 2, ... seconds.
    n_jobs : int, default=4
        Requests under way at once.

    See Also
    --------
    OllamaDescriber : Asks Ollama in its own protocol, which tells when a model was pulled anew.
    TableDescriber : Descriptions from a table.
    save_descriptions : Keep the answers as a table, to read and correct them.

    Notes
    -----
    The layout is asked for as ``response_format={"type": "json_schema", ...}``. A server that
    refuses it (status 400 or 422, or an error that names ``response_format``), as
    llama-cpp-python does, is asked once more with ``{"type": "json_object", "schema": ...}``.
    What answers in prose all the same is asked again, and then given up.

    Of an answer at most 4 MiB are read. Redirects are not followed, and certificates are checked:
    class names and key go to no other address than `base_url`, and to the proxy that the
    environment names.

    The protocol does not tell the version of a model. Where another one was put in its place
    under the same name, remove the subfolder ``descriptions`` to have its answers.

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
