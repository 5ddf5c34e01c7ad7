"""Fetch files of weights from hubs, when asked to, and keep them."""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from cnnjax.places import cache_folder
from cnnjax.pretrained.arrays import WeightsFileError
from cnnjax.pretrained.formats import INDEX, WEIGHTS_FILES, parts_of
from cnnjax.pretrained.published import SCHEME, find_published

# Where torchvision's weights are published.
TORCHVISION_URL = "https://download.pytorch.org/models"
# Seconds without an answer or a byte.
TIMEOUT = 10
CHUNK = 1 << 20


class MissingFileError(WeightsFileError):
    """A repository that does not have a file."""


def fetch(source: str, cache_dir: Path | None = None) -> Path:
    """Return the local copy of a file of weights, downloaded unless it is there.

    Args:
      source: ``hf://owner/repo``, with ``@revision`` and ``/file`` behind it where they matter (needs huggingface_hub,
        ``pip install "cnnjax[hub]"``); or ``torchvision://model/WEIGHTS``, such as
        ``torchvision://resnet50/IMAGENET1K_V2``.
      cache_dir: where copies are kept; None is the hub's own cache (``HF_HOME``) and ``~/.cache/cnnjax``
        (``CNNJAX_CACHE``).
    Raises:
      WeightsFileError: an unknown source; the hub cannot be reached, and there is no copy; or the checksum is another.
    """
    scheme, _, rest = source.partition("://")
    if scheme == "hf":
        return _from_hugging_face(rest, cache_dir)
    if scheme == "torchvision":
        return _from_torchvision(rest, cache_dir)
    raise _unknown_scheme(source)


def fetch_config(source: str, cache_dir: Path | None = None) -> Path | None:
    """Return the local copy of the ``config.json`` beside weights on a hub, None if there is none.

    Args:
      source: ``hf://owner/repo``, as for `fetch`.
      cache_dir: see `fetch`.
    Raises:
      WeightsFileError: another source; or the hub cannot be reached, and there is no copy.
    """
    scheme, _, rest = source.partition("://")
    if scheme != "hf":
        raise _unknown_scheme(source)
    owner, _, path = rest.partition("/")
    repository, _, file = path.partition("/")
    if not owner or not repository:
        raise _unknown_repository(rest)
    folder = file[: file.rfind("/") + 1]
    try:
        return _from_hugging_face(f"{owner}/{repository}/{folder}config.json", cache_dir)
    except MissingFileError:
        return None


def _unknown_repository(rest: str) -> WeightsFileError:
    return WeightsFileError(f"hf://{rest}: expected hf://owner/repo, hf://owner/repo@revision or hf://owner/repo/file")


def _unknown_scheme(source: str) -> WeightsFileError:
    return WeightsFileError(
        f"{source}: weights come from a file, a run, hf://owner/repo or torchvision://model/WEIGHTS"
    )


def _from_hugging_face(rest: str, cache_dir: Path | None) -> Path:
    match = re.fullmatch(r"(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>[^/\s]+))?(/(?P<file>\S+))?", rest)
    if match is None:
        raise _unknown_repository(rest)
    try:
        import httpx2
        from huggingface_hub import (
            _CACHED_NO_EXIST,
            constants,
            errors,
            hf_hub_download,
            is_offline_mode,
            try_to_load_from_cache,
        )
    except ImportError as error:
        raise WeightsFileError(f'for hf://{rest}, install huggingface_hub: pip install "cnnjax[hub]"') from error
    files = (match["file"],) if match["file"] else WEIGHTS_FILES
    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    # The hub's library tries again for half a minute before it looks for a copy.
    only_copies = is_offline_mode() or not _answers(endpoint)
    copy = functools.partial(
        hf_hub_download,
        match["repo"],
        revision=match["revision"],
        cache_dir=cache_dir,
        etag_timeout=TIMEOUT,
        endpoint=endpoint,
        local_files_only=only_copies,
    )
    for file in files:
        try:
            path = Path(copy(file))
            folder = file[: file.rfind("/") + 1]
            for part in sorted(set(parts_of(path).values())) if file.endswith(INDEX) else ():
                _checked_by_hub(Path(copy(f"{folder}{part}")))
        except WeightsFileError:
            raise
        except errors.LocalEntryNotFoundError as error:
            known = try_to_load_from_cache(match["repo"], file, cache_dir=cache_dir, revision=match["revision"])
            if known is _CACHED_NO_EXIST:
                continue
            raise WeightsFileError(
                f"hf://{rest}: the hub cannot be reached (or HF_HUB_OFFLINE is set), and there is no copy of {file}"
            ) from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            raise WeightsFileError(f"hf://{rest}: the hub has no such repository or revision") from error
        except errors.EntryNotFoundError:
            continue
        except (OSError, ValueError, errors.HfHubHTTPError, httpx2.HTTPError) as error:
            raise WeightsFileError(f"hf://{rest}: {' '.join(str(error).split())[:300]}") from error
        return _checked_by_hub(path)
    raise MissingFileError(f"hf://{rest}: the repository has none of {', '.join(files)}; name the file")


def _answers(url: str) -> bool:
    """Return whether a server answers at all."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except (OSError, http.client.HTTPException):
        return False
    return True


def _checked_by_hub(path: Path) -> Path:
    """Return ``path`` if its SHA-256 is what the hub named the copy after, as it does for large files."""
    blob = path.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and _sha256(blob) != blob.name:
        blob.unlink()
        raise WeightsFileError(f"{path} was not what the hub has (another SHA-256), and was removed; fetch it again")
    return path


def _from_torchvision(rest: str, cache_dir: Path | None) -> Path:
    file = find_published(f"{SCHEME}{rest}").file
    folder = cache_dir or cache_folder()
    if folder is None:
        raise WeightsFileError(
            f"torchvision://{rest} is kept in ~/.cache/cnnjax, and there is no home folder; set CNNJAX_CACHE or HOME"
        )
    return download(f"{TORCHVISION_URL}/{file}", folder)


def download(url: str, folder: Path) -> Path:
    """Return the local copy of a file whose name ends in the start of its SHA-256, as PyTorch publishes them.

    What an earlier download has left is gone on with.

    Args:
      url: such as ``https://.../resnet50-11ad3fa6.pth``.
      folder: made if it is not there.
    Raises:
      WeightsFileError: the server cannot be reached or does not have the file; the checksum is another.
    """
    name = url.rpartition("/")[2]
    found = re.search(r"-([0-9a-f]{8,})\.\w+$", name)
    if found is None:
        raise WeightsFileError(
            f"{url}: the name must end in the start of the file's SHA-256, like resnet50-11ad3fa6.pth"
        )
    path, part = folder / name, folder / f".{name}.part"
    if path.exists():
        if _sha256(path).startswith(found[1]):
            return path
        path.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _append(url, part)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsFileError(
            f"{url} cannot be fetched: {reason}; try again, which goes on where it stopped, or put the file at {path}"
        ) from error
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be written: {error.strerror or error}") from error
    if not _sha256(part).startswith(found[1]):
        part.unlink()
        raise WeightsFileError(f"{url} is not what its name says (another SHA-256); nothing was kept, fetch it again")
    part.replace(path)
    return path


def _append(url: str, part: Path) -> None:
    """Fetch what ``part`` lacks of the file."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            # A server that does not know ranges sends all of it.
            with part.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as file:
                expected = answer.length
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    expected = None if expected is None else expected - len(chunk)
            if expected:
                raise http.client.IncompleteRead(b"", expected)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # All of it was there.


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
