"""Shipped weights: how they are written, who looks at them, and that they are the committed ones."""

import hashlib
import json
import shutil

import jax
import jaxtyping
import numpy as np
import pandas as pd
import pytest
import yaml
from flax import nnx

from vplib import caption, cards, config, paths, run, shipped
from vplib.data import text, video
from vplib.evaluate import classify, features, heads, tasks
from vplib.model import checkpoints
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import VideoText, pixels
from vplib.model.sizes import Sizes
from vplib.world import corpora

SMALL = (
    "model.width=16 model.spatial_layers=1 model.temporal_layers=1 model.text_layers=1 model.mlp=32 "
    "model.pooler_inner=16"
)
REAL = paths.ROOT / "reports" / "weights"
MANIFEST = REAL / "manifest.json"
COMMITTED = json.loads(MANIFEST.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    text.train((corpora.text("ac1", i)[0] for i in range(60)), file, size=120)
    return file


@pytest.fixture
def place(out, monkeypatch):
    """An empty place for shipped files, below a fresh OUT."""
    monkeypatch.setattr(shipped, "WEIGHTS", out / "reports" / "weights")
    return shipped.WEIGHTS


@pytest.fixture
def execute():
    """`execute("00_tour")` runs a notebook's cells here, as a kernel would: types are not checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield lambda name, *words: run.run_inline(name, ["tag=new", *words])
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def finish(out, vocabulary):
    """`finish("lesson")` leaves what small runs of that scale and seed leave."""

    def write(scale: str, pieces: int | None = None, seed: int = 0) -> VideoText:
        cfg = config.load("20_stage1", f"scale={scale} {SMALL}")
        pieces = pieces or text.Tokenizer(vocabulary, 1).size
        sizes = Sizes.of(cfg.model, vocabulary=pieces)
        graph, params = nnx.split(nnx.eval_shape(lambda: VideoText(sizes, rngs=nnx.Rngs(0))))
        rng = np.random.default_rng([len(scale), seed])
        model = nnx.merge(
            graph, jax.tree.map(lambda p: 0.2 * rng.normal(size=p.shape).astype("f4"), params)
        )
        for name in ("20_stage1", "31_lit_tuning"):
            folder = paths.RUNS / name / paths.tag("world", scale, seed=seed)
            checkpoints.save(model, folder / "weights.npz", half=name == "31_lit_tuning")
            (folder / "metrics.json").write_text(json.dumps({"command": f"python {name} {scale}"}))
        shards = paths.DATA / "shards" / f"world-{scale}"
        shards.mkdir(parents=True, exist_ok=True)
        shutil.copy(vocabulary, shards / "tokenizer.model")
        return model

    return write


# --- the command ---------------------------------------------------------------------------------


def test_both_stages_and_the_vocabulary_are_written_in_half_precision(finish, place, capsys):
    model = finish("lesson")
    shipped.main(["ship", "lesson", "1"])
    assert capsys.readouterr().out.count("\n") == 4
    names = ["lesson-stage1.npz", "lesson-stage2.npz", "lesson-vocabulary.model"]
    found = sorted(file.name for file in place.iterdir())
    assert found == [cards.CARD, *names, "manifest.json"]
    for name in names[:2]:
        kept, whole = checkpoints.read(place / name), checkpoints.flatten(model)
        assert {str(value.dtype) for value in kept.values()} == {"float16"}
        loaded = checkpoints.flatten(checkpoints.load(place / name))
        assert loaded.keys() == whole.keys()
        assert all(np.abs(loaded[key] - whole[key]).max() < 1e-3 for key in whole)
    before = (place / names[0]).read_bytes()
    finish("study")
    shipped.ship("study", 1)
    assert (place / names[0]).read_bytes() == before  # another scale leaves it alone
    told = json.loads((place / "manifest.json").read_text())
    check(place, told)
    assert (place / cards.CARD).read_text(encoding="utf-8") == cards.shipped(place)
    assert len(told) == 6 and told["study-stage2.npz"]["command"] == "python 31_lit_tuning study"
    assert {entry["scale"] for entry in told.values()} == {"lesson", "study"}
    assert all(len(entry["commit"]) == 40 for entry in told.values())


def check(place, manifest):
    """The manifest tells the truth about every file."""
    files = {file.name for file in place.iterdir()} - {"manifest.json", cards.CARD}
    assert files == manifest.keys()
    for name, entry in manifest.items():
        data = (place / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest(), name
        assert entry["bytes"] == len(data) < 1_500_000, name
        assert entry["scale"] == name.partition("-")[0]
        stage, _, seed = name.partition("-")[2].partition(".")[0].partition("-s")
        assert (entry["stage"], entry["seed"]) == (stage, int(seed or 0))


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("runs/20_stage1/world-study-none-s0", "holds no finished run: type .* 20_stage1 scale=st"),
        (
            "runs/31_lit_tuning/world-study-none-s0/metrics.json",
            "finished run: type .* 31_lit_tuning",
        ),
        ("runs/31_lit_tuning/world-study-none-s0/weights.npz", "no weights at .*31_lit_tuning"),
        ("data/shards/world-study/tokenizer.model", "type .* 10_prepare_corpus scale=study$"),
    ],
)
def test_a_missing_run_is_one_sentence_and_nothing_is_written(finish, place, out, gone, message):
    for scale in ("lesson", "study"):
        finish(scale)
    shutil.rmtree(out / gone) if (out / gone).is_dir() else (out / gone).unlink()
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        shipped.main(["ship", "study", "1"])
    assert not place.exists()


def test_a_pair_that_does_not_fit_and_a_large_file_are_one_sentence(finish, place, monkeypatch):
    finish("lesson", pieces=9)
    with pytest.raises(
        CheckpointError, match="lesson knows 9 pieces of text and .*model has [0-9]"
    ):
        shipped.ship("lesson", 1)
    finish("study")
    monkeypatch.setattr(shipped, "MOST", 1000)
    with pytest.raises(CheckpointError, match="^study-stage1.npz would have .* MB, and a shipped"):
        shipped.ship("study", 1)
    monkeypatch.setattr(shipped.paths, "ROOT", place.parents[2])  # not a repository
    monkeypatch.setattr(shipped, "MOST", 1_500_000)
    with pytest.raises(CheckpointError, match="^git does not know the commit of "):
        shipped.ship("study", 1)
    assert not place.exists()


def test_a_voice_is_copied_whole_or_not_at_all(out, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "VOICE", out / "reports" / "voice")
    with pytest.raises(SystemExit, match=r"^error: .* type .* 42_captioning_qa scale=study$"):
        shipped.main(["voice", "study"])
    run = paths.RUNS / "42_captioning_qa" / paths.tag("world", "study")
    (run / "voice").mkdir(parents=True)
    (run / "metrics.json").write_text('{"command": "python 42"}')
    contents = {name: b"all of " + name.encode() for name in caption.FILES.values()}
    for name, data in contents.items():
        (run / "voice" / name).write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(shipped, "MOST", 15)
        with pytest.raises(CheckpointError, match="^encoder.npz would have .* MB, and a shipped"):
            shipped.voice("study")
    assert not shipped.VOICE.exists()
    shipped.main(["voice", "study"])
    assert capsys.readouterr().out.count("\n") == 5
    told = json.loads((shipped.VOICE / "manifest.json").read_text())
    assert told["command"] == "python 42" and len(told["commit"]) == 40
    for name, data in contents.items():
        assert (shipped.VOICE / name).read_bytes() == data
        assert told["files"][name] == {
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
        }


def test_shipped_weights_go_where_their_runs_left_them(finish, place, out, capsys):
    for seed in (0, 1):
        finish("lesson", seed=seed)
    shipped.main(["ship", "lesson", "2"])
    names = {"20_stage1": "stage1", "31_lit_tuning": "stage2"}
    wanted = {
        f"{name}/world-lesson-none-s{seed}": f"lesson-{stage}{'-s1' if seed else ''}.npz"
        for name, stage in names.items()
        for seed in (0, 1)
    }
    check(place, json.loads((place / "manifest.json").read_text()))
    for folder, file in wanted.items():  # the frozen file of a seed is its run's, byte by byte
        own = (out / "runs" / folder / "weights.npz").read_bytes()
        assert ((place / file).read_bytes() == own) == folder.startswith("31"), folder
    with pytest.raises(SystemExit, match="^error: .*20_stage1.*weights.npz is there already: move"):
        shipped.main(["take", "lesson"])
    shutil.rmtree(out / "runs")
    for _ in range(2):  # the second time they are there, and the same
        shipped.main(["take", "lesson"])
    for folder, file in wanted.items():
        own = (out / "runs" / folder / "weights.npz").read_bytes()
        assert own == (place / file).read_bytes(), folder
    with pytest.raises(
        SystemExit, match="^error: no weights of study are shipped: type make study"
    ):
        shipped.main(["take", "study"])
    for words in ([], ["lesson"], ["ship", "lesson", "0"], ["ship", "lesson"]):
        with pytest.raises(SystemExit, match="^usage: "):
            shipped.main(words)


# --- whose weights -------------------------------------------------------------------------------


def test_given_weights_come_first_then_own_then_shipped_ones(finish, place, out):
    finish("lesson"), finish("study")
    shipped.ship("lesson", 1), shipped.ship("study", 1)
    shutil.rmtree(out / "runs"), shutil.rmtree(out / "data")

    def look(words: str = ""):
        cfg = config.load("44_public_weights", words)
        chosen = shipped.stage1(cfg)
        return chosen.weights, chosen.whose, shipped.vocabulary(cfg, chosen.weights)

    file, words = place / "study-stage1.npz", place / "study-vocabulary.model"
    for choices in ("scale=study", "scale=study seed=1", "scale=smoke"):
        whose = "shipped stage 1 (reports/weights/study-stage1.npz)"
        assert look(choices) == (file, whose, words)
    for choices in ("", "seed=1", "data=folder data.root=x"):
        assert look(choices)[0] == place / "lesson-stage1.npz"
    given = look("weights=reports/weights/lesson-stage1.npz tag=a")
    assert given[0] == place / "lesson-stage1.npz" and given[2] == place / "lesson-vocabulary.model"
    assert look("data.tokenizer=my.model tag=b")[2] == paths.ROOT / "my.model"
    finish("lesson")
    own = out / "runs/20_stage1/world-lesson-none-s0/weights.npz"
    assert look() == (
        own,
        "own stage 1 (runs/20_stage1/world-lesson-none-s0)",
        out / "data/shards/world-lesson/tokenizer.model",
    )
    assert look("weights=google/videoprism-lvt-base-f16r288 tag=c")[0].startswith("google/")
    assert look("seed=1")[0] == place / "lesson-stage1.npz"  # of another seed
    # A lesson's own runs lie elsewhere; what it builds on does not.
    assert shipped.stage1(config.load("01_tokens")).weights == own


def test_results_are_never_made_with_shipped_weights():
    """A notebook that may look at them is no stage, or its stage depends on one's own."""
    stages = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
    looking = {
        file.stem
        for file in paths.NOTEBOOKS.glob("*.ipynb")
        if "shipped.stage1(" in file.read_text()
    }
    lessons = {"00_tour", "01_tokens", "03_masking_and_shuffling"}
    assert looking == lessons | {"44_public_weights", "45_own_classifier"}
    for name in looking & stages.keys():
        assert "runs/20_stage1/world-${item.scale}-none-s0/weights.npz" in stages[name]["deps"]
    assert not any("reports/weights" in str(stage) for stage in stages.values())


def test_the_tour_shows_shipped_weights_and_says_so(finish, place, out, execute, capsys):
    finish("lesson")
    shipped.ship("lesson", 1)
    shutil.rmtree(out / "runs"), shutil.rmtree(out / "data")
    execute("00_tour", *SMALL.split())
    shown = capsys.readouterr().out
    assert shown.count("weights: shipped stage 1 (reports/weights/lesson-stage1.npz)\n") == 1
    assert "Its own sentence ranks" in shown


@pytest.mark.parametrize("name", ["00_tour", "44_public_weights"])
def test_random_weights_are_not_looked_at(place, execute, capsys, monkeypatch, name):
    monkeypatch.setattr("vplib.figures.similarity_bars", lambda *_: pytest.fail("bars"))
    with pytest.raises(SystemExit, match="no trained weights.*make reproduce.*weights="):
        execute(name, *SMALL.split())
    shown = capsys.readouterr().out
    assert "rank" not in shown and ("patches" in shown) == (name == "00_tour")


def test_shipped_weights_find_when_a_text_is_shown_in_a_long_video(out, execute, capsys):
    """Six scenes of two seconds; the fourth and the tenth of their source are very unlike others."""
    view = dict(seed=1, resolution=56, frames=16, fps=8.0, unlike=True)
    source = corpora.WorldSource("retrieval/test", 12, **view)
    scenes = [source[i] for i in (0, 9, 2, 4, 3, 6)]
    shown = [video.decode(scene.video, name="scene").frames for scene in scenes]
    (out / "long.mp4").write_bytes(video.encode(np.concatenate(shown), 8.0))
    asked = json.dumps([scenes[1].text, scenes[4].text])
    execute("44_public_weights", f"clip={out / 'long.mp4'}", f"texts={asked}", "stride=2.0")
    said = capsys.readouterr().out
    for number in (1, 4):
        span = f"0:{2 * number:02d} to 0:{2 * number + 2:02d} ("
        assert f"{scenes[number].text!r}: {span}" in said
    (table,) = out.rglob("44_public_weights-moments_*.csv")
    rows = pd.read_csv(table)
    assert len(rows) == 12 and rows.groupby("text")["moment"].min().tolist() == [1, 1]
    best = rows[rows["moment"] == 1].set_index("text")["start"].to_dict()
    assert best == {scenes[1].text: 2, scenes[4].text: 8}
    assert table.with_suffix(".png").name in {file.name for file in out.rglob("*.png")}


def test_weights_of_another_size_say_which_model_to_choose(finish, place, out, execute):
    finish("lesson")
    shipped.ship("lesson", 1)
    shutil.rmtree(out / "runs"), shutil.rmtree(out / "data")
    with pytest.raises(CheckpointError, match=r"^shipped stage 1 \(.*\) is of another .*; choose "):
        execute("00_tour")


# --- the committed files -------------------------------------------------------------------------


def test_the_manifest_tells_the_truth_about_the_committed_files():
    check(REAL, COMMITTED)


class Clips:
    """Clips of the world as the shards hold them, without shards."""

    def __init__(self, source: corpora.WorldSource):
        self.clips = [source[i] for i in range(len(source))]

    def __len__(self) -> int:
        return len(self.clips)

    def original(self, index: int) -> tuple[bytes, dict]:
        return self.clips[index].video, {"file_name": str(index)}


def committed(name: str, scale: str) -> dict[str, dict]:
    """What the committed run of seed 0 measured, by name."""
    file = paths.ROOT / "runs" / name / paths.tag("world", scale) / "metrics.json"
    return json.loads(file.read_text(encoding="utf-8"))["rows"]


def test_shipped_weights_give_the_committed_retrieval_within_its_interval(out):
    """Of stage 2: the whole measurement, from pixels on, of every shipped scale."""
    scales = sorted({entry["scale"] for entry in COMMITTED.values()})
    clips = {}
    for scale in scales:
        cfg = config.load("41_retrieval_zero_shot", f"scale={scale}")
        data = cfg.data
        look = dict(resolution=data.resolution, frames=data.clip_frames, fps=data.fps)
        source = corpora.WorldSource(
            data.retrieval.replace("-", "/"), data.candidates, seed=data.seed, unlike=True, **look
        )
        clips.setdefault(source, Clips(source))
        tokenizer = text.Tokenizer(REAL / f"{scale}-vocabulary.model", cfg.model.text_length)
        model = features.video_text(REAL / f"{scale}-stage2.npz", tokenizer)
        videos = features.features(
            {"stage2": features.embeddings_of(model)},
            clips[source],
            name="retrieval",
            out=out,
            resolution=data.resolution,
            batch=64,
            max_skipped_fraction=0,
            **classify.view(model.vision_encoder),
        ).values["stage2"]
        words = features.embed_texts(model, tokenizer, [c.text for c in clips[source].clips])
        rows = committed("41_retrieval_zero_shot", scale)
        for way, task in {"t2v": "text_to_video", "v2t": "video_to_text"}.items():
            answers = tasks.answer(tasks.TASKS[task], [words], videos, np.arange(len(words)))
            row = rows[f"retrieval_{way}_r1"]
            assert row["low"] <= answers.scores("r1").mean() <= row["high"], (scale, way)


def test_the_shipped_second_stage_reads_motion_that_the_first_does_not(out):
    """Of stage 2, at `lesson`. The committed number takes many labels and minutes; with few, the
    difference is smaller, but there.
    """
    train, test = 2000, 500
    cfg = config.load("40_classification_localization", "scale=lesson")
    encoders = {
        stage: features.encoder_of(checkpoints.load(REAL / f"lesson-{stage}.npz"))
        for stage in shipped.STAGES
    }
    view = classify.view(encoders["stage1"])
    taken = (2 * np.arange(view["frames"]) + 1) * cfg.data.clip_frames // (2 * view["frames"])
    margin = (cfg.data.resolution - view["size"]) // 2
    window = slice(margin, margin + view["size"])
    labels, tokens = [], {stage: [] for stage in encoders}
    encode = jax.jit(lambda encoder, clips: encoder(pixels(clips)).astype("float16"))
    for part, count in (("train", train), ("test", test)):
        scenes = [corpora.scene(f"motion/{part}", i, seed=cfg.data.seed) for i in range(count)]
        labels += [scene.objects[scene.target].motion for scene in scenes]
        look = dict(
            resolution=cfg.data.resolution, frames=cfg.data.clip_frames, only=taken.tolist()
        )
        for start in range(0, count, 100):
            frames = [corpora.render(s, **look) for s in scenes[start : start + 100]]
            clips = np.stack(frames)[:, :, window, window]
            for stage, encoder in encoders.items():
                tokens[stage].append(np.asarray(encode(encoder, clips)))
    classes, targets = np.unique(labels, return_inverse=True)
    recipe = {k: v for k, v in cfg.probe.items() if k not in ("seeds", "shots", "steps")}
    recipe["epochs"] = 20  # a third of them: the difference is there already
    right = {}
    for stage, parts in tokens.items():
        x = np.concatenate(parts)
        probe = heads.train_probe(
            x[:train], targets[:train], classes=len(classes), seed=0, **recipe
        )
        right[stage] = (heads.predict(probe, x[train:]).argmax(1) == targets[train:]).mean()
    assert right["stage2"] > right["stage1"] + 0.05, right
