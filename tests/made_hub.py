"""A server with as much of the Hugging Face Hub's interface as uploading and downloading a small model asks for."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
from collections.abc import Iterator

from hub_server import COMMIT, HubHandler, serving


@contextlib.contextmanager
def model_hub(files: dict[str, bytes]) -> Iterator[str]:
    """The address of one that keeps `files` as its only repository's, while it runs."""

    class Handler(HubHandler, http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self, body: bool = True) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            if "/resolve/" in path:
                name = path.split("/resolve/")[1].split("/", 1)[1]
                return self.send(files.get(name, b""), body, 200 if name in files else 404)
            if path.endswith("/api/repos/create"):
                reply: object = {"url": f"http://{self.headers['Host']}/me/walker", "id": "me/walker"}
            elif "/preupload/" in path:
                wanted = json.loads(given)["files"]
                reply = {
                    "files": [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for file in wanted
                    ]
                }
            elif "/commit/" in path:
                for line in map(json.loads, given.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"http://{self.headers['Host']}/me/walker/commit/{COMMIT}"
                reply = {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}
            elif path.endswith("validate-yaml"):
                reply = {"errors": [], "warnings": []}
            elif "/tree/" in path:
                reply = [
                    {"type": "file", "path": name, "size": len(text), "oid": COMMIT} for name, text in files.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in files]
                reply = {"_id": "1", "id": "me/walker", "sha": COMMIT, "siblings": siblings}
            self.send(json.dumps(reply).encode(), body, 200)
            return None

    with serving(Handler) as address:
        yield address
