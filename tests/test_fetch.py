"""The archive arrives whole or not at all, from whichever source gives it, and no byte is fetched twice."""

import errno
import hashlib
import io
import os
import random
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console
from unruly_server import UnrulyServer

import lenet_cifar10
import lenet_cifar10.fetch as fetch_module
from lenet_cifar10 import terminal
from lenet_cifar10.errors import UserError
from lenet_cifar10.fetch import Limits, fetch

CONTENT = random.Random(0).randbytes(600_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG = random.Random(1).randbytes(len(CONTENT))
WRONG_SHA256 = hashlib.sha256(WRONG).hexdigest()
HALF = 300_000

LIMITS = Limits(pause_seconds=0)
SHORT_STALL = replace(LIMITS, stall_seconds=2)
SHORT_WINDOW = replace(LIMITS, crawl_window_seconds=0.5)
SLOW = {"chunk_bytes": 1000, "chunk_seconds": 0.02}  # at most 50 kB/s


@dataclass
class Place:
    """Where one test fetches to."""

    folder: Path

    def __post_init__(self) -> None:
        self.target = self.folder / "data" / "archive.tar.gz"
        self.resume_folder = self.folder / "resume"
        self.partial = self.resume_folder / f"{SHA256}.partial"

    def fetch(self, *sources: UnrulyServer | str, limits: Limits = LIMITS) -> None:
        urls = [source if isinstance(source, str) else source.url for source in sources]
        fetch(urls, SHA256, self.target, self.resume_folder, self.folder, limits)

    def fail(self, *sources: UnrulyServer | str, limits: Limits = LIMITS) -> list[str]:
        """Fetch in vain; the lines of the error."""
        with pytest.raises(UserError) as caught:
            self.fetch(*sources, limits=limits)
        return str(caught.value).splitlines()

    def put_partial(self, content: bytes) -> None:
        self.resume_folder.mkdir()
        self.partial.write_bytes(content)

    def has_file(self) -> bool:
        """The right file is in its place, and nothing is left over."""
        left_over = {path.name for path in [*self.target.parent.iterdir(), *self.resume_folder.iterdir()]}
        return self.target.read_bytes() == CONTENT and left_over == {self.target.name}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def serve() -> Iterator[Callable[..., UnrulyServer]]:
    with ExitStack() as stack:
        yield lambda content=CONTENT, **manners: stack.enter_context(UnrulyServer(content, **manners).running())


@pytest.fixture(autouse=True)
def _without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


Serve = Callable[..., UnrulyServer]


class TestWholeDownload:
    def test_gets_the_file(self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        server = serve()
        place.fetch(server)
        assert place.has_file()
        assert server.sent == [len(CONTENT)]
        assert capsys.readouterr().out.splitlines() == [
            f"download: trying {server.url}",
            f"{place.target}: 0.6 MB, SHA-256 as expected",
        ]

    @pytest.mark.parametrize("declares", ["nothing", "chunks"])
    def test_needs_no_declared_length(self, place: Place, serve: Serve, declares: str) -> None:
        place.fetch(serve(declares=declares))
        assert place.has_file()

    def test_asks_for_plain_bytes_and_names_itself(self, place: Place, serve: Serve) -> None:
        server = serve()
        place.fetch(server)
        headers = server.answers[0].headers
        assert headers["Accept-Encoding"] == "identity"
        assert headers["User-Agent"].startswith("lenet-cifar10")
        assert "Range" not in headers

    def test_does_nothing_when_the_file_is_there(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server = serve()
        place.target.parent.mkdir()
        place.target.write_bytes(CONTENT)
        before = place.target.stat()
        place.fetch(server)
        assert place.target.stat() == before
        assert server.answers == []
        assert not place.resume_folder.exists()
        assert capsys.readouterr().out == f"{place.target}: already there, SHA-256 as expected\n"

    def test_replaces_a_wrong_target(self, place: Place, serve: Serve) -> None:
        place.target.parent.mkdir()
        place.target.write_bytes(b"wrong")
        place.fetch(serve())
        assert place.has_file()

    def test_leaves_a_wrong_target_alone_on_failure(self, place: Place, serve: Serve) -> None:
        place.target.parent.mkdir()
        place.target.write_bytes(b"another file")
        place.fail(serve(WRONG), "missing.tar.gz")
        assert place.target.read_bytes() == b"another file"

    @pytest.mark.parametrize("mask", [0o022, 0o027])
    @pytest.mark.parametrize("kind", ["http", "path"])
    def test_file_mode_follows_the_umask(self, place: Place, serve: Serve, mask: int, kind: str) -> None:
        before = os.umask(mask)
        try:
            (place.folder / "copy").write_bytes(CONTENT)
            place.fetch(serve() if kind == "http" else "copy")
        finally:
            os.umask(before)
        assert stat.S_IMODE(place.target.stat().st_mode) == 0o666 & ~mask

    def test_honours_the_proxy_of_the_environment(
        self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = serve()
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/archive.tar.gz"))
        place.fetch("http://mirror.invalid/file")
        assert [answer.path for answer in proxy.answers] == ["http://mirror.invalid/file"]
        assert place.has_file()

    def test_follows_redirects_with_the_range(self, place: Place, serve: Serve) -> None:
        server = serve()
        place.put_partial(CONTENT[:HALF])
        place.fetch(serve(status=302, location=server.url))
        assert place.has_file()
        assert server.sent == [len(CONTENT) - HALF]

    def test_shows_a_bar_on_a_terminal(self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, width=120, markup=False, highlight=False)
        monkeypatch.setattr(terminal, "console", console)
        place.put_partial(CONTENT[:HALF])
        place.fetch(serve(), limits=LIMITS)
        assert "download: resumed at 0.3 MB of 0.6 MB" in screen.getvalue()
        assert "/600.0 kB" in screen.getvalue()


class TestResume:
    def test_resumes_where_it_stopped(self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        server = serve()
        place.put_partial(CONTENT[:HALF])
        place.fetch(server)
        assert place.has_file()
        assert (server.starts, server.sent) == ([HALF], [len(CONTENT) - HALF])
        assert "download: resumed at 0.3 MB of 0.6 MB" in capsys.readouterr().out

    def test_finishes_a_complete_partial_without_a_source(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place.put_partial(CONTENT)
        place.fetch("http://127.0.0.1:9/never-asked")
        assert place.has_file()
        assert "trying" not in capsys.readouterr().out

    def test_goes_on_at_the_same_source_after_drops(self, place: Place, serve: Serve) -> None:
        server, spare = serve(drop_after=[100_000, 200_000]), serve()
        place.fetch(server, spare)
        assert place.has_file()
        assert server.starts == [0, 100_000, 300_000]
        assert sum(server.sent) == len(CONTENT)
        assert spare.answers == []

    @pytest.mark.parametrize("declares", ["length", "chunks"])
    def test_goes_on_at_another_mirror(self, place: Place, serve: Serve, declares: str) -> None:
        first, second = serve(drop_after=[HALF, 0, 0, 0, 0], declares=declares), serve()
        place.fetch(first, second)
        assert place.has_file()
        assert first.sent == [HALF, 0, 0, 0]  # three more connections brought nothing
        assert (second.starts, second.sent) == ([HALF], [len(CONTENT) - HALF])

    def test_leaves_a_source_that_drops_before_the_first_byte(self, place: Place, serve: Serve) -> None:
        first, second = serve(drop_after=[0]), serve()
        place.fetch(first, second)
        assert first.sent == [0]
        assert place.has_file()

    def test_progress_renews_the_patience_with_drops(self, place: Place, serve: Serve) -> None:
        server = serve(drop_after=[1000, 0, 0, 1000, 0, 0, 1000, 0, 0])
        place.fetch(server)
        assert place.has_file()
        assert sum(server.sent) == len(CONTENT)

    def test_keeps_what_arrived_when_every_source_fails(self, place: Place, serve: Serve) -> None:
        server = serve(drop_after=[HALF, 0, 0, 0])
        lines = place.fail(server)
        assert lines[1:3] == [
            f"{server.url}: dropped the connection",
            f"{place.partial}: keeps the 0.3 MB received; run again to go on from there",
        ]
        assert place.partial.read_bytes() == CONTENT[:HALF]
        place.fetch(server)
        assert place.has_file()
        assert sum(server.sent) == len(CONTENT)

    def test_passes_over_what_it_has_when_ranges_are_ignored(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server = serve(ranges="ignored", drop_after=[HALF])
        place.fetch(server)
        assert place.has_file()
        assert server.sent == [HALF, len(CONTENT)]
        assert "sends the whole file again; passing over 0.3 MB of 0.6 MB" in capsys.readouterr().out

    @pytest.mark.parametrize("ranges", ["shifted", "unsaid"])
    def test_asks_for_the_whole_file_when_the_range_is_wrong(self, place: Place, serve: Serve, ranges: str) -> None:
        server = serve(ranges=ranges)
        place.put_partial(CONTENT[:HALF])
        place.fetch(server)
        assert place.has_file()
        assert server.starts[1] == 0
        assert server.sent[1] == len(CONTENT)

    def test_refuses_a_part_that_nobody_asked_for(self, place: Place, serve: Serve) -> None:
        server = serve(status=206, ranges="unsaid")
        assert place.fail(server)[1] == f"{server.url}: sent a part of the file without saying which"

    def test_takes_ranges_that_a_server_cuts_short(self, place: Place, serve: Serve) -> None:
        server = serve(ranges="capped", drop_after=[100_000])
        place.fetch(server)
        assert place.has_file()
        assert server.starts == [0, 100_000, 200_000, 300_000, 400_000, 500_000]

    def test_too_long_a_partial_is_dropped(self, place: Place, serve: Serve) -> None:
        server = serve()
        place.put_partial(CONTENT + b"more")
        place.fetch(server)
        assert place.has_file()
        assert [answer.status for answer in server.answers] == [416, 200, 200]

    @pytest.mark.parametrize("ranges", ["honoured", "ignored"])
    def test_a_mirror_with_a_shorter_file_costs_no_partial(self, place: Place, serve: Serve, ranges: Any) -> None:
        mirror, good = serve(b"moved elsewhere", ranges=ranges), serve()
        place.put_partial(CONTENT[:HALF])
        place.fetch(mirror, good)
        assert place.has_file()
        assert good.starts == [HALF]

    def test_a_lone_mirror_with_a_shorter_file_leaves_the_partial(self, place: Place, serve: Serve) -> None:
        mirror = serve(b"moved elsewhere")
        place.put_partial(CONTENT[:HALF])
        assert place.fail(mirror)[1].startswith(f"{mirror.url}: SHA-256 is ")
        assert place.partial.read_bytes() == CONTENT[:HALF]
        assert not place.partial.with_suffix(".other").exists()

    def test_too_long_a_partial_is_dropped_when_ranges_are_ignored(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place.put_partial(CONTENT + b"more")
        place.fetch(serve(ranges="ignored"))
        assert place.has_file()
        assert "passing over" not in capsys.readouterr().out

    def test_a_mixed_file_is_fetched_again_from_the_same_source(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server, spare = serve(), serve()
        place.put_partial(WRONG[:HALF])
        place.fetch(server, spare)
        assert place.has_file()
        assert server.sent == [len(CONTENT) - HALF, len(CONTENT)]
        assert spare.answers == []
        assert f"{server.url}: does not continue what was there; starting over" in capsys.readouterr().out

    def test_starting_over_survives_a_drop(self, place: Place, serve: Serve) -> None:
        server = serve(drop_after=[HALF])
        place.put_partial(WRONG)
        place.fetch(server)
        assert place.has_file()
        assert [answer.status for answer in server.answers] == [416, 200, 206]
        assert server.sent[1:] == [HALF, len(CONTENT) - HALF]

    def test_a_partial_mixed_from_two_mirrors_is_fetched_again(self, place: Place, serve: Serve) -> None:
        wrong, right = serve(WRONG, drop_after=[HALF, 0, 0, 0]), serve()
        place.fetch(wrong, right)
        assert place.has_file()
        assert right.starts == [HALF, 0]


class TestWrongContent:
    def test_wrong_bytes_lead_to_the_next_source(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wrong, right = serve(WRONG), serve()
        place.fetch(wrong, right)
        assert place.has_file()
        assert (wrong.sent, right.sent) == ([len(CONTENT)], [len(CONTENT)])
        assert f"{wrong.url}: SHA-256 is {WRONG_SHA256}, expected {SHA256}; leaving it" in capsys.readouterr().out

    def test_wrong_bytes_are_named_and_dropped(self, place: Place, serve: Serve) -> None:
        wrong = serve(WRONG)
        lines = place.fail(wrong)
        assert lines[1] == f"{wrong.url}: SHA-256 is {WRONG_SHA256}, expected {SHA256}"
        assert not place.partial.exists()
        assert not place.target.exists()

    def test_wrong_end_is_asked_for_once_more(self, place: Place, serve: Serve) -> None:
        wrong, right = serve(WRONG), serve()
        place.put_partial(CONTENT[:HALF])
        place.fetch(wrong, right)
        assert wrong.sent == [len(CONTENT) - HALF, len(CONTENT)]
        assert place.has_file()

    @pytest.mark.parametrize("content_type", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
    def test_a_web_page_is_refused_at_once(self, place: Place, serve: Serve, content_type: str) -> None:
        portal = serve(b"<html>Log in</html>", content_type=content_type, ranges="ignored")
        place.put_partial(CONTENT[:HALF])
        lines = place.fail(portal)
        assert lines[1] == f"{portal.url}: answered with a web page ({content_type.partition(';')[0].lower()})"
        assert place.partial.read_bytes() == CONTENT[:HALF]
        assert not place.target.exists()

    def test_a_web_page_with_ranges_is_refused_too(self, place: Place, serve: Serve) -> None:
        portal = serve(b"<html>Log in</html>", content_type="text/html")
        place.put_partial(CONTENT[:HALF])
        assert place.fail(portal)[1] == f"{portal.url}: answered with a web page (text/html)"
        assert [answer.status for answer in portal.answers] == [416, 200]
        assert place.partial.read_bytes() == CONTENT[:HALF]

    def test_a_length_promised_too_long_is_no_harm(self, place: Place, serve: Serve) -> None:
        server = serve(lie=1000)
        place.fetch(server)
        assert place.has_file()
        assert server.sent == [len(CONTENT)]

    def test_a_length_promised_too_short_is_a_wrong_file(self, place: Place, serve: Serve) -> None:
        short = serve(lie=-1000)
        found = hashlib.sha256(CONTENT[:-1000]).hexdigest()
        assert place.fail(short)[1] == f"{short.url}: SHA-256 is {found}, expected {SHA256}"


class TestBadSources:
    @pytest.mark.parametrize(
        ("status", "words"),
        [(404, "Not Found"), (503, "Service Unavailable"), (204, "No Content"), (599, "(an unknown status)")],
    )
    def test_an_error_status_leads_to_the_next_source(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str], status: int, words: str
    ) -> None:
        bad = serve(status=status, content_type="text/html")
        place.fetch(bad, serve())
        assert place.has_file()
        assert f"{bad.url}: answered {status} {words}; leaving it for the next source" in capsys.readouterr().out

    def test_a_stall_leads_to_the_next_source(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stalling, good = serve(pause_after=HALF), serve()
        place.fetch(stalling, good, limits=SHORT_STALL)
        assert place.has_file()
        assert good.starts == [HALF]
        assert f"{stalling.url}: sent nothing for 2 s; leaving it" in capsys.readouterr().out

    def test_silence_before_the_answer_is_a_stall(self, place: Place) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            lines = place.fail(url, limits=replace(LIMITS, stall_seconds=0.2))
        assert lines[1] == f"{url}: sent nothing for 0.2 s"

    def test_the_last_source_is_connected_again_after_a_stall(self, place: Place, serve: Serve) -> None:
        server = serve(pause_after=HALF)
        place.fetch(server, limits=SHORT_STALL)
        assert place.has_file()
        assert server.starts[:2] == [0, HALF]

    def test_a_crawl_leads_to_the_next_source(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        crawling, good = serve(**SLOW), serve()
        place.fetch(crawling, good, limits=SHORT_WINDOW)
        assert place.has_file()
        assert good.starts[0] > 0
        assert sum(good.sent) == len(CONTENT) - good.starts[0]
        assert f"{crawling.url}: slower than 256 kB/s over 0.5 s; leaving it" in capsys.readouterr().out

    def test_only_the_last_window_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        monkeypatch.setattr(fetch_module, "time", SimpleNamespace(monotonic=lambda: now))
        pace = fetch_module._Pace(Limits(crawl_bytes_per_second=100, crawl_window_seconds=10))
        judgements = []
        for now, arrived in [(0, 5000), (5, 1), (10, 1), (14, 1000), (16, 100), (24.5, 1)]:  # noqa: B007 (read above)
            judgements.append(pace.is_crawl(arrived))
        assert judgements == [False, False, False, False, False, True]

    def test_the_last_source_may_crawl(self, place: Place, serve: Serve) -> None:
        server = serve(CONTENT, chunk_bytes=5000, chunk_seconds=0.01)
        limits = replace(LIMITS, crawl_bytes_per_second=10**9, crawl_window_seconds=0.1)
        place.fetch("missing.tar.gz", server, limits=limits)
        assert place.has_file()
        assert server.starts == [0]

    def test_crawling_sources_come_again_when_the_rest_has_failed(
        self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]
    ) -> None:
        crawling = serve(chunk_bytes=5000, chunk_seconds=0.01)
        missing = serve(status=404)
        limits = replace(LIMITS, crawl_bytes_per_second=10**9, crawl_window_seconds=0.1)
        place.fetch(crawling, missing, limits=limits)
        assert place.has_file()
        assert len(crawling.answers) == 2
        assert crawling.starts[1] > 0
        assert capsys.readouterr().out.count("download: trying") == 3

    def test_a_refused_connection(self, place: Place) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert place.fail(url)[1] == f"{url}: refused the connection"

    def test_a_name_without_address(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def find_nothing(*_: Any) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", find_nothing)
        assert place.fail("http://mirror.invalid/file")[1] == "http://mirror.invalid/file: could not be resolved"

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (TimeoutError("timed out"), "made no connection in 10 s"),
            (OSError(errno.ENETUNREACH, "Network is unreachable"), "could not be reached"),
        ],
    )
    def test_no_connection(self, place: Place, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str) -> None:
        def fail_to_connect(*_: Any, **__: Any) -> None:
            raise error

        monkeypatch.setattr("urllib3.util.connection.create_connection", fail_to_connect)
        assert place.fail("http://127.0.0.1/file")[1] == f"http://127.0.0.1/file: {reason}"

    def test_a_proxy_that_is_not_there(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        url = "http://mirror.invalid/file"
        assert place.fail(url)[1] == f"{url}: could not be reached through the proxy"

    def test_no_secure_connection(self, place: Place, serve: Serve) -> None:
        url = serve().url.replace("http:", "https:")
        assert place.fail(url)[1] == f"{url}: made no secure connection"

    def test_redirects_without_end(self, place: Place, serve: Serve) -> None:
        server = serve(status=302, location="/again")
        assert place.fail(server)[1] == f"{server.url}: redirected too often"

    def test_a_redirect_to_another_scheme(self, place: Place, serve: Serve) -> None:
        server = serve(status=302, location="ftp://mirror.invalid/file")
        assert place.fail(server)[1] == f"{server.url}: redirected to an unsupported scheme"

    @pytest.mark.parametrize(
        ("source", "line"),
        [
            ("ftp://user:secret@mirror/file", "ftp://mirror/file: unsupported scheme 'ftp'"),
            ("s3://bucket/key", "s3://bucket/key: unsupported scheme 's3'"),
            ("http://", "http://: is not a valid URL"),
            ("http://[::1", "http://…: is not a valid URL"),
            ("http://user:sec/ret@mirror/file", "http://…: is not a valid URL"),
            ("http://user:sec?ret@mirror/file", "http://…: is not a valid URL"),
            ("file://data/file", "file://data/file: names the computer 'data'; a file URL here is file:///path"),
            ("", ": is not a file"),
            ("~no-such-user/file", "~no-such-user/file: no such user"),
        ],
    )
    def test_a_source_that_makes_no_sense(self, place: Place, source: str, line: str) -> None:
        assert place.fail(source)[1] == line

    def test_secrets_are_not_printed(self, place: Place, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
        server = serve(drop_after=[HALF, 0, 0, 0])
        url = server.url.replace("http://", "http://user:pass@word@") + "?signature=key#part"
        printed = "\n".join([*place.fail(url), capsys.readouterr().out])
        assert server.answers[0].path.endswith("?signature=key")
        assert server.url in printed
        for secret in ("user", "pass", "word", "signature", "key", "#part"):
            assert secret not in printed.replace(str(place.folder), "")

    def test_all_failures_are_told_in_one_error(self, place: Place, serve: Serve) -> None:
        missing, busy = serve(status=404), serve(status=503)
        assert place.fail(missing, "nowhere/archive.tar.gz", busy, missing) == [
            f"download: none of 3 sources gave the file with SHA-256 {SHA256}",
            f"{missing.url}: answered 404 Not Found",
            "nowhere/archive.tar.gz: no such file",
            f"{busy.url}: answered 503 Service Unavailable",
            "without a network: get archive.tar.gz elsewhere,"
            " then dvc exp run -S 'data.urls=[/path/to/archive.tar.gz]'",
        ]
        assert len(missing.answers) == 1

    def test_one_failure_is_told_as_one(self, place: Place) -> None:
        assert place.fail("nowhere")[0] == f"download: the only source did not give the file with SHA-256 {SHA256}"


class TestLocalFiles:
    @pytest.mark.parametrize("form", ["relative", "absolute", "home", "file URL", "file URL of localhost"])
    def test_copies_it(self, place: Place, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
        monkeypatch.setenv("HOME", str(place.folder))
        original = place.folder / "a copy, 100%.tar.gz"
        original.write_bytes(CONTENT)
        source = {
            "relative": original.name,
            "absolute": str(original),
            "home": f"~/{original.name}",
            "file URL": original.as_uri(),
            "file URL of localhost": original.as_uri().replace("file:///", "file://localhost/"),
        }[form]
        place.fetch(source)
        assert place.has_file()
        assert original.read_bytes() == CONTENT

    def test_a_wrong_file_costs_nothing(self, place: Place, serve: Serve) -> None:
        (place.folder / "wrong").write_bytes(WRONG)
        place.put_partial(CONTENT[:HALF])
        lines = place.fail("wrong")
        assert lines[1] == f"wrong: SHA-256 is {WRONG_SHA256}, expected {SHA256}"
        assert place.partial.read_bytes() == CONTENT[:HALF]
        assert list(place.target.parent.iterdir()) == []
        server = serve()
        place.fetch("wrong", server)
        assert place.has_file()
        assert server.starts == [HALF]

    def test_a_right_file_makes_the_partial_needless(self, place: Place) -> None:
        (place.folder / "right").write_bytes(CONTENT)
        place.put_partial(CONTENT[:HALF])
        place.fetch("right")
        assert place.has_file()

    def test_what_a_killed_copy_left_is_overwritten(self, place: Place) -> None:
        (place.folder / "right").write_bytes(CONTENT)
        place.target.parent.mkdir()
        (place.target.parent / ".archive.tar.gz.part").write_bytes(CONTENT[:HALF])
        place.fetch("right")
        assert place.has_file()

    def test_what_cannot_be_a_file(self, place: Place) -> None:
        os.mkfifo(place.folder / "pipe")
        (place.folder / "file").touch()
        assert place.fail(".", "pipe", "file/below", "missing")[1:5] == [
            ".: is not a file",
            "pipe: is not a file",
            "file/below: no such file",
            "missing: no such file",
        ]

    def test_what_may_not_be_read(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        secret = place.folder / "secret"
        secret.touch()
        open_any = Path.open

        def refuse_secret(path: Path, *arguments: Any, **options: Any) -> Any:
            if path == secret:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return open_any(path, *arguments, **options)

        monkeypatch.setattr(Path, "open", refuse_secret)
        assert place.fail("secret")[1] == "secret: cannot be read: Permission denied"


class TestFolders:
    def test_no_room_is_told_before_anything_is_written(self, place: Place, serve: Serve) -> None:
        place.put_partial(CONTENT[:HALF])
        [line] = place.fail(serve(lie=10**16), serve())
        assert re.fullmatch(
            re.escape(f"{place.resume_folder}: {os.strerror(errno.ENOSPC)}: ")
            + "10,000,000,000,300,000 more bytes needed, [0-9,]+ free;"
            + " what was received is kept; make room there and run again",
            line,
        )
        assert place.partial.read_bytes() == CONTENT[:HALF]

    def test_only_the_rest_needs_room(self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        free = HALF - 1
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
        place.put_partial(CONTENT[:HALF])
        [line] = place.fail(serve())
        assert ": 300,000 more bytes needed, 299,999 free; " in line
        free = HALF
        place.fetch(serve())
        assert place.has_file()

    @pytest.mark.parametrize(
        ("number", "advice"), [(errno.ENOSPC, "make room there"), (errno.EDQUOT, "make room within your quota")]
    )
    def test_no_room_at_the_end_keeps_all(
        self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
    ) -> None:
        def fail_to_flush(_: int) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail_to_flush)
            [line] = place.fail(serve())
        assert line.startswith(f"{place.resume_folder}: {os.strerror(number)}: ")
        assert line.endswith(f"what was received is kept; {advice} and run again")
        assert not place.target.exists()
        place.fetch("http://127.0.0.1:9/never-asked")
        assert place.has_file()

    def test_a_limit_on_file_size_keeps_what_fits(self, place: Place, serve: Serve) -> None:
        server = serve()
        with start_fetch(place, server, file_size_limit=100_000) as process:
            _, errors = process.communicate()
        assert process.returncode == 1
        assert errors.startswith(
            f"error: {place.resume_folder}: {os.strerror(errno.EFBIG)}: 500,000 more bytes needed, "
        )
        assert errors.endswith("free; what was received is kept; allow larger files (ulimit -f) and run again\n")
        assert place.partial.read_bytes() == CONTENT[:100_000]
        place.fetch(server)
        assert place.has_file()
        assert server.starts[1] == 100_000

    def test_another_file_system_for_the_partial(
        self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def replace_within_one_folder(path: Path, target: Path) -> None:
            if path.parent != target.parent:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            os.replace(path, target)  # noqa: PTH105 (Path.replace is what this stands for)

        monkeypatch.setattr(Path, "replace", replace_within_one_folder)
        place.fetch(serve())
        assert place.has_file()

    @pytest.mark.parametrize("which", ["target", "resume_folder"])
    @pytest.mark.parametrize(
        ("below", "words"),
        [
            ("", "is a file, expected a folder; move it away and run again"),
            ("below", "cannot be written: Not a directory; mend this and run again"),
        ],
    )
    def test_a_file_in_place_of_a_folder(self, place: Place, serve: Serve, which: str, below: str, words: str) -> None:
        file = place.folder / "file"
        file.touch()
        setattr(place, which, file / below / "archive.tar.gz" if which == "target" else file / below)
        server = serve()
        assert place.fail(server) == [f"{file / below}: {words}"]
        assert server.answers == []

    def test_a_folder_that_takes_no_files(self, place: Place, serve: Serve) -> None:
        proc = Path("/proc")  # refuses root, too
        place.resume_folder = proc
        [line] = place.fail(serve())
        assert line.startswith("/proc: cannot be written: ")

    def test_a_target_folder_that_takes_no_files(self, place: Place, serve: Serve) -> None:
        place.target = Path("/proc/archive.tar.gz")
        [line] = place.fail(serve())
        assert line.startswith("/proc: cannot be written: ")

    def test_a_folder_without_permission(self, place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        assert place.fail(serve()) == [
            f"{place.target.parent}: cannot be written: Permission denied; mend this and run again"
        ]

    def test_a_folder_in_place_of_the_target(self, place: Place, serve: Serve) -> None:
        place.target.mkdir(parents=True)
        assert place.fail(serve()) == [f"{place.target}: cannot be read: Is a directory; move it away and run again"]


class TestProcesses:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_a_killed_process_loses_nothing(self, place: Place, serve: Serve, number: signal.Signals) -> None:
        server, spare = serve(pause_after=HALF), serve()
        with start_fetch(place, server) as process:
            assert server.paused.wait(60)
            wait_until(lambda: place.partial.stat().st_size == HALF)
            process.send_signal(number)
            process.communicate()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
        assert not place.target.exists()
        assert place.partial.read_bytes() == CONTENT[:HALF]
        place.fetch(spare)
        assert place.has_file()
        assert (spare.starts, spare.sent) == ([HALF], [len(CONTENT) - HALF])

    def test_what_is_left_of_other_files_does_not_pile_up(self, place: Place, serve: Serve) -> None:
        place.resume_folder.mkdir()
        for age in range(5):
            for kind in ("partial", "lock", "other"):
                path = place.resume_folder / f"{age:064}.{kind}"
                path.write_bytes(b"rest")
                os.utime(path, (10**9 - age, 10**9 - age))
        with FileLock(place.resume_folder / f"{4:064}.lock"):  # another process fetches it
            place.fetch(serve())
        kept = {path.stem.lstrip("0") for path in place.resume_folder.iterdir()}
        assert kept == {"", "1", "4"}
        place.target.unlink()
        place.fetch(serve())
        assert {path.stem.lstrip("0") for path in place.resume_folder.iterdir()} == {"", "1"}

    @pytest.mark.parametrize("kind", ["link", "pipe"])
    def test_what_lies_in_the_partial_file_s_place_is_neither_written_through_nor_waited_for(
        self, place: Place, serve: Serve, kind: str
    ) -> None:
        place.resume_folder.mkdir()
        other = place.folder / "other"
        other.write_bytes(b"other")
        if kind == "link":
            place.partial.symlink_to(other)
        else:
            os.mkfifo(place.partial)
        place.fetch(serve())
        assert place.has_file()
        assert not place.target.is_symlink()
        assert other.read_bytes() == b"other"

    def test_a_pipe_in_the_target_s_place_is_replaced(self, place: Place, serve: Serve) -> None:
        place.target.parent.mkdir()
        os.mkfifo(place.target)
        place.fetch(serve())
        assert place.has_file()

    def test_a_second_process_waits_for_the_first(self, place: Place, serve: Serve) -> None:
        server = serve(pause_after=HALF)
        with start_fetch(place, server) as first:
            assert server.paused.wait(60)
            with start_fetch(place, server) as second:
                assert second.stdout is not None
                waiting = second.stdout.readline()
                server.go_on.set()
                rest, _ = second.communicate()
        assert waiting == "download: waiting for another process that fetches the same file\n"
        assert rest == f"{place.target}: already there, SHA-256 as expected\n"
        assert (first.returncode, second.returncode) == (0, 0)
        assert place.has_file()
        assert server.sent == [len(CONTENT)]


SCRIPT = """
import sys
from pathlib import Path
from lenet_cifar10 import errors, interruption

interruption.answer_signals()  # also where this was started in the background, which ignores SIGINT
from lenet_cifar10.fetch import fetch

url, sha256, target, resume_folder = sys.argv[1:]
errors.run(lambda: fetch([url], sha256, Path(target), Path(resume_folder), Path()))
"""


def start_fetch(place: Place, server: UnrulyServer, file_size_limit: int | None = None) -> subprocess.Popen[str]:
    """The same in a process of its own, which may write files of so many bytes."""

    def limit_file_size() -> None:
        if file_size_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))

    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, SHA256, str(place.target), str(place.resume_folder)],
        env={**os.environ, "PYTHONPATH": str(Path(lenet_cifar10.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit_file_size,
    )


def wait_until(is_so: Callable[[], bool]) -> None:
    """Give another process the time it needs, up to a minute."""
    for _ in range(6000):
        if is_so():
            return
        time.sleep(0.01)
    pytest.fail("waited in vain")
