"""A stand-in for Google Cloud Storage on this machine: the part of its JSON API that gcsfs, TensorStore and Google's
client call. Objects are in memory, all buckets but those named `unknown` exist."""

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class FakeGCS:
    """`objects` is {(bucket, name): content}; `address` is its URL; it lives until `close`."""

    def __init__(self):
        self.objects: dict[tuple[str, str], bytes] = {}
        self.facts: dict[tuple[str, str], dict] = {}
        self.requests: list[str] = []
        self.lock, self.generations = threading.Lock(), itertools.count(1)
        self.uploads: dict[str, tuple[tuple[str, str], bytearray]] = {}  # resumable ones
        self._server = _Server(("localhost", 0), type("Handler", (_Handler,), {"store": self}))
        self.address = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which the libraries find it."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_CLOUD_PROJECT": "none",
            "FSSPEC_GCS_TOKEN": "anon",
        }

    def names(self, bucket: str) -> set[str]:
        return {name for of, name in self.objects if of == bucket}

    def put(self, key: tuple[str, str], data: bytes, only_at: str | None = None) -> dict | None:
        """The facts of the new object, or None where the one that is there has another generation than `only_at`."""
        with self.lock:
            now = self.facts.get(key, {"generation": "0"})
            if only_at is not None and now["generation"] != only_at:
                return None
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 10**6 % 1000:03d}Z"
            facts = {
                "kind": "storage#object",
                "bucket": key[0],
                "name": key[1],
                "size": str(len(data)),
                "generation": str(next(self.generations)),
                "metageneration": "1",
                "updated": stamp,
                "timeCreated": stamp,
                "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            }
            self.objects[key], self.facts[key] = data, facts
            return facts

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits for an acknowledgement
    store: FakeGCS

    def log_message(self, *_) -> None:
        pass

    def answer(self, code: int, body: bytes | dict | None = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else b"" if code in (204, 304) else json.dumps(body or {}).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, code: int, why: str) -> None:
        self.answer(code, {"error": {"code": code, "message": why}})

    def split(self) -> tuple[str, str, dict[str, str]]:
        """(bucket, object, query); notes the request and checks that the bucket exists."""
        url = urlsplit(self.path)
        found = re.search(r"/b/([^/]+)(?:/o(?:/([^/]*).*)?)?$", url.path)
        bucket, name = (unquote(found[1]), unquote(found[2] or "")) if found else ("", "")
        self.store.requests.append(f"{self.command} {self.path}")
        return bucket, name, {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}

    def do_GET(self) -> None:
        bucket, name, query = self.split()
        if bucket == "unknown":
            return self.error(404, "The specified bucket does not exist.")
        if not re.search(r"/o(/|$)", urlsplit(self.path).path.partition("/b/")[2]):
            return self.answer(200, {"kind": "storage#bucket", "name": bucket, "id": bucket})
        if not name:
            return self.listed(bucket, query)
        data, facts = self.store.objects.get((bucket, name)), self.store.facts.get((bucket, name))
        if data is None or facts is None:
            return self.error(404, f"No such object: {bucket}/{name}")
        if facts["generation"] in (query.get("ifGenerationNotMatch"), query.get("ifNoneMatch")):
            return self.answer(304)
        if query.get("alt") != "media":
            return self.answer(200, facts)
        headers = {"x_goog_generation": facts["generation"], "ETag": facts["generation"]}
        if part := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(part[1]) if part[1] else len(data) - int(part[2])
            last = min(int(part[2]), len(data) - 1) if part[1] and part[2] else len(data) - 1
            if first >= len(data):
                return self.error(416, "no such range")
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            return self.answer(206, data[first : last + 1], **headers)
        return self.answer(200, data, **headers)

    def listed(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter, items, prefixes = query.get("prefix", ""), query.get("delimiter", ""), [], set()
        first, last = query.get("startOffset", ""), query.get("endOffset")
        for name in sorted(self.store.names(bucket)):
            if not name.startswith(prefix) or name < first or (last and name >= last):
                continue
            head, there, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if there:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self.store.facts[bucket, name])
        self.answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def do_POST(self) -> None:
        bucket, name, query = self.split()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if bucket == "unknown":
            return self.error(404, "The specified bucket does not exist.")
        if moved := re.search(r"/o/([^/]+)/moveTo/o/([^/?]+)", self.path):
            with self.store.lock:
                data = self.store.objects.pop((bucket, unquote(moved[1])))
                del self.store.facts[bucket, unquote(moved[1])]
            return self.answer(200, self.store.put((bucket, unquote(moved[2])), data))
        if "upload_id" in query:
            return self.continued(body, query)
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)"?', self.headers["Content-Type"])
            assert boundary
            parts = re.split(rb"\r?\n?--" + re.escape(boundary[1].encode()) + rb"(?:--)?\r?\n?", body)
            contents = [re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts if part.strip()]
            name, body = name or json.loads(contents[0])["name"], contents[1]
        elif kind == "resumable":
            name = name or json.loads(body)["name"]
            ticket = str(next(self.store.generations))
            self.store.uploads[ticket] = (bucket, name), bytearray()
            at = query.get("ifGenerationMatch")
            more = f"&ifGenerationMatch={at}" if at else ""
            return self.answer(200, {}, Location=f"{self.store.address}/upload/b/{bucket}/o?upload_id={ticket}{more}")
        elif kind != "media":
            return self.error(400, f"unknown request {self.path}")
        self.stored((bucket, name), body, query)
        return None

    def stored(self, key: tuple[str, str], body: bytes, query: dict[str, str]) -> None:
        facts = self.store.put(key, body, query.get("ifGenerationMatch"))
        self.answer(200, facts) if facts else self.error(412, "conditionNotMet")

    def do_PUT(self) -> None:
        *_, query = self.split()
        self.continued(self.rfile.read(int(self.headers.get("Content-Length") or 0)), query)

    def continued(self, body: bytes, query: dict[str, str]) -> None:
        """Takes a part of a resumable upload."""
        key, data = self.store.uploads[query["upload_id"]]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self.answer(308, {}, Range=f"bytes=0-{len(data) - 1}")
        return self.stored(key, bytes(data), query)

    def do_DELETE(self) -> None:
        bucket, name, _ = self.split()
        with self.store.lock:
            there = self.store.objects.pop((bucket, name), None) is not None
            self.store.facts.pop((bucket, name), None)
        self.answer(204) if there else self.error(404, f"No such object: {bucket}/{name}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Says nothing of clients that have gone away."""
