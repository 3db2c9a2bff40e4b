"""`ramp_desaturation` as a step that `Detector1Pipeline` runs before its jump step."""

import logging
from pathlib import Path
from typing import Any

from jwst.stpipe import Step
from stdatamodels.jwst.datamodels import RampModel

import jwst_stages
from ramp_desaturation import choose_groups_of_model, stage1_steps

log = logging.getLogger("stpipe.choose_groups")


class ChooseGroupsStep(Step):
    """Choose for each pixel the groups of its ramp that are fitted."""

    class_alias = "choose_groups"

    spec = """
        minimum_groups = integer(default=1, min=1, max=2)  # groups that a pixel needs
        onset_drop = float(default=0.02)  # share by which a step up the ramp falls short when it is saturated
    """

    def process(self, model: RampModel) -> RampModel:
        """Flag the groups of the ramp model in place, and give it back."""
        chosen = choose_groups_of_model(model, minimum_groups=self.minimum_groups, onset_drop=self.onset_drop)
        log.info("Ramps bend from %s DN on; %s", chosen.onset, chosen)
        return model


def run_stage1(path_in: Path, path_out: Path, *, steps: jwst_stages.StepParameters | None = None) -> dict[str, Any]:
    """`jwst_stages.run_stage1` with groups chosen for each pixel; parameters, result and errors as of that."""
    return jwst_stages.run_stage1(path_in, path_out, steps=stage1_steps(steps))
