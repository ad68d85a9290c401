"""Temporal localisation finds planted events, says what the field's code says, and refuses nonsense."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vplib import paths
from vplib.evaluate import gtad, proposals

GOLDEN = json.loads((paths.ROOT / "tests" / "golden" / "evaluation" / "gtad.json").read_text())
SIZES = dict(positions=32, width=32, groups=4, bins=8, hidden=32, map_width=16)
RECIPE = SIZES | dict(epochs=20, batch=16, learning_rate=4e-3, weight_decay=1e-4)


def named(section: str):
    """Every golden case of a section, under its name."""
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case["name"]) for case in GOLDEN[section]]
    )


def planted(videos: int, seed: int, strength: float = 3.0):
    """Noise windows, with one direction in those of one or two events; and the events."""
    rng = np.random.default_rng(seed)
    features, segments = [], []
    for _ in range(videos):
        windows = int(rng.integers(40, 70))
        x, found = rng.normal(size=(windows, 16)), []
        for half in range(rng.integers(1, 3)):
            start = 0.5 * half + rng.uniform(0.02, 0.2)
            end = start + rng.uniform(0.08, 0.25)
            centre = (np.arange(windows) + 0.5) / windows
            x[(centre >= start) & (centre < end)] += strength * np.eye(16)[3]
            found.append((start, end))
        features.append(x.astype(np.float16))
        segments.append(np.array(found))
    return features, segments


def soft_nms(segments, scores, *, sigma, keep):
    """The contract only: gaussian decay by overlap, best first."""
    segments, scores, taken = segments.copy(), scores.copy(), []
    while len(scores) > 1 and len(taken) < keep:
        best = scores.argmax()
        taken.append((segments[best], scores[best]))
        near = iou(segments, segments[best])
        scores = np.delete(scores * np.exp(-(near**2) / sigma), best)
        segments = np.delete(segments, best, 0)
    return np.array([s for s, _ in taken]).reshape(-1, 2), np.array([s for _, s in taken])


def iou(segments, one):
    shared = np.minimum(segments[:, 1], one[1]) - np.maximum(segments[:, 0], one[0])
    shared = np.maximum(shared, 0)
    return shared / (np.ptp(segments, axis=1) + one[1] - one[0] - shared)


def recall(proposed, segments, *, tiou, best):
    """Share of the events that one of a video's `best` proposals covers."""
    hits = []
    for (found, scores), truth in zip(proposed, segments, strict=True):
        found = found[np.argsort(-scores, kind="stable")[:best]]
        hits += [(iou(found, one) >= tiou).any() for one in truth]
    return np.mean(hits)


# --- the field's own numbers ---------------------------------------------------------------------


@named("targets")
def test_targets_are_those_of_the_official_code(case):
    found = proposals.targets(np.array(case["segments"], float), case["temporal_scale"])
    for own, name in zip(found, ("start", "end", "iou_map"), strict=True):
        np.testing.assert_allclose(own, case[name], atol=1e-6)


def truth_of(case) -> proposals.Targets:
    found = proposals.targets(np.array(case["segments"], float), case["temporal_scale"])
    return proposals.Targets(*map(jnp.asarray, found))


@named("losses")
def test_losses_are_those_of_the_official_code(case):
    truth = truth_of(case)
    cells = proposals.valid(case["temporal_scale"])
    assert (cells == np.array(case["mask"])).all()
    regression, classification = (jnp.array(part) for part in case["predicted_map"])
    edges = sum(
        gtad.balanced(jnp.array(case[f"predicted_{name}"]), edge > 0.5, edge <= 0.5)
        for name, edge in (("start", truth.start), ("end", truth.end))
    )
    iou = truth.iou * cells
    classes = gtad.balanced(classification, iou > 0.9, (iou <= 0.9) & cells)
    assert edges == pytest.approx(case["start_end_loss"], abs=1e-6)
    assert classes == pytest.approx(case["classification_loss"], abs=1e-6)
    if case["regression_loss"]:
        found = [gtad.regression_loss(regression, iou, iou > low) for low in (0, 0.7)]
        expected = case["regression_loss"].values()  # all candidates, only those of high overlap
        assert found == pytest.approx([*expected], abs=1e-6)


def test_the_whole_loss_is_the_sum_with_ten_times_the_regression_and_invalid_cells_do_not_count():
    case = GOLDEN["losses"][0]
    truth = truth_of(case)
    edges = [jnp.array(case[f"predicted_{name}"]) for name in ("start", "end")]
    maps = jnp.array(case["predicted_map"])
    key, cells = jax.random.key(0), proposals.valid(8)
    iou = truth.iou * cells
    found = gtad.loss(gtad.Scores(*edges, *maps), truth, key=key)
    again = gtad.loss(gtad.Scores(*edges, *jnp.where(cells, maps, 0.9)), truth, key=key)
    regression = float(gtad.regression_loss(maps[0], iou, gtad.drawn(iou, key=key)))
    rest = case["start_end_loss"] + case["classification_loss"]
    assert found == again == pytest.approx(rest + 10 * regression, abs=1e-5)


@named("candidates")
def test_proposals_are_those_of_the_official_code(case):
    start, end = (np.array(case[f"{name}_scores"]) for name in ("start", "end"))
    maps = [np.array(case[f"{name}_map"]) for name in ("regression", "classification")]
    starts, ends = proposals.boundaries(start, end)
    assert starts.tolist() == case["start_chosen"] and ends.tolist() == case["end_chosen"]
    segments, scores = proposals.proposals(start, end, *maps)
    order = np.lexsort((segments[:, 0], np.ptp(segments, axis=1).round(6)))  # by duration
    expected = [[*one["segment"], one["score"]] for one in case["proposals"]]
    found = np.column_stack([segments, scores])[order]
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_events_are_clipped_to_their_video():
    for over, within in (((-0.2, 0.5), (0, 0.5)), ((0.75, 1.3), (0.75, 1))):
        found, expected = (proposals.targets(np.array([one]), 8) for one in (over, within))
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


# --- what the source leaves undefined ------------------------------------------------------------


def test_a_batch_without_positives_has_a_loss_and_learns_from_its_negatives():
    probability = jnp.array([0.2, 0.4])
    none = jnp.zeros(2, bool)
    expected = -np.log([0.8, 0.6]).mean() / 2
    assert gtad.balanced(probability, none, ~none) == pytest.approx(expected, abs=1e-5)
    empty = proposals.targets(np.zeros((0, 2)), 8)
    assert not any(part.any() for part in empty)
    empty = proposals.Targets(*map(jnp.asarray, empty))
    half = gtad.Scores(*(jnp.full(part.shape, 0.5) for part in (*empty, empty.iou)))
    found = gtad.loss(half, empty, key=jax.random.key(0))
    assert found == pytest.approx(3 * np.log(2) / 2, abs=1e-4)


def test_as_many_of_a_band_are_drawn_as_overlap_highly_and_all_of_a_smaller_band():
    iou = jnp.repeat(jnp.array([0.8, 0.7, 0.3, 0.0]), jnp.array([300, 2000, 100, 5000]))
    draws = [np.asarray(gtad.drawn(iou, key=jax.random.key(seed))) for seed in range(20)]
    kept = [np.mean([draw[iou == value].sum() for draw in draws]) for value in jnp.unique(iou)]
    none, low, medium, high = kept
    assert (none, low, high) == (0, 100, 300) and medium == pytest.approx(300, rel=0.05)
    assert (draws[0] != draws[1]).any()
    assert (draws[0] == gtad.drawn(iou, key=jax.random.key(0))).all()


# --- positions and candidates --------------------------------------------------------------------


def test_resampling_is_linear_between_the_centres_of_windows():
    ramp = np.arange(8.0)[:, None]
    np.testing.assert_allclose(proposals.resample(ramp, 8), ramp)
    np.testing.assert_allclose(proposals.resample(ramp, 4)[:, 0], [0.5, 2.5, 4.5, 6.5])
    longer = proposals.resample(ramp, 16)[:, 0]
    np.testing.assert_allclose(longer, np.clip(np.arange(16) / 2 - 0.25, 0, 7))
    one = proposals.resample(np.full((1, 3), 7, np.float16), 5)
    assert one.shape == (5, 3) and (one == 7).all()


def aligned(row: np.ndarray, low: float, length: float, bins: int) -> list[float]:
    """The bins of one candidate, point by point."""
    found, points = [], int(np.ceil(length / bins))
    for k in range(bins):
        values = []
        for i in range(points):
            at = low + (k + (i + 0.5) / points) * length / bins
            inside = -1 <= at <= len(row)
            values.append(np.interp(at, np.arange(len(row)), row) if inside else 0.0)
        found.append(np.mean(values))
    return found


@pytest.mark.parametrize("bins", [4, 7])
def test_candidates_are_aligned_point_by_point(bins):
    row = np.random.default_rng(0).normal(size=9)
    weights = gtad.alignment(9, bins)
    for cell, (duration, start) in enumerate(np.argwhere(proposals.valid(9)) + [1, 0]):
        low = start - duration / 2  # half a duration before the first position
        expected = aligned(row, low, 2 * duration - 1, bins)
        np.testing.assert_allclose(weights[cell] @ row, expected, atol=1e-6)


def test_neighbours_are_the_most_similar_positions_and_each_is_its_own():
    x = jnp.array([0.0, 10.0, 1.0, 11.0, 2.0, 12.0])[None, :, None]
    found = np.sort(np.asarray(gtad.neighbours(x))[0, :, :, 0])
    assert found.tolist() == [[0, 1, 2], [10, 11, 12]] * 3


def test_a_convolution_in_groups_is_one_product_a_group_and_a_moment():
    layer = gtad.Convolution(6, 4, groups=2, kernel=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    expected = np.zeros((2, 5, 4))
    for t in range(5):
        for k, group in np.ndindex(3, 2):
            if 0 <= t + k - 1 < 5:
                own = x[:, t + k - 1, 3 * group : 3 * group + 3]
                expected[:, t, 2 * group : 2 * group + 2] += own @ layer.w[k, group]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


# --- the head ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    features, segments = planted(96, 0)
    return gtad.train(features, segments, seed=0, **RECIPE)


def test_planted_events_are_found_where_the_prior_only_guesses(trained):
    (_, seen), (features, segments) = planted(96, 0), planted(48, 1)
    scores = gtad.predict(trained, features)
    found = [proposals.proposals(*parts) for parts in zip(*scores, strict=True)]
    found = [soft_nms(*one, sigma=0.8, keep=100) for one in found]
    guesses = [soft_nms(*proposals.prior(seen, 32), sigma=0.8, keep=100)] * len(segments)
    own, prior = (recall(one, segments, tiou=0.7, best=3) for one in (found, guesses))
    assert own > 0.85 and prior < own - 0.3


def test_what_is_no_candidate_has_no_score_and_the_rest_are_probabilities(trained):
    scores = gtad.predict(trained, planted(4, 1)[0])
    assert all(0 <= part.min() and part.max() <= 1 for part in scores)
    maps = np.stack(scores[2:])
    assert not maps[..., ~proposals.valid(32)].any() and maps[..., proposals.valid(32)].all()


def test_the_first_layer_on_positions_is_the_one_on_aligned_candidates(trained):
    """Alignment first, as published, and 36 (here 12) bins times the width into one layer."""
    features = planted(4, 1)[0]
    inputs = np.stack([proposals.resample(one, 32) for one in features])
    relu = jax.nn.relu
    x = (inputs - trained.mean[...]) / trained.deviation[...]
    x = trained.map_graph(trained.trunk_graph(relu(trained.trunk(x))))
    near = gtad.neighbours(x).mean(2)
    inner, context = (gtad.alignment(32, bins) for bins in (8, gtad.CONTEXT))
    bins = jnp.concatenate(
        [jnp.einsum("ckt,btd->bckd", *of) for of in ((inner, x), (context, near))], 2
    )
    y = bins.reshape(4, len(inner), -1) @ trained.map_in[...].reshape(-1, 32)
    y = y + trained.map_in_bias[...]
    for layer in (trained.map_1, trained.map_2, trained.map_3, trained.map_out):
        y = layer(relu(y))
    found = np.stack(gtad.predict(trained, features)[2:], -1)[:, proposals.valid(32)]
    np.testing.assert_allclose(found, jax.nn.sigmoid(y), atol=1e-4)


def test_predictions_do_not_depend_on_the_batch(trained):
    features = planted(4, 1)[0]
    for one, other in zip(
        gtad.predict(trained, features), gtad.predict(trained, features, batch=2), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_same_seed_gives_the_same_bytes():
    data, recipe = planted(20, 0), RECIPE | dict(epochs=2)
    first, again, other = (
        gtad.predict(gtad.train(*data, seed=seed, **recipe), data[0]) for seed in (0, 0, 1)
    )
    assert all((one == same).all() for one, same in zip(first, again, strict=True))
    assert all((one != new).any() for one, new in zip(first, other, strict=True))


def test_it_does_not_matter_in_which_unit_a_feature_is_measured():
    (features, segments), recipe = planted(20, 0), RECIPE | dict(epochs=2)
    unit, shift = 2.0 ** np.random.default_rng(1).integers(0, 6, 16), 16 * np.arange(16)
    scaled = [one.astype(np.float32) * unit + shift for one in features]
    first, other = (
        gtad.predict(gtad.train(x, segments, seed=0, **recipe), x) for x in (features, scaled)
    )
    for one, same in zip(first, other, strict=True):
        assert np.abs(one - same).mean() < 0.003  # rounding may change who is a neighbour


# --- after the maps ------------------------------------------------------------------------------


def test_the_prior_scores_a_candidate_by_how_often_it_would_be_right():
    """Half of the videos have one event on the grid; its candidate is right in them at every
    tIoU.
    """
    segments = [np.array([[0.25, 0.75]])] * 2 + [np.array([[0.0, 0.125]]), np.zeros((0, 2))]
    found, scores = proposals.prior(segments, 8)
    best = scores.argmax()
    assert found[best].tolist() == [0.25, 0.75] and scores[best] == pytest.approx(0.5)
    wider = (found == [0.25, 0.875]).all(1)  # overlap 0.8: right at 7 of 10 thresholds
    assert scores[wider] == pytest.approx([0.35])
    assert (scores > 0).all() and found.max() <= 1


def test_a_proposal_is_emitted_with_the_two_best_classes_of_its_video():
    rows = proposals.classified(
        np.array([[0.1, 0.2], [0.3, 0.5]]),
        np.array([0.5, 0.4]),
        np.array([0.1, 0.6, 0.3]),
        ["run", "jump", "spin"],
    )
    assert [row[:3] for row in rows] == [
        (0.1, 0.2, "jump"),
        (0.1, 0.2, "spin"),
        (0.3, 0.5, "jump"),
        (0.3, 0.5, "spin"),
    ]
    assert [row[3] for row in rows] == pytest.approx([0.3, 0.15, 0.24, 0.12])


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        ((0.5, 0.2), "event 0 ends at 0.2 but begins at 0.5, in fractions of the video; correct"),
        ((0.5, 0.5), "event 0 ends at 0.5 but begins at 0.5, in fractions of the video; correct"),
        ((np.nan, 0.5), "event 0 ends at 0.5 but begins at nan, in fractions"),
        ((12.0, 30.0), r"event 0 \(12 to 30\) is outside of the video, which runs from 0 to 1;"),
        ((-0.5, -0.1), r"event 0 \(-0.5 to -0.1\) is outside of the video"),
    ],
)
def test_events_that_cannot_be_are_one_sentence_with_their_video(segment, message):
    features, segments = planted(3, 0)
    with pytest.raises(ValueError, match=f"^training video 2: {message}"):
        gtad.train(features, [*segments[:2], np.array([segment])], seed=0, **RECIPE)


def test_a_video_shorter_than_a_window_is_one_sentence(trained):
    features, segments = planted(3, 0)
    features[1] = features[1][:0]
    with pytest.raises(ValueError, match="^training video 1 is shorter than one window, so"):
        gtad.train(features, segments, seed=0, **RECIPE)
    with pytest.raises(ValueError, match="^video 1 is shorter than one window, so it has no"):
        gtad.predict(trained, features)


@pytest.mark.parametrize("wrong", [dict(width=30), dict(positions=2), dict(inputs=15)])
def test_sizes_that_do_not_go_together_are_one_sentence(wrong):
    sizes = SIZES | dict(inputs=16) | wrong
    unit = np.ones(sizes.pop("inputs"), np.float32)
    with pytest.raises(ValueError, match="^G-TAD with .* cannot be: the first two must be"):
        gtad.GTAD(0 * unit, unit, rngs=nnx.Rngs(0), **sizes)
