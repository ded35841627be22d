"""Files, Git, the workspace, parameters, and the run of a notebook: what everything else stands on.

- `files`: writes that are whole or absent, hashes
- `git`: Git commands, and the lock of the repository
- `errors`: the base class of all errors
- `workspace`: the folder of dvc.yaml and params/, its stages, and what a page was made of
- `parameters`: what a notebook declares, checked against what it is given
- `notebooks`: the canonical form of a notebook file
- `runner`: one strict run of a stage's notebook
- `markup`, `pages`: tables, numbers and the house style of a page
- `verdicts`: the state, sentence and evidence in which each stage ends
"""
