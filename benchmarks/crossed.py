"""Which modules of the library run while one request is answered: `python benchmarks/crossed.py`.

It needs a workspace whose pipeline has run. Imports count as nothing: only what a warm request runs.
"""

import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pandas as pd

import modelkeep
from modelkeep.ops import serve

ROOT, LIBRARY = Path(__file__).parents[1], str(Path(modelkeep.__file__).parent)
PORT = 18_765
ran: set[str] = set()


def note(frame: object, event: str, argument: object) -> None:
    name = frame.f_code.co_filename
    if event == "call" and name.startswith(LIBRARY):
        ran.add(name.removeprefix(LIBRARY + "/"))


def ask(body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    request = Request(f"http://127.0.0.1:{PORT}/predict", body, headers)
    for _ in range(200):
        try:
            return urlopen(request).close()
        except OSError:  # it is starting
            time.sleep(0.1)
    raise SystemExit("no server answers")


def client() -> None:
    table = pd.read_parquet(next((ROOT / "data/prepared").glob("test*")))
    schema = json.loads((ROOT / "models/candidate/schema.json").read_text())
    names = [column["name"] for column in schema["columns"]]
    row = {k: None if pd.isna(v) else v for k, v in table.iloc[0].items() if k in names}
    body = json.dumps({"rows": [row]}, default=str).encode()
    for _ in range(3):
        ask(body)
    ran.clear()
    ask(body)
    time.sleep(0.5)  # the log's thread
    print(f"{len(ran)} modules: {', '.join(sorted(ran))}", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = {"port": str(PORT), "store": f"{folder}/store", "log": f"sqlite:///{folder}/log.db"}
        threading.setprofile(note)
        sys.setprofile(note)
        threading.Thread(target=client, daemon=True).start()
        serve.run(ROOT, serve.settings(ROOT, given))


if __name__ == "__main__":
    main()
