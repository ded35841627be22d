"""A strict run of a stage's notebook: checked before, same bytes after, a page even on failure."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from modelkeep.core import files, imports, notebooks, parameters
from modelkeep.core.errors import ModelkeepError

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode


Render = Callable[["NotebookNode", str], str]  # an executed notebook and its title to a page
PAPERMILL_MARKER = "papermill-error-cell-tag"
# Nobody steps through a run, and the debugger would be a third of the kernel's start.
KERNEL = """
import sys
sys.modules["debugpy"] = None
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


class NotebookFailed(ModelkeepError, RuntimeError):
    """A notebook raised an error, or its kernel died; `page` shows how far it came."""

    def __init__(self, message: str, page: Path) -> None:
        super().__init__(message)
        self.page = page


def run(
    stage: str, root: Path, overrides: Mapping[str, object] | None = None, *, render: Render
) -> Path:
    """Execute a stage's notebook into `reports/<stage>.ipynb` and the page that it returns; `render` makes the page."""
    root = root.resolve()
    values = parameters.resolve(root, stage, overrides or {})
    nb = notebooks.read(root / "notebooks" / f"{stage}.ipynb")
    imports.check(root, stage, nb)
    with _surroundings(root) as scratch, _kernel(root, scratch) as kernel:
        progress = _Progress(stage, nb)
        output = scratch / "executed.ipynb"
        executed, error = _execute(root, stage, values, output, progress, kernel)
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
    root: Path,
    stage: str,
    values: dict,
    output: Path,
    progress: _Progress,
    kernel: "AsyncKernelManager",
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
            km=kernel,
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


@contextmanager
def _kernel(root: Path, scratch: Path) -> Iterator["AsyncKernelManager"]:
    """A kernel that boots while papermill is imported: each takes a second. It ends by a kill: what it wrote is whole, and its own way out takes another half."""
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    path = str(scratch / "kernel.json")
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=path)
    clients, make = [], kernel.client
    kernel.client = lambda **options: clients.append(make(**options)) or clients[-1]
    memory = ["--HistoryManager.hist_file=:memory:"]
    run_sync(kernel.start_kernel)(cwd=str(root), extra_arguments=memory)
    try:
        yield kernel
    finally:
        for client in clients:  # nbclient closes only what it opened itself
            client.stop_channels()
        run_sync(kernel.shutdown_kernel)(now=True)


@contextmanager
def _surroundings(root: Path) -> Iterator[Path]:
    """A scratch folder, and an environment in which nothing of the user's can change a byte."""
    with TemporaryDirectory(prefix="modelkeep-") as name:
        scratch, before = Path(name), dict(os.environ)
        argv = [sys.executable, "-P", "-c", KERNEL, "--log-level=CRITICAL"]
        argv += ["-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        files.write_json(scratch / "kernels" / "python3" / "kernel.json", spec)
        files.write_text(scratch / "matplotlibrc", "")
        path = [str(root / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
        os.environ.update(
            JUPYTER_PATH=name,  # searched first: this interpreter's kernel, not a namesake
            JUPYTER_RUNTIME_DIR=name,
            IPYTHONDIR=name,
            MATPLOTLIBRC=name,
            MPLBACKEND="module://matplotlib_inline.backend_inline",  # as in JupyterLab
            PYTHONPATH=os.pathsep.join(path),
            PYTHONHASHSEED="0",
            OMP_NUM_THREADS="1",  # sums in parallel round differently on another number of cores
            OPENBLAS_NUM_THREADS="1",
            TZ="UTC",
        )
        os.environ.pop("PYTHONSTARTUP", None)
        try:
            yield scratch
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
    pages = [_write(nb, folder, name, render) for folder, name in _places(root, stage)]
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


def _write(nb: dict, folder: Path, name: str, render: Render) -> Path:
    import nbformat

    files.write_text(folder / f"{name}.ipynb", notebooks.text(nb))
    files.write_text(folder / f"{name}.html", render(nbformat.from_dict(nb), name))
    return folder / f"{name}.html"
