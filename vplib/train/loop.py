"""One training loop for every stage: `fit(loss_fn, ...)` resumes, logs, shows progress and stops on the first non-finite value."""

import csv
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from vplib.model.checkpoints import CheckpointError
from vplib.progress import Progress
from vplib.train import sharding


class TrainingError(RuntimeError):
    """Training cannot go on: one sentence with the step, the batch and what to try."""


class Log:
    """Two CSVs that grow by a row: `metrics.csv` (the same bytes on every run) and `speed.csv` (timings); rows after `start` are dropped."""

    def __init__(self, out: Path, start: int):
        self.files = (
            [] if jax.process_index() else [out / "metrics.csv", out / "speed.csv"]
        )  # one process of a pod writes
        for path in self.files:
            rows = list(csv.reader(path.open())) if path.exists() and start else []
            if rows:
                temporary = path.with_suffix(".tmp")
                with temporary.open("w", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerows(
                        rows[:1] + [r for r in rows[1:] if r and int(r[0]) <= start]
                    )
                os.replace(temporary, path)
            else:
                path.unlink(missing_ok=True)

    def write(self, step: int, *tables: dict[str, float]):
        for path, numbers in zip(self.files, tables, strict=bool(self.files)):
            new = not path.exists()
            with path.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if new:
                    writer.writerow(["step", *numbers])
                writer.writerow([step, *(f"{v:.6g}" for v in numbers.values())])


def identity(config: str, folders: Iterable[Path]) -> str:
    """A digest of all that decides a training's result: configuration text, the shards' manifests, the code of the method."""
    here = Path(__file__).parents[1]
    code = [
        here / f"{name}.py"
        for name in (
            "model/attention",
            "model/layers",
            "model/encoders",
            "method/masking",
            "method/losses",
            "method/stages",
            "data/pipeline",
            "data/text",
            "train/loop",
            "train/optimiser",
        )
    ]
    digest = hashlib.sha256(config.encode())
    for path in [*code, *(Path(folder) / "manifest.json" for folder in folders)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def fit(
    model: nnx.Module,
    loss_fn: Callable,
    batches: Iterator,
    *,
    steps: int,
    tx: optax.GradientTransformation,
    seed: int,
    out: Path,
    identity: str = "",
    mesh: Mesh | None = None,
    frozen: nnx.Module | None = None,
    every: int = 50,
    checkpoint_every: int = 500,
    title: str = "training",
) -> nnx.Module:
    """Train `model` for `steps` steps and return it; calling again after any interruption continues bit for bit.

    `loss_fn(model, batch[, frozen], key=, step=)` returns (loss, numbers to log). `batches` yields dicts of this process's
    arrays and has get_state/set_state (a Grain iterator); its state, the parameters and the optimiser's state are
    checkpointed together under `out`/state, every `checkpoint_every` steps. Step s uses the key fold_in(seed, s), so
    nothing else needs saving. `out`/metrics.csv gets a row each `every` steps (means over them), `out`/speed.csv the
    steps a second and the share of time in which the device had run out of work and waited for input. A state of
    another `identity` (of the configuration, the data and the code: see `identity`) is no state to resume: it is
    removed and training starts afresh.

    Raises TrainingError at the first non-finite loss or gradient, CheckpointError for a state of another model.
    """
    if checkpoint_every % every:
        raise ValueError(
            f"checkpoint_every={checkpoint_every} is not a multiple of every={every}: a resumed log would differ"
        )
    mesh = mesh or sharding.init()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    params = jax.device_put(
        params, sharding.fsdp(mesh, params), may_alias=False
    )  # updates are in place: not the caller's
    opt_state = jax.jit(tx.init)(params)
    opt_state = jax.device_put(opt_state, sharding.fsdp(mesh, opt_state))
    kept = sharding.fsdp(mesh, params), sharding.fsdp(mesh, opt_state), None
    frozen_graph, frozen_state = nnx.split(frozen) if frozen is not None else (None, None)

    def update(params, opt_state, frozen_state, batch, step):
        def loss(params):
            model = nnx.merge(graph, params, rest)
            extra = () if frozen_graph is None else (nnx.merge(frozen_graph, frozen_state),)
            return loss_fn(
                model, batch, *extra, key=jax.random.fold_in(jax.random.key(seed), step), step=step
            )

        (value, numbers), grads = jax.value_and_grad(loss, has_aux=True)(params)
        norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, opt_state, {"loss": value, **numbers, "grad_norm": norm}

    update = jax.jit(
        update, donate_argnums=(0, 1), out_shardings=kept
    )  # where they lie is ours to say, not XLA's
    options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
    with ocp.CheckpointManager((out / "state").absolute(), options=options) as manager:
        start = manager.latest_step() or 0
        if (
            start
            and manager.restore(start, args=ocp.args.Composite(data=ocp.args.JsonRestore()))[
                "data"
            ]["identity"]
            != identity
        ):
            for old in manager.all_steps():
                manager.delete(old)
            start = 0
        if start:
            state = {"params": params, "opt": opt_state}
            like = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
            )
            try:
                got = manager.restore(
                    start,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
                    ),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"the training state in {out / 'state'} is of another model or optimiser "
                    f"({str(error).splitlines()[0][:200]}): give this run a tag= of its own"
                ) from None
            params, opt_state = got["state"]["params"], got["state"]["opt"]
            batches.set_state(got["data"]["iterator"])
        log = Log(out, start)
        with Progress(steps, title) as progress:
            progress.update(start)
            waited, since, pending = 0.0, time.perf_counter(), []
            for step in range(start, steps):
                before = time.perf_counter()
                batch = sharding.to_mesh(mesh, next(batches))
                if (
                    not pending or pending[-1]["loss"].is_ready()
                ):  # else the device was still at work: nothing was lost
                    waited += time.perf_counter() - before
                with jax.set_mesh(mesh):  # for attention kernels, which XLA cannot split by itself
                    params, opt_state, numbers = update(
                        params, opt_state, frozen_state, batch, step
                    )
                pending.append(numbers)
                if (
                    len(pending) >= 2
                ):  # wait for the step before this one: keeps one step in flight, no more
                    jax.block_until_ready(pending[-2])
                last = step + 1 == steps
                if (step + 1) % every == 0 or last:
                    rows = {
                        k: np.array([float(p[k]) for p in pending if k in p]) for k in pending[-1]
                    }
                    bad = ~np.isfinite(rows["loss"]) | ~np.isfinite(rows["grad_norm"])
                    if bad.any():
                        at = step + 1 - len(pending) + int(bad.argmax())
                        raise TrainingError(
                            f"{title}: loss or gradient is not finite at step {at} (batch {at} of the input order): lower the "
                            f"learning rate or look at that batch; the last good state is kept in {out / 'state'}"
                        )
                    seconds = time.perf_counter() - since
                    means = {k: float(v.mean()) for k, v in rows.items()}
                    log.write(
                        step + 1,
                        means,
                        {
                            "input_wait_fraction": waited / seconds,
                            "steps_per_second": len(pending) / seconds,
                        },
                    )
                    progress.update(
                        step + 1, **{k: v for k, v in means.items() if k != "grad_norm"}
                    )
                    waited, since, pending = 0.0, time.perf_counter(), []
                if (step + 1) % checkpoint_every == 0 or last:
                    manager.save(
                        step + 1,
                        args=ocp.args.Composite(
                            state=ocp.args.StandardSave({"params": params, "opt": opt_state}),
                            data=ocp.args.JsonSave(
                                {"iterator": batches.get_state(), "identity": identity}
                            ),
                        ),
                    )
    return nnx.merge(graph, params, rest)
