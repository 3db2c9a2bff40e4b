"""What the user sees: one progress bar a step, and a table at the end."""

import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.plan import relative_name
from pipeline.runlog import DONE, FAILED, INTERRUPTED, NOT_RUN, SKIPPED, WAITING, TaskResult

COLUMNS = {DONE: "done", SKIPPED: "as before", FAILED: "failed", NOT_RUN: "not run"}
STOPPED_COLUMNS = {INTERRUPTED: "interrupted", WAITING: "waiting"}
MAXIMUM_NOTES = 3
MAXIMUM_NAMES = 3
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class Progress:
    """Progress bars on a terminal; elsewhere one line a step when its last task has ended.

    Parameters
    ----------
    totals
        Number of tasks of each step, in order.
    quiet
        Show nothing.
    verbose
        Show a line for each task too.
    """

    def __init__(self, totals: dict[str, int], quiet: bool = False, verbose: bool = False) -> None:
        self._totals = totals
        self._quiet = quiet
        self._verbose = verbose
        self._terminal = sys.stderr.isatty()
        self._counts: dict[str, Counter] = {step: Counter() for step in totals}
        self._seconds: dict[str, float] = defaultdict(float)
        self._clocks = {step: StepClock() for step in totals}
        self._bars: dict[str, Any] = {}

    def started(self, result: TaskResult) -> None:
        """A task begins; its step's bar appears with the first."""
        self._clocks[result.step].start(result.name)
        step = result.step
        if self._quiet or not self._terminal or step in self._bars:
            return
        from tqdm import tqdm

        self._bars[step] = tqdm(
            desc=step,
            total=self._totals[step],
            initial=self._counts[step].total(),
            position=len(self._bars),
            bar_format=BAR,
            file=sys.stderr,
            dynamic_ncols=True,
            # With a fixed number tqdm's own thread leaves the bar alone while stderr belongs to a task.
            miniters=1,
        )

    def ended(self, result: TaskResult) -> None:
        """A task has come to its end, whatever that is."""
        counts = self._counts[result.step]
        counts[result.status] += 1
        self._clocks[result.step].end(result.name)
        if result.status != SKIPPED:
            self._seconds[result.step] += result.seconds
        if self._quiet:
            return
        bar = self._bars.get(result.step)
        if bar is not None:
            bar.set_postfix_str(self._describe(result.step), refresh=False)
            bar.update()
        if self._verbose and result.status != SKIPPED:
            reason = f": {result.error}" if result.error else f" in {result.seconds:.1f} s"
            self._say(f"{result.step}: {result.name} {result.status}{reason}")
        ran = counts[DONE] + counts[FAILED]
        if not self._terminal and ran and counts.total() == self._totals[result.step]:
            self._say(f"{result.step}: {_counted(counts)}, {self._seconds[result.step]:.1f} s")

    def _describe(self, step: str) -> str:
        """How long a task of a step takes, how long those that are left will, and what went wrong."""
        counts, clock = self._counts[step], self._clocks[step]
        ran = counts[DONE] + counts[FAILED]
        left = clock.time_left(self._totals[step] - counts.total())
        texts = [f"{self._seconds[step] / ran:.1f} s each"] if ran else []
        texts.append(f"{format_duration(clock.busy())}" if left == 0 else f"{format_duration(left)} left")
        bad = counts[FAILED] + counts[NOT_RUN]
        return ", ".join([*texts, f"{bad} not made"] if bad else texts)

    def refresh(self) -> None:
        """Let the bars say how long is left now."""
        for step, bar in self._bars.items():
            if self._counts[step].total() < self._totals[step]:
                bar.set_postfix_str(self._describe(step), refresh=True)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _say(self, line: str) -> None:
        if self._bars:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class StepClock:
    """The time in which tasks of one step were running, and what it tells about those that are left.

    The tasks of several steps take turns. So what counts is the time in which there was work on this step: waiting for
    another one makes its tasks no slower.

    Parameters
    ----------
    now
        The clock [s].
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._running: set[str] = set()
        self._busy = 0.0
        self._since = 0.0
        self._ended = 0

    def start(self, name: str) -> None:
        """A task begins, or begins again."""
        if not self._running:
            self._since = self._now()
        self._running.add(name)

    def end(self, name: str) -> None:
        """A task has ended; one that never began (done before, or not run) tells nothing."""
        if name not in self._running:
            return
        self._ended += 1
        self._running.remove(name)
        if not self._running:
            self._busy += self._now() - self._since

    def busy(self) -> float:
        """Time in which at least one task was running [s]."""
        return self._busy + (self._now() - self._since if self._running else 0.0)

    def time_left(self, tasks: int) -> float:
        """Time that so many more tasks need at the pace so far [s]; those running are among them. NaN: not known."""
        if tasks == 0:
            return 0.0
        return self.busy() / self._ended * tasks if self._ended else math.nan


def format_duration(seconds: float) -> str:
    """'48 s', '3:20 min', '2:05 h', and '?' for NaN."""
    if math.isnan(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60) if whole < 3600 else divmod(round(whole / 60), 60)
    return f"{minutes}:{rest:02d} {'min' if whole < 3600 else 'h'}"


def format_table(
    results: Sequence[TaskResult],
    steps: Iterable[str],
    root: Path,
    messages: Sequence[str] = (),
    *,
    brief: bool = False,
) -> str:
    """The end of a run as text: counts and time of each step, what failed and why, what did not run, warnings, notes.

    Parameters
    ----------
    results
        One for each task.
    steps
        In order.
    root
        The data root, to shorten paths.
    messages
        Warnings about the run as a whole.
    brief
        Only what went wrong and warnings; an empty text if all is well.
    """
    blocks = [] if brief else [_format_counts(results, steps)]
    failed = [
        f"  {result.step}  {result.name}: {result.error}  (log: {relative_name(result.log, root)})"
        for result in results
        if result.status == FAILED
    ]
    if failed:
        blocks.append(["failed:", *failed])
    not_run = grouped((result.step, result.error, result.name) for result in results if result.status == NOT_RUN)
    if not_run:
        blocks.append(["not run:", *not_run])
    warnings = grouped((result.step, text, result.name) for result in results for text in result.warnings)
    if warnings or messages:
        blocks.append(["warnings:", *(f"  {message}" for message in messages), *warnings])
    notes = [(r.step, text, r.name) for r in results if r.status != SKIPPED for text in r.notes]
    if notes and not brief:
        blocks.append(["notes:", *_grouped_notes(notes)])
    return "\n".join("\n".join(block) for block in blocks)


def _format_counts(results: Sequence[TaskResult], steps: Iterable[str]) -> list[str]:
    present = {result.status for result in results}
    columns = COLUMNS | {status: name for status, name in STOPPED_COLUMNS.items() if status in present}
    rows = [["step", *columns.values(), "time"]]
    for step in steps:
        own = [result for result in results if result.step == step]
        if own:
            counts = Counter(result.status for result in own)
            seconds = sum(result.seconds for result in own if result.status != SKIPPED)
            rows.append([step, *(str(counts[status]) for status in columns), f"{seconds:.1f} s"])
    return format_rows(rows) if len(rows) > 1 else ["nothing to do"]


def format_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[text.rjust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join([row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]


def grouped(items: Iterable[tuple[str, str | None, str]]) -> list[str]:
    """One line for each step and text of (step, text, name), with the names it holds for."""
    names: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for step, text, name in items:
        names[step, text].append(name)
    lines = []
    for (step, text), own in names.items():
        more = f" and {len(own) - MAXIMUM_NAMES} more" if len(own) > MAXIMUM_NAMES else ""
        lines.append(f"  {step}  {', '.join(own[:MAXIMUM_NAMES])}{more}: {text}")
    return lines


def _grouped_notes(notes: Sequence[tuple[str, str, str]]) -> list[str]:
    """The first few notes of each step; all of them are in the run's log."""
    lines = []
    for step in dict.fromkeys(step for step, *_ in notes):
        own = grouped(note for note in notes if note[0] == step)
        lines += own[:MAXIMUM_NOTES]
        if len(own) > MAXIMUM_NOTES:
            lines.append(f"  {step}  and {len(own) - MAXIMUM_NOTES} more like these in logs/run.json")
    return lines


def _counted(counts: Counter) -> str:
    return ", ".join(f"{counts[status]} {name}" for status, name in COLUMNS.items() if counts[status])
