"""People are notified of what happened: by signed webhook and by mail, each event once.

- `events`: what happened, read from the record, the reports on alerts and the ends of updates
- `channels`: the webhook and the mail
- `delivery`: what waits is sent, tried again, and marked
"""
