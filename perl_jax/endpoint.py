"""A client of any OpenAI-compatible chat endpoint (vLLM, SGLang, llama.cpp's server, OpenAI): many requests at a time,
each paid for once.

Answers are kept in a file, keyed by the whole request, so that a stopped run goes on where it was: `Endpoint.ask`
returns a kept answer without a call. The URL is no part of the key: the same model may be served elsewhere tomorrow.
"""

import collections
import concurrent.futures
import datetime
import email.utils
import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from models.errors import InputError

Item, Result = TypeVar("Item"), TypeVar("Result")
Message = Mapping[str, object]  # {"role": ..., "content": ...} as in OpenAI's API

_LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
_LARGEST_ANSWER = 2**24  # bytes
_HOPELESS = {  # statuses that every other request would get, too
    401: "check the environment variable OPENAI_API_KEY",
    402: "the account has no credit left",
    404: "check the URL (it ends in /v1 mostly) and the model's name",
}


class Failure(Exception):
    """A request without a usable answer: `reason`, one of few, to be counted, and `detail`, one line for a person."""

    def __init__(self, reason: str, detail: str, *, again: bool = True, after: float = 0.0):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, line(detail)
        self.again, self.after = again, after  # whether another try may help, and seconds that the server asks for


class Endpoint:
    """One model behind one URL, for many threads.

    The environment variable OPENAI_API_KEY is sent where it is set, to this URL's host alone.

    Args:
        url: as an OpenAI client takes it, "http://localhost:8000/v1".
        model: the name under which the endpoint serves it.
        cache: a file of answers, one JSON line each, written as they come; made where there is none.
        concurrency: most requests at a time.
        timeout: seconds for a whole answer.
        retries: further tries of a request that may yet succeed (no connection, timeout, 408, 409, 429, 5xx, rubbish).
        wait: seconds before the first of them; doubled each time, and with jitter. A longer Retry-After is honoured.

    `counts` has the requests "sent", "retried" (times that one was sent again), "answered", "failed", and "cached"
    (answered without being sent).

    Raises:
        InputError: a URL or key that is none, a cache that another process uses or that holds something else.
    """

    def __init__(self, url: str, model: str, cache: str, *, concurrency: int = 8, timeout: float = 60.0,
                 retries: int = 5, wait: float = 1.0):  # fmt: skip
        self.url, self.model = _base(url), model
        self.concurrency, self.counts = concurrency, collections.Counter()
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._headers = {"Content-Type": "application/json", "User-Agent": "perl_jax"}  # some refuse urllib's own name
        self._authorization = _authorization(os.environ.get("OPENAI_API_KEY", ""))
        self._cache = _Cache(cache)
        self._lock, self._halted = threading.Lock(), threading.Event()
        self._reached = False  # whether there is a server at all
        self._proven = bool(self._cache)  # whether it has ever given an answer
        self._in_a_row, self._gone = 0, ""  # requests failed since the last answer, and why no more are sent
        self._pool = concurrent.futures.ThreadPoolExecutor(concurrency, thread_name_prefix="endpoint")

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Sends nothing more; waits for what is on its way, which is paid for, and keeps it."""
        self._halted.set()
        self._pool.shutdown(cancel_futures=True)
        self._cache.close()

    def ask(self, messages: Sequence[Message], **sampling: object) -> str:
        """The model's answer to a conversation, a kept one where there is one.

        Text that is no Unicode (a lone surrogate) is sent as "?". `sampling` is part of the request: temperature, ...

        Raises:
            Failure: this request failed; it is not kept, and asked again the next time.
            InputError: the endpoint is not there, refuses every request, or failed too many in a row.
        """
        request = {"model": self.model, "messages": messages, **sampling}
        body = json.dumps(request, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
        key = hashlib.sha256(body).hexdigest()
        if (kept := self._cache.get(key)) is not None:
            self._answered("cached")
            return kept
        try:
            text = self._persist(body)
        except Failure as failure:
            self._failed(failure)
            raise
        self._answered("answered")
        return self._cache.add(key, text)

    def each(self, items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Result | Failure]]:
        """`(item, work(item))` in the items' order, `concurrency` at a time; `work` calls `ask`, maybe more than once.

        A Failure that `work` raises stands in its result's place; any other exception comes out of here. At most
        twice as many items are read as are asked at a time, so that they may hold much.
        """
        pending = collections.deque()
        try:
            for item in items:
                pending.append((item, self._pool.submit(work, item)))
                if len(pending) >= 2 * self.concurrency:
                    yield _result(*pending.popleft())
            while pending:
                yield _result(*pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()

    def _persist(self, body: bytes) -> str:
        """The answer to a request, tried again while that may help."""
        for attempt in range(self._retries + 1):
            if self._gone:
                raise InputError(self._gone)
            if self._halted.is_set():
                raise Failure("stopped", "the endpoint was closed")
            with self._lock:
                self.counts["retried" if attempt else "sent"] += 1
            try:
                return self._send(body)
            except Failure as failure:
                if not failure.again or attempt == self._retries:
                    raise
                pause = self._wait * 2**attempt * random.uniform(0.5, 1.0)
                self._halted.wait(min(max(pause, failure.after), _LONGEST_WAIT))
        raise AssertionError("the last attempt returns or raises")

    def _send(self, body: bytes) -> str:
        """One try."""
        request = urllib.request.Request(f"{self.url}/chat/completions", body, self._headers)
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                self._reached = True
                data = _read(response, time.monotonic() + self._timeout)
        except urllib.error.HTTPError as error:
            self._reached = True
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            self._reached |= not isinstance(error, urllib.error.URLError)  # which means: before the request was sent
            reason = getattr(error, "reason", error)  # URLError wraps what happened
            if isinstance(reason, TimeoutError):
                raise Failure("timeout", f"no answer within {self._timeout:g} s") from None
            raise Failure("no connection", str(reason) or type(reason).__name__) from None
        return _answer(data)

    def _refusal(self, error: urllib.error.HTTPError) -> Failure:
        try:
            said = _said(error.read(2000))
        except (OSError, http.client.HTTPException):
            said = ""
        detail = said or error.reason or "no reason given"
        if hint := _HOPELESS.get(error.code):
            self._stop(f"HTTP {error.code}, {detail}; {hint}")
        again = error.code in (408, 409, 429) or error.code >= 500
        return Failure(f"HTTP {error.code}", detail, again=again, after=_retry_after(error.headers))

    def _answered(self, how: str) -> None:
        with self._lock:
            self.counts[how] += 1
            self._proven, self._in_a_row = True, 0

    def _failed(self, failure: Failure) -> None:
        """Counts a request as failed, and stops the run where there is no use in going on.

        A run that is started again may ask only what failed before, for good reasons of its own (too long, say): from
        an endpoint that has given answers, refusals of a single request are no sign, however many.
        """
        with self._lock:
            self.counts["failed"] += 1
            self._in_a_row += failure.again or not self._proven
            many = self._in_a_row >= max(8, self.concurrency)
        if failure.reason != "stopped" and (many or not self._reached):
            self._stop(f"{self.counts['failed']} requests failed, the last with {failure}")

    def _stop(self, why: str) -> None:
        self._gone = (f"no use of the endpoint {self.url} (model {line(self.model)}): {line(why)}; "
                      f"answers so far are in {self._cache.path}, the same command goes on")  # fmt: skip
        self._halted.set()  # wakes those that wait before another try
        raise InputError(self._gone)


class _Cache:
    """Answers by key, and their file: appended to and flushed at each, safe for threads, one process at a time."""

    _START = b'{"key": "'

    def __init__(self, path: str):
        self.path, self._lock, self._answers = path, threading.Lock(), {}
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"the cache {path} cannot be opened ({error.strerror}); name another file") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except BlockingIOError:
            self._file.close()
            raise InputError(f"another process uses the cache {path}; wait for it, or name another file") from None
        except InputError:
            self._file.close()
            raise

    def _load(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, row in enumerate(self._file, 1):
            if not row.endswith(b"\n") and row.startswith(self._START[: len(row)]):
                break  # the last line of a run that was killed
            try:
                entry = json.loads(row)
                self._answers.setdefault(str(entry["key"]), str(entry["answer"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                raise InputError(f"{self.path} is no cache of answers, see line {number}; name another file") from None
            whole += len(row)
        self._file.truncate(whole)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> str | None:
        return self._answers.get(key)

    def add(self, key: str, answer: str) -> str:
        """The first answer to a request is the one that stays, here and the next time."""
        with self._lock:
            if key not in self._answers:
                self._file.write(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
                self._file.flush()
                self._answers[key] = answer
            return self._answers[key]

    def close(self) -> None:
        self._file.close()


def line(text: str) -> str:
    """The start of a text from elsewhere, as one line that can be printed and stored.

    >>> line("a\\n b \\ud800 \\x1b[2J")
    'a b [2J'
    """
    return " ".join("".join(character if character.isprintable() else " " for character in text[:1000]).split())[:300]


def _result(item, future: concurrent.futures.Future) -> tuple:
    try:
        return item, future.result()
    except Failure as failure:
        return item, failure


def _base(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        sound = bool(parts.hostname and parts.hostname.encode("idna")) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:  # brackets, a port that is no number, a part of the name that is too long
        sound = False
    if not sound or not re.fullmatch(r"https?://[!-~]+", url) or parts.query or parts.fragment:
        raise InputError("the endpoint's URL must look like http://localhost:8000/v1 and hold no password and no query "
                         "(a key goes into the environment variable OPENAI_API_KEY)")  # fmt: skip
    return url.rstrip("/").removesuffix("/chat/completions")


def _authorization(key: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise InputError("the environment variable OPENAI_API_KEY holds characters that no key has; set it again")
    return f"Bearer {key}" if key else ""


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body; TimeoutError at the deadline, also where it comes a byte at a time."""
    data = bytearray()
    while part := response.read1(2**16):
        data += part
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) > _LARGEST_ANSWER:
            raise Failure("rubbish", f"an answer of more than {_LARGEST_ANSWER} bytes", again=False)
    return bytes(data)


def _answer(data: bytes) -> str:
    """The text in a chat completion; a Failure where there is none."""
    try:
        choice = json.loads(data)["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise Failure("rubbish", f"no chat completion but {_said(data[:2000])!r}") from None
    if not (isinstance(text, str) and text.strip()):
        raise Failure("empty answer", f"finish_reason {finish}", again=finish != "length")
    return text


def _said(data: bytes) -> str:
    """The message of an error in one of the usual forms, or what there is."""
    try:
        said = json.loads(data)
        said = said.get("error", said)
        return line(said if isinstance(said, str) else str(said["message"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return line(data.decode("utf-8", "replace"))


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 without one."""
    value = headers.get("Retry-After", "0")
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (email.utils.parsedate_to_datetime(value) - datetime.datetime.now(datetime.UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0
