"""Our weights in mteb, the public benchmark of embeddings, whose own entry for VideoPrism asks for
folders of transformers on the hub.

    pip install -e '.[peers]'
    python benchmarks/mteb_videoprism.py reports/weights/study-stage2.npz
    python benchmarks/mteb_videoprism.py google/videoprism-lvt-base-f16r288 MSRVTTT2V MSRVTTV2T

Without names of tasks, it is retrieval on the test clips of the embedded world at `--scale`, as an
mteb task in memory: nothing is downloaded, and recall at 1 stands beside the record's. Run so by us
with mteb 2.26 on the shipped files. Not yet run: tasks by name, whose videos mteb fetches from the
hub, and Google's weights.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import mteb
import numpy as np
from datasets import Dataset, Video, disable_progress_bars
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction

from vplib import config, files, results
from vplib.data import pipeline, text
from vplib.evaluate import classify, features
from vplib.model import checkpoints
from vplib.model.encoders import VideoText
from vplib.world import corpora

WAYS = {"t2v": ("text", "video"), "v2t": ("video", "text")}  # what asks, what is found
ROWS = [f"retrieval_{way}_{stage}r1" for way in WAYS for stage in ("stage1_", "")]  # of the record


class Encoder(AbsEncoder):
    """Weights as an mteb model: unit vectors of videos and, of a video-text model, of texts.

    A video encoder gives the mean of its tokens, as mteb's own entry does; mteb refuses it texts. `resolution` is as in
    `pipeline.read_clip`. Raises CheckpointError and ValueError for weights and vocabularies that
    cannot be used.
    """

    def __init__(
        self, weights: str, tokenizer: text.Tokenizer | None, resolution: int | None = None
    ):
        self.tokenizer, self.resolution = tokenizer, resolution
        if tokenizer:
            self.whole = features.video_text(weights, tokenizer)
            self.embed = features.embeddings_of(self.whole)
        else:
            self.whole = checkpoints.load(weights)
            tokens = features.tokens_of(features.encoder_of(self.whole))
            self.embed = lambda video: np.asarray(tokens(video), np.float32).mean(1)
        self.encoder = features.encoder_of(self.whole)
        name = Path(weights).stem if weights.endswith(".npz") else weights.rpartition("/")[2]
        self.mteb_model_meta = _meta(name, checkpoints.flatten(self.whole), bool(tokenizer))

    def encode(self, inputs, **_) -> np.ndarray:
        """A row for every one of mteb's inputs; of videos with texts the sum of both vectors."""
        known, found = inputs.dataset, []
        if "text" in known.features:
            found.append(features.embed_texts(self.whole, self.tokenizer, list(known["text"])))
        if "video" in known.features:
            # As bytes: our decoder, our moments.
            found.append(self._videos(known.cast_column("video", Video(decode=False))))
        return np.sum(found, axis=0)

    def _videos(self, known: Dataset, batch: int = 16) -> np.ndarray:
        look = dict(classify.view(self.encoder), resolution=self.resolution)
        rows = []
        for start in range(0, len(known), batch):
            clips = [
                pipeline.read_clip(
                    one["bytes"] or Path(one["path"]), name=one["path"] or f"video {i}", **look
                )
                for i, one in enumerate(known[start : start + batch]["video"], start)
            ]
            filled = np.stack(clips + [clips[-1]] * (batch - len(clips)))  # one program for all
            rows.append(np.asarray(self.embed(filled))[: len(clips)])
        return np.concatenate(rows)


def _meta(name: str, weights: dict[str, np.ndarray], reads: bool) -> ModelMeta:
    return ModelMeta(
        loader=None,
        name=f"vplib/{name}",
        revision=checkpoints.digest(weights)[:12],
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=sum(value.size for value in weights.values()),
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=None,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["JAX"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["video", "text"] if reads else ["video"],
    )


def world(way: str, clips: list, scale: str) -> AbsTaskRetrieval:
    """Retrieval among clips of the embedded world, each with its own text, as a task of mteb."""
    name = f"EmbeddedWorld{way.upper()}"
    facts = TaskMetadata(
        name=name,
        description=f"Clips of a procedural world and their texts, scale={scale}",
        dataset={"path": "in memory", "revision": "none"},
        type="Any2AnyRetrieval",
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
        category=way,
        modalities=list(WAYS[way]),
        license="apache-2.0",
    )
    task = type(name, (AbsTaskRetrieval,), {"metadata": facts})()
    columns = {
        "text": Dataset.from_dict({"text": [clip.text for clip in clips]}),
        "video": Dataset.from_dict(
            {"video": [{"bytes": clip.video, "path": None} for clip in clips]}
        ).cast_column("video", Video()),
    }
    numbers = [str(i) for i in range(len(clips))]
    queries, corpus = (columns[kind].add_column("id", numbers) for kind in WAYS[way])
    right = {number: {number: 1} for number in numbers}
    task.dataset = {
        "default": {
            "test": dict(queries=queries, corpus=corpus, relevant_docs=right, top_ranked=None)
        }
    }
    task.data_loaded = True
    return task


def held_out(data) -> list:
    """The clips that `41_retrieval_zero_shot` takes with this configuration of `data`."""
    source = corpora.WorldSource(
        data.retrieval.replace("-", "/"),
        data.candidates,
        seed=data.seed,
        unlike=True,
        resolution=data.resolution,
        frames=data.clip_frames,
        fps=data.fps,
    )
    return [source[i] for i in range(len(source))]


def scores(model: Encoder, tasks: list) -> dict[str, dict[str, float]]:
    """What mteb says of each task, by name: its main score and recall at 1 where it has one."""
    disable_progress_bars()
    told = mteb.evaluate(model, tasks, cache=None, show_progress_bar=False)
    found = {}
    for result in told.task_results:
        shown = next(iter(result.scores.values()))[0]
        kept = {key: shown[key] for key in ("main_score", "recall_at_1") if key in shown}
        found[result.task_name] = kept
    return found


def vocabulary(weights: str, given: str | None, length: int) -> text.Tokenizer:
    """The vocabulary that is given, or that of a shipped file, for texts of `length` pieces; else
    the released one.
    """
    if not given and weights.endswith(".npz"):
        file = Path(weights)
        given = str(file.with_name(f"{file.stem.partition('-')[0]}-vocabulary.model"))
    return text.Tokenizer(Path(given), length) if given else text.released_tokenizer()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="as for vplib.export")
    parser.add_argument("tasks", metavar="TASK", nargs="*", help="such as MSRVTTT2V")
    parser.add_argument(
        "--vocabulary", help="a SentencePiece model, where none lies beside WEIGHTS"
    )
    parser.add_argument("--scale", default="study", help="of the embedded world's clips")
    given = parser.parse_args()
    try:
        cfg = config.check("41_retrieval_zero_shot", f"scale={given.scale}")
        reads = isinstance(checkpoints.load(given.weights), VideoText)
        length = cfg.model.text_length
        tokenizer = vocabulary(given.weights, given.vocabulary, length) if reads else None
        resolution = None if given.tasks else cfg.data.resolution
        model = Encoder(given.weights, tokenizer, resolution)
        if given.tasks:
            tasks = list(mteb.get_tasks(tasks=given.tasks))
        else:
            clips = held_out(cfg.data)
            tasks = [world(way, clips, given.scale) for way in WAYS]
        for name, told in scores(model, tasks).items():
            print(name, *(f"{key} {value:.6f}" for key, value in told.items()))
    except (ValueError, OSError, KeyError) as error:  # of ours, of the network, of names of tasks
        sys.exit(f"error: {files.printable(error)}")
    for row in [] if given.tasks else results.read("seeds"):
        if (row["scale"], row["seed"]) == (given.scale, "0") and row["name"] in ROWS:
            print(f"{row['name']} of the record: {row['value']} [{row['low']}, {row['high']}]")


if __name__ == "__main__":
    main()
