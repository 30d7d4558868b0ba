"""A stand-in for the Hugging Face hub on loopback: enough for the real client to download into its cache."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Revisions = Mapping[str, Mapping[str, bytes]]
"""Commit (40 hex digits) → file → content. The last one is `main`."""


@contextmanager
def hub(repo: str, revisions: Revisions) -> Iterator[str]:
    """Serve one model repository; gives the address for HF_ENDPOINT."""
    head = list(revisions)[-1]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{repo}/"):
                what, _, revision = path.removeprefix(f"/api/models/{repo}/").partition("/")
                commit = head if revision == "main" else revision
                files = revisions[commit]
                tree = [{"type": "file", "path": n, "size": len(c), "oid": _oid(c)} for n, c in files.items()]
                siblings = [{"rfilename": name} for name in files]
                info = {"_id": "0", "id": repo, "sha": commit, "siblings": siblings, "private": False}
                self._send(json.dumps(tree if what == "tree" else info).encode(), {"Content-Type": "application/json"})
            elif path.startswith(f"/{repo}/resolve/"):
                revision, _, name = path.removeprefix(f"/{repo}/resolve/").partition("/")
                commit = head if revision == "main" else revision
                content = revisions[commit][name]
                self._send(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})
            else:
                self.send_error(404)

        def _send(self, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
