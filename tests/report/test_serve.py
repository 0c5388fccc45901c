"""The report over HTTP: for this machine alone, and that page alone."""

import threading
from http.client import HTTPConnection

import pytest

from elfs_ray.artifacts.run_folder import RunFolder
from elfs_ray.errors import UsageError
from elfs_ray.report.serve import serve_report


@pytest.fixture
def store(tmp_path):
    store = RunFolder(str(tmp_path))
    store.write_bytes("<p>näher</p>".encode(), "report.html")
    store.write_bytes(b"{}", "manifest.json")
    return store


@pytest.fixture
def ask(store):
    with serve_report(store, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def get(path, host=None):
            connection = HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", path, headers={"Host": host or f"localhost:{server.server_port}"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers

        assert server.server_address[0] == "127.0.0.1"
        yield get
        server.shutdown()


def test_the_page(ask):
    status, text, headers = ask("/")
    assert (status, text) == (200, "<p>näher</p>")
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/manifest.json", "/../manifest.json", "/report.html", "/?x"])
def test_nothing_else(ask, path):
    assert ask(path)[0] == 404


def test_not_under_the_name_of_another_site(ask):
    assert ask("/", host="evil.example:80")[0] == 403


def test_a_port_that_is_taken(store):
    with serve_report(store, 0) as server, pytest.raises(UsageError, match=f"port {server.server_port} .* --port"):
        serve_report(store, server.server_port)


def test_no_report_yet(tmp_path):
    store = RunFolder(str(tmp_path))
    for finished, said in ((None, "is not finished, and has no"), ("2026-11-28", "has no")):
        store.update_manifest(finished=finished)
        with pytest.raises(UsageError, match=rf"the run in .* {said} report yet; make one with `elfs-ray report"):
            serve_report(store, 0)
