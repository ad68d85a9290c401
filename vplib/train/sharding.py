"""One mesh: data split over the batch, parameters over their largest divisible axis (FSDP)."""

import os

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree


def init(
    coordinator: str | None = None, processes: int | None = None, index: int | None = None
) -> Mesh:
    """The mesh over every device of every process; one device is a mesh of one.

    With `coordinator` ("host:port"), or on a TPU pod where JAX finds its peers by itself (JAX_POD=1
    in the environment), joins the other processes first.
    """
    if coordinator:
        jax.distributed.initialize(coordinator, processes, index)
    elif os.environ.get("JAX_POD"):
        jax.distributed.initialize()
    return Mesh(np.asarray(jax.devices()), ("data",), axis_types=(AxisType.Auto,))


def fsdp(mesh: Mesh, tree: PyTree, *, smallest: int = 2**16) -> PyTree:
    """A NamedSharding for each array: the largest axis the mesh divides, or a copy everywhere for
    arrays under `smallest` values.

    Source: google-research/big_vision, sharding.py (the same rule).
    """

    def rule(x):
        if mesh.size > 1 and x.size >= smallest:
            for axis in sorted(range(x.ndim), key=lambda a: -x.shape[a]):
                if x.shape[axis] % mesh.size == 0:
                    return NamedSharding(mesh, P(*[None] * axis, "data"))
        return NamedSharding(mesh, P())

    return jax.tree.map(rule, tree)


def to_mesh(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's part of a batch as arrays of the global batch, split over the devices."""
    sharding = NamedSharding(mesh, P("data"))
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
