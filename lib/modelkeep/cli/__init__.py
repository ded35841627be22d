"""The command line, in sections: each command is a wrapper that imports its modules when it runs.

- `commands`: what all commands have in common: `--json`, errors, the workspace, completion
- `pipeline`: run a stage, compare experiments, read verdicts
- `serving`: the prediction server, reports on alerts, the monitoring files
- `log`: export the prediction log
- `versions`: release, promote, roll back, and the record of it
- `rollout`: plan, start and follow a canary or a shadow deployment
- `automation`: the unattended update
- `main`: the entry point; a new section goes into its list
"""
