"""Weights that git ships in `reports/weights/`, and whose weights a notebook looks at.

`python -m vplib.shipped lesson study` writes them from the finished reference runs of these
scales: stage 1, stage 2 with the text tower that LiT tuning gave it, the vocabulary, in half
precision, and `manifest.json`, which says how each file was made.
"""

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from vplib import files, paths, results
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError

WEIGHTS = paths.ROOT / "reports" / "weights"
STAGES = {"stage1": "20_stage1", "stage2": "31_lit_tuning"}
MOST = 1_500_000  # bytes of a file
NONE = (
    "there are no trained weights, and random ones know nothing: type make reproduce, or give "
    "weights=<path>"
)


class Chosen(NamedTuple):
    weights: Path | str  # a file, or a released name
    whose: str  # in words


def stage1(cfg: DictConfig) -> Chosen | None:
    """The stage-1 weights to look at: `weights=`, else one's own of this source, scale and seed,
    else the shipped ones of this scale, `study` or `lesson`; None if there are none.

    Where results are made, one's own are there: the stages of `dvc.yaml` depend on them.
    """
    own = results.weights(cfg, STAGES["stage1"])
    if cfg.weights:
        return Chosen(own, cfg.weights)
    if own.is_file():
        return Chosen(own, f"own stage 1 ({paths.short(own.parent)})")
    for scale in dict.fromkeys([cfg.scale, "study", "lesson"]):
        file = WEIGHTS / f"{scale}-stage1.npz"
        if file.is_file():
            return Chosen(file, f"shipped stage 1 ({paths.short(file)})")
    return None


def vocabulary(cfg: DictConfig, weights: Path | str) -> Path:
    """The SentencePiece model of a video-text model: `data.tokenizer`, else the one shipped with
    these weights, else the one of this source and scale.
    """
    if isinstance(weights, Path) and weights.parent == WEIGHTS and not cfg.data.tokenizer:
        return WEIGHTS / f"{weights.stem.partition('-')[0]}-vocabulary.model"
    return results.vocabulary(cfg)


def ship(scales: Sequence[str]) -> list[Path]:
    """Write the files of these scales and their entries in the manifest; nothing unless all runs
    are finished and all files are small enough.

    Raises CheckpointError for a run that is missing or does not fit the others, FileError if a
    file cannot be written.
    """
    commit = _commit()
    contents, entries = {}, {}
    for scale in scales:
        for stage, (command, data) in _read(scale).items():
            name = f"{scale}-{stage}.{'model' if stage == 'vocabulary' else 'npz'}"
            contents[name] = data
            entries[name] = {
                "scale": scale,
                "stage": stage,
                "command": command,
                "commit": commit,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
            }
            if len(data) >= MOST:
                raise CheckpointError(
                    f"{name} would have {len(data) / 1e6:.2f} MB, and a shipped file has less than "
                    f"{MOST / 1e6:.1f} MB: leave {scale} out"
                )
    manifest = files.folder(WEIGHTS) / "manifest.json"
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    for name, data in contents.items():
        files.write(WEIGHTS / name, data)
    files.write(manifest, json.dumps(dict(sorted((known | entries).items())), indent=1) + "\n")
    return [WEIGHTS / name for name in contents]


def _read(scale: str) -> dict[str, tuple[str, bytes]]:
    """The command that made each file of a scale, and its content."""
    found, tokenizer = {}, paths.DATA / "shards" / f"world-{scale}" / "tokenizer.model"
    for stage, notebook in STAGES.items():
        run, again = paths.RUNS / notebook / paths.tag("world", scale), f"{notebook} scale={scale}"
        try:
            told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        except OSError:
            raise _missing(run, again) from None
        weights = checkpoints.read(run / "weights.npz")
        half, buffer = {k: v.astype(np.float16) for k, v in sorted(weights.items())}, io.BytesIO()
        np.savez(buffer, **half)
        found[stage] = told["command"], buffer.getvalue()
        if stage == "stage1":
            known = checkpoints.infer(weights, name=paths.short(run)).vocabulary
    if not tokenizer.is_file():
        raise _missing(tokenizer.parent, f"10_prepare_corpus scale={scale}")
    from vplib.data.text import Tokenizer  # looking at weights needs no text

    if (size := Tokenizer(tokenizer, 1).size) != known:
        raise CheckpointError(
            f"stage 1 of {scale} knows {known} pieces of text and {paths.short(tokenizer)} has "
            f"{size}: train it again on this corpus"
        )
    command = f"python -m vplib.run 10_prepare_corpus scale={scale}"
    return found | {"vocabulary": (command, tokenizer.read_bytes())}


def _commit() -> str:
    try:
        shown = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=paths.ROOT,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        raise CheckpointError(
            f"git does not know the commit of {paths.ROOT}: ship weights from a clone"
        ) from None
    return shown.stdout.strip()


def _missing(folder: Path, command: str) -> CheckpointError:
    return CheckpointError(
        f"{paths.short(folder)} holds no finished run: type python -m vplib.run {command}"
    )


def main(scales: list[str]) -> None:
    """`python -m vplib.shipped SCALE ...`"""
    if not scales:
        sys.exit("usage: python -m vplib.shipped SCALE [SCALE ...]")
    try:
        for path in ship(scales):
            print(f"{paths.short(path)}  {path.stat().st_size / 1e6:.2f} MB")
    except (CheckpointError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
