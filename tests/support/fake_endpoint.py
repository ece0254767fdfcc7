"""A fake OpenAI-compatible chat endpoint with scripted replies, in a thread of this process.

with FakeEndpoint(lambda request: "yes") as server: Endpoint(server.url, ...)
"""

import http.server
import json
import re
import threading
from collections.abc import Callable
from typing import NamedTuple


class Reply(NamedTuple):
    """A raw reply instead of a completion; retried at once, unless `headers` say otherwise."""

    status: int = 200
    body: bytes | str = b""
    headers: dict[str, str] = {}  # noqa: RUF012


class FakeEndpoint:
    """`answer(request)` gets the request's JSON and returns the model's text or a Reply; it may sleep or raise.

    `requests` and their `headers` are recorded in order; `busiest` is the maximum number of concurrent requests.
    """

    def __init__(self, answer: Callable[[dict], str | Reply]):
        self.answer, self.requests, self.headers = answer, [], []
        self.busiest, self._busy, self._lock = 0, 0, threading.Lock()

    def __enter__(self) -> "FakeEndpoint":
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # else 40 ms per answer

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake._serve(self, request)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 64

            def handle_error(self, *_):
                pass  # the client disconnected

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler, request):
        with self._lock:
            self.requests.append(request)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            answer = self.answer(request)
        finally:
            with self._lock:
                self._busy -= 1
        reply = Reply(body=completion(answer)) if isinstance(answer, str) else answer
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        handler.send_response(reply.status)
        headers = {"Content-Type": "application/json", "Content-Length": len(body)}
        for name, value in {**headers, **(reply.headers or {"Retry-After-Ms": 1})}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)


def completion(text: str | None, finish: str = "stop") -> str:
    """A chat completion in OpenAI's format."""
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "model": "fake",
            "choices": [message],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    )


def last_text(request: dict) -> str:
    """The text of a request's last message, without its images."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def annotator(request: dict) -> str:
    """A valid reply to `perl_jax.curation.annotator`: short answers are checkable, a question that names an image by
    number is `rewrite`, any other is `fixed`."""
    row = json.loads(last_text({"messages": request["messages"][:1]}).rpartition("\n")[2])
    named = re.search(r"image \d+", f"{row['question']}\n{row['answer']}", re.IGNORECASE)
    kind = "choice" if row["choices"] else "number" if row["answer"].isdigit() else "text"
    return json.dumps(
        {
            "checkable": len(row["answer"]) <= 60,
            "reason": "a long answer",
            "question": row["question"],
            "choices": row["choices"],
            "answer": row["answer"],
            "kind": kind,
            "evidence": [named[0] if named else row["question"]],
            "order_effect": "rewrite" if named else "fixed",
            "confidence": 0.9,
        }
    )
