"""The project's own house: metadata names every module, commands start fast, the rooms stay apart."""

import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

HEAVY = ("jwst", "crds", "matplotlib", "planetmapper", "stdatamodels")
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))


def test_the_package_metadata_name_every_module():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tools = metadata["tool"]["setuptools"]
    assert sorted(tools["py-modules"]) == MODULES
    for package in tools["packages"]:
        others = {path for path in (ROOT / package).iterdir() if path.is_file() and path.suffix != ".py"}
        named = {path for glob in tools["package-data"].get(package, []) for path in (ROOT / package).glob(glob)}
        assert others == named


@pytest.mark.parametrize(
    "arguments",
    [
        ["miri_pipeline.py"],
        ["nirspec_pipeline.py"],
        ["navigate.py"],
        ["despike.py"],
        ["report.py"],
        ["summary_animation.py"],
        ["-m", "simulate", "miri"],
        ["-m", "pipeline"],
        ["-m", "simulate", "nirspec"],
    ],
)
def test_help_loads_nothing_heavy(arguments):
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "usage" in result.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
    assert not loaded.intersection(HEAVY)


def test_steps_import_nothing_of_the_engine_and_the_engine_no_step():
    planning = {
        "correction_plans",
        "instrument_pipeline",
        "miri_pipeline",
        "nirspec_pipeline",
        "pipeline_command",
        "preflight",
        "product_sizes",
        "reduction",
        "stage_plans",
    }
    for name in set(MODULES) - planning:
        assert not re.search(r"^\s*(from|import) pipeline\b", (ROOT / f"{name}.py").read_text(), re.MULTILINE), name
    for path in (ROOT / "pipeline").glob("*.py"):
        imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
        allowed = {"errors", "files"}
        if path.name == "__main__.py":
            # The command compares cubes too, though the engine knows none.
            allowed |= {"command_line", "cube_comparison"}
        assert not imported.intersection(set(MODULES) - allowed), path.name
