"""Language models that continue a prefix of embeddings: causal transformers, with a cache.

A prefix may hold vectors that are no token's, such as a video's (`resampler`). Positions count kept
tokens, so padding, wherever it stands, changes nothing of the others. The dtype of the embeddings
is that of all computing; logits are float32.

Axes beside those of vplib: P tokens of a prefix, M places of a cache, W pieces of the vocabulary.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vplib.model import checkpoints
from vplib.model.attention import affine, attend, lecun, product
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import Embedding
from vplib.model.layers import Block, LayerNorm, one_hot_rows

LONGEST = 512  # tokens of a sequence of ours: with rotary positions any number would do
THETA = 1000.0  # of rotary positions in ours
SMALL = 4096  # rows of a table: of a bigger one, a gather is cheaper


@dataclass(frozen=True)
class LanguageSizes:
    """Of a `Decoder`."""

    width: int
    layers: int
    heads: int
    mlp: int
    vocabulary: int  # pieces of the tokeniser
    context: int | None  # tokens of the longest sequence, with what is generated; None: ours


class Cache(NamedTuple):
    """Keys and values of the tokens so far: a token is computed once."""

    keys: Float[Array, "layers B K M H"]
    values: Float[Array, "layers B K M H"]
    keep: Bool[Array, "B M"]
    used: Int[Array, ""]  # places taken, the same in every row
    latest: Float[Array, "B 2 D"]  # the last two kept embeddings, zeros where there are none


@runtime_checkable
class CausalLM(Protocol):
    """What captioning and question answering ask of a language model."""

    width: int
    vocabulary: int
    context: int

    def embed(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Vectors of tokens, as `hidden` takes them."""

    def hidden(
        self, embeddings: Float[Array, "B L D"], keep: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """What is known at each token of it and those before it."""

    def head(self, x: Float[Array, "*A D"]) -> Float[Array, "*A W"]:
        """Logits of the next token."""

    def __call__(
        self, embeddings: Float[Array, "B L D"], keep: Bool[Array, "B L"]
    ) -> Float[Array, "B L W"]:
        """Logits, at each token, of the next one."""

    def start(
        self, embeddings: Float[Array, "B P D"], keep: Bool[Array, "B P"], length: int
    ) -> tuple[Float[Array, "B W"], Cache]:
        """Logits after the last kept token of each row, and a cache of `length` places."""

    def step(
        self, cache: Cache, embedding: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B W"], Cache]:
        """Logits after one more token, kept in every row."""


class Causal(nnx.Module):
    """What decoders share: the mask, the positions and the cache.

    One has `x_layers`, equal blocks stacked on axis 0, each with `heads(x, positions)` to scaled
    queries, keys and values (B K N H) and `rest(x, attended)` to the block's output; `final_ln`;
    `token_emb`, whose table is the output's too; and may `enter` otherwise what comes in.
    """

    @property
    def width(self) -> int:
        return self.token_emb.emb_var.shape[1]

    @property
    def vocabulary(self) -> int:
        return self.token_emb.emb_var.shape[0]

    def embed(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Vectors of tokens, without positions. Raises ValueError as `check_ids` does."""
        check_ids(ids, self.vocabulary)
        return _rows(self.token_emb.emb_var[...], ids)

    def enter(
        self,
        x: Float[Array, "B N D"],
        positions: Int[Array, "B N"],
        before: Float[Array, "B N 2 D"],
    ) -> Float[Array, "B N D"]:
        """What the first block gets; `before` are the two kept tokens before each."""
        return x

    def head(self, x: Float[Array, "*A D"]) -> Float[Array, "*A W"]:
        """Logits of the next token, in float32: x against the vectors of all tokens."""
        return product(x, self.token_emb.emb_var[...].astype(x.dtype).T)

    def hidden(
        self, embeddings: Float[Array, "B L D"], keep: Bool[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        """Output of the last block, normalised, as `head` takes it; at padding it means nothing.

        Raises ValueError for a sequence longer than the context.
        """
        return self._whole(embeddings, keep)[0]

    def __call__(
        self, embeddings: Float[Array, "B L D"], keep: Bool[Array, "B L"]
    ) -> Float[Array, "B L W"]:
        """Logits, at each kept token, of the next one; raises ValueError as `hidden` does."""
        return self.head(self.hidden(embeddings, keep))

    def start(
        self, embeddings: Float[Array, "B P D"], keep: Bool[Array, "B P"], length: int
    ) -> tuple[Float[Array, "B W"], Cache]:
        """Logits after the last kept token of each row, of which each needs one, and a cache of
        `length` places, of which those of the prefix are taken.

        Raises ValueError for a length that the prefix exceeds, or that exceeds the context.
        """
        count = embeddings.shape[1]
        _fits(length, self.context)
        if count > length:
            raise ValueError(
                f"a prefix of {count} tokens does not fit into a cache of {length} places: ask for "
                "the prefix and what is to follow it"
            )
        x, kept = self._whole(embeddings, keep)
        last = jnp.where(keep, jnp.arange(count), 0).max(1)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        latest = _earlier(embeddings, keep, keep.sum(1, keepdims=True, dtype=jnp.int32))[:, 0]
        more = (0, length - count)
        keys, values = (jnp.pad(z, ((0, 0), (0, 0), (0, 0), more, (0, 0))) for z in kept)
        kept = jnp.pad(keep, ((0, 0), more))
        return self.head(x), Cache(keys, values, kept, jnp.int32(count), latest)

    def step(
        self, cache: Cache, embedding: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B W"], Cache]:
        """Logits after one more token, kept in every row. Whoever calls counts: in a full cache the
        last place would be overwritten."""
        keep = cache.keep | (jnp.arange(cache.keep.shape[1]) == cache.used)
        positions, x = cache.keep.sum(1, dtype=jnp.int32)[:, None], embedding[:, None]
        latest = jnp.concatenate([x, cache.latest[:, :1]], axis=1)
        x, (keys, values) = self._blocks(
            self.enter(x, positions, cache.latest[:, None]),
            positions,
            keep[:, None, None],
            (cache.keys, cache.values),
            cache.used,
        )
        return self.head(x[:, 0]), Cache(keys, values, keep, cache.used + 1, latest)

    def _whole(self, embeddings, keep):
        """A sequence from its first token on."""
        count = embeddings.shape[1]
        _fits(count, self.context)
        # A token sees itself even if it is padding: with no key at all, it would see all alike.
        itself = jnp.eye(count, dtype=bool)
        mask = jnp.tril(jnp.ones((count, count), bool)) & (keep[:, None, None] | itself)
        positions = jnp.maximum(jnp.cumsum(keep, 1) - 1, 0)
        x = self.enter(embeddings, positions, _earlier(embeddings, keep, positions))
        return self._blocks(x, positions, mask)

    def _blocks(self, x, positions, mask, past=None, place=None):
        """What the last block gives for what enters the first, normalised, and every layer's keys
        and values: those of x, or with `past` ones these, x's written at `place`."""

        def step(x, inputs):
            block, past = inputs
            q, k, v = block.heads(x, positions)
            if past is not None:
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=-2)
                    for old, new in zip(past, (k, v), strict=True)
                )
            return block.rest(x, _attend(q, k, v, mask)), (k, v)

        x, kept = jax.lax.scan(step, x, (self.x_layers, past), unroll=True)
        return self.final_ln(x), kept


def _attend(q, k, v, mask):
    """Attention in which several heads may share keys and values: their queries, one head's after
    the other's, are so many more queries of one head."""
    shared = q.shape[1] // k.shape[1]
    queries = q.reshape(*k.shape[:2], shared * q.shape[2], q.shape[3])
    return attend(queries, k, v, mask=jnp.tile(mask, (1, 1, shared, 1))).reshape(q.shape)


def _earlier(
    x: Float[Array, "B N D"], keep: Bool[Array, "B N"], positions: Int[Array, "B M"]
) -> Float[Array, "B M 2 D"]:
    """The kept tokens at the two positions before each of `positions`, the later first; zeros where
    there are none. Products pick them, as the gradient of a gather is a serial scatter."""
    own = jnp.where(keep, jnp.cumsum(keep, 1) - 1, -1)[:, None]
    picks = [(own == positions[..., None] - back) & (own >= 0) for back in (1, 2)]
    return jnp.stack([product(pick.astype(x.dtype), x).astype(x.dtype) for pick in picks], axis=2)


def _rows(table: Float[Array, "N D"], index: Int[Array, "*A"]) -> Float[Array, "*A D"]:
    return one_hot_rows(table, index) if len(table) <= SMALL else table[index]


def _fits(length: int, context: int) -> None:
    if length > context:
        raise ValueError(
            f"a sequence of {length} tokens, with what is to follow, is longer than the language "
            f"model's context of {context}: shorten the prompt, or take fewer tokens of the video"
        )


def check_ids(ids: Int[Array | np.ndarray, "*A"], vocabulary: int) -> None:
    """Raises ValueError for an id outside [0, vocabulary). Inside a compiled function nothing is
    known of ids, and wrong ones would pass as some other token or as none."""
    if isinstance(ids, jax.core.Tracer):
        return
    ids = np.asarray(ids)
    wrong = ids[(ids < 0) | (ids >= vocabulary)]
    if wrong.size:
        raise ValueError(
            f"token {wrong[0]} is none of the {vocabulary} that the language model knows: encode "
            "texts with the tokeniser that it was trained with"
        )


def gelu_tanh(x: Array) -> Array:
    """GPT-2's approximation of GELU, in float32."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


class Norm(LayerNorm):
    """LayerNorm with 1e-5 beside the variance, as GPT-2's: with 1e-6, that of an input smaller by
    the root of ten."""

    def __call__(self, x: Float[Array, "*A D"]) -> Float[Array, "*A D"]:
        return super().__call__(x.astype(jnp.float32) * 0.1**0.5).astype(x.dtype)


def rotate(
    x: Float[Array, "B K N H"], positions: Int[Array, "B N"], theta: float
) -> Float[Array, "B K N H"]:
    """Rotary positions: dimensions i and i + H/2 turn by position / theta^(2i/H) radians.

    Source: RoFormer (arXiv:2104.09864), in the halved layout of Gemma.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None] * theta ** (-jnp.arange(half) / half)  # B 1 N H/2
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


class CausalBlock(Block):
    """A block in two halves, between which a cache fits; with `theta`, of rotary positions."""

    def __init__(
        self, width: int, heads: int, hidden: int, *, theta: float | None = None, rngs: nnx.Rngs
    ):
        super().__init__(width, heads, hidden, activation=gelu_tanh, cap=None, rngs=rngs)
        self.layer_norm, self.ff_layer.layer_norm = Norm(width), Norm(width)
        self.theta = theta

    def heads(
        self, x: Float[Array, "B N D"], positions: Int[Array, "B N"]
    ) -> tuple[Float[Array, "B K N H"], Float[Array, "B K N H"], Float[Array, "B K N H"]]:
        """Queries, scaled, keys and values; without `theta` positions are in x."""
        y, attention = self.layer_norm(x), self.self_attention
        width, heads, size = attention.query.w.shape

        def project(part):
            z = affine(y, part.w[...].reshape(width, -1), part.b[...].reshape(-1))
            return jnp.swapaxes(z.reshape(*x.shape[:-1], heads, size), -2, -3)

        q, k, v = map(project, (attention.query, attention.key, attention.value))
        if self.theta:
            q, k = (rotate(z, positions, self.theta) for z in (q, k))
        return q * jnp.asarray(size**-0.5, q.dtype), k, v

    def rest(
        self, x: Float[Array, "B N D"], attended: Float[Array, "B K N H"]
    ) -> Float[Array, "B N D"]:
        """The block's output for input x, with what its attention found."""
        post, y = self.self_attention.post, jnp.swapaxes(attended, -2, -3)
        y = affine(
            y.reshape(*x.shape[:-1], -1), post.w[...].reshape(len(post.w), -1).T, post.b[...]
        )
        return self.ff_layer(x + y)


class Decoder(Causal):
    """GPT-2's network, which `public_lm` also loads: pre-LN blocks, learned positions, and one
    table of tokens for input and output. Without a context it is one of ours instead: positions
    are rotary, and a linear map of the two tokens before is added to each that enters. In 6,000
    steps models as small as ours did not learn without it which of two colours belongs to which of
    two shapes (LOG.md).

    Source: GPT-2 (Radford et al. 2019) and openai/gpt-2, src/model.py; Canon layers
    (arXiv:2512.17351) for those that enter with their neighbours. First values are those of our
    other models, but for the blocks' last layers: divided by the root of their number. Raises
    ValueError for heads of another than an even width.
    """

    def __init__(self, sizes: LanguageSizes, *, rngs: nnx.Rngs):
        width, layers = sizes.width, sizes.layers
        if width % sizes.heads:
            raise ValueError(
                f"a width of {width} does not divide into {sizes.heads} heads: choose a divisor"
            )
        theta = None if sizes.context else THETA
        if theta and width // sizes.heads % 2:
            raise ValueError(
                f"heads of {width // sizes.heads} dimensions cannot turn in pairs: choose an even number"
            )
        self.token_emb = Embedding(sizes.vocabulary, width, fan_in=width, rngs=rngs)
        if sizes.context:
            self.pos_emb = Embedding(sizes.context, width, fan_in=width, rngs=rngs)
        else:
            self.earlier = nnx.Param(lecun(rngs.params(), (2, width, width), width))
        keys = jax.random.split(rngs.params(), layers)
        self.x_layers = jax.vmap(
            lambda key: CausalBlock(width, sizes.heads, sizes.mlp, theta=theta, rngs=nnx.Rngs(key))
        )(keys)
        for last in (
            self.x_layers.self_attention.post.w,
            self.x_layers.ff_layer.ffn_layer2.linear.kernel,
        ):
            last[...] *= (2 * layers) ** -0.5
        self.final_ln = Norm(width)

    @property
    def context(self) -> int:
        return self.pos_emb.emb_var.shape[0] if hasattr(self, "pos_emb") else LONGEST

    def enter(
        self,
        x: Float[Array, "B N D"],
        positions: Int[Array, "B N"],
        before: Float[Array, "B N 2 D"],
    ) -> Float[Array, "B N D"]:
        if hasattr(self, "pos_emb"):
            return x + _rows(self.pos_emb.emb_var[...], positions).astype(x.dtype)
        w = self.earlier[...].reshape(-1, self.width).astype(x.dtype)
        return x + product(before.reshape(*x.shape[:-1], -1), w).astype(x.dtype)


# --- what is asked of a language model -----------------------------------------------------------


@partial(jax.jit, static_argnames=("steps", "stop"))
def generate(
    lm: CausalLM,
    prefix: Float[Array, "B P D"],
    keep: Bool[Array, "B P"],
    *,
    steps: int = 32,
    stop: int,
) -> Int[Array, "B steps"]:
    """The most probable token after each prefix, then the next, until `stop` or for `steps`; what
    follows a `stop` is `stop`. Each row needs one kept token.

    Raises ValueError if prefix and steps exceed the context. Source: VideoPrism (arXiv:2402.13217)
    section 4.3 and appendix G: greedy, at most 32 steps.
    """
    rows, length = prefix.shape[0], prefix.shape[1] + steps
    logits, cache = lm.start(prefix, keep, length)

    def unfinished(state):
        step, _, _, _, done = state
        return (step < steps) & ~done.all()

    def another(state):
        step, ids, logits, cache, done = state
        token = jnp.where(done, stop, logits.argmax(-1)).astype(jnp.int32)
        logits, cache = lm.step(cache, lm.embed(token[:, None])[:, 0].astype(prefix.dtype))
        return step + 1, ids.at[:, step].set(token), logits, cache, done | (token == stop)

    ids, done = jnp.full((rows, steps), stop, jnp.int32), jnp.zeros(rows, bool)
    return jax.lax.while_loop(unfinished, another, (0, ids, logits, cache, done))[1]


def log_probabilities(
    lm: CausalLM,
    prefix: Float[Array, "B P D"],
    keep: Bool[Array, "B P"],
    ids: Int[Array, "B L"],
    ids_keep: Bool[Array, "B L"],
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """log p, in nats, of each token after the prefix and the tokens before it, and which have one:
    kept ones with anything before them. Elsewhere it is 0.

    Raises ValueError if both together exceed the context, and for ids as `check_ids` does.
    """
    start, kept = prefix.shape[1], jnp.concatenate([keep, ids_keep], axis=1)
    x = jnp.concatenate([prefix, lm.embed(ids).astype(prefix.dtype)], axis=1)
    x = lm.hidden(x, kept)
    newest = jax.lax.cummax(jnp.where(kept, jnp.arange(kept.shape[1]), -1), axis=1)
    before = jnp.pad(newest[:, :-1], ((0, 0), (1, 0)), constant_values=-1)[:, start:]
    # Only these tokens need logits, and of the vocabulary they may be many. A product picks them,
    # as the gradient of a gather is a serial scatter.
    picks = jax.nn.one_hot(before, x.shape[1], dtype=x.dtype)
    logits = lm.head(product(picks, x).astype(x.dtype))  # B L W
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
    known = ids_keep & (before >= 0)
    return jnp.where(known, chosen, 0), known


def log_likelihood(
    lm: CausalLM,
    prefix: Float[Array, "B P D"],
    keep: Bool[Array, "B P"],
    ids: Int[Array, "B L"],
    ids_keep: Bool[Array, "B L"],
) -> Float[Array, " B"]:
    """log p(ids | prefix) in nats, of the kept tokens; raises ValueError as `log_probabilities`."""
    return log_probabilities(lm, prefix, keep, ids, ids_keep)[0].sum(1)


def next_log_probabilities(
    lm: CausalLM, prefix: Float[Array, "B P D"], keep: Bool[Array, "B P"]
) -> Float[Array, "B W"]:
    """log p, in nats, of every token as the one after each prefix: what ranks answers of one token.

    Source: VideoPrism, appendix G (closed vocabulary).
    """
    return jax.nn.log_softmax(lm.start(prefix, keep, prefix.shape[1])[0])


# --- files ---------------------------------------------------------------------------------------


def infer(weights: dict[str, np.ndarray], *, name: str = "the weights") -> LanguageSizes:
    """The sizes of the decoder that the arrays are of. Raises CheckpointError when an array that
    says a size is missing, empty or of other axes."""

    def shape(key: str, axes: int) -> tuple[int, ...]:
        value = weights.get(f"params/{key}")
        if value is None or value.ndim != axes or 0 in value.shape:
            found = "none" if value is None else f"one of shape {value.shape}"
            raise CheckpointError(
                f"{name} holds no language model of ours: it should have an array params/{key} of "
                f"{axes} axes and has {found}; give the weights.npz of one"
            )
        return value.shape

    vocabulary, width = shape("token_emb/emb_var", 2)
    layers, _, heads, _ = shape("x_layers/self_attention/query/w", 4)
    return LanguageSizes(
        width=width,
        layers=layers,
        heads=heads,
        mlp=shape("x_layers/ff_layer/ffn_layer1/linear/kernel", 3)[2],
        vocabulary=vocabulary,
        context=shape("pos_emb/emb_var", 2)[0] if "params/pos_emb/emb_var" in weights else None,
    )


def shapes(sizes: LanguageSizes) -> Decoder:
    """A decoder of these sizes whose parameters are mere shapes."""
    return nnx.eval_shape(lambda: Decoder(sizes, rngs=nnx.Rngs(0)))


def load(path: str | Path) -> Decoder:
    """The decoder of a weights file (`checkpoints.save`), of the sizes that its arrays show.

    Raises CheckpointError for a file that cannot be read, of another model, or whose arrays do not
    fit each other.
    """
    weights = checkpoints.read(path)
    model = shapes(infer(weights, name=str(path)))
    checkpoints.assign(model, weights, name=str(path))
    return model
