"""The headline table: rows written by runs, shown at the end of `make reproduce`."""

import csv
import os

from vplib import paths

COLUMNS = ["name", "scale", "value", "low", "high", "unit", "command"]


def record(rows: list[dict], *, scale: str, command: str, table: str = "headline") -> None:
    """Add or replace rows {name, value, low, high, unit} of reports/tables/<table>.csv; sorted, so equal runs give equal bytes.

    `low` and `high` are a 95% interval, or empty where none applies.
    """
    path = paths.REPORTS / "tables" / f"{table}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {(r["name"], r["scale"]): r for r in read(table)}
    for row in rows:
        numbers = {k: f"{row[k]:.4g}" if row.get(k) is not None else "" for k in ("value", "low", "high")}
        kept[row["name"], scale] = {"name": row["name"], "scale": scale, **numbers, "unit": row["unit"], "command": command}
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept[key] for key in sorted(kept))
    os.replace(temporary, path)


def read(table: str = "headline") -> list[dict]:
    """The rows written so far."""
    path = paths.REPORTS / "tables" / f"{table}.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def main() -> None:
    """Print the headline table and where to look."""
    rows = read()
    width = max([len(r["name"]) for r in rows], default=4)
    print(f"{'name':{width}}  scale   value    95% interval      unit")
    for r in rows:
        span = f"[{r['low']}, {r['high']}]" if r["low"] else ""
        print(f"{r['name']:{width}}  {r['scale']:7} {r['value']:8} {span:17} {r['unit']}")
    print("\nEvery figure and table: reports/README.md. Executed notebooks: reports/notebooks/. Runs: runs/.")


if __name__ == "__main__":
    main()
