"""What runs read and write, each named in one place, and the two tables that are built from it.

A run lives in `runs/<notebook>/<source>-<scale>-<ablation>-s<seed>/`. The reference run of a scale
(no ablation, seed 0, the default tag) writes its figures and tables to `reports/`, every other to
its own folder, so that a sweep or a trial overwrites no committed result. Rows of all seeds are the
record, `seeds.csv`; the headline table is the mean over them.
"""

import csv
import hashlib
import io
import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from vplib import chains, environment, figures, files, paths
from vplib.evaluate import metrics

RECORD = ["name", "scale", "seed", "value", "low", "high", "unit", "weights", "command"]
COLUMNS = [
    "name",
    "scale",
    "value",
    "low",
    "high",
    "unit",
    "interval",
    "seeds",
    "machine",
    "weights",
    "command",
]
CLIPS, REPEATS = "clips and probe seeds (bootstrap)", "repeated timings"  # intervals
KINDS = ("metrics", "timings")  # files of a run: what equal runs share, and what they do not


def run(
    cfg: DictConfig, name: str, *, ablation: str | None = None, seed: int | None = None
) -> Path:
    """The run folder of notebook `name` that this run builds on: same source, scale and, if no other
    is given, seed. Without `ablation` it is the run without one; of stage 1 that which the chain of
    this run's ablation begins with, or in stage 1 itself that which it goes on from.
    """
    seed = cfg.seed if seed is None else seed
    if ablation is None:
        first = chains.before if cfg.name == chains.STAGE1 else chains.stage1
        ablation = first(cfg.ablation) if name == chains.STAGE1 else "none"
    return paths.OUT / cfg.runs / name / paths.tag(cfg.source, cfg.scale, ablation, seed)


def weights(cfg: DictConfig, name: str, *, ablation: str | None = None) -> Path | str:
    """What to load: `weights=` (a released name, a file or an exported folder), else what notebook
    `name` trained.
    """
    if not cfg.weights:
        return run(cfg, name, ablation=ablation) / "weights.npz"
    file = paths.OUT / cfg.weights
    return file if cfg.weights.endswith(".npz") or file.is_dir() else cfg.weights


def shards(cfg: DictConfig) -> Path:
    """The folder of all corpora that `10_prepare_corpus` wrote for this source and scale."""
    return paths.OUT / cfg.data.shards


def vocabulary(cfg: DictConfig) -> Path:
    """The SentencePiece model: `data.tokenizer`, else the one that was trained on the corpus."""
    given = cfg.data.tokenizer
    return paths.ROOT / given if given else shards(cfg) / "tokenizer.model"


def is_recorded(cfg: DictConfig) -> bool:
    """Whether a run's rows belong to the record: of any seed, and otherwise asked for as seed 0. Runs
    of a sweep have a table of their own (`vplib.sweep`).
    """
    if (
        cfg.scale == "smoke"
        or _is_swept(cfg.name, cfg.scale)
        or cfg.tag != paths.tag(cfg.source, cfg.scale, seed=cfg.seed)
    ):
        return False
    first = paths.RUNS / cfg.name / paths.tag(cfg.source, cfg.scale)
    return cfg.seed == 0 or _repeats(cfg.command, first)


def _is_swept(notebook: str, scale: str) -> bool:
    return scale == "sweep" and notebook in ("10_prepare_corpus", *chains.NOTEBOOKS)


def is_reference(cfg: DictConfig) -> bool:
    """Whether a run's figures and tables are the committed ones of its source and scale."""
    return cfg.seed == 0 and is_recorded(cfg)


def reports(cfg: DictConfig) -> Path:
    """Where a run's figures and tables belong."""
    return paths.REPORTS if is_reference(cfg) else Path(cfg.out) / "reports"


def save(cfg: DictConfig, fig: Figure, slug: str, *, data: pd.DataFrame) -> None:
    """Write a run's figure as `<notebook>-<slug>_<source>_<scale>`, with data (`figures.save`)."""
    name = f"{cfg.name}-{slug}_{cfg.source}_{cfg.scale}"
    figures.save(fig, name, data=data, place=reports(cfg))


def record(
    cfg: DictConfig,
    rows: Iterable[dict],
    *,
    timing: bool = False,
    weights: Path | str | None = None,
) -> None:
    """Write a run's rows {name, value, low, high, unit} and build both tables anew.

    `low` and `high` are a 95% interval over clips and probe seeds, or absent. They go to
    `metrics.json` (`dvc metrics diff` compares it between commits) or, as `timing`, to
    `timings.json`, which equal runs do not share. Every row of an evaluation says which `weights`
    it is of: the sha256 of their file, or a released name.
    """
    out, whose = Path(cfg.out), weights
    if isinstance(weights, Path):
        whose = hashlib.sha256(weights.read_bytes()).hexdigest()
    told = dict(scale=cfg.scale, seed=cfg.seed, command=cfg.command, weights=whose)
    write(out, rows, **told, timing=timing)
    if is_recorded(cfg):
        build(cfg.source)
    else:
        _tables(reports(cfg), cfg.source, *(_rows(out / f"{kind}.json") for kind in KINDS))


def write(
    out: Path,
    rows: Iterable[dict],
    *,
    scale: str,
    command: str,
    seed: int = 0,
    timing: bool = False,
    weights: str | None = None,
) -> None:
    """Write `metrics.json` or `timings.json` of the folder `out`; equal rows give equal bytes.

    Beside it, `machine.json` says on what machine (`environment.machine`).
    """
    kept = {}
    for row in sorted(rows, key=lambda row: row["name"]):
        # To nine decimals first: 1e-16 is a zero that rounding missed.
        given = [k for k in ("value", "low", "high") if row.get(k) is not None]
        numbers = {k: float(f"{round(row[k], 9):.6g}") for k in given}
        kept[row["name"]] = numbers | {"unit": row["unit"]}
    whose = {"weights": weights} if weights else {}
    content = {"command": command, "scale": scale, "seed": seed, **whose, "rows": kept}
    place = files.folder(out)
    for name, said in ((KINDS[timing], content), ("machine", environment.machine())):
        files.write(place / f"{name}.json", json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def build(source: str) -> None:
    """The two tables of a source, from the files of its runs of every scale and seed.

    The record has a row for every name, scale and seed. The headline table has one for every name
    and scale, with the times of seed 0 beside them. A seed that was asked for in other words than
    seed 0 is no repeat of it, and is left out.
    """
    found = {kind: [] for kind in KINDS}
    for kind, rows in found.items():
        for path in paths.RUNS.glob(f"*/{source}-*/{kind}.json"):
            made = _rows(path)
            for row in made[:1]:  # of all of them the scale, the seed and the command
                first = path.parents[1] / paths.tag(source, row["scale"])
                own = path.parent.name == paths.tag(source, row["scale"], seed=row["seed"])
                own = own and not _is_swept(path.parents[1].name, row["scale"])
                rows += made if own and _repeats(row["command"], first) else []
    _tables(paths.REPORTS, source, *found.values())


def table(source: str, kind: str = "headline") -> str:
    """The name of a table of a source: its `headline`, or its record, `seeds`."""
    return kind if source == "world" else f"{kind}_{source}"


def _rows(path: Path) -> list[dict]:
    """The rows of a run's file with what is said of all of them; none if there is no file."""
    if not path.exists():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    told = {"scale": content["scale"], "seed": content.get("seed", 0)}
    machine = path.with_name("machine.json")
    if path.stem == "timings" and machine.exists():
        where = json.loads(machine.read_text(encoding="utf-8"))
        told["machine"] = f"{where['processor']}, {where['threads']} threads"
    told |= {"weights": content.get("weights", ""), "command": content["command"]}
    return [{"name": name, **values, **told} for name, values in content["rows"].items()]


def _repeats(command: str, first: Path) -> bool:
    """Whether a run was asked for as that of seed 0 (its folder: `first`) but for its seed."""

    def words(command: str) -> set[str]:  # without what rows say anyway and what changes no number
        free = ("scale", "seed", *environment.FREE)
        return {word for word in shlex.split(command) if word.partition("=")[0] not in free}

    asked = _rows(first / "metrics.json")[:1]
    return all(words(row["command"]) == words(command) for row in asked)


def _tables(place: Path, source: str, measured: list[dict], timed: list[dict]) -> None:
    """Write the record and the headline table."""
    groups, folder = {}, files.folder(place / "tables")
    for row in sorted(measured, key=lambda row: (row["name"], row["scale"], row["seed"])):
        groups.setdefault((row["name"], row["scale"]), []).append(row)
    kept = [_shown(row, "6g") for group in groups.values() for row in group]
    files.write(folder / f"{table(source, 'seeds')}.csv", _csv(RECORD, kept))
    first = [row | {"interval": REPEATS} if "low" in row else row for row in timed]
    shown = [*map(_over_seeds, groups.values()), *(row for row in first if row["seed"] == 0)]
    shown.sort(key=lambda row: (row["name"], row["scale"]))
    kept = [_shown(row, "4g") for row in shown]
    files.write(folder / f"{table(source)}.csv", _csv(COLUMNS, kept))


def _over_seeds(rows: list[dict]) -> dict:
    """The headline row of one name and scale, of which every training seed has one of `rows`."""
    row = rows[0] | {"seeds": len(rows)}
    if len(rows) == 1:
        return row | {"interval": CLIPS} if "low" in row else row
    numbers = ",".join(str(row["seed"]) for row in rows)
    words = [w for w in shlex.split(row["command"]) if not w.startswith("seed=")]
    row["command"] = shlex.join([*words, f"seed={numbers}"])
    row["weights"] = " ".join(dict.fromkeys(one["weights"][:12] for one in rows))
    values = np.array([row["value"] for row in rows])
    row["value"], low, high = metrics.t_interval(values)
    if np.ptp(values) == 0:  # all seeds say the same, which is no estimate of how they differ
        return {key: value for key, value in row.items() if key not in ("low", "high")}
    return row | {"low": low, "high": high, "interval": f"training seeds (t, n={len(rows)})"}


def _shown(row: dict, digits: str) -> dict:
    numbers = [key for key in ("value", "low", "high") if key in row]
    return row | {key: f"{round(row[key], 9):.{digits}}" for key in numbers}


def _csv(columns: list[str], rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read(name: str = "headline", place: Path | None = None) -> list[dict]:
    """The rows of a table, as text; none if there is no table yet."""
    path = (place or paths.REPORTS) / "tables" / f"{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def rows(cfg: DictConfig) -> dict[str, dict]:
    """What this run itself measured, of its own seed, by name: {value, low, high, unit, ...}."""
    return {row["name"]: row for row in _rows(Path(cfg.out) / "metrics.json")}


def show() -> None:
    """Print the headline table, what its intervals mean, and where to look."""
    found = read()
    width = max([len(r["name"]) for r in found], default=4)
    print(f"{'name':{width}}  {'scale':9} {'value':>8}  {'95% interval':18} unit")
    for r in found:
        span = f"[{r['low']}, {r['high']}]" if r["low"] else ""
        told = "; ".join(filter(None, (r["unit"], r["interval"], r["machine"])))
        print(f"{r['name']:{width}}  {r['scale']:9} {r['value']:>8}  {span:18} {told}")
    if any(r["interval"] == CLIPS for r in found):
        print(
            f"\nIntervals over {CLIPS} say nothing of other training seeds, and are too narrow "
            "where the few probe seeds differ much (88% instead of 95% of them cover the truth)."
        )
    if any(r["interval"].startswith("training") for r in found):
        print(
            "\nValues over training seeds are means; each seed is a row of reports/tables/seeds.csv."
            " All seeds share their test clips, so these intervals say nothing of other clips."
        )
    print(
        "\nEvery figure and table: reports/README.md. Executed notebooks: reports/notebooks/. "
        "Runs: runs/."
    )
