"""Where everything lies. What people write is under ROOT; what the notebooks write is under OUT.

OUT is the repository itself, unless the environment variable VPLIB_OUT names another folder: the
tests run every notebook that way without touching committed results.
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
NOTEBOOKS = ROOT / "notebooks"

OUT = Path(os.path.expanduser(os.environ.get("VPLIB_OUT") or ROOT)).resolve()
RUNS = OUT / "runs"
DATA = OUT / "data"
REPORTS = OUT / "reports"
PRINTS = REPORTS / "notebooks"


def short(path: Path) -> str:
    """The path as a reader types it: relative to OUT or ROOT if it lies inside, else absolute."""
    for folder in (OUT, ROOT):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)


def tag(source: str, scale: str, ablation: str = "none", seed: int = 0) -> str:
    """The name of a run's folder unless `tag=` gives another; `conf/base.yaml` composes the same
    words.
    """
    return f"{source}-{scale}-{ablation}-s{seed}"
