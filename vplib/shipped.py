"""Weights that git ships in `reports/weights/`, and whose weights a notebook looks at.

`python -m vplib.shipped ship study 3` writes them from the finished runs of a scale's seeds 0 to 2:
stage 1, stage 2 with the text tower that LiT tuning gave it (the run's own file), the vocabulary, in
half precision, `manifest.json`, which says how each file was made, and README.md, their model card.
`card` writes the card again, after results have changed. `take study` puts the files where these runs
would have left them, so that evaluation goes on in a clone that trained nothing. `voice study` copies
what the scale's run of 42_captioning_qa left for `python -m vplib.caption` to `reports/voice/`.
"""

import hashlib
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from vplib import cards, files, paths, results
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError

WEIGHTS = paths.ROOT / "reports" / "weights"
VOICE = paths.ROOT / "reports" / "voice"
STAGES = {"stage1": "20_stage1", "stage2": "31_lit_tuning"}
MOST = 1_500_000  # bytes of a file
USAGE = "python -m vplib.shipped [ship SCALE SEEDS | take SCALE | card | voice SCALE]"
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


def ship(scale: str, seeds: int) -> list[Path]:
    """Write the files of a scale's seeds 0 to `seeds` - 1, their entries in the manifest and the card
    of all; nothing unless all runs are finished and all files are small enough.

    Raises CheckpointError for a run that is missing or does not fit the others, FileError if a
    file cannot be written.
    """
    commit, contents, entries = _commit(), {}, {}
    for seed in range(seeds):
        for stage, (command, data) in _read(scale, seed).items():
            name = _name(scale, stage, seed)
            contents[name] = data
            entries[name] = {
                "scale": scale,
                "stage": stage,
                "seed": seed,
                "command": command,
                "commit": commit,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
            }
            if len(data) >= MOST:
                raise _too_large(name, data, scale)
    for name, data in contents.items():
        files.write(files.folder(WEIGHTS) / name, data)
    told = json.dumps(dict(sorted((cards.manifest(WEIGHTS) | entries).items())), indent=1)
    files.write(WEIGHTS / "manifest.json", told + "\n")
    return [*(WEIGHTS / name for name in contents), *card()]


def card() -> list[Path]:
    """Write the card of the shipped files, from their manifest and the tables of results.

    Raises CheckpointError if none are shipped, FileError if it cannot be written.
    """
    files.write(WEIGHTS / cards.CARD, cards.shipped(WEIGHTS))
    return [WEIGHTS / cards.CARD]


def take(scale: str) -> list[Path]:
    """Copy the shipped weights of a scale to the folders of the runs that made them.

    Raises CheckpointError if there are none, or a run already has weights of its own.
    """
    told = {
        n: e
        for n, e in cards.manifest(WEIGHTS).items()
        if e["scale"] == scale and e["stage"] in STAGES
    }
    if not told:
        raise CheckpointError(f"no weights of {scale} are shipped: type make {scale}")
    places = {
        name: paths.RUNS / STAGES[one["stage"]] / paths.tag("world", scale, seed=one["seed"])
        for name, one in told.items()
    }
    for name, folder in places.items():
        file = folder / "weights.npz"
        if file.exists() and file.read_bytes() != (WEIGHTS / name).read_bytes():
            raise CheckpointError(
                f"{paths.short(file)} is there already: move it away, or go on with it"
            )
    for name, folder in places.items():
        files.write(files.folder(folder) / "weights.npz", (WEIGHTS / name).read_bytes())
    return [folder / "weights.npz" for folder in places.values()]


def voice(scale: str) -> list[Path]:
    """Copy the encoder, language model, vocabulary and resampler of a scale's seed 0, and write how
    they were made. Raises CheckpointError if that run is missing or a file is too large, FileError
    if one cannot be written.
    """
    run = paths.RUNS / "42_captioning_qa" / paths.tag("world", scale)
    try:
        told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        contents = {path.name: path.read_bytes() for path in sorted((run / "voice").iterdir())}
    except OSError:
        raise _missing(run, f"42_captioning_qa scale={scale}") from None
    entries = {"command": told["command"], "commit": _commit(), "files": {}}
    for name, data in contents.items():
        if len(data) >= MOST:
            raise _too_large(name, data, scale)
        entries["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    for name, data in contents.items():
        files.write(files.folder(VOICE) / name, data)
    files.write(VOICE / "manifest.json", json.dumps(entries, indent=1) + "\n")
    return [VOICE / name for name in (*contents, "manifest.json")]


def _too_large(name: str, data: bytes, scale: str) -> CheckpointError:
    return CheckpointError(
        f"{name} would have {len(data) / 1e6:.2f} MB, and a shipped file has less than "
        f"{MOST / 1e6:.1f} MB: leave {scale} out"
    )


def _name(scale: str, stage: str, seed: int) -> str:
    if stage == "vocabulary":
        return f"{scale}-vocabulary.model"
    return f"{scale}-{stage}{f'-s{seed}' if seed else ''}.npz"


def _read(scale: str, seed: int) -> dict[str, tuple[str, bytes]]:
    """The command that made each file of a scale and seed, and its content."""
    found, tokenizer = {}, paths.DATA / "shards" / f"world-{scale}" / "tokenizer.model"
    for stage, notebook in STAGES.items():
        run = paths.RUNS / notebook / paths.tag("world", scale, seed=seed)
        again = f"{notebook} scale={scale}{f' seed={seed}' if seed else ''}"
        try:
            told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        except OSError:
            raise _missing(run, again) from None
        weights, buffer = checkpoints.read(run / "weights.npz"), io.BytesIO()
        np.savez(buffer, **checkpoints.packed(weights, half=True))
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
    if seed:
        return found
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


def main(words: list[str]) -> None:
    """What USAGE says."""
    match words:
        case ["ship", scale, seeds] if seeds.isdecimal() and int(seeds):
            run = partial(ship, scale, int(seeds))
        case ["take", scale]:
            run = partial(take, scale)
        case ["card"]:
            run = card
        case ["voice", scale]:
            run = partial(voice, scale)
        case _:
            sys.exit(f"usage: {USAGE}")
    try:
        for path in run():
            print(f"{paths.short(path)}  {path.stat().st_size / 1e6:.2f} MB")
    except (CheckpointError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
