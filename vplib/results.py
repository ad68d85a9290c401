"""What runs read and write, each named in one place, and the headline table that is built from it.

A run lives in `runs/<notebook>/<source>-<scale>-<ablation>-s<seed>/`. The reference run of a scale
(no ablation, seed 0, the default tag) writes its figures and tables to `reports/`, every other to
its own folder, so that a sweep or a trial overwrites no committed result.
"""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from vplib import figures, files, paths

COLUMNS = ["name", "scale", "value", "low", "high", "unit", "command"]
KINDS = ("metrics", "timings")  # files of a run: what equal runs share, and what they do not


def run(cfg: DictConfig, name: str, *, ablation: str = "none") -> Path:
    """The run folder of notebook `name` that this run builds on: same source, scale and seed."""
    return paths.OUT / cfg.runs / name / paths.tag(cfg.source, cfg.scale, ablation, cfg.seed)


def weights(cfg: DictConfig, name: str, *, ablation: str = "none") -> Path | str:
    """What to load: `weights=` (a released name or a file), else what notebook `name` trained."""
    if not cfg.weights:
        return run(cfg, name, ablation=ablation) / "weights.npz"
    return paths.OUT / cfg.weights if cfg.weights.endswith(".npz") else cfg.weights


def shards(cfg: DictConfig) -> Path:
    """The folder of all corpora that `10_prepare_corpus` wrote for this source and scale."""
    return paths.OUT / cfg.data.shards


def vocabulary(cfg: DictConfig) -> Path:
    """The SentencePiece model: `data.tokenizer`, else the one that was trained on the corpus."""
    given = cfg.data.tokenizer
    return paths.ROOT / given if given else shards(cfg) / "tokenizer.model"


def is_reference(cfg: DictConfig) -> bool:
    """Whether a run's results are the committed ones of its source and scale."""
    return cfg.scale != "smoke" and cfg.tag == paths.tag(cfg.source, cfg.scale)


def reports(cfg: DictConfig) -> Path:
    """Where a run's figures and tables belong."""
    return paths.REPORTS if is_reference(cfg) else Path(cfg.out) / "reports"


def save(cfg: DictConfig, fig: Figure, slug: str, *, data: pd.DataFrame) -> None:
    """Write a run's figure as `<notebook>-<slug>_<source>_<scale>`, with data (`figures.save`)."""
    name = f"{cfg.name}-{slug}_{cfg.source}_{cfg.scale}"
    figures.save(fig, name, data=data, place=reports(cfg))


def record(cfg: DictConfig, rows: Iterable[dict], *, timing: bool = False) -> None:
    """Write a run's rows {name, value, low, high, unit} and build the headline table anew.

    `low` and `high` are a 95% interval, or absent. They go to `metrics.json` (`dvc metrics diff`
    compares it between commits) or, as `timing`, to `timings.json`, which equal runs do not share.
    """
    out = Path(cfg.out)
    write(out, rows, scale=cfg.scale, command=cfg.command, timing=timing)
    if is_reference(cfg):
        build(cfg.source)
    else:
        _table(reports(cfg), table(cfg.source), [out])


def write(
    out: Path, rows: Iterable[dict], *, scale: str, command: str, timing: bool = False
) -> None:
    """Write `metrics.json` or `timings.json` of the folder `out`; equal rows give equal bytes."""
    kept = {}
    for row in sorted(rows, key=lambda row: row["name"]):
        # To nine decimals first: 1e-16 is a zero that rounding missed.
        given = [k for k in ("value", "low", "high") if row.get(k) is not None]
        numbers = {k: float(f"{round(row[k], 9):.6g}") for k in given}
        kept[row["name"]] = numbers | {"unit": row["unit"]}
    content = {"command": command, "scale": scale, "rows": kept}
    path = files.folder(out) / f"{KINDS[timing]}.json"
    files.write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def build(source: str) -> None:
    """The headline table of a source, from the files of its reference runs at every scale."""
    folders = [path.parent for path in paths.RUNS.glob(f"*/{paths.tag(source, '*')}/*.json")]
    _table(paths.REPORTS, table(source), folders)


def table(source: str) -> str:
    """The name of the headline table of a source."""
    return "headline" if source == "world" else f"headline_{source}"


def _table(place: Path, name: str, folders: Iterable[Path]) -> None:
    found = []
    for path in {folder / f"{kind}.json" for folder in folders for kind in KINDS}:
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            for row, values in content["rows"].items():
                numbers = {k: f"{values[k]:.4g}" for k in ("value", "low", "high") if k in values}
                told = {"unit": values["unit"], "command": content["command"]}
                found.append({"name": row, "scale": content["scale"], **numbers, **told})
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(found, key=lambda row: (row["name"], row["scale"])))
    files.write(files.folder(place / "tables") / f"{name}.csv", text.getvalue())


def read(name: str = "headline", place: Path | None = None) -> list[dict]:
    """The rows of a headline table, as text; none if there is no table yet."""
    path = (place or paths.REPORTS) / "tables" / f"{name}.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def rows(cfg: DictConfig) -> dict[str, dict]:
    """The headline rows of this run's source and scale, by name."""
    found = read(table(cfg.source), reports(cfg))
    return {row["name"]: row for row in found if row["scale"] == cfg.scale}


def timed() -> set[str]:
    """Names of the rows that are timings, which are never compared."""
    found = paths.RUNS.glob("*/*/timings.json")
    return {name for path in found for name in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def show() -> None:
    """Print the headline table and where to look."""
    found = read()
    width = max([len(r["name"]) for r in found], default=4)
    print(f"{'name':{width}}  {'scale':9} {'value':>8}  {'95% interval':18} unit")
    for r in found:
        span = f"[{r['low']}, {r['high']}]" if r["low"] else ""
        print(f"{r['name']:{width}}  {r['scale']:9} {r['value']:>8}  {span:18} {r['unit']}")
    print(
        "\nEvery figure and table: reports/README.md. Executed notebooks: reports/notebooks/. Runs: runs/."
    )
