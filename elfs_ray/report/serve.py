"""The report over HTTP, for browsers on the same machine: nothing else of the run folder, and to nobody else."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from elfs_ray.artifacts.manifest import REPORT
from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.errors import UsageError

HOST = "127.0.0.1"
# The page holds all that it needs; whatever its texts may say, a browser fetches nothing.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def serve_report(store: RunFolder, port: int) -> ThreadingHTTPServer:
    """A server of the run's `report.html` on the loopback address; the caller lets it serve and closes it.

    Args:
        store: of the run.
        port: 0 takes any that is free.

    Raises:
        UsageError: there is no report yet, or the port is taken.
    """
    if not store.exists(REPORT):
        state = "has no" if store.manifest().get("finished") else "is not finished, and has no"
        raise UsageError(f"the run in {store.uri} {state} report yet; make one with `elfs-ray report {store.uri}`")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another site could otherwise reach us by a name of its own that leads here.
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN, f"ask for {HOST} or localhost")
            elif self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._send(store.read_bytes(REPORT))

        def _send(self, page: bytes) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing of each request."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UsageError(f"port {port} of {HOST} cannot be taken ({error.strerror}); pass another --port") from None
