"""A strict run of a stage's notebook: checked before, same bytes after, a page even on failure."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from modelkeep.core import files, imports, notebooks, parameters, workspace
from modelkeep.core.errors import ModelkeepError
from modelkeep.core.pages import STAGES

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from traitlets.config import Config


Render = Callable[..., str]  # an executed notebook and its title to a page; see reports.render
PAPERMILL_MARKER = "papermill-error-cell-tag"


class NotebookFailed(ModelkeepError, RuntimeError):
    """A notebook raised an error, or its kernel died; `page` shows how far it came."""

    def __init__(self, message: str, page: Path) -> None:
        super().__init__(message)
        self.page = page


def run(
    stage: str, root: Path, overrides: Mapping[str, object] | None = None, *, render: Render
) -> Path:
    """Execute a stage's notebook into `reports/<stage>.ipynb` and the page that it returns.

    `render` makes the page from the executed notebook and its title (see `reports.render`).
    """
    root = root.resolve()
    values = parameters.resolve(root, stage, overrides or {})
    nb = notebooks.read(root / "notebooks" / f"{stage}.ipynb")
    imports.check(root, stage, nb)
    progress = _Progress(stage, nb)
    with _environment(root) as scratch:
        executed, error = _execute(root, stage, values, scratch / "executed.ipynb", progress)
    if error is not None:
        raise _failure(root, stage, executed, error, progress, render)
    page = _write(notebooks.normal(executed, root), root / "reports", stage, render)
    for kind in ("ipynb", "html"):
        (root / "reports" / "failed" / f"{stage}.{kind}").unlink(missing_ok=True)
    return page


class _Progress:
    """A bar where somebody watches, else a line a heading; it knows which cell was begun last."""

    def __init__(self, stage: str, nb: dict) -> None:
        from tqdm import tqdm

        self.stage, self.last = stage, None
        self.code = [cell.get("id") for cell in nb["cells"] if cell["cell_type"] == "code"]
        ids = [cell.get("id") for cell in nb["cells"]]
        self.headings = dict(zip(ids, notebooks.headings(nb), strict=True))
        bar = "{desc} {bar:20} {n_fmt}/{total_fmt} {elapsed}{postfix}"
        self.bar = tqdm(total=len(self.code), desc=stage, bar_format=bar, disable=None)

    def __call__(self, cell: "NotebookNode", cell_index: int) -> None:
        """nbclient calls this as each cell begins."""
        if cell.get("id") not in self.code:
            return
        before, self.last = self.heading, cell.id
        self.bar.set_postfix_str(self.heading)
        self.bar.update(self.code.index(self.last) - self.bar.n)
        if self.bar.disable and self.heading != before:
            place = f"{self.code.index(self.last) + 1:2}/{len(self.code)}"
            print(f"{self.stage} {place} {self.heading}", file=sys.stderr, flush=True)

    @property
    def heading(self) -> str:
        """The heading over the cell that was begun last."""
        return self.headings.get(self.last, "")


def _execute(
    root: Path, stage: str, values: dict, output: Path, progress: _Progress
) -> tuple[dict, dict | None]:
    import nbformat
    import papermill
    from nbformat.v4 import new_output
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of names that we checked
    error = None
    try:
        papermill.execute_notebook(
            root / "notebooks" / f"{stage}.ipynb",
            output,
            values,
            kernel_name="python3",
            progress_bar=False,
            cwd=root,
            autosave_cell_every=0,
            coalesce_streams=True,
            on_cell_start=progress,
            extra_arguments=["--HistoryManager.hist_file=:memory:"],
            config=_sockets(output.parent),
            shutdown_kernel="immediate",
        )
    except PapermillExecutionError as raised:
        error = new_output("error", ename=raised.ename, evalue=raised.evalue)
    except RuntimeError as raised:  # nbclient: the kernel did not start, or died
        text = f"{raised} (something killed it, or memory ran out)"
        error = new_output("error", ename="DeadKernel", evalue=text, traceback=[text])
    else:
        progress.bar.update(progress.bar.total - progress.bar.n)
    finally:
        progress.bar.close()
    executed = nbformat.read(output, as_version=4)
    if error is None and executed.metadata.papermill.exception:
        error = new_output("error", ename="SystemExit", evalue="the notebook ended itself early")
    return executed, error


def _sockets(scratch: Path) -> "Config":
    """Sockets in the scratch folder: nobody else on the machine can reach the kernel by a port."""
    from traitlets.config import Config

    place = {"transport": "ipc", "connection_file": str(scratch / "kernel.json")}
    return Config({"AsyncKernelManager": place})


@contextmanager
def _environment(root: Path) -> Iterator[Path]:
    """A scratch folder, and an environment in which nothing of the user's can change a byte."""
    with TemporaryDirectory(prefix="modelkeep-") as name:
        before = dict(os.environ)
        files.write_text(Path(name, "matplotlibrc"), "")
        path = [str(root / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ.update(
            JUPYTER_PATH=str(Path(sys.prefix, "share", "jupyter")),  # our kernel, not a namesake
            JUPYTER_RUNTIME_DIR=name,
            IPYTHONDIR=name,
            MATPLOTLIBRC=name,
            MPLBACKEND="module://matplotlib_inline.backend_inline",  # as in JupyterLab
            PYTHONPATH=os.pathsep.join(path),
            PYTHONSAFEPATH="1",
            PYTHONHASHSEED="0",
            OMP_NUM_THREADS="1",  # sums in parallel round differently on another number of cores
            OPENBLAS_NUM_THREADS="1",
            TZ="UTC",
        )
        os.environ.pop("PYTHONSTARTUP", None)
        try:
            yield Path(name)
        finally:
            os.environ.clear()
            os.environ.update(before)


def _failure(
    root: Path, stage: str, executed: dict, error: dict, progress: _Progress, render: Render
) -> NotebookFailed:
    cells = executed["cells"]
    cells = [c for c in cells if PAPERMILL_MARKER not in c["metadata"].get("tags", ())]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    begun = next((cell for cell in code if cell["id"] == progress.last), code[0])
    if not any(output["output_type"] == "error" for output in begun["outputs"]):
        begun["outputs"].append(error)
    nb = notebooks.normal({"cells": cells}, root)
    lost, remedy = _lost(root, stage)
    missing = tuple(s for s in STAGES if not (root / "reports" / f"{s}.html").is_file())
    left = {"lost": lost, "remedy": remedy, "missing": missing}
    pages = [_write(nb, folder, name, render, **left) for folder, name in _places(root, stage)]
    where = f" in “{progress.heading}”" if progress.heading else ""
    sentence = f"{error['ename']}: {error['evalue']}".splitlines()[0]
    return NotebookFailed(f"{stage} failed{where}: {sentence}; see {pages[-1]}", pages[-1])


def _places(root: Path, stage: str) -> Iterator[tuple[Path, str]]:
    """Where a failure is kept: DVC deletes the folder of an experiment, so at its origin too."""
    yield root / "reports" / "failed", stage
    before, tmp, _ = str(root).partition(f"{os.sep}.dvc{os.sep}tmp{os.sep}exps{os.sep}")
    if tmp:
        origin = Path(before, "reports", "failed")
        yield origin, stage
        if experiment := os.environ.get("DVC_EXP_NAME"):
            yield origin, f"{stage}-{experiment}"


def _lost(root: Path, stage: str) -> tuple[list[str], str]:
    """The outputs on record that are not there, and the command that brings them back."""
    lock = root / "dvc.lock"
    text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    locked = ((workspace.value(text) or {}).get("stages") or {}).get(stage) or {}
    gone = [out for out in locked.get("outs", ()) if not (root / out["path"]).exists()]
    declared = workspace.stages(root).get(stage) or {}
    entries = [e for kind in ("outs", "metrics") for e in declared.get(kind) or ()]
    in_git = {next(iter(e)) for e in entries if isinstance(e, dict)}  # those with `cache: false`
    paths = [out["path"] for out in gone]
    kept = [path for path in paths if path in in_git]
    commands = [f"dvc checkout {stage}"] if len(kept) < len(paths) else []
    commands += [f"git checkout -- {' '.join(kept)}"] if kept else []
    return paths, " && ".join(commands)


def _write(nb: dict, folder: Path, name: str, render: Render, **left: object) -> Path:
    import nbformat

    files.write_text(folder / f"{name}.ipynb", notebooks.text(nb))
    files.write_text(folder / f"{name}.html", render(nbformat.from_dict(nb), name, **left))
    return folder / f"{name}.html"
