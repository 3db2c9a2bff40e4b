"""Desaturation in the whole pipeline: cubes from saturated ramps against those of the count rates that went in."""

import json
import shutil
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from astropy.io import fits
from conftest import Observation, reduce, simulate

from cubes import read_cube
from simulate import mrs_detector, nirspec_detector


@dataclass(frozen=True)
class Case:
    """How an instrument is made to saturate.

    Attributes
    ----------
    bands
        Of its cubes.
    observation
        Flags of the simulation: a target a few times too bright for five groups.
    groups
        Ramp lengths whose cubes are merged.
    stage1
        Parameters of stage 1 in which ramp lengths matter.
    flags
        More of the pipeline's.
    detector
        Who knows its defects.
    name
        DETECTOR.
    """

    bands: tuple[str, ...]
    observation: tuple[str, ...]
    groups: tuple[int, ...]
    stage1: dict[str, dict]
    flags: tuple[str, ...]
    detector: ModuleType
    name: str


CASES = {
    "miri": Case(
        ("ch1-short", "ch2-short"),
        ("--field", "disc", "--scale", "2.5"),
        (5, 3, 1),
        # The first group is lost, and with it what saturates early.
        {"firstframe": {"skip": False, "bright_use_group1": False}, "rscd": {"skip": True}},
        ("--no_defringe_1d",),
        mrs_detector,
        "MIRIFUSHORT",
    ),
    "nirspec": Case(
        ("prism-clear",),
        # Two groups give a rate: three recover nothing that five have lost, one does.
        ("--grating", "prism", "--scale", "4.5"),
        (5, 1),
        {},
        (),
        nirspec_detector,
        "NRS1",
    ),
}
BANDS = [(name, band) for name, case in CASES.items() for band in case.bands]


@dataclass(frozen=True)
class Reductions:
    """The same exposure by cubes of several ramp lengths, by groups chosen per pixel, and its true rates."""

    cubes: Observation
    ramp: Observation
    truth: Observation


@dataclass(frozen=True)
class Band:
    """Cubes of one band. `lost`: voxels that lack saturated pixels in the longest ramp; `whole`: those that do not."""

    truth: np.ndarray
    longest: object
    desaturated: object
    ramp: object
    lost: np.ndarray
    whole: np.ndarray
    reductions: Reductions
    groups: tuple[int, ...]


@pytest.fixture(scope="module")
def reduced(tmp_path_factory, request):
    """Gives the reductions of an instrument, each made once. Tests must not change them."""
    made = {}

    def get(name):
        if name == "nirspec" and not request.config.getoption("--long"):
            pytest.skip("takes minutes: asked for with --long")
        if name not in made:
            made[name] = reduce_all(name, tmp_path_factory.mktemp(f"saturated_{name}"))
        return made[name]

    return get


def reduce_all(name, directory):
    case = CASES[name]
    flags = ("--step_kwargs", json.dumps({"stage1": case.stage1}), "--parallel", *case.flags)
    observation = (*case.observation, "--dithers", 1, "--seed", 11, "--jobs", 1)
    raw = simulate(directory / "cubes", *observation, instrument=name)
    ramp = reduce(raw.copy(directory / "ramp"), "--desaturate", "ramp", "--end_step", "stage3", *flags)
    assert ramp.status == 0, ramp.output
    options = ("--desaturate", "--groups_to_use", ",".join(map(str, case.groups[1:])), "--end_step", "desaturate")
    cubes = reduce(raw, *options, *flags)
    assert cubes.status == 0, cubes.output
    truth = raw.copy(directory / "truth")
    shutil.rmtree(truth.root / "stage3")
    (rate,) = (truth.root / "stage1").glob("*_rate.fits")
    write_true_rates(rate, raw.root / "truth", case)
    truth = reduce(truth, "--start_step", "stage2", "--end_step", "stage3", *case.flags)
    assert truth.status == 0, truth.output
    return Reductions(cubes, ramp, truth)


def write_true_rates(rate, directory, case):
    """Put the count rates that went in into a rate image; only pixels that the mask knows stay bad."""
    truth = np.load(directory / rate.name.replace("_rate.fits", ".npz"))
    defects = case.detector.get_defects(case.name)
    reference = case.detector.is_reference()
    with fits.open(rate, mode="update") as hdul:
        sound = np.broadcast_to(~reference, hdul["SCI"].shape).copy()
        sound.flat[np.concatenate([defects.dead, defects.hot])] = False
        hdul["SCI"].data[:] = truth["rate"] + truth["warm_pixels"]
        hdul["ERR"].data[:] = 1
        hdul["DQ"].data[sound] = 0


@pytest.fixture(scope="module", params=BANDS, ids="-".join)
def band(request, reduced):
    instrument, name = request.param
    reductions, name = reduced(instrument), f"d1/Level3_{name}_s3d.fits"
    truth, longest, ramp = (
        read_cube(observation.root / "stage3" / name)
        for observation in (reductions.truth, reductions.cubes, reductions.ramp)
    )
    desaturated = read_cube(reductions.cubes.root / "stage3_desaturated" / name.replace("s3d", "s3d_nav"))
    bright = truth.good & (truth.sci > 0)
    lost = bright & (longest.hdul["WMAP"].data < truth.hdul["WMAP"].data)
    return Band(truth.sci, longest, desaturated, ramp, lost, bright & ~lost, reductions, CASES[instrument].groups)


def recovered(cube, truth, places):
    """Share of the places within 2 per cent of the truth, and of those with a value within 3 sigma."""
    there = places & cube.good
    near = np.abs(cube.sci / truth - 1)[there] < 0.02
    pull = np.abs(cube.sci - truth)[there] / cube.err[there]
    return near.sum() / places.sum(), (pull < 3).mean()


def test_most_of_what_saturates_is_lost_without_desaturation(band):
    assert band.lost.mean() > 0.05
    near, _ = recovered(band.longest, band.truth, band.lost)
    assert near < 0.3


@pytest.mark.parametrize("kind", ["desaturated", "ramp"])
def test_saturated_voxels_are_recovered(band, kind):
    near, honest = recovered(getattr(band, kind), band.truth, band.lost)
    assert near > 0.95
    assert honest > 0.99


def test_choosing_groups_is_as_good_as_merging_cubes(band):
    by_cubes, by_ramps = (recovered(cube, band.truth, band.lost) for cube in (band.desaturated, band.ramp))
    assert by_ramps[0] > by_cubes[0] - 0.005
    assert by_ramps[1] > by_cubes[1] - 0.005


def test_no_unsaturated_voxel_is_changed(band):
    reason = band.desaturated.hdul["DESAT_TYPE"].data
    assert not np.isin(reason[band.whole], (1, 2)).any()
    # What is replaced there was hit by a cosmic ray.
    hit = band.whole & (reason == 3)
    assert hit.sum() < 1e-4 * band.whole.sum()
    assert (np.abs(band.longest.sci - band.truth)[hit] < 4 * band.longest.err[hit]).sum() <= 0.1 * hit.sum()
    untouched = reason == 0
    for name in ("SCI", "ERR", "DQ"):
        before, after = (cube.hdul[name].data[untouched] for cube in (band.longest, band.desaturated))
        np.testing.assert_array_equal(after, before)


def test_the_groups_used_and_the_reason_are_told(band):
    used, reason = (band.desaturated.hdul[name].data for name in ("NGROUPS", "DESAT_TYPE"))
    np.testing.assert_array_equal(used > 0, band.desaturated.good)
    assert set(np.unique(used)) == {0, *band.groups}
    assert ((used == band.groups[0]) == (reason == 0))[used > 0].all()
    missing = band.lost & ~band.longest.good
    assert (reason[missing] == 1).all()
    assert (reason[band.lost & ~missing] == 2).all()
    cubes = [band.longest]
    for groups in band.groups[1:]:
        directory = band.reductions.cubes.root / "groups" / f"{groups}_groups" / "stage3" / "d1"
        cubes.append(read_cube(directory / band.desaturated.path.name))
        np.testing.assert_array_equal(band.desaturated.sci[used == groups], cubes[-1].sci[used == groups])
    # One group is taken only where the next longer ramp has lost pixels, too, or was hit.
    one = (used == 1) & (reason != 3)
    assert one.sum() > 1000
    assert (cubes[-2].hdul["WMAP"].data < cubes[-1].hdul["WMAP"].data)[one].all()


def test_the_merged_cube_opens_in_jwst_without_a_warning(band):
    from stdatamodels.jwst import datamodels

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with datamodels.open(band.desaturated.path) as model:
            assert isinstance(model, datamodels.IFUCubeModel)
            np.testing.assert_array_equal(model.data, band.desaturated.sci)


@pytest.mark.parametrize("instrument", CASES)
def test_choosing_groups_takes_little_more_than_doing_without(reduced, instrument):
    reductions = reduced(instrument)
    tasks = [
        json.loads((o.root / "logs" / "run.json").read_text())["tasks"] for o in (reductions.cubes, reductions.ramp)
    ]
    stages = ("stage1", "stage2", "stage3")
    plain, ramp = ([task for task in part if task["step"] in stages] for part in tasks)
    plain = [task for task in plain if not task["outputs"][0].startswith("groups/")]
    assert [task["step"] for task in ramp] == [task["step"] for task in plain] == list(stages)
    # Other work on the machine disturbs both; alone it is below 1.2.
    assert sum(task["seconds"] for task in ramp) < 2 * sum(task["seconds"] for task in plain)
