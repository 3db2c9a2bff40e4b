"""Everything a run needs, checked before its first task: what is wrong now would be found out after hours.

In: the input of a run, its plan and the tasks that are still to be done. Out: a `Finding` for each check, or several;
`format_findings` makes them a table with what is wrong first.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from correction_plans import LEAST_DITHERS_FOR_FLAT
from crds_references import (
    can_download,
    crds_catalogue,
    damaged_mappings,
    fetch_anew,
    find_references,
    reference_damage,
)
from errors import CrdsError, InputError, KernelError
from files import written_whole
from instruments import STAGE2_DEFAULTS, Instrument
from jwst_stages import StepParameters
from observations import Exposure
from pipeline import DiskFull, Executor, Plan, Task, check_disk_space
from pipeline.memory import memory_budget
from pipeline.records import file_signature
from pipeline_input import Input
from pipeline_options import JWST_STAGES
from product_sizes import bytes_needed
from reduction import Options
from stage_plans import merged_steps, stage3_defaults

# A run does not start; it goes on without an exposure; it goes on, but have a look; all is well.
WRONG, LOST, DOUBTFUL, FINE = "wrong", "lost", "doubtful", "fine"
STATES = (WRONG, LOST, DOUBTFUL, FINE)
NAVIGATED = {"navigate", "psf", "plot", "animate"}
MAXIMUM_NAMES = 3
# How many tasks may run at one time where that is not known.
TASKS_OF_A_CLUSTER = 64


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    state
        One of `STATES`.
    check
        What was looked at, in one word.
    text
        What was found, and what to do about it.
    """

    state: str
    check: str
    text: str


def by_state(finding: Finding) -> int:
    """Key for sorting: the worst first."""
    return STATES.index(finding.state)


def format_findings(findings: Iterable[Finding]) -> str:
    """A table of findings, the worst first."""
    rows = sorted(findings, key=by_state)
    return "\n".join(f"{row.state:<9} {row.check:<11} {row.text}" for row in rows)


# --- the input ------------------------------------------------------------------------------------------------------


def check_input(
    instrument: Instrument, options: Options, found: Input, backgrounds: Sequence[Exposure]
) -> list[Finding]:
    """Check the exposures of a run against one another; nothing but their headers is needed.

    Parameters
    ----------
    instrument, options
        What runs.
    found
        The exposures.
    backgrounds
        Those of `background_path`; without any the root's own serve.
    """
    roles = found.roles
    findings = [Finding(LOST, "exposures", text) for text in (*found.unreadable, *found.damaged)]
    findings += _left_out(instrument, roles.left_out)
    findings += [Finding(WRONG, "exposures", text) for text in _duplicates([*roles.used, *roles.left_out])]
    targets = sorted({exposure.target for exposure in roles.science})
    if len(targets) > 1:
        text = f"there are several targets here ({', '.join(targets)}): put each into a root of its own, or make sure "
        findings.append(Finding(DOUBTFUL, "exposures", text + "that flats and animations may take them together"))
    if not findings:
        counts = {"science": roles.science, "background": roles.background, "leakcal": roles.imprint}
        text = ", ".join(f"{len(exposures)} {role}" for role, exposures in counts.items() if exposures)
        findings.append(Finding(FINE, "exposures", f"{text or len(found.products)} of {', '.join(targets) or 'cubes'}"))
    if options.construct_flats:
        findings += _too_few_dithers(roles.science)
    return findings + list(_check_backgrounds(options, roles.science, [*backgrounds] or roles.background))


def _left_out(instrument: Instrument, exposures: Iterable[Exposure]) -> list[Finding]:
    names: dict[str, list[str]] = {}
    for exposure in exposures:
        reason = f"no light of {exposure.grating}/{exposure.filter} falls on {exposure.detector}"
        if exposure.exposure_type != instrument.exposure_type:
            reason = f"{exposure.exposure_type} is no integral-field exposure"
        names.setdefault(reason, []).append(exposure.path.name)
    return [
        Finding(DOUBTFUL, "exposures", f"{_listed(own)} {'is' if len(own) == 1 else 'are'} left out: {reason}")
        for reason, own in names.items()
    ]


def _duplicates(exposures: Iterable[Exposure]) -> list[str]:
    same: dict[tuple, list[Path]] = {}
    for exposure in exposures:
        if exposure.identity is not None:
            same.setdefault(exposure.identity, []).append(exposure.path)
    return [
        f"{_listed([path.name for path in paths])} in {paths[0].parent} are the same exposure: keep one of them."
        for paths in same.values()
        if len(paths) > 1
    ]


def _too_few_dithers(science: Iterable[Exposure]) -> Iterator[Finding]:
    dithers: dict[tuple[str, ...], set[int]] = {}
    for exposure in science:
        dithers.setdefault(exposure.setting, set()).add(exposure.dither)
    for setting, numbers in dithers.items():
        if len(numbers) < LEAST_DITHERS_FOR_FLAT:
            text = f"no flat is constructed for {' '.join(setting)}: {LEAST_DITHERS_FOR_FLAT} dithers needed, "
            yield Finding(DOUBTFUL, "flats", text + f"{len(numbers)} there")


def _check_backgrounds(
    options: Options, science: Sequence[Exposure], backgrounds: Sequence[Exposure]
) -> Iterator[Finding]:
    groups: dict[tuple[str, ...], set[int]] = {}
    for exposure in backgrounds:
        groups.setdefault(exposure.mode, set()).add(exposure.groups)
    wanted = options.background_subtract is True or options.background_path is not None
    used = dict.fromkeys((e.mode, e.groups) for e in science) if options.background_subtract else ()
    for mode in dict.fromkeys(mode for mode, _ in used):
        if mode not in groups and wanted:
            yield Finding(DOUBTFUL, "background", f"no background for {_mode_name(mode)}: not subtracted")
    differing = [(mode, number) for mode, number in used if mode in groups and groups[mode] != {number}]
    for mode, number in differing:
        others = " and ".join(map(str, sorted(groups[mode])))
        text = f"{_mode_name(mode)} has {number} groups, its background {others}: what a ramp's length leaves does not "
        yield Finding(DOUBTFUL, "background", text + "cancel")
    if groups and not differing and used:
        yield Finding(FINE, "background", "of the same modes and groups as the science exposures")


def _mode_name(mode: Sequence[str]) -> str:
    return " ".join(part for part in mode if part != "N/A")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAXIMUM_NAMES} more" if len(names) > MAXIMUM_NAMES else ""
    return f"{', '.join(names[:MAXIMUM_NAMES])}{more}"


# --- what the tasks need --------------------------------------------------------------------------------------------


def check_needs(
    instrument: Instrument,
    options: Options,
    plan: Plan,
    pending: Sequence[Task],
    found: Input,
    executor: Executor | None,
) -> list[Finding]:
    """Check what the tasks that are still to be done need; reference files that are missing are fetched.

    Parameters
    ----------
    instrument, options, plan, found
        What runs on what.
    pending
        The tasks that are still to be done.
    executor
        Where they run, None for other machines: the memory of these is not known.
    """
    if not pending:
        return [Finding(FINE, "tasks", f"all {len(plan.tasks)} are done: nothing is needed")]
    steps = {task.step for task in pending}
    findings = [Finding(FINE, "tasks", f"{len(pending)} of {len(plan.tasks)} are to be done")]
    if steps & NAVIGATED and not options.basic_navigation:
        findings += _check_kernels(options, found)
    stages = sorted(steps & set(JWST_STAGES) | ({"stage2"} if "defringe" in steps else set()))
    sound = _Sound(options.root / "logs" / "references.json")
    if stages:
        findings += _check_references(
            _wanted_references(instrument, options, found, stages, "defringe" in steps), sound
        )
    findings.append(
        _check_disk(instrument, plan, pending, found, executor.capacity if executor else TASKS_OF_A_CLUSTER)
    )
    if executor is not None:
        findings.append(_check_memory(plan, pending, executor))
    if "animate" in steps:
        findings.append(_check_ffmpeg())
    if not any(finding.state == WRONG for finding in findings):
        # A run that does not start leaves nothing behind.
        sound.save()
    return findings


def _check_kernels(options: Options, found: Input) -> Iterator[Finding]:
    """Positions of the target at the start, middle and end of every exposure."""
    # SPICE takes 0.2 s to import.
    from navigate import check_kernels
    from spice_kernels import kernels_loaded

    wanted = options.of_step("navigate")
    parameters = {name: wanted[name] for name in ("kernel_path", "target") if name in wanted}
    exposures = [product.exposure for product in found.products if product.role == "science"]
    failed: dict[tuple[str, str], list[str]] = {}
    warned: dict[str, None] = {}
    try:
        with kernels_loaded(wanted.get("kernel_path")):
            for exposure in exposures:
                try:
                    warned |= dict.fromkeys(check_kernels(exposure.path, **parameters))
                except InputError as error:
                    failed.setdefault((exposure.target, exposure.date), []).append(str(error))
    except KernelError as error:
        yield Finding(WRONG, "kernels", str(error))
        return
    # Where one of several has an odd name or date, the others are not kept waiting for it.
    state = WRONG if sum(map(len, failed.values())) == len(exposures) else LOST
    for text in dict.fromkeys(texts[0] for texts in failed.values()):
        yield Finding(state, "kernels", text)
    for text in warned:
        yield Finding(DOUBTFUL, "kernels", text)
    if not failed and not warned:
        places = dict.fromkeys(f"{exposure.target} on {exposure.date}" for exposure in exposures)
        yield Finding(FINE, "kernels", f"cover {_listed(list(places))}")


def _check_references(wanted: Mapping[Path, Mapping[str, StepParameters]], sound: "_Sound") -> Iterator[Finding]:
    references, problems = find_references(wanted)
    bad = {path: "its text has not the SHA-1 sum that it says" for path in damaged_mappings()} if problems else {}
    if bad:
        yield from _mend(bad)
        references, problems = find_references(wanted)
    if problems and len(problems) == len(wanted):
        name, reason = next((path.name, reason) for path, reason in problems.items())
        text = f"CRDS found no reference files with CRDS_PATH={os.environ['CRDS_PATH']}, CRDS_SERVER_URL="
        text += f"{os.environ.get('CRDS_SERVER_URL', 'not set')}: {name}: {reason}; check both, and the network."
        yield Finding(WRONG, "references", text)
        return
    for path, reason in problems.items():
        yield Finding(LOST, "references", f"{path.name}: no reference files ({reason})")
    catalogue = crds_catalogue()
    unknown = [path for path in sorted(references) if not sound.knows(path)]
    damaged = {path: damage for path in unknown if (damage := reference_damage(path, catalogue)) is not None}
    if damaged:
        yield from _mend(damaged)
    sound.add(path for path in unknown if path not in damaged)
    if not damaged and not problems:
        proof = "by the catalogue of CRDS" if catalogue else "by their own structure"
        yield Finding(FINE, "references", f"{len(references)} files, {len(unknown)} checked now {proof}")


def _wanted_references(
    instrument: Instrument, options: Options, found: Input, stages: Sequence[str], defringe: bool
) -> dict[Path, dict[str, StepParameters]]:
    """The stages that each exposure goes through, with their parameters."""
    stage2 = STAGE2_DEFAULTS
    if defringe:
        # That step is one of stage 2 in `jwst`, where it is skipped by default.
        stage2 = {**stage2, "residual_fringe": {"skip": False}}
    defaults = {"stage2": stage2, "stage3": stage3_defaults(instrument)}
    return {
        product.path: {
            stage: merged_steps(
                instrument.stage1_defaults(product.exposure) if stage == "stage1" else defaults[stage],
                options.of_step(stage),
            )
            for stage in stages
        }
        for product in found.products
        if product.path.exists() and product.level != "cube"
    }


def _mend(damaged: Mapping[Path, str]) -> Iterator[Finding]:
    """Fetch damaged files of the CRDS cache anew, where that is possible."""
    failure = "there is no CRDS server to fetch it from; set CRDS_SERVER_URL, or put it there yourself"
    if can_download():
        try:
            fetch_anew(damaged)
        except CrdsError as error:
            failure = str(error)
        else:
            for path, damage in damaged.items():
                yield Finding(DOUBTFUL, "references", f"{path} was damaged ({damage}) and has been fetched anew")
            return
    for path, damage in damaged.items():
        yield Finding(WRONG, "references", f"{path} is damaged: {damage}. Remove it: {failure}")


class _Sound:
    """The reference files that were found to be whole, remembered from run to run as long as they stay the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        self._known: dict[str, list[int]] = {}
        # A damaged file only costs checking again.
        with suppress(OSError, ValueError, TypeError):
            self._known = dict(json.loads(path.read_text(encoding="utf-8")))

    def knows(self, path: Path) -> bool:
        with suppress(OSError):
            return self._known.get(str(path)) == list(file_signature(path))
        return False

    def add(self, paths: Iterable[Path]) -> None:
        new = {str(path): list(file_signature(path)) for path in paths}
        self._known |= new
        self._changed = self._changed or bool(new)

    def save(self) -> None:
        if self._changed:
            with suppress(OSError), written_whole(self._path) as temporary:
                temporary.write_text(json.dumps(self._known), encoding="utf-8")


def _check_disk(instrument: Instrument, plan: Plan, pending: Sequence[Task], found: Input, at_once: int) -> Finding:
    groups = {product.path: product.exposure.groups for product in found.products}
    needed = bytes_needed(instrument, plan.tasks, pending, groups, at_once)
    try:
        free = check_disk_space(plan.root, needed)
    except DiskFull as error:
        return Finding(WRONG, "disk", str(error))
    return Finding(FINE, "disk", f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.0f} GB free")


def _check_memory(plan: Plan, pending: Sequence[Task], executor: Executor) -> Finding:
    largest = max(pending, key=lambda task: task.memory)
    budget = min(executor.memory, memory_budget())
    if largest.memory > budget:
        text = f"{largest.outputs[0].relative_to(plan.root)} needs about {largest.memory / 1e9:.1f} GB of memory, "
        text += f"{budget / 1e9:.1f} GB may be used: it will run alone, and might be killed"
        return Finding(DOUBTFUL, "memory", text)
    return Finding(
        FINE, "memory", f"a task needs up to {largest.memory / 1e9:.1f} GB, {budget / 1e9:.1f} GB may be used"
    )


def _check_ffmpeg() -> Finding:
    from video import ffmpeg_path

    try:
        return Finding(FINE, "FFmpeg", ffmpeg_path())
    except InputError as error:
        return Finding(WRONG, "FFmpeg", str(error))
