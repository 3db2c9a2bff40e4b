"""Planning: which files a run makes from which, without running anything, for both instruments."""

from dataclasses import replace
from pathlib import Path

import pytest
from planning import PLANNERS, planner_of
from test_observations import MRS

from errors import OptionError
from miri_pipeline import STEPS, stage1_defaults
from pipeline_options import select_steps
from reduction import Product

NAV = "_nav.fits"


@pytest.fixture(params=PLANNERS)
def made(request, tmp_path, monkeypatch):
    """Plans the runs of each instrument."""
    return planner_of(request.param, tmp_path, monkeypatch)


@pytest.fixture
def miri(tmp_path, monkeypatch):
    """Plans runs with what MIRI alone has."""
    return planner_of("miri", tmp_path, monkeypatch)


def four_dithers(made):
    return [made.expose(dither=n) for n in range(1, 5)]


def test_four_dithers_make_their_cubes_and_one_combined(made):
    tasks = made.plan(four_dithers(made))
    places, last = ["combined", "d1", "d2", "d3", "d4"], made.instrument.despike_stage
    assert made.outputs(tasks, "stage3") == [f"stage3/{p}/{n}.fits" for p in places for n in made.cubes]
    assert made.outputs(tasks, "navigate") == [f"stage3/{p}/{n}{NAV}" for p in places for n in made.cubes]
    assert made.outputs(tasks, "despike") == [f"{last}/{p}/{n}{NAV}" for p in places for n in made.cubes]
    pictures = [f"{prefix}{name}_nav" for prefix, name in zip(made.prefixes, made.cubes, strict=True)]
    assert made.outputs(tasks, "plot") == [f"plots/{last}/{p}/{name}.png" for p in places for name in pictures]
    assert made.outputs(tasks, "animate") == [f"animation/{last}/dither_comparison/{name}.mp4" for name in pictures]
    combined = next(task for task in tasks if task.step == "stage3" and len(task.inputs) == 4)
    assert combined.minimum_inputs == 1
    singles = [task for task in tasks if task.step == "stage3" and len(task.inputs) == 1]
    assert all(task.arguments["steps"]["outlier_detection"]["skip"] for task in singles)
    assert "skip" not in combined.arguments["steps"].get("outlier_detection", {})


def test_all_cubes_of_a_visit_are_navigated_by_one_pointing(made):
    exposures = [made.expose(dither=n, visit=visit) for visit in ("001", "002") for n in (1, 2)]
    tasks = [task for task in made.plan(exposures, fit_pointing=True, desaturate=True) if task.step == "navigate"]
    fits = {task.outputs[0].name: task for task in tasks if task.function == "visit_pointing:fit_visit_pointing"}
    assert sorted(fits) == ["pointing_o330v001.ecsv", "pointing_o330v002.ecsv"]
    first = fits["pointing_o330v001.ecsv"]
    # Each dither and band once, without variants, of the shortest ramp.
    assert len(first.inputs) == 2 * len(made.cubes) and all("v001" in path.name for path in first.inputs)
    shortest = made.root / "groups" / "1_groups" / "stage3"
    assert {path.parent for path in first.inputs} == {shortest / "d1", shortest / "d2"}
    for task in tasks:
        if task not in fits.values():
            pointing = task.arguments["pointing"]
            assert pointing in task.inputs
            assert pointing.stem.removeprefix("pointing_") in task.outputs[0].name


def test_exposures_are_compared_with_others_of_their_setting_to_find_cosmic_rays(made):
    exposures = [made.expose(dither=n) for n in range(1, 6)]
    others = [made.expose(**made.other, dither=n, activity="05") for n in (1, 2)]
    tasks = [task for task in made.plan([*exposures, *others]) if task.step == "cosmic_rays"]
    assert len(tasks) == 7
    for task in tasks:
        own, *compared = task.inputs
        assert task.outputs[0] == own.with_name(own.name.replace("_cal", "_crf"))
        assert task.droppable == tuple(compared) == tuple(task.arguments["others"]) and task.minimum_inputs == 0
    # The nearest three; those of the other setting are two only.
    dithers = {exposure.name: exposure.dither for exposure in exposures}
    found = [[dithers[path.name.removesuffix("_cal.fits")] for path in task.inputs] for task in tasks[:5]]
    assert found[0] == [1, 2, 3, 4] and found[2] == [3, 2, 4, 1]
    assert [len(task.inputs) for task in tasks[5:]] == [2, 2]
    mended = {path for task in tasks for path in task.outputs}
    stage3 = [task for task in made.plan([*exposures, *others]) if task.step == "stage3"]
    assert mended == {path for task in stage3 for path in task.inputs}


def test_an_exposure_without_others_is_not_searched_for_cosmic_rays(made):
    tasks = made.plan([made.expose(), made.expose(**made.other, activity="05")])
    assert not [task for task in tasks if task.step == "cosmic_rays"]
    assert all(task.inputs[0].name.endswith("_cal.fits") for task in tasks if task.step == "stage3")


def test_one_dither_is_not_combined(made):
    assert not any("combined" in path for path in made.outputs(made.plan([made.expose()]), "stage3"))


def test_tiles_do_not_overwrite_one_another(made):
    exposures = [made.expose(dither=n, observation=o) for o in ("330", "331") for n in (1, 2)]
    cubes = made.outputs(made.plan(exposures), "stage3")
    assert len(cubes) == len(set(cubes)) == 2 * 3 * len(made.cubes)
    assert f"stage3/d1/Level3_o331v001_{made.bands[0]}_s3d.fits" in cubes


@pytest.mark.parametrize(
    ("background_subtract", "expected"),
    [(False, ["d1"]), (True, ["d1_bg"]), ("both", ["d1", "d1_bg"])],
)
def test_background_variants_have_directories_of_their_own(made, background_subtract, expected):
    science, sky = made.expose(), made.expose(is_background=True, observation="331")
    rate = made.root / "stage1" / f"{sky.name}_rate.fits"
    tasks = made.plan([science, sky], background_subtract=background_subtract)
    cubes = made.outputs(tasks, "stage3")
    assert sorted({Path(path).parts[1] for path in cubes}) == expected
    assert len([task for task in tasks if task.step == "stage1"]) == 2
    subtracted = [task for task in tasks if task.step == "stage2" and task.arguments["backgrounds"]]
    assert all(rate in task.inputs and task.outputs[0].parent.name == "bg" for task in subtracted)
    assert len(subtracted) == ("d1_bg" in expected)


def test_leakcal_is_an_imprint_member_of_its_own_mode_and_dither_and_never_science(made):
    science = [made.expose(dither=n) for n in (1, 2)]
    leakcal = [made.expose(dither=n, is_imprint=True, activity="05") for n in (1, 2)]
    other = made.expose(is_imprint=True, activity="06", **made.other)
    tasks = [task for task in made.plan([*science, *leakcal, other]) if task.step == "stage2"]
    assert len(tasks) == 2
    for task, own in zip(tasks, leakcal, strict=True):
        assert [path.name for path in task.arguments["imprints"]] == [f"{own.name}_rate.fits"]


def test_target_acquisition_is_not_reduced(made):
    exposures = [made.expose(), made.expose(**made.acquisition, activity="02")]
    assert len([task for task in made.plan(exposures) if task.step == "stage1"]) == 1


def test_stale_files_are_no_inputs(made):
    stale = made.root / "stage2" / "jw09999_old_cal.fits"
    stale.parent.mkdir()
    stale.touch()
    assert all(stale not in task.inputs for task in made.plan([made.expose()]))


def test_a_skipped_step_starves_none_after_it(made):
    exposure = made.expose()
    active = [step for step in made.steps if step not in ("navigate", "despike")]

    def plotted():
        tasks = made.plan([exposure], active=active)
        return sorted(task.inputs[0].name for task in tasks if task.step == "plot")

    assert plotted() == [f"{name}.fits" for name in made.cubes]
    # What the skipped step has made before is newer than what it reads.
    navigated = made.root / "stage3" / "d1" / f"{made.cubes[0]}{NAV}"
    navigated.parent.mkdir(parents=True)
    navigated.touch()
    assert plotted() == [navigated.name, *(f"{name}.fits" for name in made.cubes[1:])]


def test_later_steps_go_on_from_cubes_whose_intermediates_have_been_removed(made):
    exposure = made.expose()
    cubes = [made.root / "stage3" / "d1" / f"{name}.fits" for name in made.cubes]
    cubes[0].parent.mkdir(parents=True)
    for cube in cubes:
        cube.touch()
    active = made.steps[made.steps.index("navigate") :]
    tasks = made.plan([exposure], active=active)
    assert next(task.inputs[0] for task in tasks if task.step == "navigate") == cubes[0]
    assert made.outputs(tasks, "stage3") == []
    # Where not even the cubes are there, there is nothing to go on from.
    cubes[0].unlink()
    assert made.plan([exposure], active=active) == []


VARIANTS = [
    ("miri", "defringe", "fringe"),
    ("miri", "defringe_1d", "fringe1d"),
    ("miri", "correct_psf", "psf"),
    ("nirspec", "correct_psf", "psf"),
]


@pytest.mark.parametrize(("name", "switch", "tag"), VARIANTS)
@pytest.mark.parametrize(("value", "tagged"), [(False, [False]), (True, [True]), ("both", [False, True])])
def test_a_variant_is_made_instead_or_besides(tmp_path, monkeypatch, name, switch, tag, value, tagged):
    made = planner_of(name, tmp_path, monkeypatch)
    despiked = made.outputs(made.plan([made.expose()], **{switch: value}), "despike")
    places, last = {False: "d1", True: f"d1_{tag}"}, made.instrument.despike_stage
    assert despiked == sorted(f"{last}/{places[t]}/{cube}{NAV}" for t in tagged for cube in made.cubes)


def test_variants_multiply_and_their_names_are_sorted(miri):
    tasks = miri.plan([miri.expose()], defringe="both", defringe_1d="both", correct_psf="both")
    places = {Path(path).parts[1] for path in miri.outputs(tasks, "despike")}
    assert len(places) == 8
    assert "d1_fringe_fringe1d_psf" in places
    assert "stage2/fringe" in {str(Path(path).parent) for path in miri.outputs(tasks, "defringe")}


def test_desaturation_reduces_every_ramp_length_and_merges_them(made):
    tasks = made.plan([made.expose()], desaturate=True)
    raw = made.outputs(tasks, "remove_groups")
    assert [path.split("/")[1] for path in raw] == [f"{n}_groups" for n in (1, 2, 3, 4)]
    navigated = made.outputs(tasks, "navigate")
    assert all(f"groups/3_groups/stage3/d1/{name}{NAV}" in navigated for name in made.cubes)
    merge = [task for task in tasks if task.step == "desaturate"]
    assert made.outputs(tasks, "desaturate") == [f"stage3_desaturated/d1/{name}{NAV}" for name in made.cubes]
    lengths = [[path.parts[-4] for path in task.inputs][1:] for task in merge]
    assert lengths == [[f"{n}_groups" for n in (4, 3, 2, 1)]] * len(made.cubes)
    last = made.instrument.despike_stage
    assert made.outputs(tasks, "despike") == [f"{last}/d1/{name}{NAV}" for name in made.cubes]
    assert all("groups" not in path for path in made.outputs(tasks, "plot"))
    some = made.plan([made.expose()], desaturate=True, groups_to_use=(1, 2, 9))
    assert len(made.outputs(some, "remove_groups")) == 2


def test_fringes_of_ramps_that_saturate_are_found_with_the_help_of_all_shorter_ones(miri):
    tasks = miri.plan([miri.expose()], desaturate=True, groups_to_use=(1, 2, 4), defringe_1d="both")
    helpers = {}
    for task in (task for task in tasks if task.step == "defringe_1d" and "ch1" in task.outputs[0].name):
        first, *shorter = (path.parts[-4] for path in task.inputs)
        helpers[first] = shorter
        assert task.arguments.get("shorter_paths", []) == list(task.droppable) == list(task.inputs[1:])
    assert helpers == {
        miri.root.name: ["4_groups", "2_groups", "1_groups"],
        "4_groups": ["2_groups", "1_groups"],
        "2_groups": ["1_groups"],
        "1_groups": [],
    }
    plain = miri.plan([miri.expose()], defringe_1d="both")
    assert not any("shorter_paths" in task.arguments for task in plain)


def test_ramp_desaturation_runs_every_stage_once(made):
    tasks = made.plan([made.expose()], desaturate="ramp")
    assert not made.outputs(tasks, "remove_groups")
    assert not made.outputs(tasks, "desaturate")
    (stage1,) = [task for task in tasks if task.step == "stage1"]
    assert stage1.function == "ramp_desaturation_step:run_stage1"


def test_flats_are_constructed_of_four_dithers_and_used_on_these(made):
    exposures = four_dithers(made)
    tasks = made.plan(exposures, construct_flats=True)
    flats = made.outputs(tasks, "flat")
    places, stage = ["combined", "d1", "d2", "d3", "d4"], made.instrument.flat_stage
    count = len(made.cubes)
    assert flats[:count] == [f"flats/{band}_constructed_flat.fits" for band in made.bands]
    assert flats[count:] == [f"{stage}/{place}/{name}{NAV}" for place in places for name in made.cubes]
    corrected = next(t for t in tasks if t.outputs[0] == made.root / stage / "d1" / f"{made.cubes[0]}{NAV}")
    assert made.root / flats[0] in corrected.inputs
    assert made.outputs(made.plan(exposures[:3], construct_flats=True), "flat") == []


def test_combined_cubes_are_flat_fielded_by_way_of_their_own_dithers(made):
    exposures = [made.expose(dither=n, observation=o) for o in ("330", "331") for n in (1, 2)]
    tasks = made.plan(exposures, flat_data_path="flats/{band}{grating}.fits", correct_psf="both")
    combined = [t for t in tasks if t.step == "flat" and t.outputs[0].parent.name.startswith("combined")]
    assert len(combined) == 2 * 2 * len(made.cubes)
    for task in combined:
        dithers = task.arguments["dither_paths"]
        assert task.droppable == tuple(dithers)
        assert [p.name for p in dithers] == [task.outputs[0].name] * 2
        places = [f"d{n}{task.outputs[0].parent.name.removeprefix('combined')}" for n in (1, 2)]
        assert [p.parent.name for p in dithers] == places


def test_tiles_with_enough_dithers_make_one_flat_for_all_tiles(made):
    numbers = {"330": 4, "331": 4, "332": 2}
    exposures = [made.expose(dither=n + 1, observation=o) for o, count in numbers.items() for n in range(count)]
    tasks = made.plan(exposures, construct_flats=True)
    merged = made.root / "flats" / f"{made.bands[0]}_constructed_flat.fits"
    (merge,) = [t for t in tasks if t.outputs == (merged,)]
    assert merge.inputs == tuple(made.root / "flats" / f"o{o}v001" / merged.name for o in ("330", "331"))
    stage = made.instrument.flat_stage
    corrected = [t for t in tasks if (made.root / stage) in t.outputs[0].parents and made.bands[0] in t.outputs[0].name]
    assert len(corrected) == 4 + 4 + 2 + 3
    assert all(t.arguments["flat_path"] == merged for t in corrected)
    # Only one tile with the dithers for it: its flat is that of all.
    tasks = made.plan(exposures[4:], construct_flats=True)
    flats = [path for path in made.outputs(tasks, "flat") if path.startswith("flats")]
    assert flats == [f"flats/{band}_constructed_flat.fits" for band in made.bands]


def test_the_users_parameters_win_over_the_defaults(made):
    kwargs = {"stage3": {"cube_build": {"coord_system": "skyalign"}}, "navigate": {"ra_offset": 0.1}}
    tasks = made.plan([made.expose()], step_kwargs=kwargs, cube_build_weighting="emsm")
    cube_build = next(t for t in tasks if t.step == "stage3").arguments["steps"]["cube_build"]
    assert cube_build == {"output_type": "band", "coord_system": "skyalign", "weighting": "emsm"}
    assert all(t.arguments["ra_offset"] == 0.1 for t in tasks if t.step == "navigate")


def test_short_ramps_keep_all_their_groups(miri):
    assert set(stage1_defaults(replace(MRS, groups=3))) == {"firstframe", "lastframe", "rscd", "jump"}
    assert stage1_defaults(replace(MRS, groups=4)) == {}
    tasks = miri.plan([miri.expose()], desaturate=True)
    short = next(t for t in tasks if t.step == "stage1" and "2_groups" in str(t.outputs[0]))
    assert short.arguments["steps"]["firstframe"] == {"skip": True}


def test_steps_are_chosen_by_name():
    assert select_steps(STEPS, ["defringe_1d"], "stage3", "psf") == ("stage3", "navigate", "psf")
    assert select_steps(STEPS, "remove_groups", end_step="stage1") == ("stage1",)
    with pytest.raises(OptionError, match="did you mean 'navigate'"):
        select_steps(STEPS, ["navigat"])
    with pytest.raises(OptionError, match="nothing to do"):
        select_steps(STEPS, ["report"], start_step="report")


def test_an_animation_compares_all_tiles_and_dithers_of_a_band(made):
    exposures = [made.expose(dither=n) for n in (1, 2)] + [made.expose(observation="331", dither=1)]
    for options in ({}, {"step_kwargs": {"animate": {"gif": True}}}):
        tasks = [t for t in made.plan(exposures, **options) if t.step == "animate"]
        # Three dithers, and the two of one tile combined.
        assert [len(task.inputs) for task in tasks] == [4] * len(made.cubes)
        directory = made.root / "animation" / made.instrument.despike_stage / "dither_comparison"
        assert tasks[0].outputs[0] == directory / f"{made.prefixes[0]}{made.cubes[0]}_nav.mp4"
        assert tasks[0].arguments["paths_in"] == list(tasks[0].inputs) and tasks[0].minimum_inputs == 1
        assert [path.suffix for path in tasks[0].outputs] == ([".mp4", ".gif"] if options else [".mp4"])


def test_an_animation_lies_by_the_stage_of_its_dithers(miri):
    active = [step for step in STEPS if step != "despike"]
    tasks = miri.plan(four_dithers(miri), active=active, defringe_1d="both", construct_flats=True)
    assert {path.rpartition("/")[0] for path in miri.outputs(tasks, "animate")} == {
        "animation/stage4_flat/dither_comparison",
        "animation/stage4_flat/dither_comparison_fringe1d",
    }


def test_directory_names_sort_the_variants():
    product = Product(Path(), "cube", MRS, place="d2", variants=frozenset({"fringe1d", "bg"}))
    assert product.directory == "d2_bg_fringe1d"
