"""What was predicted and which labels came: the prediction log.

- `records`: the log's records, and how labels join predictions
- `tables`: the tables and statements, once for both databases
- `log`: one interface over `sqlite` and `postgres`
- `removal`: rows taken out again: old ones, and those of one entity
- `frames`: the log as a DataFrame
- `history`: labelled rows appended to the training history, each once
"""
