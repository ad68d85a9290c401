import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf, ReadonlyConfigError
from omegaconf.errors import ConfigAttributeError

from vplib import config, files, paths, rules
from vplib.config import ConfigError, expand, load
from vplib.model import attention


@pytest.mark.parametrize("name", config.names())
def test_every_notebook_composes_with_every_option(name, out):
    groups = config.groups()
    # The first option of every group, then the second, ...
    for index in range(max(map(len, groups.values()))):
        choices = {group: options[index % len(options)] for group, options in groups.items()}
        words = [f"{group}={option}" for group, option in choices.items()]
        if (
            choices["data"] != "world"
            and "data" in yaml.safe_load((paths.CONF / f"{name}.yaml").read_text())["uses"]
        ):
            words.append("data.root=videos")
        cfg = load(name, words)
        assert (cfg.name, cfg.scale, cfg.ablation) == (name, choices["scale"], choices["ablation"])


SIZES = ("width", "layers", "heads", "mlp")


@pytest.mark.parametrize("group", ["model", "hardware", "scale", "ablation"])
def test_options_of_a_group_set_the_same_keys(group, write_notebook):
    """A key that only one option has is a misspelt one: overlays change settings, base.yaml
    declares them.

    But for text_norm, of LvT-g alone, and joint, of one ablation: in every file they would make the
    recorded runs those of another configuration; and for language models and kinds of questions,
    whose names are one's own.
    """
    # This notebook uses every section.
    (paths.CONF / "90_toy.yaml").write_text("defaults: [base, _self_]\nname: 90_toy\n")
    options = config.groups()[group]
    keys = [
        {*config._leaves(load("90_toy", [f"{group}={option}", f"tag={option}"]))}
        - {"model.text_norm", "model.joint", "speaking.apart.motion"}
        - {f"speaking.models.large.{size}" for size in SIZES}
        for option in options
    ]
    assert keys == [keys[0]] * len(options)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.widht=64", "no key 'model.widht' (did you mean model.width?)"),
        ("width=64", "did you mean model.width?"),
        (
            "scale=lessom",
            "did you mean lesson?): scale must be one of adapt, lesson, paper, smoke, study",
        ),
        (
            "model=huge",
            "model must be one of base, giant, large, lvt_base, lvt_giant, lvt_large, small, tiny",
        ),
        (
            "model.width=wide",
            "to 2,000,000,000 (default 64), given model.width=wide",
        ),
        ("model.width=96.0", "must be a whole number"),
        ("model.width=true", "must be a whole number"),
        ("model.width=null", "must be a whole number"),
        ("model.width={a: 1}", "must be a whole number"),
        ("stage2.learning_rate=high", "stage2.learning_rate must be a finite number"),
        ("stage2.shuffle_tokens=1", "must be true or false"),
        ("stage2=3", "stage2 is a section"),
        ("seed=", "seed must be a whole number"),
        (
            "seed=-1",
            "seed must be a whole number from 0 to 2,000,000,000 (default 0), given seed=-1",
        ),
        (
            "model.size=50 model.patch=8",
            "model.size must be a multiple of model.patch, given 50 and 8",
        ),
        ("model.patch=0", "model.patch must be a whole number from 1"),
        ("model.frames=0", "model.frames must be a whole number from 1"),
        (
            "model.width=96 model.heads=5",
            "model.width must be a multiple of model.heads, given 96 and 5",
        ),
        ("stage2.batch=0", "stage2.batch must be a whole number from 1"),
        ("stage2.shuffle_warmup=-1", "stage2.shuffle_warmup must be a whole number from 0"),
        (
            "stage2.shuffle_warmup=600 stage2.steps=250",
            "stage2.shuffle_warmup must be at most stage2.steps, given 600 and 250",
        ),
        (
            "hardware.attention=flash",
            "hardware.attention must be plain, splash or tokamax (default plain), given",
        ),
        ("stage2.mask_ratio=1", "must be a number, 0 or more and less than 1"),
        ("tag=a/b", "tag must be letters"),
        ("name=mine", "name must be 30_stage2"),
        ("probe.epochs=3", "30_stage2 does not use 'probe'"),
        ("data=folder", "data.root has no default: give data.root=..."),
        ("seed", "cannot read 'seed'"),
        ("seed=1 seed=2", "seed is given twice"),
        ("seed=1,2", "is a sweep"),
        ("+new=1", "cannot use '+new=1'"),
        ("~seed", "cannot use '~seed'"),
        ("hydra.verbose=true", "no key 'hydra.verbose'"),
        ("stage2.mask=banana", "stage2.mask must be bevt, tube or random"),
        ("data.mixing=banana", "data.mixing must be alternating or plain"),
        ("optim.optimiser=sgd", "optim.optimiser must be adafactor or adamw"),
        ("hardware.dtype=float8", "hardware.dtype must be float32, bfloat16 or auto"),
        ("model.pooler_inner=63", "must be a multiple of model.heads, given 63 and 2"),
        (
            "optim.every=7",
            "optim.checkpoint_every must be a multiple of optim.every, given 500 and 7",
        ),
        ("optim.every=0", "optim.every must be a whole number from 1"),
        ("optim.accumulate=0", "optim.accumulate must be a whole number from 1"),
        (
            "optim.accumulate=3",
            "stage2.batch must be a multiple of optim.accumulate, given 16 and 3",
        ),
        ("stage2.learning_rate=nan", "must be a finite number, more than 0"),
        ("stage2.learning_rate=inf", "must be a finite number, more than 0"),
        ("stage2.learning_rate=0", "must be a finite number, more than 0"),
        ("data.memory=-1", "data.memory must be a finite number, 0 or more"),
        ("data.memory=1" + 400 * "0", "data.memory must be a finite number"),
        ("data.max_skipped_fraction=2", "data.max_skipped_fraction must be a number from 0 to 1"),
        ("seed=" + 20 * "9", "seed must be a whole number"),
        ("seed=" + 5000 * "9", "seed must be a whole number"),
        ("seed=range(1000000000)", "is a sweep"),
        (
            "tag=" + 250 * "a",
            "tag must be letters, digits and . _ + - (it names a folder), at most",
        ),
        ("tag=${oc.env:HOME}", "${...} is not looked up"),
        ("weights=${weights}", "${...} is not looked up"),
        ("tag=???", "tag must be letters"),
        ("runs=", "runs must be text"),
        ("data..x=(", "cannot read 'data..x=('"),
        ("source=x", "source follows the corpus"),
        ("data=folder data.root=null", "data.root must be text, given data.root=null"),
        ("data.corpora={../x:1}", "data.corpora has the name '../x'"),
        ("data.corpora={ac1:0}", "data.corpora must have a weight above 0"),
        ("data.families.motion.test=9", "30_stage2 does not use data.families.motion.test, given"),
        ("stage2.snapshots=-1", "stage2.snapshots must be a whole number from 0 to 1,000"),
        ("stage2.local_loss=false stage2.global_loss=false", "nothing would be learned"),
        ("tag=it's", "a quotation mark has no partner"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(overrides, words, out):
    assert_refused("30_stage2", overrides.replace(": ", ":"), words, out)


def assert_refused(name, overrides, words, out):
    with pytest.raises(ConfigError) as error:
        load(name, overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("data.tasks=[]", "data.tasks must be written as {name:...} or {}"),
        ("data.tasks={a:3}", "data.tasks.a must be written as {train:..., test:..., label:...}"),
        ("data.tasks={../x:1}", "data.tasks has the name '../x'"),
        ("data.zero_shot=[sound]", "data.zero_shot names 'sound', which is not in data.tasks"),
    ],
)
def test_a_mistake_in_what_evaluation_asks_for_is_one_sentence(overrides, words, out):
    assert_refused("41_retrieval_zero_shot", overrides, words, out)


def test_shares_of_kinds_of_questions_must_leave_what_they_say(out):
    words = "the shares of speaking.apart sum to more than 1"
    assert_refused("42_captioning_qa", "speaking.apart={motion:0.7,count:0.4}", words, out)


def test_unknown_notebook_lists_the_known_ones(out):
    with pytest.raises(ConfigError, match="did you mean 30_stage2.*00_tour, 01_tokens"):
        load("30_stage_2")


def test_the_file_records_the_choices_and_nothing_of_the_machine(out):
    cfg = load("30_stage2", "ablation=no_global seed=3 stage2.weight_decay=0")
    assert cfg.out == str(out / "runs/30_stage2/world-lesson-no_global-s3")
    text = (out / "runs/30_stage2/world-lesson-no_global-s3/config.yaml").read_text()
    written = yaml.safe_load(text)
    assert written["out"] == "runs/30_stage2/world-lesson-no_global-s3"
    assert (
        written["scale"] == "lesson" and written["ablation"] == "no_global" and written["seed"] == 3
    )
    assert written["stage2"]["global_loss"] is False and written["stage2"]["weight_decay"] == 0.0
    assert "${" not in text and str(out) not in text and str(paths.ROOT) not in text
    assert text == OmegaConf.to_yaml(OmegaConf.create(written), sort_keys=True)


def test_sections_that_a_notebook_does_not_use_are_not_there(out):
    """Otherwise a change of the probe would invalidate every training run."""
    cfg = load("20_stage1")
    assert "stage1" in cfg and "probe" not in cfg and "uses" not in cfg
    with pytest.raises(ConfigAttributeError):
        _ = cfg.probe


GIVEN = {  # a new value of every key that only evaluation reads
    "tasks": "{}",
    "retrieval": "other",
    "zero_shot": "[]",
    "validation": "true",
    "candidates": "7",
    "families": "{motion:{test:7}}",
    "benchmarks": "{}",
}


@pytest.mark.parametrize("key", rules.EVALUATION)
@pytest.mark.parametrize("name", ["20_stage1", "30_stage2"])
def test_what_only_evaluation_reads_is_refused_where_there_is_training(name, key, out):
    word = f"data.{key}={GIVEN[key]}"
    sentence = f"{name} does not use data.{key}, given {word}: evaluation does"
    assert_refused(name, word, sentence, out)
    assert key not in load(name).data
    assert key in load("40_classification_localization", f"{word} tag=x").data


def test_a_new_task_or_number_of_labels_leaves_trainings_as_they_are(write_notebook):
    def composed(name):
        return Path(load(name).out, "config.yaml").read_text()

    names = ["20_stage1", "30_stage2", "40_classification_localization"]
    before = [composed(name) for name in names]
    file = paths.CONF / "data/world.yaml"
    text = file.read_text()
    assert "tasks:" in text and "test: 1000}" in text
    task = "  shape: {train: shape-train, test: shape-test, label: labels.shape}"
    text = re.sub(r"^(tasks:.*)$", rf"\1\n{task}", text, flags=re.MULTILINE)
    file.write_text(text.replace("test: 1000}", "test: 1001}"))
    shutil.rmtree(paths.OUT / "runs")
    after = [composed(name) for name in names]
    assert after[:2] == before[:2] and after[2] != before[2]
    assert "shape-train" in after[2] and "1001" in after[2]


@pytest.mark.parametrize("name", config.names())
def test_every_key_has_a_rule(name, out):
    """Also what is null or missing until somebody gives it. What is free text is listed as such in
    the table.
    """
    for choice in ("world", "folder", "webdataset"):
        given = ["data.root=x"] if choice != "world" and "data" in uses(name) else []
        leaves = config._leaves(load(name, [f"data={choice}", *given]))
        assert [key for key in leaves if key != "command" and not rules.of(key)] == []


def uses(name: str) -> list[str]:
    return yaml.safe_load((paths.CONF / f"{name}.yaml").read_text())["uses"]


def test_a_key_without_a_rule_is_refused(write_notebook):
    (paths.CONF / "90_toy.yaml").write_text("defaults: [base, _self_]\nname: 90_toy\nnew: 3\n")
    with pytest.raises(ConfigError, match="new has no entry in RULES"):
        load("90_toy")


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("clip=/data/my clip (1).mp4", "/data/my clip (1).mp4"),
        ("clip=~/videos/a.mp4", "~/videos/a.mp4"),  # expanded where it is opened
        ("clip=a=b&c;d#e!.mp4", "a=b&c;d#e!.mp4"),
        ("clip=it's.mp4", "it's.mp4"),
        ("clip=视频 [1].mp4", "视频 [1].mp4"),
        ("clip=[a].mp4", "[a].mp4"),
        ("clip={a}", "{a}"),
        ("clip=007", "007"),
        ("clip=1e3", "1e3"),
        ("clip=2024", "2024"),
        ("clip=true", "true"),
        ("clip='a,b.mp4'", "a,b.mp4"),
        (r"clip=C:\new\a.mp4", r"C:\new\a.mp4"),
        ("clip=null", None),
        ("texts=[你好,rain]", ["你好", "rain"]),
        ("texts=[it's raining,a dog (big)]", ["it's raining", "a dog (big)"]),
        ("""texts=["你好, 世界", 'b c',d=e]""", ["你好, 世界", "b c", "d=e"]),
        ("texts=[2024,1e3,null]", ["2024", "1e3", "null"]),
        ("texts=[]", []),
        ("data.tasks={}", {}),
        ("data.tasks.motion.label=7", "7"),
    ],
)
def test_texts_and_paths_are_taken_as_they_are_meant(word, value, out):
    cfg = load("44_public_weights", ["scale=smoke", word])
    assert OmegaConf.select(cfg, word.partition("=")[0]) == value
    written = yaml.safe_load(Path(cfg.out, "config.yaml").read_text(encoding="utf-8"))
    assert OmegaConf.select(OmegaConf.create(written), word.partition("=")[0]) == value
    assert shlex.split(cfg.command)[-2:] == ["scale=smoke", word]
    assert load("44_public_weights", shlex.join(["scale=smoke", word])).command == cfg.command


def test_without_labels_no_class_is_asked_for_in_words(write_notebook):
    text = (paths.CONF / "data/folder.yaml").read_text()
    start = text.index("tasks:")
    (paths.CONF / "data/mine.yaml").write_text(
        text[:start] + "tasks:\n" + text[start:].split("\n", 2)[2]
    )
    cfg = load("41_retrieval_zero_shot", "data=mine data.root=x")
    assert cfg.data.tasks == {} and cfg.data.zero_shot == []
    cfg = load("41_retrieval_zero_shot", "scale=smoke data.tasks={}")
    assert cfg.data.tasks == {} and cfg.data.zero_shot == []


def test_options_may_have_capitals_hyphens_and_digits(write_notebook):
    shutil.copy(paths.CONF / "data/folder.yaml", paths.CONF / "data/UCF-101.yaml")
    shutil.copy(paths.CONF / "data/folder.yaml", paths.CONF / "data/101.yaml")
    shutil.copy(paths.CONF / "data/folder.yaml", paths.CONF / "data/my set.yaml")
    cfg = load("10_prepare_corpus", "data=UCF-101 data.root=x")
    assert cfg.data.shards == "data/shards/UCF-101-lesson" and cfg.source == "UCF-101"
    assert load("10_prepare_corpus", "data=101 data.root=x").source == "101"
    with pytest.raises(ConfigError, match="data/my set.yaml cannot be chosen: rename it"):
        load("10_prepare_corpus", ["data=my set", "data.root=x"])


@pytest.mark.parametrize(
    "line", ["root: ${oc.env:NO_SUCH}", "root: ${roots}", "root: [", "root: é"]
)
def test_a_broken_file_in_conf_is_one_sentence(line, write_notebook):
    (paths.CONF / "data/mine.yaml").write_text(f"{line}\n", encoding="latin-1")
    with pytest.raises(
        ConfigError, match="^the files in conf/ do not make a configuration: ."
    ) as error:
        load("10_prepare_corpus", "data=mine")
    assert "\n" not in str(error.value)


COMMITTED = sorted(paths.ROOT.glob("runs/*/world-*-none-s0/config.yaml"))


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: "-".join(file.parts[-3:-1]))
def test_committed_runs_compose_to_their_bytes(file, out):
    name, scale = file.parts[-3], file.parts[-2].split("-")[1]
    if name in config.names():
        cfg = load(name, f"scale={scale}")
        assert Path(cfg.out, "config.yaml").read_bytes() == file.read_bytes()
        assert cfg.command == f"python -m vplib.run {name} scale={scale}"


def test_the_command_has_no_trailing_space(out):
    assert load("20_stage1").command == "python -m vplib.run 20_stage1"


def test_the_result_is_read_only(out):
    cfg = load("20_stage1")
    with pytest.raises(ReadonlyConfigError):
        cfg.stage1.steps = 3


def test_smaller_kinds_are_taken_for_larger_ones(out):
    cfg = load("20_stage1", "stage1.weight_decay=1 tag=7")
    assert cfg.stage1.weight_decay == 1.0 and isinstance(cfg.stage1.weight_decay, float)
    assert cfg.tag == "7"


def test_a_scale_may_choose_a_model_and_the_command_line_still_wins(out):
    assert load("20_stage1", "scale=paper").model.width == 1408
    assert load("20_stage1", "scale=paper model=base tag=base").model.width == 768


def test_every_attention_kernel_can_be_chosen(out):
    for kernel in ("plain", *attention.KERNELS):
        assert (
            load("20_stage1", f"hardware.attention={kernel} tag={kernel}").hardware.attention
            == kernel
        )


def test_a_run_folder_holds_one_configuration(out):
    load("30_stage2")
    load("30_stage2", "seed=0")  # the same one: fine
    with pytest.raises(ConfigError, match=r"stage2.steps was \d+, is now 7000\): .* tag="):
        load("30_stage2", "stage2.steps=7000")
    assert load("30_stage2", "stage2.steps=7000 tag=short").stage2.steps == 7000


def test_keys_that_change_no_batch_do_not_tell_runs_apart(out):
    """After a kill for want of memory, a run continues with less; its record stays as it began."""
    file = Path(load("20_stage1").out, "config.yaml")
    before = file.read_bytes()
    cfg = load("20_stage1", "hardware.workers=2 hardware.threads=1 data.memory=1e9")
    assert cfg.hardware.workers == 2 and cfg.data.memory == 1e9
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match=r"\(stage1.batch was 64, is now 32\)"):
        load("20_stage1", "hardware.workers=2 stage1.batch=32")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a\n- b\n",
        b"seed: 0\n",
        b"\x00\xff\x80",
        b"name: [\n",
        b"name: !!python/object/apply:os.system ['touch ran']\n",
        b"a: &a [1,1]\nb: &b [*a,*a]\nname: 20_stage1\n",
        b"name: " + 10_000 * b"[",
        b"name: x\n" + 200_000 * b"#",
    ],
    ids=["empty", "list", "no name", "binary", "cut", "tag", "aliases", "deep", "large"],
)
def test_a_damaged_record_is_named(content, out):
    file = Path(load("20_stage1").out, "config.yaml")
    file.write_bytes(content)
    with pytest.raises(
        ConfigError, match="^runs/20_stage1/world-lesson-none-s0/config.yaml is damaged: .*tag="
    ) as error:
        load("20_stage1")
    assert "\n" not in str(error.value) and file.read_bytes() == content
    assert not Path("ran").exists()


def test_a_record_that_is_a_folder_is_damaged(out):
    file = Path(load("20_stage1", "scale=smoke").out, "config.yaml")
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match="config.yaml is damaged"):
        load("20_stage1", "scale=smoke")


def test_where_nothing_can_be_written_one_sentence_says_so(out, monkeypatch):
    (out / "file").touch()
    monkeypatch.setattr(paths, "OUT", out / "file")
    with pytest.raises(files.FileError, match="cannot be written: a .* file.*; move that file"):
        load("20_stage1")


def test_out_is_a_folder_of_yours_or_the_repository():
    def out(value):
        show = "from vplib import paths; print(paths.OUT)"
        env = os.environ | {"VPLIB_OUT": value, "HOME": "/somewhere"}
        words = [sys.executable, "-c", show]
        return subprocess.check_output(words, env=env, cwd=paths.ROOT, text=True).strip()

    assert out("") == str(paths.ROOT) and out("~/results") == "/somewhere/results"


def test_a_scratch_folder_may_change(out):
    assert load("30_stage2", "scale=smoke").out.startswith(str(out / "runs/.scratch/30_stage2"))
    assert load("30_stage2", "scale=smoke stage2.steps=7").stage2.steps == 7


@pytest.mark.parametrize(
    ("overrides", "runs"),
    [
        ("", [[]]),
        ("seed=1 tag=x", [["seed=1", "tag=x"]]),
        ("seed=0,1,2", [["seed=0"], ["seed=1"], ["seed=2"]]),
        (["seed=range(3)"], [["seed=0"], ["seed=1"], ["seed=2"]]),
        (["seed=range(1,6,2)"], [["seed=1"], ["seed=3"], ["seed=5"]]),
        (
            ["ablation=choice(none,no_global)", "seed=0,1"],
            [
                ["ablation=none", "seed=0"],
                ["ablation=none", "seed=1"],
                ["ablation=no_global", "seed=0"],
                ["ablation=no_global", "seed=1"],
            ],
        ),
        ("data.mix=[a,b]", [["data.mix=[a,b]"]]),
    ],
)
def test_sweeps_are_hydras(overrides, runs):
    assert expand(overrides) == runs


@pytest.mark.parametrize(
    "overrides", ["seed=interval(0,1)", "ablation=glob(no_*)", "seed=range(5,0)"]
)
def test_sweeps_without_a_list_of_values_are_refused(overrides):
    with pytest.raises(ConfigError, match="cannot sweep"):
        expand(overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        "seed=range(1000000000)",
        "seed=shuffle(range(1000000000))",
        "data.fps=range(0,1,0.0000001)",
        "seed=range(200) data.seed=range(100)",
    ],
)
def test_a_sweep_has_a_largest_size(overrides):
    with pytest.raises(ConfigError, match="makes more than 10,000 runs"):
        expand(overrides)


def test_command_writes_the_configuration_only(out, monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["config", *words])
        config.main()

    command("30_stage2", "seed=0,1")
    written = [
        "runs/30_stage2/world-lesson-none-s0/config.yaml",
        "runs/30_stage2/world-lesson-none-s1/config.yaml",
    ]
    assert capsys.readouterr().out.split() == written
    assert all((out / file).exists() for file in written)
    reached = json.loads((out / written[0]).with_name("code.json").read_text())
    assert {"30_stage2", "vplib.method.stages"} <= reached.keys()
    with pytest.raises(SystemExit, match="error: there is no notebook"):
        command("31_stage3")
    with pytest.raises(SystemExit, match="usage"):
        command()


def test_folders_of_any_name_are_taken_as_they_are(out, monkeypatch):
    monkeypatch.setattr(paths, "OUT", out / "${x} {a}")
    assert load("20_stage1").out == str(out / "${x} {a}" / "runs/20_stage1/world-lesson-none-s0")


@pytest.mark.parametrize("place", ["a" * 300, "/proc/nothing"])
def test_folders_that_cannot_be_made_are_one_sentence(out, place):
    with pytest.raises(files.FileError) as error:
        load("20_stage1", ["runs=" + place])
    assert "\n" not in str(error.value) and " cannot be " in str(error.value)


def test_what_an_edited_file_says_cannot_steer_the_terminal(out):
    file = out / "runs/20_stage1/world-lesson-none-s0/config.yaml"
    load("20_stage1")
    whole = file.read_text()
    file.write_text(whole.replace("seed: 0\nsource", 'seed: "\\e[31m\\n"\nsource'))
    with pytest.raises(ConfigError) as error:
        load("20_stage1")
    assert str(error.value).isprintable() and r"\x1b[31m\n" in str(error.value)
    file.write_text(whole.replace("seed: 0\nsource", "seed: 1" + ":1" * 9000 + "\nsource"))
    with pytest.raises(ConfigError, match="is damaged"):
        load("20_stage1")


def test_a_word_of_any_length_is_refused_at_once(out):
    with pytest.raises(ConfigError, match="is longer than 10,000 letters"):
        load("44_public_weights", ["texts=[" + ",".join(["rain"] * 100_000) + "]"])
