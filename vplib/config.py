"""The one door for configuration: `config.load("30_stage2", "scale=study seed=1")`.

The words are Hydra's: `conf/30_stage2.yaml` is the notebook's configuration, the folders of
`conf/` are the groups to choose from, and `group=option` or `key=value` changes one thing.
Whatever is wrong with them is one ConfigError.
"""

import contextlib
import difflib
import json
import math
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from itertools import islice, product
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vplib import code, environment, files, paths, rules

MOST_RUNS = 10_000  # of a sweep
LONGEST = 10_000  # letters of one override
ADAPTS = "30_stage2"  # from weights= on videos of one's own: scale=adapt unless another is given


class ConfigError(ValueError):
    """A configuration that cannot be used: one sentence on the key, what is given and accepted."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


def load(name: str, overrides: str | Sequence[str] = "") -> DictConfig:
    """The configuration of notebook `name`, checked, read-only, recorded in `<out>/config.yaml`.

    The result has the sections that the notebook `uses`, `out` as an absolute path, and `command`,
    which starts this run from a shell. The file has neither: `out` is relative to the repository
    there, so its bytes depend on the choices alone. Raises ConfigError, also if the run folder
    belongs to another configuration: what lies there would no longer be what its config.yaml says
    (`runs/.scratch` may change, and keys in `environment.FREE` may: the file keeps what the run
    began with). Raises files.FileError if the folder cannot be written.
    """
    words = _split(overrides)
    cfg = _compose(name, _parse(words))
    if "ipykernel" in sys.modules and "hardware" in cfg:  # here, not on the machine of a sweep
        if lacking := environment.lacking(cfg.hardware.platform, cfg.hardware.dtype):
            raise ConfigError(lacking)
    text = OmegaConf.to_yaml(cfg, sort_keys=True)
    out = paths.OUT / cfg.out
    with files.explained(out):
        recorded = _is_recorded(cfg, text, out / "config.yaml")
    if not recorded:
        files.folder(out)
        files.write(out / "config.yaml", text)
    cfg.out = str(out).replace("${", "\\${")  # not looked up, either
    cfg.command = shlex.join(["python", "-m", "vplib.run", name, *words])
    OmegaConf.set_struct(cfg, True)
    OmegaConf.set_readonly(cfg, True)
    return cfg


def check(name: str, overrides: str | Sequence[str] = "") -> DictConfig:
    """The configuration of a run that is to start elsewhere: checked, nothing written.

    Raises ConfigError where `load` would for the choices themselves.
    """
    return _compose(name, _parse(_split(overrides)))


def is_of(cfg: DictConfig, file: Path) -> bool:
    """Whether `file` is the config.yaml of a run with these choices, keys in environment.FREE
    aside.
    """
    try:
        content = file.read_bytes()
        if content == OmegaConf.to_yaml(cfg, sort_keys=True).encode():
            return True
        old, new = _recorded(content), _leaves(cfg)
    except (OSError, ValueError, KeyError, yaml.YAMLError, OmegaConfBaseException):
        return False
    return all(old.get(key) == new.get(key) for key in {*old, *new} - {*environment.FREE})


def expand(overrides: str | Sequence[str]) -> list[list[str]]:
    """The runs of a sweep in Hydra's grammar, the last key varying fastest; one if none is swept.

    `"seed=0,1 tag=a,b"` is `[["seed=0", "tag=a"], ["seed=0", "tag=b"], ["seed=1", "tag=a"], ...]`.
    Raises ConfigError for more than MOST_RUNS.
    """
    items = _parse(_split(overrides))
    runs = 1
    for item in items:
        runs *= _count(item)
        if runs > MOST_RUNS:
            raise ConfigError(
                f"{_cut(item.input_line)} makes more than {MOST_RUNS:,} runs: sweep fewer values"
            )
    values = [
        [f"{item.key_or_group}={value}" for value in item.sweep_string_iterator()]
        if item.is_sweep_override()
        else [item.input_line]
        for item in items
    ]
    return [list(run) for run in product(*values)]


def is_own(cfg: DictConfig) -> bool:
    """Whether a run looks at videos of the user's, not at the embedded world."""
    return cfg.source != "world" or bool(cfg.get("clip"))


def names() -> list[str]:
    """The names that notebooks and their configurations share, in reading order."""
    return sorted(file.stem for file in paths.CONF.glob("[0-9][0-9]_*.yaml"))


def groups() -> dict[str, list[str]]:
    """The options of every group: `{"ablation": ["masked_only", ...], ...}`."""
    folders = sorted(folder for folder in paths.CONF.iterdir() if folder.is_dir())
    return {
        folder.name: sorted(
            file.stem for file in folder.glob("*.yaml") if rules.NAME.fullmatch(file.stem)
        )
        for folder in folders
    }


def _split(overrides: str | Sequence[str]) -> list[str]:
    if not isinstance(overrides, str):
        return [*overrides]
    try:
        return shlex.split(overrides)
    except ValueError:
        raise ConfigError(
            f"cannot read {_cut(overrides)}: a quotation mark has no partner; around an apostrophe "
            """write "...", as in "clip=it's.mp4\""""
        ) from None


def _parse(words: Sequence[str]) -> list[Override]:
    items = []
    for text in words:
        if len(text) > LONGEST:
            raise ConfigError(f"{_cut(text)} is longer than {LONGEST:,} letters: shorten it")
        if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text):
            raise ConfigError(
                f"cannot use {_cut(ascii(text))}: it has characters that do not print "
                "(where letters beyond ASCII are lost, set LC_ALL=C.UTF-8)"
            )
        if "${" in text:
            raise ConfigError(
                f"cannot use '{_cut(text)}': values are taken as they are, ${{...}} is not looked "
                "up; write what it stands for"
            )
        item = _item(text)
        if item is None:
            raise ConfigError(
                f"cannot read '{_cut(text)}': write key=value, as in seed=1 or scale=smoke, "
                "with quotes around all of it where the value has spaces, as in 'clip=my clip.mp4'"
            )
        if item.type.name != "CHANGE" or item.package:
            raise ConfigError(
                f"cannot use '{_cut(text)}': a key can be set, not added (+), removed (~) or "
                "moved (@)"
            )
        if item.key_or_group in (earlier.key_or_group for earlier in items):
            raise ConfigError(f"{_cut(item.key_or_group)} is given twice: give it once")
        items.append(item)
    return items


def _item(text: str) -> Override | None:
    """Hydra's reading of `key=value`; where its grammar has none (`~`, brackets, letters beyond
    ASCII), the value is plain text. None if this is no `key=value`.
    """
    parser = OverridesParser.create()
    try:
        return parser.parse_override(text)
    except (HydraException, AssertionError, ValueError, RecursionError):
        key, sign, value = text.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key, re.ASCII):
        return None
    item = parser.parse_override(f"{key}={QuotedString(value.strip(), Quote.double).with_quotes()}")
    item.input_line = text
    return item


def _count(item: Override) -> int:
    """How many values a sweep has (counting stops beyond MOST_RUNS); 1 for a single value."""
    if not item.is_sweep_override():
        return 1
    value, count = item.value(), 0
    with contextlib.suppress(HydraException, ValueError, ArithmeticError):
        values = value.range() if isinstance(value, RangeSweep) else item.sweep_string_iterator()
        count = sum(1 for _ in islice(values, MOST_RUNS + 1))
    if not count:  # interval() and glob() have no list of values, range(5,0) has an empty one
        key = item.key_or_group
        raise ConfigError(f"cannot sweep {_cut(item.input_line)}: use {key}=a,b or range(3)")
    return count


def _compose(name: str, items: list[Override]) -> DictConfig:
    if name not in names():
        raise ConfigError(
            f"there is no notebook '{name}'{_nearest(name, names())}: it is one of "
            f"{', '.join(names())}"
        )
    known, choices = groups(), {}
    for item in items:
        key, options = item.key_or_group, known.get(item.key_or_group)
        if item.is_sweep_override():
            raise ConfigError(
                f"{_cut(item.input_line)} is a sweep: give one value here, or start all its runs "
                f"with python -m vplib.run {name} '{_cut(item.input_line)}'; a comma that belongs "
                f"""to the value needs quotes, as in '{key}="a,b"'"""
            )
        if options is not None:
            choices[key] = choice = _as_text(item)
            if choice not in options:
                raise ConfigError(_no_option(key, choice, options))
    given = {item.key_or_group for item in items if item.value() is not None}
    if name == ADAPTS and "weights" in given and choices.get("data", "world") != "world":
        choices.setdefault("scale", "adapt")
    try:
        with initialize_config_dir(str(paths.CONF), version_base="1.3"):
            words = [f"{key}='{choice}'" for key, choice in choices.items()]
            cfg = compose(name, words, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # what ${hydra:runtime.choices.scale} reads
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        uses = [*cfg.pop("uses")]
        cfg.pop("chain", None)  # of an overlay: read by vplib.chains
        for item in items:
            if item.key_or_group not in known:
                _set(cfg, item, name, uses)
        OmegaConf.resolve(cfg)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        said = _cut(" ".join(str(error).split()), 200)
        raise ConfigError(f"the files in conf/ do not make a configuration: {said}") from None
    for section in [key for key in cfg if OmegaConf.is_dict(cfg[key]) and key not in uses]:
        del cfg[section]  # so that, say, a change of the probe leaves the training runs as they are
    if "data" in cfg and _trains(uses):
        for key in rules.EVALUATION:
            cfg.data.pop(key, None)
    elif "data" in cfg and not cfg.data.tasks:
        cfg.data.tasks, cfg.data.zero_shot = {}, []  # no labels, no names of classes to ask for
    _check(cfg, name)
    return cfg


def _trains(uses: Sequence[str]) -> bool:
    """Whether a notebook that uses these sections trains: its data are then the corpora alone."""
    return "optim" in uses


def _no_option(group: str, choice: str, options: list[str]) -> str:
    file = paths.CONF / group / f"{choice}.yaml"
    if len(choice) <= rules.TAG_BYTES and file.is_file():
        return (
            f"{paths.short(file)} cannot be chosen: rename it to letters, digits and . _ + - only"
        )
    near = _nearest(choice, options)
    return f"{group}={_cut(choice)} is no option{near}: {group} must be one of {', '.join(options)}"


def _set(cfg: DictConfig, item: Override, name: str, uses: list[str]) -> None:
    """Set one existing key to a value that its rule accepts."""
    key, known, given = item.key_or_group, _leaves(cfg), f"given {_cut(item.input_line)}"
    section, inside = key.split(".")[0], [leaf for leaf in known if leaf.startswith(f"{key}.")]
    if inside and key not in rules.OPEN:
        some = [*inside[:8], *([f"{len(inside) - 8} more"] if len(inside) > 8 else [])]
        raise ConfigError(f"{key} is a section, {given}: set its keys, {', '.join(some)}")
    if key not in known and key not in rules.OPEN:
        own = [leaf for leaf in known if leaf.split(".")[0] in uses or "." not in leaf]
        raise ConfigError(f"{name} has no key '{_cut(key)}'{_nearest(key, own)}, {given}")
    if section != key and section not in uses:
        raise ConfigError(
            f"{name} does not use '{section}', {given}: it uses {', '.join(uses) or 'none'}"
        )
    if _trains(uses) and key.split(".")[1:2] and key.split(".")[1] in rules.EVALUATION:
        raise ConfigError(f"{name} does not use {key}, {given}: evaluation does")
    if key == "source":
        raise ConfigError(f"source follows the corpus, {given}: choose one with data=...")
    if key in rules.OPEN:
        if not isinstance(item.value(), dict):
            raise ConfigError(f"{key} must be written as {{name:...}} or {{}}, {given}")
        OmegaConf.update(cfg, key, item.value(), merge=False)
        return
    default, rule = OmegaConf.select(cfg, key), _rule(key)
    value = _as_kind(item, rule)
    if not rules.fits(value, rule):
        was = "" if default is None else f" (default {default})"
        raise ConfigError(f"{key} must be {rule.words}{was}, {given}")
    OmegaConf.update(cfg, key, value)


def _rule(key: str) -> rules.Rule:
    if rule := rules.of(key):
        return rule
    raise ConfigError(
        f"{_cut(key)} has no entry in RULES of vplib/rules.py: say there what it accepts, or "
        "correct its spelling"
    )


def _as_kind(item: Override, rule: rules.Rule) -> object:
    """What is meant: weight_decay=0 is 0.0, tag=1e3 is "1e3", texts=[2024,你好] are two texts."""
    value = item.value()
    if rule.kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1000 else math.inf
    if rule.kind is str and value is not None:
        return _as_text(item)
    if rule.kind is list and not rules.fits(value, rule):
        raw = item.input_line.partition("=")[2].strip()
        if raw[:1] == "[" and raw[-1:] == "]":
            part = r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,]*?))\s*(?:,|$)"""
            return [one for found in re.findall(part, raw[1:-1]) if (one := "".join(found))]
    return value


def _as_text(item: Override) -> str:
    value = item.value()
    return value if isinstance(value, str) else item.input_line.partition("=")[2].strip()


def _check(cfg: DictConfig, name: str) -> None:
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{key} has no default: give {key}=...")
    if cfg.name != name:
        raise ConfigError(f"name must be {name}, given {cfg.name}: to name a run, use tag=...")
    if "data" in cfg:
        _check_data(cfg.data)
    leaves = _leaves(cfg)
    for key, value in leaves.items():
        rule = _rule(key)
        if not rules.fits(value, rule):
            raise ConfigError(f"{key} must be {rule.words}, given {_cut(str(value))}")
    for less, more in rules.AT_MOST:
        if less in leaves and more in leaves and leaves[less] > leaves[more]:
            raise ConfigError(
                f"{less} must be at most {more}, given {leaves[less]} and {leaves[more]}"
            )
    for whole, part in rules.DIVISIBLE:
        if leaves.get(whole) and leaves.get(part) and leaves[whole] % leaves[part]:
            raise ConfigError(
                f"{whole} must be a multiple of {part}, given {leaves[whole]} and {leaves[part]}"
            )
    if "optim" in cfg and cfg.hardware.dtype == "auto":
        raise ConfigError("hardware.dtype must be float32 or bfloat16 in training, given auto")
    if "lit" in cfg and cfg.lit.last_corpus not in (None, *cfg.data.corpora):
        raise ConfigError(
            f"lit.last_corpus must be one of data.corpora ({', '.join(cfg.data.corpora)}) or null, "
            f"given {_cut(cfg.lit.last_corpus)}"
        )
    if "speaking" in cfg and sum(cfg.speaking.apart.values()) > 1:
        raise ConfigError("the shares of speaking.apart sum to more than 1: make them smaller")
    if "stage2" in cfg and not (cfg.stage2.local_loss or cfg.stage2.global_loss):
        raise ConfigError("stage2.local_loss and global_loss are false: nothing would be learned")


def _check_data(data: DictConfig) -> None:
    for section in ("corpora", "tasks"):
        if section in data and not OmegaConf.is_dict(data[section]):
            raise ConfigError(f"data.{section} must be written as {{name:...}}, one or more")
        for key in data.get(section, {}):
            if not rules.NAME.fullmatch(str(key)):
                raise ConfigError(
                    f"data.{section} has the name '{_cut(str(key))}': use letters, digits and . _ "
                    "+ -"
                )
    tasks = data.get("tasks", {})
    for task, parts in tasks.items():
        if not OmegaConf.is_dict(parts) or not {*parts} >= {"train", "test", "label"}:
            raise ConfigError(
                f"data.tasks.{task} must be written as {{train:..., test:..., label:...}}"
            )
    if not any(data.corpora.values()):
        raise ConfigError("data.corpora must have a weight above 0, as in {train:1.0}")
    for task in data.get("zero_shot") or ():
        if task not in tasks:
            raise ConfigError(
                f"data.zero_shot names '{_cut(str(task))}', which is not in data.tasks "
                f"({', '.join(tasks)})"
            )


def _is_recorded(cfg: DictConfig, text: str, file: Path) -> bool:
    """True if `file` has this configuration, keys in environment.FREE aside. Raises ConfigError if
    it has another.
    """
    folder = paths.short(file.parent)
    damaged = ConfigError(
        f"{folder}/config.yaml is damaged: remove that folder, or give this run a name of its own "
        "with tag=..."
    )
    if not file.exists() and not file.is_symlink():
        return False
    if not file.is_file():
        raise damaged
    if ".scratch" in file.parts:
        return False
    try:
        recorded = file.read_bytes()
        if recorded == text.encode():
            return True
        old, new = _recorded(recorded), _leaves(cfg)
    except (OSError, ValueError, KeyError, yaml.YAMLError, OmegaConfBaseException):
        raise damaged from None
    differ = [
        f"{key} was {_cut(str(old.get(key)))}, is now {_cut(str(new.get(key)))}"
        for key in sorted({*old, *new} - {*environment.FREE})
        if old.get(key) != new.get(key)
    ]
    if differ:
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise ConfigError(
            f"{folder} belongs to another configuration ({'; '.join(differ[:5])}{more}): give "
            "this run a name "
            "of its own with tag=..., or delete that folder"
        )
    return True


def _recorded(content: bytes) -> dict[str, object]:
    """The leaves of a config.yaml that anyone may have edited: nothing in it runs, unfolds or
    takes long to read.

    Raises ValueError, KeyError or what YAML raises for a file that no run wrote.
    """
    if len(content) > 100_000:
        raise ValueError
    text, depth = content.decode(), 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) or depth > 8:
            raise ValueError
    cfg = OmegaConf.create(text)
    if not OmegaConf.is_dict(cfg) or "name" not in cfg:
        raise ValueError
    leaves = _leaves(cfg)
    str(leaves)  # a number of more digits than Python writes is a ValueError
    return leaves


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
    """` (did you mean model.width?)`, comparing with whole keys and with their last parts; empty
    if nothing is near.
    """
    last = {key.split(".")[-1]: key for key in known}
    match = difflib.get_close_matches(word, [*known], 1) or difflib.get_close_matches(
        word.split(".")[-1], last, 1, 0.75
    )
    return f" (did you mean {last.get(match[0], match[0])}?)" if match else ""


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def main() -> None:
    """Write config.yaml, and code.json: digests of what the notebook's code reaches."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m vplib.config NN_name [key=value ...]")
    name, words = sys.argv[1], sys.argv[2:]
    try:
        for run in expand(words):
            out = Path(load(name, run).out)
            reached = code.of_notebook(paths.NOTEBOOKS / f"{name}.ipynb")
            files.write(out / "code.json", json.dumps(reached, indent=1) + "\n")
            print(paths.short(out / "config.yaml"))
    except (ConfigError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
