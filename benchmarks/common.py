"""What the speed benchmarks share: turns, rows of reports/tables/encoder.csv.

Whoever imports this has already set its environment: JAX starts here.
"""

import csv
import functools
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from vplib import files, paths
from vplib.model.attention import product

COLUMNS = ["name", "value", "low", "high", "unit", "bar", "note"]


def turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of `repeats` calls of each, taking turns; the first calls, which compile and warm
    up, do not count."""
    times = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
            print(
                f"  {'warm-up' if not repeat else repeat}: {name} {times[name][-1]:.2f} s",
                flush=True,
            )
    return {name: np.array(values[1:]) for name, values in times.items()}


def large_products(operations: float, dtype) -> tuple[Callable[[], object], float]:
    """Matrix products of about a quarter of `operations`, and by what to multiply their time for
    all of them. On CPU they are summed in float32, as the encoder's: see attention.product.
    """
    on_cpu = jax.default_backend() == "cpu"
    side = 2048 if on_cpu else 8192
    # The scale keeps the size of the products.
    matrix = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(dtype)
    products = max(round(operations / (4 * 2 * side**3)), 1)

    def multiply(x, y):
        return (product(x, y) if on_cpu else x @ y).astype(dtype)

    compiled = jax.jit(lambda matrix: functools.reduce(multiply, [matrix] * (products + 1)))
    return lambda: compiled(matrix), operations / (products * 2 * side**3)


def row(name: str, ratios: np.ndarray | None, unit: str, bar: str, note: str = "") -> dict:
    """Median, least and greatest of paired ratios; None is "not measured", and `note` says why."""
    values = {"value": "not measured", "low": None, "high": None}
    if ratios is not None:
        values = {
            "value": float(np.median(ratios)),
            "low": float(ratios.min()),
            "high": float(ratios.max()),
        }
    return {"name": name, **values, "unit": unit, "bar": bar, "note": note}


def machine() -> dict:
    """What the times depend on."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    packages = [
        name
        for name in ("jax", "jaxlib", "flax", "torch", "transformers", "onnxruntime", "openvino")
        if importlib.util.find_spec(name)
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": int(os.environ["NPROC"]),
        "devices": [device.device_kind for device in jax.devices()],
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def write(rows: list[dict], times: dict) -> None:
    """Add or replace rows of reports/tables/encoder.csv and, with seconds, of encoder.json."""
    table = paths.REPORTS / "tables" / "encoder.csv"
    seconds = table.with_suffix(".json")
    old = json.loads(seconds.read_text(encoding="utf-8")) if seconds.exists() else []
    about = machine()
    entries = {entry["name"]: entry for entry in old}
    for entry in rows:
        # What this machine cannot measure may have been measured on another.
        if entry["value"] != "not measured" or entry["name"] not in entries:
            entries[entry["name"]] = entry | {"machine": about, "seconds": times}
    ordered = [entries[name] for name in sorted(entries)]
    files.folder(table.parent)
    files.write(seconds, json.dumps(ordered, indent=1) + "\n")
    with files.replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in entry.items()}
            for entry in ordered
        )
