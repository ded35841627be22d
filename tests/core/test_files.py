import json
import math
import os

import numpy as np
import pytest

from modelkeep.core import files


def test_json_keeps_order_and_makes_nonfinite_numbers_null(tmp_path):
    path = tmp_path / "new" / "a.json"
    value = {"b": np.float64("nan"), "a": [1, math.inf, np.int64(3)], "c": ("é", None, True)}
    files.write_json(path, value)
    assert path.read_text() == (
        '{\n "b": null,\n "a": [\n  1,\n  null,\n  3\n ],\n "c": [\n  "é",\n  null,\n  true\n ]\n}\n'
    )
    assert list(json.loads(path.read_text())) == ["b", "a", "c"]


def test_a_json_that_cannot_be_written_leaves_what_stood(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with pytest.raises(TypeError):
        files.write_json(path, object())
    assert path.read_text() == "1\n"
    assert os.listdir(tmp_path) == ["a.json"]


def test_writing_breaks_no_link_into_a_cache(tmp_path):
    cached, path = tmp_path / "cached", tmp_path / "path"
    cached.write_text("old")
    os.link(cached, path)
    files.write_text(path, "new\r\n")
    assert cached.read_text() == "old"
    assert path.read_bytes() == b"new\r\n"


def test_a_failed_rename_leaves_no_rest(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]


def test_a_folder_takes_the_old_ones_place_only_when_whole(tmp_path):
    path = tmp_path / "deep" / "bundle"
    with files.folder(path) as new:
        (new / "old.txt").write_text("1")
    with pytest.raises(FileNotFoundError), files.folder(path) as new:
        (new / "half.txt").write_text((new / "nowhere").read_text())
    assert os.listdir(path) == ["old.txt"]
    with files.folder(path) as new:
        (new / "new.txt").write_text("3")
    assert os.listdir(path) == ["new.txt"]
    assert os.listdir(path.parent) == ["bundle"]


def test_a_folders_hash_sees_names_and_contents_only(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "in").mkdir(parents=True)
        (tmp_path / name / "in" / "x").write_text("1")
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")
    (tmp_path / "b" / "in" / "x").rename(tmp_path / "b" / "x")
    assert files.sha256(tmp_path / "a") != files.sha256(tmp_path / "b")
    (tmp_path / "empty").write_text("")
    assert files.sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")
