"""Download one file, known by its SHA-256, from the first source that has it; an interrupted download is resumed."""

import fcntl
import http.client
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError, ReadTimeoutError

from lenet_cifar10.common.console import say, transfer_bar
from lenet_cifar10.common.files import atomic_write, hash_file
from lenet_cifar10.common.stage import UserError

CONNECT_SECONDS = 10
STALL_SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 16
# For connections that cannot be made; the loop in _fetch resumes the others.
RETRY = Retry(total=2, read=False, backoff_factor=0.5, respect_retry_after_header=False)


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
    with _alone_in(partial_folder):
        for url in urls:
            say(f"download: trying {_without_secrets(url)}")
            try:
                if re.match("https?://", url, re.IGNORECASE):
                    _fetch(url, sha256, partial)
                    shutil.move(partial, path)
                else:
                    _copy(_local_path(url, base_folder), sha256, path)
                    partial.unlink(missing_ok=True)
            except _SourceError as error:
                lines.append(f"{_without_secrets(url)}: {error}")
                if url != urls[-1]:
                    say(f"download: {lines[-1]}")
            else:
                say(f"{path}: {path.stat().st_size / 1e6:,.1f} MB, SHA-256 as expected")
                return
    if _size(partial):
        lines.append(f"{partial}: keeps what has arrived; run the same command again to resume")
    lines.append(f"get {path.name} elsewhere, then: dvc exp run -S 'data.urls=[/path/to/{path.name}]'")
    raise UserError("\n".join(lines))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads to the folder: two queued experiments share it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("download: waiting for another download to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _fetch(url: str, sha256: str, partial: Path) -> None:
    """Complete the partial file from a server, over as many connections as each bring something.

    Raises:
        _SourceError: the server does not have the file; what fits is kept, a wrong file is not.
    """
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=RETRY))
        is_from_elsewhere = partial.exists()
        while True:
            size = _size(partial)
            try:
                _receive(session, url, partial, size)
            except (requests.RequestException, HTTPError) as error:
                if _size(partial) <= size:
                    raise _SourceError(_explain(error)) from None
                say(f"download: {_explain(error)}; connecting again")
                continue
            if (found := hash_file(partial)) == sha256:
                return
            partial.unlink()
            if not is_from_elsewhere:
                raise _SourceError(f"SHA-256 is {found}, expected {sha256}")
            is_from_elsewhere = False
            say("download: what was there belongs to another file; starting over")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(session: requests.Session, url: str, partial: Path, start: int) -> None:
    """Append what the server has from byte `start` on; a server without ranges sends the whole file again."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        status = response.status_code
        if status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return  # nothing follows: the hash decides
        if status not in (http.client.OK, http.client.PARTIAL_CONTENT):
            raise _SourceError(f"answered {status} {http.client.responses.get(status, '')}".rstrip())
        if "html" in response.headers.get("Content-Type", "").lower():
            raise _SourceError("answered with a web page")
        start = start if status == http.client.PARTIAL_CONTENT else 0
        length = response.raw.length_remaining
        try:
            with partial.open("ab") as file, transfer_bar() as bar:
                file.truncate(start)
                task = bar.add_task("download", total=None if length is None else start + length, completed=start)
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
        except OSError as error:
            error.filename = str(partial)  # a full disk names no file
            raise


def _explain(error: Exception) -> str:
    """What went wrong with a connection, without the URL and its secrets, which are in the text of most errors."""
    match error:
        case requests.ReadTimeout() | ReadTimeoutError():
            return f"sent nothing for {STALL_SECONDS} s"
        case requests.exceptions.InvalidURL() | requests.exceptions.InvalidSchema():
            return "is not a valid URL, or redirects to none"
    proxy = "the proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    cause: BaseException | None = error
    while cause is not None:
        if words := getattr(cause, "strerror", None):
            return f"{proxy}{words}"
        cause = cause.__cause__ or cause.__context__
    return f"{proxy}dropped the connection"


def _copy(source: Path, sha256: str, path: Path) -> None:
    try:
        found = hash_file(source)
    except OSError as error:
        raise _SourceError(error.strerror) from None
    if found != sha256:
        raise _SourceError(f"SHA-256 is {found}, expected {sha256}")
    atomic_write(path, source.read_bytes())


def _local_path(url: str, base_folder: Path) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        return base_folder / os.path.expanduser(url)  # noqa: PTH111 (Path's raises for an unknown user)
    if scheme.lower() == "file":
        return Path(url2pathname("/" + rest.partition("/")[2]))
    raise _SourceError(f"{scheme} is not supported, expected http, https, file or a path")


def _without_secrets(url: str) -> str:
    """The URL without user name, password, query and fragment."""
    return re.sub(r"(://)(?:[^/?#]*@)?([^?#]*).*", r"\1\2", url)
