"""Folders may be called anything: what is made in them is the same, and nothing is written anywhere else."""

import html
import json
import re
import shutil
from urllib.parse import unquote

from astropy.io import fits
from conftest import run
from test_end_to_end import assert_same_data

# A dash as of a flag, blanks, accents, quotes, and what stands for something in URLs, patterns and shells.
ODD = '-Zoë\'s "100%" [a]*{x}; & $ELSEWHERE'
# The paths of reference files must not hold these: `asdf` takes them for URLs.
ODD_IN_URLS = "#1? 50%25"
# Of the ramp fit nothing but itself, for speed.
NOT_RUN = ("emicorr", "refpix", "rscd", "firstframe", "lastframe", "linearity", "dark_current", "reset", "jump")


def test_odd_names_of_folders_change_nothing(observation, tmp_path):
    root = tmp_path / ODD / f"{ODD} {ODD_IN_URLS}"
    for place in ("stage0/*_00001_*", "stage3/d1/*_s3d.fits"):
        for path in observation.root.glob(place):
            copy = root / path.relative_to(observation.root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    fits.setval(next((root / "stage0").iterdir()), "FILENAME", value="../../../$ELSEWHERE_uncal.fits")
    (tmp_path / "-a link").symlink_to(root)
    environment = observation.environment | {"ELSEWHERE": "elsewhere"}
    for variable, name in (("CRDS_PATH", "crds"), ("PLANETMAPPER_KERNEL_PATH", "kernels")):
        copy = tmp_path / ODD / f"{ODD} {name}"
        shutil.copytree(observation.environment[variable], copy)
        environment[variable] = str(copy)
    before = everything_below(tmp_path, root)

    def reduce_part(*flags):
        options = {"environment": environment, "cwd": tmp_path}
        result = run("miri_pipeline.py", "./-a link", "--no_defringe_1d", *flags, **options)
        assert result.returncode == 0, result.stdout + result.stderr

    kwargs = {"stage1": {name: {"skip": True} for name in NOT_RUN}}
    reduce_part("--end_step", "stage1", "--step_kwargs", json.dumps(kwargs))
    assert len(list((root / "stage1").glob("jw*_rate.fits"))) == 1
    reduce_part("--start_step", "navigate", "--skip_steps", "animate")
    cubes = sorted((root / "stage5_despike" / "d1").iterdir())
    assert len(cubes) == 2
    for path in (*cubes, *(root / "stage3" / "d1").glob("*_nav.fits")):
        assert_same_data(path, observation.root / path.relative_to(root))
    page = (root / "report" / "index.html").read_text()
    linked = [unquote(html.unescape(path)) for path in re.findall(r'(?:href|data-plot)="([^"#]+)"', page)]
    assert sum(path.endswith(".png") for path in linked) >= 2
    assert all((root / "report" / path).is_file() for path in linked if not path.startswith("data:"))
    again = run("-m", "pipeline", "status", "./-a link", environment=environment, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    # The log of CRDS' own cache may change; its files do not.
    assert everything_below(tmp_path, root) == before


def everything_below(place, but):
    """Names of what lies below a folder, but for another one below it."""
    return {path for path in place.rglob("*") if but not in (path, *path.parents)}
