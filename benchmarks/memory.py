"""Memory, operations and least time of a training step on TPUs, from programs compiled without one.

    pip install 'libtpu==0.0.42.*'             # the compiler, Linux only; no TPU is needed
    python benchmarks/memory.py                prints
    python benchmarks/memory.py --record       also writes reports/tables/memory.csv
    python benchmarks/memory.py --only base    rows whose model has this name

Each row is the update of `vplib.train.loop.fit`, as it would run: parameters, AdamW or Adafactor,
and the teacher of stage 2. Memory is what XLA's compiler says of one chip. So are the operations
(`tflop`), where layers are not rematerialised, for it counts a loop's body once; `least_s` is what
they take at the chip's peak rate. What a step really takes is not measured: that needs the device.
A row takes four minutes or more on a CPU core.
"""

import argparse
import csv
import os
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # what is compiled here runs nowhere
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu looks for no metadata of a cloud
os.environ.setdefault(
    "ALLOW_MULTIPLE_LIBTPU_LOAD", "1"
)  # it locks a device, of which there is none
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vplib import config, files, paths
from vplib.method import stages
from vplib.model.encoders import VideoEncoder, VideoText, configure
from vplib.model.sizes import Sizes
from vplib.train import loop, optimiser, sharding

TABLE = paths.REPORTS / "tables" / "memory.csv"


class Chip(NamedTuple):
    """Source: docs.cloud.google.com/tpu/docs/v5e and v5p."""

    topology: str
    memory: float  # GB
    rate: float  # TFLOP/s of bfloat16


CHIPS = {"v5e": Chip("v5e:2x2", 16, 197), "v5p": Chip("v5p:2x2x1", 95, 459)}


class Row(NamedTuple):
    """What is asked: chips are of one kind, `clips` of all of them."""

    chip: str
    chips: int
    model: str
    stage: int
    frames: int
    clips: int
    remat: bool
    attention: str = "plain"


ROWS = (
    Row("v5e", 1, "base", 1, 8, 8, True),
    Row("v5e", 1, "base", 1, 8, 32, True),
    Row("v5e", 1, "base", 2, 8, 8, True),
    Row("v5e", 1, "base", 2, 8, 32, True),
    Row("v5e", 1, "base", 2, 16, 8, True),
    Row("v5e", 1, "base", 2, 16, 8, True, "splash"),
    Row("v5e", 1, "large", 2, 8, 8, True),
    Row("v5e", 4, "large", 2, 8, 32, True),
    Row("v5p", 4, "giant", 1, 8, 32, True),
    Row("v5p", 4, "giant", 2, 8, 32, True),
    Row("v5e", 1, "base", 1, 8, 8, False),  # unrolled, which takes longest to compile
    Row("v5e", 1, "base", 2, 8, 8, False),
)


def step_of(cfg, sizes: Sizes, stage: int, clips: int):
    """The update of a stage, and its arguments as shapes."""
    dtype, frames = jnp.dtype(cfg.hardware.dtype), (sizes.frames, sizes.size, sizes.size, 3)
    batch = {"video": jax.ShapeDtypeStruct((clips, *frames), jnp.uint8)}
    text = nnx.eval_shape(lambda: VideoText(sizes, rngs=nnx.Rngs(0)))
    if stage == 1:
        model, frozen, settings = nnx.eval_shape(lambda: stages.Stage1(text)), None, cfg.stage1
        shape = (clips, sizes.text_length)
        batch["ids"] = jax.ShapeDtypeStruct(shape, jnp.int32)
        batch["keep"] = jax.ShapeDtypeStruct(shape, jnp.bool_)
        loss = partial(stages.stage1_loss, drop_ratio=cfg.stage1.drop_ratio, dtype=dtype)
    else:
        frozen, settings = text, cfg.stage2
        names = ("mask", "mask_ratio", "shuffle_tokens", "masked_only", "normalise_targets")
        chosen = {name: settings[name] for name in names}
        loss = partial(stages.stage2_loss, **chosen, dtype=dtype)

        def student():
            encoder, both = (
                VideoEncoder(sizes, rngs=nnx.Rngs(0)),
                (settings.local_loss, settings.global_loss),
            )
            return stages.Stage2(
                encoder,
                sizes,
                teacher=sizes,
                local_loss=both[0],
                global_loss=both[1],
                rngs=nnx.Rngs(0),
            )

        model = nnx.eval_shape(student)
        configure(frozen, kernel=cfg.hardware.attention)
    configure(model, kernel=cfg.hardware.attention, remat=cfg.hardware.remat)
    rate = optimiser.schedule("linear", learning_rate=1e-4, steps=10, warmup=1)
    tx = optimiser.optimiser(
        cfg.optim.optimiser, rate, weight_decay=settings.weight_decay, clip=1.0
    )
    params = nnx.state(model, nnx.Param)
    states = params, jax.eval_shape(tx.init, params), frozen and nnx.state(frozen)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    return loop.update_of(model, loss, tx, 0, frozen), (*states, batch, step)


def compiled(row: Row):
    """The program of a step, compiled for these chips."""
    words = f"scale=paper model={row.model} hardware=pod hardware.remat={str(row.remat).lower()}"
    words += f" hardware.attention={row.attention} model.frames={row.frames} tag=memory"
    cfg = config.check(f"{row.stage + 1}0_stage{row.stage}", words)
    sizes = Sizes.of(cfg.model, vocabulary=32_000)
    update, (params, opt, frozen, batch, step) = step_of(cfg, sizes, row.stage, row.clips)
    devices = topologies.get_topology_desc(CHIPS[row.chip].topology, platform="tpu").devices
    mesh = Mesh(np.array(devices[: row.chips]), ("data",), axis_types=(AxisType.Auto,))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    kept = sharding.fsdp(mesh, params), sharding.fsdp(mesh, opt)
    places = (*kept, jax.tree.map(lambda x: whole, frozen), jax.tree.map(lambda x: split, batch))
    program = jax.jit(
        update, donate_argnums=(0, 1), in_shardings=(*places, whole), out_shardings=(*kept, None)
    )
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return program.lower(params, opt, frozen, batch, step).compile()


def measured(row: Row) -> dict:
    """A line of the table."""
    chip, line = CHIPS[row.chip], row._asdict()
    found = dict.fromkeys(("state_gb", "work_gb", "tflop", "least_s"), "")
    try:
        program = compiled(row)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return line | found | {"of_gb": chip.memory, "fits": "no"}
    memory = program.memory_analysis()
    state = memory.argument_size_in_bytes / 1e9
    work = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    found |= {"state_gb": f"{state:.2f}", "work_gb": f"{work / 1e9:.2f}"}
    if not row.remat:
        operations = program.cost_analysis()["flops"] / 1e12
        found |= {"tflop": f"{operations:.3g}", "least_s": f"{operations / chip.rate:.3g}"}
    fits = "yes" if state + work / 1e9 < chip.memory else "no"
    return line | found | {"of_gb": chip.memory, "fits": fits}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write reports/tables/memory.csv")
    parser.add_argument("--only", default="", metavar="MODEL")
    given = parser.parse_args()
    jax.default_backend = lambda: "tpu"  # what code asks that chooses by where it runs
    lines = []
    for row in ROWS:
        if given.only in ("", row.model):
            lines.append(measured(row))
            print(", ".join(f"{key} {value}" for key, value in lines[-1].items()), flush=True)
            if given.record:
                record(lines)


def record(lines: list[dict]) -> None:
    """After every row, for the next may take minutes."""
    with files.replacing(TABLE) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
