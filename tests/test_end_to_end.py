"""The main job, by the command line and with the real `jwst`: raw ramps to navigated cubes and plots."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from astropy.io import fits
from conftest import NIRSPEC_BAND, ROOT, reduce
from PIL import Image

BANDS = ("ch1-short", "ch2-short")
PLACES = ("d1", "d2", "d3", "d4", "combined")


def cube_path(root, place, band, suffix="_nav"):
    return root / "stage3" / place / f"Level3_{band}_s3d{suffix}.fits"


def assert_same_data(path, reference):
    """Every number of two files is the same; headers differ by dates only."""
    with fits.open(path) as a, fits.open(reference) as b:
        assert [hdu.name for hdu in a] == [hdu.name for hdu in b]
        for one, other in zip(a, b, strict=True):
            if one.name not in ("PRIMARY", "ASDF", "HDRTAB"):
                np.testing.assert_array_equal(one.data, other.data, err_msg=one.name)


@dataclass(frozen=True)
class Expected:
    """What the pipeline of an instrument makes of the shared observation.

    Attributes
    ----------
    fixture
        Of the reduced observation.
    bands
        Name of each cube and prefix of its pictures.
    label
        What the report calls the first of them.
    places, variants
        Directories of the cubes, and what is added to them.
    one_variant
        Flags with which nothing is added.
    last
        Stage of the cubes to use.
    """

    fixture: str
    bands: dict[str, str]
    label: str
    places: tuple[str, ...]
    variants: tuple[str, ...]
    one_variant: tuple[str, ...]
    last: str


EXPECTED = {
    "miri": Expected(
        "observation",
        {"ch1-short": "1A_", "ch2-short": "2A_"},
        "1A",
        PLACES,
        ("", "_fringe1d"),
        ("--no_defringe_1d",),
        "stage5_despike",
    ),
    "nirspec": Expected(
        "nirspec_observation",
        {NIRSPEC_BAND: ""},
        "G395M/F290LP",
        ("d1", "d2", "combined"),
        ("",),
        (),
        "stage4_despike",
    ),
}


@pytest.fixture(params=EXPECTED)
def made(request):
    """The shared observation of each instrument, reduced, and what is expected of it."""
    expected = EXPECTED[request.param]
    return request.getfixturevalue(expected.fixture), expected


def test_all_products_are_made(made):
    observation, expected = made
    assert observation.status == 0, observation.output
    for band, prefix in expected.bands.items():
        for place in expected.places:
            assert cube_path(observation.root, place, band).is_file()
            for variant in expected.variants:
                path = observation.root / expected.last / f"{place}{variant}" / f"Level3_{band}_s3d_nav.fits"
                assert path.is_file()
            picture = observation.root / "plots" / expected.last / place / f"{prefix}Level3_{band}_s3d_nav.png"
            with Image.open(picture) as image:
                assert image.width == 1500 and image.height > 900
        for variant in expected.variants:
            name = f"dither_comparison{variant}/{prefix}Level3_{band}_s3d_nav.mp4"
            assert (observation.root / "animation" / expected.last / name).stat().st_size > 50_000
    log = json.loads((observation.root / "logs" / "run.json").read_text())
    assert {task["status"] for task in log["tasks"]} <= {"done", "skipped"}
    assert log["versions"]["jwst"]
    assert not list(observation.root.rglob(".partial-*"))
    page = (observation.root / "report" / "index.html").read_text()
    band = expected.label
    labels = [
        f"{band} {place}{variant.replace('_', ' ')}" for place in expected.places for variant in expected.variants
    ]
    assert "finished" in page and all(f'data-label="{label}"' in page for label in labels)


def test_a_second_run_redoes_nothing(made):
    observation, _ = made
    before = {path: path.stat().st_mtime_ns for path in observation.root.glob("stage?/**/*.fits")}
    start = time.perf_counter()
    again = reduce(observation, "--parallel")
    assert time.perf_counter() - start < 10
    assert again.status == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in observation.root.glob("stage?/**/*.fits")} == before


def test_cubes_to_use_say_what_was_done_and_open_in_jwst(made):
    from stdatamodels.jwst import datamodels

    observation, expected = made
    path = observation.root / expected.last / "d1" / f"Level3_{next(iter(expected.bands))}_s3d_nav.fits"
    with fits.open(path) as hdul:
        assert tuple(hdul[0].header[f"REDUCT{number}"] for number in (1, 2)) == ("Navigated", "Despiked")
        spikes = hdul["SPIKES"].data > 0
        assert np.isnan(hdul["SCI"].data[spikes]).all()
        # Cosmic rays are few, whatever is left of them after the ramp fit.
        assert 0 < spikes.mean() < 0.005
        assert "LAT_GRAPHIC" in hdul
    for name in (path, cube_path(observation.root, "d1", next(iter(expected.bands)))):
        with datamodels.open(name) as model:
            assert isinstance(model, datamodels.IFUCubeModel)
            assert model.data.ndim == 3
            assert model.meta.wcs is not None


def test_raw_files_are_not_changed(made):
    # The fixture that reduces works on the very files that were simulated; none is newer than what was made of them.
    observation, _ = made
    raw = list((observation.root / "stage0").iterdir())
    assert max(path.stat().st_mtime for path in raw) <= min(
        path.stat().st_mtime for path in observation.root.glob("stage1/*_rate.fits")
    )
    assert all(path.name.endswith("_uncal.fits") for path in raw)


def test_defringed_cubes_say_so(observation):
    path = observation.root / "stage5_despike" / "d1_fringe1d" / "Level3_ch1-short_s3d_nav.fits"
    with fits.open(path) as hdul:
        notes = [hdul[0].header[f"REDUCT{number}"] for number in (1, 2, 3)]
        assert notes == ["Defringed (1-D)", "Navigated", "Despiked"]
        assert "FRINGE1D_CORRECTED" in hdul


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.01)


def start(observation, *flags):
    return subprocess.Popen(
        [sys.executable, str(ROOT / observation.script), str(observation.root), *flags],
        env={**os.environ, **observation.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def stop(process, how):
    """Ctrl-C goes to the whole foreground group of a terminal, and so does a dying machine's end."""
    os.killpg(process.pid, how)
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_run_stopped_in_stage_1_goes_on_to_the_same_products(observation, tmp_path, how):
    data = observation.copy(tmp_path / "data")
    # One dither is enough: what was made of it is removed, the rest of the work is done.
    (rate,) = (data.root / "stage1").glob("*_00001_*_rate.fits")
    rate.unlink()
    flags = ["--end_step", "stage1"]
    process = start(data, *flags)
    wait_for(lambda: any((data.root / "stage1").glob(".partial-*")), process)
    time.sleep(1)
    status = stop(process, how)
    assert status == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert not rate.exists()
    finished = reduce(data, *flags)
    assert finished.status == 0, finished.output
    assert_same_data(rate, observation.root / "stage1" / rate.name)
    assert not list(data.root.rglob(".partial-*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_run_stopped_while_navigating_goes_on_to_the_same_products(made, tmp_path, how):
    observation, expected = made
    data = observation.copy(tmp_path / "data")
    cubes = [cube_path(data.root, place, band) for place in expected.places for band in expected.bands]
    for cube in cubes:
        cube.unlink()
    flags = ["--start_step", "navigate", "--end_step", "navigate", *expected.one_variant]
    process = start(data, *flags)
    wait_for(lambda: any(data.root.glob("stage3/*/.partial-*")) or cubes[1].exists(), process)
    stop(process, how)
    for cube in cubes:
        if cube.exists():
            with fits.open(cube) as hdul:
                assert "LAT_GRAPHIC" in hdul
    finished = reduce(data, *flags)
    assert finished.status == 0, finished.output
    for cube in cubes:
        assert_same_data(cube, observation.root / cube.relative_to(data.root))
    assert not list(data.root.rglob(".partial-*"))


def test_a_truncated_exposure_costs_its_dither_and_leaves_the_others(made, tmp_path, request):
    observation, expected = made
    if observation.instrument == "nirspec" and not request.config.getoption("--long"):
        pytest.skip("takes a minute: asked for with --long")
    data = observation.copy(tmp_path / "data")
    (damaged,) = (data.root / "stage0").glob("*_00002_*_uncal.fits")
    damaged.write_bytes(damaged.read_bytes()[: 2880 * 1000])
    result = reduce(data, "--parallel", "--end_step", "navigate", *expected.one_variant)
    assert result.status == 1
    assert "truncated" in result.output and damaged.name in result.output
    assert "made without" in result.output
    assert not (data.root / "stage1" / damaged.name.replace("uncal", "rate")).exists()
    for band in expected.bands:
        header = fits.getheader(cube_path(data.root, "combined", band))
        # One dither and their combination are not there.
        assert header["NEXPCUBE"] == len(expected.places) - 2
        assert "_00002_" in header["MISSING1"]
        # Only where a cosmic ray was, which one exposure less was compared with.
        now, before = (fits.getdata(cube_path(root, "d1", band), "SCI") for root in (data.root, observation.root))
        assert np.mean((now != before) & ~(np.isnan(now) & np.isnan(before))) < 1e-3
    # Mended, the same command completes the work.
    shutil.copy(observation.root / "stage0" / damaged.name, damaged)
    log = json.loads((data.root / "logs" / "run.json").read_text())
    assert [task["status"] for task in log["tasks"] if task["step"] == "stage1"].count("failed") == 1
