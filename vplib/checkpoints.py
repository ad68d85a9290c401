"""Weights as flat `.npz` files in the released layout: '/'-joined paths under `params/`, scanned layers on axis 0."""

import hashlib
import os
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils


class CheckpointError(ValueError):
    """A weights file that cannot be used: one sentence saying what, where and what to do."""


def flatten(model: nnx.Module) -> dict[str, np.ndarray]:
    """Name -> array of every parameter; names are the attribute path, so the module tree is the checkpoint's layout."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"params/" + "/".join(map(str, path)): _whole(value[...]) for path, value in flat}


def _whole(value) -> np.ndarray:
    """The array in this process's memory, also when its parts lie on several processes."""
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        value = multihost_utils.process_allgather(value, tiled=True)
    return np.asarray(value)


def save(model: nnx.Module, path: Path) -> None:
    """Write the weights; the file appears complete or not at all, and equal weights give equal bytes."""
    weights, path = flatten(model), Path(path)  # every process takes part in the gathering
    if jax.process_index():
        return  # the first process of a pod writes
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:  # a file of today has the bytes of one of tomorrow: savez stamps no time
        np.savez(file, **{name: np.ascontiguousarray(value) for name, value in sorted(weights.items())})
    os.replace(temporary, path)


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a weights file. Raises CheckpointError when it is missing, truncated or not a weights file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}: run the notebook that trains them, or give the path of an .npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError) as error:  # TypeError: an .npy file
        raise CheckpointError(f"{path} is not a readable weights file ({error}): it may be cut short; fetch or train it again") from None


def digest(weights: dict[str, np.ndarray]) -> str:
    """A hash of names and values: equal weights, equal digest."""
    hashed = hashlib.sha256()
    for name in sorted(weights):
        hashed.update(name.encode() + np.ascontiguousarray(weights[name]).tobytes())
    return hashed.hexdigest()


def load(model: nnx.Module, weights: dict[str, np.ndarray], *, prefix: str = "params", name: str = "the weights") -> None:
    """Set every parameter of `model` from `weights[prefix/...]`, in place.

    `prefix` picks a part, e.g. `params/vision_encoder`. Names and shapes are compared completely before anything is
    set. Raises CheckpointError naming what is missing, left over or of another shape.
    """
    flat = dict(nnx.to_flat_state(nnx.state(model, nnx.Param)))
    want = {"/".join(map(str, path)): path for path in flat}
    have = {k[len(prefix) + 1:]: v for k, v in weights.items() if k.startswith(prefix + "/")}
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    shapes = [k for k in want.keys() & have.keys() if flat[want[k]].shape != have[k].shape]
    for what, keys in (("lacks", missing), ("has unknown", extra)):
        if keys:
            raise CheckpointError(f"{name} is of another model: it {what} {keys[0]} (and {len(keys) - 1} more); "
                                  "choose the model= it was trained with")
    if shapes:
        k = sorted(shapes)[0]
        raise CheckpointError(f"{name} is of another size: {k} has shape {have[k].shape} and the model wants "
                              f"{flat[want[k]].shape}; choose the model= it was trained with")
    nnx.update(model, nnx.from_flat_state([(path, flat[path].replace(jnp.asarray(have[k]))) for k, path in want.items()]))
