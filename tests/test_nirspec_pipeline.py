"""Planning of NIRSpec observations: two detectors in one cube, and what differs from MIRI."""

from dataclasses import replace

import pytest
from test_observations import MRS
from test_reduction import observe, outputs

from instrument_pipeline import _steps
from nirspec_pipeline import NIRSPEC, STEPS
from observations import sort_by_role
from reduction import Options, plan_steps, starting_products

NRS1 = replace(
    MRS,
    instrument="NIRSPEC",
    exposure_type="NRS_IFU",
    detector="NRS1",
    channel="N/A",
    band="N/A",
    filter="F290LP",
    grating="G395H",
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(tmp_path))
    (tmp_path / "leapseconds.tls").touch()
    (tmp_path / "stage0").mkdir()
    return tmp_path


def expose(root, **changes):
    return observe(root, **{**vars(NRS1), **changes})


def plan(root, exposures, **options):
    options = Options(root=root, **options)
    roles = sort_by_role(exposures, "NRS_IFU", NIRSPEC.sees_light)
    products = starting_products(roles, "uncal")
    return plan_steps(_steps(NIRSPEC, options, (), STEPS), STEPS, products, options)


def test_both_detectors_of_a_dither_make_one_cube(root):
    tasks = plan(root, [expose(root, dither=n, detector=d) for n in (1, 2) for d in ("NRS1", "NRS2")])
    name = "Level3_g395h-f290lp_s3d"
    assert outputs(tasks, "stage3", root) == [f"stage3/{place}/{name}.fits" for place in ("combined", "d1", "d2")]
    assert outputs(tasks, "despike", root)[0] == f"stage4_despike/combined/{name}_nav.fits"
    assert outputs(tasks, "plot", root)[0] == f"plots/stage4_despike/combined/{name}_nav.png"
    stage3 = {task.outputs[0].parent.name: task for task in tasks if task.step == "stage3"}
    assert [len(stage3[place].inputs) for place in ("d1", "d2", "combined")] == [2, 2, 4]
    # Two detectors of one dither have nothing in common that could be compared.
    assert stage3["d1"].arguments["steps"]["outlier_detection"]["skip"]
    assert "skip" not in stage3["combined"].arguments["steps"]["outlier_detection"]
    assert stage3["combined"].memory > stage3["d1"].memory


def test_flats_are_applied_after_despiking(root):
    tasks = plan(root, [expose(root, dither=n) for n in range(1, 5)], construct_flats=True)
    assert outputs(tasks, "flat", root)[0] == "flats/g395h-f290lp_constructed_flat.fits"
    assert "stage5_flat/d1/Level3_g395h-f290lp_s3d_nav.fits" in outputs(tasks, "flat", root)
    flat = next(task for task in tasks if task.step == "flat" and task.outputs[0].parent.name == "d1")
    assert flat.inputs[0] == root / "stage4_despike" / "d1" / "Level3_g395h-f290lp_s3d_nav.fits"


@pytest.mark.parametrize(
    ("grating", "filter_name", "used"),
    [("G395M", "F290LP", 1), ("PRISM", "CLEAR", 1), ("G140H", "F070LP", 1), ("G140H", "F100LP", 2)],
)
def test_a_detector_that_sees_no_light_is_left_out(root, grating, filter_name, used):
    exposures = [expose(root, detector=d, grating=grating, filter=filter_name) for d in ("NRS1", "NRS2")]
    assert len([task for task in plan(root, exposures) if task.step == "stage1"]) == used


def test_leakcal_of_the_same_grating_detector_and_dither(root):
    science = [expose(root, dither=n) for n in (1, 2)]
    leakcal = [expose(root, dither=n, is_imprint=True, activity="05") for n in (1, 2)]
    others = [
        expose(root, is_imprint=True, activity="06", grating="G235H", filter="F170LP"),
        expose(root, is_imprint=True, activity="05", detector="NRS2"),
    ]
    tasks = [task for task in plan(root, [*science, *leakcal, *others]) if task.step == "stage2"]
    for task, own in zip(tasks, leakcal, strict=True):
        assert [path.name for path in task.arguments["imprints"]] == [f"{own.name}_rate.fits"]


def test_flicker_noise_is_cleaned_unless_told_otherwise(root):
    (task,) = [task for task in plan(root, [expose(root)]) if task.step == "stage1"]
    assert not task.arguments["steps"]["clean_flicker_noise"]["skip"]
    off = {"stage1": {"clean_flicker_noise": {"skip": True}}}
    (task,) = [task for task in plan(root, [expose(root)], step_kwargs=off) if task.step == "stage1"]
    assert task.arguments["steps"]["clean_flicker_noise"]["skip"]
