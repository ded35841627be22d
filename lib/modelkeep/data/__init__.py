"""Tables: read, typed, cleaned, and cut by time.

- `io`: CSV, Parquet, Feather and Excel files, or folders of them, as columns of text or numbers
- `storage`: tables in object storage (S3), brought here whole
- `definitions`: what a schema and its columns are, as plain data without pandas
- `written`: one value as the table writes it (1.234,5 or 2.5 kg), for requests
- `columns`: what one column must look like: read its values, learn it, fit values to it
- `schema`: what a row must look like; rows that do not fit are quarantined with the reason
- `time_axis`: which times belong to the table, so that an odd one stretches nothing
- `splits`: what was known at a moment, the train and test parts, blocks and weeks of time
- `inspect`: what is doubtful about a table, each with the params that settle it
"""
