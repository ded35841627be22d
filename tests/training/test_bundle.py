import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

import synthetic
from modelkeep.data import splits
from modelkeep.training import bundle, manifests, pipelines
from modelkeep.training.bundle import BundleError

TASKS = tuple(synthetic.LABELS)
ENGINE = {
    "binary": "quickscorer",
    "multiclass": "onnx",
    "regression": "onnx",
}  # of its kind of model


@pytest.fixture
def folder(bundles, tmp_path, tmp_path_factory):
    """A copy of the binary bundle that may be broken."""
    source = next(tmp_path_factory.getbasetemp().glob("bundles*")) / "binary"
    return shutil.copytree(source, tmp_path / "candidate")


def restate(folder, name, content):
    """Write a file and let the manifest state its hash, as a forger would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))


SEAL = """
import sys, synthetic
from pathlib import Path
for task, kind in (("binary", "boosting"), ("multiclass", "forest"), ("regression", "linear")):
    synthetic.sealed(Path(sys.argv[1]) / task, synthetic.prepared(task), kind)
"""


def test_another_process_seals_the_same_bytes(bundles, tmp_path, tmp_path_factory, request):
    here = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    surroundings = {**os.environ, "PYTHONHASHSEED": "12345", "TZ": "Asia/Kathmandu"}
    command = [sys.executable, "-W", "error", "-c", SEAL, str(tmp_path)]
    subprocess.run(command, cwd=request.path.parents[1] / "support", env=surroundings, check=True)
    for task in TASKS:
        names = sorted(p.name for p in (here / task).iterdir())
        assert names == sorted(
            [*manifests.FILES, manifests.MANIFEST, manifests.ENGINES[ENGINE[task]]]
        )
        assert names == sorted(p.name for p in (tmp_path / task).iterdir())
        for name in names:
            ours, theirs = ((at / task / name).read_bytes() for at in (here, tmp_path))
            assert ours == theirs, (task, name)


@pytest.mark.parametrize("task", TASKS)
def test_a_loaded_bundle_answers_as_what_was_sealed(task, bundles, parts):
    loaded, test = bundles[task], parts[task].test
    kind = {"binary": "boosting", "multiclass": "forest", "regression": "linear"}[task]
    predictions = pipelines.predict(synthetic.fitted(parts[task], kind), test, parts[task].schema)
    assert (loaded.predict(test) == predictions).all()
    assert np.allclose(loaded.answer(test), predictions, atol=1e-5, rtol=1e-5)
    assert loaded.manifest["serving"]["engine"] == ENGINE[task]
    assert loaded.schema == parts[task].schema
    assert loaded.manifest["rows"] == len(parts[task].train) == len(loaded.trained_rows)
    pd.testing.assert_frame_equal(
        loaded.out_of_fold, synthetic.promise(parts[task], kind), check_dtype=False
    )


@pytest.mark.parametrize("task", TASKS)
def test_every_pipeline_survives_its_file(task, kind, parts):
    fitted = synthetic.fitted(parts[task], kind)
    content = bundle.dump(fitted)
    again = bundle.undump(content)
    ours, theirs = (
        pipelines.predict(f, parts[task].test, parts[task].schema) for f in (fitted, again)
    )
    assert (ours == theirs).all()
    assert bundle.dump(synthetic.fitted(parts[task], kind)) == content


@pytest.mark.parametrize("task", TASKS)
def test_golden_rows_give_back_their_answers(task, bundles):
    golden, answers = bundles[task].reference_rows, bundles[task].reference_predictions
    assert len(golden) == len(answers) == 20 and golden.isna().any().any()
    assert (bundles[task].predict(golden) == answers).all()
    assert np.allclose(bundles[task].answer(golden), answers, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_no_rows_have_no_answers(task, bundles, parts):
    nothing = parts[task].test.head(0)
    shape = (0,) if task == "regression" else (0, len(parts[task].schema.classes))
    assert bundles[task].answer(nothing).shape == shape


@pytest.mark.parametrize("name", [*manifests.FILES, "trees.json"])
def test_one_flipped_bit_is_found_before_anything_is_parsed(name, folder, monkeypatch):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    def parsed(*_, **__):
        raise AssertionError("parsed")

    for where, what in (
        (bundle.schemas, "from_json"),
        (bundle.profile, "from_json"),
        (bundle, "undump"),
        (bundle.export, "load"),
        (bundle.splits, "load"),
        (bundle.np, "load"),
    ):
        monkeypatch.setattr(where, what, parsed)
    with pytest.raises(BundleError, match=f"{name}: its SHA-256 is .* restore it"):
        bundle.load(folder)


def test_the_name_of_a_bundle_is_the_hash_of_its_manifest(folder, bundles):
    assert bundle.load(folder).name == bundles["binary"].name
    text = (folder / manifests.MANIFEST).read_text()
    (folder / manifests.MANIFEST).write_text(text.replace('"rows"', '"Rows"'))
    assert bundle.load(folder).name != bundles["binary"].name


def test_a_flipped_bit_in_the_manifest_is_found_or_makes_another_bundle(folder, bundles):
    """Only who knows the manifest's own hash, which is the bundle's name, can tell the rest."""
    content, refused = (folder / manifests.MANIFEST).read_bytes(), 0
    for place in range(0, len(content), 151):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (folder / manifests.MANIFEST).write_bytes(flipped)
        try:
            assert bundle.load(folder).name != bundles["binary"].name
        except BundleError:
            refused += 1
    assert refused > 3


@pytest.mark.parametrize("name", manifests.FILES)
def test_a_file_that_is_missing(name, folder):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"'{name}' is missing"):
        bundle.load(folder)


def test_a_file_that_the_manifest_leaves_out(folder):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    del manifest["files"]["schema.json"]
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"'schema\.json' is missing"):
        bundle.load(folder)


@pytest.mark.parametrize("name", ["../secret", "sub/secret", "/etc/hostname", "..", "", "."])
def test_a_manifest_that_leads_out_of_the_folder(name, folder):
    for at in (folder.parent / "secret", folder / "sub" / "secret"):
        at.parent.mkdir(exist_ok=True)
        at.write_bytes(b"x")
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    manifest["files"][name] = hashlib.sha256(b"x").hexdigest()
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="is missing"):
        bundle.load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": 3}', '{"files": ["a"]}', "\0"])
def test_a_manifest_that_is_none(content, folder):
    (folder / manifests.MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=r"no readable manifest\.json"):
        bundle.load(folder)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleError, match="run the stage train, or `dvc checkout`"):
        bundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize("other", [0, 1, 4, "2", None])
def test_another_format(other, folder):
    manifest = json.loads((folder / manifests.MANIFEST).read_text()) | {"format": other}
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"bundle format {other!r}, and this code reads 2 and 3"):
        bundle.load(folder)


def test_a_bundle_of_the_format_before_still_serves(tmp_path, bundles, tmp_path_factory, parts):
    """It had ONNX, or no engine of its own."""
    folder, rows = tmp_path / "candidate", parts["multiclass"].test
    here = next(tmp_path_factory.getbasetemp().glob("bundles*"))
    shutil.copytree(here / "multiclass", folder)
    manifest = json.loads((folder / manifests.MANIFEST).read_text()) | {"format": 2}
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    assert (bundle.load(folder).answer(rows) == bundles["multiclass"].answer(rows)).all()


@pytest.mark.parametrize("name", ["quickjscorer", "onnx", None])
def test_an_engine_that_is_not_there(name, folder):
    manifest = json.loads((folder / manifests.MANIFEST).read_text())
    manifest["serving"]["engine"] = name
    (folder / manifests.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"engine is '{name}', which this code does not know"):
        bundle.load(folder)


class Stranger(BaseEstimator):
    """An estimator that is not scikit-learn's."""

    def fit(self, x, y=None):
        return self


@pytest.mark.parametrize("stranger", [Stranger(), os.system])
def test_a_foreign_type_is_refused(stranger, folder):
    forged = Pipeline([("columns", "passthrough"), ("model", stranger)])
    restate(folder, "model.skops", skops.io.dumps(forged))
    with pytest.raises(
        BundleError,
        match=r"names types that neither scikit-learn nor lib/pipeline.py of this repository has: .*",
    ):
        bundle.load(folder)


@pytest.mark.parametrize("strange", [(), ("encoding",)])
def test_what_cannot_be_converted_is_served_by_scikit_learn(strange, parts, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("no\n" + "x" * 1000)

    for name in ("to_onnx", *strange):
        monkeypatch.setattr(bundle.export, name, fails)
    made = synthetic.sealed(tmp_path / "candidate", parts["binary"], "linear")
    assert not (tmp_path / "candidate" / "model.onnx").exists()
    stated, test = made.manifest["serving"], parts["binary"].test
    assert stated["engine"] == ("scikit-learn" if strange else "estimator")
    assert "onnx: RuntimeError: no xxx" in stated["reason"]
    assert (made.answer(test) == made.predict(test)).all()


def test_a_seal_that_fails_leaves_the_old_bundle(folder, parts, monkeypatch):
    before = bundle.load(folder).name
    monkeypatch.setattr(bundle.splits, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic.sealed(folder, parts["binary"], "linear")
    assert bundle.load(folder).name == before
    assert [p.name for p in folder.parent.iterdir()] == ["candidate"]


def test_a_row_has_one_hash_in_any_frame(parts, tmp_path):
    schema, rows = parts["binary"].schema, parts["binary"].train
    hashes = bundle.row_hashes(rows, schema)
    assert len(np.unique(hashes)) == len(rows)
    turned = rows.iloc[::-1, ::-1].set_axis(range(7, len(rows) + 7))
    assert (bundle.row_hashes(turned, schema) == hashes[::-1]).all()
    splits.write(rows, tmp_path / "rows.parquet")
    assert (bundle.row_hashes(splits.load(tmp_path / "rows.parquet"), schema) == hashes).all()
    other = {"when": "datetime64[ns]", "shop": object, "key": "category"}
    assert (bundle.row_hashes(rows.astype(other), schema) == hashes).all()
    missing = rows.assign(shop=rows["shop"].astype(object).where(rows["shop"].notna(), None))
    assert (bundle.row_hashes(missing, schema) == hashes).all()
    assert (bundle.row_hashes(rows.assign(late="0", more=1), schema) == hashes).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "other"),
        ("when", pd.Timestamp("2020-01-01 00:01:00.000001")),
        ("size", 0.123456),
        ("size", np.nan),
        ("shop", "west"),
        ("shop", None),
    ],
)
def test_a_changed_value_has_another_hash(name, value, parts):
    schema, rows = parts["binary"].schema, parts["binary"].train.head(3)
    changed = rows.copy()
    changed.loc[1, name] = value
    same = bundle.row_hashes(changed, schema) == bundle.row_hashes(rows, schema)
    assert same.tolist() == [True, False, True]


def test_a_table_without_time_has_hashes_too():
    learned = synthetic.prepared(timed=False)
    assert len(np.unique(bundle.row_hashes(learned.train, learned.schema))) == len(learned.train)
