"""The headline table: rows written by runs, shown at the end of `make reproduce`."""

import csv
import os
from pathlib import Path

from vplib import paths

COLUMNS = ["name", "scale", "value", "low", "high", "unit", "command"]


def record(
    rows: list[dict],
    *,
    scale: str,
    command: str,
    table: str = "headline",
    place: Path | None = None,
) -> None:
    """Add or replace rows {name, value, low, high, unit} of <place>/tables/<table>.csv; sorted, so equal runs give equal bytes.

    `place` is `reports/` unless given (`config.reports` says where a run's results belong).

    `low` and `high` are a 95% interval, or empty where none applies.
    """
    path = (place or paths.REPORTS) / "tables" / f"{table}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {(r["name"], r["scale"]): r for r in read(table, place)}
    for row in rows:
        numbers = {
            k: f"{row[k]:.4g}" if row.get(k) is not None else "" for k in ("value", "low", "high")
        }
        kept[row["name"], scale] = {
            "name": row["name"],
            "scale": scale,
            **numbers,
            "unit": row["unit"],
            "command": command,
        }
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[key] for key in sorted(kept))
    os.replace(temporary, path)


def read(table: str = "headline", place: Path | None = None) -> list[dict]:
    """The rows written so far."""
    path = (place or paths.REPORTS) / "tables" / f"{table}.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []
