"""A Hugging Face Hub of the tests' own: HTTP on this machine, repositories in memory.

It speaks the part of the hub's protocol that huggingface_hub 1 and 2 use for snapshots and commits;
large files go through git-lfs. What it was asked is kept, and it can be made to fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """One repository: its branches, each a commit, and the files of every commit."""

    kind: str
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.branches.get(revision, revision))

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        listed = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()})
        sha = hashlib.sha1(f"{len(self.commits)} {listed}".encode()).hexdigest()
        self.branches[branch], self.commits[sha] = sha, files
        return sha


class LocalHub:
    """The server. `with LocalHub() as hub: ... hub.url`.

    Attributes:
        repositories: `model/OWNER/NAME` or `dataset/OWNER/NAME` -> repository.
        asked: method and path of every request.
        cut: path of a file -> bytes after which its download breaks off.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: dict[str, int] = {}
        self.broken_uploads = False
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], *, kind="model", private=False) -> str:
        """Put files on the main branch; the commit."""
        made = self.repositories.setdefault(f"{kind}/{name}", Repository(kind, private))
        return made.commit("main", files)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                answer(self, **found.groupdict())
                return
        self._json({"error": f"no such address: {path}"}, 404)

    def _json(self, values: object, status: int = 200, **headers: str) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _find(self, kind: str, name: str) -> Repository | None:
        """The repository, or None after a 401 as the hub gives it to strangers."""
        found = self.hub.repositories.get(f"{kind}/{name}")
        if found is None or (found.private and not self._known):
            self._json({"error": "Repository not found"}, 401 if not self._known else 404,
                       X_Error_Code="RepoNotFound")  # fmt: skip
            return None
        return found

    def info(self, kind: str, name: str, revision: str | None = None) -> None:
        if (found := self._find(kind, name)) is None:
            return
        branch = revision or "main"
        files = found.files(branch)
        if files is None and (revision or found.commits):
            self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return
        self._json({
            "id": name, "sha": found.branches.get(branch, branch), "private": found.private,
            "siblings": [{"rfilename": path} for path in files or {}], "tags": [],
        })  # fmt: skip

    def tree(self, kind: str, name: str, revision: str) -> None:
        if (found := self._find(kind, name)) is None:
            return
        files = found.files(revision)
        if files is None:
            self._json({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            return
        self._json([
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ])  # fmt: skip

    def resolve(self, name: str, revision: str, file: str, kind: str = "model") -> None:
        if (found := self._find(kind, name)) is None:
            return
        data = (found.files(revision) or {}).get(file)
        if data is None:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        start = 0
        if wanted := re.match(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(wanted[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", found.branches.get(revision, revision))
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        ends = self.hub.cut.get(file, len(data))
        self.wfile.write(data[start:ends])
        if ends < len(data):
            self.close_connection = True

    def create(self) -> None:
        wanted = json.loads(self.body)
        if not self._known:
            self._json({"error": "Invalid username or password."}, 401)
            return
        kind, name = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        private = wanted.get("private") or wanted.get("visibility") == "private"
        place = f"{'datasets/' if kind == 'dataset' else ''}{name}"
        address = {"url": f"{self.hub.url}/{place}", "id": name}
        if f"{kind}/{name}" in self.hub.repositories:
            self._json({"error": "You already created this repo"} | address, 409)
            return
        made = Repository(kind, bool(private))
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.hub.repositories[f"{kind}/{name}"] = made
        self._json(address)

    def validate(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".parquet"))
                else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]  # fmt: skip
        self._json({"files": modes})

    def batch(self, name: str) -> None:
        objects = [
            {
                "oid": each["oid"],
                "size": each["size"],
                "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}},
            }
            for each in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put_lfs(self, oid: str) -> None:
        if self.hub.broken_uploads:
            self._json({"error": "the store is down"}, 400)
            return
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.lfs[oid] = self.body
        self._json({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        if (found := self._find(kind, name)) is None:
            return
        files = dict(found.files(revision) or {})
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = found.commit(revision, files)
        place = f"{'datasets/' if kind == 'dataset' else ''}{name}"
        address = f"{self.hub.url}/{place}/commit/{sha}"
        self._json({"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})


_WHOSE = r"(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"/api/{_WHOSE}", _Handler.info),
    (rf"/api/{_WHOSE}/revision/(?P<revision>.+)", _Handler.info),
    (rf"/api/{_WHOSE}/tree/(?P<revision>[^/]+)/?", _Handler.tree),
    (rf"/api/{_WHOSE}/preupload/(?P<revision>.+)", _Handler.preupload),
    (rf"/api/{_WHOSE}/commit/(?P<revision>.+)", _Handler.commit),
    (r"/(?:datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", _Handler.put_lfs),
    (r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)", _Handler.resolve),
]
