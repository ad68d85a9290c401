"""Learning rates, optimisers and what they decay."""

import jax
import optax
from jaxtyping import PyTree


def schedule(
    kind: str,
    *,
    learning_rate: float,
    steps: int,
    warmup: int,
    final_learning_rate: float = 0.0,
) -> optax.Schedule:
    """Learning rate of the global batch by step: linear warm-up, then `linear` or `cosine` decay.

    Source: VideoPrism section 3.1 (stage 1 linear; stage 2 cosine from 5e-4 to 1e-5).
    """
    rise = optax.linear_schedule(0.0, learning_rate, warmup)
    share = final_learning_rate / learning_rate
    fall = {
        "linear": optax.linear_schedule(learning_rate, final_learning_rate, steps - warmup),
        "cosine": optax.cosine_decay_schedule(learning_rate, steps - warmup, alpha=share),
    }[kind]
    return optax.join_schedules([rise, fall], [warmup])


def optimiser(
    name: str,
    rate: optax.Schedule,
    *,
    weight_decay: float,
    clip: float,
    b1: float = 0.9,
    b2: float | None = 0.999,
) -> optax.GradientTransformation:
    """Adafactor (the paper's) or AdamW, with global-norm clipping and weight decay on matrices
    only, decoupled but scheduled.

    Adafactor's factoring and clipping are unpublished; ours are big_vision's: second moments
    factored where both axes have 32 rows, decay 1 - t^-0.8, updates clipped to RMS 1, momentum b1.
    So `b2`, the decay of AdamW's second moments, is nothing to Adafactor. b1 = 0.9 is CoCa's (our
    choice). Raises ValueError for another name.
    """
    moments = {
        "adafactor": lambda: optax.chain(
            optax.scale_by_factored_rms(decay_rate=0.8, min_dim_size_to_factor=32),
            optax.clip_by_block_rms(1.0),
            optax.ema(b1, debias=False),
        ),
        "adamw": lambda: optax.scale_by_adam(b1, b2),
    }
    if name not in moments:
        raise ValueError(f"optim.optimiser={name} is not known: choose adafactor or adamw")
    return optax.chain(
        optax.clip_by_global_norm(clip),
        moments[name](),
        optax.add_decayed_weights(weight_decay, mask=_matrices),
        optax.scale_by_learning_rate(rate),
    )


def _matrices(params):
    """True at projection matrices: not at biases, norms, tables, tokens or the temperature."""

    def named(path, _):
        return any(getattr(part, "key", None) in ("kernel", "w") for part in path)

    return jax.tree_util.tree_map_with_path(named, params)


def scaled(factors: PyTree) -> optax.GradientTransformation:
    """A last step of an optimiser, which multiplies every update by a factor of its parameter."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda update, by: update * by, updates, factors)
    )
