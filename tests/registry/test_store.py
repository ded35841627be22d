import json
import shutil

import pytest

from modelkeep.registry import store
from modelkeep.registry.store import Now, Role, StoreError
from modelkeep.training.manifests import BundleError


@pytest.fixture
def folder(bundles, tmp_path_factory):
    """Where the binary bundle lies."""
    return next(tmp_path_factory.getbasetemp().glob("bundles*")) / "binary"


def test_a_bundle_is_copied_by_its_hash_once(tmp_path, folder, bundles):
    sha256 = store.add(tmp_path, folder)
    assert sha256 == bundles["binary"].sha256 == store.add(tmp_path, folder)
    ours, theirs = (
        sorted(p.name for p in at.iterdir()) for at in (store.path(tmp_path, sha256), folder)
    )
    assert ours == theirs and [p.name for p in (tmp_path / "bundles").iterdir()] == [sha256]


def test_nobody_answers_before_somebody_is_named(tmp_path, folder):
    assert store.now(tmp_path) is None
    first = Role(store.add(tmp_path, folder))
    assert store.point(tmp_path, Now(first)) == store.now(tmp_path) == Now(first, serial=1)
    tried = Now(first, canary=Role(first.sha256, "v2", 0.05, "salt"))
    assert store.point(tmp_path, tried).serial == 2
    assert store.now(tmp_path).canary == tried.canary


def test_a_changed_bundle_is_found(tmp_path, folder):
    sha256 = store.add(tmp_path, folder)
    file = store.path(tmp_path, sha256) / "schema.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(BundleError, match="the file was changed"):
        store.check(tmp_path, sha256)
    with pytest.raises(BundleError):
        store.point(tmp_path, Now(Role(sha256)))
    assert store.now(tmp_path) is None


def test_another_bundle_under_its_name_is_found(tmp_path, folder, bundles, tmp_path_factory):
    sha256 = store.add(tmp_path, folder)
    other = next(tmp_path_factory.getbasetemp().glob("bundles*")) / "regression"
    shutil.rmtree(store.path(tmp_path, sha256))
    shutil.copytree(other, store.path(tmp_path, sha256))
    with pytest.raises(StoreError, match="the bundle was changed"):
        store.check(tmp_path, sha256)


@pytest.mark.parametrize("name", ["", "..", "../x", "a" * 63, "A" * 64, "/etc", "a" * 64 + "\n"])
def test_nothing_but_a_hash_is_a_name(tmp_path, name):
    with pytest.raises(StoreError, match="is not a SHA-256"):
        store.path(tmp_path, name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"champion": {"sha": 1}}', '"x"'])
def test_a_pointer_that_is_none(tmp_path, text):
    (tmp_path / store.POINTER).write_text(text)
    with pytest.raises(StoreError, match="point the store at"):
        store.now(tmp_path)


def test_an_add_that_fails_leaves_nothing(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(store.files, "write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.add(tmp_path, folder)
    assert list((tmp_path / "bundles").iterdir()) == []


def test_sweeping_spares_who_answers_and_who_is_kept(tmp_path, folder, tmp_path_factory):
    at = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    binary, multi, numbers = (
        store.add(tmp_path, at / t) for t in ("binary", "multiclass", "regression")
    )
    store.point(tmp_path, Now(Role(binary)))
    assert store.sweep(tmp_path, {multi}) == [numbers]
    assert json.loads((tmp_path / store.POINTER).read_text())["champion"]["sha256"] == binary
