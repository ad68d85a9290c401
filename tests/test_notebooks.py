"""Every notebook runs at scale=smoke, through the runner, each on what earlier ones left behind."""

import pytest

from vplib import paths, run


def order(name: str) -> tuple[int, str]:
    """Data, training, evaluation, then the lessons, which may use any of it, then the figures."""
    tens = int(name[0])
    return (5 if tens == 0 else tens, name)


@pytest.mark.parametrize(
    "name", sorted((file.stem for file in paths.NOTEBOOKS.glob("*.ipynb")), key=order)
)
def test_notebook_runs(name):
    run.run(name, ["scale=smoke"])
