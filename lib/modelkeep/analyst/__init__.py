"""The analyst's questions in one call each: what `import modelkeep as mk` offers in a notebook.

- `tables`: rows as an analyst reads them (numeric labels and predictions, names usable as
  attributes), and back
- `workspace`: this repository's rows, models, versions and reports
- `quality`: predict, score, calibrate, compare, confusion, importance, what-if
- `columns`: rates, distributions and drift of any two DataFrames
- `costs`: what errors cost; rates by group with intervals
- `diagnosis`: why quality fell between two tables, in which rows, and what helps
- `registry`, `predictions`: who was champion when; the prediction log as a DataFrame

Every function takes and returns DataFrames. Add a question to the module of its noun, and its
name to `modelkeep/__init__.py`.
"""
