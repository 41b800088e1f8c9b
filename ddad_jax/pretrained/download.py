"""Downloads files with progress; resumes, checks and keeps them."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import huggingface_hub
import huggingface_hub.constants
import tqdm

from ddad_jax.errors import UserError
from ddad_jax.machine.storage import cache_folder, checksum

ATTEMPTS = 4
TIMEOUT_SECONDS = 30.0
CHUNK = 2**20


def default_cache() -> Path:
    """Returns where downloads are kept: $DDAD_JAX_CACHE, or `weights` in the cache folder."""
    if chosen := os.environ.get("DDAD_JAX_CACHE"):
        return Path(chosen)
    return cache_folder() / "weights"


def fetch_url(
    url: str, cache_dir: Path, sha256: str, weights: str, megabytes: float | None = None
) -> Path:
    """Returns the path of a file at a plain URL, from the cache or downloaded.

    An interrupted download continues where it stopped, in this call or in a later one. The file
    appears in the cache only once it is complete and its checksum is right.

    Args:
      url: the address.
      cache_dir: folder that keeps the file, under the last part of the URL's path.
      sha256: hexadecimal checksum or its beginning; "" checks nothing.
      weights: the weights that the file is for, named in errors.
      megabytes: expected size, named in errors.

    Raises:
      UserError: the file cannot be fetched, or has another checksum.
    """
    target = cache_dir / Path(urlsplit(url).path).name
    if target.is_file():
        return target
    cache_dir.mkdir(parents=True, exist_ok=True)
    # Processes that start together share the cache: one downloads, the others wait for it.
    with filelock.FileLock(f"{target}.lock"):
        if not target.is_file():
            part = target.with_name(f"{target.name}.part")
            _download(url, part, weights, target, megabytes)
            found = checksum(part)
            if not found.startswith(sha256):
                part.unlink()
                raise UserError(
                    f"weights {weights!r}: {url} has SHA-256 {found}, expected {sha256}; it was "
                    f"thrown away: fetch it again, or put the right file at {target}"
                )
            part.replace(target)
    return target


def fetch_hugging_face(
    repository: str,
    file: str,
    revision: str,
    sha256: str,
    weights: str,
    *,
    gated: str = "",
    cache_dir: Path | None = None,
    endpoint: str = huggingface_hub.constants.ENDPOINT,
) -> Path:
    """Returns the path of a file of a Hugging Face repository, from its cache or downloaded.

    Args:
      repository: owner and name.
      file: path inside the repository.
      revision: branch, tag or commit.
      sha256: hexadecimal checksum or its beginning; "" checks nothing.
      weights: the weights that the file is for, named in errors.
      gated: the licence that must be agreed to at the hub first, if any.
      cache_dir: a cache to use instead of Hugging Face's usual one.
      endpoint: address of the hub.

    Raises:
      UserError: the file cannot be fetched, or has another checksum.
    """
    cached = huggingface_hub.try_to_load_from_cache(
        repository, file, revision=revision, cache_dir=cache_dir
    )
    try:
        if not isinstance(cached, str):
            _check_reachable(endpoint)
            cached = huggingface_hub.hf_hub_download(
                repository, file, revision=revision, cache_dir=cache_dir, endpoint=endpoint
            )
    except OSError as problem:
        agree = ""
        if gated:
            agree = f"agree to the {gated} at {endpoint}/{repository} and run `hf auth login`; "
        reason = str(problem).strip().partition("\n")[0]
        raise UserError(
            f"weights {weights!r}: cannot fetch {file} of {endpoint}/{repository}: {reason}; "
            f"{agree}run `hf download {repository} {file} --revision {revision}` where there is a "
            "network, or give the path of a local copy"
        ) from problem
    found = checksum(Path(cached)) if sha256 else ""
    if not found.startswith(sha256):
        raise UserError(
            f"weights {weights!r}: {cached} has SHA-256 {found}, expected {sha256}; delete it and "
            "fetch it again"
        )
    return Path(cached)


def _check_reachable(endpoint: str) -> None:
    """Fails at once without a network; the hub's client would try for half a minute."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the file is not in its cache")
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()


def _download(url: str, part: Path, weights: str, target: Path, megabytes: float | None) -> None:
    problem: Exception = EOFError("the connection was cut")
    for _ in range(ATTEMPTS):
        try:
            if _continue(url, part):
                return
        except urllib.error.HTTPError as error:
            problem = error
            error.close()
            # The part is at least as long as the file, and so not the beginning of it.
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)
            elif error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        except urllib.error.URLError as error:
            problem = error
            break
        except (OSError, http.client.HTTPException) as error:
            problem = error
    size = f" ({megabytes} MB)" if megabytes else ""
    raise UserError(
        f"weights {weights!r}: cannot fetch {url}{size}: {problem}; fetch it elsewhere and put it "
        f"at {target}, or give the path of a local copy"
    ) from problem


def _continue(url: str, part: Path) -> bool:
    """Downloads the rest of `part`; returns whether it is complete."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0
        left = response.headers.get("Content-Length")
        total = have + int(left) if left else None
        bar = tqdm.tqdm(
            desc=part.stem,
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        with bar, part.open("ab" if have else "wb") as stream:
            while chunk := response.read(CHUNK):
                stream.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    return total is None or have == total
