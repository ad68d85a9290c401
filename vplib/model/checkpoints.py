"""Weights as flat `.npz` files in the released layout.

Names are '/'-joined paths under `params/`; scanned layers lie on axis 0.
`load(name)` makes the model of a released name or a file; `assign` sets the parameters of a model
that exists.
"""

import hashlib
import io
import re
import zipfile
from dataclasses import asdict, replace
from math import isqrt, prod
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import yaml
from flax import nnx
from jax.experimental import multihost_utils

from vplib import files, paths
from vplib.model import exported
from vplib.model.encoders import VideoClassifier, VideoEncoder, VideoText, shapes
from vplib.model.sizes import Sizes

VOCABULARY = 32_000  # pieces of the released text models' tokeniser
PIECES = "text_encoder/token_emb/emb_var"  # the table with a row for each piece
PACKED = 16  # times its own size is the most that a file of weights unpacks to


class Released(NamedTuple):
    """A model of the official code, of the sizes in `conf/model/<sizes>.yaml`.

    Without a repository it has no public weights.
    """

    sizes: str
    parameters: int
    repository: str | None = None
    file: str | None = None


# Official configuration names. Source: google-deepmind/videoprism, models.py; parameters as its
# README rounds them.
RELEASED = {
    "videoprism_public_v1_base": Released(
        "base", 114_365_184, "google/videoprism-base-f16r288", "flax_base_f16r288_repeated.npz"
    ),
    "videoprism_public_v1_large": Released(
        "large", 353_965_056, "google/videoprism-large-f8r288", "flax_large_f8r288_repeated.npz"
    ),
    "videoprism_v1_giant": Released("giant", 1_112_755_072),
    "videoprism_lvt_public_v1_base": Released(
        "lvt_base",
        247_623_424,
        "google/videoprism-lvt-base-f16r288",
        "flax_lvt_base_f16r288_repeated.npz",
    ),
    "videoprism_lvt_public_v1_large": Released(
        "lvt_large",
        579_877_120,
        "google/videoprism-lvt-large-f8r288",
        "flax_lvt_large_f8r288_repeated.npz",
    ),
    "videoprism_lvt_v1_giant": Released("lvt_giant", 1_621_074_016),
}


class CheckpointError(ValueError):
    """A weights file that cannot be used: one sentence saying what, where and what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


def flatten(model: nnx.Module) -> dict[str, np.ndarray]:
    """Name -> array of every parameter; names are attribute paths, so modules are the layout."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"params/" + "/".join(map(str, path)): _whole(value[...]) for path, value in flat}


def _whole(value) -> np.ndarray:
    """The array in this process's memory, also when its parts lie on several processes."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def save(model: nnx.Module, path: Path, *, half: bool = False) -> None:
    """Write the weights: complete or not at all, and equal weights give equal bytes.

    In `half` precision where nothing is to be trained from them (relative error at most 2^-11).
    Raises CheckpointError for weights that are not finite, FileError if the file cannot be written.
    """
    weights, path = flatten(model), Path(path)  # every process takes part in the gathering
    if jax.process_index():
        return  # the first process of a pod writes
    _finite(weights, path)
    files.folder(path.parent)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **packed(weights, half=half))  # without a time: equal bytes


def packed(weights: dict[str, np.ndarray], *, half: bool) -> dict[str, np.ndarray]:
    """Weights as a file of them holds them."""
    kind = np.float16 if half else None
    return {name: np.asarray(value, kind, order="C") for name, value in sorted(weights.items())}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file; what its headers promise is compared with the file first. Or
    those of a folder that `vplib.export` wrote.

    Raises CheckpointError when it is missing, something else, damaged, or not of finite numbers.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        weights = _of_folder(path)
        _finite(weights, path)
        return weights
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}: run the notebook that trains them, or give the path of an .npz file"
        )
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if not zipfile.is_zipfile(path) and (found := _kind(start)):
            raise CheckpointError(f"{path} is {found[0]}, not an .npz file of weights: {found[1]}")
        with zipfile.ZipFile(path) as archive:
            _headers(archive, path)
        with np.load(path, allow_pickle=False) as archive:
            weights = {name: archive[name] for name in archive.files}
    except CheckpointError:
        raise
    except Exception as error:  # whatever zip, zlib or NumPy make of damaged bytes
        why = str(error) or type(error).__name__
        raise CheckpointError(
            f"{path} is not a readable weights file ({why}): it may be cut short; fetch or train it "
            "again"
        ) from None
    _finite(weights, path)
    return weights


def _of_folder(path: Path) -> dict[str, np.ndarray]:
    try:
        return exported.read(path)
    except Exception as error:  # whatever JSON, safetensors or NumPy make of other folders
        why = str(error) or type(error).__name__
        raise CheckpointError(
            f"{path} is no readable folder that vplib.export wrote ({why}): give an .npz file"
        ) from None


_KINDS = (  # how a file begins, what it is, what to do; the first that fits
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch what it points to with git lfs pull"),
    (
        rb".{4}\0{4}\{",
        "a safetensors file",
        "save its arrays with numpy.savez under the released names",
    ),
    (rb"\x80[\x02-\x05]", "a pickle", "save its arrays with numpy.savez, where you trust it"),
    (rb"\x93NUMPY", "a single NumPy array", "give the .npz file with all arrays"),
    (rb"\x89HDF\r\n", "an HDF5 file", "save its arrays with numpy.savez"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|.{257}ustar",
        "packed",
        "unpack it first",
    ),
    (rb"\s*<", "a web page", "fetch the file itself, not the page about it"),
    (rb"\s*[\[{]", "a JSON text", "give the file with the arrays"),
    (rb"$", "empty", "fetch or train it again"),
)


def _kind(start: bytes) -> tuple[str, str] | None:
    """What a file that begins so is, and what to do with it."""
    start = start.removeprefix(b"\xef\xbb\xbf")
    known = (kind for kind in _KINDS if re.match(kind[0], start, re.DOTALL))
    return next(((what, advice) for _, what, advice in known), None)


def _headers(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises CheckpointError if headers promise what is not in the file, or in no weights."""
    members = archive.infolist()
    if any(member.filename.endswith("data.pkl") for member in members):
        raise CheckpointError(
            f"{path} is a PyTorch file, not an .npz file of weights: save its arrays with "
            "numpy.savez under the released names"
        )
    stored, held = sum(member.file_size for member in members), path.stat().st_size
    if stored > max(PACKED * held, 2**26):
        raise CheckpointError(
            f"{path} would unpack to {stored / 1e9:.1f} GB from {held / 1e6:.1f} MB, which no weights "
            "do: fetch or train it again"
        )
    for member in members:
        if not member.filename.endswith(".npy"):
            raise CheckpointError(
                f"{path} holds {member.filename}, which is no array: give an .npz file in the "
                "released layout"
            )
        name = member.filename.removesuffix(".npy")
        with archive.open(member) as file:
            shape, dtype, start = _header(file)
        if dtype.kind not in "fiub" or dtype.itemsize > 8 or not dtype.isnative:
            what = "Python objects" if dtype.hasobject else f"numbers of type {dtype.str}"
            raise CheckpointError(
                f"{path} holds {what} in {name}: save it as little-endian float32 or float16"
            )
        if start + prod(shape) * dtype.itemsize != member.file_size:
            raise CheckpointError(
                f"{path} is damaged: {name} should be of shape {shape}, and {member.file_size} "
                "bytes are not that; fetch or train it again"
            )


def _header(file: io.BufferedIOBase) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type of the .npy array that begins here, and where its values do; reads 10 kB."""
    start = file.read(12)
    if start[:6] != b"\x93NUMPY" or start[6] not in (1, 2):
        raise ValueError("an array has no header")
    first, length = (10, start[8:10]) if start[6] == 1 else (12, start[8:12])
    length = int.from_bytes(length, "little")
    if length > 10_000:
        raise ValueError("an array's header is too long")
    whole = io.BytesIO(start[8:] + file.read(first + length - 12))
    read_header = (
        np.lib.format.read_array_header_1_0
        if start[6] == 1
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(whole)
    return shape, dtype, first + length


def _finite(weights: dict[str, np.ndarray], path: Path) -> None:
    for name, value in weights.items():
        with np.errstate(over="ignore"):  # models hold single precision
            kept = value.astype(np.float32, copy=False)
        if np.issubdtype(value.dtype, np.inexact) and not np.isfinite(kept).all():
            raise CheckpointError(
                f"the weights of {path} are not finite ({name}): train them again, with a lower "
                "learning rate"
            )


def digest(weights: dict[str, np.ndarray]) -> str:
    """A hash of names and values: equal weights, equal digest."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        hashed.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return hashed.hexdigest()


def load(name: str | Path, *, half: bool = False) -> VideoEncoder | VideoText | VideoClassifier:
    """The model of a released name or of a weights file, with its weights; with `half`, those of a
    file that is written in half precision.

    `name` is an official configuration name (`videoprism_public_v1_base`), its Hugging Face
    repository (`google/videoprism-base-f16r288`), or the path of an `.npz` in the released layout,
    ours or theirs, or of a folder that `vplib.export` wrote: kind and sizes come from them. A released file is fetched once and kept in
    the cache of huggingface_hub (HF_HOME); HF_HUB_OFFLINE=1 forbids fetching. Raises
    CheckpointError: unknown name, no network, unreadable or another file.
    """
    names = {value.repository or key: key for key, value in RELEASED.items()} | {
        key: key for key in RELEASED
    }
    if str(name) not in names:
        if Path(name).suffix != ".npz" and not Path(name).exists():
            raise CheckpointError(
                f"{name} is neither a released model nor a file: give the path of an .npz file, or one "
                f"of {', '.join(names)}"
            )
        return build(packed(read(name), half=half), name=str(name))
    released = RELEASED[names[str(name)]]
    path = fetch(released, str(name))
    weights = read(path)
    found, wanted = infer(weights, name=path), sizes_of(released)
    count = sum(value.size for value in weights.values())
    differ = [
        f"{key} is {value} instead of {getattr(wanted, key)}"
        for key, value in asdict(found).items()
        if value and value != getattr(wanted, key)  # 0: the arrays do not show it
    ]
    if count != released.parameters:
        differ.append(f"{count:,} parameters instead of {released.parameters:,}")
    if differ:
        raise CheckpointError(
            f"{path} is not {name} ({differ[0]}): delete this file and load again"
        )
    return build(weights, name=path)


def fetch(released: Released, name: str) -> str:
    """The path of a released file in the cache of huggingface_hub, fetched if it is not there."""
    repository, file = released.repository, released.file
    if repository is None:
        raise CheckpointError(
            f"{name} has no public weights: only its sizes are released (conf/model/{released.sizes}.yaml)"
        )
    # Imported here: it takes a second, and only this function needs it.
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        with files.explained(Path(constants.HF_HUB_CACHE)):
            return hf_hub_download(repository, file)
    except files.FileError:
        raise
    except (OSError, EntryNotFoundError) as error:
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"{file} of {repository} is not in the Hugging Face cache and HF_HUB_OFFLINE forbids "
                "fetching it: unset it once, or give the path of the file"
            ) from None
        why = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{file} of {repository} cannot be fetched ({why}): check the network, or fetch it elsewhere "
            "and give its path"
        ) from None


def sizes_of(released: Released) -> Sizes:
    """The sizes of a released model: a video encoder, or a video-text model and its vocabulary."""
    file = paths.CONF / "model" / f"{released.sizes}.yaml"
    pieces = VOCABULARY if released.sizes.startswith("lvt") else 0
    return Sizes.of(yaml.safe_load(file.read_text(encoding="utf-8")), vocabulary=pieces)


def infer(weights: dict[str, np.ndarray], *, name: str = "the weights") -> Sizes:
    """The sizes of the model that the arrays are of: `vocabulary` says that it has a text encoder,
    `classes` that it is a classifier. Raises CheckpointError when an array that says a size is
    missing or empty.
    """

    def refuse(why: str) -> CheckpointError:
        return CheckpointError(
            f"{name} holds no VideoPrism model: {why}; give a file in the released layout"
        )

    def shape(key: str, axes: int) -> tuple[int, ...]:
        value = weights.get(f"params/{key}")
        if value is None or value.ndim != axes:
            raise refuse(f"it has no array params/{key} of {axes} axes")
        if 0 in value.shape:
            raise refuse(f"its array params/{key} is empty, of shape {value.shape}")
        return value.shape

    def stack(key: str) -> tuple[int, int, int]:
        layers, _, heads, size = shape(f"{key}/x_layers/self_attention/query/w", 4)
        if heads * size != width:
            raise refuse(f"{heads} heads of size {size} in params/{key} are not {width} wide")
        return layers, heads, shape(f"{key}/x_layers/ff_layer/ffn_layer1/linear/kernel", 3)[2]

    starts = {key.split("/")[1] for key in weights if key.count("/") > 1}
    root = next((f"{part}/" for part in ("vision_encoder", "encoder") if part in starts), "")
    values, width = shape(f"{root}patch_projection/linear/kernel", 2)
    places = shape(f"{root}spatial_pos_emb/emb_var", 2)[0]
    patch, grid = isqrt(values // 3), isqrt(places)
    if 3 * patch**2 != values or grid**2 != places:
        raise refuse(
            f"patches of {values} values and tables of {places} places are not those of square RGB "
            "patches in square frames"
        )
    joint = any(key.startswith(f"params/{root}joint_encoder/") for key in weights)
    first = f"{root}{'joint' if joint else 'spatial'}_encoder/transformers_stack"
    down = f"{first}/x_layers/ff_layer/adapter/down/linear/kernel"
    layers, heads, mlp = stack(first)
    found = Sizes(
        size=grid * patch,
        patch=patch,
        frames=shape(f"{root}temporal_pos_emb/emb_var", 2)[0],
        width=width,
        spatial_layers=layers,
        temporal_layers=0 if joint else stack(f"{root}temporal_encoder/transformers_stack")[0],
        heads=heads,
        mlp=mlp,
        adapter=shape(down, 3)[2] if f"params/{down}" in weights else 0,
        joint=joint,
    )
    if root == "encoder/":
        return replace(found, classes=shape("projection/linear/kernel", 2)[1])
    if not root:
        return found
    _, heads, size = shape("contrastive_vision_pooler/pooling_attention/query/w", 3)
    if heads != found.heads:
        raise refuse(f"its pooler has {heads} heads and its encoder {found.heads}")
    hybrid = "params/text_encoder/unimodal_transformer/x_layers/pre_layer_norm/scale" in weights
    more = "auxiliary_encoder" in starts
    return replace(
        found,
        text_layers=stack("text_encoder/unimodal_transformer")[0],
        text_norm="primer_hybrid" if hybrid else "pre",
        aux_layers=stack("auxiliary_encoder/transformers_stack")[0] if more else 0,
        pooler_inner=heads * size,
        vocabulary=shape(PIECES, 2)[0],
    )


def build(
    weights: dict[str, np.ndarray], *, name: str = "the weights"
) -> VideoEncoder | VideoText | VideoClassifier:
    """The model that the arrays are of, with them as its parameters.

    Names, shapes and kinds of number are compared completely first: CheckpointError names what is
    missing, left over, of another shape or no float.
    """
    found = infer(weights, name=name)
    stray = sorted(
        key
        for key, value in weights.items()
        if not key.startswith("params/") or not np.issubdtype(value.dtype, np.floating)
    )
    if stray:
        raise CheckpointError(
            f"{name} is of another model: {stray[0]} ({weights[stray[0]].dtype}) is not a float array "
            "under params/; give a file in the released layout"
        )
    model = shapes(found)
    assign(model, weights, name=name)
    return model


def assign(
    model: nnx.Module,
    weights: dict[str, np.ndarray],
    *,
    prefix: str = "params",
    name: str = "the weights",
) -> None:
    """Set every parameter of `model` from `weights[prefix/...]`, in place.

    `prefix` picks a part, e.g. `params/vision_encoder`. Names and shapes are compared completely
    before anything is set. Raises CheckpointError naming what is missing, left over or of another
    shape.
    """
    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    want = {"/".join(map(str, path)): path for path in flat}
    have = {k[len(prefix) + 1 :]: v for k, v in weights.items() if k.startswith(prefix + "/")}
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    shapes = [k for k in want.keys() & have.keys() if flat[want[k]].shape != have[k].shape]
    if have and PIECES in missing:
        raise no_text_encoder(name)
    for what, keys in (("lacks", missing), ("has unknown", extra)):
        if keys:
            raise CheckpointError(
                f"{name} is of another model: it {what} {keys[0]} (and {len(keys) - 1} more); "
                f"choose {_option(weights)}"
            )
    if shapes == [PIECES]:
        raise other_vocabulary(name, have[PIECES].shape[0], flat[want[PIECES]].shape[0])
    if shapes:
        k = sorted(shapes)[0]
        raise CheckpointError(
            f"{name} is of another size: {k} has shape {have[k].shape} and the model wants "
            f"{flat[want[k]].shape}; choose {_option(weights)}"
        )
    # Models hold single precision, whatever the file has.
    values = [
        (path, flat[path].replace(jnp.asarray(have[k], jnp.float32))) for k, path in want.items()
    ]
    nnx.update(model, nnx.from_flat_state(values))


def _option(weights: dict[str, np.ndarray]) -> str:
    """`model=tiny`, or whichever file of `conf/model` has the sizes that the arrays show."""
    try:
        shown = {key: value for key, value in asdict(infer(weights)).items() if value}
    except CheckpointError:
        shown = {}
    for file in sorted((paths.CONF / "model").glob("*.yaml")):
        known = Sizes.of(yaml.safe_load(file.read_text(encoding="utf-8")))
        known = asdict(known) | {
            key: shown.get(key) for key in ("vocabulary", "classes", "adapter")
        }
        if shown and all(known[key] == value for key, value in shown.items()):
            return f"model={file.stem}, which it was trained with"
    return "the model= it was trained with"


def no_text_encoder(name: Path | str) -> CheckpointError:
    """What to say of weights that know no text, where they are asked for it."""
    return CheckpointError(
        f"{name} has no text encoder: give weights=... of a video-text model, such as those of "
        "20_stage1"
    )


def other_vocabulary(name: Path | str, known: int, given: int) -> CheckpointError:
    """What to say of a text model that knows other pieces than the vocabulary has."""
    return CheckpointError(
        f"{name} knows {known} pieces of text and the vocabulary has {given}: give "
        "data.tokenizer=<path> of the SentencePiece model that it was trained with"
    )
