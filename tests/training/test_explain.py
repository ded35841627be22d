from itertools import combinations
from math import factorial

import numpy as np
import pytest
from sklearn import datasets
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

import synthetic
from modelkeep.training import explain
from modelkeep.training.explain import Explainer, ExplainError, TreeShap

# shap 0.51, TreeExplainer with a background, on whole numbers: elsewhere it rounds thresholds to
# 32 bits, and differs from the definition by more than from these trees
SHAP = {
    "boosting": [
        [-0.74323711, 0.3165396, -0.27437436, -0.7629708, 0.07128751, 0.08655701],
        [0.14164462, 0.16726998, 0.06776975, -1.04651319, 0.21958871, -0.01731005],
        [0.40961001, 1.36967236, 0.30061427, 0.20148468, 0.11486103, 0.02107234],
    ],
    "forest": [
        [-0.20317188, 0.02005366, -0.06848697, -0.04653483, 0.01887183, 0.00013817],
        [0.04132055, -0.00365031, -0.02249967, -0.17892626, -0.04374583, -0.00963569],
        [0.07609694, 0.20493961, 0.10714197, 0.04001569, 0.0126053, 0.00122746],
    ],
}


def oracle(output, rows, background):
    """Shapley values by their definition, over all subsets of columns (rows, columns, outputs)."""
    n, width = rows.shape
    means = {}
    for size in range(width + 1):
        for kept in combinations(range(width), size):
            mixed = np.repeat(background[None], n, 0)
            mixed[:, :, kept] = rows[:, None, kept]
            means[kept] = output(mixed.reshape(-1, width)).reshape(n, len(background), -1).mean(1)
    values = []
    for j in range(width):
        others = [kept for kept in means if j not in kept]
        weights = [factorial(len(s)) * factorial(width - len(s) - 1) for s in others]
        gains = [means[tuple(sorted((*s, j)))] - means[s] for s in others]
        values.append(sum(w * g for w, g in zip(weights, gains, strict=True)) / factorial(width))
    return np.stack(values, axis=1)


def table(task, columns=6, missing=True):
    load = {"binary": "breast_cancer", "multiclass": "wine", "regression": "diabetes"}[task]
    x, y = getattr(datasets, f"load_{load}")(return_X_y=True)
    x = x[:, :columns].copy()
    if missing:
        x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    return x, y


def outputs(model):
    if hasattr(model, "decision_function"):
        return model.decision_function
    if not hasattr(model, "predict_proba"):
        return model.predict
    two = len(model.classes_) == 2
    return lambda x: model.predict_proba(x)[:, 1:] if two else model.predict_proba(x)


MODELS = {
    ("binary", "boosting"): HistGradientBoostingClassifier(max_iter=30, max_depth=4),
    ("multiclass", "boosting"): HistGradientBoostingClassifier(max_iter=10, max_depth=3),
    ("regression", "boosting"): HistGradientBoostingRegressor(max_iter=30, max_depth=4),
    ("binary", "forest"): RandomForestClassifier(20, max_depth=4, random_state=0),
    ("multiclass", "forest"): RandomForestClassifier(10, max_depth=3, random_state=0),
    ("regression", "forest"): RandomForestRegressor(20, max_depth=4, random_state=0),
}


@pytest.mark.parametrize(("task", "kind"), MODELS)
def test_values_of_trees_are_those_of_the_definition(task, kind):
    x, y = table(task)
    model = MODELS[task, kind].fit(x, y)
    shap, output = TreeShap(model, x[:20]), outputs(model)
    values = shap(x[-4:])
    size = np.abs(output(x)).max()
    assert values == pytest.approx(oracle(output, x[-4:], x[:20]), abs=1e-9 * size)
    added = shap.base + values.sum(axis=1)
    assert added == pytest.approx(output(x[-4:]).reshape(4, -1), abs=1e-9 * size)


def test_deep_trees_are_explained_without_a_table(monkeypatch):
    monkeypatch.setattr(explain, "TABULATED", 2)
    x, y = table("binary")
    model = RandomForestClassifier(5, random_state=0).fit(x, y)
    shap = TreeShap(model, x[:10])
    assert shap.table is None
    assert shap(x[-2:]) == pytest.approx(oracle(outputs(model), x[-2:], x[:10]), abs=1e-12)


@pytest.mark.parametrize("kind", SHAP)
def test_values_are_those_of_the_shap_package(kind):
    x, y = datasets.load_digits(return_X_y=True)
    x, y = x[:, [10, 20, 21, 28, 36, 43]], (y > 4).astype(int)
    model = {
        "boosting": HistGradientBoostingClassifier(max_iter=20, max_depth=4, random_state=0),
        "forest": RandomForestClassifier(20, max_depth=4, random_state=0),
    }[kind].fit(x, y)
    assert TreeShap(model, x[:50])(x[100:103])[:, :, 0] == pytest.approx(
        np.array(SHAP[kind]), abs=1e-6
    )


def test_a_column_that_no_tree_reads_has_no_part():
    x, y = table("binary", missing=False)
    x = np.column_stack([x, np.zeros(len(x))])
    model = HistGradientBoostingClassifier(max_iter=5).fit(x, y)
    assert (TreeShap(model, x[:20])(x[-5:])[:, -1] == 0).all()


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_bundle_is_explained(bundles, parts, task):
    """Boosting, a forest and a linear model, with missing values, categories and a time."""
    model, rows = bundles[task], parts[task].test.head(5)
    result = explain.explain(model, rows, model.out_of_fold.head(40))
    assert result.columns == tuple(c.name for c in model.schema.columns)
    assert result.base + result.values.sum(axis=1) == pytest.approx(result.output, abs=1e-6)
    p = model.predict(rows)
    expected = {
        "binary": lambda: np.log(p[:, 1] / p[:, 0]),
        "multiclass": lambda: p,  # of a forest
        "regression": lambda: p,
    }[task]()
    assert result.output == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert result.frame().shape == (5, len(result.columns))
    text = synthetic.said(result)
    assert result.importance().index[0] in text
    assert ("exact" in text) == (task != "regression")


def test_sampling_is_exact_where_the_model_is_additive(bundles, parts):
    """A linear model: the value is the coefficient times the distance from the background."""
    model, rows = bundles["regression"], parts["regression"].test.head(3)
    background = model.out_of_fold.head(15)
    result = explain.explain(model, rows, background)

    def alone(name):
        mixed = model.predict(background.assign(**{name: rows[name].iloc[0]}))
        return mixed.mean() - model.predict(background).mean()

    assert result.values[0] == pytest.approx([alone(n) for n in result.columns], abs=1e-9)


def test_the_same_rows_give_the_same_values(bundles, parts):
    for task in ("binary", "regression"):
        rows = parts[task].test.head(2)
        once, again = (explain.explain(bundles[task], rows) for _ in range(2))
        assert (once.values == again.values).all()


def test_no_background_or_no_trees_are_refused(bundles):
    with pytest.raises(ExplainError, match="the background has no rows"):
        Explainer(bundles["binary"], bundles["binary"].out_of_fold.head(0))
    with pytest.raises(ExplainError, match="Ridge has no trees"):
        TreeShap(bundles["regression"].pipeline["model"], np.zeros((1, 2)))
