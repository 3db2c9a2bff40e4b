"""Progress: what is left is told from the time in which there was work, however the tasks of steps take turns."""

import math
import sys
from pathlib import Path

import pytest

from pipeline.console import Progress, StepClock, format_duration
from pipeline.runlog import DONE, FAILED, SKIPPED, TaskResult


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_that_of_the_tasks_left_at_the_pace_so_far():
    clock = Clock()
    step = StepClock(clock)
    assert math.isnan(step.time_left(4)) and step.time_left(0) == 0
    for name in ("a", "b"):
        step.start(name)
        clock.now += 10
        step.end(name)
    assert step.busy() == 20
    assert step.time_left(4) == 40


def test_waiting_for_another_step_does_not_count():
    """Two steps in turns on one worker, 10 s and 1 s a task: each is told as if it had the worker alone."""
    clock = Clock()
    steps = {"slow": StepClock(clock), "quick": StepClock(clock)}
    for number in range(5):
        for name, seconds in (("slow", 10), ("quick", 1)):
            steps[name].start(str(number))
            clock.now += seconds
            steps[name].end(str(number))
    assert steps["slow"].time_left(3) == pytest.approx(30)
    assert steps["quick"].time_left(3) == pytest.approx(3)


def test_tasks_side_by_side_go_as_fast_as_they_end():
    clock = Clock()
    step = StepClock(clock)
    for number in range(0, 8, 2):
        step.start(str(number))
        step.start(str(number + 1))
        clock.now += 10
        step.end(str(number))
        step.end(str(number + 1))
    assert step.time_left(4) == pytest.approx(20)


def test_tasks_that_never_ran_tell_nothing_and_those_begun_again_count_once():
    clock = Clock()
    step = StepClock(clock)
    for number in range(100):
        step.end(f"done before {number}")
    assert math.isnan(step.time_left(1))
    step.start("a")
    clock.now += 5
    step.start("a")
    clock.now += 5
    step.end("a")
    assert step.time_left(2) == pytest.approx(20)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (47.6, "48 s"),
        (59.7, "1:00 min"),
        (200, "3:20 min"),
        (3599, "59:59 min"),
        (7500, "2:05 h"),
        (math.nan, "?"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert format_duration(seconds) == text


def result(step: str, number: int, status: str = DONE, seconds: float = 2.0) -> TaskResult:
    return TaskResult(step, f"{step} {number}", (), Path(), status, seconds=seconds)


def test_bars_say_counts_pace_and_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    progress = Progress({"stage1": 4, "stage2": 4})
    for step in ("stage1", "stage2"):
        progress._clocks[step] = StepClock(clock)
    progress.ended(result("stage1", 0, SKIPPED))
    for number in (1, 2):
        for step, seconds in (("stage1", 100.0), ("stage2", 3.0)):
            status = FAILED if (step, number) == ("stage2", 2) else DONE
            progress.started(result(step, number))
            clock.now += seconds
            progress.ended(result(step, number, status, seconds))
    progress.refresh()
    lines = capsys.readouterr().err.replace("\r", "\n").split("\n")
    progress.close()
    assert any("stage1:  75%" in line and "3/4, 100.0 s each, 1:40 min left" in line for line in lines)
    assert any("2/4, 3.0 s each, 6 s left, 1 not made" in line for line in lines)
