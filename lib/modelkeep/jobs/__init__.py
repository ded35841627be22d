"""Jobs on the prediction log and the record of versions: each runs once and ends.

- `score`: predictions of files; `export`: the prediction log as a file
- `forget`: the rows of an entity leave log, history and cache
- `trace`: one prediction back to its row, model and evidence
"""
