"""The page's files, and all of them in one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.explorer.network import Network
from cnnjax.explorer.pictures import encode

FOLDER = Path(__file__).parent / "files"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
# A file with more numbers than this shows pictures of a sample of maps, without the numbers behind them.
MAX_NUMBERS = 12_000_000
# Maps of a layer in such a file, and their largest height and width, pixels.
SAMPLE_MAPS, SAMPLE_SIZE = 12, 56

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_files() -> dict[str, tuple[str, bytes]]:
    """Return path -> (content type, content) of each file of the page."""
    files = {
        f"/{path.name}": (f"{TYPES[path.suffix]}; charset=utf-8", path.read_bytes())
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES
    }
    return {"/": files.pop("/explorer.html"), **files}


def one_file(network: Network, pictures: Sequence[tuple[np.ndarray, str]], overlays: Sequence[dict[str, Any]]) -> str:
    """Return the page with a network and some pictures in one file, which opens from disk without a network.

    Args:
      network: the network.
      pictures: prepared pictures, and what is in each ("" if nobody says).
      overlays: of each picture, method -> float32[height, width], for its best class.
    """
    described = network.describe()
    numbers = _count(network, len(pictures))
    whole = numbers <= MAX_NUMBERS
    data: dict[str, Any] = {"network": described | {"served": False, "whole": whole}, "pictures": []}
    if whole:
        data["fixed"] = [
            {name: _packed(network.fixed(index, name)) for name in layer["arrays"]}
            for index, layer in enumerate(described["layers"])
        ]
    for (pixels, label), maps in zip(pictures, overlays, strict=True):
        values = network.values(network.know(pixels))
        data["pictures"].append(
            {
                "label": label,
                "png": base64.b64encode(encode(pixels)).decode(),
                "values": [_packed(array) if whole else _sampled(array) for array in values],
                "overlays": {method: _packed(array) for method, array in maps.items()},
            }
        )
    return _joined(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def _count(network: Network, pictures: int) -> int:
    values = sum(int(np.prod(layer.shape)) for layer in network.layers)
    fixed = sum(int(np.prod(shape)) for layer in network.describe()["layers"] for shape in layer["arrays"].values())
    return pictures * values + fixed


def _packed(array: np.ndarray) -> dict[str, Any]:
    kind = "int32" if array.dtype == np.int32 else "float32"
    content = base64.b64encode(array.astype(f"<{kind[0]}4").tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "data": content}


def _sampled(array: np.ndarray) -> dict[str, Any]:
    """Return a sample of a layer's maps, at most `SAMPLE_SIZE` pixels wide, or a whole layer that has no maps."""
    if array.ndim != 3 or array.size <= 4096:
        return _packed(array)
    step = -(-max(array.shape[:2]) // SAMPLE_SIZE)
    channels = np.unique(np.linspace(0, array.shape[-1] - 1, SAMPLE_MAPS).round().astype(int))
    maps = array[::step, ::step, channels]
    low, high = float(maps.min()), float(maps.max())
    levels = np.round((maps - low) / (high - low or 1) * 255).astype(np.uint8)
    content = base64.b64encode(levels.tobytes()).decode()
    return {
        "type": "uint8",
        "shape": list(maps.shape),
        "low": low,
        "high": high,
        "channels": channels.tolist(),
        "data": content,
    }


def _joined(data: str) -> str:
    """Return the page with its style, its programs and its data in it, and a policy that allows no more than these."""
    html = (FOLDER / "explorer.html").read_text(encoding="utf-8")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def put(tag: str, name: str) -> str:
        content = (FOLDER / name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[tag].append(f"'sha256-{digest}'")
        return f"<{tag}>{content}</{tag}>"

    html = re.sub(r'<link rel="stylesheet" href="([\w.]+)">', lambda found: put("style", found[1]), html)
    html = re.sub(r'<script src="([\w.]+)"></script>', lambda found: put("script", found[1]), html)
    policy = (
        f"default-src 'none'; script-src {' '.join(hashes['script'])}; style-src {' '.join(hashes['style'])}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
    block = f'<script type="application/json" id="data">{data}</script>'
    return html.replace("<body>", f"<body>\n{block}", 1)
