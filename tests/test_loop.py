"""Training goes on after anything as if nothing had happened, or stops with a sentence."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib import paths
from vplib.data import pipeline, text
from vplib.method.losses import contrastive
from vplib.method.stages import stage1_loss
from vplib.model import checkpoints
from vplib.model.encoders import Embedding, normalise
from vplib.model.layers import Dense, one_hot_rows
from vplib.train import loop, optimiser
from vplib.world.corpora import WorldSource

# What Orbax leaves behind when a state does not fit complains once it is collected, at some later
# time.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# --- a training that is over in a moment ---------------------------------------------------------


class Line(nnx.Module):
    def __init__(self, inputs: int = 3):
        self.layer = Dense(inputs, 1, rngs=nnx.Rngs(0))


def squared_error(model, batch, *, key, step):
    guess = model.layer(batch["x"])[:, 0]
    error = (
        guess - batch["x"].sum(1) + 0.1 * jax.random.normal(key, guess.shape) + 0.1 * jnp.sin(step)
    )
    return jnp.square(error).mean(), {"largest": jnp.abs(error).max()}


def points(index: int, *, bad: int = -1) -> dict[str, np.ndarray]:
    x = np.random.default_rng(index).normal(size=(8, 3)).astype(np.float32)
    return {"x": x * np.nan if index == bad else x}


def fit(out, *, model=None, batches=None, loss=squared_error, **changes):
    options = (
        dict(steps=12, tx=optax.adam(0.1), seed=0, every=2, checkpoint_every=4, title="toy")
        | changes
    )
    return loop.fit(model or Line(), loss, batches or toy.Batches(points), out=out, **options)


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open()))


class Stop(Exception):
    pass


def stopping_at(step: int):
    def make(index):
        if index == step:
            raise Stop
        return points(index)

    return toy.Batches(make)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the model of a training that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished")
    return out, fit(out)


def test_a_training_learns_and_logs_means(finished):
    logged = rows(finished[0] / "metrics.csv")
    assert [row["step"] for row in logged] == ["2", "4", "6", "8", "10", "12"]
    assert list(logged[0]) == ["step", "grad_norm", "largest", "loss"]
    assert float(logged[-1]["loss"]) < 0.8 * float(logged[0]["loss"])
    speed = rows(finished[0] / "speed.csv")
    assert list(speed[0]) == ["step", "input_wait_fraction", "steps_per_second"] and len(speed) == 6
    assert all(0 <= float(row["input_wait_fraction"]) <= 1 for row in speed)


def test_rows_are_means_over_their_steps(finished, tmp_path):
    fit(tmp_path, every=1)
    single = [float(row["loss"]) for row in rows(tmp_path / "metrics.csv")]
    means = [float(row["loss"]) for row in rows(finished[0] / "metrics.csv")]
    np.testing.assert_allclose(np.reshape(single, (6, 2)).mean(1), means, rtol=1e-5)


def test_every_step_has_its_number_and_with_its_seed_a_key_of_its_own(tmp_path):
    def loss(model, batch, *, key, step):
        return squared_error(model, batch, key=key, step=step)[0], {
            "drawn": jax.random.uniform(key),
            "number": step,
        }

    drawn = set()
    for seed in range(2):
        fit(tmp_path / str(seed), loss=loss, every=1, seed=seed)
        table = rows(tmp_path / str(seed) / "metrics.csv")
        assert [float(row["number"]) for row in table] == [*range(12)]
        drawn |= {row["drawn"] for row in table}
    assert len(drawn) == 24


def test_the_model_given_to_a_training_stays_as_it_was(tmp_path):
    model = Line()
    before = {name: np.array(value) for name, value in toy.leaves(model).items()}
    trained = fit(tmp_path, model=model)
    assert all((before[name] == value).all() for name, value in toy.leaves(model).items())
    assert any((before[name] != value).any() for name, value in toy.leaves(trained).items())


@pytest.mark.parametrize("step", [3, 4, 7, 11])
def test_an_interrupted_training_ends_like_an_undisturbed_one(finished, tmp_path, step):
    with pytest.raises(Stop):
        fit(tmp_path, batches=stopping_at(step))
    batches = toy.Batches(points)
    model = fit(tmp_path, batches=batches)
    assert batches.drawn == 12 - step // 4 * 4
    assert (tmp_path / "metrics.csv").read_bytes() == (finished[0] / "metrics.csv").read_bytes()
    assert all(
        (value == toy.leaves(model)[name]).all() for name, value in toy.leaves(finished[1]).items()
    )


def test_a_finished_training_returns_at_once(finished):
    def never(*args, **kwargs):
        raise AssertionError

    before = (finished[0] / "metrics.csv").read_bytes()
    model = fit(finished[0], loss=never, batches=stopping_at(12))
    assert all(
        (value == toy.leaves(model)[name]).all() for name, value in toy.leaves(finished[1]).items()
    )
    assert (finished[0] / "metrics.csv").read_bytes() == before


def test_a_state_of_other_circumstances_is_not_resumed(finished, tmp_path):
    fit(tmp_path, identity="one", steps=8)
    batches = toy.Batches(points)
    fit(tmp_path, identity="other", batches=batches)
    assert batches.drawn == 12
    assert (tmp_path / "metrics.csv").read_bytes() == (finished[0] / "metrics.csv").read_bytes()


CONFIG = """\
data: {memory: 1e9, resolution: 64}
hardware: {dtype: float32, remat: false, threads: 2, workers: 0}
optim: {checkpoint_every: 500, every: 50, tensorboard: false}
seed: 0
"""


def test_the_identity_of_a_training_is_that_of_what_decides_its_result(tmp_path):
    def identity(config=CONFIG, *used):
        return loop.identity(config, [tmp_path], *used)

    (tmp_path / "manifest.json").write_text("{}")
    one = identity()
    for old, new in (
        ("1e9", "1e8"),
        ("threads: 2", "threads: 1"),
        ("workers: 0", "workers: 2"),
        ("500", "1000"),
        ("tensorboard: false", "tensorboard: true"),
        (", tensorboard: false", ""),
    ):
        assert old in CONFIG and identity(CONFIG.replace(old, new)) == one
    for old, new in (
        ("64", "32"),
        ("remat: false", "remat: true"),
        ("every: 50,", "every: 25,"),
        ("0\n", "1\n"),
    ):
        assert identity(CONFIG.replace(old, new)) != one
    others = [
        identity(CONFIG + "a"),
        identity(CONFIG + "b"),
        identity(CONFIG, contrastive),
        identity(CONFIG, contrastive, normalise),
    ]
    assert len({one, *others}) == 5
    (tmp_path / "manifest.json").write_text('{"records": 1}')
    assert identity() != one


# --- micro-batches ------------------------------------------------------------------------------


def without_noise(model, batch, *, key, step):
    """A mean over points, as the losses of stage 2 are over clips."""
    error = model.layer(batch["x"])[:, 0] - batch["x"].sum(1)
    return jnp.square(error).mean(), {"mean": jnp.abs(error).mean()}


def test_micro_batches_of_a_mean_train_as_their_whole_batch(tmp_path):
    whole = fit(tmp_path / "1", loss=without_noise)
    for count in (2, 4, 8):
        parts = fit(tmp_path / str(count), loss=without_noise, accumulate=count)
        for name, value in toy.leaves(parts).items():
            np.testing.assert_allclose(value, toy.leaves(whole)[name], rtol=1e-4, atol=1e-6)
        for row, known in zip(
            rows(tmp_path / str(count) / "metrics.csv"),
            rows(tmp_path / "1/metrics.csv"),
            strict=True,
        ):
            np.testing.assert_allclose(
                [*map(float, row.values())], [*map(float, known.values())], rtol=1e-4
            )


def test_every_micro_batch_has_other_points_and_a_key_of_its_own():
    def loss(model, batch, *, key, step):
        seen.append(batch["x"].shape)
        value = model.layer(batch["x"]).mean()
        return value, {"drawn": jax.random.uniform(key), "first": batch["x"][0, 0]}

    seen, x = [], np.arange(24, dtype=np.float32).reshape(8, 3)
    params, numbers = nnx.state(Line(), nnx.Param), {}
    for count in (1, 4):
        update = jax.jit(loop.update_of(Line(), loss, optax.sgd(0.1), 0, accumulate=count))
        numbers[count] = update(params, optax.sgd(0.1).init(params), None, {"x": x}, 3)[2]
    assert {*seen} == {(8, 3), (2, 3)}
    assert numbers[4]["first"] == x[:4, 0].mean()  # of four parts, every fourth point is of one
    key = jax.random.fold_in(jax.random.key(0), 3)
    drawn = [jax.random.uniform(jax.random.fold_in(key, part)) for part in range(4)]
    assert numbers[4]["drawn"] == pytest.approx(np.mean(drawn), rel=1e-6)
    assert numbers[1]["drawn"] == pytest.approx(float(jax.random.uniform(key)), rel=1e-6)


def test_micro_batches_compare_with_their_own_alone(tmp_path):
    """The loss of a batch that is guessed at is log B, and that of its parts log B / k."""

    def loss(model, batch, *, key, step):
        same = jnp.ones((len(batch["x"]), 4)) / 2 + 0 * model.layer.linear.bias[...]
        return contrastive(same, same, jnp.float32(1.0)), {}

    for count in (1, 2):
        fit(tmp_path / str(count), loss=loss, accumulate=count)
        first = float(rows(tmp_path / str(count) / "metrics.csv")[0]["loss"])
        assert first == pytest.approx(np.log(8 / count), rel=1e-5)


def test_micro_batches_take_less_memory():
    def needed(count):
        sgd = optax.sgd(0.1)
        update = loop.update_of(toy.stage1(), stage1, sgd, 0, accumulate=count)
        given = nnx.state(toy.stage1(), nnx.Param)
        compiled = jax.jit(update).lower(given, sgd.init(given), None, toy.batch(0, 64), 0)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    def stage1(model, batch, *, key, step):
        return stage1_loss(model, batch, drop_ratio=0.5, key=key, step=step)

    assert needed(8) < needed(1) / 3


def test_an_interrupted_training_of_micro_batches_ends_like_an_undisturbed_one(tmp_path):
    whole = fit(tmp_path / "whole", accumulate=2)
    with pytest.raises(Stop):
        fit(tmp_path / "again", accumulate=2, batches=stopping_at(7))
    again = fit(tmp_path / "again", accumulate=2)
    assert all(
        (value == toy.leaves(again)[name]).all() for name, value in toy.leaves(whole).items()
    )


# --- snapshots -----------------------------------------------------------------------------------


def snapshots(out: Path, count: int, **changes) -> list[tuple[int, dict[str, np.ndarray]]]:
    """The steps after which `fit` shows its model, and the parameters then."""
    shown = []

    def show(step, model):
        shown.append((step, {name: np.array(value) for name, value in toy.leaves(model).items()}))

    with contextlib.suppress(Stop):
        fit(out, snapshots=count, snapshot=show, **changes)
    return shown


@pytest.mark.parametrize(
    ("count", "changes", "steps"),
    [
        (3, {}, [4, 8, 12]),
        (1, {}, [12]),
        (6, {}, [2, 4, 6, 8, 10, 12]),
        (2, {"every": 4}, [8, 12]),  # 6 is half-way between two multiples of 4: to the even one
        (40, {"every": 4}, [4, 8, 12]),  # not more than there are rows in the log
        (3, {"steps": 11}, [4, 8, 11]),  # the end is the end
    ],
)
def test_snapshots_come_after_equal_parts_where_the_log_has_rows(tmp_path, count, changes, steps):
    assert [step for step, _ in snapshots(tmp_path, count, **changes)] == steps


def same(shown: dict[str, np.ndarray], model: nnx.Module) -> bool:
    return all((shown[name] == value).all() for name, value in toy.leaves(model).items())


def test_a_snapshot_is_the_model_of_its_step(finished, tmp_path):
    shown = dict(snapshots(tmp_path / "whole", 3))
    assert same(shown[12], finished[1]) and not same(shown[8], finished[1])
    assert same(shown[4], fit(tmp_path / "short", steps=4))
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (
        finished[0] / "metrics.csv"
    ).read_bytes()


def test_an_interrupted_training_shows_the_snapshots_of_an_undisturbed_one(tmp_path):
    whole = dict(snapshots(tmp_path / "whole", 6))
    first = snapshots(tmp_path / "again", 6, batches=stopping_at(7))
    then = snapshots(tmp_path / "again", 6)
    assert [step for step, _ in first + then] == [2, 4, 6, 6, 8, 10, 12]
    for step, shown in first + then:
        assert all((whole[step][name] == value).all() for name, value in shown.items())


def test_no_snapshots_are_taken_unless_asked_for(tmp_path):
    def never(step, model):
        raise AssertionError

    fit(tmp_path, snapshot=never)


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_good_state(tmp_path):
    for _ in range(2):  # from the start, and resumed
        with pytest.raises(
            loop.TrainingError,
            match=r"^toy: loss or gradient is not finite at step 9 \(batch 9 of the",
        ):
            fit(tmp_path, batches=toy.Batches(lambda index: points(index, bad=9)))
        assert [row["step"] for row in rows(tmp_path / "metrics.csv")] == ["2", "4", "6", "8"]
    model = fit(tmp_path)  # with the batch repaired
    assert all(np.isfinite(value).all() for value in toy.leaves(model).values())


def test_a_gradient_that_is_not_finite_is_found_although_the_loss_is(tmp_path):
    def loss(model, batch, *, key, step):
        return jnp.sqrt(jnp.square(model.layer.linear.bias[...]).sum()), {}  # no slope at zero

    with pytest.raises(loop.TrainingError, match=r"not finite at step 0 "):
        fit(tmp_path, loss=loss)


@pytest.mark.parametrize(
    "changes",
    [lambda: {"model": Line(4)}, lambda: {"tx": optax.sgd(0.01)}],
    ids=["model", "optimiser"],
)
def test_a_state_of_another_model_or_optimiser_is_one_sentence(finished, changes):
    with pytest.raises(
        checkpoints.CheckpointError,
        match=r"^the training state in .*state is of another model or "
        r"optimiser \(.*\): give this run a tag= of its own$",
    ):
        fit(finished[0], **changes())


def test_a_log_that_could_not_be_resumed_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"^checkpoint_every=5 is not a multiple of every=2: a resumed log would differ$",
    ):
        fit(tmp_path, checkpoint_every=5)


# --- curves for TensorBoard ----------------------------------------------------------------------


def test_curves_are_the_rows_of_the_log_each_once(tmp_path, monkeypatch):
    class Writer:
        def __init__(self, folder):
            self.file = Path(folder) / "events"
            self.file.parent.mkdir()

        def add_scalar(self, name, value, step):
            with self.file.open("a") as file:
                file.write(f"{step} {name} {value!r}\n")

        flush = close = lambda self: None

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    with pytest.raises(Stop):
        fit(tmp_path, batches=stopping_at(11), tensorboard=True)
    fit(tmp_path, tensorboard=True)
    expected = {
        f"{row['step']} {name} {float(row[name])!r}"
        for row in rows(tmp_path / "metrics.csv")
        for name in ("grad_norm", "largest", "loss")
    }
    written = (tmp_path / "tensorboard" / "events").read_text().splitlines()
    assert len(written) == 18 and set(written) == expected


def test_curves_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX import proto

    fit(tmp_path, tensorboard=True)
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, values = file.read_bytes(), {}
    while content:
        size = int.from_bytes(content[:8], "little")
        event = proto.event_pb2.Event.FromString(content[12 : 12 + size])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        content = content[16 + size :]
    for row in rows(tmp_path / "metrics.csv"):
        assert values["loss", int(row["step"])] == np.float32(row["loss"])


def test_curves_without_their_package_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        loop.TrainingError,
        match=r"^training curves for TensorBoard need the package tensorboardX: pip install [^\n]+$",
    ):
        fit(tmp_path, tensorboard=True)
    fit(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


# --- optimisers and schedules --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_schedules_rise_from_zero_to_the_peak_and_fall_to_the_end(kind):
    rate = optimiser.schedule(
        kind, learning_rate=5e-4, steps=100, warmup=20, final_learning_rate=1e-5
    )
    assert [float(rate(step)) for step in (0, 10, 20, 100)] == pytest.approx(
        [0, 2.5e-4, 5e-4, 1e-5], rel=1e-5
    )
    # Half-way, both are at the mean.
    assert float(rate(60)) == pytest.approx((5e-4 + 1e-5) / 2, rel=1e-5)
    values = [float(rate(step)) for step in range(101)]
    assert np.argmax(values) == 20 and (np.diff(values[20:]) < 0).all()
    assert float(rate(40)) == pytest.approx(
        {"linear": 3.775e-4, "cosine": 4.282e-4}[kind], rel=1e-3
    )


def updates_of(name: str, gradients: list[float], **changes) -> list[float]:
    """The update of one weight of a matrix of equal ones, gradient after gradient."""
    tx = optimiser.optimiser(
        name, **(dict(rate=lambda step: 1.0, weight_decay=0.0, clip=1.0) | changes)
    )
    params = {"w": jnp.zeros((4, 4))}
    state, updates = tx.init(params), []
    for value in gradients:
        update, state = tx.update({"w": jnp.full((4, 4), value)}, state, params)
        updates.append(float(update["w"][0, 0]))
    return updates


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_a_giant_gradient_counts_as_one_of_the_clipping_norm(name):
    """Both optimisers divide by the gradients' size, so it takes two updates to tell them apart."""
    giant, clipped = (updates_of(name, [first, 0.1, 0.1]) for first in (1e4, 0.25))
    np.testing.assert_allclose(giant, clipped, rtol=1e-5)
    assert abs(updates_of(name, [1e4, 0.1, 0.1], clip=1e9)[2] / clipped[2] - 1) > 0.05


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_momentum_goes_on_without_a_gradient(name):
    first, second = updates_of(name, [0.1, 0.0])
    assert first < 0 and second / first > 0.3
    if name == "adafactor":  # a tenth of the direction, then nine tenths of that
        np.testing.assert_allclose([first, second], [-0.1, -0.09], rtol=1e-3)


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_the_first_update_is_of_rate_zero_and_the_warm_up_ends_on_its_step(name):
    rate = optimiser.schedule("linear", learning_rate=0.8, steps=20, warmup=4)
    np.testing.assert_allclose([rate(s) for s in (0, 1, 3, 4, 5, 20)], [0, 0.2, 0.6, 0.8, 0.75, 0])
    with_rate = updates_of(name, [0.1] * 6, rate=rate)
    constant = updates_of(name, [0.1] * 6)
    np.testing.assert_allclose(
        np.divide(with_rate, constant), [0, 0.2, 0.4, 0.6, 0.8, 0.75], rtol=1e-5
    )


def test_the_second_decay_is_adamw_s_alone():
    assert updates_of("adafactor", [0.1, 0.2], b2=None) == updates_of(
        "adafactor", [0.1, 0.2], b2=0.5
    )
    assert updates_of("adamw", [0.1, 0.2], b2=0.9) != updates_of("adamw", [0.1, 0.2], b2=0.5)


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_weight_decay_touches_projections_only(name):
    params = nnx.state(toy.stage2())
    tx = optimiser.optimiser(name, lambda step: 0.1, weight_decay=0.5, clip=1.0)
    updates = jax.jit(
        lambda params: tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]
    )(params)
    decayed = set()
    for path, update in nnx.to_flat_state(updates):
        value = dict(nnx.to_flat_state(params))[path][...]
        if update[...].any():
            decayed.add(path[-1])
            np.testing.assert_allclose(update[...], -0.1 * 0.5 * value, rtol=1e-5)
        else:
            assert path[-1] not in ("kernel", "w")
    assert decayed == {"kernel", "w"}


@pytest.mark.parametrize("name", ["adafactor", "adamw"])
def test_optimisers_learn(name, tmp_path):
    tx = optimiser.optimiser(
        name,
        optimiser.schedule("linear", learning_rate=0.1, steps=40, warmup=4),
        weight_decay=0.0,
        clip=1.0,
    )
    fit(tmp_path, tx=tx, steps=40, checkpoint_every=40)
    losses = [float(row["loss"]) for row in rows(tmp_path / "metrics.csv")]
    assert losses[-1] < 0.3 * losses[0]


def test_unknown_optimisers_are_one_sentence():
    with pytest.raises(
        ValueError, match=r"^optim.optimiser=sgd is not known: choose adafactor or adamw$"
    ):
        optimiser.optimiser("sgd", lambda step: 0.1, weight_decay=0.0, clip=1.0)


# --- a real pipeline, really killed --------------------------------------------------------------

STEPS = 20


class Pair(nnx.Module):
    """A video-text model that compiles quickly: projected pixels, and the mean of token vectors."""

    def __init__(self, vocabulary: int):
        self.video = Dense(3 * 12 * 12 * 3, 16, rngs=nnx.Rngs(0))
        self.token_emb = Embedding(vocabulary, 16, fan_in=16, rngs=nnx.Rngs(1))


def pair_loss(pair, batch, *, key, step):
    # Every step hides other pixels, at random.
    seen = batch["video"].reshape(-1, 1296) / 255 * jax.random.bernoulli(key, 0.5, (1296,))
    words = one_hot_rows(pair.token_emb.emb_var[...], batch["ids"]) * batch["keep"][..., None]
    return contrastive(normalise(pair.video(seen)), normalise(words.sum(1)), jnp.float32(10.0)), {}


def real_run(shards: Path, out: Path, pause: float = 0.0) -> int:
    """Train on two corpora of the world and save the weights; return the number of batches."""
    tokenizer = text.Tokenizer(shards / "pieces.model", 8)
    batches = pipeline.stream(
        {name: shards / name for name in ("ac1", "internvid")},
        {"ac1": 2.0, "internvid": 1.0},
        frames=3,
        size=12,
        resolution=16,
        batch=4,
        mixing="alternating",
        seed=0,
        tokenizer=tokenizer,
    )

    class Counted(Iterator):
        drawn, get_state, set_state = 0, batches.get_state, batches.set_state

        def __next__(self):
            self.drawn += 1
            time.sleep(pause)
            return next(batches)

    counted = Counted()
    tx = optimiser.optimiser(
        "adafactor",
        optimiser.schedule("linear", learning_rate=1e-2, steps=STEPS, warmup=4),
        weight_decay=0.05,
        clip=1.0,
    )
    model = loop.fit(
        Pair(tokenizer.size),
        pair_loss,
        counted,
        steps=STEPS,
        tx=tx,
        seed=0,
        out=out,
        every=2,
        checkpoint_every=4,
    )
    checkpoints.save(model, out / "weights.npz")
    return counted.drawn


def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    shards, undisturbed, killed = (tmp_path / name for name in ("shards", "undisturbed", "killed"))
    for name in ("ac1", "internvid"):
        source = WorldSource(name, 12, resolution=16, frames=4)
        toy.write(source, shards / name)
    text.train([source[index].text for index in range(12)], shards / "pieces.model", size=60)
    assert real_run(shards, undisturbed) == STEPS

    path = os.pathsep.join(str(folder) for folder in (paths.ROOT, paths.ROOT / "tests"))
    command = [
        sys.executable,
        "-c",
        "import sys, pathlib, test_loop; "
        "test_loop.real_run(*map(pathlib.Path, sys.argv[1:]), pause=0.1)",
        str(shards),
        str(killed),
    ]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    metrics, deadline = killed / "metrics.csv", time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 5):  # after step 10
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (killed / "weights.npz").exists()

    assert 0 < real_run(shards, killed) < STEPS
    for name in ("weights.npz", "metrics.csv"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
