"""A model repository on the Hugging Face hub: what is in it, and bytes of its files.

Everything goes through `huggingface_hub` (endpoint, token, proxies, offline mode are its), but for one
thing: a line that breaks, even in the middle of a body, is tried again from where it was, after a pause
that grows. The revision is pinned to a commit when the repository is opened. What the hub's cache has is not
fetched; with HF_HUB_OFFLINE it is all there is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

from codellama.errors import CheckpointError
from codellama.files import hub_cache

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds without a byte after which a line counts as broken."""
PATIENCE = 4.0
"""Seconds in which somebody must answer at all, before anything is asked."""
MOST_FAILURES = 8
"""Attempts in a row that bring nothing before giving up: with the pauses about two minutes."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

_CHUNK = 2**16  # what a broken line can cost: requests throws away a chunk that is not full


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: bytes, SHA-256 where it is a large file, else the id of git's blob."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


def find_repository(name: str, revision: str | None = None) -> Repository:
    """The repository on the hub; with HF_HUB_OFFLINE that in the hub's cache.

    Raises:
        CheckpointError: as `Repository`; offline, if it is not in the cache.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return CachedRepository(name, revision)
    return Repository(name, revision)


def unreachable(endpoint: str) -> str:
    """Why nobody answers at this address, after a few seconds; empty if somebody does, or through a proxy."""
    if urllib.request.getproxies():
        return ""
    parts = urllib.parse.urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    failures: list[str] = [f"no answer within {PATIENCE:.0f} s"]

    def knock() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), PATIENCE).close()
        except OSError as error:
            failures.append(str(error))
        else:
            failures.clear()

    # Names are looked up without a limit of time, so that is not awaited.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return failures[-1] if failures else ""


def require(name: str) -> None:
    """Raise CheckpointError within seconds if the hub, where `name` is, cannot be reached."""
    silence = "" if constants.HF_HUB_OFFLINE else unreachable(_endpoint())
    if silence:
        raise CheckpointError(
            f"{name}: {_endpoint()} cannot be reached ({silence})",
            "check the network; a published model is planned by its name without it",
        )


class _BrokenLineError(Exception):
    """Worth another attempt."""


class Repository:
    """One commit of a model repository. `read` and `stream` may be called from any thread."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Look the repository up; `revision` is a branch, tag or commit, by default the main branch.

        Raises:
            CheckpointError: no such repository or revision, no access, no network.
        """
        self.name = name
        self.endpoint = _endpoint()
        self._stop = threading.Event()
        info = self._look_up(revision)
        if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise CheckpointError(f"{name}: {self.endpoint} names no commit")
        self.commit: str = info.sha
        self.files: Mapping[str, HubFile] = {
            file.rfilename: _hub_file(name, file) for file in info.siblings or ()
        }

    def _look_up(self, revision: str | None) -> Any:
        silence = unreachable(self.endpoint)
        if silence:
            log.warning("%s: nobody answers at %s (%s)", self.name, self.endpoint, silence)
        api = huggingface_hub.HfApi(endpoint=self.endpoint)
        for attempt in range(MOST_FAILURES):
            try:
                return api.model_info(
                    self.name, revision=revision, files_metadata=True, timeout=TIMEOUT
                )
            except Exception as error:
                reason = self._fatal(error, revision or "main")
                if reason is not None:
                    raise CheckpointError(reason) from error
                self._pause(attempt, str(error), self.name)
        raise AssertionError("the last pause raises")

    def _fatal(self, error: Exception, what: str) -> str | None:
        """Why another attempt cannot help, or None if it might."""
        page = f"{self.endpoint}/{self.name}"
        if isinstance(error, OfflineModeIsEnabled):
            return _offline(self.name, self.endpoint)
        if isinstance(error, GatedRepoError):
            return (
                f"{self.name}: access must be asked for at {page}, and then HF_TOKEN set to a token "
                "of that account"
            )
        if isinstance(error, RevisionNotFoundError):
            return f"{self.name}: there is no revision {what!r}"
        if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
            return (
                f"{self.name}: no such folder here and no such repository at {page}, or it is private "
                "and HF_TOKEN is missing or wrong"
            )
        status = _status(error)
        if status in (401, 403):
            return f"{self.name}: {page} refuses access to {what} ({status}): check HF_TOKEN"
        if status == 404:
            return f"{self.name}: {what} is not there any more; the repository has changed"
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            return f"{self.name}: {what}: {self.endpoint} answers {status}"
        return None

    def cached(self, file: HubFile) -> Path | None:
        """The same file in the hub's cache, if it is there."""
        checksum = file.sha256 or file.blob_id
        return hub_cache.blob(self.name, checksum, file.size) if checksum else None

    def read(self, name: str, begin: int, count: int) -> bytes:
        """Bytes `begin` to `begin + count` of a file, or up to its end.

        Raises:
            CheckpointError: the file is not there, the network stays away.
        """
        end = min(begin + count, self.files[name].size)
        return b"".join(self.stream(name, begin, end))

    def stream(self, name: str, begin: int, end: int | None = None) -> Iterator[bytes]:
        """Bytes `begin` to `end` (default: all) of a file, piece by piece, whatever the line does.

        Raises:
            CheckpointError: as `read`.
        """
        end = self.files[name].size if end is None else end
        failures = 0
        while begin < end:
            try:
                for piece in self._attempt(name, begin, end):
                    begin += len(piece)
                    failures = 0
                    yield piece
                reason = "the connection was closed"
            except Exception as error:
                fatal = self._fatal(error, name)
                if fatal is not None:
                    raise CheckpointError(fatal) from error
                reason = str(error) or type(error).__name__
            if begin < end:
                self._pause(failures, reason, name)
                failures += 1

    def _attempt(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        """One request; ends early without an error if the line does."""
        url = huggingface_hub.hf_hub_url(
            self.name, name, revision=self.commit, endpoint=self.endpoint
        )
        headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
        headers["Accept-Encoding"] = "identity"
        with _get(url, headers) as (status, answer, pieces):
            skip = 0
            if status == 200:  # the server knows no ranges: it begins at the beginning
                skip = begin
            elif not answer.get("content-range", "").startswith(f"bytes {begin}-"):
                raise _BrokenLineError("the server sends other bytes than were asked for")
            left = end - begin
            for piece in pieces:
                if self._stop.is_set():
                    raise CheckpointError(f"{self.name}: {name}: stopped")
                dropped, skip = piece[:skip], skip - min(skip, len(piece))
                piece = piece[len(dropped) :][:left]
                left -= len(piece)
                if piece:
                    yield piece
                if not left:
                    return

    def _pause(self, failures: int, reason: str, what: str) -> None:
        if failures + 1 >= MOST_FAILURES:
            raise CheckpointError(
                f"{self.name}: {self.endpoint} cannot be reached for {what} ({reason}); the same "
                "command goes on where it was"
            )
        seconds = PAUSES[min(failures, len(PAUSES) - 1)]
        # A line that breaks once is nothing to tell; one that stays away makes people wait.
        level = logging.WARNING if failures else logging.INFO
        log.log(level, "%s: %s; trying again in %.1f s", what, reason, seconds)
        if self._stop.wait(seconds):
            raise CheckpointError(f"{self.name}: {what}: stopped")

    def stop(self) -> None:
        """Make everything that is under way give up."""
        self._stop.set()


class CachedRepository(Repository):
    """A commit of a repository as the hub's cache has it; nothing is asked of the network."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        """Look in the cache. Raises CheckpointError if the revision is not there."""
        self.name = name
        self.endpoint = _endpoint()
        self._stop = threading.Event()
        folder = hub_cache.snapshot(name, revision)
        if folder is None:
            raise CheckpointError(_offline(name, self.endpoint))
        self._folder = folder
        self.commit = folder.name
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        self.files = {file.name: file for file in (_cached_file(folder, path) for path in paths)}

    def cached(self, file: HubFile) -> Path | None:
        return (self._folder / file.name).resolve()

    def stream(self, name: str, begin: int, end: int | None = None) -> Iterator[bytes]:
        with (self._folder / name).open("rb") as file:
            file.seek(begin)
            left = self.files[name].size - begin if end is None else end - begin
            while piece := file.read(min(_CHUNK, left)):
                left -= len(piece)
                yield piece


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def _cached_file(folder: Path, path: Path) -> HubFile:
    checksum = hub_cache.checksum(path)
    large = checksum is not None and len(checksum) == 64
    name = path.relative_to(folder).as_posix()
    size = path.stat().st_size
    return HubFile(name, size, checksum if large else None, None if large else checksum)


def _offline(name: str, endpoint: str) -> str:
    return (
        f"{name}: HF_HUB_OFFLINE is set and it is not in {hub_cache.hub_cache()}: unset it to read from "
        f"{endpoint}, or name a local folder"
    )


def _hub_file(repository: str, file: Any) -> HubFile:
    sha256 = file.lfs.sha256 if file.lfs else None
    size = file.lfs.size if file.lfs else file.size
    if type(size) is not int or size < 0 or not isinstance(file.rfilename, str):
        raise CheckpointError(f"{repository}: the hub does not say how large {file.rfilename} is")
    return HubFile(file.rfilename, size, sha256, file.blob_id)


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


@contextlib.contextmanager
def _get(
    url: str, headers: Mapping[str, str]
) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
    """Status, headers (by lower-case name) and body; with requests (huggingface_hub 0.x) or httpx."""
    session: Any = get_session()
    if hasattr(session, "mount"):
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            _raise_for_status(response)
            yield response.status_code, _lower(response), response.iter_content(_CHUNK)
    else:
        with session.stream(
            "GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True
        ) as response:
            _raise_for_status(response)
            yield response.status_code, _lower(response), response.iter_raw()


def _raise_for_status(response: Any) -> None:
    if response.status_code >= 400:
        response.close()
        raise HfHubHTTPError(f"status {response.status_code}", response=response)


def _lower(response: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
