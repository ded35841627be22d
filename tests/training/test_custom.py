"""The user's own lib/pipeline.py: trained, bundled, read where its hash is known, and nowhere else."""

import subprocess
import sys

import numpy as np
import pytest

import synthetic
import workspaces
from modelkeep.training import bundle, custom, pipelines
from modelkeep.training.bundle import BundleError
from modelkeep.training.custom import CustomError

SHIPPED = workspaces.SHIPPED / "lib/pipeline.py"
OWN = """
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from modelkeep.training import pipelines


class Clip(TransformerMixin, BaseEstimator):
    def __init__(self, share=0.01):
        self.share = share

    def fit(self, x, y=None):
        self.low_, self.high_ = np.nanquantile(x, [self.share, 1 - self.share], axis=0)
        return self

    def transform(self, x):
        return np.clip(x, self.low_, self.high_)


def estimator(schema, params):
    kind = HistGradientBoostingClassifier if schema.classes else HistGradientBoostingRegressor
    names = [c.name for c in schema.columns if c.kind == "number"]  # with the new one
    pick = pipelines.ColumnTransformer([("numbers", "passthrough", names)])
    return Pipeline([("pick", pick), ("clip", Clip()), ("trees", kind(max_iter=10, random_state=0))])


def features(frame):
    return frame.assign(ratio=frame["size"] / (1 + frame["weight"].abs()))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A workspace with an own lib/pipeline.py in Git."""
    root = tmp_path / "clone"
    for name in ("lib", "params"):
        (root / name).mkdir(parents=True)
    (root / "dvc.yaml").write_text("")
    (root / "lib" / "pipeline.py").write_text(OWN)
    git(root, "init", "-q")
    commit(root)
    monkeypatch.chdir(root)
    return root


def git(root, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


def commit(root):
    git(root, "add", "-A")
    git(root, "commit", "-qm", "x")


def forget():
    for name in [n for n in sys.modules if n.startswith(custom.PREFIX)]:
        del sys.modules[name]


def saved(root, parts, folder="candidate"):
    schema, rows = parts.schema, parts.train
    unfitted = custom.estimator(root, schema, {"model": "boosting"})
    custom.check(unfitted, rows, schema)
    fitted, log = pipelines.fit(unfitted, rows, schema), synthetic.promise(parts, "linear")
    contents = {"fitted": fitted, "schema": schema, "train": rows, "out_of_fold": log, "scores": {}}
    bundle.save(root / folder, **contents, provenance={"params": {}})
    return fitted


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_an_own_model_is_trained_bundled_and_served_by_the_library(root, parts, task):
    fitted = saved(root, parts[task])
    forget()
    found = bundle.load(root / "candidate")
    rows = parts[task].test
    expected = pipelines.predict(fitted, rows, found.schema)
    np.testing.assert_allclose(found.predict(rows), expected)
    np.testing.assert_allclose(found.answer(rows), expected)  # online as offline
    np.testing.assert_allclose(found.answer(rows.head(1)), expected[:1])
    assert found.manifest["serving"]["engine"] == "scikit-learn"
    assert found.manifest["own_code"] == [custom.current(root).__name__]


def test_the_file_may_change_and_the_model_of_an_earlier_commit_stays_readable(root, parts):
    saved(root, parts["binary"])
    (root / "lib" / "pipeline.py").write_text(SHIPPED.read_text())
    forget()
    assert bundle.load(root / "candidate").predict(parts["binary"].test).shape[1] == 2


def test_code_that_this_repository_never_had_is_not_trusted(root, parts):
    (root / "lib" / "pipeline.py").write_text(OWN + "# never committed\n")
    saved(root, parts["binary"])
    (root / "lib" / "pipeline.py").write_text(OWN)
    forget()
    with pytest.raises(BundleError, match="neither here nor in this repository's history"):
        bundle.load(root / "candidate")


def test_only_what_the_file_itself_defines_is_trusted(root):
    name = custom.current(root).__name__
    assert custom.trusted(f"{name}.Clip") and custom.trusted(f"{name}.features")
    for other in ("Pipeline", "np", "nothing", "np.load"):
        assert not custom.trusted(f"{name}.{other}")
    assert not custom.trusted("os.system")


def test_the_shipped_file_makes_the_kinds_of_the_params(tmp_path, parts):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pipeline.py").write_text(SHIPPED.read_text())
    schema = parts["binary"].schema
    for kind in ("boosting", "forest", "linear"):
        ours = custom.estimator(tmp_path, schema, {"model": kind, "seed": 3})
        assert repr(ours) == repr(pipelines.pipeline(schema, kind, seed=3))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def estimator(schema, params):\n    return 3\n", "returns int"),
        ("from sklearn.svm import LinearSVC\ndef estimator(schema, params):\n    return LinearSVC()\n", "gives no probabilities"),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_a_file_that_makes_no_model_says_what_to_change(tmp_path, parts, code, message):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pipeline.py").write_text(code)
    with pytest.raises(CustomError, match=message):
        custom.estimator(tmp_path, parts["binary"].schema, {})


def test_features_that_look_at_other_rows_are_refused(tmp_path, parts):
    (tmp_path / "lib").mkdir()
    code = 'def features(frame):\n    return frame.assign(rank=frame["size"].rank())\n'
    (tmp_path / "lib" / "pipeline.py").write_text(code)
    part = parts["binary"]
    unfitted = custom.estimator(tmp_path, part.schema, {"model": "boosting"})
    with pytest.raises(CustomError, match="'rank' of row .* another value alone"):
        custom.check(unfitted, part.train, part.schema)


def test_a_new_feature_reaches_the_shipped_kinds(parts):
    """A column that `features` adds is one more of the model's inputs, and one that it drops none."""
    schema, rows = parts["binary"].schema, parts["binary"].train
    own = custom.ModuleType("own")
    own.features = lambda frame: frame.assign(double=frame["size"] * 2).drop(columns="weight")
    for kind in ("boosting", "forest", "linear"):
        unfitted = custom.made(own, schema, {"model": kind, "trees": 5})
        fitted = pipelines.fit(unfitted, rows, schema)
        names = [name for _, _, names in fitted["columns"].transformers for name in names]
        assert "double" in names and "weight" not in names
        assert len(pipelines.predict(fitted, rows, schema)) == len(rows)


def test_a_new_feature_of_text_is_refused(parts):
    own = custom.ModuleType("own")
    own.features = lambda frame: frame.assign(word="a")
    with pytest.raises(CustomError, match="adds 'word' as text"):
        custom.made(own, parts["binary"].schema, {"model": "boosting"})
