"""All that a training trained, from its state: `weights.npz` may have a part of it."""

from pathlib import Path

import jax
from flax import nnx
from jaxtyping import PyTree

from vplib.model.checkpoints import CheckpointError
from vplib.train import states


def put_in(model: nnx.Module, folder: Path) -> int:
    """Give `model` the parameters of the newest state in `folder`, in place, and return its step.

    Raises CheckpointError where there is no whole state, or one of another model.
    """
    step, arrays = states.saved(folder)
    like, given = _by_name(nnx.state(model, nnx.Param)), _by_name(arrays["params"])
    shapes = [{name: x.shape for name, x in found.items()} for found in (like, given)]
    if shapes[0] != shapes[1]:
        other = sorted({name for name, _ in {*shapes[0].items()} ^ {*shapes[1].items()}})[0]
        raise CheckpointError(f"the training state in {folder} is of another model: see {other}")
    kind = jax.tree.structure(nnx.state(model, nnx.Param))
    nnx.update(model, jax.tree.unflatten(kind, [given[name] for name in like]))
    return step


def _by_name(tree: PyTree) -> dict[str, jax.Array]:
    """Arrays by the names on their way, in the order of the tree."""
    return {
        "/".join(str(getattr(key, "key", getattr(key, "name", ""))) for key in path): x
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
