"""Which trainings an ablation consists of, read from its overlay in `conf/ablation/`.

An overlay with a section that stage 1 reads has a stage 1 of its own, and its stage 2 builds on
that; any other builds on the stage 1 without ablation. `chain: {stage1: NAME}` in an overlay builds
on the stage 1 of another one, `chain: {ends: stage1}` says that no stage 2 follows. A stage 1 that
`continues` goes on from that without ablation, or from that of `chain: {after: NAME}`.
"""

from typing import NamedTuple

import yaml

from vplib import paths

NOTEBOOKS = STAGE1, STAGE2, SCORES = "20_stage1", "30_stage2", "52_scores"


class Step(NamedTuple):
    """A run of a chain: its notebook and the ablation in its name."""

    notebook: str
    ablation: str


def stage1(ablation: str) -> str:
    """The ablation whose stage 1 a training or an evaluation of `ablation` builds on."""
    overlay = _overlay(ablation)
    named = overlay.get("chain", {}).get("stage1")
    model = {*overlay.get("model", {})} - {"decoder"}  # the decoders are stage 2's
    return named or (ablation if {"stage1", "data"} & {*overlay} or model else "none")


def before(ablation: str) -> str:
    """The ablation whose stage 1 that of `ablation` goes on from, where it `continues` one."""
    return _overlay(ablation).get("chain", {}).get("after", "none")


def trainings(ablation: str) -> list[Step]:
    """The trainings of an ablation in order; the last one makes the encoder that is judged."""
    overlay, first = _overlay(ablation), stage1(ablation)
    steps = [Step(STAGE1, first)]
    if overlay.get("stage1", {}).get("continues"):
        steps.insert(0, Step(STAGE1, before(ablation)))
    if overlay.get("chain", {}).get("ends") != "stage1":
        steps.append(Step(STAGE2, ablation))
    return steps


def steps(ablation: str) -> list[Step]:
    """The trainings and the run that judges their encoder."""
    return [*trainings(ablation), Step(SCORES, ablation)]


def judged(ablation: str) -> list[str]:
    """The encoders that SCORES judges: the `final` one, and `stage1` where a stage 2 follows one
    that was trained for this ablation.
    """
    last = trainings(ablation)[-1]
    own = last.notebook == STAGE2 and stage1(ablation) == ablation
    return ["final", *(["stage1"] if own else [])]


def _overlay(ablation: str) -> dict:
    file = paths.CONF / "ablation" / f"{ablation}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) or {}
