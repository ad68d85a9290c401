"""Steps a second of stage 2 at `study`, this commit against another one, in turns.

    python benchmarks/stage2_speed.py --against 4d0a428            prints
    python benchmarks/stage2_speed.py --against 4d0a428 --record   also writes rows of the headline

Both commits are checked out into a temporary folder. Each prepares a small corpus, trains stage 1
for a moment and then, turn by turn, stage 2 with the real notebook, input pipeline and loop at the
sizes of `study`, both with the batch and decoders of SAME. Speeds are those of speed.csv after the
first rows, which hold compilation and the decoding of clips. A quarter of an hour on 2 CPU cores.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import paths, results

STEPS, SKIPPED = 400, 3  # of a turn; rows of 50 steps that do not count
SAME = ("stage2.batch=32", "model.decoder.layers=2")  # of 4d0a428; `study` has halved both since
FEW = "scale=study data.clips=128 data.images=64 data.eval_test=9 data.candidates=8".split()


def run(tree: Path, *words: str) -> None:
    """A notebook of that checkout, by this Python. Raises SystemExit with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", "vplib.run", *words], cwd=tree, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"error: {' '.join(words)} failed in {tree.name}: {done.stderr.strip()[-300:]}")


def prepare(tree: Path) -> None:
    """Shards and weights of stage 1, as far as a step's time depends on them."""
    nested = "eval_train: {" in (tree / "conf/data/world.yaml").read_text(encoding="utf-8")
    few = "data.eval_train={motion:9,appearance:9}" if nested else "data.eval_train=9"
    run(tree, "10_prepare_corpus", *FEW, few, "tag=speed")
    run(tree, "20_stage1", "scale=study", "stage1.steps=50", "stage1.warmup=1", "tag=speed")


def speed(tree: Path, turn: int) -> float:
    """Median steps a second of one turn."""
    tag, weights = f"turn{turn}", "weights=runs/20_stage1/speed/weights.npz"
    short = f"stage2.steps={STEPS} stage2.shuffle_warmup={STEPS // 4}".split()
    run(tree, "30_stage2", "scale=study", *SAME, *short, weights, f"tag={tag}")
    path = tree / "runs" / "30_stage2" / tag / "speed.csv"
    rows = [*csv.DictReader(path.open(encoding="utf-8"))][SKIPPED:]
    return statistics.median(float(row["steps_per_second"]) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", required=True, metavar="COMMIT")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write the rows to the headline")
    given = parser.parse_args()
    trees, found = {}, {"new": [], "old": []}
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", str(paths.ROOT), "worktree"]
        try:
            for name, commit in (("new", "HEAD"), ("old", given.against)):
                trees[name] = Path(folder) / name
                add = [*git, "add", "--quiet", "--detach", str(trees[name]), commit]
                if subprocess.run(add).returncode:
                    sys.exit(f"error: git cannot check out {commit}: give a commit it knows")
                prepare(trees[name])
            for turn in range(given.turns):
                for name in sorted(trees, reverse=turn % 2 == 1):
                    found[name].append(speed(trees[name], turn))
                print(f"turn {turn}: {found['new'][-1]:.2f}/s, before {found['old'][-1]:.2f}/s")
        finally:
            for tree in trees.values():
                subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True)
    ratios = [new / old for new, old in zip(found["new"], found["old"], strict=True)]
    row = {
        "name": "stage2_speedup",
        "value": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "unit": f"steps a second over those of {given.against} (least and largest of {len(ratios)} turns)",
    }
    print(f"{row['name']} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
    if given.record:
        command = f"python benchmarks/stage2_speed.py --against {given.against} --record"
        out = paths.RUNS / "stage2_speed" / paths.tag("world", "benchmark")
        results.write(out, [row], scale="benchmark", command=command, timing=True)
        results.build("world")


if __name__ == "__main__":
    main()
