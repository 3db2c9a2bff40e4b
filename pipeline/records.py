"""What is done: one record a task, keyed by everything its result depends on.

The key of a task is a hash of the function's name, the text of the module it is in and of those of the project that
this imports, its arguments, the versions it names and the content of its inputs. A task is done if its record has that
key and its outputs still have the content that is recorded. Paths are written relative to the root, so a root that is
copied or moved stays done.

Hashing a file's content means reading it, so hashes are remembered with the file's size, time of modification, time of
change and inode. A file in which all four are the same is taken to be the same; a copied file is read once.
"""

import hashlib
import importlib.util
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from files import PARTIAL_PREFIX
from pipeline.plan import PlanError, Task, plain_value, relative_name

FORMAT = 1
# What a record must have, and of what type each is.
RECORD_TYPES = {
    "key": str,
    "step": str,
    "function": str,
    "outputs": dict,
    "seconds": int | float,
    "facts": dict,
    "notes": list,
    "warnings": list,
}
BLOCK_BYTES = 1 << 20

Signature = tuple[int, int, int, int]


def file_signature(path: str | os.PathLike) -> Signature:
    """Size, time of modification, time of change [ns] and inode of a file; raises OSError where there is none."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; see `write_texts`."""
    write_texts(path, [format_json(content)])


def write_texts(path: Path, texts: Iterable[str]) -> None:
    """Write texts one after the other to one file, whole or not at all.

    Unlike `files.written_whole` it does not wait for the disk: there is one such file a task, and what a power cut
    leaves of it is recognised as no record.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{PARTIAL_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.writelines(texts)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def format_json(content: Any) -> str:
    """JSON of plain data, NumPy values and paths."""
    return json.dumps(content, default=plain_fact)


def plain_fact(value: Any) -> Any:
    """What JSON can not hold as it is: NumPy values as numbers and lists, everything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


class ContentHashes:
    """Hashes of file contents, remembered from run to run in `logs/hashes.json`.

    Parameters
    ----------
    root
        The data root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / "logs" / "hashes.json"
        self._changed = False
        self._known: dict[str, tuple[Signature, str]] = {}
        # A damaged file only costs reading the data files once more.
        with suppress(OSError, ValueError, TypeError, AttributeError):
            content = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = {name: (tuple(signature), str(digest)) for name, (signature, digest) in content.items()}

    def known(self, path: Path) -> tuple[Signature, str] | None:
        """Signature and hash of the file as it is now, or None if it would have to be read."""
        entry = self._known.get(relative_name(path, self._root))
        return entry if entry is not None and entry[0] == file_signature(path) else None

    def digest(self, path: Path) -> str:
        """Hash of the file's content, read only if it is not known. Raises OSError."""
        entry = self.known(path)
        if entry is None:
            entry = (file_signature(path), file_digest(path))
            self.remember(path, entry)
        return entry[1]

    def remember(self, path: Path, entry: tuple[Signature, str]) -> None:
        """Take a hash that was made elsewhere."""
        self._known[relative_name(path, self._root)] = entry
        self._changed = True

    def save(self) -> None:
        """Write the hashes to disk if there are new ones. Raises OSError."""
        if self._changed:
            write_texts(self._path, self._texts())
            self._changed = False

    def _texts(self) -> Iterator[str]:
        """The file in pieces, a line for each data file: there may be very many."""
        yield "{"
        for number, (name, entry) in enumerate(self._known.items()):
            yield f"{',' if number else ''}\n{json.dumps(name)}: {json.dumps(entry)}"
        yield "\n}\n"


@lru_cache(maxsize=256)
def _digest_of_source(origin: str, signature: Signature) -> str:
    return file_digest(origin)


@lru_cache(maxsize=256)
def _imported_neighbours(origin: str, signature: Signature, directory: str) -> tuple[tuple[str, str], ...]:
    # Only code objects are read, nothing is imported. What is not below the directory (numpy, jwst) is in `versions`.
    finder = ModuleFinder(path=[directory])
    finder.load_file(origin)
    paths = sorted({module.__file__ for module in finder.modules.values() if module.__file__})
    return tuple((os.path.relpath(path, directory), path) for path in paths)


def source_digest(function: str) -> str:
    """Hash of the text of the module that `module:function` is in, and of all it imports of the same project.

    The project is what lies in the module's directory (of a package: in the directory that the package lies in) and
    below. Imports inside functions count. Nothing is imported to find this.

    Raises
    ------
    PlanError
        If there is no such module.
    """
    module = function.split(":")[0]
    try:
        origin = getattr(importlib.util.find_spec(module), "origin", None)
    except (ImportError, ValueError):
        origin = None
    if origin is None:
        raise PlanError(f"There is no module {module!r}, which the function {function!r} should be in.")
    if not os.path.isfile(origin):
        # Built-in modules have no file; the Python version would be part of `versions`.
        return origin
    directory = str(Path(origin).parents[module.count(".")])
    sources = _imported_neighbours(origin, file_signature(origin), directory)
    digests = [(name, _digest_of_source(path, file_signature(path))) for name, path in sources]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def task_key(task: Task, digests: Mapping[Path, str], missing: Sequence[Path], root: Path) -> str:
    """Hash of everything the result of a task depends on.

    Parameters
    ----------
    task
        The task without the inputs that were dropped.
    digests
        Content hash of each input.
    missing
        The inputs that were dropped.
    root
        The data root.
    """
    content = {
        "format": FORMAT,
        "function": task.function,
        "source": source_digest(task.function),
        "arguments": plain_value(task.arguments, root),
        "versions": task.versions,
        "inputs": [(relative_name(path, root), digests[path]) for path in task.inputs],
        "outputs": [relative_name(path, root) for path in task.outputs],
        "missing": [relative_name(path, root) for path in missing],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Records:
    """The records of a root, in `logs/records/`, one file a task, named by its first output.

    Parameters
    ----------
    root
        The data root.
    hashes
        What is known about its files.
    """

    def __init__(self, root: Path, hashes: ContentHashes) -> None:
        self._root = root
        self._hashes = hashes
        self._directory = root / "logs" / "records"

    def path(self, output: Path) -> Path:
        """Where the record of the task is whose first output this is."""
        name = relative_name(output, self._root)
        # The hash keeps files of one name in different directories apart.
        return self._directory / f"{output.name[-150:]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    def all(self) -> Iterator[dict[str, Any]]:
        """Every record that can be read, of this run and all before."""
        for path in sorted(self._directory.glob("*.json")):
            with suppress(ValueError):
                record = _read_record(path)
                if record is not None:
                    yield record

    def read(self, task: Task) -> dict[str, Any] | None:
        """The record of a task, or None if there is none.

        Raises
        ------
        ValueError
            If there is one that can not be read.
        """
        return _read_record(self.path(task.outputs[0]))

    def find(self, task: Task, missing: Sequence[Path] = ()) -> dict[str, Any] | None:
        """The record of a task if it is done: made from the same, and with its outputs as they were recorded.

        Parameters
        ----------
        task
            The task without the inputs that were dropped.
        missing
            These.

        Raises
        ------
        ValueError
            If its record can not be read.
        OSError
            If an input can not be read.
        """
        record = self.read(task)
        if record is None:
            return None
        digests = {path: self._hashes.digest(path) for path in task.inputs}
        if record["key"] != task_key(task, digests, missing, self._root):
            return None
        recorded = record["outputs"]
        try:
            same = all(recorded[relative_name(path, self._root)] == self._hashes.digest(path) for path in task.outputs)
        except (OSError, KeyError, TypeError):
            return None
        return record if same else None

    def write(
        self, task: Task, key: str, digests: Mapping[Path, str], outcome: Mapping[str, Any], seconds: float
    ) -> None:
        """Record that a task is done; to be called when all its outputs are in place. Raises OSError."""
        content = {
            "format": FORMAT,
            "key": key,
            "step": task.step,
            "function": task.function,
            "source": source_digest(task.function),
            "inputs": {relative_name(path, self._root): digests[path] for path in task.inputs},
            "outputs": {relative_name(path, self._root): digests[path] for path in task.outputs},
            "seconds": round(seconds, 3),
            **outcome,
        }
        write_json(self.path(task.outputs[0]), content)

    def remove(self, task: Task) -> None:
        """Forget a task. Raises OSError."""
        self.path(task.outputs[0]).unlink(missing_ok=True)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"the record {path} can not be read ({error.strerror})") from None
    except ValueError:
        raise ValueError(f"the record {path} is damaged") from None
    if not (isinstance(content, dict) and all(isinstance(content.get(name), t) for name, t in RECORD_TYPES.items())):
        raise ValueError(f"the record {path} is damaged")
    return content
