"""Tables in object storage (`s3://BUCKET/KEY`): brought here whole, then read as files.

Credentials, region and another server than Amazon's are those of AWS's own settings:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL, or the
files and roles that its libraries read.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modelkeep.core.errors import ModelkeepError

if TYPE_CHECKING:
    from pyarrow import fs

ADDRESS = re.compile("s3://([^/?#]+)/([^?#]+)")
SECONDS, ATTEMPTS = 10, 3  # until a connection is given up; of each request


class StorageError(ModelkeepError, RuntimeError):
    """An object storage that does not give what is requested."""


@contextmanager
def local(source: str, root: Path, endings: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Where to read a source: itself below `root`, or a copy of what is at `s3://...`.

    An object, or those right below a prefix whose names have one of the `endings`, are copied; the
    copy is deleted afterwards. StorageError if one of them does not come whole.
    """
    if "://" not in source:
        yield source, root
        return
    if not (address := ADDRESS.fullmatch(source)):
        raise StorageError(
            f"source: {source!r} is no address of a table; write s3://BUCKET/KEY, or a path of the "
            "repository"
        )
    bucket, key = address[1], address[2].rstrip("/")
    with tempfile.TemporaryDirectory(prefix="modelkeep-source-") as folder:
        name = key.rpartition("/")[2]
        try:
            _copy(_filesystem(), f"{bucket}/{key}", Path(folder) / name, endings, source)
        except OSError as error:  # Arrow's only kind
            raise StorageError(
                f"source: {source!r} cannot be read ({' '.join(str(error).split())[:300]}); check "
                "the credentials (AWS_ACCESS_KEY_ID and the like), AWS_REGION, AWS_ENDPOINT_URL "
                "and "
                "the network; nothing was changed"
            ) from None
        yield name, Path(folder)


def _filesystem() -> "fs.FileSystem":
    from pyarrow import fs

    return fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        connect_timeout=SECONDS,
        request_timeout=SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _copy(
    storage: "fs.FileSystem", path: str, to: Path, endings: Sequence[str], source: str
) -> None:
    from pyarrow import fs

    found = storage.get_file_info(path)
    if found.type == fs.FileType.NotFound:
        raise StorageError(f"source: there is nothing at {source!r}; look at the bucket's names")
    objects, folder = [found], to.parent
    if found.type == fs.FileType.Directory:
        each = storage.get_file_info(fs.FileSelector(path))
        objects = [o for o in each if o.is_file and o.base_name.lower().endswith(tuple(endings))]
        folder = to
        folder.mkdir()
    for each in objects:
        with (
            storage.open_input_stream(each.path, compression=None) as stream,
            open(folder / each.base_name, "wb") as f,
        ):
            shutil.copyfileobj(stream, f)
            came = f.tell()
        if came != each.size:
            raise StorageError(
                f"source: {each.path} has {each.size:,} bytes, and {came:,} came; try again"
            )
