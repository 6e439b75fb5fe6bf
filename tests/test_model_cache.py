"""Models in a store are fetched once, whole, and anew when they change."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs import outputs, records, run, save_model, write_lines

from object2vec.errors import ModelError
from object2vec.model import Object2Vec
from transforms.model_cache import fetch_model
from transforms.storage import open_store

pytest_plugins = ("s3_server",)


def put_model(uri, folder):
    store = open_store(uri)
    for path in folder.iterdir():
        store.put(path.name, path.read_bytes())


def test_a_local_model_stays_where_it_is(tmp_path):
    assert fetch_model(str(tmp_path)) == str(tmp_path)


def test_a_model_is_fetched_once_and_anew_when_it_changes(s3_store, tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    put_model(f"{s3_store}/model", save_model(tmp_path / "a"))
    first = fetch_model(f"{s3_store}/model")
    assert Object2Vec.load(first).hash == Object2Vec.load(tmp_path / "a").hash
    Path(first, "MODEL_CARD.md").write_text("touched")
    assert fetch_model(f"{s3_store}/model/") == first
    put_model(f"{s3_store}/model", save_model(tmp_path / "b", seed=1))
    second = fetch_model(f"{s3_store}/model")
    assert Object2Vec.load(second).hash == Object2Vec.load(tmp_path / "b").hash
    assert sorted(p.name for p in (tmp_path / "cache" / "fetched").iterdir()) == sorted(
        p.rpartition("/")[2] for p in (first, second)
    )


def test_a_place_without_a_model_is_named(s3_store):
    with pytest.raises(ModelError, match="nothing-here holds no files"):
        fetch_model(f"{s3_store}/nothing-here")


def test_the_main_job_takes_a_model_from_a_store(s3_store, tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECT2VEC_CACHE", str(tmp_path / "cache"))
    model = save_model(tmp_path / "model")
    put_model(f"{s3_store}/model", model)
    data = write_lines(tmp_path / "x.jsonl", records(9))
    assert run(model=model, input=data, output=tmp_path / "a") == 0
    assert run(model=f"{s3_store}/model", input=data, output=tmp_path / "b") == 0
    assert outputs(tmp_path / "a") == outputs(tmp_path / "b")
