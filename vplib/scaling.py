"""The scaling study: chains of a sweep that differ in the model's size, the clips or the steps.

Each is an ablation (`size_96`, `data_300`, `steps_double` ...) around the method as published at
this scale, `none`; `51_scaling` draws what their scores say.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special

from vplib import chains, comparisons, paths, sweep
from vplib.chains import Step
from vplib.method import compute
from vplib.model.cost import encoder_operations
from vplib.model.sizes import Sizes
from vplib.sweep import Run
from vplib.world.corpora import CORPORA

AXES = {  # what grows, and the ablations along it, from small to large
    "size": ("size_32", "none", "size_96"),
    "data": ("data_75", "data_300", "none"),
    "steps": ("none", "steps_double", "steps_triple"),
}
STAGES = {"stage 1": ".stage1", "stage 2": ""}


class Cost(NamedTuple):
    """Of a chain: operations of a clip's forward pass through the encoder, of a sample in training
    and of all steps; `samples` and `steps` of a stage.
    """

    encoder: float
    sample: float
    all: float
    samples: float  # of a step
    steps: int


def forward(model: Mapping) -> float:
    """Operations of a clip's forward pass through the video encoder of a `conf/model` file."""
    sizes = Sizes.of(model)
    return encoder_operations(sizes, sizes.places)


def cost(scale: str, step: Step) -> Cost:
    """Of one training, as its configuration says."""
    cfg = sweep.composed(scale, Run(step, 0))
    if step.notebook == chains.STAGE1:
        mix = cfg.data.corpora
        images = sum(share for name, share in mix.items() if CORPORA[name].images)
        images /= sum(mix.values())
        own, whole = cfg.stage1, compute.stage1(cfg, images=images)
        samples = images * own.image_batch + (1 - images) * own.batch
    else:
        own, whole, samples = cfg.stage2, compute.stage2(cfg), float(cfg.stage2.batch)
    steps = round(own.times * own.steps)
    return Cost(forward(cfg.model), whole / steps / samples, whole, samples, steps)


def amount(scale: str, axis: str, ablation: str) -> float:
    """How much of it there is: operations of a clip's forward pass, clips of each corpus, or steps
    of stage 2.
    """
    if axis == "data":
        return float(sweep.composed(scale, Run(Step(chains.STAGE2, ablation), 0)).data.clips)
    known = cost(scale, Step(chains.STAGE2, ablation))
    return known.encoder if axis == "size" else float(known.steps)


def points(scores: pd.DataFrame, scale: str, tasks: Mapping[str, str]) -> pd.DataFrame:
    """A row for every axis, ablation, stage, task and seed of a sweep's rows: `amount`, the
    `operations` of all trainings up to that stage, and the score in per cent.
    """
    found = []
    for axis, ablations in AXES.items():
        for ablation in ablations:
            each = [cost(scale, step).all for step in chains.trainings(ablation)]
            told = {"axis": axis, "ablation": ablation, "amount": amount(scale, axis, ablation)}
            for stage, encoder in STAGES.items():
                spent = sum(each[: 1 + (stage == "stage 2")])
                own = told | {"stage": stage, "operations": spent}
                for task in tasks:
                    values = comparisons.each(scores, task, ablation + encoder)
                    found += [
                        own | {"task": task, "seed": s, "value": v} for s, v in values.items()
                    ]
    columns = ["axis", "ablation", "amount", "stage", "operations", "task", "seed", "value"]
    return pd.DataFrame(found, columns=columns)


class Slope(NamedTuple):
    """What a value gains with each doubling: with its 95% t interval, over so many points."""

    value: float
    low: float
    high: float
    points: int
    seeds: int


def slope(
    amounts: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"], seeds: Int[np.ndarray, " N"]
) -> Slope | None:
    """The gain with each doubling of the amount: least squares on its logarithm, with a level of its
    own for every seed, so that seeds differ in their level and not in what is asked.

    Deviations from the line are taken as independent and equal; with N points and S seeds they have
    N - S - 1 degrees of freedom. None where there is none left, or only one amount.
    """
    names = np.unique(seeds)
    own = seeds == names[:, None]  # S N
    x, y = (v - (own @ v / own.sum(1)) @ own for v in (np.log2(amounts), np.asarray(values, float)))
    free, square = len(x) - len(names) - 1, float(x @ x)
    if free < 1 or square < 1e-12:
        return None
    value = float(x @ y) / square
    error = (float(((y - value * x) ** 2).sum()) / free / square) ** 0.5
    reach = float(special.stdtrit(free, 0.975)) * error
    return Slope(value, value - reach, value + reach, len(x), len(names))


def slopes(found: pd.DataFrame) -> pd.DataFrame:
    """A row for every axis, task and stage of `points`, and for what stage 2 adds: its Slope."""
    keys = ["axis", "task", "ablation", "amount", "seed"]
    wide = found.pivot(index=keys, columns="stage", values="value").reindex(columns=[*STAGES])
    wide["stage 2 - stage 1"] = wide["stage 2"] - wide["stage 1"]
    rows = []
    for (axis, task), part in wide.groupby(["axis", "task"], sort=False):
        for what in wide:
            own = part[what].dropna()
            amounts, seeds = (own.index.get_level_values(k).to_numpy() for k in ("amount", "seed"))
            fit = len(own) and slope(amounts.astype(float), own.to_numpy(), seeds.astype(int))
            if fit:
                rows.append({"axis": axis, "task": task, "what": what} | fit._asdict())
    return pd.DataFrame(rows, columns=["axis", "task", "what", *Slope._fields])


def speeds(scale: str) -> pd.DataFrame:
    """Seconds a sample beside operations a sample, of every training here that left its speed: of
    its rows without the first, which holds compilation, the median.
    """
    found = []
    steps = {step for names in AXES.values() for name in names for step in chains.trainings(name)}
    for step in sorted(steps):
        folder = paths.OUT / sweep.composed(scale, Run(step, 0)).out
        for file in sorted(folder.parent.glob(f"{folder.name[:-1]}*/speed.csv")):
            rate = pd.read_csv(file)["steps_per_second"]
            known = cost(scale, step)
            seconds = 1 / float(rate.iloc[1:].median() if len(rate) > 1 else rate.iloc[0])
            told = {"training": step.notebook, "ablation": step.ablation}
            told |= {"seed": int(file.parent.name.rpartition("-s")[2])}
            told |= {"operations": known.sample, "seconds": seconds / known.samples}
            found.append(told)
    columns = ["training", "ablation", "seed", "operations", "seconds"]
    return pd.DataFrame(found, columns=columns)
