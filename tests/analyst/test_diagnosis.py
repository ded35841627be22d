import pandas as pd
import pytest

import levels
import modelkeep as mk
import shifted
import synthetic
from modelkeep.analyst import tables
from modelkeep.training.candidates import NotRecalibrated


def test_two_tables_of_a_workspace_are_compared(parts, bundles):
    """As an analyst reads rows, with numeric labels, and without predictions."""
    model = bundles["binary"]
    rows = tables.readable(parts["binary"].test, model.schema)
    result = mk.diagnose(rows, rows.assign(size=0.0), model=model)
    assert (result.remedy.kind, result.remedy.target) == ("mend the source", "size")
    assert "Remedy" in synthetic.said(result)


def test_any_two_tables_with_predictions_are_compared():
    before, now = shifted.periods(1, "level", rows=3000)
    assert mk.diagnose(before, now, label="late", time="when").remedy.kind == "recalibrate"


def test_the_smallest_remedy_is_tried_in_a_notebook():
    model = levels.champion("binary")
    rows = levels.later(model, "binary", "level")
    unlabelled = rows.head(3).assign(**{model.schema.label: None})
    rows = pd.concat([rows, unlabelled], ignore_index=True)  # they are left out
    new = mk.recalibrate(tables.readable(rows, model.schema), model=model)
    assert "The model with a new level:" in repr(new) and "closed test" in repr(new)
    assert new.predict(rows)[:, 1].mean() > model.predict(rows)[:, 1].mean() + 0.1
    with pytest.raises(NotRecalibrated, match="ask for no update"):
        mk.recalibrate(levels.later(model, "binary", ""), model=model)


def test_one_prediction_is_explained(parts, bundles):
    rows = tables.readable(parts["binary"].test.head(1), bundles["binary"].schema)
    result = mk.explain(rows, model=bundles["binary"])
    assert "Shapley values, exact" in repr(result)
