"""`trajbuild push` against a hub of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_dataset
from hub_client import HubClient
from local_hub import TOKEN, LocalHub

from trajectory_builder.cli import main
from trajectory_builder.export.hf import export_hf
from trajectory_builder.export.lmdb import export_lmdb
from trajectory_builder.export.request import Request


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    with LocalHub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Iterator[HubClient]:
    with HubClient(hub.url, tmp_path_factory.mktemp("home"), token=TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_dataset.make(tmp_path_factory.mktemp("push") / "set")


@pytest.fixture
def export(source, tmp_path) -> Path:
    export_hf(Request(source, tmp_path / "hf"))
    return tmp_path / "hf"


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["push", *map(str, arguments)])
    assert ended.value.code in (1, 2)
    return capsys.readouterr().err


def test_a_data_set_arrives_private_in_one_commit(hub, client, export):
    done = client.trajbuild("push", export, "me/blur")
    assert done.code == 0, done.err
    assert done.out == f"{hub.url}/datasets/me/blur\n"
    repository = hub.repositories["dataset/me/blur"]
    assert repository.private
    assert len(repository.commits) == 2
    files = repository.files("main")
    shards = {f"data/{path.name}": path.read_bytes() for path in (export / "data").iterdir()}
    assert shards
    assert {name: files[name] for name in shards} == shards
    assert b"license: cc-by-4.0\n" in files["README.md"]
    assert b'load_dataset("me/blur")' in files["README.md"]
    assert {".gitattributes", "README.md", "croissant.json"} == set(files) - set(shards)


def test_shards_of_a_former_push_are_removed(hub, client, export):
    old = {"data/train-00000-of-00001.parquet": b"x", "data/gone-00000-of-00009.parquet": b"x"}
    hub.add("me/again", old, kind="dataset", private=True)
    done = client.trajbuild("push", export, "me/again", "--licence", "cc-by-4.0")
    assert done.code == 0, done.err
    names = hub.repositories["dataset/me/again"].files("main")
    assert "data/gone-00000-of-00009.parquet" not in names


def test_an_upload_that_fails_leaves_nothing(hub, client, export):
    hub.broken_uploads = True
    done = client.trajbuild("push", export, "me/broken", "--licence", "cc-by-4.0")
    hub.broken_uploads = False
    assert done.code == 1
    assert "error: me/broken is not pushed to" in done.err
    assert set(hub.repositories["dataset/me/broken"].files("main")) == {".gitattributes"}


def test_an_export_without_licence_is_refused(export, capsys):
    card = (export / "README.md").read_text().replace("license: cc-by-4.0\n", "")
    (export / "README.md").write_text(card)
    message = refused(capsys, export, "me/blur")
    assert "the card states no licence" in message
    assert "--licence" in message


def test_an_export_that_lacks_a_shard_is_refused(export, capsys):
    next((export / "data").iterdir()).unlink()
    message = refused(capsys, export, "me/blur", "--licence", "mit")
    assert "the export is incomplete: data/" in message


def test_an_export_for_another_trainer_is_refused(source, tmp_path, capsys):
    export_lmdb(Request(source, tmp_path / "lmdb"))
    assert "not as hf" in refused(capsys, tmp_path / "lmdb", "me/blur", "--licence", "mit")


def test_a_data_set_that_was_not_exported_is_refused(source, capsys):
    message = refused(capsys, source, "me/blur", "--licence", "mit")
    assert "is not an export" in message
    assert "trajbuild export DIR --to hf" in message


def test_a_name_that_is_none_is_refused(export, capsys):
    assert "is no name on the hub" in refused(capsys, export, "blur", "--licence", "mit")
