"""Tables beside shards: what they drop is nowhere to be seen, and nothing is decided twice."""

import json
import pickle

import numpy as np
import pytest
import toy
from PIL import Image, ImageDraw, ImageFont
from test_shards import Toy, contents, write

from vplib import files
from vplib.data import decisions, pipeline, screens, shards, video
from vplib.data.video import VideoError
from vplib.train import loop
from vplib.world import corpora


class Odd:
    """Drops clips with odd numbers."""

    name = "odd"

    def __init__(self, identity="1"):
        self.identity, self.asked = identity, []

    def __call__(self, clip, name):
        self.asked.append(name)
        number = int(clip.text.split()[-1])
        if number == 8:
            raise VideoError(name, "cannot be decoded", "leave it out")
        return {"number": number} if number % 2 else None


def test_dropped_clips_are_gone_for_every_reader_until_the_tables_are(tmp_path):
    write(Toy(bad=(2,)), tmp_path)
    step, before = Odd(), shards.Shards(tmp_path)
    told = decisions.decide(step, tmp_path)
    assert told == {"clips": 24, "dropped": 12, "decided": 3} and len(step.asked) == 24
    read = pickle.loads(pickle.dumps(shards.Shards(tmp_path)))
    assert [read[i].text for i in range(len(read))] == [
        f"clip number {n}" for n in range(0, 25, 2) if n != 2
    ]
    with pytest.raises(IndexError, match="only 0 to 11"):
        read[12]
    assert read.fingerprint != before.fingerprint == before.manifest["fingerprint"]
    whole = shards.Shards(tmp_path, whole=True)
    assert len(whole) == 24 and whole.fingerprint == before.fingerprint
    for table in tmp_path.glob("*.odd.json"):
        table.unlink()
    assert len(shards.Shards(tmp_path)) == 24


def test_a_table_of_this_corpus_and_step_is_kept_and_no_other(tmp_path):
    write(Toy(), tmp_path)
    decisions.decide(Odd(), tmp_path)
    tables = sorted(tmp_path.glob("*.odd.json"))
    tables[1].unlink()  # as after a stop
    again = Odd()
    assert decisions.decide(again, tmp_path)["decided"] == 1
    assert again.asked == [f"{tmp_path.name}[{n}]" for n in range(10, 20)]
    assert decisions.decide(Odd("2"), tmp_path)["decided"] == 3
    write(Toy(fingerprint="two", bad=(0,)), tmp_path)  # another corpus in the same files
    assert len(shards.Shards(tmp_path)) == 24
    assert decisions.decide(Odd("2"), tmp_path)["decided"] == 3
    write(Toy(count=5), tmp_path)  # fewer shards
    assert not [*tmp_path.glob("*-of-00003*")]


def test_dropped_clips_make_another_training(tmp_path):
    local = toy.write(toy.Marked("marked", 1), tmp_path / "marked")
    look = dict(frames=3, size=12, resolution=16, batch=2, mixing="plain", seed=0)

    class First:
        name, identity = "first", "1"

        def __call__(self, clip, name):
            return {} if clip.text in toy.CAPTIONS[:4] else None

    def seen():
        batches = pipeline.stream({"one": local}, {"one": 1.0}, **look)
        return {number for _ in range(4) for _, number in toy.marks(next(batches)["video"])}

    before, known = seen(), loop.identity("a: 1\n", [local])
    source = repr(pipeline.ClipSource(local, resolution=16, tokenizer=None, memory=0))
    decisions.decide(First(), local)
    assert before == {*range(8)} and seen() == {4, 5, 6, 7}
    assert loop.identity("a: 1\n", [local]) != known
    assert repr(pipeline.ClipSource(local, resolution=16, tokenizer=None, memory=0)) != source


def test_what_cannot_be_is_one_sentence(tmp_path):
    write(Toy(), tmp_path)
    with files.locked(tmp_path, doing="writing shards"), pytest.raises(files.FileError):
        decisions.decide(Odd(), tmp_path)
    table = tmp_path / shards.table_of("toy-00000-of-00003.array_record", "odd")
    fingerprint = shards.Shards(tmp_path).fingerprint
    for damaged in ("{", "[]", json.dumps({"corpus": fingerprint})):
        table.write_text(damaged)
        with pytest.raises(shards.ShardError, match=r"odd.json: the table is damaged; .*\.$"):
            shards.Shards(tmp_path)
    table.unlink()

    class Everything(Odd):
        def __call__(self, clip, name):
            return {}

    decisions.decide(Everything(), tmp_path)
    with pytest.raises(shards.ShardError, match=r"drop every clip; .*\.$"):
        shards.Shards(tmp_path)


# --- screens -------------------------------------------------------------------------------------


def page(rng, height=144, width=256):
    """Lines of words, dark on bright or bright on dark."""
    ground, ink = (20, 230) if rng.random() < 0.5 else (240, 30)
    size, words = int(rng.integers(10, 20)), "the quick brown fox jumps over a lazy dog".split()
    picture = Image.new("L", (width, height), ground)
    for line in range(5):
        text = " ".join(rng.choice(words, int(rng.integers(3, 8))))
        font = ImageFont.load_default(size)
        ImageDraw.Draw(picture).text((8, 6 + line * size * 1.4), text, fill=ink, font=font)
    return np.repeat(np.asarray(picture)[..., None], 3, axis=2)


def said(frames):
    clip = shards.Clip(video.encode(frames, 8.0), "", {})
    found = screens.Screens()(clip, "clip")
    return found and found["why"]


def scene(index, frames=8, resolution=144):
    return corpora.render(corpora.scene("ac1", index), resolution=resolution, frames=frames)


@pytest.mark.parametrize("seed", range(6))
def test_pages_of_text_are_found_also_when_they_change(seed):
    rng = np.random.default_rng(seed)
    pages = np.stack([page(rng), page(rng)])
    assert said(np.repeat(pages, 4, axis=0)) == "text"


@pytest.mark.parametrize("index", range(4))
def test_a_clip_in_which_nothing_moves_is_found_under_noise(index):
    still = np.repeat(scene(index, frames=1), 8, axis=0).astype(int)
    noise = np.random.default_rng(index).integers(-2, 3, still.shape)
    assert said((still + noise).clip(0, 255).astype(np.uint8)) == "static"


@pytest.mark.parametrize("index", range(8))
def test_what_moves_is_kept(index):
    assert said(scene(index)) is None


def test_a_small_thing_that_moves_is_enough():
    frames = np.full((8, 128, 128, 3), 200, np.uint8)
    for number, frame in enumerate(frames):
        frame[60:66, 10 + 8 * number : 16 + 8 * number] = 30
    assert said(frames) is None
    assert said(np.repeat(frames[:1], 8, axis=0)) == "static"


def test_a_single_frame_is_judged_as_a_page_alone():
    assert said(scene(0, frames=1)) is None
    assert said(page(np.random.default_rng(0))[None]) == "text"
    assert not screens.is_page(page(np.random.default_rng(0))[:80, :, 0].astype(np.float32))


def test_the_command_writes_its_tables(tmp_path, monkeypatch, capsys):
    class Videos(Toy):
        def __getitem__(self, index):
            frames = scene(index) if index else np.repeat(scene(0, frames=1), 8, axis=0)
            return super().__getitem__(index)._replace(video=video.encode(frames, 8.0))

    write(Videos(count=3), tmp_path)
    monkeypatch.setattr("sys.argv", ["screens", str(tmp_path)])
    screens.main()
    assert "1 of 3 clips dropped by screens" in capsys.readouterr().out
    (table,) = tmp_path.glob("*.screens.json")
    (dropped,) = json.loads(table.read_text())["dropped"]
    assert dropped["record"] == 0 and dropped["why"] == "static"
    assert set(contents(tmp_path)) >= {"manifest.json", table.name}
