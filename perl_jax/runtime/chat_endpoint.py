"""Concurrent, cached requests to an OpenAI-compatible chat endpoint (vLLM, SGLang, OpenAI).

The `openai` package sends and retries. Answers are cached in a file, keyed by the whole request, so that a stopped run
resumes without repeating requests. The URL is not part of the key, since the same model may be served elsewhere later.
"""

import collections
import concurrent.futures
import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from models.errors import InputError

Item, Result = TypeVar("Item"), TypeVar("Result")
Message = Mapping[str, object]  # {"role": ..., "content": ...} as in OpenAI's API

_FATAL = ("HTTP 401", "HTTP 402", "HTTP 404")  # key, credit, model: all other requests would fail, too
_SINGLE_REQUEST = re.compile(r"empty answer|HTTP 4(?!29)")  # errors that may concern this request alone


class Failure(Exception):
    """A request without a usable answer: `reason`, one of a few, for counting, and `detail`, one line of text."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {line(detail)}")
        self.reason, self.detail = reason, line(detail)


class Endpoint:
    """One model at one URL, thread-safe; its key is the environment variable OPENAI_API_KEY, if set.

    Args:
        url: as in an OpenAI client, "http://localhost:8000/v1".
        model: the name under which the endpoint serves it.
        cache: a file of answers, one JSON line each, appended as they arrive; created if missing.
        concurrency: most simultaneous requests.
        timeout: seconds to wait for an answer, as a whole.
        retries: further tries of a request that may yet succeed (no connection, timeout, 408, 409, 429, 5xx), with
            back-off; a Retry-After of up to two minutes is honoured.

    `counts` has the requests "answered", "failed", and "cached" (answered without a call); "sent" counts each try.

    Raises:
        InputError: an invalid URL or key, a cache that another process uses or that is not a cache.
    """

    def __init__(
        self, url: str, model: str, cache: str, *, concurrency: int = 8, timeout: float = 60.0, retries: int = 5
    ):
        import openai  # takes a second

        from perl_jax.runtime import bounded_http

        base, key = _checked(url, os.environ.get("OPENAI_API_KEY", "").strip())
        self._key = key
        transport = bounded_http.Transport(timeout, openai.DEFAULT_CONNECTION_LIMITS)
        tries = openai.DefaultHttpxClient(transport=transport, event_hooks={"request": [lambda _: self._count("sent")]})
        client = openai.OpenAI(
            base_url=base,
            api_key=key or "none",
            http_client=tries,
            max_retries=retries,
            timeout=openai.Timeout(timeout, connect=min(timeout, 5.0)),
        )
        self._completions = client.chat.completions  # imports more modules, before any threads start
        self.url, self.model, self.concurrency = url, model, concurrency
        self.counts, self._lock = collections.Counter(), threading.Lock()
        self._cache = _Cache(cache)
        self._proven = bool(self._cache)  # whether it has ever answered
        self._in_a_row, self._gone, self._closed = 0, "", False  # failures since the last answer; why no more are sent
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sends no more requests; waits for pending ones and caches their answers."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        with self._lock:  # two threads may close it, and a file that another thread is closing raises
            self._cache.file.close()

    def ask(self, messages: Sequence[Message], **sampling: object) -> str:
        """The model's answer to a conversation, from the cache if possible.

        Text that is not valid Unicode (a lone surrogate) is sent as "?". `sampling` is part of the request:
        temperature, ...

        Raises:
            Failure: this request failed; it is not cached, and sent again the next time.
            InputError: the endpoint is unreachable, refuses every request, or failed too many in a row.
        """
        request = {"model": self.model, "messages": messages, **sampling}
        body = json.dumps(request, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
        key = hashlib.sha256(body).hexdigest()
        if key in self._cache:
            self._count("cached")
            return self._cache[key]
        if self._gone:
            raise InputError(self._gone)
        if self._closed:
            raise Failure("stopped", "the endpoint was closed")
        try:
            text = self._send(**json.loads(body))
        except Failure as failure:
            self._failed(failure)
            raise
        self._count("answered")
        return self._cache.add(key, text)

    def each(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result | Failure]]:
        """Yields `(item, work(item))` in order, `concurrency` at a time; `work` calls `ask`, maybe repeatedly.

        A Failure raised by `work` takes the place of its result; other exceptions propagate. At most twice
        `concurrency` items are read ahead, since they may be large.
        """

        def caught(item: Item) -> Result | Failure:
            try:
                return work(item)
            except Failure as failure:
                return failure

        pending = collections.deque()
        try:
            for item in items:
                pending.append((item, self._pool.submit(caught, item)))
                if len(pending) >= 2 * self.concurrency:
                    yield pending[0][0], pending.popleft()[1].result()
            while pending:
                yield pending[0][0], pending.popleft()[1].result()
        finally:
            for _, future in pending:
                future.cancel()

    def _send(self, model: str, messages: list[Message], **sampling: object) -> str:
        import openai

        try:
            answer = self._completions.create(model=model, messages=messages, extra_body=sampling)
        except openai.APIConnectionError as error:
            reason = "timeout" if isinstance(error, openai.APITimeoutError) else "no connection"
            raise self._failure(reason, error.__cause__) from None
        except openai.APIStatusError as error:
            message = error.body.get("message", error.body) if isinstance(error.body, dict) else error.body
            raise self._failure(f"HTTP {error.status_code}", message or "no reason given") from None
        except (ValueError, RecursionError) as error:
            raise self._failure("malformed response", f"no JSON: {error}") from None
        try:
            text, finish = answer.choices[0].message.content, answer.choices[0].finish_reason
        except (AttributeError, IndexError, TypeError):
            raise self._failure("malformed response", f"no chat completion but {answer}") from None
        if not (isinstance(text, str) and text.strip()):
            raise self._failure("empty answer", f"finish_reason {finish}")
        return self._without_key(text)

    def _failure(self, reason: str, detail: object) -> Failure:
        return Failure(reason, self._without_key(str(detail)))

    def _without_key(self, text: str) -> str:
        """The text of a server, which may repeat the key that it got."""
        return text.replace(self._key, "(the key)") if self._key else text

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
            if what in ("answered", "cached"):
                self._proven, self._in_a_row = True, 0

    def _failed(self, failure: Failure) -> None:
        """Counts a failed request, and stops the run where further requests are pointless.

        A restarted run may send only requests that failed before, for reasons specific to them (too long, for example):
        once an endpoint has answered, refusals of single requests do not stop the run.
        """
        self._count("failed")
        with self._lock:
            self._in_a_row += not (self._proven and _SINGLE_REQUEST.match(failure.reason))
            absent = not self._proven and failure.reason == "no connection"
            if absent or failure.reason in _FATAL or self._in_a_row >= max(8, self.concurrency):
                self._gone = (
                    f"stopped using the endpoint {self.url} (model {line(self.model)}): {failure} "
                    f"({self.counts['failed']} requests failed); check the URL (it mostly ends in /v1), the model's "
                    "name and the environment variable OPENAI_API_KEY; answers so far are in "
                    f"{self._cache.path}; the same command resumes"
                )
                raise InputError(self._gone)


class _Cache(dict):
    """Answers by key, and their file: flushed after each answer, thread-safe, locked to one process."""

    def __init__(self, path: str):
        self.path, self._lock = path, threading.Lock()
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self.file = open(path, "a+b")  # noqa: SIM115
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process uses the cache {path}; wait for it, or name another file") from None
        except OSError as error:
            raise InputError(f"the cache {path} cannot be opened ({error.strerror}); name another file") from error
        self.file.seek(0)
        complete, start = 0, b'{"key": "'
        for number, row in enumerate(self.file, 1):
            if not row.endswith(b"\n") and row.startswith(start[: len(row)]):
                break  # the last line of a killed run
            try:
                self.setdefault(*(json.loads(row)[name] for name in ("key", "answer")))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(f"{path} is no cache of answers, see line {number}; name another file") from None
            complete += len(row)
        self.file.truncate(complete)

    def add(self, key: str, answer: str) -> str:
        """Stores an answer, unless there is one; returns the stored one."""
        with self._lock:
            if key not in self:
                self.file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
                self.file.flush()
            return self.setdefault(key, answer)


def line(text: str) -> str:
    """The start of an external text, as one line that can be printed and stored.

    >>> line("a\\n b \\ud800 \\x1b[2J")
    'a b [2J'
    """
    return " ".join("".join(character if character.isprintable() else " " for character in text[:1000]).split())[:300]


def _checked(url: str, key: str) -> tuple[str, str]:
    if not re.fullmatch(r"https?://(\[[\da-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:\d+)?(/[^\s?#@]*)?", url):
        raise InputError(
            "the endpoint's URL must look like http://localhost:8000/v1 and hold no password and no query "
            "(a key goes into the environment variable OPENAI_API_KEY)"
        )
    if not (key.isascii() and key.isprintable()):
        raise InputError("the environment variable OPENAI_API_KEY holds characters that no key has; set it again")
    return url.rstrip("/").removesuffix("/chat/completions"), key
