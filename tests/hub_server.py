"""Servers with as much of the Hugging Face Hub's interface as is asked for: here Minari's download."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

COMMIT = "0" * 40


class Hub:
    """Serves `folder/GROUP/...` as the dataset repositories farama-minari/GROUP.

    Files whose names are in `withheld` are listed, but not given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.withheld: set[str] = set()
        self.served: list[str] = []

    def repository(self, group: str) -> dict[str, object]:
        names = [{"rfilename": entry["path"]} for entry in self.tree(group)]
        return {"_id": group, "id": f"farama-minari/{group}", "sha": COMMIT, "siblings": names}

    def tree(self, group: str) -> list[dict[str, object]]:
        files = sorted(path for path in (self.folder / group).rglob("*") if path.is_file())
        named = ((path, path.relative_to(self.folder / group).as_posix()) for path in files)
        return [{"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT} for path, name in named]


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does."""

    def send(self, content: bytes, body: bool, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server's address, while it runs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def running(hub: Hub) -> contextlib.AbstractContextManager[str]:
    """Its address, while it runs."""
    return serving(_handler(hub))


def _handler(hub: Hub) -> type[HubHandler]:
    class Handler(HubHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[:3] == ["api", "datasets", "farama-minari"]:
                found = hub.tree(parts[3]) if "tree" in parts else hub.repository(parts[3])
                self.send(json.dumps(found).encode(), body)
            elif parts[:2] == ["api", "datasets"]:
                groups = [path.name for path in hub.folder.iterdir()]
                self.send(json.dumps([hub.repository(group) for group in groups]).encode(), body)
            elif parts[0] == "datasets" and "resolve" in parts:
                self._file(hub.folder / parts[2] / "/".join(parts[parts.index("resolve") + 2 :]), body)
            else:
                self.send(b"{}", body)

        def _file(self, path: Path, body: bool) -> None:
            if not path.is_file() or path.name in hub.withheld:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if body:
                hub.served.append(path.name)
            self.send(path.read_bytes(), body)

    return Handler
