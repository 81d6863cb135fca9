"""Models by name, against a hub of the tests' own: pushed, fetched, refused, cut short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_model
from hub_client import HubClient
from local_hub import TOKEN, LocalHub
from PIL import Image

from fidediff_model.model import hub as model_hub
from trajectory_builder.disk import hub as names

NOWHERE = "http://127.0.0.1:9"
"""No server listens there."""


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(hub, home) -> Iterator[HubClient]:
    with HubClient(hub.url, home, token=TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def pushed(hub, client) -> str:
    """The name of a private model on the hub."""
    done = client.fidediff("push", small_model.folder_of(), "me/tiny", "--licence", "apache-2.0")
    assert done.code == 0, done.err
    assert done.out == f"{hub.url}/me/tiny\n"
    return "me/tiny"


@pytest.fixture(scope="module")
def blurry(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "blurry.png"
    Image.fromarray(small_model.scene(24, 32)).save(path)
    return path


def model_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_pushed_model_is_private_and_arrives_in_one_commit(hub, pushed):
    repository = hub.repositories["model/me/tiny"]
    assert repository.private
    assert len(repository.commits) == 2  # the empty repository, and the model


def test_a_pushed_model_has_the_same_weights(hub, pushed):
    files = hub.repositories["model/me/tiny"].files("main")
    own = model_files(small_model.folder_of())
    weights = {name for name in own if name.endswith(".safetensors")}
    assert weights
    assert {name: files[name] for name in weights} == {name: own[name] for name in weights}


def test_the_card_names_licence_and_how_to_load(hub, pushed):
    card = hub.repositories["model/me/tiny"].files("main")["README.md"].decode()
    assert "license: apache-2.0\n" in card
    assert "library_name: fidediff\n" in card
    assert 'FideDiff.load("me/tiny")' in card


def test_restoring_by_name_gives_the_bytes_of_the_folder(client, pushed, blurry, tmp_path):
    for name, out in ((pushed, "a.png"), (small_model.folder_of(), "b.png")):
        done = client.fidediff("restore", blurry, "--model", name, "--out", tmp_path / out)
        assert done.code == 0, done.err
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_python_loads_a_model_by_name(client, pushed):
    done = client.python(
        'from fidediff_model import FideDiff; print(FideDiff.load("me/tiny").parts)'
    )
    assert done.out == "['kernel_estimator', 'timestep_regressor', 'control']\n"


def test_a_revision_can_be_named(hub, client, pushed, blurry, tmp_path):
    commit = hub.repositories["model/me/tiny"].branches["main"]
    name = f"{pushed}@{commit}"
    done = client.fidediff("restore", blurry, "--model", name, "--out", tmp_path / "a.png")
    assert done.code == 0, done.err


def test_a_wrong_revision_is_one_clear_error(client, pushed, blurry, tmp_path):
    done = client.fidediff("restore", blurry, "--model", "me/tiny@v9", "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "me/tiny has no revision v9" in done.err
    assert "cure:  give a branch, a tag or a commit of it" in done.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_one_clear_error(client, blurry, tmp_path):
    done = client.fidediff("restore", blurry, "--model", "me/none", "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "there is no folder me/none here, and the hub has no me/none for you" in done.err


def test_a_download_that_breaks_off_loads_nothing_and_goes_on_later(hub, client, blurry, tmp_path):
    files = model_files(small_model.folder_of())
    hub.add("me/cut", files)
    weights = "kernel_estimator/model.safetensors"
    hub.cut[weights] = len(files[weights]) // 2
    command = ("restore", blurry, "--model", "me/cut", "--out", tmp_path / "a.png")
    done = client.fidediff(*command)
    assert done.code == 2
    assert "me/cut cannot be fetched completely" in done.err
    assert "run the same command again" in done.err
    assert list(tmp_path.iterdir()) == []
    hub.cut.clear()
    hub.asked.clear()
    assert client.fidediff(*command).code == 0
    assert (
        "GET /me/cut/resolve/"
        + hub.repositories["model/me/cut"].branches["main"]
        + ("/base/prompt.safetensors")
        not in hub.asked
    )


def test_a_damaged_model_on_the_hub_is_refused(hub, client, blurry, tmp_path):
    files = model_files(small_model.folder_of())
    weights = "timestep_regressor/model.safetensors"
    hub.add("me/damaged", files | {weights: files[weights][:-9]})
    done = client.fidediff("restore", blurry, "--model", "me/damaged", "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "the model's timestep_regressor is missing or damaged" in done.err


def test_nothing_but_json_and_safetensors_is_fetched(hub, client, blurry, home, tmp_path):
    files = model_files(small_model.folder_of())
    strange = {"base/evil.bin": b"pickle", "model.py": b"raise SystemExit", "base/a.pt": b"x"}
    hub.add("me/strange", files | strange)
    done = client.fidediff("restore", blurry, "--model", "me/strange", "--out", tmp_path / "a.png")
    assert done.code == 0, done.err
    fetched = {path.name for path in (home / "hub/models--me--strange/snapshots").rglob("*")}
    assert fetched & {"evil.bin", "model.py", "a.pt"} == set()


def test_an_upload_that_fails_leaves_the_repository_as_it_was(hub, client, pushed, tmp_path):
    before = dict(hub.repositories["model/me/tiny"].branches)
    folder = tmp_path / "model"
    shutil.copytree(small_model.folder_of(()), folder)
    hub.broken_uploads = True
    done = client.fidediff("push", folder, "me/tiny", "--licence", "mit")
    hub.broken_uploads = False
    assert done.code == 1
    assert "error: me/tiny is not pushed to" in done.err
    assert hub.repositories["model/me/tiny"].branches == before


def test_a_smaller_model_replaces_all_of_a_larger_one(hub, client):
    hub.add("me/shrinks", {"control/model.safetensors": b"old", "picture.png": b"theirs"},
            private=True)  # fmt: skip
    done = client.fidediff("push", small_model.folder_of(()), "me/shrinks", "--licence", "mit")
    assert done.code == 0, done.err
    files = hub.repositories["model/me/shrinks"].files("main")
    assert "control/model.safetensors" not in files
    assert files["picture.png"] == b"theirs"


def test_a_public_repository_takes_nothing_that_should_be_private(hub, client):
    hub.add("me/open", {"README.md": b"x"})
    command = ("push", small_model.folder_of(), "me/open", "--licence", "mit")
    done = client.fidediff(*command)
    assert done.code == 2
    assert "me/open exists already and is public" in done.err
    assert client.fidediff(*command, "--public").code == 0


@pytest.mark.slow
def test_a_private_model_is_hidden_from_strangers(hub, pushed, blurry, tmp_path):
    with HubClient(hub.url, tmp_path / "home") as stranger:
        done = stranger.fidediff("restore", blurry, "--model", pushed, "--out", tmp_path / "a.png")
    assert done.code == 2
    assert "the hub has no me/tiny for you" in done.err
    assert "hf auth login" in done.err


@pytest.mark.slow
def test_without_a_network_the_error_says_so(blurry, tmp_path):
    with HubClient(NOWHERE, tmp_path / "home") as alone:
        done = alone.fidediff("restore", blurry, "--model", "me/tiny", "--out", tmp_path / "a.png")
        pushed = alone.fidediff("push", small_model.folder_of(), "me/tiny", "--licence", "mit")
    assert done.code == 2
    assert "there is no folder me/tiny here, and me/tiny cannot be fetched" in done.err
    assert "cure:  check the network" in done.err
    assert pushed.code == 1
    assert "me/tiny is not pushed to" in pushed.err


@pytest.mark.slow
def test_a_fetched_model_works_without_a_network(hub, client, pushed, home, blurry, tmp_path):
    out = ("--out", tmp_path / "a.png")
    assert client.fidediff("restore", blurry, "--model", pushed, "--out", tmp_path / "b.png"
                           ).code == 0  # fmt: skip
    with HubClient(NOWHERE, home, HF_HUB_OFFLINE="1") as offline:
        done = offline.fidediff("restore", blurry, "--model", pushed, *out)
    assert done.code == 0, done.err


@pytest.fixture
def copied(tmp_path) -> Path:
    """A model folder to be spoilt, with a licence in its card."""
    folder = tmp_path / "model"
    shutil.copytree(small_model.folder_of(), folder)
    card = (folder / "README.md").read_text().replace("---\n", "---\nlicense: mit\n", 1)
    (folder / "README.md").write_text(card)
    return folder


def change_config(folder: Path, **changed: object) -> None:
    values = json.loads((folder / "config.json").read_text()) | changed
    (folder / "config.json").write_text(json.dumps(values))


def push_is_refused(folder: Path, capsys, *options: str) -> str:
    assert small_model.cli("push", folder, "me/x", *options) == 2
    return capsys.readouterr().err


def test_a_model_without_licence_is_not_pushed(capsys):
    message = push_is_refused(small_model.folder_of(), capsys)
    assert "the model's card states no licence" in message
    assert "--licence" in message


def test_a_model_over_a_local_base_is_not_pushed(copied, capsys):
    change_config(copied, base_model="/data/sd21")
    message = push_is_refused(copied, capsys)
    assert "names its base weights by a folder of this machine: /data/sd21" in message
    assert "--base-model OWNER/NAME" in message


@pytest.mark.parametrize("path", ["/home/me/data", "C:\\Users\\me", "~/data/set"])
def test_a_model_with_a_path_of_this_machine_is_not_pushed(copied, capsys, path):
    change_config(copied, card={"manifest": path})
    assert "config.json: " + path.replace("\\", "\\\\") in push_is_refused(copied, capsys).replace(
        "\\\\\\\\", "\\\\"
    )


def test_an_incomplete_model_is_not_pushed(copied, capsys):
    (copied / "control" / "model.safetensors").unlink()
    assert "the model's control is missing or damaged" in push_is_refused(copied, capsys)


def test_a_model_without_card_is_not_pushed(copied, capsys):
    (copied / "README.md").unlink()
    assert "the model has no card" in push_is_refused(copied, capsys, "--licence", "mit")


@pytest.mark.parametrize("name", ["model", "/me/x", "me/x/y", "../x", "me/x@", "me/ x"])
def test_what_is_no_name_on_the_hub(name):
    assert names.parse(name) is None


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("me/x", "me/x", None),
        ("me/x@v1.0", "me/x", "v1.0"),
        ("me/x@refs/pr/1", "me/x", "refs/pr/1"),
    ],
)
def test_names_on_the_hub(text, repository, revision):
    assert names.parse(text) == names.HubName(repository, revision)


def test_a_mistyped_path_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    assert model_hub.find("run/modle") == Path("run/modle")
