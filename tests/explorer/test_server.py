"""What the server answers, and what it refuses."""

import http.client
import io
import json
import socket

import numpy as np
import pytest
from PIL import Image

from cnnjax.explorer.server import MAX_UPLOAD


def ask(server, path, method="GET", body=None, headers=None):
    """Return status, headers and content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return file.getvalue()


TRUNCATED = png(np.zeros((9, 9), np.uint8))[:40]


def picture_of(server, number=0):
    return json.loads(ask(server, f"/example/{number}")[2])["picture"]


def test_only_this_machine_is_served(served):
    assert served.server_address[0] == "127.0.0.1"


def test_page_and_its_files(served):
    for path, kind in (("/", "text/html"), ("/explorer.css", "text/css"), ("/explorer.js", "text/javascript")):
        status, headers, content = ask(served, path)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
        assert len(content) > 500
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_boxes_of_values_are_those_of_the_network(served, values):
    picture = picture_of(served)
    for number, own in enumerate(values):
        content = ask(served, f"/values/{picture}/{number}")[2]
        np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(own.shape), own)
    content = ask(served, f"/values/{picture}/1?start=2,3,0&stop=5,5,4&every=2")[2]
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(3, 2, 2), values[1][2:5, 3:5, ::2])
    kernel = served.network.fixed(1, "kernel")
    content = ask(served, "/fixed/1/kernel?start=0,0,0,2&stop=5,5,1,3")[2]
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(5, 5, 1, 1), kernel[..., 2:3])


@pytest.mark.parametrize("host", ["example.com", "127.0.0.1", "127.0.0.1:1", "attacker.test:{port}", ""])
def test_other_hosts_are_refused(served, host):
    status, _, content = ask(served, "/", headers={"Host": host.format(port=served.server_port)})
    assert (status, json.loads(content)["error"]) == (403, "host")


def test_two_hosts_or_none_are_refused(served):
    host = f"Host: 127.0.0.1:{served.server_port}\r\n"
    for hosts in ("", host + "Host: example.com\r\n"):
        with socket.create_connection(("127.0.0.1", served.server_port), timeout=30) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\n{hosts}\r\n".encode())
            assert b" 403 " in connection.recv(100)


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://example.com"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_other_pages_are_refused(served, headers):
    status, _, content = ask(served, "/picture", "POST", png(np.zeros((9, 9), np.uint8)), headers)
    assert (status, json.loads(content)["error"]) == (403, "origin")


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fpyproject.toml",
        "//etc/passwd",
        "/explorer.html",
        "/files/explorer.js",
        "/.git",
        "/explorer.js/",
        "/example/99",
        "/example/-1",
        "/values/x/0",
        f"/values/{'0' * 20}/0",
        "/fixed/99/kernel",
        "/fixed/1/nothing",
        "/overlay/x/saliency",
        f"/picture/{'f' * 20}",
    ],
)
def test_other_paths_are_refused(served, path):
    status, _, content = ask(served, path)
    assert status == 404
    assert json.loads(content)["error"] == "not_found"


@pytest.mark.parametrize("query", ["start=0&stop=1", "start=0,0,0&stop=99,1,1", "start=2,0,0&stop=1,1,1"])
def test_boxes_that_are_not_there_are_refused(served, query):
    assert ask(served, f"/values/{picture_of(served)}/1?{query}")[0] == 404


@pytest.mark.parametrize("query", ["start=a&stop=1", "start=0,0,0&stop=-1,1,1", "start=0,0,0&stop=1,1,1&every=0"])
def test_malformed_boxes_are_refused(served, query):
    assert ask(served, f"/values/{picture_of(served)}/1?{query}")[0] == 400


def test_pictures_of_any_size_and_colour(served):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    status, _, content = ask(served, "/picture", "POST", png(pixels))
    assert status == 200
    shown = Image.open(io.BytesIO(ask(served, f"/picture/{json.loads(content)['picture']}")[2]))
    assert (shown.size, shown.mode) == ((16, 16), "L")


@pytest.mark.parametrize("content", [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", TRUNCATED])
def test_other_files_are_refused_with_one_message(served, content):
    status, _, answer = ask(served, "/picture", "POST", content)
    told = json.loads(answer)
    assert (status, told["error"]) == (422, "not_an_image")
    assert told["message"].startswith("The file ")


def test_large_files_are_refused_before_they_are_read(served):
    with socket.create_connection(("127.0.0.1", served.server_port), timeout=30) as connection:
        host = f"127.0.0.1:{served.server_port}"
        head = f"POST /picture HTTP/1.1\r\nHost: {host}\r\nContent-Length: {MAX_UPLOAD + 1}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(100)


def test_lengths_that_are_not_said_are_refused(served):
    status, _, _ = ask(served, "/picture", "POST", iter([b"x"]), {"Transfer-Encoding": "chunked"})
    assert status == 411


def test_other_methods_are_refused(served):
    assert ask(served, "/", "PUT", b"")[0] == 501


def test_pictures_are_computed_again_after_they_made_room(served, monkeypatch, values):
    monkeypatch.setattr("cnnjax.explorer.network.KEPT_BYTES", 0)
    picture = picture_of(served)
    picture_of(served, 1)
    content = ask(served, f"/values/{picture}/1")[2]
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(values[1].shape), values[1])
