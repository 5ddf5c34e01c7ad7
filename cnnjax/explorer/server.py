"""Serves the page to this machine alone, and computes what it asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qs, urlsplit

import numpy as np

from cnnjax.data import BadImage
from cnnjax.explorer.network import Network, UnknownArray, part
from cnnjax.explorer.page import CONTENT_POLICY, page_files
from cnnjax.explorer.pictures import Examples, decode, encode

ADDRESS = "127.0.0.1"
# Largest picture file that is taken, bytes.
MAX_UPLOAD = 8 << 20
# Seconds after which a connection that says nothing is closed.
IDLE_SECONDS = 60

Unit = tuple[int, tuple[int, ...]]


class Overlay(Protocol):
    """What `cnnjax.explorer.overlays.Overlays` is to the server."""

    methods: tuple[str, ...]

    def __call__(self, pixels: np.ndarray, method: str, target: int | None, unit: Unit | None) -> np.ndarray:
        """Return float32[height, width]."""


class Refused(Exception):
    """What is asked for is not given."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Server(ThreadingHTTPServer):
    """The page of one network.

    Args:
      network: the network.
      examples: pictures to offer.
      port: on 127.0.0.1; 0 for any that is free.
      overlay: draws what speaks for a class or a unit; None for no overlays.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, network: Network, examples: Examples, port: int = 0, overlay: Overlay | None = None) -> None:
        super().__init__((ADDRESS, port), Handler)
        self.network = network
        self.examples = examples
        self.overlay = overlay
        self.methods = overlay.methods if overlay else ()
        self.files = page_files()
        about = network.describe() | {
            "served": True,
            "whole": True,
            "examples": examples.count,
            "overlays": self.methods,
        }
        self.about = json.dumps(about).encode()
        # Other names for this machine would let a page elsewhere that made one up read what is served here.
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    @property
    def url(self) -> str:
        """Return where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Answers one browser.

    GET: the page's files, ``/network.json``, ``/example/<number>``, ``/picture/<name>``, ``/values/<picture>/<layer>``
    and ``/fixed/<layer>/<name>`` (numbers, little endian, of the box from ``start`` to ``stop``, of
    every so many channels, ``every``), and ``/overlay/<picture>/<method>``. POST ``/picture``: a picture file.
    """

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "cnnjax"
    sys_version = ""
    timeout = IDLE_SECONDS
    # An answer leaves in one piece: of two, the second waits for the browser to acknowledge the first, 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    routes: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"/network\.json", "_network"),
        (r"/example/(\d{1,9})", "_example"),
        (r"/picture/([0-9a-f]{20})", "_picture"),
        (r"/values/([0-9a-f]{20})/(\d{1,6})", "_values"),
        (r"/fixed/(\d{1,6})/(\w{1,40})", "_fixed"),
        (r"/overlay/([0-9a-f]{20})/(\w{1,40})", "_overlay"),
    )

    def do_GET(self) -> None:
        """Answer a request for something."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Take in a picture."""
        self._answer(self._post)

    def _answer(self, find: Callable[[str], tuple[str, bytes]]) -> None:
        try:
            self._check_origin()
            kind, content = find(urlsplit(self.path).path)
            status = 200
        except Refused as refused:
            status, kind = refused.status, "application/json"
            content = json.dumps({"error": refused.code, "message": str(refused)}).encode()
            # Part of what was sent may not have been read.
            self.close_connection = True
        except BadImage as error:
            status, kind = 422, "application/json"
            content = json.dumps({"error": "not_an_image", "message": f"The file {error}."}).encode()
        except UnknownArray as error:
            status, kind = 404, "application/json"
            content = json.dumps({"error": "not_found", "message": str(error)}).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", CONTENT_POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _check_origin(self) -> None:
        """Refuse what other pages, or names that lead here, ask for."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            raise Refused(403, "host", f"this page is served to {self.server.url} only")
        origin = self.headers.get("Origin")
        if origin is not None and origin.lower() not in {f"http://{host}" for host in self.server.hosts}:
            raise Refused(403, "origin", f"this page answers no other page than {self.server.url}")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if urlsplit(self.path).path != "/" and site not in ("same-origin", "none"):
            raise Refused(403, "origin", f"this page answers no other page than {self.server.url}")

    def _get(self, path: str) -> tuple[str, bytes]:
        if path in self.server.files:
            return self.server.files[path]
        for pattern, method in self.routes:
            found = re.fullmatch(pattern, path)
            if found:
                result: tuple[str, bytes] = getattr(self, method)(*found.groups())
                return result
        raise Refused(404, "not_found", "there is nothing of that name")

    def _post(self, path: str) -> tuple[str, bytes]:
        if path != "/picture":
            raise Refused(404, "not_found", "there is nothing of that name")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "bad_request", "the length of the file has to be said before it is sent")
        if int(length) > MAX_UPLOAD:
            raise Refused(
                413, "too_large", f"the file must be at most {MAX_UPLOAD >> 20} MB, got {int(length):,} bytes"
            )
        pixels = decode(self.rfile.read(int(length)), self.server.network.preprocessing)
        return self._known(pixels, "")

    def _known(self, pixels: np.ndarray, label: str) -> tuple[str, bytes]:
        name = self.server.network.know(pixels)
        self.server.network.values(name)
        return "application/json", json.dumps({"picture": name, "label": label}).encode()

    def _network(self) -> tuple[str, bytes]:
        return "application/json", self.server.about

    def _example(self, number: str) -> tuple[str, bytes]:
        if int(number) >= self.server.examples.count:
            raise Refused(404, "not_found", f"there are {self.server.examples.count} examples, from 0")
        pixels, label = self.server.examples.read(int(number))
        return self._known(self.server.network.preprocessing.prepare(pixels), label)

    def _picture(self, name: str) -> tuple[str, bytes]:
        return "image/png", encode(self.server.network.picture(name))

    def _values(self, picture: str, layer: str) -> tuple[str, bytes]:
        values = self.server.network.values(picture)
        if int(layer) >= len(values):
            raise UnknownArray(f"there are {len(values)} layers, from 0, and no {layer}")
        return self._numbers(values[int(layer)])

    def _fixed(self, layer: str, name: str) -> tuple[str, bytes]:
        return self._numbers(self.server.network.fixed(int(layer), name))

    def _overlay(self, picture: str, method: str) -> tuple[str, bytes]:
        if self.server.overlay is None or method not in self.server.methods:
            raise Refused(404, "not_found", f"overlays are {', '.join(self.server.methods) or 'none'}")
        query = parse_qs(urlsplit(self.path).query)
        target, layer, place = (query.get(name, [""])[0] for name in ("target", "layer", "unit"))
        if not re.fullmatch(r"\d{0,6}", target) or not re.fullmatch(r"\d{0,6}", layer):
            raise Refused(400, "bad_request", "target and layer must be whole numbers")
        unit = (int(layer), self._places("unit", place)) if layer else None
        pixels = self.server.network.picture(picture)
        return self._numbers(self.server.overlay(pixels, method, int(target) if target else None, unit), whole=True)

    @staticmethod
    def _places(name: str, text: str) -> tuple[int, ...]:
        if not re.fullmatch(r"\d{1,9}(,\d{1,9}){0,7}", text):
            raise Refused(400, "bad_request", f"{name} must be whole numbers with commas between them")
        return tuple(int(number) for number in text.split(","))

    def _numbers(self, array: np.ndarray, whole: bool = False) -> tuple[str, bytes]:
        """Return a box of an array, the whole of it if none is asked for."""
        query = parse_qs(urlsplit(self.path).query)
        if not whole and query:
            start, stop = (self._places(name, query.get(name, [""])[0]) for name in ("start", "stop"))
            array = part(array, start, stop)
            every = query.get("every", ["1"])[0]
            if not re.fullmatch(r"[1-9]\d{0,5}", every):
                raise Refused(400, "bad_request", "every must be a whole number of at least 1")
            array = array[..., :: int(every)]
        kind = "<i4" if array.dtype == np.int32 else "<f4"
        return "application/octet-stream", np.ascontiguousarray(array.astype(kind)).tobytes()

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the page says what went wrong."""
