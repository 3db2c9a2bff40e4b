"""What NIRSpec alone has: two detectors in one cube, detectors without light, leakcal exposures, 1/f noise."""

import numpy as np
import pytest
from astropy.io import fits
from conftest import reduce
from planning import planner_of
from scipy.ndimage import uniform_filter1d
from truth import read_exposure_truth


@pytest.fixture
def nirspec(tmp_path, monkeypatch):
    """Plans runs."""
    return planner_of("nirspec", tmp_path, monkeypatch)


def test_both_detectors_of_a_dither_make_one_cube(nirspec):
    tasks = nirspec.plan([nirspec.expose(dither=n, detector=d) for n in (1, 2) for d in ("NRS1", "NRS2")])
    name = "Level3_g395h-f290lp_s3d"
    assert nirspec.outputs(tasks, "stage3") == [f"stage3/{place}/{name}.fits" for place in ("combined", "d1", "d2")]
    stage3 = {task.outputs[0].parent.name: task for task in tasks if task.step == "stage3"}
    assert [len(stage3[place].inputs) for place in ("d1", "d2", "combined")] == [2, 2, 4]
    # Two detectors of one dither have nothing in common that could be compared.
    assert stage3["d1"].arguments["steps"]["outlier_detection"]["skip"]
    assert "skip" not in stage3["combined"].arguments["steps"]["outlier_detection"]
    assert stage3["combined"].memory > stage3["d1"].memory


def test_flats_are_applied_after_despiking(nirspec):
    tasks = nirspec.plan([nirspec.expose(dither=n) for n in range(1, 5)], construct_flats=True)
    flat = next(task for task in tasks if task.step == "flat" and task.outputs[0].parent.name == "d1")
    assert flat.inputs[0] == nirspec.root / "stage4_despike" / "d1" / "Level3_g395h-f290lp_s3d_nav.fits"


@pytest.mark.parametrize(
    ("grating", "filter_name", "used"),
    [("G395M", "F290LP", 1), ("PRISM", "CLEAR", 1), ("G140H", "F070LP", 1), ("G140H", "F100LP", 2)],
)
def test_a_detector_that_sees_no_light_is_left_out(nirspec, grating, filter_name, used):
    exposures = [nirspec.expose(detector=d, grating=grating, filter=filter_name) for d in ("NRS1", "NRS2")]
    assert len([task for task in nirspec.plan(exposures) if task.step == "stage1"]) == used


def test_leakcal_of_the_same_detector(nirspec):
    science, leakcal = nirspec.expose(), nirspec.expose(is_imprint=True, activity="05")
    other = nirspec.expose(is_imprint=True, activity="05", detector="NRS2")
    (task,) = [task for task in nirspec.plan([science, other, leakcal]) if task.step == "stage2"]
    assert [path.name for path in task.arguments["imprints"]] == [f"{leakcal.name}_rate.fits"]


def test_flicker_noise_is_cleaned_unless_told_otherwise(nirspec):
    (task,) = [task for task in nirspec.plan([nirspec.expose()]) if task.step == "stage1"]
    assert not task.arguments["steps"]["clean_flicker_noise"]["skip"]
    off = {"stage1": {"clean_flicker_noise": {"skip": True}}}
    (task,) = [task for task in nirspec.plan([nirspec.expose()], step_kwargs=off) if task.step == "stage1"]
    assert task.arguments["steps"]["clean_flicker_noise"]["skip"]


@pytest.fixture(scope="module")
def uncleaned(nirspec_observation, tmp_path_factory):
    """The first exposure's rates with 1/f noise in them."""
    data = nirspec_observation.copy(tmp_path_factory.mktemp("uncleaned") / "data")
    for path in data.root.glob("stage0/*_00002_*"):
        path.unlink()
    skip = '{"stage1": {"clean_flicker_noise": {"skip": true}}}'
    reduced = reduce(data, "--end_step", "stage1", "--step_kwargs", skip)
    assert reduced.status == 0, reduced.output
    return reduced


def test_flicker_noise_is_removed_and_the_disc_is_not(nirspec_observation, uncleaned):
    (path,) = nirspec_observation.root.glob("stage1/*_00001_*_rate.fits")
    name = path.name.removesuffix("_rate.fits")
    truth = read_exposure_truth(nirspec_observation.root, name)
    lit, brightest = truth["slices"] > 0, np.percentile(truth["radiance"], 99)
    sky, disc = lit & (truth["radiance"] < 0.02 * brightest), lit & (truth["radiance"] > 0.3 * brightest)
    stripes, level = [], []
    for root in (nirspec_observation.root, uncleaned.root):
        with fits.open(root / "stage1" / path.name) as hdul:
            difference = np.where(hdul["DQ"].data == 0, hdul["SCI"].data - truth["rate"], np.nan)
        stripes.append(striping(np.where(sky, difference, np.nan)))
        level.append(np.nanmean(difference[disc]) / truth["rate"][disc].mean())
    assert stripes[1] > 3 * stripes[0]
    assert abs(level[0] - level[1]) < 0.002


def striping(image):
    """Rms of the means of an image's columns about those of their neighbourhood, without what white noise gives."""
    image = np.where(np.abs(image - np.nanmedian(image)) < 4 * np.nanstd(image), image, np.nan)
    columns = image[:, np.isfinite(image).sum(axis=0) > 100]
    mean, scatter = np.nanmean(columns, axis=0), np.nanstd(columns, axis=0)
    mean -= uniform_filter1d(mean, 101)
    return np.sqrt((mean**2 - scatter**2 / np.isfinite(columns).sum(axis=0)).mean())
