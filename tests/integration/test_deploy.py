"""The prediction server without the laboratory: its lock, its image, its unit."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import live
from modelkeep.cli.main import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
LOCK = "requirements.lock"
ROW = {"size": 0.5, "weight": 100.0, "shop": "north"}
PATHS = ("/docs", "/openapi.json", "/metrics", "/health/ready", "/model", "/v2/models/flights")
MOST_DISK_MB, MOST_RESIDENT_MB, MOST_CPU_SECONDS = 150, 100, 1.0


def pins(path):
    lines = re.sub(r"\s*\\\n\s*", " ", path.read_text()).splitlines()
    return [line for line in lines if not line.startswith("#")]


def requirements(path):
    return [Requirement(line.split(" --hash")[0]) for line in pins(path)]


def names(path):
    return {canonicalize_name(each.name) for each in requirements(path)}


def test_the_servers_lock_is_a_part_of_the_whole_one():
    whole = {(canonicalize_name(r.name), r.specifier) for r in requirements(ROOT / LOCK)}
    ours = {(canonicalize_name(r.name), r.specifier) for r in requirements(DEPLOY / LOCK)}
    assert {name for name, _ in ours - whole} <= {"tzdata"}  # of Windows alone
    for line in pins(DEPLOY / LOCK):
        assert re.search(r" --hash=sha256:[0-9a-f]{64}$", line)
    assert "://" not in (DEPLOY / LOCK).read_text()
    stated = {canonicalize_name(Requirement(n).name) for n in pins(DEPLOY / "requirements.in")}
    assert stated <= names(DEPLOY / LOCK)
    heavy = {"pandas", "pyarrow", "scipy", "scikit-learn", "dvc", "jupyterlab", "matplotlib"}
    assert not heavy & names(DEPLOY / LOCK)


BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def only_the_lock(tmp_path):
    """PYTHONPATH by which a process finds what the server's lock has, and nothing else of ours."""
    allowed = {*names(DEPLOY / LOCK), "modelkeep"}
    every = packages_distributions().items()
    modules = {m for m, of in every if not {canonicalize_name(d) for d in of} & allowed}
    assert {"pandas", "sklearn", "scipy", "pyarrow", "dvc", "gto", "papermill"} <= modules
    modules -= {"_virtualenv", "_distutils_hack", "pkg_resources", "setuptools"}
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKED.format(modules=modules))
    return os.pathsep.join([str(folder), str(ROOT / "lib")])


def bundle_folder(tmp_path_factory, task):
    return next(tmp_path_factory.getbasetemp().glob("bundles*")) / task


def test_a_server_needs_what_its_lock_has_and_nothing_else(
    only_the_lock, bundles, tmp_path, tmp_path_factory
):
    root = live.workspace(tmp_path / "ws", bundle_folder(tmp_path_factory, "binary"))
    for _ in range(2):  # the second one counts the log of the first
        with live.served(root, PYTHONPATH=only_the_lock) as server:
            status, shown = server.ask("POST", "/predict", {"rows": [ROW]})
            assert status == 200
            label = {"id": shown["predictions"][0]["id"], "label": 0}
            assert server.ask("POST", "/labels", {"labels": [label]})[0] == 200
            for path in PATHS:
                assert server.raw("GET", path)[0] == 200, path
            assert server.ask("POST", "/model")[0] == 200
            assert "Traceback" not in server.stop()


def test_an_engine_that_is_not_installed_is_a_sentence(
    only_the_lock, bundles, tmp_path, tmp_path_factory
):
    name = next((t for t, b in bundles.items() if b.manifest["serving"]["engine"] == "onnx"), None)
    assert name, "no bundle of the tests has ONNX Runtime as its engine"
    root = live.workspace(tmp_path / "ws", bundle_folder(tmp_path_factory, name))
    done = subprocess.run(
        [sys.executable, "-m", "modelkeep", "serve", "-p", "port=0"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": only_the_lock},
        capture_output=True,
        text=True,
    )
    assert done.returncode and "Traceback" not in done.stderr
    assert "engine is onnx, which needs onnxruntime" in " ".join(done.stderr.split())


def steps():
    """The instructions of the Containerfile, in order."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(None, 1)) for line in lines]


def copied():
    return [shlex.split(text) for step, text in steps() if step == "COPY"]


def test_the_image_holds_what_is_copied_and_starts_what_exists():
    shown = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert shown[0] == "*"
    for source, _ in copied():
        assert (ROOT / source).exists()
        assert f"!{source.rstrip('/')}" in shown
    commands = dict(steps())
    assert json.loads(commands["ENTRYPOINT"]) == ["python", "-m", "modelkeep", "serve"]
    assert commands["USER"].isdigit() and commands["STOPSIGNAL"] == "SIGTERM"
    base = re.fullmatch(r"docker.io/library/python:(3\.\d+)-slim-\w+", commands["FROM"])
    assert base[1] in (ROOT / "pyproject.toml").read_text()


def test_the_unit_starts_a_replica_and_waits_for_it(tmp_path):
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(DEPLOY / "modelkeep@.service")
    words = unit["Service"]["ExecStart"].split()
    assert words[1:3] == ["-m", "modelkeep"]
    assert main([*words[3:4], "--help"]) == 0
    assert words[4:] == ["-p", "port=%i"]
    assert "/health/ready" in unit["Service"]["ExecStartPost"]
    assert set(unit) - {"DEFAULT"} == {"Unit", "Service", "Install"}
    if verify := shutil.which("systemd-analyze"):
        path = tmp_path / "modelkeep@8081.service"
        text = (DEPLOY / "modelkeep@.service").read_text()
        # programs that are here, so that only the unit is checked
        text = re.sub(r"^(ExecStart(?:Post)?)=\S+", r"\1=/bin/true", text, flags=re.MULTILINE)
        path.write_text(text)
        done = subprocess.run([verify, "verify", path], capture_output=True, text=True)
        assert "modelkeep@8081" not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_images_steps_in_a_clean_environment(bundles, tmp_path, tmp_path_factory):
    """Disk, memory and the CPU time to the first response of what the Containerfile makes."""
    root, env = tmp_path / "srv", tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", env], check=True)
    clean = {"PATH": f"{env / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    clean |= {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTPS_"))}
    clean["PYTHONPATH"] = str(root / "lib")
    root.mkdir()
    for step, text in steps():
        if step == "RUN":
            subprocess.run(text, shell=True, cwd=root, env=clean, check=True)
        elif step == "COPY":
            source, to = shlex.split(text)
            (root / to).mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            options = {"dirs_exist_ok": True} if copy is shutil.copytree else {}
            copy(ROOT / source, root / to, **options)
    subprocess.run([env / "bin/pip", "uninstall", "-qy", "pip", "setuptools"], env=clean)
    made = live.workspace(tmp_path / "made", bundle_folder(tmp_path_factory, "binary"))
    shutil.copytree(made / "models", root / "models")
    disk = sum(p.lstat().st_size for p in [*env.rglob("*"), *root.rglob("*")] if p.is_file()) / 1e6
    for _ in range(2):
        process = subprocess.Popen(
            ["python", "-m", "modelkeep", "serve", "-p", "port=0"],
            cwd=root,
            env=clean,
            stdout=subprocess.PIPE,
            text=True,
        )
        server = live.Server(process, live.port(process.stdout.readline()), root)
        assert server.ask("POST", "/predict", {"rows": [ROW]})[0] == 200
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
        server.stop()
        time.sleep(0.1)
    print(f"{disk:.0f} MB on disk, {resident:.0f} MB resident, {cpu:.2f} s of CPU to a response")
    assert disk <= MOST_DISK_MB and resident <= MOST_RESIDENT_MB and cpu <= MOST_CPU_SECONDS
