"""A local HTTP server that serves one content well or badly, and counts what it sends."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal


@dataclass
class Answer:
    """One answer as it went out."""

    path: str
    headers: dict[str, str]
    status: int
    start: int  # first byte of the content in the body
    sent: int = 0  # bytes of the body


@dataclass
class UnrulyServer:
    """The content, the manners, and the answers given so far. Manners may change between two answers."""

    content: bytes
    ranges: Literal["honoured", "ignored", "shifted", "unsaid", "capped"] = "honoured"
    status: int = 200
    content_type: str = "application/gzip"
    location: str | None = None
    declares: Literal["length", "nothing", "chunks"] = "length"
    lie: int = 0  # added to the length that is declared
    drop_after: list[int] = field(default_factory=list)  # bytes of each answer, in order, until it is cut off
    pause_after: int | None = None  # bytes of an answer until it waits for `go_on`
    chunk_bytes: int = 1 << 14
    chunk_seconds: float = 0.0  # wait before each chunk

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    paused: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def sent(self) -> list[int]:
        return [answer.sent for answer in self.answers]

    @property
    def starts(self) -> list[int]:
        return [answer.start for answer in self.answers]

    @contextmanager
    def running(self) -> Iterator["UnrulyServer"]:
        class Server(ThreadingHTTPServer):
            daemon_threads = True

        class Handler(_Handler):
            unruly = self

        with Server(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/archive.tar.gz"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield self
            finally:
                self.closing.set()
                self.go_on.set()
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    unruly: UnrulyServer

    def do_GET(self) -> None:
        unruly = self.unruly
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status, start, end = unruly.status, 0, len(unruly.content)
        if asked and status == 200 and unruly.ranges != "ignored":
            start = int(asked[1])
            status = 206 if start < end else 416
        if unruly.ranges == "shifted" and status == 206:
            start -= 1
        if unruly.ranges == "capped" and asked:
            end = min(end, start + 100_000)
        body = unruly.content[start:end] if status in (200, 206) else b"<html>An error</html>"
        answer = Answer(self.path, dict(self.headers), status, start)
        unruly.answers.append(answer)

        self.send_response(status, "Phrase\x1b[31m of the server's own")
        self.send_header("Content-Type", unruly.content_type)
        if unruly.location:
            self.send_header("Location", unruly.location)
        if status == 206 and unruly.ranges != "unsaid":
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(unruly.content) + unruly.lie}")
        if unruly.declares == "length":
            self.send_header("Content-Length", str(len(body) + unruly.lie))
        if unruly.declares == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):  # the client has gone
            self._send_body(body, answer)

    def _send_body(self, body: bytes, answer: Answer) -> None:
        unruly = self.unruly
        cut = unruly.drop_after.pop(0) if unruly.drop_after and answer.status in (200, 206) else len(body)
        pause = unruly.pause_after
        while answer.sent < min(cut, len(body)):
            if pause is not None and answer.sent >= pause:
                unruly.paused.set()
                unruly.go_on.wait()
                pause = None
            if unruly.closing.wait(unruly.chunk_seconds):
                return
            stop = min(answer.sent + unruly.chunk_bytes, cut, len(body))
            if pause is not None:
                stop = min(stop, pause)
            piece = body[answer.sent : stop]
            if unruly.declares == "chunks":
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            else:
                self.wfile.write(piece)
            answer.sent = stop
        if unruly.declares == "chunks" and answer.sent == len(body):
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass
