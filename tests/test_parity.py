"""`benchmarks/parity.py`, with a file of the released layout and a package that stands in for the
official one, which is not here."""

import importlib.util
import re
import sys
import types

import pytest
import toy
from test_checkpoints import REPOSITORY, hub, released_as  # noqa: F401 (a fixture)

from vplib import paths
from vplib.model import checkpoints

spec = importlib.util.spec_from_file_location("parity", paths.ROOT / "benchmarks/parity.py")
parity = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parity)


class Stand:
    """What `videoprism.models` has of a model: `apply`, which returns outputs and features."""

    def __init__(self, off: float):
        self.off = off

    def apply(self, weights, video, *, train: bool):
        assert not train and video.dtype == "float32"
        return checkpoints.build(weights, name="theirs")(video) + self.off, {}


def stand_in(monkeypatch, off: float) -> list[str]:
    """Returns the files that the package is asked to load."""
    asked = []

    def load(name, checkpoint_path=None):
        assert name is None
        asked.append(checkpoint_path)
        return checkpoints.read(checkpoint_path)

    models = types.ModuleType("videoprism.models")
    models.MODELS = {"videoprism_public_v1_base": lambda: Stand(off)}
    models.load_pretrained_weights = load
    monkeypatch.setitem(sys.modules, "videoprism", types.ModuleType("videoprism"))
    monkeypatch.setitem(sys.modules, "videoprism.models", models)
    return asked


def start(monkeypatch, name=REPOSITORY) -> None:
    monkeypatch.setattr(sys, "argv", ["parity.py", name])
    parity.main()


@pytest.fixture
def file(hub, monkeypatch):  # noqa: F811
    model = toy.encoder()
    released_as(monkeypatch, model)
    return hub(model)


def test_the_same_weights_and_clips_go_to_both(file, monkeypatch, capsys):
    asked = stand_in(monkeypatch, 0.0)
    start(monkeypatch)
    assert asked == [str(file)]
    said = capsys.readouterr().out
    assert float(re.fullmatch(rf"{REPOSITORY}, tokens: largest difference (\S+)\n", said)[1]) < 1e-5


def test_a_difference_is_found_and_ends_with_an_error(file, monkeypatch, capsys):
    stand_in(monkeypatch, 0.01)
    with pytest.raises(SystemExit, match="error: a difference is larger than 0.001"):
        start(monkeypatch)
    assert "largest difference 1.00e-02" in capsys.readouterr().out


def test_what_is_missing_is_one_sentence(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "videoprism", None)
    with pytest.raises(SystemExit, match="error: the official package is not installed .* pip"):
        start(monkeypatch)
    with pytest.raises(SystemExit, match="error: mine is no released model: give one of google/"):
        start(monkeypatch, "mine")
