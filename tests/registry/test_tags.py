import random

from gto.tag import parse_name

from modelkeep.registry import tags

PIECES = ("flights", "a", "A-b_c", "x/y", "@", "#", "v1.0.0", "v1.2", "v0.0.1-rc.1", "v1.0.0+b.1")
PIECES += ("v1.0.0+b_1", "!", "#3", "#0", "champion", "canary", "-", "_", "@deprecated", "v01.0.0")
PIECES += ("1", "é", "٣", ".")


def ours(name):
    found = tags.FORM.fullmatch(name)
    if found is None:
        return None
    counter = int(found["counter"]) if found["counter"] else None
    return found["name"], found["version"], found["stage"], counter, bool(found["cancel"])


def gto(name):
    found = parse_name(name, raise_on_fail=False)
    if not (found.get("version") or found.get("stage")):
        return None  # GTO's marks of artifacts name neither
    cancelled = found["action"].value in ("deregister", "unassign")
    return *(found.get(key) for key in ("name", "version", "stage", "counter")), cancelled


def test_names_of_tags_are_read_as_gto_reads_them():
    generator, named = random.Random(0), 0
    for _ in range(20_000):
        name = "".join(generator.choices(PIECES, k=generator.randint(1, 6)))
        assert ours(name) == gto(name), name
        named += gto(name) is not None
    assert named > 100


def test_gto_reads_the_names_that_we_make():
    for made, stated in {
        tags.name("flights", version="v1.0.0"): ("flights", "v1.0.0", None, None, False),
        tags.name("flights", stage="champion", counter=7): ("flights", None, "champion", 7, False),
    }.items():
        assert gto(made) == ours(made) == stated
