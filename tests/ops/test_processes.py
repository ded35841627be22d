"""Each test starts real processes, kills one of them and looks at what is left."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import tiny

MODELKEEP = f"{shlex.quote(sys.executable)} -m modelkeep run sleeps"
PATIENCE_SECONDS = 60


@pytest.fixture
def root(tmp_path):
    return tiny.workspace(tmp_path / "clone", sleeps="seconds: 100\n")


@pytest.fixture
def start(root):
    """Start a command in the workspace; at the end of the test whatever it left is killed."""
    for number in (signal.SIGHUP, signal.SIGINT):
        # a child inherits what is ignored, as under nohup, and not what is handled
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    seen = []

    def starting(*command, **env):
        process = subprocess.Popen(
            command, cwd=root, env=tiny.surroundings(root, **env), stderr=subprocess.PIPE
        )
        wait_for(lambda: (root / "asleep").exists() or process.poll() is not None)
        below = psutil.Process(process.pid).children(recursive=True)
        seen.append((process, below))
        return process, below

    yield starting
    for process, below in seen:
        for each in [*below, process]:
            if each.is_running() if isinstance(each, psutil.Process) else each.poll() is None:
                each.kill()
        process.communicate()


def wait_for(happens):
    patience = time.monotonic() + PATIENCE_SECONDS
    while not happens():
        assert time.monotonic() < patience, "waited in vain"
        time.sleep(0.05)


def assert_nothing_is_left(root, below):
    _, left = psutil.wait_procs(below, timeout=10)
    assert left == []
    assert list(root.glob("reports/**/*.*")) == []
    assert not (root / "awake").exists()


def names(below):
    return " ".join(" ".join(process.cmdline()) for process in below)


def test_dvc_killed_takes_the_stage_with_it(root, start):
    dvc = [sys.executable, "-m", "dvc"]
    assert tiny.run(root, *dvc, "init", "-q", "--no-scm").returncode == 0
    process, below = start(*dvc, "repro")
    assert "modelkeep run" in names(below)
    assert "ipykernel" in names(below)
    assert "sleep 100" in names(below)
    process.kill()
    assert_nothing_is_left(root, below)


def test_killed_behind_two_shells(root, start):
    """`modelkeep` is not the child of the one who dies, and both shells between them live on."""
    chain = f"sh -c {shlex.quote(f'{MODELKEEP}; true')}; true"
    top = f"import subprocess; subprocess.run(['sh', '-c', {chain!r}])"
    process, below = start(sys.executable, "-c", top, DVC_STAGE="sleeps")
    process.kill()
    runner = [each for each in below if each.name() not in ("sh", "dash", "bash")]
    assert len(runner) == 3
    assert_nothing_is_left(root, runner)


def test_a_plain_run_dies_with_the_shell_that_started_it(root, start):
    process, below = start("sh", "-c", f"{MODELKEEP}; true")
    process.kill()
    assert_nothing_is_left(root, below)


def test_a_kernel_does_not_outlive_a_killed_runner(root, start):
    process, below = start(*shlex.split(MODELKEEP))
    process.kill()
    kernel = [each for each in below if "ipykernel" in names([each])]
    assert len(kernel) == 1
    assert_nothing_is_left(root, kernel)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_kernel_too_without_a_traceback(root, start, number):
    process, below = start(*shlex.split(MODELKEEP))
    process.send_signal(number)
    assert process.wait(PATIENCE_SECONDS) == 128 + number
    assert_nothing_is_left(root, below)
    said = process.stderr.read().decode().splitlines()
    assert said == ["sleeps  1/4 Sleeps", "", f"modelkeep: ended by {number.name}"]


def test_nohup_outlives_its_shell(root, start):
    process, below = start("sh", "-c", f"nohup {MODELKEEP}; true")
    process.kill()
    process.wait()
    time.sleep(3)
    assert [each for each in below if not each.is_running()] == []
    assert Path(root, "asleep").read_text() in {str(each.pid) for each in below}


def test_a_stage_whose_dvc_died_before_the_first_look_does_not_start(root):
    # its parent is then a process of another session, as ours is for this one
    done = subprocess.run(
        shlex.split(MODELKEEP),
        cwd=root,
        env=tiny.surroundings(root, DVC_STAGE="sleeps"),
        start_new_session=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert not (root / "asleep").exists()
