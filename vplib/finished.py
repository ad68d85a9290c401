"""Which runs of a chain (`vplib.chains`) are finished, as files say that git keeps.

A run is finished when its `metrics.json` is there, its `config.yaml` is what would be composed now,
`code.json` has the digests of the code that its notebook reaches now, and `built_on.json` those of
the run before it in the chain. Weights may be missing, as in a clone.
"""

import hashlib
import json
from functools import cache

from omegaconf import DictConfig

from vplib import chains, code, config, files, paths

STAMPS = ("code.json", "built_on.json")


def stamps(cfg: DictConfig) -> dict[str, str]:
    """The content of each of STAMPS for a run that starts now."""
    told = {}
    for step in _before(cfg):
        folder = paths.OUT / cfg.runs / step.notebook
        folder /= paths.tag(cfg.source, cfg.scale, step.ablation, cfg.seed)
        kept = [folder / name for name in ("config.yaml", *STAMPS)]
        whole = hashlib.sha256(b"".join(file.read_bytes() for file in kept if file.exists()))
        told[f"{step.notebook} {step.ablation}"] = whole.hexdigest()[:16]
    found = dict(zip(STAMPS, (reached(cfg.name), told), strict=True))
    return {name: json.dumps(content, indent=1) + "\n" for name, content in found.items()}


def is_finished(cfg: DictConfig) -> bool:
    """Whether the run of a composed configuration is; never one of a notebook in no chain."""
    out = paths.OUT / cfg.out
    if cfg.name not in chains.NOTEBOOKS or not (out / "metrics.json").exists():
        return False
    return config.is_of(cfg, out / "config.yaml") and all(
        (out / name).exists() and (out / name).read_text(encoding="utf-8") == content
        for name, content in stamps(cfg).items()
    )


def begin(cfg: DictConfig) -> dict[str, str]:
    """The stamps of a run that starts now, none of a notebook in no chain. Those of an earlier one are
    removed: stopped on its way, it is not finished.
    """
    if cfg.name not in chains.NOTEBOOKS:
        return {}
    reached.cache_clear()  # a sweep takes hours, in which code may change
    for name in STAMPS:
        (paths.OUT / cfg.out / name).unlink(missing_ok=True)
    return stamps(cfg)


def end(cfg: DictConfig, begun: dict[str, str]) -> None:
    """Write what `begin` gave beside the results."""
    for name, content in begun.items():
        files.write(paths.OUT / cfg.out / name, content)


@cache
def reached(notebook: str) -> dict[str, str]:
    """Digests of the code that a notebook reaches, read again after `cache_clear`."""
    return code.of_notebook(paths.NOTEBOOKS / f"{notebook}.ipynb")


def _before(cfg: DictConfig) -> list[chains.Step]:
    """The run that this one builds on, which says in turn what it builds on: at most one."""
    steps, own = chains.steps(cfg.ablation), chains.Step(cfg.name, cfg.ablation)
    here = steps.index(own) if own in steps else 0
    return steps[max(here - 1, 0) : here]
