"""What a notebook imports from lib/, held against what its stage depends on."""

import ast
from pathlib import Path

from modelkeep.core import workspace
from modelkeep.core.errors import ModelkeepError

LIB = "lib"
PAGES = "lib/modelkeep/reports"  # how a page looks: a stage that trains need not depend on it


class UndeclaredImport(ModelkeepError, ValueError):
    """A notebook imports code of lib/ on which its stage in dvc.yaml does not depend."""


def check(root: Path, stage: str, nb: dict) -> None:
    """Raise UndeclaredImport where DVC would not see that imported code has changed.

    A notebook without a stage may import anything.
    """
    declared = workspace.stages(root).get(stage)
    if declared is None:
        return
    deps = [path.rstrip("/") for path in workspace.names(declared.get("deps"))]
    places = dict.fromkeys(place for name in imported(nb) if (place := located(root, name)))
    missing = [p for p in places if not p.startswith(PAGES) and not _covered(p, deps)]
    if missing:
        lines = "\n".join(f"      - {place}" for place in missing)
        raise UndeclaredImport(
            f"notebooks/{stage}.ipynb imports code of lib/ that the stage `{stage}` does not "
            "depend on: DVC would not "
            f"run it again when that code changes; add under stages.{stage}.deps of "
            f"dvc.yaml:\n{lines}"
        )


def imported(nb: dict) -> list[str]:
    """Full names of what the notebook's code imports: `modelkeep.data.schema`, `pipeline`."""
    code = "\n".join(c["source"] for c in nb["cells"] if c["cell_type"] == "code")
    found = []
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []  # the run itself says so, with the cell
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return list(dict.fromkeys(found))


def located(root: Path, name: str) -> str | None:
    """What a stage must depend on for an import: the package of Modelkeep, or the file or folder of
    one's own; None for other libraries.
    """
    parts = name.split(".")
    if parts[0] == "modelkeep" and len(parts) > 1:
        return "/".join((LIB, *parts[:2]))
    for place in (f"{LIB}/{parts[0]}.py", f"{LIB}/{parts[0]}"):
        if parts[0] != "modelkeep" and (root / place).exists():
            return place
    return None


def _covered(place: str, deps: list[str]) -> bool:
    return any(place == dep or place.startswith(f"{dep}/") for dep in deps)
