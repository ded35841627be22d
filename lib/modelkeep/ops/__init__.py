"""The programs: they know all packages below.

- `init`: the workspace pointed at a table of one's own
- `serve`: the prediction server
- `update`, `candidates`, `commits`: one unattended update
- `investigate`, `investigations`, `alerts`: reports about alerts
- `search`: better parameters, each trial a DVC experiment
- `processes`: child processes end with their parents
"""
