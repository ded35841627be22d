"""The analyst's functions on tables of three tasks, with and without time, far from the flights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import modelkeep as mk
import synthetic
import tiny
from modelkeep.analyst import tables
from modelkeep.core import notebooks
from modelkeep.core.errors import ModelkeepError
from modelkeep.data import schema, splits
from modelkeep.predictions import frames

TASKS = tuple(synthetic.LABELS)
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(params=TASKS)
def world(request, parts, bundles, tmp_path, tmp_path_factory, monkeypatch):
    """A workspace around a synthetic table, current: its task and label with it."""
    task = request.param
    return build(task, parts[task], bundles[task], tmp_path, tmp_path_factory, monkeypatch)


@pytest.fixture
def binary(parts, bundles, tmp_path, tmp_path_factory, monkeypatch):
    return build(
        "binary", parts["binary"], bundles["binary"], tmp_path, tmp_path_factory, monkeypatch
    )


def build(task, prepared, model, root, tmp_path_factory, monkeypatch):
    for folder in ("params", "models", "data/prepared", "data/collected"):
        (root / folder).mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params" / "serve.yaml").write_text("name: shop\nlog: sqlite:///data/log.db\n")
    (root / "models" / "champion.json").write_text('{"version": null, "bundle": null}')
    sealed = next(tmp_path_factory.getbasetemp().glob("bundles*")) / task
    (root / "models" / "candidate").symlink_to(sealed)
    (root / "data/prepared/schema.json").write_text(schema.to_json(prepared.schema))
    splits.write(prepared.train, root / "data/prepared/train.parquet")
    splits.write(prepared.test, root / "data/prepared/test.parquet")
    monkeypatch.chdir(root)
    return mk.Workspace(), task, synthetic.LABELS[task]


def test_importing_costs_nothing_and_every_name_is_there():
    code = "import sys, modelkeep; print(sorted({'numpy', 'pandas', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    public = [name for name in dir(mk) if not name.startswith("_")]
    assert all(getattr(mk, name).__doc__ for name in public)
    with pytest.raises(AttributeError, match="modelkeep has no 'scor'; there is: .*score"):
        mk.scor  # noqa: B018


def test_rows_group_and_average(world):
    ws, task, label = world
    rows = mk.predict(ws.rows("test"))
    assert all(name.isidentifier() for name in rows.columns)
    if task == "multiclass":
        assert np.allclose(rows[["p_blue", "p_green", "p_red"]].sum(axis=1), 1)
        assert list(rows.prediction.cat.categories) == ["blue", "green", "red"]
    else:
        means = rows.groupby("shop")[[label, "prediction"]].mean()
        assert np.isfinite(means.to_numpy()).all()


def test_scores_are_those_of_the_library(world):
    ws, task, label = world
    test, model = ws.rows("test"), ws.candidate()
    y = splits.load(ws.root / "data/prepared/test.parquet")
    p = model.predict(y)
    scores = mk.score(test)
    if task == "regression":
        assert scores.value.squared_error == pytest.approx(np.mean((p - y.price) ** 2))
    else:
        place = [model.schema.classes.index(each) for each in y[label]]
        truth = p[np.arange(len(y)), place]
        assert scores.value.log_loss == pytest.approx(-np.log(truth).mean())
    assert (scores.low < scores.value).all() and (scores.value < scores.high).all()
    by_shop = mk.score(mk.predict(test), by="shop")  # the predictions that the rows hold
    assert by_shop.rows.sum() == len(test)
    assert set(by_shop.index) == {"north", "south", "east", "missing"}
    alone = mk.score(test[test["shop"] == "north"]).value.iloc[0]
    assert by_shop.loc["north"].iloc[2] == pytest.approx(alone)


def test_a_question_about_a_group_of_numbers_cuts_them(world):
    ws, _, _ = world
    assert len(mk.score(ws.rows("test"), by="size")) == 5


def test_rates_have_intervals_by_day(binary):
    ws, _, label = binary
    train = ws.rows("train")
    rates = mk.rate(train, "shop")
    assert rates.rate.north == pytest.approx(train[train["shop"] == "north"][label].mean())
    assert (rates.low < rates.rate).all() and rates.rate.is_monotonic_decreasing
    assert mk.rate(train.head(4), "shop").low.isna().all()  # one day says nothing of others
    with pytest.raises(ModelkeepError, match="no column 'shp'; did you mean `shop`"):
        mk.rate(train, "shp")


def test_answers_say_how_to_read_them(binary):
    ws, _, label = binary
    rows = ws.rows("test").reset_index(drop=True)
    rows.loc[:9, label] = np.nan
    known = f"{len(rows) - 10:,} of {len(rows):,} rows"
    answers = {
        "rate": mk.rate(rows, "shop"), "score": mk.score(rows), "bins": mk.calibration(rows),
        "compare": mk.compare(None, ws.candidate(), rows),
    }  # fmt: skip
    for name, answer in answers.items():
        assert known in repr(answer) and known in answer._repr_html_(), name
        assert known in repr(answer.head(1)), name
    assert "AUC: higher is better" in repr(answers["score"])
    assert "gain: above 0 the candidate is better" in repr(answers["compare"])
    assert "Conclusion: " in repr(answers["compare"])
    levels = repr(mk.drift(rows, rows)[["level", "effect"]])
    assert "level: none where chance explains" in levels and "severe from 0.25" in levels
    few = mk.rate(rows.head(20), "shop")
    assert few["low"].isna().any() and "fewer than 5 days, too few" in repr(few)
    assert "too few" not in repr(answers["rate"])


def test_nothing_is_cut_and_a_share_stays_between_0_and_1(binary):
    ws, _, label = binary
    rows = ws.rows("test")
    long = tables.answer(pd.DataFrame({"sentence": ["word " * 60]}))
    assert "word " * 59 in repr(long) and "word " * 59 in long._repr_html_()
    few = pd.concat([day.head(1) for _, day in rows.groupby(rows["when"].dt.date)][:8])
    late = np.where(np.arange(8) < 7, 1.0, 0.0)
    rates = mk.rate(few.assign(**{label: late}), np.repeat("all", 8))
    assert rates["rate"].iloc[0] == 0.875 and rates["high"].iloc[0] == 1  # unbounded: 1.17


def test_drift_of_any_two_tables(binary):
    ws, _, _ = binary
    train, test = ws.rows("train"), ws.rows("test")
    moved = mk.drift(train, test.assign(size=test["size"] * 10))
    assert moved.level["size"] == "severe" and "10 times larger" in moved.finding["size"]
    assert moved.drop("size").level.eq("none").all()
    assert "blocks" in moved.attrs["basis"]


def test_drift_needs_no_workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    before = pd.DataFrame({"x": draw.normal(size=2000), "kind": draw.choice(list("ab"), 2000)})
    now = pd.DataFrame({"x": draw.normal(size=900), "kind": draw.choice(list("abc"), 900)})
    moved = mk.drift(before, now)
    assert moved.level.x == "none" and "unseen category" in moved.finding.kind
    shares = mk.distribution("kind", before, now)
    assert shares.before["c"] == 0 and shares.now.sum() == pytest.approx(1)
    assert len(mk.distribution("x", before, now)) == 10


def test_what_if_changes_one_value(world):
    ws, _, _ = world
    row = {"size": 0.3, "weight": 80.0, "shop": "north"}
    tried = mk.what_if(row, shop=["south", "east", None], size=2)
    assert list(tried["shop"].fillna("missing")) == ["north", "south", "east", "missing", "north"]
    model = ws.candidate()
    direct = model.predict(pd.DataFrame([row | {"size": 2.0}]))
    last = tried.iloc[-1]
    wanted = direct[0] if model.schema.task == "regression" else direct[0, -1]
    name = "p_red" if model.schema.task == "multiclass" else "prediction"
    assert last[name] == pytest.approx(wanted)
    with pytest.raises(ModelkeepError, match="'sise' is not a feature .* did you mean `size`"):
        mk.what_if(row, sise=3)
    with pytest.raises(ModelkeepError, match="size: 'big' is not a number"):
        mk.what_if(row, size="big")


def test_a_model_is_no_better_than_itself_and_better_than_the_rate(world):
    ws, _, _ = world
    model, test = ws.candidate(), ws.rows("test")
    same = mk.compare(model, model, test)
    assert (same.gain == 0).all() and same.attrs["verdict"] == "non_inferior"
    plain = mk.compare(ws.champion(), model, test)
    assert ws.champion() is None and plain.attrs["verdict"] == "better"


def test_predictions_of_others_are_compared_as_a_series(binary):
    ws, _, label = binary
    test = mk.predict(ws.rows("test"))
    truth = test[label] * 0.8 + 0.1
    assert mk.compare(ws.candidate(), truth, test).attrs["verdict"] == "better"
    with pytest.raises(ModelkeepError, match="give one number a row"):
        mk.compare(ws.candidate(), truth.to_numpy()[:-1], test)


def test_calibration_and_confusion_count_every_row(binary):
    ws, _, label = binary
    test = ws.rows("test")
    assert mk.calibration(test, bins=4).rows.sum() == len(test)
    counts = mk.confusion(test, threshold=0.4)
    predicted = mk.predict(test).prediction >= 0.4
    assert counts.loc["1", "1"] == (predicted & (test[label] == 1)).sum()
    assert counts.to_numpy().sum() == len(test)


def test_importance_finds_what_the_label_hangs_on(world):
    ws, _, _ = world
    added = mk.importance(ws.rows("test")).added
    assert added.index[0] == "size"
    assert abs(added["weight"]) < added["size"] / 5


def test_labels_that_have_not_come_are_left_out(binary):
    ws, _, label = binary
    rows = mk.predict(ws.rows("test"))
    rows.loc[rows.index[:100], label] = np.nan
    assert mk.score(rows).rows.iloc[0] == len(rows) - 100
    with pytest.raises(ModelkeepError, match="no row has a label in 'late'; take older rows"):
        mk.score(rows.head(100))


def test_collected_rows_hold_predictions_and_names_usable_as_attributes(binary):
    ws, _, _ = binary
    rows = splits.load(ws.root / "data/prepared/test.parquet")
    model = ws.candidate()
    rows = frames.with_predictions(rows, model.schema, model.predict(rows))
    splits.write(rows.assign(answered_by="a"), ws.root / "data/collected/rows.parquet")
    collected = ws.rows("collected")
    assert collected.prediction.equals(mk.predict(ws.rows("test")).prediction)
    assert mk.score(collected).equals(mk.score(ws.rows("test")))


def test_everything_prints_itself_in_a_few_lines(binary):
    ws, _, _ = binary
    for shown in (ws, ws.candidate(), mk.PredictionLog()):
        assert 1 < len(repr(shown).splitlines()) <= 6
        assert len(shown._repr_html_()) < 2000
    assert "make run" in repr(ws)
    assert ws.predictions().empty


def test_a_name_that_is_not_there_is_a_sentence(binary):
    ws, _, _ = binary
    with pytest.raises(ModelkeepError, match="no rows 'tset'; did you mean `test`"):
        ws.rows("tset")
    (ws.root / "models" / "candidate").unlink()
    with pytest.raises(ModelkeepError, match="holds no model: `make run` makes the candidate"):
        ws.candidate()


def test_explore_asks_its_questions_of_any_table(world):
    ws, _, label = world
    rows, model = splits.load(ws.root / "data/prepared/test.parquet"), ws.candidate()
    rows = frames.with_predictions(rows, model.schema, model.predict(rows))
    rows = rows.assign(answered_by=model.name, labelled_at=rows["when"])
    splits.write(rows, ws.root / "data/collected/rows.parquet")
    for command in (("init", "-q"), ("commit", "-q", "--allow-empty", "-m", "Start")):
        tiny.run(ws.root, "git", *command).check_returncode()
    nb = notebooks.read(NOTEBOOKS / "explore.ipynb")
    names, shown = {}, []
    for cell in (c["source"] for c in nb["cells"] if c["cell_type"] == "code"):
        *lines, last = cell.splitlines()
        exec("\n".join(lines), names)
        shown.append(eval(last, names))
    assert len(shown) == 12  # two cells of beginning, then ten questions
    rates = mk.rate(rows, "shop")
    if label == "colour":
        assert np.allclose(rates[["blue", "green", "red"]].sum(axis=1), 1)


def test_costs_of_rules_are_compared_on_rows(world):
    ws, task, label = world
    names = ws.candidate().schema.classes
    errors = {a: {b: 5 if a == names[-1] else 1 for b in names if b != a} for a in names}
    if task == "regression":
        with pytest.raises(ModelkeepError, match="the label is a number"):
            mk.costs(ws.rows("test"), {"1": {"2": 1}})
        return
    table = mk.costs(ws.rows("test"), errors)
    assert table.cost.is_monotonic_increasing and len(table) == 1 + len(names)
    assert table.index[0].startswith(("threshold", "least cost"))  # a model is worth something
    share = splits.load(ws.root / "data/prepared/test.parquet")[label].eq(names[0]).mean()
    assert table.cost[f"always {names[-1]}"] == pytest.approx(
        share if task == "binary" else 1 - np.mean(ws.rows("test")[label] == names[-1])
    )
    with pytest.raises(ModelkeepError, match="'weight' has missing or negative costs"):
        mk.costs(ws.rows("test"), errors, column="weight")
    with pytest.raises(ModelkeepError, match="no number 'shop' that holds"):
        mk.costs(ws.rows("test"), errors, column="shop")
    few = mk.costs(ws.rows("test").head(20), errors)
    assert few["low"].isna().all() and "too few to state an interval" in repr(few)


def test_rates_of_groups_have_intervals_and_a_difference(world):
    ws, task, label = world
    table = mk.groups(ws.rows("test"), by="shop")
    assert table.rows.sum() == len(ws.rows("test"))
    rows = mk.predict(ws.rows("test"))
    north = rows[rows["shop"] == "north"]
    if task == "binary":
        assert table.selection_rate.north == pytest.approx((north.prediction >= 0.5).mean())
        wrong = (north.prediction >= 0.5) != north[label]
        assert table.error.north == pytest.approx(wrong.mean())
    if task == "multiclass":
        wrong = north.prediction.astype(str) != north[label].astype(str)
        assert table.error.north == pytest.approx(wrong.mean())
    else:
        off = north.prediction.mean() - north[label].mean()
        assert table.calibration.north == pytest.approx(off)
    assert all(value > 0 for value in table.attrs["difference"].values())
    few = mk.groups(ws.rows("test").head(20), by="shop")
    assert "Largest difference between groups: cannot say" in repr(few)
