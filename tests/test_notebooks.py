"""Every notebook runs at scale=smoke, through the runner, each on what earlier ones left behind."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from vplib import config, paths, results, run


def order(name: str) -> tuple[int, str]:
    """Data, training, evaluation, then the lessons, which may use any of it, then the figures."""
    tens = int(name[0])
    reads = name in ("50_ablations", "51_scaling")  # what 52 writes
    return (5 if tens == 0 else tens, f"{name[0]}9_" if reads else name)


@pytest.mark.parametrize(
    "name", sorted((file.stem for file in paths.NOTEBOOKS.glob("*.ipynb")), key=order)
)
def test_notebook_runs(name):
    if name == "49_baselines":
        stand_in("20_stage1", "single_frame", "stage1_continued")
        stand_in("30_stage2", "videomae", "umt")
    if name == "50_ablations":
        scored("none-s1", "no_shuffle-s0", "no_shuffle-s1")
    if name == "51_scaling":
        scored("none-s1", "size_32-s0", "size_32-s1", "size_96-s0", "size_96-s1")
    if name == "53_mechanisms":
        stand_in("30_stage2", "no_shuffle", "no_global")
        shutil.rmtree(paths.OUT / "runs/.scratch/30_stage2/world-smoke-no_global-s0/state")
    run.run(name, ["scale=smoke"])


def scored(*runs: str) -> None:
    """Rows of further runs of 52, those of the one that ran, a little lower with each."""
    place = paths.OUT / "runs/.scratch/52_scores"
    told = json.loads((place / "world-smoke-none-s0/metrics.json").read_text())
    for number, one in enumerate(runs, 1):
        rows = {k: row | {"value": 0.9**number * row["value"]} for k, row in told["rows"].items()}
        content = told | {"seed": int(one[-1]), "rows": rows}
        folder = place / f"world-smoke-{one}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(content))


def asked() -> list[str]:
    """The commands that the lessons' exercises print."""
    found = []
    for path in sorted(paths.NOTEBOOKS.glob("0*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        page = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        exercises = page[page.index("## Exercises") : page.index("## References")]
        found += re.findall(r"`python -m vplib\.run ([^`]+)`", exercises)
    return found


@pytest.mark.parametrize("command", asked())
def test_what_an_exercise_asks_for_runs(command):
    """After the notebooks above, on what they left behind."""
    name, *overrides = shlex.split(command)
    run.run(name, [*overrides, "scale=smoke"])


def test_a_bridge_is_trained_to_the_language_model_of_a_voice():
    voice = paths.OUT / "runs/.scratch/42_captioning_qa/world-smoke-none-s0/voice"
    run.run("42_captioning_qa", ["scale=smoke", "tag=given", f"speaking.lm={voice}"])
    told = voice.parents[1] / "given"
    assert (told / "voice" / "lm.npz").read_bytes() == (voice / "lm.npz").read_bytes()
    assert "captioning_cider_stage2" in json.loads((told / "metrics.json").read_text())["rows"]


def test_exercises_ask_for_something():
    assert len(asked()) >= 5


def stand_in(name: str, *ablations: str) -> None:
    """Finished runs of ablations, with the weights of the one without: their trainings are those of
    test_ablations, in a fraction of the time."""
    for ablation in ablations:
        cfg = config.load(name, f"scale=smoke ablation={ablation}")
        own, out = results.run(cfg, name, ablation="none"), Path(cfg.out)
        shutil.copy(own / "weights.npz", out / "weights.npz")
        for folder in ("snapshots", "state"):
            if (own / folder).is_dir():
                shutil.copytree(own / folder, out / folder, dirs_exist_ok=True)
