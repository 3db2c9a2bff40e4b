"""Bad FITS files: every step makes something sound of them or says in one sentence what is wrong with which file."""

import pytest
from bad_fits import cube_steps, drive, exposure_steps, fault, flat_steps, good_cubes, good_flat, small_exposure

from errors import FileFormatError

# Quick steps meet more files; `python tests/bad_fits.py --files 1000` drives all of them for an hour.
SLOW = {"plot": 6, "animate": 4, "construct_flat_field": 6, "psf_correct": 12, "navigate with a fit": 12}
FILES = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bad")
    (directory / "out").mkdir()
    return directory


@pytest.fixture(scope="module")
def cubes(place):
    return good_cubes(place)


@pytest.fixture(scope="module")
def steps(cubes, place):
    goods, kernels = cubes
    raw = small_exposure(place / "jw1_uncal.fits")
    groups = ((cube_steps(goods, kernels), goods[0]), (flat_steps(goods), good_flat(goods)), (exposure_steps(), raw))
    return {name: (step, good) for steps, good in groups for name, step in steps.items()}


NAMES = [
    *("navigate", "navigate with a fit", "psf_correct", "desaturate", "desaturate, the short one bad"),
    *("construct_flat_field", "flat_field", "flat_field, combined", "despike", "defringe_1d", "plot", "animate"),
    *("merge flats", "flat_field, the flat bad", "check", "remove_groups"),
]


@pytest.mark.parametrize("name", NAMES)
def test_bad_files_end_in_something_sound_or_in_one_sentence(steps, place, name):
    assert sorted(steps) == sorted(NAMES)
    step, good = steps[name]
    if name == "check":
        with pytest.raises(FileFormatError, match="taken for good"):
            step(good, place / "out/none")
    else:
        assert fault(step, good, place / "out" / f"product{'_uncal' if 'uncal' in good.name else '_s3d'}.fits") is None
    faults, counts = drive({name: step}, good, place, seed=6, number=SLOW.get(name, FILES))
    assert faults == []
    assert counts[name] >= 4
