"""Runs on a Cloud TPU VM, from creating to deleting it: `python -m vplib.tpu NAME ZONE TYPE RUN ...`.

    python -m vplib.tpu mine europe-west4-b v5litepod-8 "10_prepare_corpus" "20_stage1" --dry-run

The commands are those of git and of gcloud, which must be installed and logged in; `--dry-run`
prints them. What is committed here (HEAD) goes to every host, with the JAX of requirements.lock for
TPUs. Several hosts need a folder that all see (`--shared`, an NFS export such as Filestore's): they
train together, with `hardware=pod`, and the first alone does the rest, on its CPU. Results come back
from the first host, and the VM is deleted also when something fails (`--keep` leaves it). Not yet
run by us.

Source of the commands: docs.cloud.google.com/tpu/docs/jax-pods, as of 2026.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from vplib import config, environment, paths

SOFTWARE = {  # how a type of accelerator begins -> the version of its VM's software
    "v4-": "tpu-ubuntu2204-base",
    "v5litepod-": "v2-alpha-tpuv5-lite",
    "v5p-": "v2-alpha-tpuv5",
    "v6e-": "v2-alpha-tpuv6e",
}
TREE = ".vplib.tar.gz"
# The VM's own Python is older than 3.11.
INSTALL = (
    f"mkdir -p vplib out && tar -xzf {TREE} -C vplib && cd vplib && pip install -q uv"
    " && python3 -m uv venv -q --clear --python 3.12 .venv"
    " && python3 -m uv pip install -q --python .venv -r requirements.lock"
    " && python3 -m uv pip install -q --python .venv -e '.[tpu]' --constraint requirements.lock"
)
MOUNT = "sudo apt-get install -y -q nfs-common && mkdir -p out && sudo mount -t nfs {} out"


def commands(
    name: str, zone: str, kind: str, runs: Sequence[str], *, shared: str = "", keep: bool = False
) -> list[list[str]]:
    """What to execute, in order; without `keep` the last one in any case.

    Raises ValueError for a type whose software is unknown, ConfigError for a run that cannot be
    configured.
    """
    software = next((v for start, v in SOFTWARE.items() if kind.startswith(start)), None)
    if software is None:
        known = ", ".join(SOFTWARE)
        raise ValueError(f"TYPE={kind} is unknown: it begins with {known}, as in v5litepod-8")
    vm, zone = ["gcloud", "compute", "tpus", "tpu-vm"], f"--zone={zone}"

    def on(worker: str, command: str) -> list[str]:
        return [*vm, "ssh", name, zone, f"--worker={worker}", f"--command={command}"]

    started = []
    for run in runs:
        notebook, *overrides = shlex.split(run)
        if not any(word.startswith("hardware=") for word in overrides):
            overrides.append("hardware=pod" if shared else "hardware=tpu")
        trains = "optim" in config.check(notebook, overrides)
        words = shlex.join(["-m", "vplib.run", notebook, *overrides, "--inline"])
        # One host of several cannot use its part of the accelerator alone.
        where = "" if not shared else "JAX_POD=1" if trains else "JAX_PLATFORMS=cpu"
        variables = f'VPLIB_OUT="$HOME/out" NPROC="$(nproc)" XLA_FLAGS= {where}'.rstrip()
        command = f"cd vplib && {variables} .venv/bin/python {words}"
        started.append(on("all" if trains else "0", command))
    steps = [
        ["git", "-C", str(paths.ROOT), "archive", "--format=tar.gz", f"--output={TREE}", "HEAD"],
        [*vm, "create", name, zone, f"--accelerator-type={kind}", f"--version={software}"],
        [*vm, "scp", str(paths.ROOT / TREE), f"{name}:", zone, "--worker=all"],
        *([on("all", MOUNT.format(shlex.quote(shared)))] if shared else []),
        on("all", INSTALL),
        *started,
        [
            *vm,
            "scp",
            "--recurse",
            f"{name}:out",
            str(paths.OUT / f"tpu-{name}"),
            zone,
            "--worker=0",
        ],
    ]
    return steps if keep else [*steps, [*vm, "delete", name, zone, "--quiet"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.tpu",
        description="Runs on a Cloud TPU VM, which is deleted afterwards.",
    )
    parser.add_argument("name", metavar="NAME", help="of the VM")
    parser.add_argument("zone", metavar="ZONE", help="such as europe-west4-b")
    parser.add_argument("kind", metavar="TYPE", help="of accelerator, such as v5litepod-8")
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help='in quotes, such as "20_stage1 scale=study"'
    )
    parser.add_argument("--shared", default="", metavar="HOST:/PATH", help="NFS for several hosts")
    parser.add_argument("--keep", action="store_true", help="do not delete the VM: it costs money")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    given = vars(parser.parse_args())
    environment.write_any_letter()
    dry, keep = given.pop("dry_run"), given["keep"]
    try:
        steps = commands(**given)
    except (ValueError, config.ConfigError) as error:
        sys.exit(f"error: {error}")
    if dry:
        print("\n".join(map(shlex.join, steps)))
        return
    if missing := [tool for tool in ("git", "gcloud") if shutil.which(tool) is None]:
        sys.exit(f"error: there is no program '{missing[0]}': install it, or use --dry-run")
    failed = ""
    for number, step in enumerate(steps, 1):
        last = number == len(steps) and not keep
        if failed and not last:
            continue
        print(f"[{number}/{len(steps)}] {shlex.join(step)}", file=sys.stderr, flush=True)
        if subprocess.run(step, cwd=paths.ROOT).returncode:
            failed = failed or shlex.join(step)
            if number <= 2:  # there is no VM to delete
                break
    (paths.ROOT / TREE).unlink(missing_ok=True)
    if failed:
        sys.exit(f"error: this command failed, see above: {failed}")


if __name__ == "__main__":
    main()
