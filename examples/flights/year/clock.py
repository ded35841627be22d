"""A clock that one program moves and other processes read: eight bytes in a file that they
share.
"""

import mmap
import struct
from pathlib import Path


class Clock:
    """Nanoseconds since 1970, as any process set them last."""

    def __init__(self, path: Path, at: float | None = None) -> None:
        if at is not None:
            path.write_bytes(struct.pack("<q", round(at * 1e9)))
        with open(path, "r+b") as file:
            self.shared = mmap.mmap(file.fileno(), 8)
        self.last = 0

    def move(self, at: float) -> None:
        """Set the time of all processes to `at` seconds since 1970."""
        self.shared[:8] = struct.pack("<q", round(at * 1e9))

    def nanoseconds(self) -> int:
        """The time, at least a microsecond after the last reading of this process, so that no two
        are equal.
        """
        self.last = max(struct.unpack("<q", self.shared[:8])[0], self.last + 1000)
        return self.last

    def seconds(self) -> float:
        """The time as it was set."""
        return struct.unpack("<q", self.shared[:8])[0] / 1e9
