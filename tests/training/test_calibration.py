"""Calibration: learned out of fold, kept by the bundle, the same in each engine."""

import numpy as np
import pandas as pd
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

import synthetic
from modelkeep.data import splits
from modelkeep.training import bundle, explain, pipelines
from modelkeep.training.calibration import Calibrated
from modelkeep.training.engines import calibration
from modelkeep.training.pipelines import ModelError


class Bold:
    """An estimator whose log-odds are three times those of the truth, and one too high."""

    classes_ = np.array([0, 1])

    def get_params(self, deep=True):
        return {}

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-(3 * x[:, 0] + 1)))
        return np.column_stack([1 - p, p])


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_a_bold_model_becomes_calibrated(method):
    random = np.random.default_rng(0)
    x = random.normal(size=(20_000, 1))
    truth = 1 / (1 + np.exp(-x[:, 0]))
    y = (random.random(len(x)) < truth).astype(int)
    fitted = Calibrated(Bold(), method).fit(x, y)
    p = fitted.predict_proba(x)[:, 1]
    assert np.abs(p - truth).mean() < 0.02 < np.abs(Bold().predict_proba(x)[:, 1] - truth).mean()
    if method == "sigmoid":  # the map undoes the slope
        assert fitted.map_["slope"] == pytest.approx(1 / 3, abs=0.02)


def test_the_maps_are_scikit_learns(parts):
    random = np.random.default_rng(1)
    p = random.dirichlet([2, 2], 3000)
    y = (random.random(3000) < p[:, 1] ** 2).astype(int)
    logit = np.log(p[:, 1] / p[:, 0])[:, None]
    theirs = LogisticRegression(C=np.inf).fit(logit, y).predict_proba(logit)
    fitted = Calibrated(method="sigmoid")
    fitted.classes_, fitted.map_ = np.array([0, 1]), calibration_of("sigmoid", y, p)
    ours = calibration.apply(fitted.map_, p)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    line = IsotonicRegression(y_min=0, y_max=1).fit(p[:, 1], y)
    ours = calibration.apply(calibration_of("isotonic", y, p), p)
    np.testing.assert_allclose(ours[:, 1], line.predict(p[:, 1]), atol=1e-12)


def calibration_of(method, y, p):
    """The map that out-of-fold predictions `p` lead to."""

    class Given:
        classes_ = np.arange(p.shape[1])

        def get_params(self, deep=True):
            return {}

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return p[x[:, 0].astype(int)]

    rows = np.arange(len(y))[:, None]
    first = np.arange(len(y) // 4)  # the first part is not predicted: it is put before all
    x, labels = np.concatenate([rows[first], rows]), np.concatenate([y[first], y])
    return Calibrated(Given(), method).fit(x, labels).map_


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_each_kind_keeps_its_map_in_bundle_and_engine(method, task, kind, parts, tmp_path):
    given = parts[task]
    synthetic.sealed(tmp_path / "b", given, kind, calibrate=method)
    read = bundle.load(tmp_path / "b")
    rows = bundle.edge_cases(given.train, given.schema)
    assert read.pipeline["model"].map_["method"] == method
    engine = {"linear": "onnx", "forest": "onnx", "catboost": "estimator"}.get(kind, "quickscorer")
    if method == "sigmoid" or engine == "quickscorer":  # isotonic steps may part 32 bits
        assert read.manifest["serving"]["engine"] == engine
    assert np.abs(read.answer(rows) - read.predict(rows)).max() < 1e-5
    plain = pipelines.predict(synthetic.fitted(given, kind), rows, given.schema)
    assert np.abs(read.predict(rows) - plain).max() > 1e-3


def test_an_explanation_adds_up_to_the_calibrated_prediction(parts, tmp_path):
    given = parts["binary"]
    synthetic.sealed(tmp_path / "b", given, "boosting", calibrate="sigmoid")
    read = bundle.load(tmp_path / "b")
    rows = given.test.head(3)
    p = read.predict(rows)[:, 1]
    np.testing.assert_allclose(explain.explain(read, rows).output, np.log(p / (1 - p)), atol=1e-6)


def test_the_future_does_not_calibrate_the_past(parts):
    """The map is learned from each part by models of the parts before it alone."""
    given = parts["binary"]
    unfitted = pipelines.pipeline(given.schema, "boosting", calibrate="sigmoid", **synthetic.QUICK)
    seen = []

    class Spy(Bold):
        def fit(self, x, y):
            seen.append(x[:, 0].max())
            return self

    x = np.arange(1000.0)[:, None]
    Calibrated(Spy(), "sigmoid").fit(x, np.tile([0, 1], 500))
    assert seen == [999, 199, 399, 599, 799]
    tried = pipelines.cross_validate(
        unfitted, given.train, given.schema, splits.blocks(given.train, given.schema), 3
    )
    assert all(np.isfinite(fold.predictions).all() for fold in tried)


def test_with_few_rows_probabilities_stay_as_they_are(parts):
    given = parts["binary"]
    rows = given.train.head(60)
    plain, mapped = (
        pipelines.predict(
            pipelines.fit(
                pipelines.pipeline(given.schema, "linear", calibrate=method), rows, given.schema
            ),
            given.test,
            given.schema,
        )
        for method in ("none", "isotonic")
    )
    assert (plain == mapped).all()


def test_numbers_and_unknown_methods_are_refused(parts):
    with pytest.raises(ModelError, match="calibrate: 'sigmoid' is for probabilities"):
        pipelines.pipeline(parts["regression"].schema, "boosting", calibrate="sigmoid")
    with pytest.raises(ModelError, match="calibrate: 'platt' is not one of none, sigmoid"):
        pipelines.pipeline(parts["binary"].schema, "boosting", calibrate="platt")


def test_an_isotonic_map_keeps_sums_and_needs_no_class_to_be_possible():
    lines = [[[0, 0.5], [0, 0]], [[0, 1], [0, 1]], [[0, 1], [0, 1]]]
    p = pd.DataFrame([[0.4, 0.3, 0.3], [1, 0, 0]]).to_numpy()
    found = calibration.apply({"method": "isotonic", "lines": lines}, p)
    assert found.tolist() == [[0, 0.5, 0.5], [1, 0, 0]]
