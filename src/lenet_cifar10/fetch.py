"""Get one file, known by its SHA-256, from the first source that gives it; an interruption loses nothing.

What has arrived lies in a partial file in a folder of its own, and the next attempt goes on from there: after a
dropped connection, a killed process or a change of source. Nothing but a file with the right hash gets the
target's name. URLs are printed without user name, password, query and fragment, which may be secret; proxies and
.netrc are honoured as usual.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import stat
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.request import url2pathname

import requests
import urllib3

from lenet_cifar10 import locks
from lenet_cifar10.errors import UserError
from lenet_cifar10.terminal import say, transfer_bar

CHUNK_BYTES = 1 << 16
USER_AGENT = "lenet-cifar10"
WEB_PAGES = ("text/html", "application/xhtml+xml")
KEPT_PARTIALS = 2  # of other files, up to the archive's size each
# Reconnections in a row that may bring nothing, once a source has given something.
RECONNECTIONS = 3


@dataclass(frozen=True)
class Limits:
    """When a source is left for the next one."""

    stall_seconds: float = 30.0  # without a byte
    crawl_bytes_per_second: int = 256_000  # slower than this over the whole window
    crawl_window_seconds: float = 30.0
    connect_seconds: float = 10.0
    pause_seconds: float = 1.0  # before a dropped connection is made again


def fetch(
    urls: Sequence[str],
    sha256: str,
    target: Path,
    resume_folder: Path,
    base_folder: Path,
    limits: Limits = Limits(),
) -> None:
    """Put the file whose SHA-256 is `sha256` (64 lower-case hexadecimal digits) at `target`.

    The sources in `urls` are tried in order: http, https and file URLs, or paths, relative ones from `base_folder`.
    The last one may be slow, and so may the others once the rest has failed. What arrives over HTTP is kept in
    `resume_folder` under the hash's name, to be resumed; a second process that wants the same file waits.

    Raises:
        UserError: no source gave the file (one line for each), there is no room, or a folder cannot be written.
    """
    if _is_there(target, sha256):
        return
    for folder in (target.parent, resume_folder):
        _make_folder(folder)
    lock_path = resume_folder / f"{sha256}.lock"
    try:
        lock = locks.hold(lock_path, "download: waiting for another process that fetches the same file")
        _prune(resume_folder, sha256)
    except OSError as error:
        raise _cannot_write(resume_folder, error) from None
    with lock:
        if not _is_there(target, sha256):  # or else thanks to the process that held the lock
            with closing(_GrowingFile(resume_folder / f"{sha256}.partial", sha256)) as partial:
                if partial.is_right():  # complete, and interrupted before it got its name
                    partial.move_to(target)
                else:
                    _try_sources(list(dict.fromkeys(urls)), partial, target, base_folder, limits)
                partial.path.unlink(missing_ok=True)
            say(f"{target}: {_megabytes(target.stat().st_size)}, SHA-256 as expected")
        lock_path.unlink(missing_ok=True)


def _prune(resume_folder: Path, keep: str) -> None:
    """Remove what is left of all but the newest fetches of other files, unless one is under way."""
    ages = {path: path.lstat().st_mtime for path in resume_folder.glob("*.partial") if path.stem != keep}
    for path in sorted(ages, key=ages.__getitem__, reverse=True)[KEPT_PARTIALS:]:
        held = locks.try_to_hold(path.with_suffix(".lock"))
        if held:
            with held:
                for kind in (".partial", ".other", ".lock"):
                    path.with_suffix(kind).unlink(missing_ok=True)


class _SourceError(Exception):
    """Why a source did not give the file, in the words that follow its name."""


class _RefusalError(_SourceError):
    """Asking again would not help."""


class _DropError(_SourceError):
    """The connection failed; another one may not."""


class _StallError(_SourceError):
    """Nothing came for too long."""


class _CrawlError(_SourceError):
    """Bytes came too slowly."""


class _ShorterError(_SourceError):
    """The whole file is shorter than what has already arrived, so one of the two is wrong."""


class _RangeError(_SourceError):
    """The answer begins at another byte than the one asked for."""


class _GrowingFile:
    """A file that is appended to, with the SHA-256 of what it holds.

    Unbuffered, so that what was appended stays when the process is killed.
    """

    def __init__(self, path: Path, sha256: str) -> None:
        self.path = path
        self.sha256 = sha256
        self.total: int | None = None  # bytes when complete, where a source has told
        self.appended = 0  # bytes in this run, dropped ones included
        try:
            if path.is_symlink() or (
                path.exists() and not path.is_file()
            ):  # it would be written through, or waited for
                path.unlink()
            self.file = path.open("a+b", buffering=0)
            self.file.seek(0)
            self.digest = hashlib.file_digest(self.file, "sha256")
            self.size = self.file.tell()
            self.origins = {"an earlier run"} if self.size else set()  # where the bytes came from
        except OSError as error:
            raise _cannot_write(path.parent, error) from None

    def is_right(self) -> bool:
        return self.digest.hexdigest() == self.sha256

    def mismatch(self) -> _RefusalError:
        return _RefusalError(f"SHA-256 is {self.digest.hexdigest()}, expected {self.sha256}")

    def expect(self, total: int | None) -> None:
        """Note the complete file's bytes, if known; a UserError if the disk has no room for the rest."""
        self.total = total
        if total is not None and total - self.size > shutil.disk_usage(self.path.parent).free:
            raise self._no_room(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def append(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            try:
                written = self.file.write(rest)
            except OSError as error:
                raise self._no_room(error) from None
            self.digest.update(rest[:written])
            self.size += written
            self.appended += written
            rest = rest[written:]

    def drop(self) -> None:
        """Forget everything that arrived."""
        self.file.truncate(0)
        self.digest = hashlib.sha256()
        self.size = 0
        self.origins = set()

    def move_to(self, target: Path) -> None:
        """Give the complete and right file its final name, once its bytes are safely on disk."""
        assert self.is_right()
        try:
            os.fsync(self.file.fileno())
            self.file.close()
        except OSError as error:
            raise self._no_room(error) from None
        try:
            self.path.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise _cannot_write(target.parent, error) from None
            _copy(self.path, target, self.sha256)  # onto another file system

    def close(self) -> None:
        """Close the file, which goes if nothing has arrived."""
        self.file.close()
        if not self.size:
            self.path.unlink(missing_ok=True)

    def _no_room(self, error: OSError) -> UserError:
        needed = None if self.total is None else self.total - self.size
        return _cannot_write(self.path.parent, error, needed, kept="; what was received is kept")


class _Pace:
    """Tells whether bytes came too slowly over the last window."""

    def __init__(self, limits: Limits) -> None:
        self.window = limits.crawl_window_seconds
        self.least = limits.crawl_bytes_per_second * limits.crawl_window_seconds
        self.began: float | None = None
        self.arrivals: deque[tuple[float, int]] = deque()
        self.bytes_in_window = 0

    def is_crawl(self, arrived: int) -> bool:
        """Note bytes that have just arrived, and judge."""
        now = time.monotonic()
        if self.began is None:
            self.began = now
        self.arrivals.append((now, arrived))
        self.bytes_in_window += arrived
        while self.arrivals[0][0] < now - self.window:
            self.bytes_in_window -= self.arrivals.popleft()[1]
        return now - self.began >= self.window and self.bytes_in_window < self.least


def _try_sources(sources: list[str], partial: _GrowingFile, target: Path, base_folder: Path, limits: Limits) -> None:
    """Put the file at `target` from the first source that gives it.

    Those that crawl come again at the end, and so do those whose file is shorter than `partial`, beside it.
    """
    reasons: dict[str, _SourceError] = {}
    attempts = deque((source, source == sources[-1]) for source in sources)
    while attempts:
        source, is_patient = attempts.popleft()
        say(f"download: trying {_shown(source)}")
        try:
            scheme, separator, rest = source.partition("://")
            if not separator:
                _copy(_path_from(source, base_folder), target, partial.sha256)
            elif scheme.lower() == "file":
                _copy(_path_in_file_url(rest), target, partial.sha256)
            elif scheme.lower() in ("http", "https"):
                server = _Server(source, limits, is_patient=is_patient)
                if isinstance(reasons.get(source), _ShorterError):
                    _complete_beside(partial, server, target)
                else:
                    server.complete(partial)
                    partial.move_to(target)
            else:
                raise _RefusalError(f"unsupported scheme '{scheme}'")
            return
        except _SourceError as failure:
            if isinstance(failure, _CrawlError | _ShorterError) and source not in reasons:
                attempts.append((source, True))
            reasons[source] = failure
            if attempts:
                say(f"download: {_shown(source)}: {failure}; leaving it for the next source")
    raise UserError(_tell_all_failed(reasons, partial, target))


def _complete_beside(partial: _GrowingFile, server: "_Server", target: Path) -> None:
    """Put the server's file at `target` while `partial`, which may be the right one, stays."""
    path = partial.path.with_suffix(".other")
    path.unlink(missing_ok=True)
    try:
        with closing(_GrowingFile(path, partial.sha256)) as other:
            server.complete(other)
            other.move_to(target)
    finally:
        path.unlink(missing_ok=True)


def _tell_all_failed(reasons: dict[str, _SourceError], partial: _GrowingFile, target: Path) -> str:
    nothing = f"none of {len(reasons)} sources gave" if len(reasons) > 1 else "the only source did not give"
    lines = [f"download: {nothing} the file with SHA-256 {partial.sha256}"]
    lines += [f"{_shown(source)}: {reason}" for source, reason in reasons.items()]
    if partial.size:
        lines.append(f"{partial.path}: keeps the {_megabytes(partial.size)} received; run again to go on from there")
    lines.append(
        f"without a network: get {target.name} elsewhere, then dvc exp run -S 'data.urls=[/path/to/{target.name}]'"
    )
    return "\n".join(lines)


class _Server:
    """One HTTP source, and what has been learned about it.

    With patience, a crawl is borne, and a stall is mended like a dropped connection, by a new one.
    """

    def __init__(self, url: str, limits: Limits, *, is_patient: bool) -> None:
        self.url = url
        self.limits = limits
        self.is_patient = is_patient
        self.pace = _Pace(limits)
        self.gives_ranges = True
        self.is_trusted_alone = False  # bytes from elsewhere did not fit this server's

    def complete(self, partial: _GrowingFile) -> None:
        """Append to `partial` until its hash is right, over as many connections as it takes.

        Raises:
            _SourceError: this server will not do; `partial` keeps what it has, unless all of it is wrong.
        """
        chances = 0
        while True:
            appended_before = partial.appended
            try:
                self._receive(partial)
            except _SourceError as failure:
                if partial.is_right():  # the server had promised more than there is
                    return
                if isinstance(failure, _RangeError) and self.gives_ranges:
                    self.gives_ranges = False
                    continue
                chances = RECONNECTIONS if partial.appended > appended_before else chances - 1
                is_mendable = isinstance(failure, _DropError) or (self.is_patient and isinstance(failure, _StallError))
                if not is_mendable or chances < 1:
                    raise
                say(f"download: {_shown(self.url)}: {failure}; connecting again")
                time.sleep(self.limits.pause_seconds)
                continue
            if partial.is_right():
                return
            if partial.origins <= {self.url}:
                mismatch = partial.mismatch()
                partial.drop()
                raise mismatch
            say(f"download: {_shown(self.url)}: does not continue what was there; starting over")
            self.is_trusted_alone = True

    def _receive(self, partial: _GrowingFile) -> None:
        """Append what the server gives in one answer.

        Returns when the server's file has ended, also if that is no longer than what was there.
        """
        is_anew = self.is_trusted_alone and not partial.origins <= {self.url}
        asked = partial.size if self.gives_ranges and not is_anew else 0
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if asked:
            headers["Range"] = f"bytes={asked}-"
        timeout = (self.limits.connect_seconds, self.limits.stall_seconds)
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=timeout) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and asked:
                    return
                start, total = _read_extent(response, asked)
                if total is not None and total < partial.size and not partial.origins <= {self.url}:
                    raise _ShorterError(f"its file has {total:,} bytes, and {partial.size:,} are already here")
                if is_anew:
                    partial.drop()
                if total is not None and total <= partial.size:
                    return
                partial.expect(total)
                partial.origins.add(self.url)
                _tell_resumption(partial, start)
                self._append_body(response, partial, skip=partial.size - start)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _explain(error, self.limits) from None
        if total is not None and partial.size < total:
            raise _DropError("ended its answer early")

    def _append_body(self, response: requests.Response, partial: _GrowingFile, skip: int) -> None:
        """Append what comes, but for the first `skip` bytes."""
        with transfer_bar() as bar:
            task = bar.add_task("download", total=partial.total, completed=partial.size)
            # read1 returns what has come, so that a trickle is seen as one and nothing waits in a buffer
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
                partial.append(chunk[skip:])
                skip = max(0, skip - len(chunk))
                bar.update(task, completed=partial.size)
                if self.pace.is_crawl(len(chunk)) and not self.is_patient:
                    least, window = self.limits.crawl_bytes_per_second / 1000, self.limits.crawl_window_seconds
                    raise _CrawlError(f"slower than {least:g} kB/s over {window:g} s")


def _tell_resumption(partial: _GrowingFile, start: int) -> None:
    if partial.size:
        how = "resumed at" if start else "sends the whole file again; passing over"
        of_total = "" if partial.total is None else f" of {_megabytes(partial.total)}"
        say(f"download: {how} {_megabytes(partial.size)}{of_total}")


def _read_extent(response: requests.Response, asked: int) -> tuple[int, int | None]:
    """The file's byte that the answer begins with, and the file's bytes in all, if told; refuse what is no file."""
    status = response.status_code
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        phrase = http.client.responses.get(status, "(an unknown status)")  # the server's own words could be anything
        raise _RefusalError(f"answered {status} {phrase}")
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type in WEB_PAGES:
        raise _RefusalError(f"answered with a web page ({content_type})")
    length = response.raw.length_remaining
    if status == HTTPStatus.OK:
        return 0, length
    content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if content_range is None:
        raise _RangeError("sent a part of the file without saying which")
    start = int(content_range[1])
    if start != asked:
        raise _RangeError(f"sent bytes from {start:,}, asked from {asked:,}")
    if content_range[2] == "*":
        return start, None if length is None else start + length
    return start, int(content_range[2])


def _explain(error: BaseException, limits: Limits) -> _SourceError:
    """What went wrong with a connection, in words without the URL and its secrets."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__

    def find(*kinds: type[BaseException]) -> BaseException | None:
        return next((cause for cause in causes if isinstance(cause, kinds)), None)

    if find(requests.exceptions.ProxyError):
        return _DropError("could not be reached through the proxy")
    if find(ssl.SSLCertVerificationError):
        return _RefusalError("showed a certificate that is not trusted")
    if find(ssl.SSLError):
        return _DropError("made no secure connection")
    if find(socket.gaierror):
        return _DropError("could not be resolved")
    if find(ConnectionRefusedError):
        return _DropError("refused the connection")
    if find(requests.ConnectTimeout):
        return _DropError(f"made no connection in {limits.connect_seconds:g} s")
    if find(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return _StallError(f"sent nothing for {limits.stall_seconds:g} s")
    if find(requests.TooManyRedirects):
        return _RefusalError("redirected too often")
    if find(requests.exceptions.InvalidSchema):
        return _RefusalError("redirected to an unsupported scheme")
    if find(requests.exceptions.InvalidURL, urllib3.exceptions.LocationValueError):
        return _RefusalError("is not a valid URL")
    if find(urllib3.exceptions.NewConnectionError):
        return _DropError("could not be reached")
    return _DropError("dropped the connection")


def _copy(source: Path, target: Path, sha256: str) -> None:
    """Copy a local file to `target`, which gets its name only if the hash is right."""
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _RefusalError("is not a file")
        with (
            source.open("rb") as reader,
            closing(_GrowingFile(target.with_name(f".{target.name}.part"), sha256)) as copy,
            transfer_bar() as bar,
        ):
            try:
                copy.drop()
                copy.expect(status.st_size)
                task = bar.add_task("copy", total=status.st_size)
                while chunk := reader.read(CHUNK_BYTES):
                    copy.append(chunk)
                    bar.update(task, completed=copy.size)
                if not copy.is_right():
                    raise copy.mismatch()
                copy.move_to(target)
            finally:
                copy.path.unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        raise _RefusalError("no such file") from None
    except OSError as error:  # a failure to write is a UserError by now
        raise _RefusalError(f"cannot be read: {error.strerror}") from None


def _path_from(source: str, base_folder: Path) -> Path:
    try:
        return base_folder / Path(source).expanduser()
    except RuntimeError:
        raise _RefusalError("no such user") from None


def _path_in_file_url(rest: str) -> Path:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise _RefusalError(f"names the computer '{host}'; a file URL here is file:///path")
    return Path(url2pathname(f"/{path}"))


def _is_there(target: Path, sha256: str) -> bool:
    if target.exists() and not (target.is_file() or target.is_dir()):  # reading from a pipe would wait for ever
        return False
    try:
        with target.open("rb") as file:
            is_right = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserError(f"{target}: cannot be read: {error.strerror}; move it away and run again") from None
    if is_right:
        say(f"{target}: already there, SHA-256 as expected")
    return is_right


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError:
        raise UserError(f"{folder}: is a file, expected a folder; move it away and run again") from None
    except OSError as error:
        raise _cannot_write(folder, error) from None


# What helps when there is no room for more bytes.
_ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "allow larger files (ulimit -f)",
}


def _cannot_write(folder: Path, error: OSError, needed: int | None = None, kept: str = "") -> UserError:
    """One line for a failure to write in `folder`, where so many more bytes were needed."""
    advice = _ADVICE.get(error.errno or 0)
    if advice is None:
        return UserError(f"{folder}: cannot be written: {error.strerror or error}; mend this and run again")
    needs = "more bytes" if needed is None else f"{needed:,} more bytes"
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    return UserError(f"{folder}: {error.strerror}: {needs} needed, {free:,} free{kept}; {advice} and run again")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _shown(source: str) -> str:
    """The source as it may be printed: without user name, password, query and fragment."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return source
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    host = host.rpartition("@")[2]
    if not re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", host):
        return f"{scheme}://…"  # a password with a slash in it looks like a port
    return f"{scheme}://{host}{slash}{path}"
