"""What the tests share: a simulated observation of Saturn, made and reduced once, and ways to run the commands."""

import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings
from threadpoolctl import threadpool_limits

# The same examples in every run: a failure is then one of the change at hand.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# A shell starts what runs in the background with Ctrl-C ignored, and that is inherited; some tests send it to others.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
# The smallest observation by which stages 1 to 3 can be judged.
NIRSPEC_FLAGS = ["--grating", "g395m", "--dithers", "2", "--groups", "3"]
NIRSPEC_BAND = "g395m-f290lp"
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Threads of BLAS that wait for one another on a busy machine cost more than small matrices gain by them.
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def _usual_ctrl_c():
    # Libraries that some tests import (dask-jobqueue) take it for themselves.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Observation:
    """A data root with its environment (CRDS cache, kernels) and what the command that reduced it said."""

    root: Path
    environment: dict[str, str]
    output: str = ""
    status: int = 0
    instrument: str = "miri"

    @property
    def script(self) -> str:
        """The pipeline that reduces it."""
        return f"{self.instrument}_pipeline.py"

    def copy(self, destination: Path) -> "Observation":
        """The same root somewhere else; reference files and kernels stay where they are."""
        ignore = shutil.ignore_patterns("crds", "kernels", "truth")
        shutil.copytree(self.root, destination, ignore=ignore)
        return Observation(destination, self.environment, instrument=self.instrument)


def run(*arguments, environment=None, **options) -> subprocess.CompletedProcess:
    """Run a command of the project as a user would, from another directory."""
    command = [sys.executable, *map(str, arguments)]
    if command[1] != "-m":
        command[1] = str(ROOT / command[1])
    python_path = {"PYTHONPATH": str(ROOT)} if command[1] == "-m" else {}
    return subprocess.run(
        command,
        env={**os.environ, **(environment or {}), **python_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        **options,
    )


def read_environment(script: Path) -> dict[str, str]:
    """The variables that an `environment.sh` exports."""
    exports = re.findall(r"^export (\w+)=(.*)$", script.read_text(), re.MULTILINE)
    return {name: shlex.split(value)[0] for name, value in exports}


def simulate(root: Path, *flags, instrument: str = "miri") -> Observation:
    """Simulate an observation in `root`."""
    made = run("-m", "simulate", instrument, root, *flags)
    assert made.returncode == 0, made.stdout + made.stderr
    return Observation(root, read_environment(root / "environment.sh"), instrument=instrument)


def reduce(observation: Observation, *flags) -> Observation:
    """Run its instrument's pipeline on it."""
    result = run(observation.script, observation.root, *flags, environment=observation.environment)
    return replace(observation, output=result.stdout + result.stderr, status=result.returncode)


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--observation",
        type=Path,
        help="root of a default simulated observation to use, and reduce in place, instead of making one",
    )
    parser.addoption("--nirspec_observation", type=Path, help="the same for `nirspec_observation`")
    parser.addoption("--long", action="store_true", help="also the tests that take minutes")


def made_once(tmp_path_factory, worker_id: str, name: str, make: Callable[[Path], Observation]) -> Observation:
    """What `make` makes in a directory, once for all the processes that run the tests."""
    place = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        place = place.parent
    record = place / f"{name}.pickle"
    with FileLock(f"{record}.lock"):
        if not record.exists():
            record.write_bytes(pickle.dumps(make(place / name)))
    return pickle.loads(record.read_bytes())


@pytest.fixture(scope="session")
def raw_observation(tmp_path_factory, worker_id, request) -> Observation:
    """The default observation: Saturn near its northern limb, four dithers of bands 1A and 2A, not yet reduced."""
    given = request.config.getoption("--observation")
    if given:
        return Observation(given, read_environment(given / "environment.sh"))
    return made_once(tmp_path_factory, worker_id, "saturn", simulate)


@pytest.fixture(scope="session")
def observation(raw_observation, tmp_path_factory, worker_id) -> Observation:
    """The default observation, reduced from ramps to plots. Tests must not change it: `copy` it."""
    return made_once(tmp_path_factory, worker_id, "saturn_reduced", lambda _: reduce(raw_observation, "--parallel"))


@pytest.fixture(scope="session")
def raw_nirspec_observation(tmp_path_factory, worker_id, request) -> Observation:
    """Neptune inside the field of the NIRSpec IFU, two short dithers with one grating, not yet reduced."""
    given = request.config.getoption("--nirspec_observation")
    if given:
        return Observation(given, read_environment(given / "environment.sh"), instrument="nirspec")

    def make(root: Path) -> Observation:
        return simulate(root, *NIRSPEC_FLAGS, instrument="nirspec")

    return made_once(tmp_path_factory, worker_id, "neptune_nirspec", make)


@pytest.fixture(scope="session")
def nirspec_observation(raw_nirspec_observation, tmp_path_factory, worker_id) -> Observation:
    """The same, reduced from ramps to plots. Tests must not change it: `copy` it."""

    def make(_: Path) -> Observation:
        return reduce(raw_nirspec_observation, "--parallel")

    return made_once(tmp_path_factory, worker_id, "neptune_nirspec_reduced", make)
