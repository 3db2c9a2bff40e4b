"""Planning: which files a run makes from which, without running anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_observations import MRS

from errors import OptionError
from instrument_pipeline import _steps
from miri_pipeline import MIRI, STEPS, stage1_defaults
from observations import sort_by_role
from pipeline_options import select_steps
from reduction import Options, Product, plan_steps, starting_products


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(tmp_path))
    (tmp_path / "leapseconds.tls").touch()
    (tmp_path / "stage0").mkdir()
    return tmp_path


def observe(root: Path, **changes):
    """An exposure whose (empty) file exists in `root`."""
    exposure = replace(MRS, **changes)
    name = (
        f"jw01247{exposure.observation}{exposure.visit}_02{exposure.activity}_{exposure.dither:05d}"
        f"_{exposure.detector.lower()}{'_sky' if exposure.is_background else ''}_uncal.fits"
    )
    path = root / "stage0" / name
    path.touch()
    return replace(exposure, path=path)


def plan(root, exposures, active=STEPS, backgrounds=(), **options):
    options = Options(root=root, **options)
    products = starting_products(sort_by_role(exposures, "MIR_MRS"), "uncal")
    return plan_steps(_steps(MIRI, options, backgrounds, active), active, products, options)


def outputs(tasks, step, root):
    return sorted(str(path.relative_to(root)) for task in tasks if task.step == step for path in task.outputs)


def test_four_dithers_make_their_cubes_and_one_combined(root):
    tasks = plan(root, [observe(root, dither=n) for n in range(1, 5)], defringe_1d=False)
    places = ["combined", "d1", "d2", "d3", "d4"]
    names = ["Level3_ch1-short_s3d", "Level3_ch2-short_s3d"]
    assert outputs(tasks, "stage3", root) == [f"stage3/{p}/{n}.fits" for p in places for n in names]
    assert outputs(tasks, "navigate", root) == [f"stage3/{p}/{n}_nav.fits" for p in places for n in names]
    assert outputs(tasks, "despike", root) == [f"stage5_despike/{p}/{n}_nav.fits" for p in places for n in names]
    assert outputs(tasks, "plot", root) == [
        f"plots/stage5_despike/{p}/{band}A_{n}_nav.png" for p in places for band, n in zip("12", names, strict=True)
    ]
    assert outputs(tasks, "animate", root) == [
        f"animation/stage5_despike/dither_comparison/{band}A_{n}_nav.mp4" for band, n in zip("12", names, strict=True)
    ]
    combined = next(task for task in tasks if task.step == "stage3" and len(task.inputs) == 4)
    assert combined.minimum_inputs == 1
    singles = [task for task in tasks if task.step == "stage3" and len(task.inputs) == 1]
    assert all(task.arguments["steps"]["outlier_detection"] == {"skip": True} for task in singles)
    assert "outlier_detection" not in combined.arguments["steps"]


def test_all_cubes_of_a_visit_are_navigated_by_one_pointing(root):
    exposures = [observe(root, dither=n, visit=visit) for visit in ("001", "002") for n in (1, 2)]
    tasks = [task for task in plan(root, exposures, fit_pointing=True, desaturate=True) if task.step == "navigate"]
    fits = {task.outputs[0].name: task for task in tasks if task.function == "visit_pointing:fit_visit_pointing"}
    assert sorted(fits) == ["pointing_o330v001.ecsv", "pointing_o330v002.ecsv"]
    first = fits["pointing_o330v001.ecsv"]
    # Each dither and band once, without variants, of the shortest ramp.
    assert len(first.inputs) == 4 and all("v001" in path.name for path in first.inputs)
    shortest = root / "groups" / "1_groups" / "stage3"
    assert {path.parent for path in first.inputs} == {shortest / "d1", shortest / "d2"}
    for task in tasks:
        if task not in fits.values():
            pointing = task.arguments["pointing"]
            assert pointing in task.inputs
            assert pointing.stem.removeprefix("pointing_") in task.outputs[0].name


def test_exposures_are_compared_with_others_of_their_setting_to_find_cosmic_rays(root):
    exposures = [observe(root, dither=n) for n in range(1, 6)]
    other = [observe(root, band="LONG", dither=n, activity="05") for n in (1, 2)]
    tasks = [task for task in plan(root, [*exposures, *other]) if task.step == "cosmic_rays"]
    assert len(tasks) == 7
    for task in tasks:
        own, *compared = task.inputs
        assert task.outputs[0] == own.with_name(own.name.replace("_cal", "_crf"))
        assert task.droppable == tuple(compared) == tuple(task.arguments["others"]) and task.minimum_inputs == 0
    # The nearest three; those of the other band are two only.
    dithers = {exposure.name: exposure.dither for exposure in exposures}
    found = [[dithers[path.name.removesuffix("_cal.fits")] for path in task.inputs] for task in tasks[:5]]
    assert found[0] == [1, 2, 3, 4] and found[2] == [3, 2, 4, 1]
    assert [len(task.inputs) for task in tasks[5:]] == [2, 2]
    made = {path for task in tasks for path in task.outputs}
    assert made == {path for task in plan(root, [*exposures, *other]) if task.step == "stage3" for path in task.inputs}


def test_an_exposure_without_others_is_not_searched_for_cosmic_rays(root):
    exposures = [observe(root), observe(root, band="LONG", activity="05")]
    tasks = plan(root, exposures)
    assert not [task for task in tasks if task.step == "cosmic_rays"]
    assert all(task.inputs[0].name.endswith("_cal.fits") for task in tasks if task.step == "stage3")


def test_one_dither_is_not_combined(root):
    assert not any("combined" in path for path in outputs(plan(root, [observe(root)]), "stage3", root))


def test_tiles_do_not_overwrite_one_another(root):
    exposures = [observe(root, dither=n, observation=o) for o in ("330", "331") for n in (1, 2)]
    cubes = outputs(plan(root, exposures), "stage3", root)
    assert len(cubes) == len(set(cubes)) == 2 * 3 * 2
    assert "stage3/d1/Level3_o331v001_ch1-short_s3d.fits" in cubes


@pytest.mark.parametrize(
    ("background_subtract", "expected"),
    [(False, ["d1"]), (True, ["d1_bg"]), ("both", ["d1", "d1_bg"])],
)
def test_background_variants_have_directories_of_their_own(root, background_subtract, expected):
    science, sky = observe(root), observe(root, is_background=True, observation="331")
    rate = root / "stage1" / f"{sky.name}_rate.fits"
    tasks = plan(
        root,
        [science, sky],
        background_subtract=background_subtract,
    )
    cubes = outputs(tasks, "stage3", root)
    assert sorted({Path(path).parts[1] for path in cubes}) == expected
    assert len([task for task in tasks if task.step == "stage1"]) == 2
    subtracted = [task for task in tasks if task.step == "stage2" and task.arguments["backgrounds"]]
    assert all(rate in task.inputs and task.outputs[0].parent.name == "bg" for task in subtracted)
    assert len(subtracted) == ("d1_bg" in expected)


def test_leakcal_is_an_imprint_member_of_its_own_mode_and_dither_and_never_science(root):
    science = [observe(root, dither=n) for n in (1, 2)]
    leakcal = [observe(root, dither=n, is_imprint=True, activity="05") for n in (1, 2)]
    other = observe(root, is_imprint=True, activity="06", band="LONG")
    tasks = [task for task in plan(root, [*science, *leakcal, other]) if task.step == "stage2"]
    assert len(tasks) == 2
    for task, own in zip(tasks, leakcal, strict=True):
        assert [path.name for path in task.arguments["imprints"]] == [f"{own.name}_rate.fits"]


def test_target_acquisition_is_not_reduced(root):
    exposures = [observe(root), observe(root, exposure_type="MIR_TACQ", detector="MIRIMAGE")]
    assert len([task for task in plan(root, exposures) if task.step == "stage1"]) == 1


def test_stale_files_are_no_inputs(root):
    stale = root / "stage2" / "jw09999_old_mirifushort_cal.fits"
    stale.parent.mkdir()
    stale.touch()
    tasks = plan(root, [observe(root)])
    assert all(stale not in task.inputs for task in tasks)


def test_a_skipped_step_starves_none_after_it(root):
    exposure = observe(root)
    active = [step for step in STEPS if step not in ("navigate", "despike")]
    tasks = plan(root, [exposure], active=active, defringe_1d=False)
    plotted = [task.inputs[0].name for task in tasks if task.step == "plot"]
    assert plotted == ["Level3_ch1-short_s3d.fits", "Level3_ch2-short_s3d.fits"]
    # What the skipped step has made before is newer than what it reads.
    made = root / "stage3" / "d1" / "Level3_ch1-short_s3d_nav.fits"
    made.parent.mkdir(parents=True)
    made.touch()
    tasks = plan(root, [exposure], active=active, defringe_1d=False)
    plotted = [task.inputs[0].name for task in tasks if task.step == "plot"]
    assert sorted(plotted) == ["Level3_ch1-short_s3d_nav.fits", "Level3_ch2-short_s3d.fits"]


def test_later_steps_go_on_from_cubes_whose_intermediates_have_been_removed(root):
    exposure = observe(root)
    made = root / "stage3" / "d1" / "Level3_ch1-short_s3d.fits"
    made.parent.mkdir(parents=True)
    for channel in ("1", "2"):
        made.with_name(f"Level3_ch{channel}-short_s3d.fits").touch()
    tasks = plan(root, [exposure], active=STEPS[STEPS.index("navigate") :], defringe_1d=False)
    assert next(task.inputs[0] for task in tasks if task.step == "navigate") == made
    assert outputs(tasks, "stage3", root) == []
    # Where not even the cubes are there, there is nothing to go on from.
    made.unlink()
    assert plan(root, [exposure], active=STEPS[STEPS.index("navigate") :], defringe_1d=False) == []


@pytest.mark.parametrize(
    ("switch", "tag"), [("defringe", "fringe"), ("defringe_1d", "fringe1d"), ("correct_psf", "psf")]
)
@pytest.mark.parametrize(("value", "tagged"), [(False, [False]), (True, [True]), ("both", [False, True])])
def test_a_variant_is_made_instead_or_besides(root, switch, tag, value, tagged):
    options = {"defringe_1d": False, switch: value}
    despiked = outputs(plan(root, [observe(root)], **options), "despike", root)
    places = {False: "d1", True: f"d1_{tag}"}
    names = ["Level3_ch1-short_s3d_nav.fits", "Level3_ch2-short_s3d_nav.fits"]
    assert despiked == sorted(f"stage5_despike/{places[t]}/{name}" for t in tagged for name in names)


def test_variants_multiply_and_their_names_are_sorted(root):
    tasks = plan(root, [observe(root)], defringe="both", defringe_1d="both", correct_psf="both")
    places = {Path(path).parts[1] for path in outputs(tasks, "despike", root)}
    assert len(places) == 8
    assert "d1_fringe_fringe1d_psf" in places
    assert "stage2/fringe" in {str(Path(path).parent) for path in outputs(tasks, "defringe", root)}


def test_desaturation_reduces_every_ramp_length_and_merges_them(root):
    tasks = plan(root, [observe(root)], desaturate=True, defringe_1d=False)
    raw = outputs(tasks, "remove_groups", root)
    assert [path.split("/")[1] for path in raw] == [f"{n}_groups" for n in (1, 2, 3, 4)]
    short = next(t for t in tasks if t.step == "stage1" and "2_groups" in str(t.outputs[0]))
    assert short.arguments["steps"]["firstframe"] == {"skip": True}
    assert "groups/3_groups/stage3/d1/Level3_ch1-short_s3d_nav.fits" in outputs(tasks, "navigate", root)
    merge = [task for task in tasks if task.step == "desaturate"]
    assert outputs(tasks, "desaturate", root) == [
        f"stage3_desaturated/d1/Level3_ch{n}-short_s3d_nav.fits" for n in (1, 2)
    ]
    assert [[p.parts[-4] for p in t.inputs][1:] for t in merge] == [[f"{n}_groups" for n in (4, 3, 2, 1)]] * 2
    assert outputs(tasks, "despike", root) == [f"stage5_despike/d1/Level3_ch{n}-short_s3d_nav.fits" for n in (1, 2)]
    assert all("groups" not in path for path in outputs(tasks, "plot", root))
    some = plan(root, [observe(root)], desaturate=True, groups_to_use=(1, 2, 9), defringe_1d=False)
    assert len(outputs(some, "remove_groups", root)) == 2


def test_ramp_desaturation_runs_every_stage_once(root):
    tasks = plan(root, [observe(root)], desaturate="ramp")
    assert not outputs(tasks, "remove_groups", root)
    assert not outputs(tasks, "desaturate", root)
    (stage1,) = [task for task in tasks if task.step == "stage1"]
    assert stage1.function == "ramp_desaturation_step:run_stage1"


def test_flats_are_constructed_of_four_dithers_and_used_on_these(root):
    exposures = [observe(root, dither=n) for n in range(1, 5)]
    tasks = plan(root, exposures, construct_flats=True, defringe_1d=False)
    made = outputs(tasks, "flat", root)
    places = ["combined", "d1", "d2", "d3", "d4"]
    assert made[:2] == [f"flats/ch{n}-short_constructed_flat.fits" for n in (1, 2)]
    assert made[2:] == [f"stage4_flat/{p}/Level3_ch{n}-short_s3d_nav.fits" for p in places for n in (1, 2)]
    corrected = next(t for t in tasks if t.outputs[0] == root / "stage4_flat/d1/Level3_ch1-short_s3d_nav.fits")
    assert root / made[0] in corrected.inputs
    assert outputs(plan(root, exposures[:3], construct_flats=True), "flat", root) == []


def test_combined_cubes_are_flat_fielded_by_way_of_their_own_dithers(root):
    exposures = [observe(root, dither=n, observation=o) for o in ("330", "331") for n in (1, 2)]
    tasks = plan(root, exposures, flat_data_path="flats/{band}.fits", defringe_1d="both")
    combined = [t for t in tasks if t.step == "flat" and t.outputs[0].parent.name.startswith("combined")]
    assert len(combined) == 2 * 2 * 2
    for task in combined:
        dithers = task.arguments["dither_paths"]
        assert task.droppable == tuple(dithers)
        assert [p.name for p in dithers] == [task.outputs[0].name] * 2
        places = [f"d{n}{task.outputs[0].parent.name.removeprefix('combined')}" for n in (1, 2)]
        assert [p.parent.name for p in dithers] == places


def test_tiles_with_enough_dithers_make_one_flat_for_all_tiles(root):
    numbers = {"330": 4, "331": 4, "332": 2}
    exposures = [observe(root, dither=n + 1, observation=o) for o, count in numbers.items() for n in range(count)]
    tasks = plan(root, exposures, construct_flats=True, defringe_1d=False)
    merged = root / "flats" / "ch1-short_constructed_flat.fits"
    (merge,) = [t for t in tasks if t.outputs == (merged,)]
    assert merge.inputs == tuple(root / "flats" / f"o{o}v001" / merged.name for o in ("330", "331"))
    corrected = [t for t in tasks if "stage4_flat" in str(t.outputs[0]) and "ch1" in t.outputs[0].name]
    assert len(corrected) == 4 + 4 + 2 + 3
    assert all(t.arguments["flat_path"] == merged for t in corrected)
    # Only one tile with the dithers for it: its flat is that of all.
    tasks = plan(root, exposures[4:], construct_flats=True, defringe_1d=False)
    flats = [path for path in outputs(tasks, "flat", root) if path.startswith("flats")]
    assert flats == [f"flats/ch{n}-short_constructed_flat.fits" for n in (1, 2)]


def test_the_users_parameters_win_over_the_defaults(root):
    kwargs = {"stage3": {"cube_build": {"coord_system": "skyalign"}}, "navigate": {"ra_offset": 0.1}}
    tasks = plan(root, [observe(root)], step_kwargs=kwargs, cube_build_weighting="emsm")
    cube_build = next(t for t in tasks if t.step == "stage3").arguments["steps"]["cube_build"]
    assert cube_build == {"output_type": "band", "coord_system": "skyalign", "weighting": "emsm"}
    assert all(t.arguments["ra_offset"] == 0.1 for t in tasks if t.step == "navigate")


def test_short_ramps_keep_all_their_groups():
    assert set(stage1_defaults(replace(MRS, groups=3))) == {"firstframe", "lastframe", "rscd", "jump"}
    assert stage1_defaults(replace(MRS, groups=4)) == {}


def test_steps_are_chosen_by_name():
    assert select_steps(STEPS, ["defringe_1d"], "stage3", "psf") == ("stage3", "navigate", "psf")
    assert select_steps(STEPS, "remove_groups", end_step="stage1") == ("stage1",)
    with pytest.raises(OptionError, match="did you mean 'navigate'"):
        select_steps(STEPS, ["navigat"])
    with pytest.raises(OptionError, match="nothing to do"):
        select_steps(STEPS, ["report"], start_step="report")


def test_an_animation_compares_all_tiles_and_dithers_of_a_band(root):
    exposures = [observe(root, dither=n) for n in (1, 2)] + [observe(root, observation="331", dither=1)]
    for options in ({}, {"step_kwargs": {"animate": {"gif": True}}}):
        tasks = [t for t in plan(root, exposures, defringe_1d=False, **options) if t.step == "animate"]
        assert [len(task.inputs) for task in tasks] == [4, 4]  # three dithers, and the two of one tile combined
        directory = root / "animation/stage5_despike/dither_comparison"
        assert tasks[0].outputs[0] == directory / "1A_Level3_ch1-short_s3d_nav.mp4"
        assert tasks[0].arguments["paths_in"] == list(tasks[0].inputs) and tasks[0].minimum_inputs == 1
        assert [path.suffix for path in tasks[0].outputs] == ([".mp4", ".gif"] if options else [".mp4"])


def test_an_animation_lies_by_the_stage_of_its_dithers(root):
    exposures = [observe(root, dither=n) for n in range(1, 5)]
    active = [step for step in STEPS if step != "despike"]
    tasks = plan(root, exposures, active=active, defringe_1d="both", construct_flats=True)
    assert {path.rpartition("/")[0] for path in outputs(tasks, "animate", root)} == {
        "animation/stage4_flat/dither_comparison",
        "animation/stage4_flat/dither_comparison_fringe1d",
    }


def test_directory_names_sort_the_variants():
    product = Product(Path(), "cube", MRS, place="d2", variants=frozenset({"fringe1d", "bg"}))
    assert product.directory == "d2_bg_fringe1d"
