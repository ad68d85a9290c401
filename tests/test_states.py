"""Training states and logs survive kills, full disks and damage, or say in one sentence why not."""

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from test_loop import Stop, fit, points, stopping_at

from vplib import files, paths
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError
from vplib.train import loop, restore, states

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and the model of a training that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished")
    return out, fit(out)


def assert_like(out: Path, finished, model) -> None:
    known, undisturbed = finished
    assert (out / "metrics.csv").read_bytes() == (known / "metrics.csv").read_bytes()
    steps = [line.split(",")[0] for line in (out / "speed.csv").read_text().splitlines()]
    assert steps == ["step", "2", "4", "6", "8", "10", "12"]
    digests = [checkpoints.digest(checkpoints.flatten(m)) for m in (model, undisturbed)]
    assert digests[0] == digests[1]


def interrupted(out: Path) -> Path:
    """A training that was stopped after step 9, with states of steps 4 and 8."""
    with pytest.raises(Stop):
        fit(out, batches=stopping_at(9))
    return out


def said(capsys) -> list[str]:
    """Lines on stderr but for the progress."""
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("toy ")]


def newest(out: Path, identity: str = "", steps: int = 12) -> int:
    with states.opened(out / "state", doing="a test") as kept:
        record = kept.newest(identity, steps)
        return record.step if record else 0


# --- kills ---------------------------------------------------------------------------------------

MOMENTS = ("first_step", "first_save", "before_checksums", "after_the_last")


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_run(out: Path, moment: str) -> None:
    """Trains until it kills itself."""
    batches = toy.Batches(lambda index: die() if moment == "first_step" else points(index))
    replace, sum_of = os.replace, states._digest

    def renaming(source, target):
        replace(source, target)
        if Path(target).name == "12":
            die()

    def digest(path):
        return die() if "8.part" in path.parts else sum_of(path)

    if moment == "first_save":
        states.ocp.StandardCheckpointer.wait_until_finished = die
    if moment == "before_checksums":
        states._digest = digest
    if moment == "after_the_last":
        os.replace = renaming
    fit(out, batches=batches)


def test_a_training_killed_at_any_moment_ends_with_the_same_bytes(finished, tmp_path):
    path = os.pathsep.join(str(folder) for folder in (paths.ROOT, paths.ROOT / "tests"))
    code = "import sys, pathlib, test_states as t; t.killed_run(pathlib.Path(sys.argv[1]), sys.argv[2])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / moment), moment],
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
        )
        for moment in MOMENTS
    ]
    assert [process.wait(timeout=120) for process in processes] == [-signal.SIGKILL] * len(MOMENTS)
    for moment in MOMENTS:
        assert_like(tmp_path / moment, finished, fit(tmp_path / moment))
        assert sorted(os.listdir(tmp_path / moment / "state")) == [".lock", "12", "8"]


# --- a full disk ---------------------------------------------------------------------------------


def full():
    raise OSError(errno.ENOSPC, "No space left on device")


def full_tensorstore():
    raise ValueError("INTERNAL: Error writing local file: No space left on device [type='file']")


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (states.ocp.StandardCheckpointer, "save", full_tensorstore),
        (states.ocp.StandardCheckpointer, "wait_until_finished", full_tensorstore),
        (states, "_digest", full),
        (states.os, "replace", full),
        (files, "write", full),
    ],
    ids=["arrays", "background", "record", "renaming", "log"],
)
def test_a_training_goes_on_when_a_full_disk_has_room_again(
    owner,
    name,
    error,
    finished,
    tmp_path,
    monkeypatch,
):
    fit(tmp_path, steps=4)
    good = getattr(owner, name)

    def failing(*args):
        saving = name in ("save", "write") or any((tmp_path / "state").glob("*.part"))
        with files.explained(tmp_path) if owner is files else contextlib.nullcontext():
            if not saving or name == "wait_until_finished":
                result = good(*args)
            return error() if saving else result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        with pytest.raises(
            files.FileError, match=r"^\S+ cannot be written: the disk is full; [^\n]+$"
        ):
            fit(tmp_path)
    assert not [*(tmp_path / "state").glob("*.part")]
    assert_like(tmp_path, finished, fit(tmp_path))


# --- damage --------------------------------------------------------------------------------------


def test_a_state_with_any_changed_file_is_named_and_the_one_before_it_is_used(
    finished,
    tmp_path,
    capsys,
):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    every = sorted(path for path in (tmp_path / "state" / "12").rglob("*") if path.is_file())
    assert len(every) > 5 and newest(tmp_path) == 12
    capsys.readouterr()
    for path in every:
        content = path.read_bytes()
        for wrong in (bytes([content[0] ^ 1]) + content[1:], content[:-1], b"", None):
            path.unlink() if wrong is None else path.write_bytes(wrong)
            assert newest(tmp_path) == 8, (path, wrong)
            (line,) = said(capsys)
            assert line.startswith(f"the training state {tmp_path / 'state' / '12'} is damaged (")
            assert line.endswith("): training goes on from step 8")
            path.write_bytes(content)
    every[-1].write_bytes(b"")
    assert_like(tmp_path, finished, fit(tmp_path))
    assert newest(tmp_path) == 12 and not said(capsys)[1:]


@pytest.mark.parametrize("name", [states.RECORD, states.SUMS])
def test_without_a_whole_state_a_training_stops_with_a_sentence(name, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    for step in ("8", "12"):
        (tmp_path / "state" / step / name).write_text("[1]")
    with pytest.raises(
        CheckpointError,
        match=r"^the training state \S+12 is damaged \([^()]+\) and there is no other to go on from: "
        r"delete \S+state to start afresh$",
    ):
        fit(tmp_path)
    assert {"8", "12"} <= {path.name for path in (tmp_path / "state").iterdir()}


def test_folders_that_are_no_states(finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "one")
    (tmp_path / "one" / "state" / "999").mkdir()
    assert newest(tmp_path / "one") == 12
    assert said(capsys) == [
        f"the training state {tmp_path / 'one' / 'state' / '999'} is damaged (checksums.json: "
        "No such file or directory): training goes on from step 12"
    ]
    os.rename(tmp_path / "one" / "state" / "12", tmp_path / "one" / "state" / "16")
    assert newest(tmp_path / "one") == 8 and "it is the one of step 12" in said(capsys)[1]

    (tmp_path / "two" / "state" / "999").mkdir(parents=True)
    assert newest(tmp_path / "two") == 0 and (tmp_path / "two" / "state.old" / "999").is_dir()
    assert said(capsys)[0].startswith(f"{tmp_path / 'two' / 'state'} holds no training state that")

    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "state").write_text("")
    with pytest.raises(
        files.FileError, match=r"^\S+state cannot be written: a file is where a fold"
    ):
        fit(tmp_path / "three")


def test_states_of_another_identity_are_kept_aside_with_a_word(tmp_path, capsys):
    interrupted(tmp_path)
    before = (tmp_path / "state" / "8" / states.SUMS).read_bytes()
    old = tmp_path / "state.old"
    for identity in ("other", "third"):  # of two that do not fit, the later is kept
        capsys.readouterr()
        assert newest(tmp_path, identity) == 0
        assert said(capsys) == [
            f"the training state in {tmp_path / 'state'} is of another configuration, data or code: "
            f"it is kept in {old}, and training starts afresh"
        ]
        assert (old / "8" / states.SUMS).read_bytes() == before and (old / "4").is_dir()
        for step in ("4", "8"):
            shutil.copytree(old / step, tmp_path / "state" / step)
        (old / "stale").mkdir()
    assert (old / "stale").exists() and len(os.listdir(old)) == 3


def test_a_state_beyond_the_steps_is_refused(finished):
    with pytest.raises(
        CheckpointError,
        match=r"^the training state in \S+state is of step 12, beyond the 10 steps of this run: give",
    ):
        fit(finished[0], steps=10)


# --- the log, the input, the numbers -------------------------------------------------------------


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "change",
    [Path.unlink, zeros, lambda p: p.write_text(""), lambda p: p.write_text(p.read_text()[:40])],
    ids=["deleted", "zeros", "emptied", "cut"],
)
def test_logs_that_were_changed_are_as_they_were(change, finished, tmp_path):
    interrupted(tmp_path)
    for _ in range(2):  # in the middle, and at the end
        for name in ("metrics.csv", "speed.csv"):
            change(tmp_path / name)
        assert_like(tmp_path, finished, fit(tmp_path))


def test_two_trainings_in_one_folder(finished, tmp_path):
    interrupted(tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes()
    with files.locked(tmp_path / "state", doing="stage 1"):
        with pytest.raises(
            files.FileError, match=r"^\S+state is in use \(process \d+ on \S+ stage 1\): "
        ):
            fit(tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert_like(tmp_path, finished, fit(tmp_path))


def test_other_workers_draw_the_same_batches(finished, tmp_path, capsys):
    class Workers(toy.Batches):
        def get_state(self):
            return {"workers": [self.next // 2, self.next // 2]}

        set_state = None

    interrupted(tmp_path)
    assert_like(tmp_path, finished, fit(tmp_path, batches=Workers(points)))
    assert "the input has other workers: drawing 8 batches again" in said(capsys)


def spike(at: int, value: float) -> optax.Schedule:
    return lambda step: jnp.where(step == at, value, 0.1)


@pytest.mark.parametrize(("value", "at", "kept"), [(np.inf, 11, 8), (np.nan, 7, 4), (np.inf, 3, 0)])
def test_parameters_that_are_not_finite_are_not_saved(value, at, kept, tmp_path):
    left = r"; the last good state is kept in \S+state" if kept else ""
    for _ in range(2):  # from the start, and resumed
        with pytest.raises(
            loop.TrainingError,
            match=rf"^toy: parameters are not finite after step {at}: lower the learning rate{left}$",
        ):
            fit(tmp_path, tx=optax.sgd(spike(at, value)))
        assert newest(tmp_path) == kept
    fit(tmp_path, tx=optax.sgd(spike(-1, value)))


def test_an_optimiser_that_is_not_finite_is_not_saved(tmp_path):
    tx = optax.GradientTransformation(
        lambda params: jnp.zeros(()), lambda grads, state, params: (grads, state + jnp.inf)
    )
    with pytest.raises(loop.TrainingError, match=r"^toy: parameters are not finite after step 0: "):
        fit(tmp_path, tx=tx, steps=1)


def test_a_good_run_with_slow_saves_says_nothing(tmp_path, monkeypatch, caplog, capsys):
    digest = states._digest

    monkeypatch.setattr(states, "_digest", lambda path: time.sleep(0.05) or digest(path))
    with caplog.at_level(logging.WARNING):
        fit(tmp_path)
    assert not caplog.records and not said(capsys)


def test_a_state_gives_back_all_that_was_trained(finished, tmp_path):
    out, trained = finished
    changed = nnx.clone(trained)
    nnx.update(changed, jax.tree.map(lambda leaf: leaf + 1, nnx.state(trained, nnx.Param)))
    assert restore.put_in(changed, out / "state") == 12
    digests = [checkpoints.digest(checkpoints.flatten(m)) for m in (changed, trained)]
    assert digests[0] == digests[1]
    with pytest.raises(CheckpointError, match="is of another model: see "):
        restore.put_in(toy.encoder(width=32), out / "state")
    (tmp_path / "state").mkdir()
    with pytest.raises(CheckpointError, match="holds no training state: .* train again"):
        restore.put_in(changed, tmp_path / "state")
