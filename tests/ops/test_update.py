"""Unattended cycles: what they do with rows, candidates and rollouts, what they refuse, and what a kill leaves."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

import kills
import released
import rollouts
import synthetic
import turned
import workspaces
from modelkeep.core import files, workspace
from modelkeep.data import splits
from modelkeep.ops import commits, cycle, ship, status, update
from modelkeep.predictions import history, log
from modelkeep.predictions.records import Label, PredictionRecord
from modelkeep.registry import record, releases, timeline
from modelkeep.rollout import control, rollout_log
from modelkeep.serving import models
from modelkeep.training import bundle, maintenance
from released import DAY
from turned import NOW, turn
from workspaces import run


@pytest.fixture(scope="module", autouse=True)
def who(tmp_path_factory):
    """A name to commit under."""
    with released.surroundings(tmp_path_factory.mktemp("who")):
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory, parts):
    """A repository after its first turn."""
    return turned.first(tmp_path_factory.mktemp("template") / "all" / "clone", parts["binary"])


@pytest.fixture
def root(template, tmp_path):
    """A copy of it."""
    shutil.copytree(template.parent, tmp_path / "all", symlinks=True)
    return tmp_path / "all" / "clone"


@pytest.fixture
def monitor(monkeypatch):
    """What the monitor is made to say; its notebooks run in the whole turn only."""
    said = Monitor(["fine"])

    def monitored(_):
        said.during()
        return said[0]

    monkeypatch.setattr(update, "run_monitor", monitored)
    return said


class Monitor(list):
    """The state that it reports, and what happens meanwhile."""

    def during(self):
        """Nothing, unless a test says so."""


def seen(root):
    """All that a turn may change."""
    refs = run(root, "git", "for-each-ref") + run(root, "git", "status", "--porcelain")
    places = ("models", "serving", "verdicts", "metrics", "params", "data", "rollouts", "dvc.lock")
    return refs, workspaces.content(root, *places)


def refused(root, words, at=NOW, **more):
    """The cycle fails with these words, and nothing has changed."""
    before = seen(root)
    found = update.run(root, at, **more)
    assert found["code"] == 21 and found["json"]["state"] == "failed"
    assert words in found["json"]["sentence"]
    assert found["text"].splitlines()[-1] == f"failed: {found['json']['sentence']}"
    assert json.loads(found["text"].splitlines()[-2]) == found["json"]
    assert seen(root) == before


def subjects(root):
    return run(root, "git", "log", "--format=%s").splitlines()


def is_clean(root):
    return run(root, "git", "status", "--porcelain") == ""


def test_the_first_turn_releases_and_promotes_and_the_next_takes_the_rows_once(root, monitor):
    assert record.read(root).champion.version == "v1.0.0"
    assert released.pointer(root)["champion"]["version"] == "v1.0.0"
    turned.settle(root, "update", retrain="never")
    workspaces.commit(root, "Never")
    said = turn(root)
    assert (said["state"], said["rows"]["rows"]) == ("unchanged", len(turned.asked()))
    assert turn(root)["rows"] | {"known": 0} == dict.fromkeys(said["rows"], 0)
    assert subjects(root)[0].startswith(f"Take {len(turned.asked())} rows") and is_clean(root)
    rows, whole = turned.history(root), turned.table()
    assert sorted(rows["key"]) == sorted(whole["key"])
    both = rows.set_index("key").sort_index()
    pd.testing.assert_frame_equal(both, whole.set_index("key").sort_index(), check_dtype=False)
    (added,) = (root / turned.SOURCE).glob("served-*")
    assert added.name == "served-20200210T000100-20200229T000100.parquet"


def test_a_partition_is_read_together_with_the_older_ones(root, monitor):
    turn(root)
    prepare = workspace.params(root, "prepare")
    table = splits.read_again(prepare, root)
    expected = turned.table()
    expected["shop"] = expected["shop"].astype("category")  # text in Parquet stays text
    assert {k: v.kind for k, v in table.dtypes.items()} == {
        k: v.kind for k, v in expected.dtypes.items()
    }
    parts = splits.prepare(table, label="late", time_column="when", id_column="key", test_days=20)
    assert parts.counts["quarantined"] == 0 and parts.counts["rows_in"] == len(expected)


def test_late_doubled_and_corrected_labels_bring_each_row_once(root, monitor):
    book = log.open_log("sqlite:///data/log/predictions.db", root=root)
    at, day = int((NOW - 5 * DAY) * 1e6), int(DAY * 1e6)
    own = (None, at, b'{"size": 1, "weight": null, "shop": "moon"}', b"[0.6,0.4]")
    rows = [
        PredictionRecord(id, at, "m", "champion", *own) for id in ("late", "twice", "other", "odd")
    ]
    again = PredictionRecord("twice", at + 9, "m", "canary", *own)
    young = PredictionRecord("young", int((NOW - DAY) * 1e6), "m", "champion", *own)
    whisper = PredictionRecord("whisper", at, "m", "shadow", *own)
    theirs = turned.table().iloc[0]  # in the file that a person has added
    old = PredictionRecord(theirs["key"], at, "m", "champion", *own)
    book.append([*rows, again, young, whisper, old])
    book.label([Label(theirs["key"], str(1 - theirs["late"]), at + day)])
    book.label([Label(id, "1", at + day) for id in ("twice", "other", "young", "whisper")])
    book.label([Label("twice", "1", at + 2 * day), Label("odd", "soon", at + day)])
    book.label([Label("late", "0", int((NOW + DAY / 2) * 1e6))])
    began = turn(root)
    assert "1 of these have another label in a file that no update wrote" in began["steps"][0]
    first = began["rows"]
    assert (first["unlabelled"], first["quarantined"], first["corrected"]) == (1, 1, 0)
    aside = pd.read_parquet(root / "data/quarantine-log/rows.parquet")
    assert aside["reason"].tolist() == ["late: 'soon' is nothing that history's late can hold"]
    book.label([Label("other", "0", at + 3 * day), Label("odd", "1", at + 3 * day)])
    second = turn(root, NOW + 2 * DAY)
    assert second["rows"]["rows"] == 3 and second["rows"]["corrected"] == 1
    assert "1 of these have a corrected label, which history follows" in second["steps"][0]
    assert subjects(root)[0].endswith("into history, correct 1 label") and is_clean(root)
    assert turn(root, NOW + 2 * DAY + 60)["rows"]["corrected"] == 0
    book.close()
    rows = turned.history(root).set_index("key")
    own = sorted(set(rows.index) - set(turned.table()["key"]))
    assert own == ["late", "odd", "other", "twice", "young"] and rows.index.is_unique
    assert rows.loc[own, "late"].to_list() == [0, 1, 0, 1, 1]
    assert rows.loc[theirs["key"], "late"] == theirs["late"]
    assert rows.loc["odd", ["size", "shop"]].to_list() == [1.0, "moon"]


def begun(root, state="better"):
    """A turn in the midst of traffic that trains another bundle."""
    turned.busy(root, NOW).log.close()
    turned.made(root, 1, state)
    return turn(root)


def test_a_better_candidate_is_released_tried_and_in_the_end_champion(root, monitor):
    said = begun(root)
    assert (said["state"], said["gate"], said["version"]) == ("in_progress", "better", "v1.1.0")
    assert released.pointer(root)["canary"]["version"] == "v1.1.0"
    world, states = rollouts.World(root, {}, NOW + 1), ["in_progress"]
    while states[-1] == "in_progress" and len(states) < 12:
        world.traffic(2500)
        world.now += 2
        said = turn(root, world.now)
        states.append(said["state"])
    world.log.close()
    assert set(states[:-1]) == {"in_progress"} and states[-1] == "promoted", said
    assert record.read(root).champion.version == "v1.1.0"
    assert released.load(root).sha256 == released.sha256(root, 1)
    assert "The canary was promoted" in said["sentence"]
    (trial,) = record.read(root).tried("v1.1.0")
    assert (trial.result["end"], trial.tag.name) == ("promoted", "flights#canary#1")
    assert any(s.startswith("Rollout ") and s.endswith(": promoted") for s in subjects(root))
    assert is_clean(root)


def test_ship_goes_from_a_committed_candidate_to_a_running_rollout(root):
    turned.busy(root, NOW).log.close()
    turned.made(root, 1)
    run(root, "dvc", "repro", "-q")
    workspaces.commit(root, "Candidate")
    shipped = ship.ship(root, NOW)
    assert released.pointer(root)["canary"]["version"] == shipped["json"]["version"] == "v1.1.0"
    last = "Share it, data before tags: dvc push && git push --atomic origin HEAD flights@v1.1.0"
    assert shipped["text"].splitlines()[-1] == last
    with pytest.raises(control.RolloutError, match="one rollout at a time"):
        ship.ship(root, NOW + 1)


@pytest.mark.parametrize("word", ["worse", "insufficient"])
def test_a_candidate_that_fails_the_gate_is_on_record_and_changes_nothing(root, monitor, word):
    before = released.pointer(root)
    said = begun(root, state=word)
    assert (said["state"], said["gate"]) == ("unchanged", word)
    assert f"the candidate is {word}" in said["sentence"]
    assert subjects(root)[0] == f"Train a candidate: {word}" and is_clean(root)
    assert released.pointer(root) == before and list(record.read(root).versions) == ["v1.0.0"]
    assert turn(root, NOW + 60)["state"] == "unchanged" and len(record.read(root).versions) == 1


def test_when_the_gate_cannot_tell_a_shadow_does_and_then_a_canary(root, monitor):
    said = begun(root, state="inconclusive")
    assert said["state"] == "in_progress" and "has begun as shadow" in said["sentence"]
    assert released.pointer(root)["shadow"]["sha256"] == released.sha256(root, 1)
    world = rollouts.World(root, {}, NOW + 2)
    assert turn(root, world.now)["state"] == "in_progress"
    world.whisper(days=40, wrong=0.1)
    world.log.close()
    said = turn(root, world.now + 3700)
    assert (said["state"], said["version"]) == ("in_progress", "v1.1.0")
    forced = record.evidence(record.read(root).versions["v1.1.0"])["forced"]
    assert forced.startswith("shadow ") and "better" in forced
    assert released.pointer(root)["canary"]["version"] == "v1.1.0"
    assert any(s.endswith(": better") and s.startswith("Rollout ") for s in subjects(root))


def test_whether_to_train_hangs_on_the_decision_and_on_the_time_since(root, monitor):
    turned.settle(root, "update", retrain="on_decision", rollout=False)
    workspaces.commit(root, "Decide")
    said = turn(root)
    assert said["state"] == "unchanged" and said["sentence"].endswith("the monitor says fine.")
    monitor[0] = "look"
    assert turn(root)["state"] == "needs_attention"
    monitor[0] = "retrain"
    assert begun(root)["sentence"].startswith("v1.1.0 is released and waits for a person")


@pytest.mark.parametrize(
    ("age", "judged_by", "new"),
    [
        (2, {"newest_waiting": None, "e_drift": None, "alert_at": 100.0}, True),
        (22, {"newest_waiting": None, "e_drift": 3.0, "alert_at": 100.0}, True),
        (24, {"newest_waiting": None, "e_drift": 3.0, "alert_at": 100.0}, False),
        (2, {"newest_waiting": 5, "e_drift": 3.0, "alert_at": 100.0}, False),
        (2, {"newest_waiting": None, "e_drift": 101.0, "alert_at": 100.0}, False),
    ],
    ids=["first night", "late labels", "too late", "judged", "drifted"],
)
def test_a_champion_that_none_can_judge_yet_calls_nobody(root, age, judged_by, new):
    state = SimpleNamespace(
        record=SimpleNamespace(champion=SimpleNamespace(tag=SimpleNamespace(at=NOW - age * DAY)))
    )
    workspaces.settings(root, "monitor")
    turn = SimpleNamespace(root=root, now=NOW, settings=cycle.Settings(), state=state)
    assert update.too_new(turn, judged_by) is new
    assert update.TOO_NEW in update.CALM


def test_a_version_that_waits_for_a_person_calls_one_and_no_second_joins_it(root, monitor):
    turned.settle(root, "update", retrain="every_days", every_days=0.0, rollout=False)
    workspaces.commit(root, "By hand")
    for at in (NOW, NOW + DAY):
        turned.made(root, 1 + (at > NOW))
        said = turn(root, at)
        assert said["state"] == "needs_attention"
        assert said["sentence"].startswith("v1.1.0 is released and waits for a person")
    assert [*record.read(root).versions] == ["v1.0.0", "v1.1.0"]


def test_a_plan_that_is_refused_calls_a_person_each_time_and_history_grows(root, monitor):
    turned.made(root, 1)
    said = turn(root)
    assert said["state"] == "needs_attention"
    assert "v1.1.0 cannot begin as canary: 0.0 predictions a second" in said["sentence"]
    added(root, "new", NOW - 5 * DAY)
    said = turn(root, NOW + 60)
    assert (said["state"], said["rows"]["rows"]) == ("needs_attention", 1)
    turned.busy(root, NOW + 99).log.close()
    assert turn(root, NOW + 99)["state"] == "in_progress"


def added(root, id, at):
    """One answer more, with its label."""
    book, at = log.open_log("sqlite:///data/log/predictions.db", root=root), int(at * 1e6)
    book.append([PredictionRecord(id, at, "m", "champion", None, at, b"{}", b"[0.6,0.4]")])
    book.label([Label(id, "1", at)])
    book.close()


def test_a_stage_that_fails_leaves_the_last_commit(root, monitor):
    turn(root)  # the rows, and a candidate that is there already
    turned.made(root, 1)
    (root / "made/verdict.json").unlink()
    workspaces.commit(root, "Broken")
    before = released.pointer(root)
    said = turn(root, NOW + 8 * DAY)
    assert said["state"] == "failed" and "made/verdict.json" in said["sentence"]
    assert is_clean(root) and released.pointer(root) == before
    assert released.sha256(root, 0) == files.sha256(root / "models/candidate/manifest.json")


def test_as_of_is_set_on_its_line_and_all_else_stays(root):
    path = root / "params/prepare.yaml"
    before = path.read_text()
    commits.set_as_of(root, "2020-05-01T00:00:00")
    lines = zip(before.splitlines(), path.read_text().splitlines(), strict=True)
    ((old, new),) = [pair for pair in lines if pair[0] != pair[1]]
    assert workspace.params(root, "prepare")["as_of"] == "2020-05-01T00:00:00"
    assert new.partition("#")[2] == old.partition("#")[2] and old.startswith("as_of: ")


def test_a_dry_run_says_each_step_and_changes_nothing(root, monitor):
    turned.made(root, 1)
    before = seen(root)
    found = update.run(root, NOW, dry=True)
    assert found["code"] == 0 and found["json"]["dry_run"] is True
    assert [s.split(" (")[0] for s in found["json"]["steps"]] == [
        f"Would take {len(turned.asked())} rows for history.",
        "Would train a candidate",
    ]
    assert seen(root) == before
    turned.busy(root, NOW).log.close()
    assert turn(root)["state"] == "in_progress"
    before = seen(root)
    assert update.run(root, NOW + 9, dry=True)["json"]["steps"][0].startswith("Would analyse")
    assert seen(root) == before


def test_two_at_once_is_one_and_the_other_is_told_who(root):
    with commits.hold(root, NOW):
        before = seen(root)
        done = subprocess.run(
            [sys.executable, "-m", "modelkeep", "update", "--at", "2020-03-11"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 11, done.stderr
        assert seen(root) == before
    line, words = done.stdout.splitlines()[-2:]
    assert json.loads(line)["state"] == "in_progress"
    assert "has run a cycle here since" in words


def test_a_rollback_ends_a_canary_though_no_controller_lives(root, monitor):
    begun(root)
    assert released.pointer(root)["canary"]
    at = record.read(root)
    releases.promote(root, at, NOW + 10, "v1.1.0", load=models.load)
    releases.rollback(root, record.read(root), NOW + 20, reason="calls", load=models.load)
    assert released.pointer(root)["canary"] is None
    assert released.pointer(root)["champion"]["version"] == "v1.0.0"
    turn(root, NOW + 30)
    assert rollout_log.find(root).end == "overtaken"
    assert released.pointer(root)["canary"] is None
    assert any(s.startswith("Rollout ") and s.endswith(": overtaken") for s in subjects(root))


def example(root):
    shutil.copytree(workspaces.REPOSITORY / "examples", root / "examples")
    turned.settle(root, "prepare", source="examples/flights")
    workspaces.commit(root, "Flights")


def one_file(root):
    turned.settle(root, "prepare", source="data/history/first.parquet")
    workspaces.commit(root, "A file")


def untracked(root):
    (root / "data/history.dvc").unlink()
    workspaces.commit(root, "No more")


def without_ids(root):
    turned.settle(root, "prepare", id_column="")
    workspaces.commit(root, "No ids")


def not_pulled(root):
    shutil.rmtree(root / "data/history")


def changed_history(root):
    turned.table().to_parquet(root / "data/history/first.parquet")


def changed_params(root):
    turned.settle(root, "prepare", test_days=10)


def detached(root):
    run(root, "git", "checkout", "-q", "--detach")


def misspelt(root):
    turned.settle(root, "update", retrain="on_decisions")


def nobody(root):
    run(root, "git", "config", "user.useConfigOnly", "true")


def foreign_tag(root):
    run(root, "git", "commit", "-q", "--allow-empty", "-m", "x")
    run(root, "git", "tag", "-a", "flights@v7.0.0", "-m", "by GTO")
    run(root, "git", "tag", "-a", "flights#champion#2", "-m", "by GTO")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (example, "is the example, which makes its rows anew each time"),
        (one_file, "is one file, and history grows by files"),
        (untracked, "`dvc add data/history && git add data/history.dvc"),
        (without_ids, "id_column is '' in params/prepare.yaml"),
        (not_pulled, "`dvc pull data/history` brings it"),
        (changed_history, "data/history/first.parquet of history is not as data/history.dvc"),
        (changed_params, "params/prepare.yaml has uncommitted changes"),
        (detached, "HEAD is detached"),
        (misspelt, "did you mean `on_decision`?"),
        (foreign_tag, "flights@v7.0.0 holds no evidence"),
    ],
)
def test_what_no_turn_can_begin_from_is_a_sentence_and_nothing_changes(root, wrong, words):
    wrong(root)
    refused(root, words)


def test_a_moment_before_the_last_one_is_refused(root):
    refused(root, "is before as_of '2020-02-10'", at=NOW - 60 * DAY)


def test_a_shallow_clone_and_a_folder_without_commits_are_refused(root, tmp_path):
    for name, words in {
        "shallow": ("clone", "-q", "--depth=1", root.as_uri(), "shallow"),
        "empty": ("init", "-q", "empty"),
    }.items():
        run(tmp_path, "git", *words)
        if name == "empty":
            shutil.copytree(root / "params", tmp_path / "empty/params")
        found = update.run(tmp_path / name, NOW)
        said = {"shallow": "git fetch --unshallow --tags", "empty": "no commit yet"}[name]
        assert found["code"] == 21 and said in found["json"]["sentence"]


def test_kinds_of_columns_of_history_are_kept():
    values = pd.Series(["1", "0", None], dtype=object)
    kinds = {
        "int64": pd.Series([1, 0]),
        "bool": pd.Series([True, False]),
        "str": pd.Series(["a", "b"], dtype="str"),
        "datetime64[us, Europe/Paris]": pd.Series(
            pd.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("Europe/Paris").as_unit("us")
        ),
    }
    for name, column in kinds.items():
        given = values[:2] if "date" not in name else pd.Series(["2020-03-01", "2020-03-02"])
        assert str(history.like(given, column).dtype) == name
    assert history.like(values, kinds["int64"]).isna().to_list() == [False, False, True]


def test_what_somebody_has_not_committed_is_no_part_of_a_cycle_and_stays(root, monitor):
    (root / "params/train.yaml").write_text("trees: 2\n")
    (root / "mine.txt").write_text("mine")
    said = turn(root)
    assert said["state"] == "unchanged" and "params/train.yaml" in said["steps"][0]
    assert "trees: 2" in (root / "params/train.yaml").read_text()
    assert run(root, "git", "show", "HEAD:params/train.yaml") == "trees: 1\n"
    changed = run(root, "git", "status", "--porcelain").splitlines()
    assert changed == [" M params/train.yaml", "?? mine.txt"]


def test_a_moment_far_after_the_newest_request_is_refused_before_anything_is_committed(root):
    refused(root, "days after the newest request in the log", at=NOW + 30 * DAY)
    refused(root, "days after the newest request in the log", at=NOW + 30 * DAY, dry=True)


def test_without_a_log_or_without_labels_a_person_is_called(root, monitor):
    turned.settle(root, "update", retrain="never", silence_days=5.0)
    workspaces.commit(root, "Silence")
    said = turn(root)
    assert said["state"] == "needs_attention" and "No label has come for long" in said["sentence"]
    (root / "data/log/predictions.db").unlink()
    said = turn(root)
    assert said["state"] == "needs_attention" and "no prediction log" in said["sentence"]


def test_a_commit_of_somebody_else_in_the_middle_of_a_cycle_stops_its_landing(root, monitor):
    monitor.during = lambda: run(root, "git", "commit", "-q", "--allow-empty", "-m", "Mine")
    said = turn(root)
    assert said["state"] == "failed" and "committed to this branch meanwhile" in said["sentence"]
    assert subjects(root)[0] == "Mine" and is_clean(root)
    assert len(turned.history(root)) < len(turned.table())
    monitor.during = lambda: None
    assert turn(root)["rows"]["rows"] == len(turned.asked())


@pytest.fixture(scope="module")
def template_of_refits(tmp_path_factory, parts):
    """A repository after its first turn, whose training may learn from everything known."""
    return turned.first(tmp_path_factory.mktemp("refits") / "all" / "clone", parts["binary"], True)


@pytest.fixture
def refits(template_of_refits, tmp_path):
    """A copy of it."""
    shutil.copytree(template_of_refits.parent, tmp_path / "all", symlinks=True)
    return tmp_path / "all" / "clone"


def prepared(root, k, flipped=False, level=0.0, state="non_inferior", **evidence):
    """The next cycle trains the k-th bundle: its stages copy these rows and this verdict.

    `flipped`: so are the labels of the newest week; `level`: those of the test rows are what the
    champion predicts, with log-odds so much higher.
    """
    parts = synthetic.prepared("binary", synthetic.table(rows=3000, days=90))
    test = parts.test
    if flipped:
        newest = test["when"] >= test["when"].max() - pd.Timedelta(days=6)
        test = test.assign(late=test["late"].where(~newest, test["late"].map({"0": "1", "1": "0"})))
    if level:
        p = expit(logit(bundle.load(root / "models/champion").predict(test)[:, 1]) + level)
        late = np.random.default_rng(0).random(len(test)) < p
        test = test.assign(late=np.where(late, "1", "0"))
    released.made(root, SimpleNamespace(test=test, schema=parts.schema), k, state)
    splits.write(parts.train, root / "made/prepared/train.parquet")
    path = root / "made/verdict.json"
    verdict = json.loads(path.read_text())
    verdict["evidence"] |= {"refit": True, "harm": "none", "earlier": False, "divergence": 0.01}
    verdict["evidence"] |= {"weeks": 1.0, "canary": False, "risk": "as usual"} | evidence
    files.write_json(path, verdict)
    workspaces.commit(root, f"Made {k}")


def withholds(root):
    """What params/train.yaml of the last commit says, and that of the workspace is the same."""
    text = run(root, "git", "show", "HEAD:params/train.yaml")
    assert text == (root / "params/train.yaml").read_text()
    return workspace.value(text)["withhold"]


def test_a_refit_that_passes_learns_from_everything_and_is_promoted_at_once(refits, monitor):
    prepared(refits, 1)
    said = turn(refits)
    assert (said["state"], said["version"]) == ("promoted", "v1.1.0"), said
    assert "a refit, all at once: as usual" in said["sentence"]
    rates = ("Label guard: ", "Column guard: ", "Harm gate: none; it passes", "Canary by risk: ")
    assert all(any(s.startswith(r) and "; it " in s for s in said["steps"]) for r in rates), said
    assert record.read(refits).champion.version == "v1.1.0"
    assert released.load(refits).sha256 == released.sha256(refits, 1)
    assert withholds(refits) is False and is_clean(refits)
    assert "withhold: false # the newest rows" in (refits / "params/train.yaml").read_text()
    past = maintenance.read(refits)
    assert (len(past.gaps), past.divergences, past.holds) == (1, (0.01,), 0)
    added(refits, "next", NOW + 6 * DAY)
    assert turn(refits, NOW + 6 * DAY)["sentence"].endswith("and every_days is 7.")


def test_a_refit_of_risk_begins_as_a_canary(refits, monitor):
    turned.busy(refits, NOW).log.close()
    prepared(refits, 1, canary=True)
    said = turn(refits)
    assert said["state"] == "in_progress" and "has begun as canary at 10%" in said["sentence"], said
    assert record.read(refits).champion.version == "v1.0.0"
    assert turn(refits, NOW + DAY)["state"] == "in_progress"
    world = rollouts.World(refits, {}, NOW + 2 * DAY)
    for _ in range(2):  # the step ends, then the rollout
        world.traffic(300)
        world.now += 10
        said = turn(refits, world.now)
    world.log.close()
    assert (said["state"], record.read(refits).champion.version) == ("promoted", "v1.1.0"), said
    assert reverse_shadow(refits) == "v1.0.0"


def test_a_refit_that_may_harm_calls_a_person_and_nothing_is_released(refits, monitor):
    prepared(refits, 1, state="worse", earlier=True)
    said = turn(refits)
    assert (said["state"], said["gate"]) == ("needs_attention", "worse"), said
    assert [*record.read(refits).versions] == ["v1.0.0"]
    assert maintenance.read(refits).holds == 1 and is_clean(refits)


def test_flipped_labels_are_held_a_week_each_and_twice_in_a_row_at_most(refits, monitor):
    prepared(refits, 1, flipped=True)
    before = (refits / "dvc.lock").read_text()
    for k, at in enumerate((NOW, NOW + 7 * DAY), 1):
        added(refits, f"new-{k}", at - DAY)
        said = turn(refits, at)
        assert said["state"] == "needs_attention" and "candidate" not in said, said
        assert "the newest data are held: label guard: " in said["sentence"]
        assert subjects(refits)[0] == "Hold an update" and is_clean(refits)
        assert maintenance.read(refits).holds == k
        assert withholds(refits) is True and (refits / "dvc.lock").read_text() == before
        monitor[0] = "retrain"  # does not end a hold sooner
        said = turn(refits, at + DAY)
        assert said["state"] == "unchanged" and "data were held 1.0 days ago" in said["sentence"]
    added(refits, "new-3", NOW + 14 * DAY)
    said = turn(refits, NOW + 14 * DAY)
    assert (said["state"], maintenance.read(refits).holds) == ("promoted", 0), said
    assert any("trained all the same after the holds before" in s for s in said["steps"]), said[
        "steps"
    ]


def test_a_changed_recipe_goes_to_the_held_back_gate(refits, monitor):
    prepared(refits, 1)
    assert turn(refits)["state"] == "promoted" and withholds(refits) is False
    path = refits / "params/train.yaml"
    path.write_text(path.read_text().replace("trees: 1", "trees: 2"))
    workspaces.commit(refits, "More trees")
    prepared(refits, 2, flipped=True, refit=False)  # no guard of a refit is asked
    added(refits, "next", NOW + 7 * DAY)
    turned.busy(refits, NOW + 7 * DAY).log.close()
    said = turn(refits, NOW + 7 * DAY)
    assert withholds(refits) is True and said["version"] == "v1.2.0"
    assert said["state"] == "in_progress" and "has begun as canary" in said["sentence"], said
    assert len(maintenance.read(refits).gaps) == 1


@pytest.mark.parametrize(("l2", "word"), [(1.5, "non inferior"), (1e9, "worse")])
def test_a_changed_recipe_that_the_gate_cannot_decide_is_judged_over_the_history(
    refits, monitor, l2, word
):
    workspaces.settings(refits, "evaluate")
    turned.settle(refits, "evaluate", slices=[])
    with open(refits / "params/train.yaml", "a") as file:
        file.write(f"l2: {l2}\n")
    workspaces.commit(refits, "Another penalty")
    prepared(refits, 1, state="inconclusive", refit=False)
    turned.busy(refits, NOW).log.close()
    said = turn(refits)
    (sentence,) = [s for s in said["steps"] if "days of history fresh models" in s]
    assert f"of the changed recipe are {word} (log loss: gain" in sentence
    if word == "worse":
        assert (said["state"], *record.read(refits).versions) == ("unchanged", "v1.0.0"), said
        return
    assert said["state"] == "in_progress" and "has begun as canary" in said["sentence"], said
    assert record.evidence(record.read(refits).versions["v1.1.0"])["forced"] == sentence


def test_the_monitor_may_ask_for_a_refit_sooner_but_not_on_the_same_day(refits, monitor):
    prepared(refits, 1)
    assert turn(refits)["state"] == "promoted"
    monitor[0] = "retrain"
    prepared(refits, 2)
    assert turn(refits, NOW + DAY / 2)["state"] == "unchanged"
    said = turn(refits, NOW + DAY)
    assert (said["state"], said["version"]) == ("promoted", "v1.2.0"), said


def training(root):
    """What the last commit says of training."""
    return workspace.value(run(root, "git", "show", "HEAD:params/train.yaml"))


def test_between_refits_a_new_level_is_tried_before_a_refit(refits, monitor):
    prepared(refits, 1)
    assert turn(refits)["state"] == "promoted"
    past = maintenance.read(refits)
    turned.settle(refits, "guards", label_sds=99.0)  # what is tried is not the label guard
    monitor[0] = "retrain"
    prepared(refits, 2, level=1.0, recalibrated=True)
    would = turn(refits, NOW + 3 * DAY, dry=True)["sentence"]
    assert would.startswith("Would recalibrate the champion where that is enough, or train a ")
    said = turn(refits, NOW + 3 * DAY)
    assert (said["state"], said["version"]) == ("promoted", "v1.2.0"), said
    assert any(s.startswith("Recalibrates v1.1.0: the monitor says retrain") for s in said["steps"])
    assert training(refits)["recalibrate"] == "v1.1.0" and is_clean(refits)
    assert "Recalibrate v1.1.0: non inferior" in subjects(refits)
    assert maintenance.read(refits).divergences == past.divergences  # a refit's are other ones
    # the calendar counts from the last model that was trained anew
    monitor[0] = "ok"
    prepared(refits, 0)
    added(refits, "later", NOW + 7 * DAY)
    assert turn(refits, NOW + 6.5 * DAY)["sentence"].endswith("6.5 days old, and every_days is 7.")
    turn(refits, NOW + 7 * DAY)
    assert training(refits)["recalibrate"] == ""


@pytest.mark.parametrize(
    ("settings", "level", "state", "words"),
    [
        ({"retrain": "never"}, 0.0, "unchanged", "retrain is never; it is not recalibrated, as "),
        ({"retrain": "never"}, 1.0, "promoted", "v1.2.0 is champion"),
        (
            {"retrain": "never", "recalibrate": "never"},
            0.15,
            "unchanged",
            "stays: retrain is never.",
        ),
        pytest.param({"every_days": 6.0}, 0.0, "promoted", "v1.2.0 is", marks=pytest.mark.slow),
    ],
)
def test_a_recalibration_goes_by_the_settings(refits, monitor, settings, level, state, words):
    prepared(refits, 1)
    turn(refits)
    turned.settle(refits, "update", **settings)
    turned.settle(refits, "guards", label_sds=99.0)
    workspaces.commit(refits, "Settings")
    monitor[0] = "retrain"
    prepared(refits, 2, level=level)
    said = turn(refits, NOW + 3 * DAY)
    assert said["state"] == state and words in said["sentence"], said
    recalibrated = state == "promoted" and bool(level)
    assert bool(training(refits)["recalibrate"]) is recalibrated


def test_uncommitted_settings_of_training_stop_a_refit_and_not_the_rows(refits, monitor):
    prepared(refits, 1)
    with open(refits / "params/train.yaml", "a") as file:
        file.write("mine: 1\n")
    said = turn(refits)
    assert said["state"] == "failed" and "sets withhold there" in said["sentence"], said
    assert len(turned.history(refits)) == len(turned.table())


def beside(root, since, days, new, former, rows=80):
    """Rows that champion and former champion both predicted, with labels of a fair coin.

    `new`, `former`: the probability that each gives to the class that came.
    """
    book = log.open_log("sqlite:///data/log/predictions.db", root=root)
    for day in range(days):
        at, given, labels = int((since + (day + 0.2) * DAY) * 1e6), [], []
        for k in range(rows):
            id, came = f"{int(since)}-{day}-{k}", k % 2
            for role, sure in (("champion", new), ("shadow", former)):
                p = sure + (k % 7 - 3) / 50
                answer = f"[{1 - p},{p}]" if came else f"[{p},{1 - p}]"
                given.append(PredictionRecord(id, at, role, role, None, at, b"{}", answer.encode()))
            labels.append(Label(id, str(came), at + 1000))
        book.append(given, [])
        book.label(labels)
    book.close()


def reverse_shadow(root):
    """The former champion that predicts silently, by its version."""
    role = released.pointer(root)["shadow"]
    return role and role["version"]


def test_a_new_champion_that_is_worse_than_the_former_one_is_taken_back(refits, monitor):
    prepared(refits, 1)
    said = turn(refits)
    assert said["state"] == "promoted" and reverse_shadow(refits) == "v1.0.0"
    assert "v1.0.0 predicts silently beside v1.1.0 for 7 days" in said["steps"][-1]
    assert "v1.0.0 predicts silently" in status.status(refits)["text"]
    beside(refits, NOW, 3, new=0.45, former=0.7)
    assert turn(refits, NOW + 1.5 * DAY)["state"] != "needs_attention"  # labels wait two days
    said = turn(refits, NOW + 4 * DAY)
    assert said["state"] == "needs_attention" and said["sentence"].startswith("Taken back: "), said
    assert "v1.1.0 is worse than v1.0.0 by" in said["sentence"]
    at = record.read(refits)
    assert at.champion.version == "v1.0.0" and is_clean(refits)
    assert released.pointer(refits)["champion"]["version"] == "v1.0.0"
    assert reverse_shadow(refits) is None
    (trial,) = at.tried("v1.1.0")
    assert (trial.tag.name, trial.result["end"]) == ("flights#reverse-shadow#1", "taken_back")
    assert "reverse-shadow taken back" in timeline.history(at)["text"]
    assert maintenance.read(refits).weekly[0] > 0.1
    assert turn(refits, NOW + 5 * DAY)["state"] != "promoted"


def test_a_new_champion_that_is_no_worse_stays_and_what_was_measured_is_kept(refits, monitor):
    prepared(refits, 1)
    turn(refits)
    beside(refits, NOW, 7, new=0.7, former=0.68)
    assert turn(refits, NOW + 6 * DAY)["state"] == "unchanged" and reverse_shadow(refits)
    turned.settle(refits, "update", retrain="never")
    workspaces.commit(refits, "No more")
    turn(refits, NOW + 7.1 * DAY)
    assert reverse_shadow(refits) is None and not record.read(refits).tried("v1.1.0")
    turn(refits, NOW + 9.5 * DAY)
    at = record.read(refits)
    assert at.champion.version == "v1.1.0" and is_clean(refits)
    (trial,) = at.tried("v1.1.0")
    assert (trial.result["end"], trial.result["days"]) == ("kept", 7)
    assert at.objections("v1.1.0") == []
    assert len(maintenance.read(refits).differences) == 7
    turn(refits, NOW + 9.6 * DAY)
    assert len(record.read(refits).tried("v1.1.0")) == 1


def test_the_next_refit_ends_the_reverse_shadow_and_begins_its_own(refits, monitor):
    prepared(refits, 1)
    turn(refits)
    beside(refits, NOW, 7, new=0.7, former=0.68)
    prepared(refits, 2)
    said = turn(refits, NOW + 7 * DAY)
    assert (said["state"], said["version"]) == ("promoted", "v1.2.0"), said
    assert reverse_shadow(refits) == "v1.1.0" and is_clean(refits)
    (trial,) = record.read(refits).tried("v1.1.0")
    assert (trial.result["end"], trial.result["days"]) == ("kept", 5)


def test_a_persons_promotion_in_spite_of_the_record_is_not_taken_back_by_itself(refits, monitor):
    prepared(refits, 1)
    turn(refits)
    beside(refits, NOW, 3, new=0.45, former=0.7)
    turn(refits, NOW + 4 * DAY)
    at = record.read(refits)
    releases.promote(refits, at, NOW + 4.1 * DAY, "v1.1.0", "we know better", load=models.load)
    workspaces.commit(refits, "v1.1.0 again")
    beside(refits, NOW + 5 * DAY, 3, new=0.45, former=0.7)
    said = turn(refits, NOW + 9 * DAY)
    assert said["state"] == "needs_attention"
    assert any("a person promoted v1.1.0 in spite of its record" in s for s in said["steps"]), said
    assert record.read(refits).champion.version == "v1.1.0"


def test_a_schedule_slows_down_while_retraining_harms(refits, monitor):
    prepared(refits, 1)
    turn(refits)
    past = replace(maintenance.read(refits), weekly=(0.02, 0.024, 0.019, 0.023, 0.02, 0.021))
    maintenance.write(refits, past)
    workspaces.commit(refits, "A record of harm")
    added(refits, "next", NOW + 7 * DAY)
    said = turn(refits, NOW + 8 * DAY)
    assert said["state"] == "unchanged" and "every_days is 14 (slower by 2" in said["sentence"], (
        said
    )


def test_the_record_of_guards_is_one_file():
    assert commits.GUARDS == maintenance.RECORD


@pytest.mark.parametrize(
    ("name", "writes"),
    [
        ("candidate", slice(2500, 2501)),
        *(pytest.param(name, slice(0, None, 60), marks=pytest.mark.slow) for name in turned.SCENES),
    ],
)
def test_killed_at_a_write_nothing_is_torn_lost_or_doubled_and_the_next_cycle_completes_it(
    template, tmp_path, monitor, name, writes
):
    """At one write of one scene; benchmarks/update_kills.py kills before every one."""
    start, at = turned.scene(template, tmp_path / "scene", name)
    found = turned.kill(kills.Killer(tmp_path), start, at, tmp_path / name, writes)
    assert found["killed"] >= 1
    assert {k: n for k, n in found.items() if k not in turned.FINE} == {}
