"""The one door for configuration: `config.load("30_stage2", "scale=study seed=1")`.

The words are Hydra's: `conf/30_stage2.yaml` is the notebook's configuration, the folders of `conf/` are the groups to
choose from, and `group=option` or `key=value` changes one thing. Whatever is wrong with them is one ConfigError.
"""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vplib import paths

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list such as [a,b]",
}
AT_MOST = (
    ("stage1.warmup", "stage1.steps"),
    ("stage2.warmup", "stage2.steps"),
    ("stage2.shuffle_warmup", "stage2.steps"),
)
DIVISIBLE = (
    ("model.size", "model.patch"),
    ("model.width", "model.heads"),
    ("model.decoder.width", "model.decoder.heads"),
)
RANGES = (  # pattern of keys, test of a value, what is accepted
    ("model.text_norm", lambda value: value in ("pre", "primer_hybrid"), "pre or primer_hybrid"),
    ("model.[!a]*", lambda value: isinstance(value, str) or value > 0, "more than 0"),
    ("model.aux_layers", lambda value: value >= 0, "0 or more"),
    (
        "hardware.attention",
        lambda value: value in ("plain", "splash", "tokamax"),
        "plain, splash or tokamax",
    ),
    ("*warmup", lambda value: value >= 0, "0 or more"),
    ("*.batch", lambda value: value > 0, "more than 0"),
    ("*.steps", lambda value: value > 0, "more than 0"),
    ("*.drop_ratio", lambda value: 0 <= value < 1, "0 or more and less than 1"),
    ("*.mask_ratio", lambda value: 0 <= value < 1, "0 or more and less than 1"),
    ("seed", lambda value: value >= 0, "0 or more"),
    (
        "tag",
        lambda value: re.fullmatch(r"\w[\w.+-]*", value),
        "letters, digits and . _ + - (it names a folder)",
    ),
)


class ConfigError(ValueError):
    """A configuration that cannot be used. Its message is one sentence: which key, what was given, what is accepted."""


def load(name: str, overrides: str | Sequence[str] = "") -> DictConfig:
    """Compose the configuration of notebook `name`, check it, record it in `<out>/config.yaml`, return it read-only.

    The result has the sections that the notebook `uses`, and `out` as an absolute path; the file has `out` relative to
    the repository, so its bytes depend on the choices alone. Raises ConfigError, also if the run folder belongs to
    another configuration: what lies there would no longer be what its config.yaml says (`runs/.scratch` may change).
    """
    cfg = _compose(name, _parse(overrides))
    text = OmegaConf.to_yaml(cfg, sort_keys=True)
    out = paths.OUT / cfg.out
    file = out / "config.yaml"
    if file.exists() and ".scratch" not in out.parts:
        old, new = _leaves(OmegaConf.load(file)), _leaves(cfg)
        differ = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if differ:
            what = "; ".join(f"{key} was {old.get(key)}, is now {new.get(key)}" for key in differ)
            raise ConfigError(
                f"{cfg.out} belongs to another configuration ({what}): give this run a name of its own "
                "with tag=..., or delete that folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".config.{os.getpid()}"  # of its own on every process of a pod
    part.write_text(text)
    os.replace(part, file)
    cfg.out = str(out)
    OmegaConf.set_struct(cfg, True)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def reports(cfg: DictConfig) -> Path:
    """Where a run's figures and tables belong: `reports/` for the reference run of a scale (seed 0, no ablation, its
    default tag), the run's own folder for every other, so that a sweep or a trial overwrites no committed result."""
    reference = cfg.scale != "smoke" and cfg.tag == f"{cfg.source}-{cfg.scale}-none-s0"
    return paths.REPORTS if reference else Path(cfg.out) / "reports"


def expand(overrides: str | Sequence[str]) -> list[list[str]]:
    """The runs of a sweep in Hydra's grammar, the last key varying fastest; one run if nothing is swept.

    `"seed=0,1 ablation=none,no_global"` is `[["seed=0", "ablation=none"], ["seed=0", "ablation=no_global"], ...]`.
    """

    def values(item: Override) -> list[str]:
        if not item.is_sweep_override():
            return [item.input_line]
        try:
            return [f"{item.key_or_group}={value}" for value in item.sweep_string_iterator()]
        except HydraException:  # interval() and glob() have no list of values
            raise ConfigError(
                f"cannot sweep {item.input_line}: use {item.key_or_group}=a,b or range(3)"
            ) from None

    return [list(run) for run in product(*map(values, _parse(overrides)))]


def names() -> list[str]:
    """The names that notebooks and their configurations share, in reading order."""
    return sorted(file.stem for file in paths.CONF.glob("[0-9][0-9]_*.yaml"))


def groups() -> dict[str, list[str]]:
    """The options of every group: `{"ablation": ["masked_only", ...], "data": ["folder", ...], ...}`."""
    folders = sorted(folder for folder in paths.CONF.iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def _parse(overrides: str | Sequence[str]) -> list[Override]:
    items = []
    for text in shlex.split(overrides) if isinstance(overrides, str) else overrides:
        try:
            item = OverridesParser.create().parse_override(text)
        except (HydraException, AssertionError):
            raise ConfigError(
                f"cannot read '{text}': write key=value, as in seed=1 or scale=smoke"
            ) from None
        if item.type.name != "CHANGE" or item.package:
            raise ConfigError(
                f"cannot use '{text}': a key can be set, not added (+), removed (~) or moved (@)"
            )
        if item.key_or_group in (earlier.key_or_group for earlier in items):
            raise ConfigError(f"{item.key_or_group} is given twice: give it once")
        items.append(item)
    return items


def _compose(name: str, items: list[Override]) -> DictConfig:
    if name not in names():
        raise ConfigError(
            f"there is no notebook '{name}'{_nearest(name, names())}: it is one of {', '.join(names())}"
        )
    known = groups()
    for item in items:
        key, options = item.key_or_group, known.get(item.key_or_group)
        if item.is_sweep_override():
            raise ConfigError(
                f"{item.input_line} is a sweep: give one value here, or start every run of it with "
                f"python -m vplib.run {name} '{item.input_line}'"
            )
        if options and item.value() not in options:
            raise ConfigError(
                f"{item.input_line} is no option{_nearest(str(item.value()), options)}: "
                f"{key} must be one of {', '.join(options)}"
            )
    with initialize_config_dir(str(paths.CONF), version_base="1.3"):
        choices = [item.input_line for item in items if item.key_or_group in known]
        cfg = compose(name, choices, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # what ${hydra:runtime.choices.scale} reads
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    uses = [*cfg.pop("uses")]
    for item in items:
        if item.key_or_group not in known:
            _set(cfg, item, name, uses)
    OmegaConf.resolve(cfg)
    for section in [key for key in cfg if OmegaConf.is_dict(cfg[key]) and key not in uses]:
        del cfg[
            section
        ]  # so that a change of, say, the probe's settings leaves the training runs as they are
    _check(cfg, name)
    return cfg


def _set(cfg: DictConfig, item: Override, name: str, uses: list[str]) -> None:
    """Set one existing key to a value of its default's kind; a default of null or ??? takes every kind."""
    key, value, known = item.key_or_group, item.value(), _leaves(cfg)
    section = key.split(".")[0]
    if OmegaConf.is_dict(OmegaConf.select(cfg, key)):
        inside = ", ".join(leaf for leaf in known if leaf.startswith(f"{key}."))
        raise ConfigError(f"{key} is a section, given {item.input_line}: set its keys, {inside}")
    if key not in known:
        raise ConfigError(
            f"{name} has no key '{key}'{_nearest(key, known)}, given {item.input_line}"
        )
    if section != key and section not in uses:
        raise ConfigError(
            f"{name} does not use '{section}', given {item.input_line}: it uses {', '.join(uses) or 'none'}"
        )
    default = OmegaConf.select(cfg, key)
    kind = list if OmegaConf.is_list(default) else type(default)
    if kind in (float, str) and type(value) in (int, float):
        value = kind(value)  # weight_decay=0 and tag=7 are meant as 0.0 and "7"
    if default is not None and type(value) is not kind:
        raise ConfigError(
            f"{key} must be {KINDS[kind]} (default {default}), given {item.input_line}"
        )
    OmegaConf.update(cfg, key, value)


def _check(cfg: DictConfig, name: str) -> None:
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{key} has no default: give {key}=...")
    if cfg.name != name:
        raise ConfigError(f"name must be {name}, given {cfg.name}: to name a run, use tag=...")
    leaves = {key: value for key, value in _leaves(cfg).items() if value is not None}
    for pattern, accepts, accepted in RANGES:
        for key in leaves:
            if fnmatch(key, pattern) and not accepts(leaves[key]):
                raise ConfigError(f"{key} must be {accepted}, given {leaves[key]}")
    for less, more in AT_MOST:
        if less in leaves and more in leaves and leaves[less] > leaves[more]:
            raise ConfigError(
                f"{less} must be at most {more}, given {leaves[less]} and {leaves[more]}"
            )
    for whole, part in DIVISIBLE:
        if whole in leaves and part in leaves and leaves[whole] % leaves[part]:
            raise ConfigError(
                f"{whole} must be a multiple of {part}, given {leaves[whole]} and {leaves[part]}"
            )


def _leaves(cfg: DictConfig) -> dict[str, object]:
    """`{"model.width": 96, ...}`: every key below every section, uninterpreted."""

    def walk(node: dict, prefix: str) -> Iterable[tuple[str, object]]:
        for key, value in node.items():
            yield from (
                walk(value, f"{prefix}{key}.")
                if isinstance(value, dict)
                else [(f"{prefix}{key}", value)]
            )

    return dict(walk(OmegaConf.to_container(cfg), ""))


def _nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean model.width?)`, comparing with whole keys and with their last parts; empty if nothing is near."""
    last = {key.split(".")[-1]: key for key in known}
    match = difflib.get_close_matches(word, [*known], 1) or difflib.get_close_matches(
        word.split(".")[-1], last, 1, 0.75
    )
    return f" (did you mean {last.get(match[0], match[0])}?)" if match else ""


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m vplib.config NN_name [key=value ...]")
    try:
        for run in expand(sys.argv[2:]):
            print(paths.short(paths.OUT / load(sys.argv[1], run).out / "config.yaml"))
    except ConfigError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
