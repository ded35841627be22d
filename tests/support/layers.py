"""The library's modules as syntax trees, and what each imports."""

import ast
from pathlib import Path

LIB = Path(__file__).parents[2] / "lib" / "modelkeep"
MODULES = {
    ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted(LIB.rglob("*.py"))
}


def imported(tree: ast.Module) -> set[str]:
    """The modules of ours that a module imports, anywhere in it: `core.files`, `training.engines.onnx`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "modelkeep":
            place = node.module.removeprefix("modelkeep").lstrip(".")
            names = [".".join(filter(None, (place, alias.name))) for alias in node.names]
            found |= {name if name in MODULES else place for name in names}
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("modelkeep.")]
            found |= {name.removeprefix("modelkeep.") for name in names}
    return found
