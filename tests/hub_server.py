"""Servers with as much of the Hugging Face Hub's interface as is asked for: downloads, and uploads of models."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0" * 40
APIS = ("api", "datasets", "models")


class Hub:
    """Serves `folder/NAME/...` as the repository OWNER/NAME, of the owner that is asked for, and writes there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tree(self, name: str) -> list[dict[str, Any]]:
        files = sorted(path for path in (self.folder / name).rglob("*") if path.is_file())
        named = [(path.relative_to(self.folder / name).as_posix(), path.stat().st_size) for path in files]
        return [{"type": "file", "path": path, "size": size, "oid": COMMIT} for path, size in named]

    def repository(self, name: str, owner: str = "farama-minari") -> dict[str, Any]:
        siblings = [{"rfilename": entry["path"]} for entry in self.tree(name)]
        return {"_id": name, "id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}

    def reply(self, parts: list[str], given: bytes, url: str) -> Any:
        """What an address is answered with, in parts without those of `APIS`: [OWNER, NAME, what is asked, ...]."""
        owner, name, asked, *_ = [*parts, "", "", ""]
        if not parts:
            return [self.repository(path.name) for path in self.folder.iterdir()]
        if asked == "preupload":
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return {"files": [{"path": file["path"], **plain} for file in json.loads(given)["files"]]}
        if asked == "commit":
            for line in map(json.loads, given.splitlines()):
                if line["key"] == "file":
                    path = self.folder / name / line["value"]["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(base64.b64decode(line["value"]["content"]))
            done = {"success": True, "commitOid": COMMIT, "hookOutput": ""}
            return {**done, "commitUrl": f"{url}/{owner}/{name}/commit/{COMMIT}"}
        if not (self.folder / name).is_dir():  # repos/create, validate-yaml
            return {"url": f"{url}/me/odd", "id": "me/odd", "errors": [], "warnings": []}
        return self.tree(name) if asked == "tree" else self.repository(name, owner)


@contextlib.contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server's address, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def running(hub: Hub) -> contextlib.AbstractContextManager[str]:
    """Its address, while it runs."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = [part for part in self.path.split("?")[0].split("/") if part and part not in APIS]
            if parts[2:3] != ["resolve"]:
                content = json.dumps(hub.reply(parts, given, f"http://{self.headers['Host']}")).encode()
                return self.send({"X-Repo-Commit": COMMIT}, content)
            path = hub.folder / parts[1] / Path(*parts[4:])
            if not path.is_file():
                return self.send({"X-Error-Code": "EntryNotFound"}, b"", 404)
            digest = hashlib.sha1(path.read_bytes()).hexdigest()
            return self.send({"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}, path.read_bytes())

        do_HEAD = do_GET = do_POST = answer  # noqa: N815

        def send(self, headers: dict[str, str], content: bytes, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    return serving(Handler)
