"""Clips whose caption does not fit are dropped by a table, decided once."""

import json

import numpy as np
import pytest
import toy
from test_shards import write

from vplib.data import decisions, shards, text, video
from vplib.evaluate import classify, similarity
from vplib.model import checkpoints

CAPTIONS = [f"clip {word}" for word in ("one", "two", "three", "four", "five", "six")]


class Videos:
    """Six clips of noise, the last without a caption."""

    name, fingerprint = "noise", "1"

    def __len__(self):
        return len(CAPTIONS)

    def __getitem__(self, index):
        frames = np.random.default_rng(index).integers(0, 256, (4, 16, 16, 3), np.uint8)
        said = CAPTIONS[index] if index < 5 else ""
        return shards.Clip(
            video.encode(frames, 8.0), said, {"fps": 8.0, "frames": 4, "duration": 0.5}
        )


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """A model, its vocabulary and a file of its weights."""
    place = tmp_path_factory.mktemp("model")
    text.train(CAPTIONS, place / "words.model", size=40)
    tokenizer = text.Tokenizer(place / "words.model", 8)
    model = toy.video_text(1, vocabulary=tokenizer.size)
    checkpoints.save(model, place / "weights.npz")
    return model, tokenizer, place


def scores(model, tokenizer, corpus):
    """Cosines of clips and captions, all at once."""
    from vplib.data import pipeline
    from vplib.evaluate import features

    view = classify.view(model.vision_encoder)
    clips = [corpus[row] for row in range(len(corpus))]
    seen = np.stack([pipeline.read_clip(clip.video, name="clip", **view) for clip in clips])
    videos = np.asarray(features.embeddings_of(model)(seen))
    return (videos * features.embed_texts(model, tokenizer, [clip.text for clip in clips])).sum(1)


def test_captions_below_the_threshold_are_dropped_and_decided_once(
    known, tmp_path, monkeypatch, capsys
):
    model, tokenizer, place = known
    write(Videos(), tmp_path / "noise", shard_size=4)
    each = scores(model, tokenizer, shards.Shards(tmp_path / "noise"))[:5]
    least = float(np.sort(each)[1:3].mean())  # two are below
    words = [str(tmp_path / "noise"), "--weights", str(place / "weights.npz"), "--length", "8"]
    words += ["--vocabulary", str(place / "words.model"), "--least", str(least)]
    monkeypatch.setattr("sys.argv", ["similarity", *words])
    similarity.main()
    assert "2 of 6 clips dropped by similarity; the tables of 2 shards" in capsys.readouterr().out
    kept = shards.Shards(tmp_path / "noise")
    assert sorted(kept.dropped) == sorted(np.argsort(each)[:2].tolist())
    assert kept[len(kept) - 1].text == ""  # nothing is known of it
    tables = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/*.similarity.json"))]
    said = {
        4 * n + one["record"]: one["similarity"]
        for n, of in enumerate(tables)
        for one in of["dropped"]
    }
    assert all(said[row] == pytest.approx(each[row], abs=1e-3) for row in said)
    similarity.main()
    assert "the tables of 0 shards are new" in capsys.readouterr().out


def test_another_threshold_or_model_is_another_step(known):
    model, tokenizer, _ = known
    one = similarity.Similarity(model, tokenizer, least=0.1)
    assert isinstance(one, decisions.Step)
    other = toy.video_text(2, vocabulary=tokenizer.size)
    identities = {
        one.identity,
        similarity.Similarity(model, tokenizer, least=0.2).identity,
        similarity.Similarity(other, tokenizer, least=0.1).identity,
    }
    assert len(identities) == 3


def test_weights_of_another_vocabulary_are_one_sentence(known, tmp_path, monkeypatch):
    _, _, place = known
    text.train(["a b c d e f g h i j"], tmp_path / "other.model", size=20)
    words = ["x", "--weights", str(place / "weights.npz"), "--least", "0"]
    monkeypatch.setattr(
        "sys.argv", ["similarity", *words, "--vocabulary", str(tmp_path / "other.model")]
    )
    with pytest.raises(SystemExit, match="^error: .*pieces"):
        similarity.main()
