"""Weights from a server on this machine that speaks as the hubs do."""

import dataclasses
import hashlib
import json
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest
import test_sources
from file_weights import FIELDS, NAME
from golden import drawing
from photograph import photograph

from cnnjax.pretrained import WeightsFileError, from_source, hub, load, save, weights_info
from cnnjax.pretrained import published as published_table
from cnnjax.pretrained.safetensors_files import read_safetensors
from cnnjax.pretrained.weights import weights_as_published

DATA = Path(__file__).parent / "data"
TINY = {"num_classes": 10, **FIELDS}
SHA256 = {file: hashlib.sha256((DATA / file).read_bytes()).hexdigest() for file in ("tiny.pth", "tiny.safetensors")}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """Serves files by path, counts what it is asked, and can be told to break off, to lie or to know no ranges."""

    def __init__(self):
        self.files, self.requests, self.sent = {}, [], 0
        self.break_after, self.ranges = None, True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body):
                server.requests.append((self.command, self.path, self.headers.get("Range")))
                body = server.files.get(self.path)
                if body is None:
                    self.send_response(404)
                    if "/resolve/" in self.path:
                        known = any(self.path.startswith(path.split("/resolve/")[0]) for path in server.files)
                        self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                        if known:
                            self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                start = 0
                if (wanted := self.headers.get("Range")) and server.ranges:
                    start = int(wanted.removeprefix("bytes=").split("-")[0])
                    if start >= len(body):
                        self.send_response(416)
                        self.send_header("Content-Length", "0")
                        self.end_headers()
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("ETag", f'"{hashlib.sha256(server.files[self.path]).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if with_body:
                    part = body[start:] if server.break_after is None else body[start : start + server.break_after]
                    server.sent += len(part)
                    self.wfile.write(part)
                    if len(part) < len(body) - start:
                        self.close_connection = True

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        if self.thread.is_alive():
            self.http.shutdown()
            self.http.server_close()
            self.thread.join()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(hub, "TORCHVISION_URL", f"{server.url}/models")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.stop()


@pytest.fixture
def published(server, monkeypatch):
    """Return the name under which tiny.pth is published as torchvision's weights are."""
    file = f"tiny-{SHA256['tiny.pth'][:8]}.pth"
    server.files[f"/models/{file}"] = (DATA / "tiny.pth").read_bytes()
    info = dataclasses.replace(weights_as_published(NAME, "torchvision://tiny/V1"), file=file)
    monkeypatch.setattr(published_table, "published_weights", lambda: {info.source: info})
    return file


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_published_file_is_fetched_once_and_checked(server, published, tmp_path):
    expected = load(NAME, DATA / "tiny.pth", **TINY)
    for _ in range(2):
        assert_equal(load(NAME, "torchvision://tiny/V1", cache_dir=tmp_path, **TINY), expected)
    assert len(server.requests) == 1
    assert [file.name for file in tmp_path.iterdir()] == [published]
    # A copy that has changed is fetched again.
    (tmp_path / published).write_bytes(b"other")
    assert_equal(load(NAME, "torchvision://tiny/V1", cache_dir=tmp_path, **TINY), expected)
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(server, published, ranges, tmp_path):
    size = len(server.files[f"/models/{published}"])
    server.break_after, server.ranges = size // 2, ranges
    with pytest.raises(WeightsFileError, match=rf"{published} cannot be fetched: .* put the file at .*{published}"):
        hub.fetch("torchvision://tiny/V1", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [f".{published}.part"]
    server.break_after = None
    assert hub.fetch("torchvision://tiny/V1", tmp_path).read_bytes() == (DATA / "tiny.pth").read_bytes()
    assert server.requests[-1][2] == f"bytes={size // 2}-"
    assert server.sent == (size if ranges else size // 2 + size)
    # All bytes, and then the process ended.
    (tmp_path / published).rename(tmp_path / f".{published}.part")
    assert hub.fetch("torchvision://tiny/V1", tmp_path).exists()


def test_other_bytes_are_not_kept(server, published, tmp_path):
    server.files[f"/models/{published}"] = b"x" * 1000
    with pytest.raises(WeightsFileError, match="is not what its name says .another SHA-256.; nothing was kept"):
        hub.fetch("torchvision://tiny/V1", tmp_path)
    assert not list(tmp_path.iterdir())
    del server.files[f"/models/{published}"]
    with pytest.raises(WeightsFileError, match="cannot be fetched: Not Found"):
        hub.fetch("torchvision://tiny/V1", tmp_path)


def test_a_server_that_is_not_there(server, published, tmp_path):
    hub.fetch("torchvision://tiny/V1", tmp_path / "copy")
    server.stop()
    started = time.perf_counter()
    with pytest.raises(WeightsFileError, match="cannot be fetched: .*refused"):
        hub.fetch("torchvision://tiny/V1", tmp_path / "none")
    assert hub.fetch("torchvision://tiny/V1", tmp_path / "copy").exists()
    assert time.perf_counter() - started < 5


def test_what_torchvision_publishes():
    with pytest.raises(WeightsFileError, match="there are torchvision://resnet50/IMAGENET1K_V1, torchvision.*V2"):
        hub.fetch("torchvision://resnet50/IMAGENET1K_V3")
    with pytest.raises(WeightsFileError, match="no such weights; there are torchvision://resnet"):
        hub.fetch("torchvision://resnet51/IMAGENET1K_V1")
    with pytest.raises(WeightsFileError, match=r"no such weights; cnnjax.list_weights\(\) lists what there is"):
        hub.fetch("torchvision://something-else")
    with pytest.raises(WeightsFileError, match="weights come from a file, a run, hf://owner/repo or torchvision://"):
        load("resnet50", "s3://bucket/weights.pth")
    with pytest.raises(WeightsFileError, match="must end in the start of the file's SHA-256"):
        hub.download("http://127.0.0.1/weights.pth", Path())


@pytest.fixture
def repository(server):
    """Return the address of a repository with tiny.safetensors."""
    for revision in ("main", COMMIT):
        server.files[f"/owner/repo/resolve/{revision}/model.safetensors"] = (DATA / "tiny.safetensors").read_bytes()
    server.files["/owner/repo/resolve/main/other/tiny.pth"] = (DATA / "tiny.pth").read_bytes()
    return "hf://owner/repo"


@pytest.mark.pretrained
def test_a_hub_is_asked_once(server, repository, tmp_path):
    expected = load(NAME, DATA / "tiny.safetensors", **TINY)
    assert_equal(load(NAME, repository, cache_dir=tmp_path, **TINY), expected)
    bodies = [request for request in server.requests if request[0] == "GET"]
    assert_equal(load(NAME, repository, cache_dir=tmp_path, **TINY), expected)
    assert [request for request in server.requests if request[0] == "GET"] == bodies
    assert_equal(load(NAME, f"{repository}@{COMMIT}", cache_dir=tmp_path, **TINY), expected)
    assert_equal(load(NAME, f"{repository}/other/tiny.pth", cache_dir=tmp_path, **TINY), expected)


@pytest.mark.pretrained
def test_weights_in_several_files_are_fetched_by_their_index(server, tmp_path):
    arrays = read_safetensors(DATA / "tiny.safetensors")
    names = sorted(arrays)
    parts = {"part-1.safetensors": names[:9], "part-2.safetensors": names[9:]}
    for file, some in parts.items():
        save({name: np.asarray(arrays[name]) for name in some}, tmp_path / file)
        server.files[f"/owner/parts/resolve/main/{file}"] = (tmp_path / file).read_bytes()
    index = json.dumps({"weight_map": {name: file for file, some in parts.items() for name in some}})
    server.files["/owner/parts/resolve/main/model.safetensors.index.json"] = index.encode()
    expected = load(NAME, DATA / "tiny.safetensors", **TINY)
    assert_equal(load(NAME, "hf://owner/parts", cache_dir=tmp_path, **TINY), expected)


@pytest.mark.pretrained
def test_a_hub_that_is_not_there(server, repository, monkeypatch, tmp_path):
    expected = load(NAME, repository, cache_dir=tmp_path / "copy", **TINY)
    server.stop()
    started = time.perf_counter()
    with pytest.raises(WeightsFileError, match="the hub cannot be reached .* there is no copy of model.safetensors"):
        load(NAME, repository, cache_dir=tmp_path / "none", **TINY)
    # The copy serves.
    assert_equal(load(NAME, repository, cache_dir=tmp_path / "copy", **TINY), expected)
    assert time.perf_counter() - started < 5


@pytest.mark.pretrained
def test_offline_mode_asks_nobody(server, repository, monkeypatch, tmp_path):
    import huggingface_hub

    expected = load(NAME, repository, cache_dir=tmp_path / "copy", **TINY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    assert_equal(load(NAME, repository, cache_dir=tmp_path / "copy", **TINY), expected)
    with pytest.raises(WeightsFileError, match="HF_HUB_OFFLINE is set"):
        load(NAME, repository, cache_dir=tmp_path / "none", **TINY)
    assert server.requests == []


@pytest.mark.pretrained
def test_a_hub_s_download_goes_on_and_is_checked(server, repository, monkeypatch, tmp_path):
    import huggingface_hub

    # What is kept of a download that broke off is whole pieces of this size.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    body = server.files["/owner/repo/resolve/main/model.safetensors"]
    server.break_after = 100
    with pytest.raises(WeightsFileError, match="hf://owner/repo: "):
        hub.fetch(repository, tmp_path)
    server.break_after = len(body) // 2
    server.requests.clear()
    path = hub.fetch(repository, tmp_path)
    assert path.read_bytes() == body
    wanted = [ranges for kind, _, ranges in server.requests if kind == "GET"]
    assert wanted[0] is None
    assert wanted[1] == f"bytes={len(body) // 2 // 1024 * 1024}-"
    # What the hub's own library does not notice.
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(body[:-1] + b"x")
    with pytest.raises(WeightsFileError, match="another SHA-256.*removed; fetch it again"):
        hub.fetch(repository, tmp_path)
    assert hub.fetch(repository, tmp_path).read_bytes() == body


@pytest.mark.pretrained
def test_what_a_hub_does_not_have(server, repository, tmp_path):
    del server.files["/owner/repo/resolve/main/model.safetensors"]
    with pytest.raises(WeightsFileError, match="has none of model.safetensors, .*pytorch_model.bin, .*; name"):
        hub.fetch(repository, tmp_path)
    with pytest.raises(WeightsFileError, match="no such repository or revision"):
        hub.fetch("hf://owner/nothing", tmp_path)
    with pytest.raises(WeightsFileError, match="expected hf://owner/repo"):
        hub.fetch("hf://repo", tmp_path)


@pytest.fixture
def timm_repository(server):
    """Return a case of test_sources.py, served as timm's repositories are."""
    key = "timm tf_efficientnet_b0.ap_in1k"
    case = test_sources.CASES[key]
    state = {name: drawing.weight(name, shape, case["gain"]) for name, shape in case["shapes"].items()}
    with tempfile.TemporaryDirectory() as folder:
        body = test_sources.write_safetensors(Path(folder) / "model.safetensors", state).read_bytes()
    files = {"config.json": json.dumps(case["config"]).encode(), "model.safetensors": body}
    server.files |= {f"/timm/tf_efficientnet_b0.ap_in1k/resolve/main/{name}": file for name, file in files.items()}
    return "hf://timm/tf_efficientnet_b0.ap_in1k", case, np.load(DATA / "sources.npz")[key]


@pytest.mark.pretrained
def test_a_repository_of_timm_says_what_its_weights_are(server, timm_repository, tmp_path):
    source, case, expected = timm_repository
    info = weights_info(source, cache_dir=tmp_path)
    assert (info.model, dict(info.fields)) == ("efficientnet_b0", {"padding": "SAME", "epsilon": 1e-3})
    # Only the config was fetched for it.
    asked = {path for kind, path, _ in server.requests if kind == "GET" and "/resolve/" in path}
    assert {path.rpartition("/")[2] for path in asked} == {"config.json"}
    network = from_source(source, cache_dir=tmp_path, **case["fields"])
    (best,) = network.classify(photograph(), top=1)
    assert best.probability == pytest.approx(expected.max(), abs=1e-4)
    assert best.label == network.label_names[expected.argmax()]
    # Copies serve.
    server.stop()
    again = from_source(source, cache_dir=tmp_path, **case["fields"])
    assert_equal(again.variables, network.variables)


@pytest.mark.pretrained
def test_a_repository_without_config_is_asked_for_the_network(server, repository, tmp_path):
    with pytest.raises(WeightsFileError, match="hf://owner/repo does not say which network its weights are of"):
        from_source(repository, cache_dir=tmp_path)
    expected = from_source(repository, name=NAME, cache_dir=tmp_path, **TINY).variables
    assert_equal(expected, load(NAME, DATA / "tiny.safetensors", **TINY))
    server.stop()
    # That it has no config is known too.
    assert_equal(from_source(repository, name=NAME, cache_dir=tmp_path, **TINY).variables, expected)
    with pytest.raises(WeightsFileError, match="the hub cannot be reached"):
        from_source("hf://owner/other", cache_dir=tmp_path)
