"""Tables, and models of a DVC remote, in a real S3 server (moto's, on loopback)."""

import os
import shutil
import subprocess
import sys
from urllib.request import Request, urlopen

import pandas as pd
import pytest

import released
import synthetic
from modelkeep.data import io
from modelkeep.data.storage import StorageError
from modelkeep.registry import record, releases, store
from modelkeep.registry.releases import NotServable
from servers import need_packages
from workspaces import run

pytestmark = pytest.mark.filterwarnings("default")  # those of libraries that are not ours
BUCKET = "keep"
SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def s3():
    """A server in a process of its own, with a bucket."""
    need_packages(moto="moto[s3] flask flask-cors", dvc_s3="dvc-s3")
    words = [sys.executable, "-W", "ignore", "-c", SERVER]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = next(line for line in server.stdout if line.strip().isdigit())
    told = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(line)}", "AWS_REGION": "us-east-1"}
    told |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    told |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        client().create_bucket(Bucket=BUCKET)
        yield server
        server.kill()
        server.communicate()


def client():
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def put(key, path):
    client().upload_file(str(path), BUCKET, key)


def tables():
    """Three tables of different kinds."""
    from sklearn import datasets

    wine = datasets.load_wine(as_frame=True).frame
    diabetes = datasets.load_diabetes(as_frame=True).frame
    shops = pd.DataFrame({"shop": ["007", "Köln", None] * 4, "sold": range(12)})
    return {"wine.parquet": wine, "diabetes.csv": diabetes, "shops.csv.gz": shops}


@pytest.mark.parametrize("name", tables())
def test_a_table_in_s3_is_the_table_on_disk(s3, name, tmp_path):
    table, path = tables()[name], tmp_path / name
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    put(f"tables/{name}", path)
    ours = io.read(
        f"s3://{BUCKET}/tables/{name}", tmp_path, id_column="shop" if "shop" in table else ""
    )
    theirs = io.read(name, tmp_path, id_column="shop" if "shop" in table else "")
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_prefix_is_a_folder_of_tables(s3, tmp_path):
    for day in ("01", "02"):
        path = tmp_path / f"{day}.csv"
        path.write_text(f"day,n\n{day},1\n{day},2\n")
        put(f"days/{day}.csv", path)
    put("days/README.txt", path)
    put("days/deeper/03.csv", path)
    assert io.read(f"s3://{BUCKET}/days", tmp_path)["day"].tolist() == [1, 1, 2, 2]
    assert io.read(f"s3://{BUCKET}/days/", tmp_path)["n"].sum() == 6


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"s3://{BUCKET}/none.csv", "there is nothing at"),
        ("s3://no-such-bucket/a.csv", "there is nothing at|cannot be read"),
        ("s3://keep", "write s3://BUCKET/KEY"),
        ("https://example.org/a.csv", "write s3://BUCKET/KEY"),
    ],
)
def test_what_is_not_there_is_a_sentence(s3, source, message, tmp_path):
    with pytest.raises(StorageError, match=message):
        io.read(source, tmp_path)


def test_a_server_that_is_away_is_a_sentence(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot be read .*; check the credentials"):
        io.read(f"s3://{BUCKET}/days", tmp_path)


def authenticate(after: bytes) -> None:
    """Let moto check credentials after so many requests; `inf`: never."""
    url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    with urlopen(Request(url, after, {"Content-Type": "text/plain"})) as reply:
        assert reply.status == 200


def test_credentials_that_are_not_valid_are_a_sentence(s3, tmp_path):
    authenticate(b"0")
    try:
        with pytest.raises(StorageError, match="cannot be read .*; check the credentials"):
            io.read(f"s3://{BUCKET}/days", tmp_path)
    finally:
        authenticate(b"inf")


@pytest.fixture(scope="module")
def root(s3, tmp_path_factory):
    """Releases whose models are in S3 alone."""
    home = tmp_path_factory.mktemp("s3")
    with released.surroundings(home):
        root = released.build(home / "ws", synthetic.prepared("binary"))
        config = root / ".dvc/config"
        text = config.read_text().replace("url = ../../remote", f"url = s3://{BUCKET}/dvc")
        config.write_text(text + f"    endpointurl = {os.environ['AWS_ENDPOINT_URL']}\n")
        run(root, "dvc", "push", "-q")
        run(root, "git", "commit", "-qam", "The remote is in S3")
        releases.release(root, record.read(root), released.SPRING)
        shutil.rmtree(root / ".dvc/cache")
        yield root


def fetch(root):
    at = record.read(root)
    target = at.versions["v1.0.0"]
    releases.fetch(root, target, record.evidence(target))


def objects():
    listed = client().list_objects_v2(Bucket=BUCKET, Prefix="dvc/")["Contents"]
    return [each["Key"] for each in listed]


def test_the_store_of_a_replica_is_filled_from_s3(root, tmp_path):
    sha256 = released.sha256(root, 0)
    clone = tmp_path / "replica"
    run(root, "git", "clone", "-q", root, clone)
    (largest,) = sorted(
        objects(), key=lambda k: client().head_object(Bucket=BUCKET, Key=k)["ContentLength"]
    )[-1:]
    whole = client().get_object(Bucket=BUCKET, Key=largest)["Body"].read()
    client().put_object(Bucket=BUCKET, Key=largest, Body=whole[: len(whole) // 2])
    damaged = "what DVC's remote has for v1.0.0 is damaged .*: its SHA-256 is"
    with pytest.raises(NotServable, match=damaged):  # an upload that was cut off
        fetch(clone)
    assert not (clone / "serving/bundles").exists()
    client().put_object(Bucket=BUCKET, Key=largest, Body=whole)
    fetch(clone)
    assert store.check(clone / "serving", sha256)


def test_a_store_is_not_torn_when_s3_is_away(root, tmp_path):
    clone = tmp_path / "replica"
    run(root, "git", "clone", "-q", root, clone)
    config = (clone / ".dvc/config").read_text()
    away = config.replace(os.environ["AWS_ENDPOINT_URL"], "http://127.0.0.1:9")
    (clone / ".dvc/config").write_text(away)
    with pytest.raises(NotServable, match="the remote does not give it"):
        fetch(clone)
    assert not (clone / "serving/bundles").exists()
