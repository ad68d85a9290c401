"""`python -m vplib.reproduce`: a scale's pipeline through DVC, timed and compared; other seeds."""

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from vplib import code, config, environment, files, paths, results, run

# The stages of dvc.yaml that a scale consists of. The figures of the paper take the largest scale
# that was ever run: they are drawn last and alone, so that `lesson` does not ask for `study`.
MAIN = (
    "10_prepare_corpus",
    "20_stage1",
    "11_corpus_statistics",
    "30_stage2",
    "31_lit_tuning",
    "40_classification_localization",
    "41_retrieval_zero_shot",
    "42_captioning_qa",
    "43_science",
    "44_public_weights",
    "45_own_classifier",
    "47_beyond_the_anchors",
)
TRAINING = ("20_stage1", "30_stage2", "31_lit_tuning")
# What the headline takes the mean of over training seeds: each training builds on those before it,
# and all that is measured on all trainings.
MEASURED = (
    "40_classification_localization",
    "41_retrieval_zero_shot",
    "42_captioning_qa",
    "43_science",
    "47_beyond_the_anchors",
)
SEEDED = (*TRAINING, *MEASURED)
USAGE = "python -m vplib.reproduce [run SCALE | verify SCALE | seeds SCALE N | tables]"


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
    """Rerun everything with seed 0 and compare the rows of the record with the committed ones.

    The same kind of machine: the same bytes. Elsewhere the last float bits differ and training
    amplifies them, so a row passes when its new value lies inside the committed 95% interval (its
    own over clips, else that over training seeds) widened by its own width on each side. Says which
    of the two cases it is. Raises SystemExit naming every row that differs more.
    """
    _check_repository()
    ours = [r for r in _table_of(_committed("reports/tables/seeds.csv")) if r["scale"] == scale]
    committed = {r["name"]: r for r in ours if r["seed"] == "0"}
    if not committed:
        sys.exit(
            f"error: the committed reports/tables/seeds.csv has no row of seed 0 at {scale}: "
            "commit its results first"
        )
    headline = _table_of(_committed("reports/tables/headline.csv"))
    spread = {r["name"]: r for r in headline if r["scale"] == scale}
    machine = f"runs/{TRAINING[0]}/{paths.tag('world', scale)}/machine.json"
    there = json.loads(_committed(machine))
    reproduce(scale, ["--force"])
    here = json.loads((paths.ROOT / machine).read_text(encoding="utf-8"))
    rows = [r for r in results.read("seeds") if (r["scale"], r["seed"]) == (scale, "0")]
    now = {r["name"]: r for r in rows}
    equal, close, wrong = 0, 0, []
    for name, old in committed.items():
        new, told = now.get(name), old if old["low"] else spread.get(name, old)
        if new == old:
            equal += 1
        elif (
            new
            and told["low"]
            and abs(float(new["value"]) - float(old["value"]))
            <= 1.5 * (float(told["high"]) - float(told["low"]))
        ):
            close += 1
        else:
            wrong.append(
                f"{name}: committed {old['value']}, now {new['value'] if new else 'missing'}"
            )
    print(f"{equal} rows equal to the last digit, {close} within tolerance, {len(wrong)} different")
    print(_case(there, here))
    if wrong:
        sys.exit("\n".join(wrong))


def _case(there: dict[str, str], here: dict[str, str]) -> str:
    """Whether equal bytes are to be expected of two machines, and if not, what differs."""
    differ = [key for key in here if here[key] != there.get(key)]
    if not differ:
        return "same processor kind as the committed results: equal bytes expected"
    told = "; ".join(f"{key} (committed: {there.get(key)}, here: {here[key]})" for key in differ)
    processors = {"processor", "flags", "caches", "python"}
    if set(differ) <= processors and all("avx2" in one.get("flags", "") for one in (there, here)):
        return f"another processor: equal weights expected, and scores that may differ a little: {told}"
    return f"another machine, so rows within tolerance are expected: {told}"


def _table_of(text: str) -> list[dict]:
    return list(csv.DictReader(text.splitlines()))


def _committed(file: str) -> str:
    try:
        shown = subprocess.run(
            ["git", "show", f"HEAD:./{file}"], cwd=paths.ROOT, capture_output=True, encoding="utf-8"
        )
    except FileNotFoundError:
        sys.exit("error: there is no program 'git', which knows the committed results: install it")
    if shown.returncode:
        said = shown.stderr.strip().partition("\n")[0].removeprefix("fatal: ")
        sys.exit(f"error: git has no committed {file} to compare with ({said}): commit it first")
    return shown.stdout


def seeds(scale: str, count: int) -> None:
    """Train and measure the seeds 1 to `count` - 1 on the shards of seed 0, one after another.

    A run that ended with the present code is skipped, one that was killed goes on; whatever builds
    on a run made anew is made anew. Raises SystemExit when there are no shards, ConfigError
    for an unknown scale, and what `run.run` raises.
    """
    shards = results.shards(config.load(TRAINING[0], [f"scale={scale}", "seed=1"]))
    if not shards.is_dir():
        first = {"lesson": "make reproduce"}.get(scale, f"make {scale}")
        sys.exit(f"error: {paths.short(shards)} is missing, which all seeds share: {first} first")
    with files.locked(paths.ROOT / ".dvc" / "tmp", doing=f"training seeds of {scale}"):
        for seed in range(1, count):
            trained = [_is_finished(name, scale, seed) for name in TRAINING]
            done = (*trained, False).index(False)
            left = [*TRAINING[done:], *MEASURED]
            if done == len(TRAINING):
                left = [name for name in MEASURED if not _is_finished(name, scale, seed)]
            for name in left:
                for file in ("code.json", "metrics.json"):
                    (_folder(name, scale, seed) / file).unlink(missing_ok=True)
            for name in left:
                now = _code(name)
                run.run(name, [f"scale={scale}", f"seed={seed}"])
                files.write(_folder(name, scale, seed) / "code.json", now)


def _folder(name: str, scale: str, seed: int) -> Path:
    return paths.RUNS / name / paths.tag("world", scale, seed=seed)


def _code(name: str) -> str:
    """What `code.json` says of a run that starts now."""
    return json.dumps(code.of_notebook(paths.NOTEBOOKS / f"{name}.ipynb"), indent=1) + "\n"


def _is_finished(name: str, scale: str, seed: int) -> bool:
    folder, stamp = _folder(name, scale, seed), _folder(name, scale, seed) / "code.json"
    made = ["metrics.json", *(["weights.npz"] if name in TRAINING else [])]
    return (
        all((folder / file).exists() for file in made)
        and stamp.exists()
        and stamp.read_text(encoding="utf-8") == _code(name)
    )


def missing() -> list[str]:
    """One sentence for every notebook of a scale's main job that has rows of fewer training seeds
    than the scale has."""
    found = {}  # scale -> seed -> words of its commands, its notebooks among them
    for row in results.read("seeds"):
        words = set(row["command"].split())
        found.setdefault(row["scale"], {}).setdefault(int(row["seed"]), set()).update(words)
    sentences = []
    for (scale, runs), name in itertools.product(found.items(), SEEDED):
        lacking = [str(seed) for seed in sorted(runs) if name not in runs[seed]]
        if 0 < len(lacking) < len(runs):
            which = ",".join(lacking)
            sentences.append(
                f"{name} of seed {which} at {scale} is missing from the means: "
                f"python -m vplib.run {name} scale={scale} seed={which}"
            )
    return sentences


def main(words: list[str]) -> None:
    """What USAGE says; then, or with no words, the headline table and which runs it lacks."""
    what, *rest = words or [""]
    counts = {"": 0, "run": 1, "verify": 1, "seeds": 2, "tables": 0}
    if len(rest) != counts.get(what) or (what == "seeds" and not rest[1].isdecimal()):
        sys.exit(f"usage: {USAGE}")
    environment.write_any_letter()
    if "MAKELEVEL" in os.environ:
        environment.end_with_parent()
    try:
        if what == "run":
            reproduce(rest[0], [])
        elif what == "verify":
            verify(rest[0])
        elif what == "seeds":
            seeds(rest[0], int(rest[1]))
        elif what == "tables":
            results.build("world")
    except (config.ConfigError, files.FileError, run.RunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    results.show()
    for sentence in missing():
        print(sentence)


if __name__ == "__main__":
    main(sys.argv[1:])
