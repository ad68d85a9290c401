"""`python -m vplib.reproduce`: the pipeline of one scale through DVC, timed, and compared with the committed results."""

import csv
import subprocess
import sys
import time

from vplib import paths
from vplib.results import read, record

MAIN = (
    "10_prepare_corpus",
    "20_stage1",
    "11_corpus_statistics",
    "30_stage2",
    "40_classification_localization",
    "41_retrieval_zero_shot",
    "44_public_weights",
)  # the stages of dvc.yaml that a scale consists of


def show() -> None:
    """Print the headline table and where to look."""
    rows = read()
    width = max([len(r["name"]) for r in rows], default=4)
    print(f"{'name':{width}}  {'scale':9} {'value':>8}  {'95% interval':18} unit")
    for r in rows:
        span = f"[{r['low']}, {r['high']}]" if r["low"] else ""
        print(f"{r['name']:{width}}  {r['scale']:9} {r['value']:>8}  {span:18} {r['unit']}")
    print(
        "\nEvery figure and table: reports/README.md. Executed notebooks: reports/notebooks/. Runs: runs/."
    )


def reproduce(scale: str, options: list[str]) -> None:
    """Run the pipeline's stages of one scale through DVC and record how long it took.

    `reproduce_minutes` when every stage ran, `reproduce_again_seconds` when none had to; nothing when some did.
    Raises SystemExit with DVC's code when a stage fails; a later call continues there.
    """
    began, start = time.time(), time.perf_counter()
    targets = [f"{name}@{scale}" for name in MAIN] + (
        ["60_paper_figures"] if scale == "lesson" else []
    )
    done = subprocess.run(["dvc", "repro", *options, *targets], cwd=paths.ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    seconds = time.perf_counter() - start
    notebooks = [paths.RUNS / name / f"world-{scale}-none-s0" / "notebook.ipynb" for name in MAIN]
    fresh = [path.stat().st_mtime > began for path in notebooks]
    command = {"lesson": "make reproduce"}.get(scale, f"make {scale}")
    if all(fresh):
        record(
            [{"name": "reproduce_minutes", "value": seconds / 60, "unit": "minutes"}],
            scale=scale,
            command=command,
        )
    elif not any(fresh):
        record(
            [{"name": "reproduce_again_seconds", "value": seconds, "unit": "seconds"}],
            scale=scale,
            command=command,
        )


def verify(scale: str) -> None:
    """Rerun everything and compare the headline rows with the committed ones.

    Same platform, Python and lock: the same bytes. Elsewhere the last float bits differ and training amplifies them, so
    a row passes when its new value lies inside the committed 95% interval widened by its own width on each side.
    Timings are not compared. Raises SystemExit naming every row that differs more.
    """
    shown = subprocess.run(
        ["git", "show", "HEAD:reports/tables/headline.csv"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    )
    if shown.returncode:
        sys.exit(
            "error: reports/tables/headline.csv is not committed here, so there is nothing to compare with"
        )
    committed = {
        r["name"]: r for r in csv.DictReader(shown.stdout.splitlines()) if r["scale"] == scale
    }
    reproduce(scale, ["--force"])
    timings = {"reproduce_minutes", "reproduce_again_seconds", "input_wait_fraction"}
    now = {r["name"]: r for r in read() if r["scale"] == scale}
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


def main(words: list[str]) -> None:
    """`python -m vplib.reproduce [run SCALE | verify SCALE]`; then, or with no words, the table."""
    if words[:1] == ["run"]:
        reproduce(words[1], [])
    elif words[:1] == ["verify"]:
        verify(words[1])
    show()


if __name__ == "__main__":
    main(sys.argv[1:])
