"""The client against a local server: answers paid for once, failures named, a dead endpoint told in one line."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
from fake_endpoint import FakeEndpoint, Reply, completion, last_text

from models.errors import InputError
from perl_jax.runtime.chat_endpoint import Endpoint, Failure


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "answers.jsonl")


def client(server, cache, **options):
    url = server if isinstance(server, str) else server.url
    return Endpoint(url, "fake", cache, **{"timeout": 5, "retries": 2, **options})


def say(text):
    return [{"role": "user", "content": text}]


def echo(request):
    return "said " + last_text(request)


def ask_all(endpoint, texts, **sampling):
    return list(endpoint.each(texts, lambda text: endpoint.ask(say(text), **sampling)))


def in_turn(*replies):
    """Answers with each reply once, and the last one from then on."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def test_a_request_is_in_openais_form_and_so_is_its_answer(cache, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1\n")
    with FakeEndpoint(echo) as server, client(server.url + "/chat/completions/", cache) as endpoint:
        assert endpoint.ask(say("hello"), temperature=0) == "said hello"
        assert server.requests == [{"model": "fake", "messages": say("hello"), "temperature": 0}]
        assert server.headers[0]["authorization"] == "Bearer sk-1"


def test_without_a_key_a_placeholder_is_sent(cache, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with FakeEndpoint(echo) as server, client(server, cache) as endpoint:
        endpoint.ask(say("hello"))
        assert server.headers[0]["authorization"] == "Bearer none"


def test_many_at_a_time_and_in_order(cache):
    def answer(request):
        time.sleep(0.1 if last_text(request).endswith("0") else 0.02)
        return echo(request)

    texts, read = [str(i) for i in range(30)], []

    def reading():
        for text in texts:
            read.append(text)
            yield text

    with FakeEndpoint(answer) as server, client(server, cache, concurrency=4) as endpoint:
        for count, (text, reply) in enumerate(endpoint.each(reading(), lambda text: endpoint.ask(say(text))), 1):
            assert reply == "said " + text and text == texts[count - 1]
            assert len(read) <= count + 2 * 4, "items hold pictures"
        assert count == 30 and len(server.requests) == 30
        assert 2 <= server.busiest <= 4


def test_an_equal_request_is_answered_from_the_file(cache):
    with FakeEndpoint(echo) as server:
        with client(server, cache) as endpoint:
            assert ask_all(endpoint, ["a", "b"], temperature=0) == [("a", "said a"), ("b", "said b")]
        with client(server, cache) as endpoint:
            assert ask_all(endpoint, ["b", "a"], temperature=0) == [("b", "said b"), ("a", "said a")]
            assert len(server.requests) == 2 and endpoint.counts == {"cached": 2}
            assert endpoint.ask(say("a"), temperature=1) == "said a"
            image_part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
            endpoint.ask([{"role": "user", "content": [{"type": "text", "text": "a"}, image_part]}], temperature=0)
            assert len(server.requests) == 4, "sampling and pictures are part of the request"
    with Endpoint("http://localhost:1/v1", "fake", cache) as elsewhere:
        assert elsewhere.ask(say("a"), temperature=0) == "said a", "where it is served is not"


def run_until_killed(url, cache):
    with client(url, cache, concurrency=3) as endpoint:
        ask_all(endpoint, [str(i) for i in range(40)])


def test_a_killed_run_goes_on_and_repeats_no_answered_request(cache):
    def answer(request):
        time.sleep(0.02)
        return echo(request)

    with FakeEndpoint(answer) as server:
        child = multiprocessing.get_context("fork").Process(target=run_until_killed, args=(server.url, cache))
        child.start()
        while len(server.requests) < 15:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        time.sleep(0.1)
        with open(cache, "rb") as file:
            cached = sum(row.endswith(b"\n") for row in file)
        before = len(server.requests)
        assert cached >= before - 2 * 3, "what was answered was kept at once"
        with client(server, cache) as endpoint:
            answers = ask_all(endpoint, [str(i) for i in range(40)])
        assert [reply for _, reply in answers] == [f"said {i}" for i in range(40)]
        assert len(server.requests) - before == 40 - cached and endpoint.counts["cached"] == cached


def test_an_abandoned_iterator_sends_little_more(cache):
    with FakeEndpoint(echo) as server:
        with client(server, cache, concurrency=2) as endpoint:
            for text, _ in endpoint.each(map(str, range(100)), lambda text: endpoint.ask(say(text))):
                if text == "5":
                    break
        assert len(server.requests) <= 6 + 2 * 2


@pytest.mark.parametrize("cut", [1, 5, 40, 95])
def test_a_half_written_line_is_cut(cache, cut):
    with FakeEndpoint(echo) as server:
        with client(server, cache, concurrency=1) as endpoint:
            ask_all(endpoint, ["first", "second"])
        with open(cache, "rb") as file:
            first, second = file.readlines()
        with open(cache, "wb") as file:
            file.write(first + second[:cut])
        with client(server, cache) as endpoint:
            assert ask_all(endpoint, ["first", "second"])[1] == ("second", "said second")
            assert endpoint.counts["cached"] == 1
        with open(cache, "rb") as file:
            assert [json.loads(row)["answer"] for row in file] == ["said first", "said second"]


@pytest.mark.parametrize("content", [b'{"id": 1}\n', b"[" * 9000, b"plain\n", b'{"key": "a", "answer": "b"}\n\0\0\0\0'])
def test_another_file_is_no_cache_and_stays_as_it_is(cache, content):
    with open(cache, "wb") as file:
        file.write(content)
    with pytest.raises(InputError, match="no cache of answers"):
        client("http://localhost:1/v1", cache)
    with open(cache, "rb") as file:
        assert file.read() == content


def test_a_cache_is_for_one_process_at_a_time(cache):
    with client("http://localhost:1/v1", cache), pytest.raises(InputError, match="another process uses the cache"):
        client("http://localhost:1/v1", cache)
    client("http://localhost:1/v1", cache).close()


@pytest.mark.parametrize("text", ["naïve 图像 🙂", "NUL \0 in it", "line\u2028separator\r\n", '"q" \\ and {braces}'])
def test_any_text_goes_through_and_comes_back_from_the_file(cache, text):
    with FakeEndpoint(echo) as server:
        for _ in range(2):
            with client(server, cache) as endpoint:
                assert endpoint.ask(say(text)) == "said " + text
        assert len(server.requests) == 1


def test_lone_surrogates_are_sent_as_question_marks_and_kept_where_the_model_makes_them(cache):
    reply = Reply(body='{"choices": [{"message": {"content": "\\ud800"}}]}')
    with FakeEndpoint(lambda request: reply) as server:
        for _ in range(2):
            with client(server, cache) as endpoint:
                assert endpoint.ask(say("a\udc80b")) == "\ud800"
        assert [last_text(request) for request in server.requests] == ["a?b"]


@pytest.mark.parametrize(
    "bad",
    [
        Reply(500, '{"error": {"message": "CUDA out of memory"}}'),
        Reply(503, "<html>busy</html>"),
        Reply(429),
        Reply(408),
    ],
    ids=lambda bad: bad.status,
)
def test_what_may_pass_is_tried_again(cache, bad):
    with FakeEndpoint(in_turn(bad, bad, "good")) as server, client(server, cache) as endpoint:
        assert endpoint.ask(say("a")) == "good"
        assert endpoint.counts == {"sent": 3, "answered": 1}


@pytest.mark.parametrize(
    ("bad", "reason", "tries"),
    [
        (Reply(400, '{"object": "error", "message": "too long"}'), "HTTP 400: too long", 1),
        (Reply(422, '{"detail": "x"}'), "HTTP 422: {'detail': 'x'}", 1),
        (Reply(500, '{"error": "broken \\ud800"}'), "HTTP 500: broken", 3),
        (Reply(503, "<html>busy</html>"), "HTTP 503: <html>busy", 3),
        (Reply(200, b"\xff\xfe\0rubbish"), "malformed response: no JSON", 1),
        (Reply(200, "[" * 5000), "malformed response: no JSON", 1),
        (
            Reply(200, "<html>welcome</html>", {"Content-Type": "text/html"}),
            "malformed response: no chat completion but <html>wel",
            1,
        ),
        (Reply(200, '{"error": {"message": "overloaded"}}'), "malformed response: no chat completion but", 1),
        (Reply(200, '{"choices": []}'), "malformed response: no chat completion", 1),
        (Reply(200, '{"choices": [null]}'), "malformed response: no chat completion", 1),
        (Reply(200, "[1]"), "malformed response: no chat completion", 1),
        (Reply(200, '{"choices": [{"message": {"content": 5}}]}'), "empty answer", 1),
        (Reply(200, completion(" \n")), "empty answer: finish_reason stop", 1),
        (Reply(200, completion(None, "length")), "empty answer: finish_reason length", 1),
    ],
)
def test_a_failure_is_a_value_that_names_its_reason_and_is_not_kept(cache, bad, reason, tries):
    def answer(request):
        return bad if last_text(request) == "bad" else "good"

    with FakeEndpoint(answer) as server:
        with client(server, cache) as endpoint:
            (_, first), (_, second), (_, third) = ask_all(endpoint, ["good", "bad", "fine"])
            assert (first, third) == ("good", "good")
            assert isinstance(second, Failure) and f"{second.reason}: {second.detail}".startswith(reason)
            assert second.detail.isprintable()
            assert len(server.requests) == 2 + tries and endpoint.counts["failed"] == 1
        server.answer = lambda request: "mended"
        with client(server, cache) as endpoint:
            assert [reply for _, reply in ask_all(endpoint, ["good", "bad", "fine"])] == ["good", "mended", "good"]


def test_retry_after_is_honoured(cache, monkeypatch):
    slow_down = Reply(429, headers={"Retry-After": "0.4"})
    with FakeEndpoint(in_turn(slow_down, "good")) as server, client(server, cache) as endpoint:
        slept, sleep = [], time.sleep
        monkeypatch.setattr(time, "sleep", lambda seconds: (slept.append(seconds), sleep(seconds)))
        assert endpoint.ask(say("a")) == "good"
        assert 0.4 in slept and len(server.requests) == 2


def test_a_hang_ends_and_the_others_go_on(cache):
    def answer(request):
        if last_text(request) == "hang":
            time.sleep(60)
        return "good"

    with FakeEndpoint(answer) as server, client(server, cache, timeout=1.0, retries=1) as endpoint:
        (_, first), (_, second), (_, third) = ask_all(endpoint, ["a", "hang", "b"])
    assert (first, second.reason, third) == ("good", "timeout", "good")


def unused_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_an_endpoint_that_is_not_there_stops_the_run_in_one_line(cache):
    with (
        client(f"http://127.0.0.1:{unused_port()}/v1", cache, retries=1) as endpoint,
        pytest.raises(InputError, match=r"no connection.*refused.*the same command resumes") as caught,
    ):
        ask_all(endpoint, [str(i) for i in range(100)])
    assert "\n" not in str(caught.value)
    assert endpoint.counts["sent"] <= 2 * 2 * 8


def test_an_endpoint_that_dies_stops_the_run_and_the_same_command_goes_on(cache):
    texts = [str(i) for i in range(100)]

    def dies(request):
        if len(server.requests) > 20:
            raise ConnectionError
        return echo(request)

    with FakeEndpoint(dies) as server:
        with (
            client(server, cache, concurrency=2, retries=0) as endpoint,
            pytest.raises(InputError, match=r"no connection.*\([89] requests failed\)"),
        ):
            ask_all(endpoint, texts)
        server.answer = echo
        asked_before = len(server.requests)
        with client(server, cache) as endpoint:
            assert ask_all(endpoint, texts) == [(text, "said " + text) for text in texts]
        assert endpoint.counts["cached"] == 20 and len(server.requests) - asked_before == 80


@pytest.mark.parametrize("status", [401, 402, 404])
def test_what_every_request_would_be_refused_for_stops_the_run_at_once(cache, status):
    with FakeEndpoint(lambda request: Reply(status, '{"error": {"message": "No.\\nReally"}}')) as server:
        with (
            client(server, cache) as endpoint,
            pytest.raises(InputError, match=rf"HTTP {status}: No. Really.*OPENAI_API_KEY"),
        ):
            ask_all(endpoint, [str(i) for i in range(100)])
        assert len(server.requests) <= 8


@pytest.mark.parametrize("bad", [Reply(400, '{"message": "no such parameter"}'), Reply(503), Reply(200, "<html>")])
def test_an_endpoint_that_answers_nothing_stops_the_run(cache, bad):
    with (
        FakeEndpoint(lambda request: bad) as server,
        client(server, cache) as endpoint,
        pytest.raises(InputError, match=r"(HTTP|malformed response).* requests failed"),
    ):
        ask_all(endpoint, [str(i) for i in range(1000)])
    assert endpoint.counts["failed"] <= 3 * 8


@pytest.mark.parametrize("bad", ["refused", "hang up"])
def test_what_fails_each_time_does_not_keep_a_run_from_its_end(cache, bad):
    def answer(request):
        if int(last_text(request)) % 10 != 9:
            return echo(request)
        if bad == "hang up":
            raise ConnectionError
        return Reply(400)

    for _ in range(2):
        with FakeEndpoint(answer) as server, client(server, cache, retries=0) as endpoint:
            answers = ask_all(endpoint, [str(i) for i in range(100)])
        assert sum(isinstance(reply, Failure) for _, reply in answers) == 10 == endpoint.counts["failed"]


def test_closing_keeps_what_is_on_its_way_and_asks_nothing_more(cache):
    asked_once = threading.Event()

    def answer(request):
        asked_once.set()
        while not endpoint._closed:
            time.sleep(0.01)
        return "late"

    def twice(text):
        endpoint.ask(say(text))
        return endpoint.ask(say(text + " again"))

    with FakeEndpoint(answer) as server:
        with client(server, cache) as endpoint:
            threading.Thread(target=lambda: asked_once.wait(60) and endpoint.close()).start()
            ((_, second),) = endpoint.each(["slow"], twice)
        assert second.reason == "stopped" and len(server.requests) == 1
        with client(server, cache) as endpoint:
            assert endpoint.ask(say("slow")) == "late" and endpoint.counts == {"cached": 1}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://name:password@host/v1",
        "http://host:port/v1",
        "http://host/v1?key=secret",
        "http://ho st/v1",
        "http://[::1/v1",
        "http://ex\nample/",
    ],
)
def test_a_url_that_is_none(cache, url):
    with pytest.raises(InputError, match="must look like") as caught:
        client(url, cache)
    assert "password@" not in str(caught.value) and not os.path.exists(cache)


def test_a_key_that_is_none_is_not_shown(cache, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\nmore")
    with pytest.raises(InputError) as caught:
        client("http://localhost:1/v1", cache)
    assert "secret" not in str(caught.value)


def test_a_key_that_the_server_repeats_is_not_shown(cache, monkeypatch):
    key = "sk-secret-123"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    replies = (
        Reply(400, json.dumps({"error": {"message": f"bad: Bearer {key}"}})),
        Reply(401, f"no such key {key}"),
        Reply(200, f"<html>{key}"),
        Reply(200, json.dumps({"choices": [{"message": {"content": ""}, "finish_reason": key}]})),
        Reply(200, json.dumps({"hint": key})),
    )
    for number, reply in enumerate(replies):
        with FakeEndpoint(lambda _, reply=reply: reply) as server:
            endpoint = client(server, f"{cache}{number}", retries=0)
            with endpoint, pytest.raises((Failure, InputError)) as error:
                endpoint.ask(say("x"))
        assert key not in str(error.value) and server.requests
    with FakeEndpoint(lambda _: f"yours is {key}") as server, client(server, cache) as endpoint:
        assert endpoint.ask(say("x")) == "yours is (the key)"
