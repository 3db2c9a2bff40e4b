"""Keeping a root in order: one run at a time, no left-over temporary files, room on the disk."""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from errors import InputError
from files import PARTIAL_PREFIX

LOCK_NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
PARTIAL = re.compile(rf"{re.escape(PARTIAL_PREFIX)}(\d+)-")


class RunLocked(InputError):
    """Another run works in this root."""


class RootNotWritable(InputError):
    """The root can not be written to."""


class DiskFull(InputError):
    """There is not enough space on the disk."""


@contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Hold the root for one run.

    The lock is the operating system's own, so that of a dead process is void at once.

    Raises
    ------
    RunLocked
        If another run holds it; the message names its process and start.
    RootNotWritable
        If the lock file can not be made.
    """
    path = root / "logs" / LOCK_NAME
    descriptor = _lock(path)
    try:
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "start": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"}
        with suppress(OSError):
            # For the message to others only: a full disk must not stop the run here.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The file may have been removed by its last owner between opening and locking it.
                if os.fstat(descriptor).st_ino == os.stat(path).st_ino:
                    return descriptor
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(descriptor)
                raise RunLocked(_describe_owner(path)) from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                # Some cluster file systems have no locks: then it is for the user to see that runs do not meet.
                return descriptor
            os.close(descriptor)
    except OSError as error:
        raise RootNotWritable(
            f"The logs of {path.parent.parent} can not be written ({error.strerror}): check the directory's owner, "
            "permissions and disk."
        ) from None


def _describe_owner(path: Path) -> str:
    root = path.parent.parent
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']}, started {owner['start']} UTC"
    except (OSError, ValueError, KeyError):
        who = "a process that is just starting"
    return f"Another run is working in {root} ({who}): wait for it to end, or stop it."


def remove_partial_files(root: Path, directories: Iterable[Path], finished: Iterable[int] = ()) -> list[Path]:
    """Remove what killed processes left half written: `.partial-<process id>-...` files and directories.

    Parameters
    ----------
    root
        The data root, searched as a whole but for `stage0`, which is the user's.
    directories
        More places to look: directories of outputs may be links to another disk.
    finished
        Processes of which it is known that they write nothing any more.

    Returns
    -------
    list of Path
        What was removed. Files of live processes are left alone.
    """
    found = set()
    for directory, names, files in os.walk(root):
        found.update(os.path.join(directory, name) for name in (*names, *files) if PARTIAL.match(name))
        names[:] = [
            name for name in names if not PARTIAL.match(name) and not (directory == str(root) and name == "stage0")
        ]
    for directory in {str(directory) for directory in directories}:
        with suppress(OSError):
            found.update(os.path.join(directory, name) for name in os.listdir(directory) if PARTIAL.match(name))
    removed = []
    for path in map(Path, sorted(found)):
        if _is_orphan(path, set(finished)):
            with suppress(OSError):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def _is_orphan(path: Path, finished: set[int]) -> bool:
    pid = int(PARTIAL.match(path.name).group(1))
    if pid in finished:
        return True
    try:
        # A process that started after the file was last written is another one that was given the same number.
        return psutil.Process(pid).create_time() > path.lstat().st_mtime + 1
    except (psutil.NoSuchProcess, OverflowError):
        return True
    except (psutil.Error, OSError):
        return False


def check_disk_space(path: str | os.PathLike, bytes_needed: float) -> int:
    """Make sure that there is room for what is going to be written.

    Parameters
    ----------
    path
        Where; it need not exist yet.
    bytes_needed
        How much.

    Returns
    -------
    int
        Bytes free.

    Raises
    ------
    DiskFull
        If there is less space than that for this user.
    """
    place = Path(os.path.abspath(path))
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < bytes_needed:
        raise DiskFull(
            f"About {bytes_needed / 1e9:.1f} GB are needed in {path}, but the disk has only {free / 1e9:.1f} GB free: "
            "make room, or choose another root."
        )
    return free
