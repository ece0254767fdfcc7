"""HTTP replies that are bounded as a whole: httpx begins a timeout anew with every byte, and nothing counts bytes."""

import time
from collections.abc import Iterator

import httpx2

MAX_BYTES = 1 << 25  # of one reply


class Transport(httpx2.HTTPTransport):
    """Fails where a reply's body is not there `seconds` after its request, or has more than MAX_BYTES, or is packed."""

    def __init__(self, seconds: float, limits: httpx2.Limits):
        super().__init__(limits=limits)
        self._seconds = seconds

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        end = time.monotonic() + self._seconds
        request.headers["accept-encoding"] = "identity"
        response = super().handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx2.ReadError("the reply is packed, though that was not asked for", request=request)
        response.stream = _Stream(response.stream, end, request)
        return response


class _Stream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, end: float, request: httpx2.Request):
        self._stream, self._end, self._request = stream, end, request
        self.close = stream.close

    def __iter__(self) -> Iterator[bytes]:
        left = MAX_BYTES
        for part in self._stream:
            left -= len(part)
            if left < 0:
                raise httpx2.ReadError(f"the reply has more than {MAX_BYTES:,} bytes", request=self._request)
            if time.monotonic() > self._end:
                raise httpx2.ReadTimeout("the reply took too long as a whole", request=self._request)
            yield part
