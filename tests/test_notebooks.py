"""Every notebook runs at scale=smoke, through the runner, each on what earlier ones left behind."""

import shutil
from pathlib import Path

import pytest

from vplib import config, paths, results, run


def order(name: str) -> tuple[int, str]:
    """Data, training, evaluation, then the lessons, which may use any of it, then the figures."""
    tens = int(name[0])
    return (5 if tens == 0 else tens, name)


@pytest.mark.parametrize(
    "name", sorted((file.stem for file in paths.NOTEBOOKS.glob("*.ipynb")), key=order)
)
def test_notebook_runs(name):
    if name == "49_baselines":
        stand_in("20_stage1", "single_frame", "stage1_continued")
        stand_in("30_stage2", "videomae", "umt")
    run.run(name, ["scale=smoke"])


def stand_in(name: str, *ablations: str) -> None:
    """Finished runs of ablations, with the weights of the one without: their trainings are those of
    test_ablations, in a fraction of the time."""
    for ablation in ablations:
        cfg = config.load(name, f"scale=smoke ablation={ablation}")
        shutil.copy(results.run(cfg, name) / "weights.npz", Path(cfg.out) / "weights.npz")
