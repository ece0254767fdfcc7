"""Replies have a size and a time, as a whole."""

import gzip
import socket
import threading
import time

import httpx2
import pytest

from perl_jax.runtime import bounded_http


@pytest.fixture
def get():
    """A function: what `Transport` makes of a reply, sent in these parts with pauses of 0.1 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(parts):
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                for part in parts:
                    try:
                        connection.sendall(part)
                    except OSError:
                        return
                    time.sleep(0.1)

        def get(head, parts, seconds=5.0):
            thread = threading.Thread(target=serve, args=([b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n", *parts],))
            thread.start()
            try:
                with httpx2.Client(transport=bounded_http.Transport(seconds, httpx2.Limits())) as client:
                    return client.get(f"http://127.0.0.1:{server.getsockname()[1]}/").content
            finally:
                thread.join()

        yield get


def test_a_reply_comes_as_it_is(get):
    assert get(b"Content-Length: 6", [b"abc", b"def"]) == b"abcdef"


def test_a_reply_that_drips_is_given_up(get):
    """Each byte comes long before a timeout."""
    with pytest.raises(httpx2.ReadTimeout, match="as a whole"):
        get(b"Content-Length: 50", [b"x"] * 50, seconds=0.5)


def test_a_reply_without_end_is_given_up(get, monkeypatch):
    monkeypatch.setattr(bounded_http, "MAX_BYTES", 1000)
    with pytest.raises(httpx2.ReadError, match="more than 1,000 bytes"):
        get(b"Connection: close", [b"x" * 400] * 9)


def test_a_packed_reply_is_not_unpacked(get):
    body = gzip.compress(bytes(9999))
    with pytest.raises(httpx2.ReadError, match="packed"):
        get(b"Content-Encoding: gzip\r\nContent-Length: %d" % len(body), [body])
