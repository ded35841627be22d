import gzip
import warnings
import zipfile
from importlib import util

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelkeep.data import splits
from modelkeep.data.columns import as_numbers, as_times
from modelkeep.data.io import TableError, read
from servers import need_packages

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


LIKE = pd.DataFrame({"zip": ["02139", "01234"], "x": [1.5, -2.0], "n": [2**64 - 1, 7]})


def pack(path, text):
    """A CSV file, packed as its ending says."""
    match path.suffix:
        case ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("inside.csv", text)
        case ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as out:
                out.write(text.encode())
        case ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        case _:
            path.write_text(text)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "csv.zip", "csv.zst", "tsv", "tsv.zst"])
def test_packed_and_tabbed_files_are_the_same_table(ending, tmp_path):
    mark = "\t" if "tsv" in ending else ","
    pack(tmp_path / f"a.{ending}", LIKE.to_csv(index=False, sep=mark))
    found = read(f"a.{ending}", tmp_path, rules={"zip": {"kind": "category"}})
    pd.testing.assert_frame_equal(found, LIKE.astype({"zip": "str"}), check_dtype=False)


@pytest.mark.parametrize("ending", ["parquet", "feather", "arrow"])
def test_text_that_was_typed_as_text_stays_text(ending, tmp_path):
    frame = LIKE.assign(shop=[" a", "b "])
    getattr(frame, "to_parquet" if ending == "parquet" else "to_feather")(tmp_path / f"a.{ending}")
    found = read(f"a.{ending}", tmp_path)
    assert found["zip"].tolist() == ["02139", "01234"] and found["shop"].tolist() == ["a", "b"]
    parts = pd.concat([found] * 20, ignore_index=True).assign(y=[0, 1] * 20)
    kinds = {c.name: c.kind for c in splits.prepare(parts, label="y").schema.columns}
    assert kinds["zip"] == "category" and kinds["x"] == "number"


def test_a_folder_of_parquet_files_keeps_text_of_all_its_files(tmp_path):
    (tmp_path / "t").mkdir()
    LIKE.head(1).to_parquet(tmp_path / "t" / "1.parquet")
    LIKE.tail(1).to_parquet(tmp_path / "t" / "2.parquet")
    assert read("t", tmp_path)["zip"].tolist() == ["02139", "01234"]


def test_whole_numbers_of_64_bits_without_sign_are_numbers(tmp_path):
    LIKE.to_parquet(tmp_path / "a.parquet")
    LIKE.to_csv(tmp_path / "a.csv", index=False)
    for name in ("a.parquet", "a.csv"):
        found = read(name, tmp_path)
        assert found["n"].dtype == "uint64"
        assert as_numbers(found["n"])[0].tolist() == [2.0**64, 7.0]
        assert read(name, tmp_path, id_column="n")["n"].tolist() == [str(2**64 - 1), "7"]


def test_times_of_several_offsets_are_brought_to_utc(tmp_path):
    put(tmp_path, a_csv="t\n2024-03-31T01:00:00+01:00\n2024-03-31T00:30:00Z\n2024-03-30 23:00\n")
    times, bad = as_times(read("a.csv", tmp_path, time_column="t")["t"])
    assert times.dt.strftime("%d %H:%M").tolist() == ["31 00:00", "31 00:30", "30 23:00"]
    assert not bad.any()


def test_a_stated_format_leaves_what_has_another_one_as_it_is(tmp_path):
    put(tmp_path, a_csv="t\n31.12.2024 17:05\nsoon\n\n")
    found = read("a.csv", tmp_path, time_column="t", date_format="%d.%m.%Y %H:%M")["t"]
    times, bad = as_times(found)
    assert times[0] == pd.Timestamp("2024-12-31 17:05") and bad.tolist()[:2] == [False, True]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16"])
def test_encodings(encoding, tmp_path):
    (tmp_path / "a.csv").write_text("Straße,x\nGärtnerweg,1\n", encoding=encoding)
    assert list(read("a.csv", tmp_path, encoding=encoding)) == ["Straße", "x"]
    with pytest.raises(TableError, match=r"line 1 is not UTF-8; set encoding in params/prepare"):
        read("a.csv", tmp_path)
    with pytest.raises(TableError, match="encoding: unknown encoding: klingon"):
        read("a.csv", tmp_path, encoding="klingon")


@pytest.mark.parametrize(
    ("text", "settings", "numbers"),
    [
        ("1.234,5;12\n-7,25;3", {"decimal": ",", "thousands": "."}, [1234.5, -7.25]),
        ('"1,234.5",12\n"-7.25",3', {"thousands": ","}, [1234.5, -7.25]),
        ("1'234.5,12\n-7.25,3", {"thousands": "'"}, [1234.5, -7.25]),
        ("1,5;12\n-7,25;3", {"rules": {"x": {"decimal": ","}}}, [1.5, -7.25]),
        ("$ 1.5,12\n$ -7.25,3", {"rules": {"x": {"strip": "$"}}}, [1.5, -7.25]),
    ],
)
def test_numbers_as_they_are_written(text, settings, numbers, tmp_path):
    put(tmp_path, a_csv=f"x{';' if ';' in text else ','}y\n{text}\n")
    found = read("a.csv", tmp_path, **settings)
    assert as_numbers(found["x"])[0].tolist() == numbers
    assert as_numbers(found["y"])[0].tolist() == [12.0, 3.0]


def test_a_comma_that_is_no_mark_of_thousands_is_not_taken_off(tmp_path):
    put(tmp_path, a_csv='x\n"74,20"\n"1,271"\n')
    assert read("a.csv", tmp_path, thousands=",")["x"].tolist() == ["74,20", "1,271"]


def test_what_is_missing_and_what_is_left_out(tmp_path):
    put(tmp_path, a_csv="land,x,y\nNA,?,1\nDE,5,2\n")
    found = read("a.csv", tmp_path, na_values=["?"], drop=["y"])
    assert found["land"].tolist() == ["NA", "DE"] and found["x"].isna().tolist() == [True, False]
    assert list(found) == ["land", "x"]
    with pytest.raises(TableError, match=r"drop: a.csv has no column 'yy'; did you mean"):
        read("a.csv", tmp_path, drop=["yy"])
    with pytest.raises(TableError, match=r"drop: 'y' is named as label, time, entity or id too"):
        read("a.csv", tmp_path, label="y", drop=["y"])


@pytest.mark.parametrize(
    "marks", [{"decimal": ""}, {"decimal": ",", "thousands": ","}, {"thousands": "''"}]
)
def test_marks_that_cannot_be(marks, tmp_path):
    put(tmp_path, a_csv=TEXT)
    with pytest.raises(TableError, match=r"must be two marks of one character"):
        read("a.csv", tmp_path, **marks)


def test_excel_needs_a_package_or_is_read(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    installed = util.find_spec("openpyxl") is not None
    message = "a.xlsx" if installed else "Excel files need a package; `pip install openpyxl`"
    with pytest.raises(TableError, match=message):
        read("a.xlsx", tmp_path)


def test_excel_is_read_as_it_was_typed(tmp_path):
    need_packages(openpyxl="openpyxl")
    table = pd.DataFrame({"zip": ["01234", "99999"], "x": [1.5, None], "n": [3, 4]})
    table.to_excel(tmp_path / "a.xlsx", index=False)
    found = read("a.xlsx", tmp_path)
    assert found["zip"].tolist() == ["01234", "99999"] and found["n"].tolist() == [3, 4]
    assert found["x"].isna().tolist() == [False, True]
