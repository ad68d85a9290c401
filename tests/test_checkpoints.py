"""Weights files: the released layout, exact, byte-stable, and a sentence for each file that does not fit."""

import zipfile

import numpy as np
import pytest
import toy
from flax import nnx

from vplib import checkpoints, paths
from vplib.checkpoints import CheckpointError
from vplib.encoders import VideoEncoder, VideoText

GOLDEN = paths.ROOT / "tests" / "golden" / "videotext.npz"
REFERENCE = paths.ROOT.parent / "shared" / "golden"
reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder with parameters of the released code is absent")


def shapes(arrays) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in arrays.items() if name.startswith("params/")}


# --- the layout -------------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_the_released_ones():
    vision = dict(patch=4, size=12, frames=3, width=16, spatial_layers=2, temporal_layers=2, heads=2, mlp=64)
    text = dict(vocabulary=40, layers=2, mlp=64)
    model = toy.filled(lambda: VideoText(vision=vision, text=text, aux_layers=1, pooler_inner=64, rngs=nnx.Rngs(0)))
    flat = checkpoints.flatten(model)
    assert shapes(flat) == shapes(np.load(GOLDEN))
    assert flat["params/vision_encoder/spatial_encoder/transformers_stack/x_layers/self_attention/query/w"].shape == (2, 16, 2, 8)


@reference
def test_names_and_shapes_are_those_of_the_released_code():
    vision = dict(patch=6, size=24, frames=4, width=48, spatial_layers=3, temporal_layers=2, heads=4, mlp=96)
    text = dict(vocabulary=101, layers=2, mlp=192)
    model = toy.filled(lambda: VideoText(vision=vision, text=text, aux_layers=1, pooler_inner=192, rngs=nnx.Rngs(0)))
    assert shapes(checkpoints.flatten(model)) == shapes(np.load(REFERENCE / "lvt_params.npz"))
    encoder = toy.filled(lambda: VideoEncoder(**vision, rngs=nnx.Rngs(0)))
    assert shapes(checkpoints.flatten(encoder)) == shapes(np.load(REFERENCE / "encoder_params.npz"))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_round_trip_is_exact_and_anyone_can_read_the_file(tmp_path):
    model, other = toy.encoder(0), toy.encoder(1)
    checkpoints.save(model, tmp_path / "deep" / "weights.npz")
    checkpoints.assign(other, checkpoints.read(tmp_path / "deep" / "weights.npz"))
    for name, value in toy.leaves(model).items():
        assert np.asarray(value).tobytes() == np.asarray(toy.leaves(other)[name]).tobytes()
    assert np.load(tmp_path / "deep" / "weights.npz").files == sorted(checkpoints.flatten(model))


def test_equal_weights_give_equal_bytes_at_any_time(tmp_path):
    for name in ("one", "two"):
        checkpoints.save(toy.encoder(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with zipfile.ZipFile(tmp_path / "one") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_disturbed_save_leaves_the_older_file(tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"half a")
        raise OSError("No space left on device")

    checkpoints.save(toy.encoder(0), tmp_path / "weights.npz")
    before = (tmp_path / "weights.npz").read_bytes()
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(toy.encoder(1), tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").read_bytes() == before


def test_a_prefix_picks_a_part():
    whole, part = toy.video_text(0), toy.encoder(1)
    checkpoints.assign(part, checkpoints.flatten(whole), prefix="params/vision_encoder")
    for name, value in toy.leaves(part).items():
        assert toy.close(value, toy.leaves(whole.vision_encoder)[name], 0)


def test_digests_tell_weights_apart():
    weights = checkpoints.flatten(toy.encoder())
    assert checkpoints.digest(weights) == checkpoints.digest(dict(reversed(weights.items())))
    name = "params/spatial_ln/bias"
    others = [weights | {name: weights[name] + 1e-6}, {k: v for k, v in weights.items() if k != name}]
    assert len({checkpoints.digest(w) for w in (weights, *others)}) == 3


# --- what does not fit ------------------------------------------------------------------------------------------------


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(("change", "message"), [
    (lambda w: without(w, "params/spatial_ln/bias"),
     r"^toy\.npz is of another model: it lacks spatial_ln/bias \(and 0 more\); choose the model= it was trained with$"),
    (lambda w: w | {"params/spatial_ln/gain": np.zeros(16), "params/extra": np.zeros(1)},
     r"^toy\.npz is of another model: it has unknown extra \(and 1 more\); choose the model= it was trained with$"),
    (lambda w: w | {"params/spatial_ln/bias": np.zeros(8)},
     r"^toy\.npz is of another size: spatial_ln/bias has shape \(8,\) and the model wants \(16,\); choose the model= it"),
    (lambda w: {}, r"^toy\.npz is of another model: it lacks .* \(and \d+ more\); choose the model= it was trained with$"),
], ids=["missing", "extra", "shape", "empty"])  # fmt: skip
def test_weights_that_do_not_fit_are_one_sentence_and_nothing_is_set(change, message):
    model = toy.encoder(0)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.assign(model, change(checkpoints.flatten(toy.encoder(1))), name="toy.npz")
    for name, value in toy.leaves(toy.encoder(0)).items():
        assert toy.close(value, toy.leaves(model)[name], 0)


def test_files_that_cannot_be_read_are_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"^no weights at .*none\.npz: run the notebook that trains them, or give"):
        checkpoints.read(tmp_path / "none.npz")
    with pytest.raises(CheckpointError, match=r"^no weights at "):
        checkpoints.read(tmp_path)  # a folder
    checkpoints.save(toy.encoder(), tmp_path / "weights.npz")
    whole = (tmp_path / "weights.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    np.save(tmp_path / "array.npy", np.zeros(3))
    broken = {"cut": whole[: len(whole) // 2], "nothing": b"", "words": b"not weights", "flipped": bytes(flipped),
              "array": (tmp_path / "array.npy").read_bytes()}  # fmt: skip
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} is not a readable weights file \(.*\): it may be cut short"):
            checkpoints.read(tmp_path / name)
