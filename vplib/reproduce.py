"""`python -m vplib.reproduce`: a scale's pipeline through DVC, timed and compared."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from vplib import environment, files, paths, results

# The stages of dvc.yaml that a scale consists of. The figures of the paper take the largest scale
# that was ever run: they are drawn last and alone, so that `lesson` does not ask for `study`.
MAIN = (
    "10_prepare_corpus",
    "20_stage1",
    "11_corpus_statistics",
    "30_stage2",
    "40_classification_localization",
    "41_retrieval_zero_shot",
    "44_public_weights",
    "45_own_classifier",
)


def reproduce(scale: str, options: list[str]) -> None:
    """Run the pipeline's stages of one scale through DVC and record how long it took.

    `reproduce_minutes` when every stage ran, `reproduce_again_seconds` when none had to; nothing
    when some did. Raises SystemExit when the repository is not one that DVC can work in, and with
    DVC's code when a stage fails; a later call continues there. Raises FileError while another
    process reproduces.
    """
    _check_repository()
    began, start = time.time(), time.perf_counter()
    targets = [*(f"{name}@{scale}" for name in MAIN), "config_figures"]
    tmp = paths.ROOT / ".dvc" / "tmp"
    with files.locked(tmp, doing=f"reproducing {scale}"):
        _free(tmp / "rwlock")
        code = _dvc(["repro", *options, *targets])
        code = code or _dvc(["repro", *options, "--single-item", "60_paper_figures"])
    if code < 0:
        sys.exit(f"error: DVC was stopped (signal {-code}): the same command goes on from here")
    if code:
        sys.exit(code)
    seconds = time.perf_counter() - start
    tag = paths.tag("world", scale)
    notebooks = [paths.RUNS / name / tag / "notebook.ipynb" for name in MAIN]
    fresh = [path.exists() and path.stat().st_mtime > began for path in notebooks]
    name, value, unit = (
        ("reproduce", seconds / 60, "minutes")
        if all(fresh)
        else ("reproduce_again", seconds, "seconds")
    )
    if all(fresh) or not any(fresh):
        command = {"lesson": "make reproduce"}.get(scale, f"make {scale}")
        row = {"name": f"{name}_{unit}", "value": value, "unit": unit}
        results.write(paths.RUNS / name / tag, [row], scale=scale, command=command, timing=True)
        results.build("world")


def _check_repository() -> None:
    root = paths.ROOT
    if paths.OUT != root:
        sys.exit("error: the pipeline works in the repository itself: unset VPLIB_OUT")
    if not os.access(root, os.W_OK):
        sys.exit(
            f"error: the pipeline writes to {root}, which you may not: copy it to a folder of yours"
        )
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        sys.exit(
            f"error: DVC needs git, and {root} has no .git: clone the repository, or type: git init"
        )


def _free(rwlock: Path) -> None:
    """Drop what killed processes left in DVC's list of files in use; SystemExit if a living one
    holds any.
    """
    try:
        held = json.loads(rwlock.read_text(encoding="utf-8"))
        holders = [*held.get("write", {}).values(), *sum(held.get("read", {}).values(), [])]
        living = [holder for holder in holders if _is_dvc(holder["pid"])]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):  # cut short by a full disk
        living = []
    for holder in living:
        pid, what = holder["pid"], f"dvc {holder['cmd'].partition(' ')[2]}"
        sys.exit(
            f"error: process {pid} ({what}) works here: wait until it ends, or type: kill {pid}"
        )
    rwlock.unlink()


def _is_dvc(process: int) -> bool:
    if not files.alive(process):
        return False
    try:  # the number may have gone to another program since
        return b"dvc" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return True


def _dvc(words: list[str]) -> int:
    """DVC's exit code. It and all it starts are one process group, which ends with this process."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", *words],
        cwd=paths.ROOT,
        env=os.environ | {"PATH": programs},
        start_new_session=True,
    )
    with environment.ending_with_us(process.pid):
        return process.wait()


def verify(scale: str) -> None:
    """Rerun everything and compare the headline rows with the committed ones.

    Same platform, Python and lock: the same bytes. Elsewhere the last float bits differ and
    training amplifies them, so a row passes when its new value lies inside the committed 95%
    interval widened by its own width on each side. Timings are not compared. Raises SystemExit
    naming every row that differs more.
    """
    _check_repository()
    committed = {r["name"]: r for r in _committed() if r["scale"] == scale}
    reproduce(scale, ["--force"])
    timings = results.timed()
    now = {r["name"]: r for r in results.read() if r["scale"] == scale}
    equal, close, wrong = 0, 0, []
    for name, old in committed.items():
        if name in timings:
            continue
        new = now.get(name)
        if new == old:
            equal += 1
        elif (
            new
            and old["low"]
            and abs(float(new["value"]) - float(old["value"]))
            <= 1.5 * (float(old["high"]) - float(old["low"]))
        ):
            close += 1
        else:
            wrong.append(
                f"{name}: committed {old['value']}, now {new['value'] if new else 'missing'}"
            )
    print(f"{equal} rows equal to the last digit, {close} within tolerance, {len(wrong)} different")
    if wrong:
        sys.exit("\n".join(wrong))


def _committed() -> list[dict]:
    file = "reports/tables/headline.csv"
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{file}"], cwd=paths.ROOT, capture_output=True, encoding="utf-8"
        )
    except FileNotFoundError:
        sys.exit("error: there is no program 'git', which knows the committed results: install it")
    if shown.returncode:
        said = shown.stderr.strip().partition("\n")[0].removeprefix("fatal: ")
        sys.exit(f"error: git has no committed {file} to compare with ({said}): commit it first")
    return list(csv.DictReader(shown.stdout.splitlines()))


def main(words: list[str]) -> None:
    """`python -m vplib.reproduce [run SCALE | verify SCALE]`; then, or with no words, the table."""
    if words and (len(words) != 2 or words[0] not in ("run", "verify")):
        sys.exit("usage: python -m vplib.reproduce [run SCALE | verify SCALE]")
    if "MAKELEVEL" in os.environ:
        environment.end_with_parent()
    try:
        if words:
            verify(words[1]) if words[0] == "verify" else reproduce(words[1], [])
    except files.FileError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    results.show()


if __name__ == "__main__":
    main(sys.argv[1:])
