"""A hub on loopback that speaks what pushing and pulling use: repositories, commits, large files, and downloads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class ScriptedHub:
    """Its repositories, by "owner/name": path -> content. A test may change them behind the client's back."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.commits: list[str] = []
        self.large: dict[str, bytes] = {}
        self.downloaded: list[str] = []
        self.url = ""

    def commit_of(self, repo: str) -> str:
        content = sorted(self.repositories[repo].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()


@contextmanager
def scripted_hub() -> Iterator[ScriptedHub]:
    """A hub that runs inside the block."""
    hub = ScriptedHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Handler(hub, *args))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: ScriptedHub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_: Any) -> None:
        """Nothing is written."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.hub.repositories:
                return self._json({"error": "exists", "url": f"{self.hub.url}/{repo}"}, 409)
            self.hub.repositories[repo] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(repo)
            return self._json({"url": f"{self.hub.url}/{repo}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        repo, rest = self._repo(path.removeprefix("/api/models/"))
        files = self.hub.repositories.get(repo)
        if files is None:
            return self._missing()
        if rest.startswith("preupload/"):
            told = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return self._json({"files": told})
        if rest.startswith("commit/"):
            for line in body.splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "header":
                    self.hub.commits.append(value["summary"])
                elif row["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    files[value["path"]] = self.hub.large[value["oid"]]
            commit = self.hub.commit_of(repo)
            return self._json({"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit})
        if rest.startswith("paths-info/"):
            # as a form in some versions of the client, as JSON in others
            asked_for = json.loads(body)["paths"] if body[:1] == b"{" else _form(body)["paths"]
            return self._json([self._entry(repo, each) for each in asked_for if each in files])
        return self._missing()

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.large[self.path.rsplit("/", 1)[-1]] = content
        self._json({})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo, rest = self._repo(path.removeprefix("/api/models/"))
            files = self.hub.repositories.get(repo)
            if files is None:
                return self._missing()
            if rest.startswith("tree/"):
                return self._json([self._entry(repo, each) for each in files])
            told = {"id": repo, "modelId": repo, "sha": self.hub.commit_of(repo), "private": repo in self.hub.private}
            return self._json({**told, "tags": [], "siblings": [{"rfilename": each} for each in files]})
        return self._file(path)

    def do_HEAD(self) -> None:
        self._file(unquote(urlsplit(self.path).path))

    def _file(self, path: str) -> None:
        repo, rest = self._repo(path.removeprefix("/"))
        _, _, name = rest.removeprefix("resolve/").partition("/")
        content = self.hub.repositories.get(repo, {}).get(name)
        if content is None:
            return self._missing("EntryNotFound" if repo in self.hub.repositories else "RepoNotFound")
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.commit_of(repo))
        self.end_headers()
        if self.command == "GET":
            self.hub.downloaded.append(name)
            self.wfile.write(content)
        return None

    def _entry(self, repo: str, path: str) -> dict[str, Any]:
        content = self.hub.repositories[repo][path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    @staticmethod
    def _repo(path: str) -> tuple[str, str]:
        owner, name, *rest = path.split("/")
        return f"{owner}/{name}", "/".join(rest)

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._json({"error": "not found"}, 404, {"X-Error-Code": code})

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for key, each in (headers or {}).items():
            self.send_header(key, each)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _form(body: bytes) -> dict[str, list[str]]:
    from urllib.parse import parse_qs

    return parse_qs(body.decode())
