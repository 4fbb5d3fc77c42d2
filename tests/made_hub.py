"""A server with as much of the Hugging Face Hub's interface as downloading a small model asks for."""

from __future__ import annotations

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

        def answer(self, body: bool = True) -> None:
            path = self.path.split("?")[0]
            if "/resolve/" in path:
                name = path.split("/resolve/")[1].split("/", 1)[1]
                return self.send(files.get(name, b""), body, 200 if name in files else 404)
            if "/tree/" in path:
                reply: object = [
                    {"type": "file", "path": name, "size": len(text), "oid": COMMIT} for name, text in files.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in files]
                reply = {"_id": "1", "id": "me/walker", "sha": COMMIT, "siblings": siblings}
            self.send(json.dumps(reply).encode(), body, 200)
            return None

    with serving(Handler) as address:
        yield address
