"""Uploads to a hub that this test serves itself: the real client, the real calls, no network beyond this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, CheckpointError
from aftermix.jobs.diff import diff
from aftermix.jobs.merge.model_card import build_model_card
from aftermix.jobs.push import find_model_folder
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.reader import read_best
from aftermix.runs.records import ScoresRecord, TaskScore
from conftest import run_cli

Family = Mapping[str, Path]
Command = Callable[..., subprocess.CompletedProcess[str]]
FIXTURE = Path(__file__).parents[2] / "data" / "runs-0a1294b"
TOKEN = "secret"  # noqa: S105


class Hub(ThreadingHTTPServer):
    """As much of a hub as an upload needs; it keeps what it is given."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.public = False
        self.broken = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self.server.calls.append(f"GET {self.path}")
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, status=401)
        elif self.path == "/api/whoami-v2":
            self.answer({"type": "user", "name": "me", "orgs": []})
        else:
            name = self.path.removeprefix("/api/models/").partition("?")[0]
            self.answer({"id": name, "private": not self.server.public, "tags": [], "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append(f"POST {self.path}")
        if self.server.broken:
            self.answer({"error": "out of order"}, status=400)
        elif self.path == "/api/repos/create":
            entry = json.loads(body)
            self.server.created.append(entry)
            name = f"{entry.get('organization') or 'me'}/{entry['name']}"
            exists = self.server.public
            self.answer({"url": f"{self.server.address}/{name}", "name": name}, status=409 if exists else 200)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.address}/blobs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        else:
            self.commit([json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append(f"PUT {self.path}")
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self.answer({})

    def commit(self, lines: list[dict[str, Any]]) -> None:
        name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
        for line in lines:
            if line["key"] == "file":
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.files[line["value"]["path"]] = self.server.blobs[line["value"]["oid"]]
        self.answer({"commitUrl": f"{self.server.address}/{name}/commit/1", "commitOid": "1", "success": True})

    def answer(self, value: dict[str, Any], *, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def aftermix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line with no login but what the settings of the call give, as environment variables."""

    def run(*arguments: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
        for key in os.environ:
            if key.upper().startswith(("HF_", "HUGGING", "TRANSFORMERS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")):
                monkeypatch.delenv(key)
        for key, value in settings.items():
            monkeypatch.setenv(key, value)
        # What the client reads of its environment when it is imported.
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", settings.get("HF_HUB_OFFLINE") == "1")
        monkeypatch.setattr(constants, "ENDPOINT", settings.get("HF_ENDPOINT", "http://127.0.0.1:9"))

        capsys.readouterr()
        code = run_cli(*arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def recipe(folder: Path, family: Family, **vector: object) -> str:
    file = folder / "file.yaml"
    vectors = {"b": {"model": str(family["b"]), **vector}}
    file.write_text(json.dumps({"base": str(family["base"]), "vectors": vectors}))
    return str(file)


def test_a_merge_is_uploaded_with_its_card(aftermix: Command, hub: Hub, family: Family, tmp_path: Path) -> None:
    arguments = ["merge", recipe(tmp_path, family), "-o", str(tmp_path / "out"), "--push", "me/merged", "--private"]
    done = aftermix(*arguments, home=tmp_path / "home", HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert f"Hub: {hub.address}/me/merged" in done.stdout
    assert hub.created[0]["name"] == "merged"
    assert "private" in json.dumps(hub.created[0])
    written = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == written
    assert {"README.md", "model.safetensors", "config.json", "tokenizer.json", "aftermix.yaml"} <= set(hub.files)
    assert hub.calls[0] == "GET /api/whoami-v2"  # asked before the merge


def test_a_finished_run_uploads_its_model(aftermix: Command, hub: Hub, family: Family, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "best.json").write_text("{}")
    for name in ("config.json", "model.safetensors"):
        (run / "model" / name).write_bytes((family["b"] / name).read_bytes())
    (run / "model" / "README.md").write_text("---\ntags: [merge]\n---\n# m\n")
    done = aftermix("push", str(run), "merged", home=tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert set(hub.files) == {"config.json", "model.safetensors", "README.md"}
    assert hub.created[0]["name"] == "merged"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("a/b/c", {}, r"aftermix: a/b/c: is no name of a repository \(.*\)\. Use NAME or OWNER/NAME\."),
        ("bad name", {}, r"aftermix: bad name: is no name of a repository"),
        ("me/x", {"HF_HUB_OFFLINE": "1"}, r"me/x: the hub is in offline mode\. Unset HF_HUB_OFFLINE and"),
        ("me/x", {}, r"me/x: there is no login to the hub\. Log in with `hf auth login`, or set HF_TOKEN"),
        ("me/x", {"HF_TOKEN": "wrong"}, r"me/x: the hub does not accept the login\. Log in with `hf auth login`"),
        (
            "me/x",
            {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"},
            r"me/x: the hub cannot be asked for the login \(.*\)\. Try again when it can be reached\.",
        ),
    ],
)
def test_a_merge_that_cannot_be_uploaded_does_not_begin(
    aftermix: Command, name: str, settings: dict[str, str], message: str, hub: Hub, family: Family, tmp_path: Path
) -> None:
    arguments = ["merge", recipe(tmp_path, family), "-o", str(tmp_path / "out"), "--push", name]
    done = aftermix(*arguments, home=tmp_path / "home", **{"HF_ENDPOINT": hub.address} | settings)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert not any(call.startswith("POST") for call in hub.calls)


def uploadable(folder: Path, family: Family, card: str = "---\ntags: [merge]\n---\n") -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((family["b"] / name).read_bytes())
    (folder / "README.md").write_text(card)
    return folder


def test_an_upload_that_breaks_off_says_how_to_go_on(
    aftermix: Command, hub: Hub, family: Family, tmp_path: Path
) -> None:
    model = uploadable(tmp_path / "m", family)
    hub.broken = True
    done = aftermix("push", str(model), "me/x", home=tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 1
    assert f"aftermix: {model}: could not be uploaded as me/x (" in done.stderr
    assert f"The model is complete; upload it with `aftermix push {shlex.quote(str(model))} me/x`." in done.stderr


def test_nothing_private_goes_into_a_public_repository(
    aftermix: Command, hub: Hub, family: Family, tmp_path: Path
) -> None:
    hub.public = True
    arguments = ["push", str(uploadable(tmp_path / "m", family)), "me/x", "--private"]
    done = aftermix(*arguments, home=tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "--private: me/x is there already and is public. Make it private on the hub" in done.stderr
    assert hub.files == {}


def test_private_needs_push(aftermix: Command, family: Family, tmp_path: Path) -> None:
    done = aftermix("merge", recipe(tmp_path, family), "-o", str(tmp_path / "out"), "--private", home=tmp_path)
    assert done.returncode == 2
    assert "--private is for --push REPO_ID." in done.stderr


def test_only_models_with_a_card_are_uploaded(family: Family, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="expected a model, a stored vector or a finished run, found none of them"
    ):
        find_model_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"README\.md: is no model card that the hub takes .*Write one, with"):
        find_model_folder(family["b"])
    with pytest.raises(AftermixError, match=r"README\.md: is no model card that the hub takes"):
        find_model_folder(uploadable(tmp_path / "m", family, card="---\n- a list\n---\n"))


def test_a_stored_vector_is_uploaded_with_its_card(aftermix: Command, hub: Hub, family: Family, tmp_path: Path) -> None:
    diff(str(family["b"]), base=str(family["base"]), output=tmp_path / "vector")
    done = aftermix("push", str(tmp_path / "vector"), "me/v", home=tmp_path, HF_ENDPOINT=hub.address, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert {"vector.json", "config.json", "tokenizer.json", "difference/model.safetensors"} <= set(hub.files)
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.base_model == []  # of local folders, whose names others may have on the hub
    assert card.data.tags == ["aftermix", "distribution-vector"]
    assert str(tmp_path.parent) not in card.content


def test_the_card_of_a_run_has_evaluation_results_that_the_hub_reads(family: Family) -> None:
    config = Config(
        base="org/base",
        vectors={name: VectorConfig(model=f"org/{name}") for name in ("it", "ja")} | {"l": VectorConfig(model="./l")},
    )
    score = TaskScore(score=0.625, interval=(0.5, 0.75), items=40)
    test = ScoresRecord(objective=(0.625,), interval=((0.5, 0.75),), tasks={"gsm8k": score, "mgsm_ja": score})
    metrics = {"gsm8k": "exact_match,strict", "mgsm_ja": "acc,none"}
    best = read_best(FIXTURE / "search").model_copy(update={"test": test, "metrics": metrics})
    weights = {"it": 1.0, "ja": 0.5, "l": 0.0}
    content = build_model_card(
        config, MergeRecipe.from_config(config.merge), weights, name="merged", best=best
    ).decode()
    card = ModelCard(content)
    assert card.data.base_model == ["org/base", "org/it", "org/ja"]
    assert card.data.tags == ["merge", "aftermix"]
    assert card.data.library_name == "transformers"
    index = card.data.to_dict()["model-index"]
    assert [entry["name"] for entry in index] == ["merged"]
    assert {result["dataset"]["name"] for result in index[0]["results"]} == {"gsm8k", "mgsm_ja"}
    results = {result.dataset_type: result for result in card.data.eval_results}
    assert results["gsm8k"].metric_value == 0.625
    assert results["gsm8k"].metric_type == "exact_match"
    assert results["mgsm_ja"].metric_name == "acc,none"
    assert results["mgsm_ja"].dataset_split == "test"
