"""The file arrives whole or not at all, from whichever source has it, and a stopped download goes on."""

import errno
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import lenet_cifar10.data.download as module
from lenet_cifar10.common.stage import UserError
from lenet_cifar10.data.download import download

CONTENT = random.Random(0).randbytes(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = random.Random(1).randbytes(len(CONTENT))
HALF = 300_000


@dataclass
class Server:
    """Serves one content, well or badly, and notes the first byte and the length of each answer."""

    content: bytes = CONTENT
    statuses: list[int] = field(default_factory=list)  # of the first answers
    headers: dict[str, str] = field(default_factory=dict)
    has_ranges: bool = True
    declares: str = "length"  # or "chunks"
    cuts: list[int] = field(default_factory=list)  # bytes after which the first answers end
    pause_at: int | None = None  # bytes after which each answer waits
    url: str = ""
    starts: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    paused: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Server"]:
        handler = type("Handler", (_Handler,), {"manners": self})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            self.url = f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                self.go_on.set()
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    manners: Server

    def do_GET(self) -> None:
        manners = self.manners
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and manners.has_ranges else 0
        status = (206 if start < len(manners.content) else 416) if start else 200
        status = manners.statuses.pop(0) if manners.statuses else status
        body = manners.content[start:] if status in (200, 206) else b"<html>An error</html>"
        cut = manners.cuts.pop(0) if manners.cuts else len(body)
        manners.starts.append(start)
        manners.paths.append(self.path)
        self.send_response(status, "Words of\x1b[31m the server")
        for name, value in manners.headers.items():
            self.send_header(name, value)
        if manners.declares == "length":
            self.send_header("Content-Length", str(len(body)))
        if manners.declares == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        sent = 0
        with suppress(OSError):  # the client has gone
            while sent < min(cut, len(body)):
                if manners.pause_at is not None and sent >= manners.pause_at:
                    manners.paused.set()
                    manners.go_on.wait()
                piece = body[sent : min(sent + 50_000, cut)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if manners.declares == "chunks" else piece)
                sent += len(piece)
            if manners.declares == "chunks" and sent == len(body):
                self.wfile.write(b"0\r\n\r\n")
        manners.sent.append(sent)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Place:
    """Where one test downloads to."""

    folder: Path

    def __post_init__(self) -> None:
        self.path = self.folder / "data" / "archive.tar.gz"
        self.partial_folder = self.folder / "partial"
        self.partial = self.partial_folder / f"{SHA256}.part"

    def download(self, *sources: Server | str) -> None:
        urls = [source if isinstance(source, str) else source.url for source in sources]
        download(urls, SHA256, self.path, self.partial_folder, self.folder)

    def fail(self, *sources: Server | str) -> list[str]:
        """Download in vain; the lines of the error."""
        with pytest.raises(UserError) as caught:
            self.download(*sources)
        return str(caught.value).splitlines()

    def put_partial(self, content: bytes) -> None:
        self.partial_folder.mkdir()
        self.partial.write_bytes(content)

    def start(self, server: Server, first: str = "") -> subprocess.Popen[str]:
        """Download in a process of its own, as a stage does."""
        code = f"{first}\nimport sys; from pathlib import Path; from lenet_cifar10.common.stage import run\n"
        code += "from lenet_cifar10.data.download import download\n"
        code += "run(lambda: download([sys.argv[1]], sys.argv[2], *map(Path, sys.argv[3:])))"
        arguments = [server.url, SHA256, self.path, self.partial_folder, self.folder]
        source = str(Path(module.__file__).parents[2])
        return subprocess.Popen(
            [sys.executable, "-B", "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": source},
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_done(self) -> bool:
        """The right file is in its place, and nothing is left over."""
        left = [*self.path.parent.iterdir(), *self.partial_folder.iterdir()]
        return self.path.read_bytes() == CONTENT and left == [self.path, self.partial_folder / "lock"]


Serve = Callable[..., Server]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *content, **manners: stack.enter_context(Server(*content, **manners).running())


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# The whole file


@pytest.mark.parametrize("declares", ["length", "chunks"])
def test_downloads_the_file(place: Place, serve: Serve, declares: str) -> None:
    place.download(serve(declares=declares))
    assert place.is_done()


def test_a_file_that_is_there_is_left_alone(place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve()
    place.path.parent.mkdir()
    place.path.write_bytes(CONTENT)
    before = place.path.stat()
    place.download(server)
    assert (place.path.stat(), server.starts) == (before, [])
    assert capsys.readouterr().out == f"{place.path}: already there, SHA-256 as expected\n"


def test_another_file_is_replaced_but_only_by_the_right_one(place: Place, serve: Serve) -> None:
    place.path.parent.mkdir()
    place.path.write_bytes(b"another file")
    place.fail(serve(WRONG), "missing.tar.gz")
    assert place.path.read_bytes() == b"another file"
    place.download(serve())
    assert place.is_done()


def test_a_file_that_is_sent_as_compressed_is_not_unpacked(place: Place, serve: Serve) -> None:
    """Some servers say so of each .gz, which is the file itself."""
    place.download(serve(headers={"Content-Encoding": "gzip"}))
    assert place.is_done()


# Interrupted and resumed


def test_a_partial_file_is_resumed_also_after_a_redirect(place: Place, serve: Serve) -> None:
    server = serve()
    place.put_partial(CONTENT[:HALF])
    place.download(serve(statuses=[302], headers={"Location": server.url}))
    assert place.is_done()
    assert server.starts == [HALF]


@pytest.mark.parametrize("declares", ["length", "chunks"])
def test_a_dropped_connection_is_made_again(place: Place, serve: Serve, declares: str) -> None:
    server, spare = serve(cuts=[100_000, 200_000], declares=declares), serve()
    place.download(server, spare)
    assert place.is_done()
    assert server.starts == [0, 100_000, 300_000]
    assert spare.starts == []


def test_a_mirror_goes_on_where_another_has_stopped(place: Place, serve: Serve) -> None:
    first, second = serve(cuts=[HALF, 0]), serve()
    place.download(first, second)
    assert place.is_done()
    assert (first.sent, second.starts) == ([HALF, 0], [HALF])


def test_what_has_arrived_is_kept_when_every_source_fails(place: Place, serve: Serve) -> None:
    server = serve(cuts=[HALF, 0])
    lines = place.fail(server)
    assert lines[2].startswith("run the same command again")
    assert place.partial.read_bytes() == CONTENT[:HALF]
    place.download(server)
    assert place.is_done()
    assert server.starts == [0, HALF, HALF]


def test_a_server_without_ranges_sends_the_whole_file(place: Place, serve: Serve) -> None:
    server = serve(has_ranges=False)
    place.put_partial(WRONG[:HALF])
    place.download(server)
    assert place.is_done()
    assert server.sent == [len(CONTENT)]


@pytest.mark.parametrize("partial", [WRONG[:HALF], CONTENT + b"more"])
def test_a_partial_file_that_does_not_fit_is_downloaded_anew(place: Place, serve: Serve, partial: bytes) -> None:
    server, spare = serve(), serve()
    place.put_partial(partial)
    place.download(server, spare)
    assert place.is_done()
    assert server.starts == [len(partial), 0]
    assert spare.starts == []


def test_a_stall_ends_the_connection_and_without_progress_the_source(
    place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_SECONDS", 0.5)
    good = serve(pause_at=HALF)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert place.fail(url)[1] == f"{url}: the connection failed (ReadTimeout)"
        place.download(url, good)
    assert place.is_done()
    assert 0 < good.starts[1] <= HALF


def test_a_killed_process_loses_nothing(place: Place, serve: Serve) -> None:
    server = serve(pause_at=HALF)
    with place.start(server) as process:
        assert server.paused.wait(60)
        while not (place.partial.exists() and place.partial.stat().st_size >= HALF - module.CHUNK_BYTES):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = place.partial.stat().st_size
    assert not place.path.exists()
    spare = serve()
    place.download(spare)
    assert place.is_done()
    assert spare.starts == [kept]


def test_a_second_download_waits_for_the_first(place: Place, serve: Serve) -> None:
    server = serve(pause_at=HALF)
    other = Place(place.folder)
    other.path = place.folder / "copy" / "archive.tar.gz"
    threads = [threading.Thread(target=one.download, args=(server,)) for one in (place, other)]
    for thread in threads:
        thread.start()
    assert server.paused.wait(60)
    assert len(server.starts) == 1
    server.go_on.set()
    for thread in threads:
        thread.join()
    assert place.is_done()
    assert other.path.read_bytes() == CONTENT


# Sources that do not have it


def test_wrong_bytes_are_refused_and_lead_to_the_next_source(
    place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = serve(WRONG)
    line = f"{wrong.url}: SHA-256 is {hashlib.sha256(WRONG).hexdigest()}, expected {SHA256}"
    assert place.fail(wrong)[1] == line
    assert not place.partial.exists()
    assert not place.path.exists()
    place.download(wrong, serve())
    assert place.is_done()
    assert line in capsys.readouterr().out


def test_all_failures_are_told_in_one_error(place: Place, serve: Serve) -> None:
    missing = serve(statuses=[404])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    assert place.fail(missing, "nowhere/archive.tar.gz", refusing, "http://mirror:port/file", ".") == [
        f"download: found no file with SHA-256 {SHA256}",
        f"{missing.url}: answered with status 404",
        "nowhere/archive.tar.gz: No such file or directory",
        f"{refusing}: Connection refused",
        "http://mirror:port/file: the connection failed (InvalidURL)",
        ".: Is a directory",
        "run the same command again, or get archive.tar.gz elsewhere and put its path into data.urls",
    ]
    assert not place.path.exists()


def test_secrets_are_not_printed(place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(cuts=[HALF, 0])
    url = server.url.replace("http://", "http://user:word@") + "?signature=key#part"
    printed = "\n".join([*place.fail(url, "http://user:word@mirror:port/"), capsys.readouterr().out])
    assert server.paths[0].endswith("?signature=key")
    assert server.url in printed
    for secret in ("user", "word@", "signature", "key", "#part"):
        assert secret not in printed.replace(str(place.folder), "")


# Files on this computer


@pytest.mark.parametrize("form", ["relative", "absolute", "home", "file URL"])
def test_copies_a_local_file(place: Place, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setenv("HOME", str(place.folder))
    original = place.folder / "a copy, 100%.tar.gz"
    original.write_bytes(CONTENT)
    source = {
        "relative": original.name,
        "absolute": str(original),
        "home": f"~/{original.name}",
        "file URL": original.as_uri(),
    }[form]
    place.download(source)
    assert place.is_done()
    assert original.read_bytes() == CONTENT


# The disk


def test_a_full_disk_is_told_with_the_file_and_keeps_what_fits(place: Place, serve: Serve) -> None:
    """A process that may write files of 100,000 bytes meets an error of the same kind."""
    server = serve()
    with place.start(
        server, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    ) as process:
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors == f"error: {os.strerror(errno.EFBIG)}; fix this and run the same command again\n"
    assert not place.path.exists()
    kept = place.partial.stat().st_size
    assert 0 < kept <= 100_000
    place.download(server)
    assert place.is_done()
    assert server.starts[1] == kept
