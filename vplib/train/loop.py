"""The training loop of every stage: `fit` resumes, logs, shows progress, stops at NaN or inf."""

import csv
import hashlib
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import PyTree

from vplib import code, environment, files
from vplib.progress import Progress
from vplib.train import sharding
from vplib.train.states import Record, States, opened

_LESS = (
    "take optim.accumulate=2 or more, hardware.remat=true, a smaller batch, fewer frames or more "
    "devices; what was saved is kept"
)


class TrainingError(RuntimeError):
    """Training cannot go on: one sentence with the step, the batch and what to try."""


def identity(config: str, folders: Iterable[Path], *used: Callable) -> str:
    """A digest of all that decides a training's result: configuration, shards' manifests and the
    tables of what is dropped of them, code.

    `config` is YAML text, of which the keys in `environment.FREE` do not count; what follows its
    last line break counts as it is (the digest of weights that the training begins with). Of the
    code, what `fit` and the functions and classes `used` reach counts, without comments and
    docstrings.
    """
    text, _, rest = config.rpartition("\n")
    values = yaml.safe_load(text) or {}
    for key in environment.FREE:
        section, _, name = key.partition(".")
        if isinstance(values.get(section), dict):
            values[section].pop(name, None)
    reached = code.of(fit, *used)
    digest = hashlib.sha256(json.dumps([values, rest, reached], sort_keys=True).encode())
    for folder in folders:
        digest.update((Path(folder) / "manifest.json").read_bytes())
        for table in sorted(Path(folder).glob("*-of-*.*.json")):
            digest.update(table.name.encode() + table.read_bytes())
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
    accumulate: int = 1,
    every: int = 50,
    checkpoint_every: int = 500,
    title: str = "training",
    tensorboard: bool = False,
    snapshots: int = 0,
    snapshot: Callable[[int, nnx.Module], None] = lambda step, model: None,
) -> nnx.Module:
    """Train `model` for `steps` steps and return it; calling again after any interruption continues
    bit for bit.

    `loss_fn(model, batch[, frozen], key=, step=)` returns (loss, numbers to log). `batches` yields
    dicts of this process's arrays and has get_state/set_state (a Grain iterator); its state, the
    parameters, the optimiser's state and the log are saved together under `out`/state, every
    `checkpoint_every` steps. Step s uses the key fold_in(seed, s), so nothing else needs saving.
    `accumulate` micro-batches make a step, see `update_of`.
    `out`/metrics.csv gets a row each `every` steps (means over them), `out`/speed.csv the steps a
    second and the share of time in which the device had run out of work and waited for input;
    `tensorboard` writes the rows of metrics.csv to `out`/tensorboard as well. `snapshot(step,
    model)` is called with the model after each of `snapshots` equal parts of the steps, to the
    nearest multiple of `every`, and after the last step. A state of another
    `identity` (of the configuration, the data and the code: see `identity`) is no state to resume:
    it is kept aside, and training starts afresh.

    Raises TrainingError when loss, gradient or parameters are not finite (none of that is saved),
    CheckpointError for a state of another model, of more steps, or damaged with none before it,
    FileError if `out` cannot be written or another process trains there, MemoryError if a device's
    memory is too small.
    """
    if checkpoint_every % every:
        raise ValueError(
            f"checkpoint_every={checkpoint_every} is not a multiple of every={every}: a resumed log "
            "would differ"
        )
    mesh, out = mesh or sharding.init(), files.folder(Path(out))
    update, arrays, trained = _prepared(model, loss_fn, tx, seed, mesh, frozen, accumulate)
    shown = {round((part + 1) * steps / snapshots / every) * every for part in range(snapshots)}
    with opened(out / "state", doing=title) as states:
        record = states.newest(identity, steps) or Record(0, identity, {}, {})
        if record.step:
            arrays = states.restore(record.step, arrays)
            _resume(batches, record)
        events = _events(out / "tensorboard") if tensorboard and not jax.process_index() else None
        with Log(out, record.tables, events) as log, Progress(steps, title) as progress:
            progress.update(record.step)
            step, since = record.step, time.perf_counter()
            while step < steps:
                first, step = step, min(step - step % every + every, steps)
                with environment.enough_memory(f"{title}: {_LESS}"):
                    arrays, rows, waited = _train(update, arrays, batches, mesh, range(first, step))
                _check(rows, arrays, first, title, states)
                since, seconds = time.perf_counter(), time.perf_counter() - since
                means = {name: float(values.mean()) for name, values in rows.items()}
                log.write(step, means, _speed(waited, seconds, step - first))
                progress.update(step, **{k: v for k, v in means.items() if k != "grad_norm"})
                if step in shown or (snapshots and step == steps):
                    snapshot(step, trained(arrays["params"]))
                if step % checkpoint_every == 0 or step == steps:
                    states.save(
                        Record(step, identity, batches.get_state(), dict(log.tables)), arrays
                    )
    return trained(arrays["params"])


def update_of(
    model: nnx.Module,
    loss_fn: Callable,
    tx: optax.GradientTransformation,
    seed: int,
    frozen: nnx.Module | None = None,
    accumulate: int = 1,
) -> Callable:
    """One step of `fit` as a function of arrays: parameters, the optimiser's state, the state of
    `frozen`, a batch and the step to new parameters, state and numbers to log. Of `model` and
    `frozen` only the structure is taken: they may hold shapes (`nnx.eval_shape`).

    With `accumulate` > 1 that many micro-batches, equal parts of the batch, follow each other, each
    with a key of its own, and the update is of the mean of their gradients: less memory for the
    same clips. Where a loss is a mean over clips, that mean is the gradient of the whole batch; a
    contrastive loss has no other negatives than those of a micro-batch.
    """
    graph, _, rest = nnx.split(model, nnx.Param, ...)
    frozen_graph = nnx.graphdef(frozen) if frozen is not None else None

    def update(params, opt_state, frozen_state, batch, step):
        def loss(params, batch, part=None):
            model = nnx.merge(graph, params, rest)
            extra = () if frozen_graph is None else (nnx.merge(frozen_graph, frozen_state),)
            key = jax.random.fold_in(jax.random.key(seed), step)
            key = key if part is None else jax.random.fold_in(key, part)
            return loss_fn(model, batch, *extra, key=key, step=step)

        gradient = jax.value_and_grad(loss, has_aux=True)
        if accumulate == 1:
            (value, numbers), grads = gradient(params, batch)
        else:
            (value, numbers), grads = _mean_over_parts(gradient, params, batch, accumulate)
        norm = optax.global_norm(grads)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, opt_state, {"loss": value, **numbers, "grad_norm": norm}

    return update


def _mean_over_parts(gradient: Callable, params: PyTree, batch: dict, count: int) -> PyTree:
    """The mean of `gradient(params, part, index)` over `count` equal parts of a batch, one after
    another.

    Every count-th clip is of the same part: so each device has as many of every part.
    """
    parts = {k: v.reshape(-1, count, *v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()}
    inputs = parts, jnp.arange(count)
    found = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], inputs))

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)
    total, _ = jax.lax.scan(add, start, inputs)
    return jax.tree.map(lambda x: x / count, total)


def _prepared(
    model, loss_fn, tx, seed, mesh, frozen, accumulate
) -> tuple[Callable, PyTree, Callable]:
    """The compiled update of one step, its parameters and optimiser's state in their places, and
    the way back to a model.
    """
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    # Updates are in place, so the arrays must not be the caller's.
    params = jax.device_put(params, sharding.fsdp(mesh, params), may_alias=False)
    opt_state = jax.jit(tx.init)(params)
    opt_state = jax.device_put(opt_state, sharding.fsdp(mesh, opt_state))
    kept = sharding.fsdp(mesh, params), sharding.fsdp(mesh, opt_state), None
    frozen_state = nnx.state(frozen) if frozen is not None else None
    update = update_of(model, loss_fn, tx, seed, frozen, accumulate)

    # Where the results lie is ours to say, not XLA's.
    update = jax.jit(update, donate_argnums=(0, 1), out_shardings=kept)

    def step_of(arrays, batch, step):
        with jax.set_mesh(mesh):  # for attention kernels, which XLA cannot split by itself
            params, opt_state, numbers = update(
                arrays["params"], arrays["opt"], frozen_state, batch, step
            )
        return {"params": params, "opt": opt_state}, numbers

    arrays = {"params": params, "opt": opt_state}
    return step_of, arrays, lambda params: nnx.merge(graph, params, rest)


def _resume(batches: Iterator, record: Record) -> None:
    """Let `batches` go on after `record.step` of them, also if other workers drew those."""
    if jax.tree.structure(batches.get_state()) == jax.tree.structure(record.iterator):
        batches.set_state(record.iterator)
        return
    print(f"the input has other workers: drawing {record.step} batches again", file=sys.stderr)
    for _ in range(record.step):
        next(batches)


def _train(
    update: Callable, arrays: PyTree, batches: Iterator, mesh: Mesh, steps: range
) -> tuple[PyTree, dict[str, np.ndarray], float]:
    """Some steps: the arrays after them, every number of each, and the seconds in which the device
    had no work.
    """
    waited, pending = 0.0, []
    for step in steps:
        before = time.perf_counter()
        batch = sharding.to_mesh(mesh, next(batches))
        # Where the last loss is not ready, the device was still at work and lost no time.
        if not pending or pending[-1]["loss"].is_ready():
            waited += time.perf_counter() - before
        arrays, numbers = update(arrays, batch, step)
        pending.append(numbers)
        # Waiting for the step before this one keeps one step in flight, no more.
        if len(pending) >= 2:
            jax.block_until_ready(pending[-2])
    rows = {k: np.array([float(p[k]) for p in pending if k in p]) for k in pending[-1]}
    return arrays, rows, waited


def _check(
    rows: dict[str, np.ndarray], arrays: PyTree, first: int, title: str, states: States
) -> None:
    """Raises TrainingError if a loss or gradient since step `first`, or what is to be saved, is not
    finite.
    """
    bad = ~np.isfinite(rows["loss"]) | ~np.isfinite(rows["grad_norm"])
    if bad.any():
        at = first + int(bad.argmax())
        what = f"loss or gradient is not finite at step {at} (batch {at} of the input order)"
        advice = "lower the learning rate or look at that batch"
    elif not _finite(arrays):
        what = f"parameters are not finite after step {first + len(bad) - 1}"
        advice = "lower the learning rate"
    else:
        return
    states.wait()
    left = f"; the last good state is kept in {states.folder}" if states.kept else ""
    raise TrainingError(f"{title}: {what}: {advice}{left}")


@jax.jit
def _finite(arrays: PyTree) -> jax.Array:
    floats = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()


def _speed(waited: float, seconds: float, steps: int) -> dict[str, float]:
    return {"input_wait_fraction": waited / seconds, "steps_per_second": steps / seconds}


class Log:
    """Two CSVs that grow by a row, `metrics.csv` (the same bytes on every run) and `speed.csv`
    (timings); begun with `tables`.

    `events`, if given, gets the rows of metrics.csv, those of `tables` first.
    """

    def __init__(self, out: Path, tables: dict[str, str], events=None):
        self.out, self.events = out, events
        self.tables = {name: tables.get(name, "") for name in ("metrics.csv", "speed.csv")}
        if jax.process_index() == 0:  # one process of a pod writes
            for name, text in self.tables.items():
                if text:
                    files.write(out / name, text)
                else:
                    (out / name).unlink(missing_ok=True)
        for row in csv.DictReader(io.StringIO(self.tables["metrics.csv"])):
            self._event(row)

    def write(self, step: int, metrics: dict[str, float], speed: dict[str, float]) -> None:
        for name, numbers in zip(self.tables, (metrics, speed), strict=True):
            row = {"step": str(step)} | {key: f"{value:.6g}" for key, value in numbers.items()}
            text = io.StringIO(self.tables[name], newline="")
            text.seek(0, io.SEEK_END)
            writer = csv.DictWriter(text, row, lineterminator="\n")
            if not self.tables[name]:
                writer.writeheader()
            writer.writerow(row)
            self.tables[name] = text.getvalue()
            if jax.process_index() == 0:
                files.write(self.out / name, self.tables[name])
            if name == "metrics.csv":
                self._event(row)

    def _event(self, row: dict[str, str]) -> None:
        if self.events:
            for name in set(row) - {"step"}:
                self.events.add_scalar(name, float(row[name]), int(row["step"]))
            self.events.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        if self.events:
            self.events.close()


def _events(folder: Path):
    """A writer of TensorBoard events in `folder`, which is emptied: the log's rows are written
    anew.
    """
    try:
        from tensorboardX import SummaryWriter  # here: an extra that few install
    except ImportError:
        raise TrainingError(
            "training curves for TensorBoard need the package tensorboardX: pip install -e "
            "'.[tensorboard]', or train without them"
        ) from None
    with files.explained(folder):
        if folder.exists():
            shutil.rmtree(folder)
        return SummaryWriter(str(folder))
