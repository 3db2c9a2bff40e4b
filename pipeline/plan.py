"""What a run is to do, as data: tasks with their inputs, outputs and function, in the order of the steps.

A plan is made without running anything and knows nothing of what is done already. It finds which task makes which
input, refuses what can not work (two tasks that write one file, a circle, an output among the user's own files) and
describes itself for a dry run.
"""

import math
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from errors import InputError


class PlanError(InputError):
    """The tasks of a plan contradict one another."""


@dataclass(frozen=True)
class Task:
    """One call of one function, from files to files.

    Parameters
    ----------
    step
        Name of the step, as in `stage1`.
    function
        `module:function`. The module is imported only where the task runs. The function writes every output, whole
        or not at all, and returns None or a dict of JSON-able facts, of which the lists `notes` and `warnings` go to
        the end table.
    arguments
        Keyword arguments of the function: plain data and `Path`s, also in lists and dicts.
    inputs
        Files that are read. Their content is part of what the result depends on.
    outputs
        Files that are written, at least one, all inside the root. The first one names the task and its log.
    versions
        What else the result depends on (package versions, CRDS context, kernels).
    memory
        Bytes expected at the peak; 0 if it hardly matters.
    minimum_inputs
        None: without every input the task does not run. A number: `droppable` inputs that could not be made or do not
        exist are dropped, also from lists of paths in `arguments`, and the task runs if at least this many of them are
        left. A function with a parameter `missing` is given the list of those dropped.
    droppable
        The inputs that may be dropped; by default all of them if `minimum_inputs` is a number.
    """

    step: str
    function: str
    arguments: dict[str, Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    versions: dict[str, str] = field(default_factory=dict)
    memory: float = 0.0
    minimum_inputs: int | None = None
    droppable: tuple[Path, ...] = ()


class Plan:
    """Tasks in the order in which they are preferred, checked, with their dependencies.

    Parameters
    ----------
    root
        The data root. Outputs lie inside it.
    tasks
        Relative paths in them are made absolute, from the current directory.
    steps
        All steps in order; by default those of the tasks in the order in which they appear.
    protected
        Directories nothing is written to; by default the root's `stage0`.

    Attributes
    ----------
    root, tasks, steps
        As given, with absolute paths.
    producers : list of dict of {Path: int}
        For each task, the inputs that another task of the plan makes, and the number of that task.
    dependants : list of list of int
        For each task, the tasks that read its outputs.
    order : list of int
        The tasks so that none comes before those that make its inputs.
    logs : list of Path
        Each task's log file, `logs/<step>/<output name>.log`.

    Raises
    ------
    PlanError
        Two tasks write one file; tasks wait for one another in a circle; an output lies in a protected directory or
        outside the root; an argument is neither plain data nor a path; a field has a wrong value.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        tasks: Iterable[Task],
        steps: Sequence[str] | None = None,
        protected: Sequence[str | os.PathLike] | None = None,
    ) -> None:
        self.root = _absolute(root)
        self.tasks = tuple(_with_absolute_paths(task) for task in tasks)
        self.steps = tuple(dict.fromkeys(task.step for task in self.tasks)) if steps is None else tuple(steps)
        self._identify = _Identities()
        for task in self.tasks:
            self._check_fields(task)
        self._check_places([self.root / "stage0"] if protected is None else [_absolute(path) for path in protected])
        self.producers = self._find_producers()
        self.dependants: list[list[int]] = [[] for _ in self.tasks]
        for number, producers in enumerate(self.producers):
            for producer in dict.fromkeys(producers.values()):
                self.dependants[producer].append(number)
        self.order = self._sort()
        self.logs = self._name_logs()

    def name(self, number: int) -> str:
        """The name of a task in messages: its first output, relative to the root."""
        return relative_name(self.tasks[number].outputs[0], self.root)

    def describe(self) -> str:
        """The plan as text, step by step: what each task reads, calls and writes."""
        lines = [f"plan for {self.root}: {len(self.tasks)} tasks"]
        for step in self.steps:
            tasks = [task for task in self.tasks if task.step == step]
            lines += ["", f"{step}: {len(tasks)} task{'' if len(tasks) == 1 else 's'}"]
            for task in tasks:
                inputs, outputs = (
                    [relative_name(path, self.root) for path in paths] for paths in (task.inputs, task.outputs)
                )
                values = ", ".join(f"{name}={_text(value, self.root)}" for name, value in task.arguments.items())
                lines += [f"  {_listed(inputs)} -> {_listed(outputs)}", f"      {task.function}({values})"]
        return "\n".join(lines)

    def _check_fields(self, task: Task) -> None:
        if not task.outputs:
            raise PlanError(f"A task of step {task.step!r} ({task.function}) has no output.")
        name = relative_name(task.outputs[0], self.root)
        if task.step not in self.steps:
            raise PlanError(f"The task for {name} is of step {task.step!r}, which is not among {list(self.steps)}.")
        if task.function.count(":") != 1:
            raise PlanError(f"The function of the task for {name} is {task.function!r} instead of 'module:function'.")
        try:
            plain_value(task.arguments, self.root)
        except TypeError as error:
            raise PlanError(f"The task for {name} has an argument that can not be recorded: {error}.") from None
        foreign = set(task.droppable) - set(task.inputs)
        if foreign:
            raise PlanError(f"The task for {name} may drop {min(foreign)}, which is not an input of it.")
        if task.minimum_inputs is not None:
            single = set(task.droppable or task.inputs) & {v for v in task.arguments.values() if isinstance(v, Path)}
            if single:
                raise PlanError(f"The task for {name} may drop {min(single)}, which is an argument of its own.")

    def _check_places(self, protected: list[Path]) -> None:
        root = os.path.realpath(self.root)
        for task in self.tasks:
            for path in task.outputs:
                where = os.path.dirname(self._identify(path))
                if any(_is_inside(where, os.path.realpath(place)) for place in protected):
                    raise PlanError(f"Step {task.step!r} would write {path} among the user's own files.")
                # A stage directory may be a link to another disk, so the name as given counts too.
                if not (_is_inside(where, root) or _is_inside(str(path.parent), str(self.root))):
                    raise PlanError(f"Step {task.step!r} would write {path}, which is outside {self.root}.")

    def _find_producers(self) -> list[dict[Path, int]]:
        makers: dict[str, int] = {}
        for number, task in enumerate(self.tasks):
            for path in task.outputs:
                other = makers.setdefault(self._identify(path), number)
                if other != number:
                    steps = sorted({task.step, self.tasks[other].step})
                    raise PlanError(f"Two tasks (of {' and '.join(map(repr, steps))}) would write {path}.")
        return [
            {path: makers[identity] for path in task.inputs if (identity := self._identify(path)) in makers}
            for task in self.tasks
        ]

    def _sort(self) -> list[int]:
        waiting = [len(set(producers.values())) for producers in self.producers]
        order = [number for number, count in enumerate(waiting) if count == 0]
        for number in order:
            for dependant in self.dependants[number]:
                waiting[dependant] -= 1
                if waiting[dependant] == 0:
                    order.append(dependant)
        if len(order) < len(self.tasks):
            stuck = self.name(next(number for number, count in enumerate(waiting) if count > 0))
            raise PlanError(f"The task for {stuck} waits for its own output, directly or through other tasks.")
        return order

    def _name_logs(self) -> list[Path]:
        """Name each log by the output, with as many parent directories before it as it takes to be unique."""
        parts = [relative_name(task.outputs[0], self.root).split("/") for task in self.tasks]
        names = [""] * len(self.tasks)
        numbers_left, depth = list(range(len(self.tasks))), 1
        while numbers_left:
            for number in numbers_left:
                names[number] = "__".join(parts[number][-depth:])
            counts = Counter((self.tasks[number].step, names[number]) for number in range(len(self.tasks)))
            numbers_left = [
                number
                for number in numbers_left
                if counts[self.tasks[number].step, names[number]] > 1 and depth < len(parts[number])
            ]
            depth += 1
        # File names hold 255 bytes on common file systems; the end of a name is what tells outputs apart.
        return [
            self.root / "logs" / task.step / f"{name[-200:]}.log" for task, name in zip(self.tasks, names, strict=True)
        ]


def without_inputs(task: Task, missing: Sequence[Path]) -> Task:
    """The task without some of its inputs, which are taken out of the lists of paths in its arguments too."""
    gone = set(missing)

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(kept(item) for item in value if not (isinstance(item, Path) and item in gone))
        return value

    return replace(task, arguments=kept(task.arguments), inputs=tuple(path for path in task.inputs if path not in gone))


def relative_name(path: str | os.PathLike, root: str | os.PathLike) -> str:
    """`path` relative to `root` with forward slashes if it lies inside, else as it is."""
    path, root = os.fspath(path), os.fspath(root)
    return path[len(root) :].lstrip(os.sep).replace(os.sep, "/") if _is_inside(path, root) else path


def plain_value(value: Any, root: str | os.PathLike) -> Any:
    """`value` as JSON data in which paths are relative to `root`, so that it stays the same where a root is moved.

    Parameters
    ----------
    value
        Plain data, NumPy scalars and arrays, paths, and lists, tuples, sets and dicts of these.
    root
        The data root.

    Raises
    ------
    TypeError
        For anything else; the message says what.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, os.PathLike):
        return {"path": relative_name(value, root)}
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, dict):
        return {str(name): plain_value(item, root) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, root) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain_value(item, root) for item in value), key=str)
    if hasattr(value, "tolist"):
        return plain_value(value.tolist(), root)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


class _Identities:
    """One name for each file, however its directory is reached (links are resolved, once per directory)."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}

    def __call__(self, path: Path) -> str:
        directory, name = os.path.split(os.fspath(path))
        if directory not in self._directories:
            self._directories[directory] = os.path.realpath(directory)
        return os.path.join(self._directories[directory], name)


def _absolute(path: str | os.PathLike) -> Path:
    return Path(os.path.abspath(path))


def _is_inside(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def _with_absolute_paths(task: Task) -> Task:
    def absolute(value: Any) -> Any:
        if isinstance(value, Path):
            return _absolute(value)
        if isinstance(value, dict):
            return {name: absolute(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(absolute(item) for item in value)
        return value

    return replace(
        task,
        arguments=absolute(task.arguments),
        inputs=absolute(tuple(map(Path, task.inputs))),
        outputs=absolute(tuple(map(Path, task.outputs))),
        droppable=absolute(tuple(map(Path, task.droppable))),
    )


def _text(value: Any, root: Path) -> str:
    if isinstance(value, Path):
        return relative_name(value, root)
    if isinstance(value, list | tuple) and any(isinstance(item, Path) for item in value):
        return f"[{_listed([_text(item, root) for item in value])}]"
    return repr(value)


def _listed(names: Sequence[str], most: int = 4) -> str:
    if len(names) <= most:
        return ", ".join(names) or "(nothing)"
    return f"{', '.join(names[: most - 1])} ... {names[-1]} ({len(names)} files)"
