"""Plans on a real SLURM, started for the tests in a directory of its own; jobs are cancelled in mid-task."""

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import ROOT
from engine_steps import chain_plan, products
from test_engine_processes import ended_afterwards, partial_files, wait_for

from pipeline import run_plan
from pipeline.clusters import cluster_executor

pytest.importorskip("distributed")
pytest.importorskip("dask_jobqueue")

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = "/usr/sbin:/usr/local/sbin"
SECONDS = 60
# One machine with room for four jobs, which it need not have: nothing here takes its share.
SLURM = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=localhost NodeAddr=127.0.0.1 CPUs=8 RealMemory=16000
PartitionName=compute Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
# What the README's settings are made into here; a lost job is told from a slow one after 15 s otherwise.
SMALLER = (("cores: 16 ", "cores: 1 "), ("64GB", "1GB"), ("12:00:00", "00:07:00"))
MORE_SETTINGS = """
    scheduler-options: {dashboard_address: ":0"}
distributed:
  deploy:
    lost-worker-timeout: 2s
"""
SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from engine_steps import chain_plan
from pipeline import run_plan
from pipeline.clusters import cluster_executor
root = Path({root!r})
plan = chain_plan(root, seconds={seconds}, journal=root.parent / "journal")
sys.exit(run_plan(plan, executor=cluster_executor("slurm", 2)).exit_status)
"""


@pytest.fixture(scope="module")
def slurm():
    """The environment in which a SLURM is found that takes jobs."""
    path = f"{os.environ['PATH']}:{SBIN}"
    absent = [name for name in (*DAEMONS, "sbatch", "scancel", "squeue") if shutil.which(name, path=path) is None]
    if absent:
        pytest.skip(f"no SLURM is installed here (packages slurm-wlm and munge): {', '.join(absent)} not found")
    # Short names: that of a socket has 108 characters.
    with tempfile.TemporaryDirectory(prefix="slurm") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        for part in ("munge", "state", "spool", "dask"):
            (directory / part).mkdir()
        (directory / "munge/key").write_bytes(os.urandom(1024))
        (directory / "munge/key").chmod(0o600)
        configuration = SLURM.format(directory=directory, ports=free_ports(2), user=getpass.getuser())
        (directory / "slurm.conf").write_text(configuration)
        settings = readme_text(r"\(\[dask-jobqueue\]\(\S+\)\):", SMALLER).partition("\n\n")[0]
        (directory / "dask/jobqueue.yaml").write_text(settings + MORE_SETTINGS)
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{path}",
            "SLURM_CONF": str(directory / "slurm.conf"),
            "DASK_CONFIG": str(directory / "dask"),
            "OMP_NUM_THREADS": "1",
        }
        files = {"key": "key-file", "socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        options = [f"--{option}={directory}/munge/{file}" for file, option in files.items()]
        log = stack.enter_context(open(directory / "daemons.log", "w"))
        for command in (
            ["munged", "--force", "--foreground", *options],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "localhost"],
        ):
            daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(daemon.wait, 30)
            stack.callback(daemon.terminate)
            if command[0] == "munged":
                wait_for((directory / "munge/socket").exists, 20)

        def is_up() -> bool:
            state = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
            return "idle" in state.stdout

        try:
            wait_for(is_up, SECONDS)
        except AssertionError:
            pytest.skip(f"SLURM does not start here: {(directory / 'daemons.log').read_text()[-1000:]}")
        yield environment
        subprocess.run(["scancel", *jobs(environment)], env=environment, check=False)
        wait_for(lambda: not jobs(environment), 30)


def readme_text(heading: str, changes: Iterable[tuple[str, str]]) -> str:
    """The indented text of the README after a heading, with what is too large for a test made smaller."""
    block = re.search(rf"{heading}\n\n((?:    .*\n|\n)+)", (ROOT / "README.md").read_text())[1]
    text = "\n".join(line[4:] for line in block.splitlines())
    for printed, here in changes:
        assert printed in text
        text = text.replace(printed, here)
    return text


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def jobs(environment: dict[str, str], *options: str) -> list[str]:
    """Numbers of the jobs in the queue."""
    command = ["squeue", "-h", "-o", "%A", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_plan(chain_plan(root), quiet=True).exit_status == 0
    return products(root)


@pytest.mark.parametrize("cancelled", [1, 2], ids=["one job", "all jobs"])
def test_tasks_of_cancelled_jobs_go_to_others(slurm, tmp_path, undisturbed, cancelled):
    """Jobs are asked for, asked for again when they are gone, and cancelled at the end."""
    root, script = tmp_path / "root", tmp_path / "user_script.py"
    paths = [str(ROOT), str(ROOT / "tests")]
    script.write_text(SCRIPT.format(paths=paths, root=str(root), seconds=1.0))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    command = [sys.executable, script]
    with ended_afterwards(subprocess.Popen(command, env=slurm, cwd=tmp_path, **streams)) as process:
        wait_for(lambda: len(partial_files(root)) == 2, SECONDS)
        running = jobs(slurm, "-t", "RUNNING")
        assert len(running) == 2
        subprocess.run(["scancel", *running[:cancelled]], env=slurm, check=True)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert output.count("was lost; run again") == cancelled
    assert products(root) == undisturbed
    wait_for(lambda: not jobs(slurm), 30)


def test_the_readme_s_job_scripts_work(slurm, tmp_path, undisturbed, monkeypatch):
    """Those for a scheduler with workers in a job array, but for sizes and places."""
    changes = (("/data/", f"{tmp_path}/"), ("1-10", "1-2"), ("64G", "1G"), ("16", "1"), ("12:", "00:"))
    text = readme_text("in a job array of your own:", changes)
    array, _, rest = text.partition("\n\n")
    scheduler, sbatch, _ = rest.strip().splitlines()
    (tmp_path / "workers.sh").write_text(array)
    # A free port, and no dashboard: others may run here.
    command = f"exec {scheduler.rstrip('& ')} --port 0 --no-dashboard"
    options = {"shell": True, "env": slurm, "cwd": tmp_path}
    with ended_afterwards(subprocess.Popen(command, start_new_session=True, **options)):
        subprocess.run(sbatch, check=True, **options)
        wait_for((tmp_path / "scheduler.json").exists, SECONDS)
        address = re.search(r"tcp://[^\"]+", (tmp_path / "scheduler.json").read_text())[0]
        result = run_plan(chain_plan(tmp_path / "root"), executor=cluster_executor(address), quiet=True)
        assert result.exit_status == 0, result.table
        assert products(tmp_path / "root") == undisturbed
        subprocess.run(["scancel", *jobs(slurm)], env=slurm, check=True)
        wait_for(lambda: not jobs(slurm), 30)
