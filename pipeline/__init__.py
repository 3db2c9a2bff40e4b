"""The engine: runs the tasks of a plan, remembers what is done, and knows no astronomy.

A `Task` is one call of one function from files to files; a `Plan` is a list of them for one data root; `run_plan` runs
what is not done yet. The functions are named, not passed, and imported only where they run.
"""

from pipeline.clusters import choose_executor
from pipeline.executors import Executor
from pipeline.housekeeping import DiskFull, RootNotWritable, RunLocked, check_disk_space
from pipeline.plan import Plan, PlanError, Task
from pipeline.runlog import TaskResult
from pipeline.runner import RunResult, pending_tasks, run_plan

__all__ = [
    "DiskFull",
    "Executor",
    "Plan",
    "PlanError",
    "RootNotWritable",
    "RunLocked",
    "RunResult",
    "Task",
    "TaskResult",
    "check_disk_space",
    "choose_executor",
    "pending_tasks",
    "run_plan",
]
