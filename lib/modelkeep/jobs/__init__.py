"""Jobs on the prediction log and the record of versions: each runs once and ends.

- `score`: predictions of files; `export`: the prediction log as a file
- `trace`: one prediction back to its row, model and evidence
"""
