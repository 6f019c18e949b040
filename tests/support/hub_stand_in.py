"""As much of the Hugging Face Hub's HTTP API as its own client needs to push, tag and download."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from serving.background_server import BackgroundServer, Quiet


class Repo:
    """Commits of one repository: files by path, the newest commit last."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.commits: list[tuple[str, dict[str, bytes]]] = [(_oid(b"empty"), {})]
        self.tags: dict[str, str] = {}

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        oid = self.commits[-1][0] if revision == "main" else self.tags.get(revision, revision)
        return next(commit for commit in self.commits if commit[0] == oid)

    def commit(self, files: dict[str, bytes]) -> str:
        oid = _oid(self.commits[-1][0].encode() + json.dumps(sorted(files)).encode())
        self.commits.append((oid, files))
        return oid


class HubStandIn(BackgroundServer):
    """A Hub on this machine while entered."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads = 0
        self.fail_commits = 0
        """So many commits are answered with 503."""
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length) if length else _chunks(self.rfile, self.headers)
                hub.tokens.add(self.headers.get("authorization"))
                status, headers, content = hub.answer(self.command, self.path, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in headers:
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815

        super().__init__(Handler)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request."""
        path = path.partition("?")[0]
        routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", r"/api/repos/create", self._create),
            ("POST", r"/api/validate-yaml", lambda _: {"errors": [], "warnings": []}),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)/refs", self._refs),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/preupload/(\w+)", self._preupload),
            ("POST", r"/([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", self._batch),
            ("PUT", r"/objects/(\w+)", self._put),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/commit/(\w+)", self._commit),
            ("POST", r"/api/models/([\w.-]+/[\w.-]+)/tag/(\w+)", self._tag),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)/tree/([\w-]+)", self._tree),
            ("GET", r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/([\w.-]+))?", self._info),
            ("GET|HEAD", r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", self._resolve),
        ]
        for methods, pattern, handle in routes:
            match = re.fullmatch(pattern, path)
            if match and method in methods.split("|"):
                answer = handle(*match.groups(), body)
                if isinstance(answer, tuple):
                    return answer
                return 200, {"content-type": "application/json"}, json.dumps(answer).encode()
        return 404, {"x-error-message": f"no route {method} {path}"}, b"{}"

    def _create(self, body: bytes) -> Any:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            return 409, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.repos[name] = Repo(private=private)
        return {"url": f"{self.url}/{name}", "name": name}

    def _refs(self, name: str, _: bytes) -> Any:
        repo = self.repos[name]
        tags = [
            {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid}
            for tag, oid in repo.tags.items()
        ]
        head = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1][0]}
        return {"branches": [head], "converts": [], "tags": tags}

    def _preupload(self, _: str, __: str, body: bytes) -> Any:
        files = json.loads(body)["files"]
        heavy = (".safetensors", ".gguf", ".pt", ".png")
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(heavy) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
        }

    def _batch(self, _: str, body: bytes) -> Any:
        answers = []
        for wanted in json.loads(body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                href = f"{self.url}/objects/{wanted['oid']}"
                answer["actions"] = {"upload": {"href": href, "header": {}}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def _put(self, oid: str, body: bytes) -> Any:
        assert hashlib.sha256(body).hexdigest() == oid
        self.objects[oid] = body
        self.uploads += 1
        return {}

    def _commit(self, name: str, _: str, body: bytes) -> Any:
        if self.fail_commits:
            self.fail_commits -= 1
            return 400, {"x-error-message": "the Hub has a bad day"}, b"{}"
        files = dict(self.repos[name].commits[-1][1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = self.repos[name].commit(files)
        return {"commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}", "success": True}

    def _tag(self, name: str, revision: str, body: bytes) -> Any:
        self.repos[name].tags[json.loads(body)["tag"]] = self.repos[name].files(revision)[0]
        return {}

    def _tree(self, name: str, revision: str, _: bytes) -> Any:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in self.repos[name].files(revision)[1].items()
        ]

    def _info(self, name: str, revision: str | None, _: bytes) -> Any:
        if name not in self.repos:
            return 404, {"x-error-code": "RepoNotFound"}, b"{}"
        oid, files = self.repos[name].files(revision or "main")
        return {
            "id": name,
            "sha": oid,
            "private": self.repos[name].private,
            "tags": [],
            "siblings": [{"rfilename": path} for path in files],
        }

    def _resolve(self, name: str, revision: str, path: str, _: bytes) -> Any:
        oid, files = self.repos[name].files(revision)
        content = files[path]
        headers = {
            "x-repo-commit": oid,
            "etag": f'"{_oid(content)}"',
            "content-length": str(len(content)),
        }
        return 200, headers, content


def point_at(url: str, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Have the Hub's client talk to this address alone; it reads its own once, at import."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _chunks(stream: Any, headers: Any) -> bytes:
    """The body of a request that is sent in chunks."""
    if headers.get("transfer-encoding") != "chunked":
        return b""
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body
