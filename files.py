"""Files that appear whole or not at all.

Every output is written beside its target under a temporary name and moved into place in one operation, so a reader
never sees half a file, whatever happens to the writer. Temporary names start with `.partial-<process id>-`; the engine
clears those of dead processes away.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL_PREFIX = ".partial-"


def _prefix() -> str:
    return f"{PARTIAL_PREFIX}{os.getpid()}-"


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success move it there, on failure remove it.

    Parameters
    ----------
    path
        The final name. Missing parent directories are made.

    Yields
    ------
    Path
        Where to write; it has the suffix of `path` and does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_directory(path.parent) as directory:
        temporary = directory / path.name
        yield temporary
        with open(temporary, "rb") as stream:
            # Without this a power cut after the move could leave an empty file under the final name.
            os.fsync(stream.fileno())
        os.replace(temporary, path)


@contextmanager
def temporary_directory(parent: str | os.PathLike) -> Iterator[Path]:
    """A directory `.partial-<process id>-...` in `parent`, so on the same file system; it is gone afterwards."""
    Path(parent).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=_prefix(), dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
