"""Features of corpora, read in one pass for any number of encoders; embeddings of texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from vplib.data import pipeline, shards, sources, text, video
from vplib.evaluate import features
from vplib.model import checkpoints, frozen
from vplib.model.encoders import pixels

VIEW = dict(frames=3, size=12, resolution=16)


class Counted:
    """A corpus of videos in memory that counts how often each is opened; None is a file that is no
    video.
    """

    def __init__(self, videos: list):
        self.videos, self.opened = videos, [0] * len(videos)

    def __len__(self) -> int:
        return len(self.videos)

    def original(self, index: int) -> tuple[bytes, dict]:
        self.opened[index] += 1
        return self.videos[index] or b"no video", {"file_name": f"{index}.mp4"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> shards.Shards:
    folder = tmp_path_factory.mktemp("corpus")
    return shards.Shards(toy.write(toy.Marked("mine", 3), folder))


def run(encoders, source, out, **changes) -> features.Features:
    settings = VIEW | dict(name="mine", out=out, batch=3, max_skipped_fraction=0.25) | changes
    return features.features(encoders, source, **settings)


def test_every_clip_is_read_once_in_order_in_batches_of_one_size_for_all_encoders(corpus, tmp_path):
    source, sizes = Counted([clip.video for clip in (corpus[i] for i in range(8))]), []

    def colours(videos):
        sizes.append(videos.shape)
        return videos.astype(float).mean((1, 2, 3))

    whole, last = lambda videos: videos, lambda videos: videos[:, -1]
    found = run({"colours": colours, "whole": whole, "last": last}, source, tmp_path)
    assert sizes == [(3, 3, 12, 12, 3)] * 3 and source.opened == [1] * 8
    assert toy.marks(found.values["whole"]) == [(3, clip) for clip in range(8)]
    expected = pipeline.read_clip(source.videos[2], name="2.mp4", **VIEW)  # cut, not scaled down
    assert (found.values["whole"][2] == expected).all()
    np.testing.assert_allclose(found.values["colours"], found.values["whole"].mean((1, 2, 3)))
    assert (found.values["last"] == found.values["whole"][:, -1]).all()
    assert found.rows.tolist() == [*range(8)] and not found.skipped and not [*tmp_path.iterdir()]


def test_features_of_a_clip_do_not_depend_on_its_batch(corpus, tmp_path):
    encode = {"tokens": features.tokens_of(toy.encoder())}
    few, many = (run(encode, corpus, tmp_path, batch=n).values["tokens"] for n in (3, 8))
    assert few.shape == (8, 27, 16) and few.dtype == np.float16
    np.testing.assert_allclose(few, many, atol=2e-3)


def test_clips_that_cannot_be_read_are_left_out_counted_and_named(corpus, tmp_path):
    clips = [corpus[i].video for i in range(4)]
    source = Counted([None, *clips[:3], None, clips[3], None])
    found = run({"whole": lambda v: v}, source, tmp_path, max_skipped_fraction=0.5)
    assert toy.marks(found.values["whole"]) == [(3, clip) for clip in range(4)]
    assert found.rows.tolist() == [1, 2, 3, 5]
    assert [entry["file"] for entry in found.skipped] == ["0.mp4", "4.mp4", "6.mp4"]
    assert "4.mp4" in (tmp_path / "skipped-mine.csv").read_text()
    run({"whole": lambda v: v}, Counted(clips), tmp_path)
    assert not (tmp_path / "skipped-mine.csv").exists()  # it would tell of another start


@pytest.mark.parametrize(("broken", "allowed"), [(1, 0.1), (5, 1.0)])
def test_too_many_broken_videos_are_one_sentence(corpus, tmp_path, broken, allowed):
    source = Counted([None] * broken + [corpus[0].video] * (5 - broken))
    message = (
        rf"^{broken} of 5 videos cannot be used .* \(first: 0\.mp4 is .*skipped-mine\.csv, or give "
    )
    with pytest.raises(sources.SourceError, match=message):
        run({"whole": lambda v: v}, source, tmp_path, max_skipped_fraction=allowed)


def test_features_that_are_not_finite_are_refused(corpus, tmp_path):
    with pytest.raises(
        checkpoints.CheckpointError, match="^stage1 makes numbers of mine that are not"
    ):
        run({"stage1": lambda videos: np.where(videos > 90, 1, np.nan)}, corpus, tmp_path)


def test_corpora_are_cut_from_their_resolution_and_own_videos_are_seen_whole():
    frames = np.zeros((6, 8, 16, 3), np.uint8)
    frames[..., 4:12, 0] = 255  # the central square, of 8 pixels
    file = video.encode(frames, 6)
    seen = pipeline.read_clip(file, name="a", frames=3, size=12)
    assert seen.shape == (3, 12, 12, 3)
    assert seen[:, 3:9, 3:9, 0].min() > 180 > 60 > seen[..., 2].max()
    assert pipeline.read_clip(file, name="a", frames=3, size=4, resolution=6).shape == (3, 4, 4, 3)


def test_clips_of_frames_larger_than_allowed_are_left_out(corpus, tmp_path):
    clip, most = corpus[0].video, dict(max_skipped_fraction=0.5)
    frames = video.encode(np.zeros((6, 32, 64, 3), np.uint8), 6)
    found = run({"whole": lambda v: v}, Counted([clip, frames]), tmp_path, max_pixels=2000, **most)
    assert [entry["file"] for entry in found.skipped] == ["1.mp4"]
    assert "max_pixels=2000" in found.skipped[0]["reason"]


def test_what_is_known_of_clips_is_none_where_it_cannot_be_read(corpus):
    class Unreadable(Counted):
        def original(self, index):
            raise video.VideoError("0.mp4", "has an unreadable .json", "leave it out")

    assert features.metadata(Unreadable([None])) == [None]
    assert [meta["frames"] for meta in features.metadata(corpus)] == [6] * 8


def test_the_single_frame_baseline_sees_the_middle_frame_alone():
    videos, encoder = toy.batch(0, clips=2)["video"], toy.encoder()
    reversed_, outer = videos[:, ::-1], videos.copy()
    outer[:, [0, 2]] = 0
    still, whole = features.single_frame_tokens_of(encoder), features.tokens_of(encoder)
    assert (still(videos) == still(reversed_)).all() and (still(videos) == still(outer)).all()
    assert (whole(videos) != whole(reversed_)).any((1, 2)).all()
    assert (still(videos) != still(np.roll(videos, 1, axis=1))).any((1, 2)).all()


def test_late_fusion_sees_every_frame_as_an_image_of_its_own():
    videos, encoder = toy.batch(0, clips=2)["video"], toy.encoder()
    run = features.tokens_by_images_of(encoder)
    found = np.asarray(run(videos)).reshape(2, 3, 9, -1)
    assert (np.asarray(run(videos[:, ::-1])).reshape(found.shape) == found[:, ::-1]).all()
    image = jax.jit(lambda x: encoder(pixels(x), crop=True))  # as stage 1 sees it
    assert toy.close(found[:, 1].astype(np.float32), image(videos[:, 1:2]), 1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_laid_out_once_are_the_same_model(dtype):
    encoder, videos = toy.encoder(), toy.batch(0, clips=2)["video"]
    graph, weights = frozen.apart(encoder, dtype)
    whole = jax.jit(lambda video: encoder(pixels(video, dtype)).astype("float16"))(videos)
    assert (np.asarray(features.tokens_of(encoder, dtype)(videos)) == np.asarray(whole)).all()
    dtypes = {"matrix": set(), "other": set()}
    for path, value in jax.tree_util.tree_leaves_with_path(weights):
        names = [getattr(part, "key", None) for part in path]
        matrix = "x_layers" in names and names[-3] in ("w", "kernel")
        dtypes["matrix" if matrix else "other"].add(value.dtype)
    assert dtypes == {"matrix": {jnp.dtype(dtype)}, "other": {jnp.dtype("float32")}}
    for name, value in checkpoints.flatten(frozen.together(graph, weights)).items():
        assert (value == checkpoints.flatten(encoder)[name].astype(value.dtype)).all()


def test_one_program_serves_all_encoders_of_a_size(monkeypatch):
    videos, seen, traced = toy.batch(0, clips=2)["video"], [], []
    monkeypatch.setattr(features, "pixels", lambda *args: traced.append(1) or pixels(*args))
    features._tokens.clear_cache()
    features._embeddings.clear_cache()
    for seed in range(2):
        model = toy.video_text(seed)
        seen.append(np.asarray(features.tokens_of(model.vision_encoder)(videos)))
        features.single_frame_tokens_of(model.vision_encoder)(videos)
        features.embeddings_of(model)(videos)
    assert len(traced) == 2  # tokens once, embeddings once
    assert (seen[0] != seen[1]).any((1, 2)).all()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "pieces.model"
    text.train(toy.CAPTIONS, path, size=60)
    return text.Tokenizer(path, 12)


def test_text_embeddings_are_of_unit_length_whatever_the_batch(tokenizer):
    model = toy.video_text(vocabulary=tokenizer.size)
    embeddings = features.embed_texts(model, tokenizer, toy.CAPTIONS, batch=3)
    assert embeddings.shape == (8, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        features.embed_texts(model, tokenizer, toy.CAPTIONS[::-1], batch=3)[::-1],
        embeddings,
        atol=1e-5,
    )


def test_a_class_is_the_direction_of_the_mean_of_its_prompts(tokenizer):
    model = toy.video_text(vocabulary=tokenizer.size)
    single = features.embed_texts(model, tokenizer, toy.CAPTIONS[:3])
    classes = features.class_embeddings(model, tokenizer, [toy.CAPTIONS[:2], [toy.CAPTIONS[2]]])
    mean = single[:2].mean(0)
    np.testing.assert_allclose(classes, [mean / np.linalg.norm(mean), single[2]], atol=1e-5)


def test_the_video_part_of_whatever_was_loaded():
    encoder, model, classifier = toy.encoder(), toy.video_text(), toy.classifier()
    assert features.encoder_of(encoder) is encoder
    assert features.encoder_of(model) is model.vision_encoder
    assert features.encoder_of(classifier) is classifier.encoder


def test_models_without_texts_or_of_another_vocabulary_are_one_sentence(tokenizer, tmp_path):
    path = tmp_path / "weights.npz"
    checkpoints.save(toy.video_text(vocabulary=tokenizer.size), path)
    assert features.video_text(path, tokenizer).vision_encoder.grid == 3
    checkpoints.save(toy.video_text(vocabulary=7), path)
    with pytest.raises(
        checkpoints.CheckpointError, match="knows 7 pieces of text and the vocabulary"
    ):
        features.video_text(path, tokenizer)
    checkpoints.save(toy.encoder(), path)
    with pytest.raises(checkpoints.CheckpointError, match="has no text encoder: give weights="):
        features.video_text(path, tokenizer)
