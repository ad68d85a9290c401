"""Whole chains of ablations and seeds, one after another, and what of them is done.

`python -m vplib.sweep run 'ablation=none,no_shuffle' 'seed=range(5)'`: for each pair stage 1, once a
seed, then stage 2, then the scores of its encoder (`vplib.chains`). Seed after seed, so that what
there is at any time compares, and those of CORE before all others. It can be stopped at any time
and goes on where it was; what is finished (`vplib.finished`) is not run again. `status` shows what
is done, `table` writes the scores of all runs to `reports/tables/sweep.csv`. Without words
all ablations of SWEPT are meant, five seeds each, at scale=sweep.
"""

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from vplib import chains, config, environment, files, finished, paths, progress, run
from vplib.chains import Step

CORE = (  # with five seeds, seed after seed; the last three are the baselines of 49
    *("none", "no_shuffle", "no_global", "no_local", "masked_only", "scratch_init"),
    *("stage1_continued", "pixel_targets", "image_teacher", "no_shuffle_warmup"),
    *("plain_mixing", "no_token_drop", "high_quality", "public_corpora"),
    *("single_frame", "videomae", "umt"),
)
SWEPT = (  # the others as far as time goes
    *CORE,
    *("random_teacher", "bevt_55", "bevt_75", "bevt_85", "tube_55", "tube_65", "tube_75"),
    *("tube_85", "two_stage", "extra_clips", "decoder_4", "visible_only", "raw_targets"),
    *("random_mask", "temporal_4", "two_alternating", "two_mixed", "only_internvid"),
    *("internvid_then_yt180m", "yt180m_then_internvid"),
    *("only_yt180m", "only_wts70m", "only_ac2", "only_videocc", "only_ac3"),
    *("ema_teacher", "caption_noise_25", "caption_noise_50", "joint_attention"),
    *("one_stage", "clip", "coca", "clip_init", "coca_init", "clip_frozen"),
    *("size_32", "size_96", "data_75", "data_300", "steps_double", "steps_triple"),  # of 51
)
WORDS = (f"ablation={','.join(SWEPT)}", "seed=range(5)", "scale=sweep")
COLUMNS = ["ablation", "seed", "encoder", "task", "metric", "value", "low", "high"]
COLUMNS += ["unit", "weights", "command"]
TABLE = "sweep"
USAGE = "python -m vplib.sweep [run | status | table] [ablation=... seed=... scale=...]"


class Run(NamedTuple):
    """One run of a sweep: a step of a chain with a seed."""

    step: Step
    seed: int


def chosen(words: Iterable[str]) -> tuple[str, list[tuple[str, int]]]:
    """The scale and the (ablation, seed) that words in Hydra's grammar name: those of CORE first, and
    seed after seed. Raises ConfigError for any other key, an unknown option or two scales.
    """
    given = [*words]
    named = {word.partition("=")[0] for word in given}
    if strange := sorted(named - {"ablation", "seed", "scale"}):
        raise config.ConfigError(
            f"a sweep has no '{strange[0]}': give ablation=, seed= and scale= alone, and all else a "
            "file in conf/ablation or conf/scale"
        )
    given += [word for word in WORDS if word.partition("=")[0] not in named]
    runs = [dict(word.split("=", 1) for word in one) for one in config.expand(given)]
    known = config.groups()
    for key, value in dict.fromkeys(item for one in runs for item in one.items()):
        if value not in known.get(key, ()) and not (key == "seed" and value.isdecimal()):
            config.check(chains.STAGE2, [f"{key}={value}"])  # says what is wrong
    if len(scales := sorted({one["scale"] for one in runs})) > 1:
        raise config.ConfigError(f"a sweep has one scale, given {' and '.join(scales)}")
    pairs = [(one["ablation"], int(one["seed"])) for one in runs]
    seeds = [*dict.fromkeys(seed for _, seed in pairs)]
    return scales[0], sorted(pairs, key=lambda pair: (pair[0] not in CORE, seeds.index(pair[1])))


def composed(scale: str, one: Run) -> DictConfig:
    """The configuration of a run. Nothing is written."""
    cfg = _first_seed(scale, one.step).copy()
    cfg.seed, cfg.tag = one.seed, paths.tag(cfg.source, scale, cfg.ablation, one.seed)
    cfg.out = f"{cfg.runs}/{cfg.name}/{cfg.tag}"
    return cfg


@cache
def _first_seed(scale: str, step: Step) -> DictConfig:
    """Composing takes a third of a second: once for all seeds, which change names only."""
    cfg = config.check(step.notebook, [f"scale={scale}", f"ablation={step.ablation}"])
    OmegaConf.set_readonly(cfg, False)
    return cfg


def plan(scale: str, pairs: Iterable[tuple[str, int]]) -> list[Run]:
    """The runs that are left, in order, each once: what is not finished, what builds on such, and
    trainings whose weights are gone though something unfinished builds on them.
    """
    todo: dict[Run, None] = {}
    for ablation, seed in pairs:
        runs = [Run(step, seed) for step in chains.steps(ablation)]
        cfgs = [composed(scale, one) for one in runs]
        left = [
            one in todo or not finished.is_finished(cfg)
            for one, cfg in zip(runs, cfgs, strict=True)
        ]
        if not any(left):
            continue
        gone = [not (paths.OUT / cfg.out / "weights.npz").is_file() for cfg in cfgs[:-1]]
        first = [flags.index(True) for flags in (left, gone) if True in flags]
        todo |= dict.fromkeys(runs[min(first) :])
    return [*todo]


def sweep(scale: str, pairs: list[tuple[str, int]]) -> list[str]:
    """Run what is left and return the failures, a sentence each; what builds on a failure is left
    out, all else goes on. Raises FileError where another process sweeps or nothing can be written,
    ConfigError where a folder belongs to another configuration.
    """
    failures, failed, clock = [], set(), progress.Clock()
    place = paths.OUT / _first_seed(scale, Step(chains.SCORES, "none")).runs / chains.SCORES
    with files.locked(place, doing="sweeping"):
        todo = plan(scale, pairs)
        print(f"{len(todo)} runs are left of {len(pairs)} chains", file=sys.stderr, flush=True)
        for number, one in enumerate(todo):
            cfg = composed(scale, one)
            parents = {Run(step, one.seed) for step in chains.steps(cfg.ablation)} & failed
            if parents:
                failed.add(one)
                continue
            words = [f"scale={scale}", f"ablation={cfg.ablation}", f"seed={one.seed}"]
            try:
                with clock.timing(cfg.name):
                    begun = finished.begin(cfg)
                    run.run(cfg.name, words)
                    finished.end(cfg, begun)
            except run.RunError as error:
                failed.add(one)
                failures.append(str(error))
                print(f"error: {error}", file=sys.stderr, flush=True)
                continue
            said = clock.left([later.step.notebook for later in todo[number + 1 :]])
            what = f"{cfg.name} {cfg.ablation} seed {one.seed}"
            print(f"[{number + 1}/{len(todo)}] {what}; {said}", file=sys.stderr, flush=True)
            if cfg.name == chains.SCORES and scale != "smoke":
                write()
    return failures


def state(scale: str, ablation: str, seed: int) -> str:
    """What there is of a chain, in a word or two."""
    runs = [Run(step, seed) for step in chains.steps(ablation)]
    cfgs = [composed(scale, one) for one in runs]
    for cfg in cfgs:
        holder = paths.OUT / cfg.out / ".holder"
        with contextlib.suppress(OSError, ValueError, IndexError):
            if files.alive(int(holder.read_text(encoding="utf-8").split()[1])):
                return f"runs {cfg.name[:2]}"
    done = [finished.is_finished(cfg) for cfg in cfgs]
    if all(done):
        return "done"
    if (paths.OUT / cfgs[-1].out / "metrics.json").exists():
        return "changed"  # was finished; code, configuration or what it builds on is another now
    own = [cfg.name[:2] for cfg, is_done in zip(cfgs, done, strict=True) if is_done]
    own += ["begun"] * (paths.OUT / cfgs[len(own)].out / "state").exists()
    return " ".join(own) or "-"


def status(scale: str, pairs: list[tuple[str, int]]) -> str:
    """A table of the state of every chain: a row an ablation, a column a seed."""
    seeds = sorted({seed for _, seed in pairs})
    rows = [["ablation", *(f"s{seed}" for seed in seeds)]]
    for ablation in dict.fromkeys(ablation for ablation, _ in pairs):
        known = [state(scale, ablation, s) if (ablation, s) in pairs else "" for s in seeds]
        rows.append([ablation, *known])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    done = sum(row.count("done") for row in rows)
    return "\n".join([*lines, f"{done} of {len(pairs)} done at scale={scale}"])


def rows(scale: str) -> list[dict]:
    """The scores that all runs of `52_scores` at this scale left: one row for each ablation, seed,
    encoder (`final`, or `stage1` of a chain with a stage 1 of its own), task and metric.
    """
    runs = paths.OUT / _first_seed(scale, Step(chains.SCORES, "none")).runs
    found = []
    for file in sorted(runs.glob(f"{chains.SCORES}/world-{scale}-*/metrics.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        ablation = file.parent.name.split("-")[2]
        if file.parent.name != paths.tag("world", scale, ablation, told["seed"]):
            continue  # a trial with a tag of its own
        own = {"ablation": ablation, "seed": told["seed"]}
        own |= {"weights": told["weights"], "command": told["command"]}
        for name, values in told["rows"].items():
            parts = dict(zip(("encoder", "task", "metric"), name.split("."), strict=True))
            found.append({**own, **parts, **values})
    order = {name: place for place, name in enumerate(SWEPT)}
    keys = ("seed", "encoder", "task", "metric")
    last = len(order)
    return sorted(
        found,
        key=lambda r: (order.get(r["ablation"], last), r["ablation"], *(r[k] for k in keys)),
    )


def losses(scale: str, ablations: Iterable[str], *, seed: int) -> pd.DataFrame:
    """The token losses along stage 2, of the runs that are there: step, ablation, and the cosine
    distance over `visible` and over `masked` tokens, whose mean, weighed by their shares, is logged.
    """
    found = []
    for ablation in ablations:
        cfg = composed(scale, Run(Step(chains.STAGE2, ablation), seed))
        file = paths.OUT / cfg.out / "metrics.csv"
        if not file.is_file():
            continue
        own, places = pd.read_csv(file), (cfg.model.size // cfg.model.patch) ** 2
        share = round(cfg.stage2.mask_ratio * places) / places
        visible = (own["local"] - share * own["local_masked"]) / (1 - share)
        found.append(
            own[["step"]].assign(ablation=ablation, visible=visible, masked=own["local_masked"])
        )
    columns = ["step", "ablation", "visible", "masked"]
    return pd.concat(found) if found else pd.DataFrame(columns=columns)


def write() -> Path:
    """Write the scores of all runs at scale=sweep to `reports/tables/sweep.csv`; equal runs, equal
    bytes, whatever their order.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows("sweep"):
        numbers = {k: f"{row[k]:.6g}" for k in ("value", "low", "high") if k in row}
        writer.writerow(row | numbers)
    target = files.folder(paths.REPORTS / "tables") / f"{TABLE}.csv"
    files.write(target, text.getvalue())
    return target


def main(words: list[str]) -> None:
    """What USAGE says."""
    what, *rest = words or [""]
    if what not in ("run", "status", "table") or (what == "table" and rest):
        sys.exit(f"usage: {USAGE}")
    environment.write_any_letter()
    try:
        if what == "table":
            print(paths.short(write()))
            return
        scale, pairs = chosen(rest)
        if what == "run":
            with contextlib.suppress(AttributeError, OSError):
                os.nice(19)  # beside other work
            if failures := sweep(scale, pairs):
                sys.exit("\n".join([f"error: {len(failures)} runs failed:", *failures]))
        print(status(scale, pairs))
    except (config.ConfigError, files.FileError, run.RunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
