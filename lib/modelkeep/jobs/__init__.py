"""Jobs on the prediction log and the record of versions: each runs once and ends.

- `trace`: one prediction back to its row, model and evidence
"""
