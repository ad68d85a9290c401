"""Digests follow what is computed: not words, not layout, not what nobody calls."""

import json
import shutil

import pytest

from vplib import code, paths

MODULES = {
    "data/video.py": '"""Words."""\nSIZE, RATE = 3, 4\ndef decode(x):\n    return _read(x)\ndef _read(x):\n    return x * SIZE\n'
    "def other(x):\n    return x\n",
    "data/pipeline.py": "from vplib.data import video\nfrom vplib.train.loop import fit\nclass Source:\n"
    "    def get(self):\n        return video.decode(1)\nSource.limit = 2\n",
    "train/loop.py": "def fit(x):\n    return x\nif __name__ == '__main__':\n    fit(3)\n",
}
CELL = "from vplib.data import pipeline\nsource = pipeline.Source()"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """`library(path=text, ...)`: digests of a notebook that uses `pipeline.Source` of them."""
    monkeypatch.setattr(code, "HERE", tmp_path)

    def digests(cell: str = CELL, **changed: str) -> dict[str, str]:
        code._module.cache_clear()
        for name, text in (
            MODULES | {k.replace("__", "/") + ".py": v for k, v in changed.items()}
        ).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        cells = [
            {"cell_type": "markdown", "source": ["prose"]},
            {"cell_type": "code", "source": [cell]},
        ]
        (tmp_path / "20_toy.ipynb").write_text(json.dumps({"cells": cells}))
        return code.of_notebook(tmp_path / "20_toy.ipynb")

    yield digests
    code._module.cache_clear()


def test_what_is_reached_counts_and_nothing_else(library):
    first = library()
    assert [*first] == ["20_toy", "vplib.data.pipeline", "vplib.data.video"]  # nobody calls `fit`
    video = MODULES["data/video.py"]
    for words in (
        video.replace("Words", "Other words"),
        video.replace("def _read(x):\n", 'def _read(x):\n    """What it does."""\n    # why\n\n'),
        video + "def new():\n    return 1\n",
        video.replace("def other(x):\n    return x", "def other(x):\n    return 2 * x"),
    ):
        assert library(data__video=words) == first
    for change in (
        ("x * SIZE", "x + SIZE"),
        ("SIZE, RATE = 3, 4", "SIZE, RATE = 5, 4"),
        ("_read(x)\n", "_read(2)\n"),
    ):
        changed = library(data__video=video.replace(*change))
        assert changed != first and changed["vplib.data.pipeline"] == first["vplib.data.pipeline"]
    assert library(train__loop="def fit(x):\n    return 0\n") == first
    assert (
        library(data__pipeline=MODULES["data/pipeline.py"].replace("limit = 2", "limit = 3"))
        != first
    )
    assert library(cell=CELL + "\nsource.get()") != first
    assert library(cell=CELL + "  # a comment") == first
    assert "vplib.train.loop" in library(
        cell=CELL + "\nfrom vplib.data.pipeline import fit\nfit(1)"
    )


def test_a_module_used_as_a_whole_counts_as_a_whole(library):
    whole = library(cell="from vplib.data import video\nprint(video)")
    other = MODULES["data/video.py"].replace("return x\n", "return 2 * x\n")
    assert library(cell="from vplib.data import video\nprint(video)", data__video=other) != whole


@pytest.mark.parametrize("name", ["20_stage1", "30_stage2"])
def test_training_depends_on_what_decides_its_frames_and_steps(name):
    """A list typed by hand would lack some of these."""
    reached = code.of_notebook(paths.NOTEBOOKS / f"{name}.ipynb")
    assert {
        f"vplib.{module}"
        for module in (
            "data.video",
            "data.shards",
            "data.pipeline",
            "method.stages",
            "method.masking",
            "method.losses",
            "model.attention",
            "model.layers",
            "model.encoders",
            "train.loop",
            "train.optimiser",
            "train.sharding",
        )
    } <= reached.keys()
    assert not {"vplib.world.scenes", "vplib.evaluate.heads", "vplib.config"} & reached.keys()


def test_digests_are_the_same_in_every_process(tmp_path, monkeypatch):
    before = code.of_notebook(paths.NOTEBOOKS / "20_stage1.ipynb")
    shutil.copytree(code.HERE, tmp_path / "vplib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "HERE", tmp_path / "vplib")
    code._module.cache_clear()
    assert code.of_notebook(paths.NOTEBOOKS / "20_stage1.ipynb") == before
    code._module.cache_clear()
