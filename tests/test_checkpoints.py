"""Weights files: the released layout, exact, byte-stable; a sentence for each that does not fit."""

import errno
import gzip
import io
import pickle
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import toy
import yaml
from flax import nnx
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from vplib import files, paths
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import VideoEncoder, VideoText
from vplib.model.sizes import Sizes

GOLDEN = paths.ROOT / "tests" / "golden" / "videotext.npz"
REFERENCE = paths.ROOT.parent / "shared" / "golden"
reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder with parameters of the released code is absent"
)


def shapes(arrays) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in arrays.items() if name.startswith("params/")}


# --- the layout ----------------------------------------------------------------------------------


def test_names_and_shapes_are_the_released_ones():
    model = toy.video_text(
        spatial_layers=2,
        temporal_layers=2,
        mlp=64,
        text_layers=2,
        aux_layers=1,
        pooler_inner=64,
        vocabulary=40,
    )
    flat = checkpoints.flatten(model)
    assert shapes(flat) == shapes(np.load(GOLDEN))
    assert flat[
        "params/vision_encoder/spatial_encoder/transformers_stack/x_layers/self_attention/query/w"
    ].shape == (2, 16, 2, 8)


@reference
def test_names_and_shapes_are_those_of_the_released_code():
    sizes = Sizes(
        size=24,
        patch=6,
        frames=4,
        width=48,
        spatial_layers=3,
        temporal_layers=2,
        heads=4,
        mlp=96,
        text_layers=2,
        aux_layers=1,
        pooler_inner=192,
        vocabulary=101,
    )
    for kind, name in ((VideoText, "lvt"), (VideoEncoder, "encoder")):
        model = toy.filled(lambda kind=kind: kind(sizes, rngs=nnx.Rngs(0)))
        assert shapes(checkpoints.flatten(model)) == shapes(
            np.load(REFERENCE / f"{name}_params.npz")
        )


# --- files ---------------------------------------------------------------------------------------


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
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints.save(toy.encoder(0), tmp_path / "weights.npz")
    before = (tmp_path / "weights.npz").read_bytes()
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(
        files.FileError, match=r"^.*weights\.npz cannot be written: the disk is full; "
    ):
        checkpoints.save(toy.encoder(1), tmp_path / "weights.npz")
    assert (tmp_path / "weights.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_a_prefix_picks_a_part():
    whole, part = toy.video_text(0), toy.encoder(1)
    checkpoints.assign(part, checkpoints.flatten(whole), prefix="params/vision_encoder")
    for name, value in toy.leaves(part).items():
        assert toy.close(value, toy.leaves(whole.vision_encoder)[name], 0)


def test_digests_tell_weights_apart():
    weights = checkpoints.flatten(toy.encoder())
    assert checkpoints.digest(weights) == checkpoints.digest(dict(reversed(weights.items())))
    name = "params/spatial_ln/bias"
    others = [
        weights | {name: weights[name] + 1e-6},
        {k: v for k, v in weights.items() if k != name},
    ]
    assert len({checkpoints.digest(w) for w in (weights, *others)}) == 3


def test_half_precision_files_give_models_of_single_precision(tmp_path):
    model = toy.video_text(3)
    weights = {k: v.astype(np.float16) for k, v in checkpoints.flatten(model).items()}
    np.savez(tmp_path / "half.npz", **weights)
    checkpoints.save(model, tmp_path / "own.npz", half=True)
    assert (tmp_path / "own.npz").read_bytes() == (tmp_path / "half.npz").read_bytes()
    checkpoints.save(model, tmp_path / "whole.npz")
    rounded = toy.leaves(checkpoints.load(tmp_path / "whole.npz", half=True))
    loaded = toy.leaves(checkpoints.load(tmp_path / "half.npz"))
    assert all((value == loaded[name]).all() for name, value in rounded.items())
    assert {str(value.dtype) for value in loaded.values()} == {"float32"}
    assert all(toy.close(value, loaded[name], 2e-3) for name, value in toy.leaves(model).items())


# --- what does not fit ---------------------------------------------------------------------------


def test_weights_of_another_size_or_vocabulary_say_what_to_choose():
    tiny = Sizes.of(yaml.safe_load((paths.CONF / "model/tiny.yaml").read_text()), vocabulary=30)
    weights = checkpoints.flatten(toy.filled(lambda: VideoText(tiny, rngs=nnx.Rngs(0))))
    for wanted, words in (
        (replace(tiny, width=32), r"is of another size: .*; choose model=tiny, which it was"),
        (
            replace(tiny, aux_layers=1),
            r"is of another model: it lacks .*; choose model=tiny, which",
        ),
        (replace(tiny, vocabulary=20), r"knows 30 pieces of text and the vocabulary has 20: give"),
    ):
        with pytest.raises(CheckpointError, match=rf"^w\.npz {words}"):
            checkpoints.assign(checkpoints.shapes(wanted), weights, name="w.npz")
    with pytest.raises(CheckpointError, match=r"^w\.npz has no text encoder: give weights="):
        encoder = checkpoints.flatten(toy.encoder())
        checkpoints.assign(checkpoints.shapes(tiny), encoder, name="w.npz")


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: without(w, "params/spatial_ln/bias"),
            r"^toy\.npz is of another model: it lacks spatial_ln/bias \(and 0 more\); choose the model= it was trained with$",
        ),
        (
            lambda w: w | {"params/spatial_ln/gain": np.zeros(16), "params/extra": np.zeros(1)},
            r"^toy\.npz is of another model: it has unknown extra \(and 1 more\); choose the model= it was trained with$",
        ),
        (
            lambda w: w | {"params/spatial_ln/bias": np.zeros(8)},
            r"^toy\.npz is of another size: spatial_ln/bias has shape \(8,\) and the model wants \(16,\); choose the model= it",
        ),
        (
            lambda w: {},
            r"^toy\.npz is of another model: it lacks .* \(and \d+ more\); choose the model= it was trained with$",
        ),
    ],
    ids=["missing", "extra", "shape", "empty"],
)
def test_weights_that_do_not_fit_are_one_sentence_and_nothing_is_set(change, message):
    model = toy.encoder(0)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.assign(model, change(checkpoints.flatten(toy.encoder(1))), name="toy.npz")
    for name, value in toy.leaves(toy.encoder(0)).items():
        assert toy.close(value, toy.leaves(model)[name], 0)


def test_files_that_cannot_be_read_are_one_sentence(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"^no weights at .*none\.npz: run the notebook that trains them, or give",
    ):
        checkpoints.read(tmp_path / "none.npz")
    with pytest.raises(CheckpointError, match=r"^no weights at "):
        checkpoints.read(tmp_path)  # a folder
    checkpoints.save(toy.encoder(), tmp_path / "weights.npz")
    whole = (tmp_path / "weights.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    broken = {
        "cut": whole[: len(whole) // 2],
        "words": b"not weights",
        "flipped": bytes(flipped),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            CheckpointError,
            match=rf"{name} is not a readable weights file \(.*\): it may be cut short",
        ):
            checkpoints.read(tmp_path / name)


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a Git LFS pointer",
        ),
        ((99).to_bytes(8, "little") + b'{"a": {"dtype": "F32"}}', "a safetensors file"),
        (pickle.dumps({"a": np.zeros(3)}), "a pickle"),
        (zipped(weights__data__pkl=b"x").replace(b"data/pkl", b"data.pkl"), "a PyTorch file"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "a web page"),
        (b'\xef\xbb\xbf{"meta":{"size":1}}', "a JSON text"),
        (npy(np.zeros(3)), "a single NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
        (gzip.compress(b"weights"), "packed"),
        (b"", "empty"),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "",
)
def test_files_of_another_kind_are_named(content, what, tmp_path):
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"^.*w\.npz is {what}, not an \.npz file of weights: [^\n]+$"
    ):
        checkpoints.load(tmp_path / "w.npz")


def promising(shape: tuple[int, ...]) -> bytes:
    """An array of 12 bytes whose header promises another shape."""
    content = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + bytes(12)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"params__x.npy": promising((152_587, 152_587))},
            r"is damaged: params/x should be of shape",
        ),
        (
            {"params__x.npy": npy(np.zeros(2**25, np.float32))},
            r"would unpack to 0\.1 GB from 0\.1 MB",
        ),
        (
            {"params__x.npy": npy(np.zeros(3, ">f4"))},
            r"holds numbers of type >f4 in params/x: save",
        ),
        ({"params__x.npy": npy(np.zeros(3, np.longdouble))}, r"numbers of type <f16 in params/x"),
        ({"params__x.npy": npy(np.zeros(3, "U4"))}, r"numbers of type <U4 in params/x"),
        ({"params__x.npy": npy(np.array([{}], object))}, r"holds Python objects in params/x: save"),
        ({"notes.txt": b"hello"}, r"holds notes\.txt, which is no array"),
        ({"x.npy": b"\x93NUMPY\x02\x00" + b"\xff" * 4}, r"an array's header is too long"),
        ({"x.npy": b"hello"}, r"an array has no header"),
    ],
    ids=[
        "shape",
        "bomb",
        "big_endian",
        "long_double",
        "words",
        "objects",
        "text",
        "header",
        "none",
    ],
)
def test_archives_are_judged_by_their_headers(members, message, tmp_path, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("arrays were read")

    (tmp_path / "w.npz").write_bytes(zipped(**members))
    monkeypatch.setattr(np, "load", never)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read(tmp_path / "w.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    weights = checkpoints.flatten(toy.encoder())
    weights["params/spatial_ln/bias"] = np.full(16, value, np.float32)
    message = (
        r"^the weights of .*w\.npz are not finite \(params/spatial_ln/bias\): train them again"
    )
    np.savez(tmp_path / "w.npz", **weights)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read(tmp_path / "w.npz")
    model = toy.encoder()
    model.spatial_ln.bias[...] = model.spatial_ln.bias[...].at[3].set(value)
    (tmp_path / "w.npz").unlink()
    with pytest.raises(CheckpointError, match=message):
        checkpoints.save(model, tmp_path / "w.npz")
    assert not any(tmp_path.iterdir())


# --- a model by its name -------------------------------------------------------------------------

MODELS = {
    "encoder": toy.encoder,
    "video_text": toy.video_text,
    "auxiliary_and_hybrid": lambda seed: toy.video_text(
        seed, aux_layers=2, text_norm="primer_hybrid"
    ),
    "classifier": toy.classifier,
    "joint": lambda seed: toy.video_text(seed, joint=True),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_gives_its_model_back_bit_for_bit(kind, tmp_path):
    model = MODELS[kind](0)
    checkpoints.save(model, tmp_path / "weights.npz")
    other = checkpoints.load(tmp_path / "weights.npz")
    assert type(other) is type(model) and nnx.graphdef(other) == nnx.graphdef(model)
    checkpoints.save(other, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "weights.npz").read_bytes()


QUERY = "spatial_encoder/transformers_stack/x_layers/self_attention/query/w"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: without(w, "params/text_encoder/cls_emb"),
            r"w\.npz is of another model: it lacks text_encoder/cls_emb",
        ),
        (
            lambda w: without(w, "params/vision_encoder/temporal_pos_emb/emb_var"),
            r"w\.npz holds no VideoPrism model: it has no "
            r"array params/vision_encoder/temporal_pos_emb/emb_var of 2 axes",
        ),
        (
            lambda w: {"words": np.zeros(3)},
            r"w\.npz holds no VideoPrism model: it has no array params/patch_projection",
        ),
        (
            lambda w: w | {"params/extra": np.zeros(1)},
            r"w\.npz is of another model: it has unknown extra",
        ),
        (
            lambda w: w | {"step": np.zeros(1)},
            r"w\.npz is of another model: step \(float64\) is not a float array under params/",
        ),
        (
            lambda w: w | {"params/text_encoder/cls_emb": np.zeros((1, 1, 16), int)},
            r"text_encoder/cls_emb \(int64\) is not a float",
        ),
        (
            lambda w: w | {"params/text_encoder/cls_emb": np.zeros((1, 1, 8))},
            r"is of another size: text_encoder/cls_emb has shape",
        ),
        (
            lambda w: w | {"params/vision_encoder/spatial_pos_emb/emb_var": np.zeros((8, 16))},
            r"tables of 8 places are not those",
        ),
        (
            lambda w: (
                w | {"params/vision_encoder/patch_projection/linear/kernel": np.zeros((2, 16))}
            ),
            r"patches of 2 values and tables of 9 places are not those",
        ),
        (
            lambda w: w | {"params/vision_encoder/spatial_pos_emb/emb_var": np.zeros((0, 16))},
            r"its array params/vision_encoder/spatial_pos_emb/emb_var is empty, of shape \(0, 16\); give",
        ),
        (
            lambda w: w | {"params/vision_encoder/temporal_pos_emb/emb_var": np.zeros((0, 16))},
            r"temporal_pos_emb/emb_var is empty, of shape \(0, 16\); give",
        ),
        (
            lambda w: w | {f"params/vision_encoder/{QUERY}": np.zeros((0, 16, 2, 8))},
            r"query/w is empty, of shape \(0, 16, 2, 8\); give",
        ),
        (
            lambda w: w | {f"params/vision_encoder/{QUERY}": np.zeros((1, 16, 32, 8))},
            r"32 heads of size 8 in params/vision_encoder/spatial_encoder/.* are not 16 wide; give",
        ),
        (
            lambda w: (
                w
                | {
                    "params/contrastive_vision_pooler/pooling_attention/query/w": np.zeros(
                        (16, 1, 1)
                    )
                }
            ),
            r"its pooler has 1 heads and its encoder 2; give",
        ),
    ],
    ids=[
        "missing",
        "no_sizes",
        "other_file",
        "extra",
        "stray",
        "integers",
        "shape",
        "oblong",
        "no_patch",
        "no_places",
        "no_frames",
        "no_layers",
        "many_heads",
        "pooler",
    ],
)
def test_files_of_something_else_are_one_sentence(change, message, tmp_path):
    np.savez(tmp_path / "w.npz", **change(checkpoints.flatten(toy.video_text())))
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(tmp_path / "w.npz")


REPOSITORY, FILE = "google/videoprism-base-f16r288", "flax_base_f16r288_repeated.npz"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub, offline; `hub(content)` puts the released file into it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--google--videoprism-base-f16r288"

    def put(model) -> Path:
        commit = "0" * 40
        checkpoints.save(model, folder / "snapshots" / commit / FILE)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
        return folder / "snapshots" / commit / FILE

    return put


def released_as(monkeypatch, model, **changes) -> None:
    """Let the released base model be of toy size."""
    name = "videoprism_public_v1_base"
    count = sum(value.size for value in checkpoints.flatten(model).values())
    monkeypatch.setitem(
        checkpoints.RELEASED, name, checkpoints.RELEASED[name]._replace(parameters=count)
    )
    sizes = replace(checkpoints.infer(checkpoints.flatten(model)), **changes)
    monkeypatch.setattr(checkpoints, "sizes_of", lambda released: sizes)


@pytest.mark.parametrize("name", [REPOSITORY, "videoprism_public_v1_base"])
def test_a_released_name_is_found_in_the_cache(name, hub, monkeypatch):
    model = toy.encoder()
    hub(model)
    released_as(monkeypatch, model)
    assert checkpoints.digest(checkpoints.flatten(checkpoints.load(name))) == checkpoints.digest(
        checkpoints.flatten(model)
    )


def test_a_cached_file_that_is_cut_short_or_another_is_one_sentence(hub, monkeypatch):
    file = hub(toy.encoder())
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(
        CheckpointError,
        match=rf"{FILE} is not a readable weights file \(.*\): it may be cut short; fetch or",
    ):
        checkpoints.load(REPOSITORY)
    file.write_bytes(whole)
    with pytest.raises(
        CheckpointError,
        match=rf"{FILE} is not {REPOSITORY} \(size is 12 instead of 288\): delete this file",
    ):
        checkpoints.load(REPOSITORY)
    released_as(monkeypatch, toy.encoder(mlp=64), mlp=32)
    with pytest.raises(
        CheckpointError, match=r"\([\d,]+ parameters instead of [\d,]+\): delete this file"
    ):
        checkpoints.load(REPOSITORY)


def test_a_missing_file_is_one_sentence_offline_and_without_network(hub, monkeypatch):
    with pytest.raises(
        CheckpointError,
        match=rf"^{FILE} of {REPOSITORY} is not in the Hugging Face cache and HF_HUB_OFFLINE "
        r"forbids fetching it: unset it once, or give the path of the file$",
    ):
        checkpoints.load(REPOSITORY)

    def unreachable(*_):
        raise LocalEntryNotFoundError("An error happened.\nTraceback")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(
        CheckpointError,
        match=rf"^{FILE} of {REPOSITORY} cannot be fetched \(An error happened\.\): check the "
        r"network, or fetch it elsewhere and give its path$",
    ):
        checkpoints.load(REPOSITORY)


def test_unknown_names_and_models_without_weights_are_one_sentence():
    with pytest.raises(
        CheckpointError,
        match=r"^google/videoprism is neither a released model nor a file: give the path of "
        r"an \.npz file, or one of google/videoprism-base-f16r288, ",
    ):
        checkpoints.load("google/videoprism")
    with pytest.raises(
        CheckpointError,
        match=r"^videoprism_v1_giant has no public weights: only its sizes are released "
        r"\(conf/model/giant\.yaml\)$",
    ):
        checkpoints.load("videoprism_v1_giant")
    with pytest.raises(CheckpointError, match=r"^no weights at none\.npz"):
        checkpoints.load("none.npz")


@pytest.mark.parametrize("name", checkpoints.RELEASED)
def test_released_sizes_have_the_released_numbers_of_parameters_and_are_found_in_the_arrays(name):
    sizes = checkpoints.sizes_of(checkpoints.RELEASED[name])
    flat = nnx.to_flat_state(nnx.state(checkpoints.shapes(sizes), nnx.Param))
    arrays = {
        "params/" + "/".join(path): np.broadcast_to(np.float32(0), value.shape)
        for path, value in flat
    }
    assert sum(value.size for value in arrays.values()) == checkpoints.RELEASED[name].parameters
    unseen = {"text_length": 0, "decoder": None}
    if not sizes.vocabulary:  # an encoder alone
        unseen |= {"text_layers": 0, "pooler_inner": 0}
    assert checkpoints.infer(arrays) == replace(sizes, **unseen)


@pytest.mark.parametrize("word", ["tiny", "base", "lvt_giant"])
def test_sizes_are_those_of_their_file(word):
    written = yaml.safe_load((paths.CONF / "model" / f"{word}.yaml").read_text())
    known = asdict(Sizes.of(written, vocabulary=7))
    assert known | written == known and known["vocabulary"] == 7


def test_numbers_beyond_single_precision_are_not_finite(tmp_path):
    weights = checkpoints.flatten(toy.encoder())
    name = "params/patch_projection/linear/bias"
    weights[name] = weights[name].astype(np.float64) * 1e300
    np.savez(tmp_path / "huge.npz", **weights)
    with pytest.raises(checkpoints.CheckpointError, match=rf"not finite \({name}\)"):
        checkpoints.load(tmp_path / "huge.npz")
