"""A small server on loopback that speaks what capkit uses of Ollama's and OpenAI's protocols.

It knows no language model: it answers every well-formed question with texts made of the class
name, and can be told to fail in the ways in which real servers and models do.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DIGEST = "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72"
# What is sent of an answer before it drips.
_HEADS = {
    "drip body": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
    "drip head": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "drip status": b"HTTP/1.1 2",
}


class OllamaServer:
    """Serves between ``__enter__`` and ``__exit__``.

    Attributes
    ----------
    host, base_url : str
        Addresses for clients of Ollama's protocol and of OpenAI's.
    models : dict of str to str
        Name and digest of each model that is "pulled".
    questions : list of dict
        Body of every chat request, in order of arrival.
    keys : list of str or None
        The header ``Authorization`` of each of them.
    layouts : set of str
        Types of ``response_format`` that are understood.
    layout_status : int
        Status of the answer to others.
    most_at_once : int
        Largest number of chat requests that were under way at the same time.
    meeting : threading.Barrier or None
        Every chat request waits there for the others, so that their number is no accident.
    list_fault : str or None
        Fail at every request for the list of models; see ``_Handler.fail``.
    """

    def __init__(self):
        self.models = {"llama3.2:latest": DIGEST}
        self.questions = []
        self.keys = []
        self.layouts = {"json_schema", "json_object"}
        self.layout_status = 400
        self.most_at_once = 0
        self.meeting = None
        self.list_fault = None
        self._faults = []
        self._class_faults = {}
        self._under_way = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self):
        server = self

        class Handler(_Handler):
            ollama = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        self.base_url = f"{self.host}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def fail_next(self, *faults: str) -> None:
        """Fail at the next chat requests, one fault each; see ``_Handler.fail``."""
        self._faults.extend(faults)

    def fail_for(self, class_name: str, fault: str) -> None:
        """Fail at every chat request about a class."""
        self._class_faults[class_name] = fault

    def take_fault(self, class_name: str) -> str | None:
        with self._lock:
            if class_name in self._class_faults:
                return self._class_faults[class_name]
            return self._faults.pop(0) if self._faults else None

    def begin(self, question: dict, key: str | None) -> None:
        with self._lock:
            self.questions.append(question)
            self.keys.append(key)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        if self.meeting is not None:
            self.meeting.wait()

    def wait(self, seconds: float) -> bool:
        """Wait, but no longer than the server is there; whether it is there still."""
        return not self._closing.wait(seconds)

    def end(self) -> None:
        with self._lock:
            self._under_way -= 1


class _Handler(BaseHTTPRequestHandler):
    ollama: OllamaServer

    def log_message(self, *arguments):
        """Keep the tests' output clean."""

    def do_GET(self):
        if self.ollama.list_fault is not None:
            return self.fail(self.ollama.list_fault, "llama3.2")
        if self.path != "/api/tags":
            return self.reply(404, {"error": "not found"})
        models = [
            {"name": name, "model": name, "digest": digest, "size": 2019393189}
            for name, digest in self.ollama.models.items()
        ]
        return self.reply(200, {"models": models})

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chats = {"/api/chat": self.chat, "/v1/chat/completions": self.chat_completion}
        if self.path not in chats:
            return self.refuse(404, "not found")
        self.ollama.begin(question, self.headers["Authorization"])
        try:
            chats[self.path](question)
        finally:
            self.ollama.end()

    def chat(self, question):
        if question.get("stream", True) or not isinstance(question.get("format"), dict):
            return self.refuse(400, "expected a JSON schema and no stream")
        return self.answer_question(question, question["format"])

    def chat_completion(self, question):
        layout = question["response_format"]
        if question.get("stream") or layout["type"] not in self.ollama.layouts:
            message = f"response_format of type {layout['type']} is not known"
            return self.refuse(self.ollama.layout_status, message)
        if layout["type"] == "json_object":
            return self.answer_question(question, layout["schema"])
        return self.answer_question(question, layout["json_schema"]["schema"])

    def answer_question(self, question, schema):
        model = question["model"]
        if not {model, f"{model}:latest"} & set(self.ollama.models):
            return self.refuse(404, f"model '{model}' not found")
        class_name = json.loads(re.search(r'"[^"]*"', question["messages"][-1]["content"])[0])
        fault = self.ollama.take_fault(class_name)
        if fault is not None:
            return self.fail(fault, model)
        n = schema["properties"]["descriptions"]["maxItems"]
        texts = [f"{class_name} seen from side {i}" for i in range(n)]
        return self.answer(model, json.dumps({"descriptions": texts}))

    def refuse(self, status, message):
        """Report an error, in the protocol of the request."""
        is_openai = self.path.startswith("/v1/")
        self.reply(status, {"error": {"message": message} if is_openai else message})

    def fail(self, fault, model):
        if fault.isdigit():
            self.refuse(int(fault), "the model runner has stopped")
        elif fault.startswith("body "):
            self.send(200, fault[5:].encode("utf-8", "surrogatepass"))
        elif fault.startswith("content "):
            self.answer(model, fault[8:])
        elif fault == "hang":
            self.ollama._closing.wait()
        elif fault == "hang up":
            self.close_connection = True
        elif fault in _HEADS:
            self.drip(_HEADS[fault])
        elif fault == "endless":
            self.pour()
        elif fault == "bomb":
            self.send(200, gzip.compress(b" " * 2**23), {"Content-Encoding": "gzip"})
        elif fault == "redirect":
            self.send(307, b"", {"Location": f"http://127.0.0.1:9{self.path}"})
        elif fault.startswith("page "):
            self.send(int(fault[5:]), b"<!DOCTYPE html>\n<html>Bad gateway</html>")
        elif fault == "broken protocol":
            self.send(200, b"<html>It works!</html>")
        elif fault == "deep protocol":
            self.send(200, b"[" * 100_000)
        elif fault == "latin-1":
            self.send(200, '{"message": {"content": "gr\xf6n"}}'.encode("latin-1"))
        elif fault == "escapes":
            self.refuse(400, "\x1b[2Jgone")
        elif fault == "truncated":
            self.send(200, b'{"model": "llama3.2", "message": {"con')
        elif fault == "half sent":
            self.send(200, b'{"model": "llama3.2"', {"Content-Length": "500"})
            self.close_connection = True
        elif fault == "not done":
            self.answer(model, '{"descriptions": ["a blue band"]}', done=False)
        elif fault == "other model":
            self.answer("gemma3:4b", '{"descriptions": ["a blue band"]}')
        elif fault == "deep JSON":
            self.answer(model, '{"descriptions": ' + "[" * 100_000)
        elif fault == "one for all":
            self.answer(model, '{"descriptions": ["a band", "A band", "a  band"]}')
        elif fault == "a book":
            self.answer(model, json.dumps({"descriptions": ["blue " * 2001]}))
        elif fault == "broken JSON":
            self.answer(model, '{"descriptions": ["a blue')
        elif fault == "cut off":
            self.answer(model, '{"descriptions": ["a blue', done_reason="length")
        elif fault == "wrong layout":
            self.answer(model, '{"visual_features": ["a blue band"]}')
        elif fault == "wrong type":
            self.answer(model, '{"descriptions": [1, 2]}')
        elif fault == "no texts":
            self.answer(model, '{"descriptions": [" ", ""]}')
        elif fault == "empty":
            self.answer(model, "")
        elif fault == "fenced":
            self.answer(model, '```json\n{"descriptions": ["a blue band"]}\n```')
        elif fault == "twice":
            self.answer(model, '{"descriptions": ["a band"], "descriptions": ["a dot"]}')
        elif fault == "no choices":
            self.reply(200, {"choices": []})
        elif fault == "parts of a text":
            self.answer(model, [{"type": "text", "text": "a blue band"}])
        elif fault == "key told":
            self.refuse(401, f"{self.headers['Authorization']} is wrong")
        else:
            raise ValueError(f"unknown fault {fault!r}")

    def answer(self, model, content, done_reason="stop", done=True):
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": done_reason}
        completion = {"object": "chat.completion", "model": model, "choices": [choice]}
        chat = {
            "model": model,
            "created_at": "2026-01-01T00:00:00Z",
            "message": message,
            "done": done,
            "done_reason": done_reason,
        }
        self.reply(200, completion if self.path.startswith("/v1/") else chat)

    def reply(self, status, body):
        self.send(status, json.dumps(body).encode())

    def send(self, status, body, headers=()):
        self.send_response(status)
        defaults = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (defaults | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, head):
        """Send the beginning of an answer, and then a byte now and then."""
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has had enough
            self.wfile.write(head)
            while self.ollama.wait(0.05):
                self.wfile.write(b" ")

    def pour(self):
        """Send an answer that has no end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(_HEADS["drip body"])
            while self.ollama.wait(0):
                self.wfile.write(b" " * 65536)
