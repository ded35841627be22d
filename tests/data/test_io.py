import gzip
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelkeep.data.io import TableError, read

TEXT = "key,temp,late\n007,1.5,0\n008,abc,1\n"


def put(folder, **files):
    for name, text in files.items():
        (folder / name.replace("_csv", ".csv")).write_text(text)


def test_a_folder_may_make_its_own_table(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "table.py").write_text(MAKER)
    assert list(read("made", tmp_path)) == ["key", "late", "temp"]
    assert list(read("made", tmp_path, label="late", features=["temp"])) == ["late", "temp"]


MAKER = """import pandas as pd


def table():
    return pd.DataFrame({"key": ["a"], "late": [1], "temp": [2.0]})
"""


def test_csv_keeps_the_zeros_of_ids_and_mixed_values(tmp_path):
    put(tmp_path, a_csv=TEXT)
    table = read("a.csv", tmp_path, id_column="key", label="late")
    assert table["key"].tolist() == ["007", "008"]
    assert table["temp"].tolist() == ["1.5", "abc"]
    assert read("a.csv", tmp_path)["key"].tolist() == [7, 8]


def test_mixed_types_are_told_over_the_whole_column(tmp_path):
    lines = [str(i) for i in range(280_000)] + ["abc"]
    put(tmp_path, a_csv="\n".join(["x,y", *(f"{line},1" for line in lines)]))
    assert read("a.csv", tmp_path)["x"].tolist() == lines


def test_gzip_and_byte_order_mark_and_other_separators(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode("utf-8-sig")))
    (tmp_path / "b.csv").write_text(TEXT.replace(",", ";"), encoding="utf-8-sig")
    for name in ("a.csv.gz", "b.csv"):
        assert list(read(name, tmp_path)) == ["key", "temp", "late"]


def test_only_the_needed_columns_are_read(tmp_path):
    put(tmp_path, a_csv=TEXT)
    pd.read_csv(tmp_path / "a.csv").to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        assert sorted(read(name, tmp_path, label="late", features=["key"])) == ["key", "late"]
        with pytest.raises(TableError, match=rf"{name} has no column 'lat'; did you mean 'late'\?"):
            read(name, tmp_path, label="lat", features=["key"])


def test_parquet_gives_plain_columns_whatever_its_types(tmp_path):
    table = pa.table(
        {
            "key": pa.array([2**60 + 1, None]),
            "price": pa.array([1, 2], pa.decimal128(9, 2)),
            "day": pa.array([0, 1], pa.date32()),
            "shop": pa.array(["a", None]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    got = read("a.parquet", tmp_path, id_column="key")
    assert got["key"].tolist()[0] == str(2**60 + 1)
    assert got["price"].dtype == "float64"
    assert got["day"].dtype.kind == "M"
    assert got["shop"].dtype == "category"


def test_parquet_index_of_pandas_is_a_column_again(tmp_path):
    table = pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="key"))
    table.to_parquet(tmp_path / "a.parquet")
    table.reset_index(drop=True).loc[[1]].to_parquet(tmp_path / "b.parquet")
    assert sorted(read("a.parquet", tmp_path)) == ["key", "x"]
    assert list(read("b.parquet", tmp_path)) == ["x"]


def test_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "history"
    folder.mkdir()
    put(folder, b_csv="x,y\n3,3\n", a_csv="x,y\n1,1\n2,2\n", README="not a table", _SUCCESS="")
    put(folder, **{".hidden.csv": TEXT, "_part.csv": TEXT})
    pd.DataFrame({"y": [4], "x": [4]}).to_parquet(folder / "c.parquet")
    table = read("history", tmp_path)
    assert table["x"].tolist() == [1, 2, 3, 4]
    assert table.index.tolist() == [0, 1, 2, 3]


def test_folder_with_mixed_columns_says_which_file_lacks_which(tmp_path):
    put(tmp_path, a_csv="x,y\n1,1\n", b_csv="x\n1\n")
    with pytest.raises(TableError, match="b.csv has no column 'y'"):
        read(".", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "empty.csv is empty"),
        ("header.csv", b"x,y\n", "'header.csv' has no rows"),
        ("long.csv", b"x,y\n1,2\n1,2,3\n", "long.csv cannot be read: .*line 3"),
        ("wide.csv", b"x,y\n1,2,3\n4,5,6\n", "wide.csv cannot be read"),
        ("twice.csv", b"x,x\n1,2\n", "twice.csv has two columns named 'x'"),
        ("latin.csv", b"x,y\n1,2\n1,\xe9\n", "latin.csv: line 3 is not UTF-8"),
        (
            "cut.csv.gz",
            gzip.compress(b"x,y\n1,2\n" * 99, mtime=0)[:-9],
            "cut.csv.gz cannot be read",
        ),
        ("plain.csv.gz", b"x,y\n1,2\n", "plain.csv.gz cannot be read"),
        ("bad.parquet", b"x,y\n1,2\n", "bad.parquet cannot be read"),
        ("bad.doc", b"", "the ending is not one of .csv, .csv.gz, .csv.zip, .csv.zst, .tsv"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read(name, tmp_path)


def test_a_file_that_is_not_there_says_what_is_near(tmp_path):
    put(tmp_path, history_csv=TEXT)
    with pytest.raises(TableError, match=r"no file or folder 'histry.csv'.*'history.csv'\?"):
        read("histry.csv", tmp_path)
    with pytest.raises(TableError, match="no file or folder 'there/is/no.csv'"):
        read("there/is/no.csv", tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(TableError, match="'bare': the folder holds no .csv"):
        read("bare", tmp_path)


def test_two_hundred_columns(tmp_path):
    pd.DataFrame(np.ones((5, 200))).rename(columns="c{}".format).to_csv(tmp_path / "a.csv")
    assert read("a.csv", tmp_path).shape == (5, 201)
    assert read("a.csv", tmp_path, label="c0", features=["c199"]).shape == (5, 2)
