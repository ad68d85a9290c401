"""Public language models from a local folder, as the Hugging Face hub has them: GPT-2 and Gemma.

A folder holds config.json and model.safetensors, or several such files and their index. Nothing is
fetched and nothing of it is run. GPT-2 is our `Decoder`, so it can also be saved and laid out as
one; Gemma (the first) is a network of its own.
"""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from vplib.model import decoders
from vplib.model.attention import lecun, product
from vplib.model.checkpoints import CheckpointError, assign
from vplib.model.decoders import Causal, Decoder, LanguageSizes, gelu_tanh, rotate
from vplib.model.encoders import Embedding

FILE = "model.safetensors"
NUMBERS = {  # what safetensors calls them
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(bool),
}
# Masks and frequencies that older files hold, and the table of tokens again.
NO_PARAMETERS = r"(attn\.(masked_)?bias|rotary_emb\.inv_freq|^lm_head\.weight)$"


def load(folder: str | Path, *, dtype: str = "float32") -> "Decoder | Gemma":
    """The language model of a folder, its weights in `dtype`, which its embeddings then have.

    Raises CheckpointError for a folder that lacks a file, holds a damaged one, another kind of
    model, or a variant that these networks do not compute.
    """
    folder = Path(folder)
    told, named = _json(folder / "config.json"), read(folder)
    known = {"gpt2": _gpt2, "gemma": _gemma}
    kind = told.get("model_type")
    if kind not in known:
        raise CheckpointError(
            f"{folder} holds a model of type {kind}, and only {' and '.join(known)} are known: "
            "give another folder"
        )
    try:
        model, weights = known[kind](told, named, folder)
        _compare(model, weights, named)
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{folder} holds no {kind} in its released layout ({why}): fetch it again"
        ) from None
    assign(model, {f"params/{name}": value for name, value in weights.items()}, name=str(folder))
    return jax.tree.map(lambda x: x.astype(dtype), model)


def _compare(model: Causal, weights: dict, left: dict) -> None:
    """Raises ValueError for arrays of another shape than config.json says, and for any that were
    `left` although they are parameters."""
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        found = weights["/".join(map(str, path))].shape
        if found != value.shape:
            raise ValueError(
                f"{'/'.join(map(str, path))} is of shape {found} and should be of {value.shape}"
            )
    unknown = [name for name in left if not re.search(NO_PARAMETERS, name)]
    if unknown:
        raise ValueError(f"{unknown[0]} is unknown")


class PublicWords:
    """A folder's tokenizer.json as `data.spoken.Vocabulary`; the end is config.json's end of text.

    Raises ImportError without the package tokenizers, CheckpointError without a readable file, or
    if config.json names no end.
    """

    def __init__(self, folder: str | Path):
        self._pieces, end = _tokenizer(Path(folder)), _json(Path(folder) / "config.json")
        ends = np.ravel(end.get("eos_token_id", [])).tolist()  # a number, or several
        if not ends:
            raise CheckpointError(f"{folder}/config.json has no eos_token_id: fetch it again")
        self.end, self.size = int(ends[0]), self._pieces.get_vocab_size()  # tables may be padded

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, however many, without those that tell where it begins or ends."""
        found = self._pieces.encode_batch([*texts], add_special_tokens=False)
        return [one.ids for one in found]

    def words(self, ids: Int[np.ndarray, "B L"]) -> list[str]:
        """What rows of ids say, up to the first end."""
        rows = [row.tolist() for row in ids]
        rows = [row[: row.index(self.end)] if self.end in row else row for row in rows]
        return [" ".join(text.split()) for text in self._pieces.decode_batch(rows)]

    def unknown_words(self, text: str) -> list[str]:
        """None: its pieces spell every word."""
        return []


def _tokenizer(folder: Path):
    path = folder / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError(
            "public tokenisers need the package: pip install tokenizers, which '.[torch]' has too"
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # of no narrower type
        raise CheckpointError(f"no tokeniser in {path} ({error}): fetch it again") from None


# --- files ---------------------------------------------------------------------------------------


def read(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a folder by its public name, mapped from the files, not read yet.

    Raises CheckpointError for files that are missing or damaged.
    """
    index = folder / f"{FILE}.index.json"
    files = {FILE}
    if index.is_file():
        files = {Path(file).name for file in _json(index).get("weight_map", {}).values()}
    return {name: value for file in sorted(files) for name, value in _tensors(folder / file)}


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): give the folder of a public language model, with "
            f"config.json and {FILE}"
        ) from None
    return content if isinstance(content, dict) else {}


def _tensors(path: Path) -> list[tuple[str, np.ndarray]]:
    """Names and arrays of one file: 8 bytes with the header's length, the header as JSON, which
    says type, shape and place of each, and their bytes."""
    try:
        data = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:start].tobytes())
        header.pop("__metadata__", None)
        return [(name, _tensor(data[start:], **entry)) for name, entry in header.items()]
    except Exception as error:  # whatever JSON and NumPy make of damaged bytes
        why = str(error) or type(error).__name__
        raise CheckpointError(
            f"{path} is no readable safetensors file ({why}): it may be cut short, or a pointer of "
            "Git LFS; fetch it again"
        ) from None


def _tensor(data: np.ndarray, *, dtype: str, shape: list, data_offsets: list) -> np.ndarray:
    if dtype not in NUMBERS:
        raise ValueError(f"numbers of type {dtype} are none of {', '.join(NUMBERS)}")
    return data[slice(*data_offsets)].view(NUMBERS[dtype]).reshape(shape)


def _expect(told: dict, folder: Path, **wanted: tuple) -> None:
    """Raises CheckpointError where config.json asks for what is not computed here. What is missing
    there has the first of the values wanted."""
    for key, values in wanted.items():
        if told.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{folder / 'config.json'} has {key}={told[key]}, and only "
                f"{' or '.join(map(str, values))} is computed here: give another model"
            )


# --- GPT-2 ---------------------------------------------------------------------------------------


def _gpt2(told: dict, named: dict, folder: Path) -> tuple[Decoder, dict[str, np.ndarray]]:
    """Its shape and its weights under our names. Its matrices have inputs first, as ours; one holds
    queries, keys and values; and its norms' scales are not offsets from one.

    Source: transformers, models/gpt2/modeling_gpt2.py.
    """
    _expect(
        told,
        folder,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        layer_norm_epsilon=(1e-5,),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
    )
    _strip(named, "transformer.")
    heads, layers = told["n_head"], told["n_layer"]
    each = partial(_each, named, "h.{}.", layers)
    width = named["wte.weight"].shape[1]
    block = {}
    w, b = each("attn.c_attn.weight"), each("attn.c_attn.bias")  # layers D 3D, layers 3D
    for i, part in enumerate(("query", "key", "value")):
        own = slice(i * width, (i + 1) * width)
        block[f"self_attention/{part}/w"] = w[..., own].reshape(layers, width, heads, -1)
        block[f"self_attention/{part}/b"] = b[..., own].reshape(layers, heads, -1)
    post = each("attn.c_proj.weight").swapaxes(1, 2)
    block["self_attention/post/w"] = post.reshape(layers, width, heads, -1)
    block["self_attention/post/b"] = each("attn.c_proj.bias")
    for ours, theirs in (("ffn_layer1", "c_fc"), ("ffn_layer2", "c_proj")):
        block[f"ff_layer/{ours}/linear/kernel"] = each(f"mlp.{theirs}.weight")
        block[f"ff_layer/{ours}/linear/bias"] = each(f"mlp.{theirs}.bias")
    for ours, theirs in (("layer_norm", "ln_1"), ("ff_layer/layer_norm", "ln_2")):
        block[f"{ours}/scale"] = each(f"{theirs}.weight").astype(np.float32) - 1
        block[f"{ours}/bias"] = each(f"{theirs}.bias")
    weights = {f"x_layers/{name}": value for name, value in block.items()} | {
        "token_emb/emb_var": named.pop("wte.weight"),
        "pos_emb/emb_var": named.pop("wpe.weight"),
        "final_ln/scale": named.pop("ln_f.weight").astype(np.float32) - 1,
        "final_ln/bias": named.pop("ln_f.bias"),
    }
    found = decoders.infer({f"params/{name}": value for name, value in weights.items()})
    return decoders.shapes(found), weights


def _strip(named: dict, prefix: str) -> None:
    """Takes the prefix from the names, in place: some files have it, and some do not."""
    for name in [name for name in named if name.startswith(prefix)]:
        named[name.removeprefix(prefix)] = named.pop(name)


def _each(named: dict, prefix: str, layers: int, name: str) -> np.ndarray:
    """The array of this name of all layers, on axis 0; they are taken out of `named`."""
    return np.stack([named.pop(prefix.format(i) + name) for i in range(layers)])


# --- Gemma ---------------------------------------------------------------------------------------


class RMSNorm(nnx.Module):
    """x / rms(x) * (1 + scale), in float32."""

    def __init__(self, width: int, epsilon: float):
        self.scale, self.epsilon = nnx.Param(jnp.zeros(width)), epsilon

    def __call__(self, x: Float[Array, "*A D"]) -> Float[Array, "*A D"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class Linear(nnx.Module):
    """A product with w (I, O), without bias."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.w = nnx.Param(lecun(rngs.params(), (inputs, outputs), inputs))

    def __call__(self, x: Float[Array, "*A I"]) -> Float[Array, "*A O"]:
        return product(x, self.w[...].astype(x.dtype)).astype(x.dtype)


class GemmaBlock(nnx.Module):
    """Pre-norm attention with fewer heads of keys and values than of queries, and a gated MLP."""

    def __init__(
        self,
        sizes: LanguageSizes,
        *,
        size: int,
        shared: int,
        theta: float,
        epsilon: float,
        rngs: nnx.Rngs,
    ):
        width, inner = sizes.width, sizes.heads * size
        self.attention_norm = RMSNorm(width, epsilon)
        self.query = Linear(width, inner, rngs=rngs)
        self.key = Linear(width, shared * size, rngs=rngs)
        self.value = Linear(width, shared * size, rngs=rngs)
        self.post = Linear(inner, width, rngs=rngs)
        self.mlp_norm = RMSNorm(width, epsilon)
        self.gate = Linear(width, sizes.mlp, rngs=rngs)
        self.up = Linear(width, sizes.mlp, rngs=rngs)
        self.down = Linear(sizes.mlp, width, rngs=rngs)
        self.size, self.theta = size, theta

    def heads(
        self, x: Float[Array, "B N D"], positions: Int[Array, "B N"]
    ) -> tuple[Float[Array, "B K N H"], Float[Array, "B G N H"], Float[Array, "B G N H"]]:
        """Queries, scaled, and keys and values of G heads; queries and keys turned by position."""
        y = self.attention_norm(x)
        q, k, v = (
            jnp.swapaxes(part(y).reshape(*y.shape[:-1], -1, self.size), -2, -3)
            for part in (self.query, self.key, self.value)
        )
        q, k = (rotate(z, positions, self.theta) for z in (q, k))
        return q * jnp.asarray(self.size**-0.5, q.dtype), k, v

    def rest(
        self, x: Float[Array, "B N D"], attended: Float[Array, "B K N H"]
    ) -> Float[Array, "B N D"]:
        """The block's output for input x, with what its attention found."""
        x = x + self.post(jnp.swapaxes(attended, -2, -3).reshape(*x.shape[:-1], -1))
        y = self.mlp_norm(x)
        return x + self.down(gelu_tanh(self.gate(y)) * self.up(y))


class Gemma(Causal):
    """Gemma 1; what `embed` gives is multiplied by the root of the width, as the network wants it.

    Source: arXiv:2403.08295; transformers, models/gemma/modeling_gemma.py.
    """

    def __init__(self, sizes: LanguageSizes, *, epsilon: float, rngs: nnx.Rngs, **block):
        self.token_emb = Embedding(sizes.vocabulary, sizes.width, fan_in=sizes.width, rngs=rngs)
        self.x_layers = jax.vmap(
            lambda key: GemmaBlock(sizes, epsilon=epsilon, rngs=nnx.Rngs(key), **block)
        )(jax.random.split(rngs.params(), sizes.layers))
        self.final_ln = RMSNorm(sizes.width, epsilon)
        self.context = sizes.context

    def embed(self, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Vectors of tokens. Raises ValueError as `decoders.check_ids` does."""
        x = super().embed(ids)
        return x * jnp.asarray(self.width**0.5, x.dtype)


def _gemma(told: dict, named: dict, folder: Path) -> tuple[Gemma, dict[str, np.ndarray]]:
    """Its shape and its weights under our names; its matrices have outputs first."""
    _expect(
        told,
        folder,
        # Released as gelu, which transformers, too, takes for the approximation.
        hidden_act=("gelu_pytorch_tanh", "gelu"),
        hidden_activation=("gelu_pytorch_tanh", None),
        attention_bias=(False,),
        tie_word_embeddings=(True,),
        use_bidirectional_attention=(None, False),
        rope_scaling=(None,),
    )
    rotary = told.get("rope_parameters") or {"rope_theta": told.get("rope_theta", 10_000.0)}
    _expect(rotary, folder, rope_type=("default",))
    _strip(named, "model.")
    sizes = LanguageSizes(
        width=told["hidden_size"],
        layers=told["num_hidden_layers"],
        heads=told["num_attention_heads"],
        mlp=told["intermediate_size"],
        vocabulary=told["vocab_size"],
        context=told["max_position_embeddings"],
    )
    each = partial(_each, named, "layers.{}.", sizes.layers)
    block = {
        "attention_norm/scale": each("input_layernorm.weight"),
        "mlp_norm/scale": each("post_attention_layernorm.weight"),
    }
    for ours, theirs in {
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "post": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }.items():
        block[f"{ours}/w"] = each(f"{theirs}.weight").swapaxes(1, 2)
    weights = {f"x_layers/{name}": value for name, value in block.items()} | {
        "token_emb/emb_var": named.pop("embed_tokens.weight"),
        "final_ln/scale": named.pop("norm.weight"),
    }
    variant = dict(
        size=told["head_dim"],
        shared=told["num_key_value_heads"],
        theta=float(rotary["rope_theta"]),
        epsilon=float(told["rms_norm_eps"]),
    )
    return nnx.eval_shape(lambda: Gemma(sizes, rngs=nnx.Rngs(0), **variant)), weights
