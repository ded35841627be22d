"""Versions as Git tags, on small real repositories: what is on record, what serves, and that the two agree."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import kills
import races
import released
import synthetic
import workspaces
from modelkeep.core import git, workspace
from modelkeep.ops import status
from modelkeep.predictions import log
from modelkeep.registry import agreement, evidence, record, releases, store, tags, timeline
from modelkeep.registry.evidence import NotFit
from modelkeep.registry.record import RecordError, UnknownVersion
from modelkeep.registry.releases import NotServable, Overtaken
from modelkeep.registry.store import Now, Role
from modelkeep.rollout import control
from modelkeep.serving import models
from modelkeep.training import manifests
from released import DAY, SPRING
from workspaces import run


@pytest.fixture(scope="module", autouse=True)
def who(tmp_path_factory):
    """A name to release under."""
    with released.surroundings(tmp_path_factory.mktemp("who")):
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory, parts):
    """A repository of three releases (none promoted), with a remote and spare bundles beside it."""
    return released.three(tmp_path_factory.mktemp("template") / "all" / "clone", parts["binary"])


@pytest.fixture
def root(template, tmp_path):
    """A copy of it."""
    shutil.copytree(template.parent, tmp_path / "all", symlinks=True)
    return tmp_path / "all" / "clone"


@pytest.fixture
def fresh(root):
    """A copy in which the newest commit is not released yet."""
    run(root, "git", "tag", "-d", "flights@v1.2.0")
    return root


def promote(root, version, at=SPRING + 10 * DAY, **more):
    return releases.promote(root, record.read(root), at, version, **more, load=models.load)


def rollback(root, version="", at=SPRING + 20 * DAY, **more):
    return releases.rollback(root, record.read(root), at, version, **more, load=models.load)


def release(root, **more):
    return releases.release(root, record.read(root), SPRING + 5 * DAY, **more)


def state(root):
    """All that a refused command must leave as it was; a bundle more in the store changes nothing."""
    refs = run(root, "git", "for-each-ref")
    seen = workspaces.content(root, "models", "serving/now.json", "verdicts", "metrics")
    return refs, run(root, "git", "status", "--porcelain"), seen


def refused(root, error, words, action, *args, **more):
    """The action is refused with these words, and nothing has changed."""
    before = state(root)
    with pytest.raises(error, match=words) as found:
        action(root, *args, **more)
    assert state(root) == before
    return str(found.value)


def test_a_release_is_a_tag_with_its_evidence(root):
    said = record.evidence(record.read(root).find("v1.1.0"))
    commit = run(root, "git", "rev-parse", "flights@v1.1.0^{commit}").strip()
    assert (said["commit"], said["schema"], said["version"]) == (commit, 1, "v1.1.0")
    assert said["hashes"]["bundle"] == released.sha256(root, 1)
    assert said["verdict"]["state"] == "better" and said["verdict"]["gains"][0]["low"] == 0.05
    assert said["params"] == {"train": {"trees": 1}}
    assert said["metrics"]["evaluate"] == {"log_loss": 0.51}
    lock = workspace.value(run(root, "git", "show", "flights@v1.1.0:dvc.lock"))["stages"]
    assert said["hashes"]["data"] == lock["prepare"]["outs"][0]["md5"]
    raw = run(root, "git", "for-each-ref", "--format=%(contents)", "refs/tags/flights@v1.1.0")
    assert json.loads(raw)["summary"].startswith("flights v1.1.0: The candidate is better")
    assert '"flights v1.1.0: ' in run(root, "git", "tag", "-n1").splitlines()[1]


def test_promotion_is_on_record_and_serves_and_is_what_the_next_turn_compares_with(root):
    done = promote(root, "v1.0.0", reason="first")
    assert (done.state, done.tag) == ("promoted", "flights#champion#1")
    promote(root, "1.1.0", SPRING + 11 * DAY)
    at = record.read(root)
    assert [t.version for t in at.terms] == ["v1.0.0", "v1.1.0"]
    sha256 = released.sha256(root, 1)
    assert store.now(root / "serving") == Now(Role(sha256, "v1.1.0"), serial=2)
    assert released.load(root).sha256 == sha256
    # DVC takes the champion's folder for what its .dvc file names, and a colleague can have it
    assert list(json.loads(run(root, "dvc", "status", "--json"))) == ["evaluate"]
    workspaces.commit(root, "Champion")
    clone = workspaces.clone(root, root.parents[2] / "other" / "clone")
    shutil.copytree(root.parent / "remote", clone.parent / "remote")
    run(clone, "dvc", "pull", "-q", "models/champion.dvc")
    assert released.load(clone).sha256 == sha256


def test_a_rollback_is_one_more_tag(root):
    for k, version in enumerate(("v1.0.0", "v1.1.0", "v1.2.0")):
        promote(root, version, SPRING + (10 + k) * DAY)
    assert rollback(root, reason="slow").version == "v1.1.0"
    assert rollback(root).version == "v1.0.0"  # not v1.2.0, which was found wanting
    refused(root, UnknownVersion, "no champion before this one", rollback)
    done = rollback(root, "v1.2.0")
    assert (done.version, done.tag) == ("v1.2.0", "flights#champion#6")
    assert released.pointer(root)["champion"]["version"] == "v1.2.0"
    told = timeline.history(record.read(root))
    assert [t["version"][3] for t in told["json"]["terms"]] == list("201210")
    assert "v1.1.0  rollback by Ada <ada@example.org>: slow" in told["text"]


def test_who_was_champion_when(root):
    promote(root, "v1.0.0", SPRING + 10 * DAY)
    promote(root, "v1.1.0", SPRING + 12 * DAY)
    at = record.read(root)
    for date, version in {
        "2013-04-10": None,
        "2013-04-12": "v1.0.0",
        "2013-04-13": "v1.1.0",
    }.items():
        assert timeline.champion_at(at, timeline.moment(date))["json"]["version"] == version
    assert (
        "until v1.1.0 at 2013-04-13 00:00 UTC"
        in timeline.champion_at(at, SPRING + 11 * DAY)["text"]
    )
    assert timeline.moment("2013-04-12T02:00+02:00") == SPRING + 11 * DAY
    with pytest.raises(timeline.BadDate, match="write it like 2026-06-01"):
        timeline.moment("spring")


def test_a_clock_that_stands_or_goes_back_does_not_change_the_order(root):
    for version in ("v1.0.0", "v1.1.0", "v1.2.0", "v1.0.0"):
        promote(root, version, SPRING - DAY)
    times = [term.tag.at for term in record.read(root).terms]
    assert times == sorted(set(times))
    shown = json.loads(run(root, "gto", "show", "flights", "--json"))
    (champion,) = [
        v["version"] for v in shown if any(s["stage"] == "champion" for s in v["stages"])
    ]
    assert champion == "v1.0.0"


def test_gto_and_dvc_and_git_read_it(root):
    promote(root, "v1.1.0")
    shown = json.loads(run(root, "gto", "show", "--json"))
    assert shown["flights"]["version"] == "v1.2.0"
    assert shown["flights"]["stage"]["champion"] == "v1.1.0"
    to = root.parent / "got"
    run(
        root.parent,
        "dvc",
        "artifacts",
        "get",
        str(root),
        "flights",
        "--rev",
        "v1.0.0",
        "-o",
        str(to),
    )
    assert (
        manifests.verify(to)
        and (to / "manifest.json").read_bytes()
        == (root.parent / "spare/0/manifest.json").read_bytes()
    )
    run(root, "git", "stash", "-q")
    run(root, "git", "checkout", "-q", "flights@v1.0.0")
    run(root, "dvc", "checkout", "-q")
    ours = workspaces.content(root / "models/candidate", ".")
    assert ours == workspaces.content(root.parent / "spare/0", ".")


def test_it_says_how_often_the_test_rows_have_judged(fresh, parts):
    assert "These test rows have now judged 3 candidates." in release(fresh).sentence
    assert (
        "have judged 3 candidates: v1.0.0, v1.1.0, v1.2.0"
        in timeline.details(record.read(fresh), "v1.2.0")["text"]
    )
    # another order and other columns are the same rows; one row less are others
    path, rows = fresh / "data/prepared/test.parquet", parts["binary"].test
    same = evidence.test_rows(fresh)
    path.unlink()
    rows.iloc[::-1].drop(columns="size").to_parquet(path)
    assert evidence.test_rows(fresh) == same
    rows.iloc[1:].to_parquet(path)
    assert evidence.test_rows(fresh) != same


def test_the_gate_must_have_been_passed(fresh, parts):
    for word in ("worse", "inconclusive", "insufficient"):
        released.turn(fresh, parts["binary"], 2, word)
        refused(fresh, NotFit, f"the gate says {word}: .*--force", release)
        if word != "worse":  # there the sentence says it
            refused(fresh, NotFit, r"log loss 0.01 lower \(0.01 higher to 0.03 lower;", release)
    done = release(fresh, forced="a planted bad one")
    assert record.evidence(record.read(fresh).find("v1.2.0"))["forced"] == "a planted bad one"
    assert "forced: a planted bad one" in timeline.history(record.read(fresh))["text"]
    assert done.state == "released"


def test_a_candidate_that_was_not_judged_against_the_champion_is_refused(fresh):
    promote(fresh, "v1.0.0")
    workspaces.commit(fresh, "Champion")
    run(fresh, "git", "revert", "--no-edit", "HEAD")
    run(fresh, "dvc", "repro", "-q")
    refused(fresh, NotFit, "compared with no champion, and v1.0.0 is champion", release)


@pytest.mark.parametrize("path", ["params/train.yaml", "dvc.yaml", "verdicts/evaluate.json"])
def test_a_dirty_tree_is_refused(fresh, path):
    (fresh / path).write_text((fresh / path).read_text() + "\n")
    refused(fresh, NotFit, f"{path} has uncommitted changes.*git checkout", release)


def test_a_dirty_dvc_status_is_refused(fresh):
    file = fresh / "models/candidate/schema.json"
    file.chmod(0o644)
    file.write_text(file.read_text() + " ")
    refused(fresh, NotFit, "`dvc status` is not clean: train and evaluate changed", release)


def test_a_bundle_that_does_not_verify_is_refused(fresh):
    # sealed wrongly, and yet committed
    file = fresh / "made/candidate/schema.json"
    file.write_text(file.read_text() + " ")
    run(fresh, "dvc", "repro", "-q")
    workspaces.commit(fresh, "A damaged bundle")
    refused(fresh, manifests.BundleError, "the file was changed", release)


def test_a_bundle_that_dvc_has_no_copy_of_is_refused(fresh):
    shutil.rmtree(fresh / ".dvc/cache")
    shutil.rmtree(fresh.parent / "remote")
    refused(fresh, NotFit, "DVC has no copy|`dvc status` is not clean", release)


def test_what_is_released_is_not_released_again(root):
    refused(root, NotFit, "this commit is v1.2.0 already", release)
    refused(root, Overtaken, "there is a v1.0.0 already", release, version="v1.0.0")
    refused(root, UnknownVersion, "'next' is not a version; say it like", release, version="next")
    run(root, "git", "commit", "-q", "--allow-empty", "-m", "Nothing")
    refused(root, NotFit, "this bundle is v1.2.0 already", release)


def test_an_artifact_that_dvc_yaml_does_not_name(fresh):
    path = fresh / "dvc.yaml"
    path.write_text(path.read_text().replace("  flights: {path", "  trains: {path"))
    workspaces.commit(fresh, "Trains")
    refused(fresh, NotFit, "no artifact `flights`.*write `artifacts:", release)


@pytest.mark.parametrize("action", [promote, rollback])
def test_an_unknown_version(root, action):
    told = refused(root, UnknownVersion, "no version 'v1.2.1'", action, "v1.2.1")
    assert "did you mean `v1.2.0`?" in told and "git fetch --tags" in told


@pytest.mark.parametrize("how", ["annotated", "lightweight", "newer"])
def test_a_tag_without_evidence(root, how):
    newer = json.dumps({"schema": 2, "hashes": {}})
    message = {"annotated": ["-m", "by hand"], "lightweight": [], "newer": ["-m", newer]}[how]
    run(root, "git", "tag", *message, "flights@v9.0.0", "HEAD~2")
    words = "evidence of schema 2, and this code reads 1" if how == "newer" else "holds no evidence"
    refused(root, RecordError, words, promote, "v9.0.0")
    assert "v9.0.0" in timeline.history(record.read(root))["text"]


def test_a_bundle_of_another_format(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "READS", (manifests.FORMAT + 1,))
        refused(
            root, manifests.BundleError, "use the code of the bundle's commit", promote, "v1.0.0"
        )


def test_a_champion_of_another_schema_needs_a_word(fresh, parts):

    promote(fresh, "v1.0.0")
    fewer = synthetic.prepared("binary", synthetic.table().drop(columns="weight"))
    shutil.rmtree(fresh.parent / "spare/2")
    synthetic.sealed(fresh.parent / "spare/2", fewer)
    released.turn(fresh, fewer, 2)
    release(fresh)
    refused(
        fresh,
        NotServable,
        r"another schema than .* v1.0.0 \(weight\).*--other-schema",
        promote,
        "v1.2.0",
    )
    assert promote(fresh, "v1.2.0", other_schema=True).state == "promoted"
    assert rollback(fresh).version == "v1.0.0"  # the way back is open


def gone(root):
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root.parent / "remote")


def test_a_version_that_is_gone_from_the_remote(root):
    promote(root, "v1.0.0")
    gone(root)
    told = refused(root, NotServable, "the model of v1.1.0 is neither", promote, "v1.1.0")
    assert (
        "bring the remote back" in told and f"the store has {released.sha256(root, 0)[:10]}" in told
    )


def test_going_back_needs_neither_network_nor_cache(root):
    promote(root, "v1.0.0")
    promote(root, "v1.1.0")
    gone(root)
    assert rollback(root).version == "v1.0.0"
    assert released.load(root).sha256 == released.sha256(root, 0)


def test_a_model_comes_from_the_remote_where_it_is_now(root):
    (root.parent / "remote").rename(root.parent / "moved")
    shutil.rmtree(root / ".dvc/cache")
    run(root, "dvc", "remote", "modify", "-q", "store", "url", str(root.parent / "moved"))
    assert promote(root, "v1.0.0").state == "promoted"


def test_a_copy_that_was_changed_is_never_served(root):
    for path in (root / ".dvc/cache").rglob("*"):
        if path.is_file() and path.suffix != ".dir" and b"shop" in path.read_bytes():
            path.chmod(0o644)
            path.write_bytes(path.read_bytes() + b" ")
    shutil.rmtree(root.parent / "remote")
    before = state(root)
    with pytest.raises((NotServable, manifests.BundleError)):
        promote(root, "v1.0.0")
    assert state(root) == before


def test_a_damaged_bundle_in_the_store_is_replaced(root):
    promote(root, "v1.0.0")
    promote(root, "v1.1.0")
    file = store.path(root / "serving", released.sha256(root, 0)) / "schema.json"
    file.write_text("{}")
    rollback(root)
    assert store.check(root / "serving", released.sha256(root, 0))


def test_a_repository_that_cannot_tell(root, tmp_path):
    empty = tmp_path / "empty"
    shutil.copytree(root, empty, ignore=shutil.ignore_patterns(".git"))
    with pytest.raises(RecordError, match="not in a Git repository.*`git init`"):
        record.read(empty)
    run(empty, "git", "init", "-q")
    with pytest.raises(RecordError, match="no commit yet.*git commit"):
        record.read(empty)
    run(tmp_path, "git", "clone", "-q", "--depth=1", f"file://{root}", "shallow")
    for action in (promote, rollback):
        refused(tmp_path / "shallow", RecordError, "shallow clone.*--unshallow", action, "v1.0.0")
    refused(tmp_path / "shallow", RecordError, "shallow clone.*--unshallow", release)


def test_a_detached_head_is_not_released_but_can_be_served(fresh):
    run(fresh, "git", "checkout", "-q", "--detach")
    refused(fresh, NotFit, "HEAD is detached.*git switch -c NAME", release)
    assert promote(fresh, "v1.0.0").state == "promoted"


def test_nobody_to_release_as(fresh, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("GIT_AUTHOR", "GIT_COMMITTER"))]:
        monkeypatch.delenv(name)
    run(fresh, "git", "config", "user.useConfigOnly", "true")
    refused(fresh, git.GitError, "git tag failed: .*user.email", release)


def test_who_looked_before_another_promoted_is_told(root):
    promote(root, "v1.0.0")
    seen = record.read(root)
    releases.promote(root, seen, SPRING + 11 * DAY, "v1.1.0", load=models.load)
    before = state(root)
    with pytest.raises(
        Overtaken,
        match=r"v1\.2\.0 was not made champion; flights v1\.1\.0 is champion \(flights#champion#2, by Ada",
    ):
        releases.promote(root, seen, SPRING + 12 * DAY, "v1.2.0", load=models.load)
    assert (
        releases.promote(root, seen, SPRING + 12 * DAY, "v1.1.0", load=models.load).state
        == "unchanged"
    )
    assert state(root) == before


def test_what_was_cut_off_is_completed(root):
    promote(root, "v1.0.0")
    promote(root, "v1.1.0")
    store.point(root / "serving", Now(Role(released.sha256(root, 0), "v1.0.0")))
    shutil.rmtree(root / "models/champion")
    (root / "models/champion.dvc").unlink()
    done = promote(root, "v1.1.0")
    assert done.state == "unchanged" and "what was left undone is done now" in done.sentence
    assert released.pointer(root)["champion"]["version"] == "v1.1.0"
    assert released.load(root).sha256 == released.sha256(root, 1)
    assert promote(root, "v1.1.0").facts == {"completed": []}


@pytest.mark.parametrize(("state", "end"), [("worse", "rollback"), ("better", "promote")])
def test_what_its_gate_found_worse_is_not_promoted_for_want_of_evidence(fresh, parts, state, end):
    if state == "worse":
        released.turn(fresh, parts["binary"], 2, state)
    version = release(fresh, forced="a person wants it" if state == "worse" else "").version
    promote(fresh, "v1.0.0")
    workspaces.settings(fresh, "rollout", "serve")
    log.open_log("sqlite:///data/log/predictions.db", root=fresh).close()
    found = control.start(fresh, version, SPRING + 11 * DAY, anyway=True)
    assert found.rules.on_undecided == end


def test_a_canary_beside_the_champion_is_left_alone_by_what_changes_nothing(root):
    promote(root, "v1.0.0")
    other = store.add(root / "serving", root.parent / "spare/1")
    store.point(
        root / "serving", Now(Role(released.sha256(root, 0), "v1.0.0"), Role(other, "v1.1.0", 0.1))
    )
    promote(root, "v1.0.0")
    assert store.now(root / "serving").canary.sha256 == other


def test_a_lock_that_a_killed_git_left_is_taken_away(root, monkeypatch):
    monkeypatch.setattr(git, "PATIENCE", 0.2)
    left = root / ".git/refs/tags/flights#champion#1.lock"
    left.touch()
    assert promote(root, "v1.0.0").tag == "flights#champion#1"
    assert not left.exists()


def test_hundreds_of_tags_are_read_at_once(root):
    commit = run(root, "git", "rev-parse", "flights@v1.0.0^{commit}").strip()
    lines = [f"create refs/tags/flights@v2.{n}.0 {commit}" for n in range(600)]
    subprocess.run(
        ["git", "update-ref", "--stdin"],
        cwd=root,
        input="\n".join(lines) + "\n",
        text=True,
        check=True,
    )
    assert len(record.read(root).versions) == 603


@contextmanager
def server(root, *more):
    """A real server of this workspace: its address, and what it said before it."""
    said = ("serve", "-p", "port=0", "-p", f"log=sqlite:///{root}/log.db", *more)
    with open(root.parent / "server.log", "w+") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "modelkeep", *said], cwd=root, stdout=log, stderr=log
        )
        try:
            patience = time.monotonic() + 60
            while not (
                found := re.search(
                    r"http://[\d.:]+", text := (root.parent / "server.log").read_text()
                )
            ) or not ready(found[0]):
                assert time.monotonic() < patience and server.poll() is None, text
                time.sleep(0.05)
            yield found[0], text
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def ready(address):
    try:
        return asked(address)
    except URLError:
        return None


def asked(address):
    with urlopen(f"{address}/health") as reply:
        return json.load(reply)


def test_a_running_server_follows_with_nobody_else_alive(root):
    promote(root, "v1.0.0")
    with server(root) as (address, _):
        for action, version, k in ((promote, "v1.1.0", 1), (rollback, "v1.0.0", 0)):
            action(root, version)
            patience = time.monotonic() + 60
            while asked(address)["model"] != released.sha256(root, k)[:10]:
                assert time.monotonic() < patience, asked(address)
                time.sleep(0.05)


def test_status_sees_a_server_on_a_port_of_its_own(root):
    promote(root, "v1.0.0")
    assert status.status(root)["json"]["servers"] == []
    with server(root) as (address, _):
        found = status.status(root)
        (health,) = found["json"]["servers"]
        assert address.endswith(f":{health['address'].rpartition(':')[2]}")
        assert health["model"] == released.sha256(root, 0)[:10]
        assert f"A server answers at {health['address']} with the model" in found["text"]
    assert store.servers(root / "serving") == []
    with store.announced(root / "serving", "http://127.0.0.1:9"):  # as a killed one leaves it
        assert status.status(root)["json"]["servers"] == []
    assert status.status(root)["json"]["servers"] == []


def test_a_server_that_starts_anew_serves_the_champion_on_record(root):
    promote(root, "v1.0.0")
    shutil.rmtree(root / "serving")
    with server(root) as (address, said):
        assert "No model was in service: flights v1.0.0 is champion" in said
        assert asked(address)["model"] == released.sha256(root, 0)[:10]


def test_what_is_served_and_what_is_on_record_are_compared_and_settled(root, capsys):
    promote(root, "v1.0.0")
    served = agreement.compare(root, record.read(root))
    assert served.agrees and (served.recorded, served.served) == ("v1.0.0", "v1.0.0")
    before = store.now(root / "serving")
    promote(root, "v1.1.0")
    rollback(root, reason="calls")  # pulled from another clone: the pointer here stays
    store.point(root / "serving", Now(Role(released.sha256(root, 1), "v1.1.0")))
    found = agreement.compare(root, record.read(root))
    assert not found.agrees and (found.recorded, found.served) == ("v1.0.0", "v1.1.0")
    assert "v1.1.0 is served here; `modelkeep sync`" in found.sentence
    shown = workspaces.run(root, sys.executable, "-m", "modelkeep", "history")
    assert shown.splitlines()[-1] == found.sentence
    assert status.status(root)["json"]["remedy"] == "modelkeep sync"
    assert status.sync(root)["json"] == {
        "before": "v1.1.0",
        "served": "v1.0.0",
        "recorded": "v1.0.0",
    }
    assert store.now(root / "serving").champion == before.champion
    assert "remedy" not in status.status(root)["json"]


def test_a_server_says_that_it_serves_something_else_and_may_follow_the_record(root):
    promote(root, "v1.0.0")
    other = store.add(root / "serving", root.parent / "spare/1")
    store.point(root / "serving", Now(Role(other, "v1.1.0")))
    with server(root) as (address, said):
        assert "v1.1.0 is served here; `modelkeep sync`" in said
        assert asked(address)["model"] == released.sha256(root, 1)[:10]
    with server(root, "-p", "follow=record") as (address, _):
        assert asked(address)["model"] == released.sha256(root, 0)[:10]
        commit = run(root, "git", "rev-parse", "flights@v1.1.0^{commit}").strip()
        text = record.message("x", {"action": "promote", "version": "v1.1.0"})
        tags.add(root, "flights#champion#2", commit, text, SPRING + 30 * DAY)  # as `git fetch` does
        patience = time.monotonic() + 60
        while asked(address)["model"] != released.sha256(root, 1)[:10]:
            assert time.monotonic() < patience
            time.sleep(0.05)


def test_a_clone_follows_the_record_of_its_remote(root):
    promote(root, "v1.0.0")
    clone = root.parent / "replica"
    run(root, "git", "clone", "-q", root, clone)
    with server(clone, "-p", "follow=remote") as (address, _):
        assert asked(address)["model"] == released.sha256(root, 0)[:10]
        promote(root, "v1.1.0")
        patience = time.monotonic() + 60
        while asked(address)["model"] != released.sha256(root, 1)[:10]:
            assert time.monotonic() < patience
            time.sleep(0.05)


def test_a_server_that_cannot_have_the_model_on_record_serves_the_one_before(root):
    promote(root, "v1.0.0")
    commit = run(root, "git", "rev-parse", "flights@v1.1.0^{commit}").strip()
    text = record.message("x", {"action": "promote", "version": "v1.1.0"})
    tags.add(root, "flights#champion#2", commit, text, SPRING + 30 * DAY)
    cache, remote = root / ".dvc/cache", root.parent / "remote"
    for place in (cache, remote):
        place.rename(place.with_name(f"{place.name}-away"))
    with server(root, "-p", "follow=record") as (address, said):
        assert "the remote does not give it" in said and "the model of before is served" in said
        assert asked(address)["model"] == released.sha256(root, 0)[:10]
        for place in (cache, remote):
            place.with_name(f"{place.name}-away").rename(place)
        patience = time.monotonic() + 60  # it is tried again
        while asked(address)["model"] != released.sha256(root, 1)[:10]:
            assert time.monotonic() < patience
            time.sleep(0.05)


TRIAL = {"rollout": "r1", "end": "rolled_back", "sentence": "`quality` is worse", "analyses": 3}


def test_a_trial_is_on_record_once_and_speaks_against_a_promotion_without_a_reason(root):
    promote(root, "v1.0.0")
    called = releases.record_trial(root, "v1.1.0", "canary", TRIAL, SPRING + 11 * DAY)
    assert called == "flights#canary#1"
    assert releases.record_trial(root, "v1.1.0", "canary", TRIAL, SPRING + 12 * DAY) == ""
    at = record.read(root)
    assert [t.result["rollout"] for t in at.tried("v1.1.0")] == ["r1"] and at.counter == 1
    assert "canary rolled back" in timeline.history(at)["text"]
    assert "Canary r1, ended" in timeline.details(at, "v1.1.0")["text"]
    with pytest.raises(NotServable, match=r"canary r1 ended as rolled_back.*--reason 'why'"):
        promote(root, "v1.1.0")
    assert promote(root, "v1.1.0", reason="the log was wrong").tag == "flights#champion#2"
    rollback(root, reason="calls from EWR")
    assert "it was rolled back" in " ".join(record.read(root).objections("v1.1.0"))


def test_of_four_that_promote_at_once_one_wins(root):
    found = races.race(root, processes=4, rounds=3)  # benchmarks/promote_race.py: more of both
    assert found["rounds with one winner"] == found["winners"] == 3
    assert found["told the truth"] + found["wanted the same"] == 3 * 3
    assert not any(found[wrong] for wrong in ("told wrong", "crashed", "serving another", "gaps"))


@pytest.mark.parametrize("name", ["release", "promote", "rollback"])
def test_killed_at_a_write_nothing_is_torn_and_the_next_command_completes_it(
    template, tmp_path, name
):
    killer = kills.Killer(tmp_path)
    found = kills.kills(killer, template, name, tmp_path.resolve(), some=2)
    assert found["killed"] >= 2
    assert {k: n for k, n in found.items() if k not in ("writes", "killed", "ended")} == {}
