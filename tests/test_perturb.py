"""Damage does what it says, the same to a clip wherever it stands, and its cost is counted."""

import numpy as np
import pytest

from vplib.evaluate import heads, perturb, tasks
from vplib.evaluate.perturb import SEVERITIES, damaged

VIDEOS = np.random.default_rng(0).integers(0, 256, (3, 8, 20, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", SEVERITIES)
def test_damage_depends_on_kind_and_clip_alone(kind):
    before = VIDEOS.copy()
    for severity in (1, 2, 3):
        found = damaged(VIDEOS, kind, severity, clips=np.array([4, 9, 4]))
        assert found.shape == VIDEOS.shape and found.dtype == np.uint8 and (VIDEOS == before).all()
        assert (damaged(VIDEOS[1:], kind, severity, clips=np.array([9, 4])) == found[1:]).all()
        assert (found != VIDEOS).any((1, 2, 3, 4)).all()
    same = damaged(VIDEOS[[0, 0]], kind, 2, clips=np.array([4, 9]))
    assert (same[0] == same[1]).all() == (kind == "blur")


@pytest.mark.parametrize("kind", SEVERITIES)
def test_stronger_damage_is_more_of_the_same(kind):
    smooth = np.broadcast_to(np.arange(0, 200, 10, dtype=np.uint8)[:, None], (1, 8, 20, 20))
    video = smooth[..., None].repeat(3, -1) + np.arange(8, dtype=np.uint8)[:, None, None, None]
    far = [
        np.abs(damaged(video, kind, severity, clips=np.array([1])).astype(int) - video)
        for severity in (1, 2, 3)
    ]
    assert far[0].mean() < far[1].mean() < far[2].mean()
    if kind in ("frame_drop", "occlusion"):  # where a weak one damages, a strong one does
        assert all(not (far[k] > 0)[far[k + 1] == 0].any() for k in (0, 1))


def test_a_dropped_frame_shows_the_one_before():
    for severity, share in enumerate(SEVERITIES["frame_drop"], 1):
        found = damaged(VIDEOS, "frame_drop", severity, clips=np.arange(3))
        for video, seen in zip(VIDEOS, found, strict=True):
            shown = [next(k for k in range(8) if (video[k] == frame).all()) for frame in seen]
            assert shown[0] == 0 and shown == sorted(shown)
            kept = [t for t, k in enumerate(shown) if t == k]
            assert 8 - len(kept) == round(share * 7)
            assert shown == [max(k for k in kept if k <= t) for t in range(8)]


def test_noise_has_its_strength_and_no_bias():
    grey = np.full((1, 8, 40, 40, 3), 128, np.uint8)
    for severity, strength in enumerate(SEVERITIES["noise"][:2], 1):
        noise = damaged(grey, "noise", severity, clips=np.array([0])).astype(float) - 128
        assert abs(noise.std() - strength) < 0.03 * strength and abs(noise.mean()) < 0.5
        assert abs(np.corrcoef(noise[0, 0].ravel(), noise[0, 1].ravel())[0, 1]) < 0.05


def test_blur_keeps_what_is_even_and_spreads_a_point_as_a_gaussian():
    even = np.full((1, 2, 30, 50, 3), 77, np.uint8)
    assert (damaged(even, "blur", 3, clips=np.array([0])) == 77).all()
    point = np.zeros((1, 1, 101, 101, 3), np.uint8)
    point[:, :, 45:56, 45:56] = 255
    seen = damaged(point, "blur", 2, clips=np.array([0]))[0, 0, ..., 0].astype(float)
    assert (seen == seen.T).all() and abs(seen.sum() / (255 * 121) - 1) < 0.05
    at = np.arange(101) - 50
    spread = (seen.sum(0) * at**2).sum() / seen.sum()
    assert abs(spread - (10 + (0.04 * 101) ** 2)) < 1.5  # of the square, and of the Gaussian


def test_a_grey_square_hides_the_same_place_all_the_time():
    for severity, side in enumerate(SEVERITIES["occlusion"], 1):
        found = damaged(VIDEOS, "occlusion", severity, clips=np.arange(3))
        hidden = (found == perturb.GREY).all(-1)
        assert (hidden == hidden[:, :1]).all()
        assert (found[~hidden] == VIDEOS[~hidden]).all()
        assert (hidden[:, 0].sum((1, 2)) == round(20 * side) ** 2).all()


@pytest.mark.parametrize(("kind", "severity"), [("fog", 1), ("blur", 0), ("blur", 4)])
def test_unknown_damage_is_one_sentence(kind, severity):
    with pytest.raises(
        ValueError, match=f"^there is no damage '{kind}' of severity {severity}: choo"
    ):
        damaged(VIDEOS, kind, severity, clips=np.arange(3))


def answers(right: np.ndarray) -> tasks.Answers:
    """Of one head and four classes, right where it says so."""
    targets = np.arange(right.size) % 4
    outputs = np.eye(4)[(targets + ~right) % 4]
    return tasks.Answers(tasks.TASKS["classification"], outputs[None], targets, "abcd")


def test_the_relative_loss_is_the_share_of_what_was_right():
    index = np.arange(200)
    whole, hurt = answers(index % 5 > 0), answers(index % 5 > 2)  # 80% and 40%
    lost = perturb.relative_loss(whole, hurt)
    (row,) = tasks.rows("blur", lost)
    assert row["name"] == "blur_relative_loss" and row["value"] == pytest.approx(0.5)
    assert 0.4 < row["low"] < 0.5 < row["high"] < 0.6
    assert tasks.row("x", perturb.relative_loss(whole, whole))["value"] == 0
    assert tasks.row("x", perturb.relative_loss(answers(index < 0), hurt))["value"] == 0
    assert lost.task.predict is heads.predict
