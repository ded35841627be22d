"""The programs: they know all packages below.

- `serve`: the prediction server
- `update`, `candidates`, `commits`: one unattended update
- `investigate`, `investigations`, `alerts`: reports about alerts
- `processes`: child processes end with their parents
"""
