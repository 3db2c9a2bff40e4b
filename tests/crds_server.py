"""A CRDS server on this machine: gives what a cache holds, with its catalogue, and counts what it was asked for."""

import ast
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def crds_server(cache: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a cache; yields the address and the names of the files fetched, in order."""
    files = {path.name: path for kind in ("mappings", "references") for path in (cache / kind).rglob("*.*")}
    catalogue = {
        name: {"size": str(path.stat().st_size), "sha1sum": hashlib.sha1(path.read_bytes()).hexdigest()}
        for name, path in files.items()
    }
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            fetched.append(name)
            self._answer(files[name].read_bytes())

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert asked["method"] == "get_server_info"
            self._answer(json.dumps({"result": information, "error": None, "id": asked["id"]}).encode())

        def _answer(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    address = f"http://localhost:{server.server_port}"
    information = ast.literal_eval((cache / "config/jwst/server_config").read_text())
    information |= {"connected": True, "download_metadata": catalogue}
    information |= {f"{kind}_url": {"jwst": f"{address}/{kind}/"} for kind in ("mapping", "reference")}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield address, fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
