import ast
import builtins

from layers import MODULES

OUR_BASE = "ModelkeepError"


def bases(tree: ast.Module) -> dict[str, set[str]]:
    """The names of the base classes of each class of a module."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {c.name: {ast.unparse(base) for base in c.bases} for c in classes}


def is_builtin_error(name: str) -> bool:
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, BaseException)


def test_every_error_of_the_library_can_be_caught_by_one_type():
    every = {f"{m}.{c}": b for m, tree in MODULES.items() for c, b in bases(tree).items()}
    errors = {name: b for name, b in every.items() if any(map(is_builtin_error, b))}
    del errors[f"core.errors.{OUR_BASE}"]
    assert len(errors) > 40
    assert [name for name, b in errors.items() if OUR_BASE not in b] == []
