"""An S3-compatible server in a process of its own, and a door before it that can be closed for writing."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs

START_SECONDS = 300
SECRET = "a-secret-that-stands-nowhere"
# Nothing here may reach a real account. The file system of every process takes its credentials from these.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
FOREIGN = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_MAX_ATTEMPTS", "AWS_PROFILE", "AWS_SESSION_TOKEN")
CONDITIONS = ("If-Match", "If-None-Match")
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class ObjectStorage:
    """A running server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.endpoint = f"http://{address}"
        self.filesystem = pafs.S3FileSystem(endpoint_override=address, scheme="http", allow_bucket_creation=True)

    def uri(self, path: str, address: str | None = None) -> str:
        """A location that says how to reach the server."""
        return f"s3://{path}?endpoint_override={address or self.address}&scheme=http"

    def put(self, data: bytes, path: str) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def upload(self, folder: Path, path: str) -> None:
        pafs.copy_files(str(folder), path, destination_filesystem=self.filesystem)

    def paths(self, path: str) -> list[str]:
        """All objects below a path."""
        found = self.filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
        return [info.path for info in found if info.type == pafs.FileType.File]

    @contextlib.contextmanager
    def checked_credentials(self) -> Iterator[None]:
        """A block in which the server refuses who it does not know, as everybody here."""
        self._set_requests_without_check("0")
        try:
            yield
        finally:
            self._set_requests_without_check("inf")

    def _set_requests_without_check(self, count: str) -> None:
        address, plain = f"{self.endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        request = urllib.request.Request(address, count.encode(), plain, method="POST")
        # `urlopen` keeps for ever the proxies that the environment named when it was first called, in whatever test.
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()


@contextlib.contextmanager
def running_server(log: Path) -> Iterator[ObjectStorage]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield ObjectStorage(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := int(stream.readline(), 16):
        yield stream.read(size)
        stream.readline()
    stream.readline()


class Door:
    """Passes requests on to a server.

    While closed, it answers those that would write with status 503. `after_head`, if set, is called once, between the
    next answer to a HEAD and its delivery. One request is passed on at a time: the server compares first and writes
    then, where S3 does so in one step. The headers that it `drops` do not reach the server.
    """

    def __init__(
        self, server: str, methods: tuple[str, ...] = ("PUT", "POST", "DELETE"), drops: tuple[str, ...] = ()
    ) -> None:
        self.closed = False
        self.refused = 0
        self.after_head: Callable[[], None] | None = None
        door, one_at_a_time = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.body()
                if door.closed and self.command in methods:
                    door.refused += 1
                    self.reply(503, {"Content-Type": "application/xml", "Content-Length": str(len(BUSY))}, BUSY)
                    return
                connection = http.client.HTTPConnection(server, timeout=60)
                for name in ("Transfer-Encoding", *drops):
                    del self.headers[name]
                with one_at_a_time:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    response = connection.getresponse()
                    content = response.read()
                headers = {name: value for name, value in response.getheaders() if name.lower() != "connection"}
                connection.close()
                door.answered(self.command)
                self.reply(response.status, headers, content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return b"".join(chunks(self.rfile))

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Be silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    def answered(self, command: str) -> None:
        """What is to happen after a HEAD, once."""
        if command == "HEAD" and self.after_head is not None:
            happening, self.after_head = self.after_head, None
            happening()

    def __enter__(self) -> "Door":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
