"""Download one file, known by its SHA-256, from the first source that has it; an interrupted download is resumed."""

import os
import re
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from urllib3.exceptions import HTTPError

from lenet_cifar10.common.console import say, transfer_bar
from lenet_cifar10.common.files import atomic_write, hash_file, locked
from lenet_cifar10.common.stage import UserError

CONNECT_SECONDS = 10
STALL_SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 16


class _SourceError(Exception):
    """Why a source did not give the file, in the words that follow its name."""


def download(urls: Sequence[str], sha256: str, path: Path, partial_folder: Path, base_folder: Path) -> None:
    """Put the file whose SHA-256 is `sha256` at `path`, unless it is there already.

    The sources in `urls` are tried in order: http, https and file URLs, or paths, relative ones from `base_folder`.
    What arrives over HTTP is kept in `partial_folder` under the hash's name. The next call resumes it, from any source.

    Raises:
        UserError: no source gave the file; one line for each.
        OSError: the disk is full, or a folder cannot be written; what has arrived is kept.
    """
    if path.is_file() and hash_file(path) == sha256:
        say(f"{path}: already there, SHA-256 as expected")
        return
    for folder in (path.parent, partial_folder):
        folder.mkdir(parents=True, exist_ok=True)
    partial = partial_folder / f"{sha256}.part"
    lines = [f"download: found no file with SHA-256 {sha256}"]
    with locked(partial_folder / "lock", "waiting for another download to end"):  # which has the same partial file
        for url in urls:
            name = re.sub(r"(://)(?:[^/?#]*@)?([^?#]*).*", r"\1\2", url)  # without password and signature
            say(f"download: trying {name}")
            try:
                if re.match("https?://", url, re.IGNORECASE):
                    _fetch(url, sha256, partial)
                    shutil.move(partial, path)
                else:
                    _copy(url, base_folder, sha256, path)
            except _SourceError as error:
                lines.append(f"{name}: {error}")
                say(f"download: {lines[-1]}")
            else:
                say(f"{path}: {path.stat().st_size / 1e6:,.1f} MB, SHA-256 as expected")
                return
    lines.append(f"run the same command again, or get {path.name} elsewhere and put its path into data.urls")
    raise UserError("\n".join(lines))


def _fetch(url: str, sha256: str, partial: Path) -> None:
    """Complete the partial file from a server, over as many connections as each bring something."""
    is_resumed = partial.exists()
    while True:
        size = _size(partial)
        try:
            _receive(url, partial, size)
        except (requests.RequestException, HTTPError) as error:
            if _size(partial) <= size:
                raise _SourceError(_explain(error)) from None
            say(f"download: {_explain(error)}; connecting again")
            continue
        if (found := hash_file(partial)) == sha256:
            return
        partial.unlink()
        if not is_resumed:
            raise _SourceError(f"SHA-256 is {found}, expected {sha256}")
        is_resumed = False  # what was there may be of another file: start over


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, partial: Path, start: int) -> None:
    """Append what the server has from byte `start` on; a server without ranges sends the whole file again."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        match response.status_code:
            case HTTPStatus.OK:
                start = 0
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE if start:
                return  # nothing follows: the hash decides
            case status if status != HTTPStatus.PARTIAL_CONTENT:
                raise _SourceError(f"answered with status {status}")
        length = response.raw.length_remaining
        with partial.open("ab") as file, transfer_bar() as bar:
            file.truncate(start)
            task = bar.add_task("download", total=None if length is None else start + length, completed=start)
            # Not decoded: some servers call each .gz file compressed.
            for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                file.write(chunk)
                bar.advance(task, len(chunk))


def _explain(error: BaseException) -> str:
    """The system's words for what went wrong, or the error's name: its text would have the URL and its secrets."""
    cause: BaseException | None = error
    while cause is not None:
        if words := getattr(cause, "strerror", None):
            return words
        cause = cause.__cause__ or cause.__context__
    return f"the connection failed ({type(error).__name__})"


def _copy(url: str, base_folder: Path, sha256: str, path: Path) -> None:
    is_url = url.lower().startswith("file:")
    source = base_folder / (url2pathname(urlsplit(url).path) if is_url else os.path.expanduser(url))  # noqa: PTH111
    try:
        found = hash_file(source)
    except OSError as error:
        raise _SourceError(error.strerror) from None
    if found != sha256:
        raise _SourceError(f"SHA-256 is {found}, expected {sha256}")
    atomic_write(path, source.read_bytes())
