import sys

import pytest
import yaml
from omegaconf import OmegaConf, ReadonlyConfigError
from omegaconf.errors import ConfigAttributeError

from vplib import config, paths
from vplib.config import ConfigError, expand, load
from vplib.model import attention


@pytest.mark.parametrize("name", config.names())
def test_every_notebook_composes_with_every_option(name, out):
    groups = config.groups()
    for index in range(
        max(map(len, groups.values()))
    ):  # the first option of every group, then the second, ...
        choices = {group: options[index % len(options)] for group, options in groups.items()}
        words = [f"{group}={option}" for group, option in choices.items()]
        if (
            choices["data"] != "world"
            and "data" in yaml.safe_load((paths.CONF / f"{name}.yaml").read_text())["uses"]
        ):
            words.append("data.root=videos")
        cfg = load(name, words)
        assert (cfg.name, cfg.scale, cfg.ablation) == (name, choices["scale"], choices["ablation"])


@pytest.mark.parametrize("group", ["model", "hardware", "scale", "ablation"])
def test_options_of_a_group_set_the_same_keys(group, write_notebook):
    """A key that only one option has is a misspelt one: overlays change settings, base.yaml declares them.

    But for text_norm, of LvT-g alone: in every file it would make the recorded runs those of another configuration.
    """
    (paths.CONF / "90_toy.yaml").write_text(
        "defaults: [base, _self_]\nname: 90_toy\n"
    )  # uses every section
    options = config.groups()[group]
    keys = [
        {*config._leaves(load("90_toy", [f"{group}={option}", f"tag={option}"]))}
        - {"model.text_norm"}
        for option in options
    ]
    assert keys == [keys[0]] * len(options)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("model.widht=64", "no key 'model.widht' (did you mean model.width?)"),
        ("width=64", "did you mean model.width?"),
        ("scale=lessom", "did you mean lesson?): scale must be one of lesson, paper, smoke, study"),
        (
            "model=huge",
            "model must be one of base, giant, large, lvt_base, lvt_giant, lvt_large, small, tiny",
        ),
        (
            "model.width=wide",
            "model.width must be a whole number (default 64), given model.width=wide",
        ),
        ("model.width=96.0", "must be a whole number"),
        ("model.width=true", "must be a whole number"),
        ("model.width=null", "must be a whole number"),
        ("model.width={a: 1}", "must be a whole number"),
        ("stage2.learning_rate=high", "stage2.learning_rate must be a number"),
        ("stage2.shuffle_tokens=1", "must be true or false"),
        ("stage2=3", "stage2 is a section"),
        ("seed=", "seed must be a whole number"),
        ("seed=-1", "seed must be 0 or more, given -1"),
        (
            "model.size=50 model.patch=8",
            "model.size must be a multiple of model.patch, given 50 and 8",
        ),
        ("model.patch=0", "model.patch must be more than 0"),
        ("model.frames=0", "model.frames must be more than 0"),
        (
            "model.width=96 model.heads=5",
            "model.width must be a multiple of model.heads, given 96 and 5",
        ),
        ("stage2.batch=0", "stage2.batch must be more than 0"),
        ("stage2.shuffle_warmup=-1", "stage2.shuffle_warmup must be 0 or more"),
        (
            "stage2.shuffle_warmup=600 stage2.steps=250",
            "stage2.shuffle_warmup must be at most stage2.steps, given 600 and 250",
        ),
        (
            "hardware.attention=flash",
            "hardware.attention must be plain, splash or tokamax, given flash",
        ),
        ("stage2.mask_ratio=1", "stage2.mask_ratio must be 0 or more and less than 1"),
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
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(overrides, words, out):
    with pytest.raises(ConfigError) as error:
        load("30_stage2", overrides.replace(": ", ":"))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(out.iterdir())


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


@pytest.mark.parametrize("overrides", ["seed=interval(0,1)", "ablation=glob(no_*)"])
def test_sweeps_without_a_list_of_values_are_refused(overrides):
    with pytest.raises(ConfigError, match="cannot sweep"):
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
    with pytest.raises(SystemExit, match="error: there is no notebook"):
        command("31_stage3")
    with pytest.raises(SystemExit, match="usage"):
        command()
