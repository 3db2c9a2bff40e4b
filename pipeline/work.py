"""Running one task where it runs: in this process, a worker process, or one day on another machine.

A `Job` and its `Outcome` are plain data that can be sent between processes.
"""

import ctypes
import gc
import importlib
import inspect
import json
import math
import os
import resource
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from threadpoolctl import threadpool_limits

from errors import InputError
from pipeline.logs import task_log
from pipeline.records import Signature, file_digest, file_signature, plain_fact

ERROR_LENGTH = 300
# A job that took more than this [bytes] is worth the tenth of a second in which its process gives back what is free.
LARGE_MEMORY = 5e8


class TaskError(Exception):
    """A task did not keep what it promised, or its inputs are not what they should be."""


@dataclass(frozen=True)
class Job:
    """A task that is to run now.

    Parameters
    ----------
    number
        Its number in the plan.
    function, arguments, inputs, outputs
        Those of the task, without the inputs that were dropped.
    missing
        The inputs that were dropped.
    known
        Signature and content hash of inputs, as far as they are known.
    log
        The log file.
    memory
        Bytes expected at the peak.
    attempt
        1, or 2 after a worker died; then the log goes on where it ended.
    """

    number: int
    function: str
    arguments: dict[str, Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    missing: tuple[Path, ...]
    known: dict[Path, tuple[Signature, str]]
    log: Path
    memory: float = 0.0
    attempt: int = 1


@dataclass
class Outcome:
    """What became of a job.

    Attributes
    ----------
    number
        Its number in the plan.
    error
        The exception in one line, None if all went well.
    lost
        Whether the process that ran it died.
    seconds, peak_memory
        Time taken [s], and largest resident memory of its process [bytes], 0 where unknown.
    host, process
        Where it ran: name of the machine, and number of the process there; '' and 0 where unknown.
    facts, notes, warnings
        What the function returned.
    hashes
        Signature and content hash of every input and output.
    """

    number: int
    error: str | None = None
    lost: bool = False
    seconds: float = 0.0
    peak_memory: int = 0
    host: str = ""
    process: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    hashes: dict[Path, tuple[Signature, str]] = field(default_factory=dict)


def run_job(job: Job) -> Outcome:
    """Run a job in this process, with all its output in its log file, and one thread of BLAS and OpenMP.

    Whatever is left of older outputs is removed first: what depends on the job must never take them for new ones.

    Parameters
    ----------
    job
        What to run.

    Returns
    -------
    Outcome
        Exceptions and `SystemExit` end up in `error`; `KeyboardInterrupt` is not caught.
    """
    outcome = Outcome(job.number, host=socket.gethostname(), process=os.getpid())
    _reset_peak_memory()
    memory = peak_memory()
    start = time.perf_counter()
    try:
        with task_log(job.log, append=job.attempt > 1) as log:
            try:
                _write_header(log, job)
                _perform(job, outcome)
                log.write(f"done in {time.perf_counter() - start:.2f} s\n")
            except (Exception, SystemExit) as error:
                outcome.error = one_line(error)
                remove_outputs(job)
                log.write(traceback.format_exc())
                log.write(f"failed after {time.perf_counter() - start:.2f} s\n")
    except OSError as error:
        # The log itself, on a full disk for one.
        outcome.error = outcome.error or one_line(error)
    outcome.seconds = time.perf_counter() - start
    outcome.peak_memory = peak_memory()
    if outcome.peak_memory - memory > LARGE_MEMORY:
        _give_memory_back()
    return outcome


def _perform(job: Job, outcome: Outcome) -> None:
    for path in job.outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    before = {path: _signature_of_input(path) for path in job.inputs}
    for path, signature in before.items():
        known = job.known.get(path)
        outcome.hashes[path] = known if known and known[0] == signature else (signature, file_digest(path))
    function = load_function(job.function)
    arguments = dict(job.arguments)
    if _takes_missing(function):
        arguments["missing"] = list(job.missing)
    # Another number of threads rounds sums in another order, and a voxel at a threshold falls on its other side: what
    # comes out must not depend on where and beside what a job runs.
    with threadpool_limits(1):
        returned = function(**arguments)
    absent = [path.name for path in job.outputs if not path.is_file()]
    if absent:
        raise TaskError(f"{job.function} did not write {', '.join(absent)}")
    for path, signature in before.items():
        if _signature_of_input(path) != signature:
            raise TaskError(f"the input {path} changed while it was being used")
    outcome.facts, outcome.notes, outcome.warnings = _split_facts(returned, job.function)
    for path in job.outputs:
        outcome.hashes[path] = (file_signature(path), file_digest(path))


def remove_outputs(job: Job) -> None:
    """Remove what a failed job has written: it may be a part only, or made from the wrong inputs."""
    for path in job.outputs:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def load_function(name: str) -> Callable[..., Any]:
    """Import `module:function`."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def one_line(error: BaseException) -> str:
    """An exception in one line: its class and the first line of what it says."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if not (isinstance(error, InputError | TaskError) and text):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= ERROR_LENGTH else f"{text[: ERROR_LENGTH - 3]}..."


def peak_memory() -> int:
    """Largest resident memory of this process [bytes], since the last job began where the system can tell."""
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


def _reset_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Only Linux has it; elsewhere the peak is that of the process so far.
        return


def _give_memory_back() -> None:
    """Return freed memory to the system: the C library would keep gigabytes of it, and the next job be charged."""
    gc.collect()
    with suppress(OSError, AttributeError):
        # Only that of GNU has it.
        ctypes.CDLL(None).malloc_trim(0)


def _signature_of_input(path: Path) -> Signature:
    try:
        return file_signature(path)
    except OSError as error:
        raise TaskError(f"the input {path} can not be read ({error.strerror})") from None


def _takes_missing(function: Callable[..., Any]) -> bool:
    # Not by **kwargs: those may be handed on to something that does not expect it.
    return "missing" in inspect.signature(function).parameters


def _split_facts(returned: Any, function: str) -> tuple[dict[str, Any], list[str], list[str]]:
    if returned is None:
        return {}, [], []
    if not isinstance(returned, Mapping):
        raise TaskError(f"{function} returned {type(returned).__name__} instead of a dict of facts")
    # The same in every executor, and in the record read back from disk: what JSON makes of it.
    facts = _without_nan(json.loads(json.dumps(dict(returned), default=plain_fact)))
    lists = []
    for name in ("notes", "warnings"):
        value = facts.pop(name, None) or []
        lists.append([str(item) for item in ([value] if isinstance(value, str) else value)])
    return facts, *lists


def _without_nan(value: Any) -> Any:
    """NaN and infinities as None: strict JSON readers refuse them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value


def _write_header(log: TextIO, job: Job) -> None:
    log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, attempt {job.attempt}: {job.function}\n")
    for name, value in job.arguments.items():
        log.write(f"  {name} = {value}\n")
    for path in job.missing:
        log.write(f"WARNING: without {path}, which could not be made\n")
