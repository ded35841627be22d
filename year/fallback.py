"""Until `modelkeep update` is there: a turn by the functions that exist."""

import json

import pandas as pd
from clone import HISTORY, moment

from modelkeep import bundle, ramp, record, releases, rollout, store, traffic, workspace
from modelkeep.evidence import PASSES


def turn(clone, at: float) -> dict:
    root = clone.root
    champion = store.now(rollout.folder(root))
    asked = workspace.params(root, "prepare")
    if champion is not None:
        of = bundle.load(store.path(rollout.folder(root), champion.champion.sha256)).schema
        log = rollout.open_log(root)
        end = int((at - 2 * 86400) * 1e6)
        rows, _ = traffic.logged(log.read(0, end, known=int(at * 1e6)), of)
        rows = rows[rows[of.label].notna()]
        have = pd.concat(pd.read_parquet(p) for p in sorted((root / HISTORY).glob("*.parquet")))
        rows = rows[~rows[of.id].isin(have[of.id])]
        new = rows[[*have.columns]].astype(have.dtypes.to_dict())
        clone.keep(HISTORY, new, f"{moment(at)[:10]}.parquet", at)
    clone.set({"prepare": {"as_of": moment(at)}})
    clone.run(at, "dvc", "repro", "--quiet", "prepare", "train", "evaluate")
    clone.commit(at, f"Turn of {moment(at)[:10]}")
    said = json.loads((root / "verdicts" / "evaluate.json").read_text())
    if said["state"] not in PASSES:
        return {"state": "same", "gate": said["state"], "sentence": said["sentence"]}
    done = releases.release(root, record.read(root), at)
    if champion is None:
        releases.promote(root, record.read(root), at + 1, done.version, "the first")
        clone.commit(at + 1, "The first champion")
        return {"state": "better", "gate": said["state"], "version": done.version, "sentence": said["sentence"]}  # fmt: skip
    try:
        rollout.start(root, done.version, at)
    except ramp.RampError as error:
        return {"state": "alarm", "gate": said["state"], "version": done.version, "sentence": str(error)}  # fmt: skip
    return {"state": "waiting", "gate": said["state"], "version": done.version, "sentence": said["sentence"]}  # fmt: skip


from modelkeep import evidence  # noqa: E402

_whole = evidence._stale
evidence._stale = lambda root: {k: v for k, v in _whole(root).items() if k.rpartition(":")[2] not in ("collect", "monitor", "index")}  # fmt: skip
