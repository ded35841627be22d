"""What a scrape takes where the page has all the series that a replica may have: a wide model, as champion, canary and shadow.

Example: PYTHONPATH=tests/support python -P benchmarks/scrape.py      prints a Markdown table; half a minute
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import strain

import live
import servers
import synthetic

COLUMNS, BODIES = 200, 500


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as name:
        place, frame = Path(name), synthetic.table()
        noise = np.random.default_rng(0).normal(size=(len(frame), COLUMNS)).round(3)
        wide = frame.join(synthetic.pd.DataFrame(noise).add_prefix("x"))
        learned = synthetic.prepared(frame=wide)
        synthetic.sealed(place / "candidate", learned)
        root = live.workspace(place / "workspace", place / "candidate")
        strain.in_company(root, place / "store")
        names = [c.name for c in learned.schema.columns]
        rows = learned.train[names].dropna().head(BODIES).astype(object).to_dict("records")
        bodies = place / "bodies.txt"
        bodies.write_text("".join(json.dumps({"rows": [row]}) + "\n" for row in rows))
        os.sched_setaffinity(0, {int(servers.CLIENT_CORE)})
        print(strain.SCRAPES)
        server = servers._ours(root, "full")
        with servers.started(server, rows[0], place) as running:
            longest = strain.scrapes(running, bodies, f"three models of {len(names)} columns")
        strain.head()
        strain.goal("the longest scrape, ms", longest, most=50)


if __name__ == "__main__":
    main()
