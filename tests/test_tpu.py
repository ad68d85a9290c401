"""What would be typed for a Cloud TPU VM. No such machine is here: commands are read, not run."""

import os
import shlex
import subprocess
import sys

import pytest

from vplib import paths, tpu

VM = ["mine", "europe-west4-b"]
RUNS = ["10_prepare_corpus scale=study", "20_stage1 scale=study seed=1"]


def flat(steps: list[list[str]]) -> list[str]:
    return [shlex.join(step) for step in steps]


def remote(steps: list[list[str]]) -> list[tuple[str, str]]:
    """Which worker executes which command."""
    words = [{word.partition("=")[0]: word.partition("=")[2] for word in step} for step in steps]
    return [(word["--worker"], word["--command"]) for word in words if "--command" in word]


def test_a_vm_of_one_host():
    steps = tpu.commands(*VM, "v5litepod-8", RUNS)
    kinds = [step[4] if step[0] == "gcloud" else "archive" for step in steps]
    assert kinds == ["archive", "create", "scp", "ssh", "ssh", "ssh", "scp", "delete"]
    assert "--version=v2-alpha-tpuv5-lite" in steps[1]
    prepare, train = remote(steps)[1:]
    assert prepare[1].endswith("-m vplib.run 10_prepare_corpus scale=study hardware=tpu --inline")
    assert train[1].endswith("-m vplib.run 20_stage1 scale=study seed=1 hardware=tpu --inline")
    assert "JAX_POD" not in "".join(flat(steps))


def test_hosts_of_a_pod_train_together_and_the_first_does_the_rest():
    steps = tpu.commands(*VM, "v5p-32", RUNS, shared="10.0.0.2:/share")
    mount, install, prepare, train = remote(steps)
    assert "mount -t nfs 10.0.0.2:/share out" in mount[1] and mount[0] == install[0] == "all"
    assert prepare[0] == "0" and "JAX_PLATFORMS=cpu" in prepare[1]
    assert train[0] == "all" and "JAX_POD=1" in train[1] and "hardware=pod" in train[1]


def test_a_vm_that_is_kept_is_not_deleted():
    assert "delete" in flat(tpu.commands(*VM, "v4-8", RUNS))[-1]
    assert not any("delete" in step for step in flat(tpu.commands(*VM, "v4-8", RUNS, keep=True)))


@pytest.mark.parametrize("command", [tpu.INSTALL, tpu.MOUNT.format("a:/b")])
def test_what_hosts_execute_is_a_shell_script(command):
    assert subprocess.run(["sh", "-n", "-c", command]).returncode == 0


def start(tmp_path, *words: str, fails: str = "nothing") -> subprocess.CompletedProcess:
    """With a git and a gcloud that write down what they are given."""
    for name in ("git", "gcloud"):
        tool = tmp_path / name
        tool.write_text(
            f'#!/bin/sh\necho {name} "$@" >> "{tmp_path}/told"\ncase "$*" in *{fails}*) exit 1;; esac\n'
        )
        tool.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "vplib.tpu", *words]
    return subprocess.run(command, cwd=paths.ROOT, env=env, capture_output=True, text=True)


def told(tmp_path) -> list[str]:
    file = tmp_path / "told"
    return file.read_text().splitlines() if file.exists() else []


def test_a_dry_run_prints_what_a_run_executes(tmp_path):
    dry = start(tmp_path, *VM, "v4-8", *RUNS, "--dry-run")
    assert dry.returncode == 0 and not told(tmp_path)
    real = start(tmp_path, *VM, "v4-8", *RUNS)
    assert real.returncode == 0, real.stderr
    assert told(tmp_path) == [" ".join(shlex.split(line)) for line in dry.stdout.splitlines()]


def test_after_a_failure_the_vm_is_deleted_all_the_same(tmp_path):
    done = start(tmp_path, *VM, "v4-8", *RUNS, fails="10_prepare_corpus")
    assert done.returncode and "this command failed" in done.stderr.splitlines()[-1]
    assert "20_stage1" not in "".join(told(tmp_path)) and "delete mine" in told(tmp_path)[-1]


def test_a_vm_that_never_was_is_not_deleted(tmp_path):
    assert start(tmp_path, *VM, "v4-8", *RUNS, fails="create").returncode
    assert "create" in told(tmp_path)[-1]


@pytest.mark.parametrize(
    "words, said",
    [
        ((*VM, "h100-8", *RUNS), "error: TYPE=h100-8 is unknown: it begins with v4-, "),
        ((*VM, "v4-8", "20_stage1 stage1.stepps=3"), "error: 20_stage1 has no key 'stage1.stepps'"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, words, said):
    done = start(tmp_path, *words)
    assert done.returncode and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1
    assert not told(tmp_path)
