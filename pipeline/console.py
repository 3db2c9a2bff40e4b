"""What the user sees: one progress bar a step, and a table at the end."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.plan import relative_name
from pipeline.runlog import DONE, FAILED, INTERRUPTED, NOT_RUN, SKIPPED, WAITING, TaskResult

COLUMNS = {DONE: "done", SKIPPED: "as before", FAILED: "failed", NOT_RUN: "not run"}
STOPPED_COLUMNS = {INTERRUPTED: "interrupted", WAITING: "waiting"}
MAXIMUM_NOTES = 3
MAXIMUM_NAMES = 3


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
        self._bars: dict[str, Any] = {}

    def started(self, step: str) -> None:
        """A task of a step begins; the step's bar appears with the first."""
        if self._quiet or not self._terminal or step in self._bars:
            return
        from tqdm import tqdm

        self._bars[step] = tqdm(
            desc=step,
            total=self._totals[step],
            initial=self._counts[step].total(),
            position=len(self._bars),
            unit="task",
            file=sys.stderr,
            dynamic_ncols=True,
            # With a fixed number tqdm's own thread leaves the bar alone while stderr belongs to a task.
            miniters=1,
        )

    def ended(self, result: TaskResult) -> None:
        """A task has come to its end, whatever that is."""
        counts = self._counts[result.step]
        counts[result.status] += 1
        if result.status != SKIPPED:
            self._seconds[result.step] += result.seconds
        if self._quiet:
            return
        bar = self._bars.get(result.step)
        if bar is not None:
            bad = counts[FAILED] + counts[NOT_RUN]
            if bad:
                bar.set_postfix_str(f"{bad} not made", refresh=False)
            bar.update()
            if counts.total() == self._totals[result.step]:
                bar.refresh()
                # The clock of a step stops with its last task, though the bar stays until the end of the run.
                bar.bar_format = str(bar).replace("{", "{{").replace("}", "}}")
        if self._verbose and result.status != SKIPPED:
            reason = f": {result.error}" if result.error else f" in {result.seconds:.1f} s"
            self._say(f"{result.step}: {result.name} {result.status}{reason}")
        ran = counts[DONE] + counts[FAILED]
        if not self._terminal and ran and counts.total() == self._totals[result.step]:
            self._say(f"{result.step}: {_counted(counts)}, {self._seconds[result.step]:.1f} s")

    def refresh(self) -> None:
        """Let the clocks of the bars go on."""
        for step, bar in self._bars.items():
            if self._counts[step].total() < self._totals[step]:
                bar.refresh()

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
