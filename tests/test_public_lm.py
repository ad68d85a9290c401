"""Public language models read from their files compute what plain NumPy, and transformers, do."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vplib.data import spoken
from vplib.model import checkpoints, decoders, public_lm
from vplib.model.checkpoints import CheckpointError

GPT2 = dict(model_type="gpt2", n_head=2, n_layer=2, n_embd=8, n_positions=16, vocab_size=13)
GEMMA = dict(
    model_type="gemma",
    vocab_size=13,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    max_position_embeddings=16,
    rms_norm_eps=0.01,
    rope_theta=100.0,
    hidden_act="gelu",
)

logits = jax.jit(lambda lm, ids, keep: lm(lm.embed(ids), keep))


# --- files of random weights ---------------------------------------------------------------------


def gpt2_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    shapes = {"wte.weight": (13, 8), "wpe.weight": (16, 8), "ln_f.weight": 8, "ln_f.bias": 8}
    for i in range(2):
        shapes |= {f"h.{i}.ln_{n}.{part}": 8 for n in (1, 2) for part in ("weight", "bias")}
        for name, inputs, outputs in (
            ("attn.c_attn", 8, 24),
            ("attn.c_proj", 8, 8),
            ("mlp.c_fc", 8, 32),
            ("mlp.c_proj", 32, 8),
        ):
            shapes |= {
                f"h.{i}.{name}.weight": (inputs, outputs),
                f"h.{i}.{name}.bias": outputs,
            }
    return noise(shapes, "transformer.", seed)


def gemma_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    shapes = {"embed_tokens.weight": (13, 8), "norm.weight": 8}
    for i in range(2):
        shapes |= {
            f"layers.{i}.input_layernorm.weight": 8,
            f"layers.{i}.post_attention_layernorm.weight": 8,
            f"layers.{i}.self_attn.q_proj.weight": (24, 8),
            f"layers.{i}.self_attn.k_proj.weight": (12, 8),
            f"layers.{i}.self_attn.v_proj.weight": (12, 8),
            f"layers.{i}.self_attn.o_proj.weight": (8, 24),
            f"layers.{i}.mlp.gate_proj.weight": (12, 8),
            f"layers.{i}.mlp.up_proj.weight": (12, 8),
            f"layers.{i}.mlp.down_proj.weight": (8, 12),
        }
    return noise(shapes, "model.", seed)


def noise(shapes: dict, prefix: str, seed: int) -> dict[str, np.ndarray]:
    """Small vectors, which show what stands beside a variance, and big queries and keys, which show
    whether their products are capped."""
    rng, sizes = (
        np.random.default_rng(seed),
        {"wte": 0.02, "wpe": 0.02, "c_attn": 2.0, "q_proj": 2.0},
    )
    made = {}
    for name, shape in shapes.items():
        size = next((size for part, size in sizes.items() if part in name.split(".")), 0.5)
        made[prefix + name] = size * rng.normal(size=shape).astype(np.float32)
    return made


def write(path, arrays: dict[str, np.ndarray]) -> None:
    """A safetensors file."""
    header, content = {"__metadata__": {"format": "pt"}}, b""
    for name, value in arrays.items():
        kinds = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"}
        offsets = [len(content), len(content) + value.nbytes]
        header[name] = dict(
            dtype=kinds.get(value.dtype.name, "F8_E4M3"), shape=value.shape, data_offsets=offsets
        )
        content += value.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


def folder(path, told: dict, arrays: dict[str, np.ndarray]):
    (path / "config.json").write_text(json.dumps(told))
    write(path / "model.safetensors", arrays)
    return path


# --- the same in NumPy, for one sequence ----------------------------------------------------------


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(q, k, v):
    """(tokens, heads, size) each; every token sees itself and those before it."""
    weights = np.einsum("nkh,mkh->knm", q, k) * q.shape[-1] ** -0.5
    weights = softmax(np.where(np.tri(len(q), dtype=bool), weights, -np.inf))
    return np.einsum("knm,mkh->nkh", weights, v).reshape(len(q), -1)


def gpt2(w: dict[str, np.ndarray], ids) -> np.ndarray:
    w = {name.removeprefix("transformer."): x.astype(np.float64) for name, x in w.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def affine(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    n = len(ids)
    x = w["wte.weight"][ids] + w["wpe.weight"][:n]
    for h in ("h.0", "h.1"):
        qkv = affine(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").reshape(n, 3, 2, 4)
        x = x + affine(attention(*qkv.swapaxes(0, 1)), f"{h}.attn.c_proj")
        x = x + affine(gelu(affine(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc")), f"{h}.mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


def gemma(w: dict[str, np.ndarray], ids) -> np.ndarray:
    w = {name.removeprefix("model."): x.astype(np.float64) for name, x in w.items()}

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.01) * (1 + w[f"{name}.weight"])

    def turn(x):
        """Pairs of dimensions as complex numbers."""
        z = x[..., :3] + 1j * x[..., 3:]
        z = z * np.exp(1j * np.outer(np.arange(len(x)), 100.0 ** (-np.arange(3) / 3)))[:, None]
        return np.concatenate([z.real, z.imag], -1)

    n, x = len(ids), w["embed_tokens.weight"][ids] * 8**0.5
    for h in ("layers.0", "layers.1"):
        y = norm(x, f"{h}.input_layernorm")
        q, k, v = (
            (y @ w[f"{h}.self_attn.{part}_proj.weight"].T).reshape(n, -1, 6) for part in "qkv"
        )
        k, v = np.repeat(turn(k), 2, axis=1), np.repeat(v, 2, axis=1)
        x = x + attention(turn(q), k, v) @ w[f"{h}.self_attn.o_proj.weight"].T
        y = norm(x, f"{h}.post_attention_layernorm")
        gate, up = (y @ w[f"{h}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gelu(gate) * up) @ w[f"{h}.mlp.down_proj.weight"].T
    return norm(x, "norm") @ w["embed_tokens.weight"].T


KINDS = {"gpt2": (GPT2, gpt2_arrays, gpt2), "gemma": (GEMMA, gemma_arrays, gemma)}
IDS = jnp.asarray(np.random.default_rng(0).integers(0, 13, (3, 9)), jnp.int32)
KEEP = jnp.asarray(  # a row whole, one padded at the left, one between and behind
    [[1] * 9, [0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1, 0, 0]], bool
)


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_plain_numpy(kind, tmp_path):
    told, arrays, plain = KINDS[kind]
    lm = public_lm.load(folder(tmp_path, told, arrays()))
    assert isinstance(lm, decoders.CausalLM) and (lm.width, lm.vocabulary) == (8, 13)
    found = np.asarray(logits(lm, IDS, KEEP))
    said = np.asarray(decoders.generate(lm, lm.embed(IDS), KEEP, steps=6, stop=0))
    for row in range(3):
        ids = np.asarray(IDS)[row, np.asarray(KEEP)[row]]
        known = plain(arrays(), ids)
        assert np.abs(found[row, np.asarray(KEEP)[row]] - known).max() < 1e-4 * known.std()
        for token in said[row]:
            assert token == plain(arrays(), ids)[-1].argmax()
            if token == 0:
                break
            ids = [*ids, token]


@pytest.mark.parametrize("kind", KINDS)
def test_several_files_older_names_and_half_precision(kind, tmp_path):
    told, arrays, _ = KINDS[kind]
    weights = {name: x.astype(jnp.bfloat16) for name, x in arrays().items()}
    known = logits(
        public_lm.load(
            folder(tmp_path, told, {n: x.astype(np.float32) for n, x in weights.items()})
        ),
        IDS,
        KEEP,
    )
    (tmp_path / "model.safetensors").unlink()
    # As GPT-2 was first published: no prefix, but masks; and its table twice.
    old = {n.removeprefix("transformer.").removeprefix("model."): x for n, x in weights.items()}
    old |= {
        "h.0.attn.bias": np.ones((1, 1, 4, 4), bool),
        "lm_head.weight": next(iter(old.values())),
    }
    places = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(old)}
    for file in set(places.values()):
        write(tmp_path / file, {name: x for name, x in old.items() if places[name] == file})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert np.array_equal(logits(public_lm.load(tmp_path), IDS, KEEP), known)
    half = public_lm.load(tmp_path, dtype="bfloat16")
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(half))
    assert half.embed(IDS).dtype == jnp.bfloat16
    said = logits(half, IDS, KEEP)
    assert said.dtype == jnp.float32 and not np.array_equal(said, known)
    assert np.corrcoef(said[KEEP].ravel(), known[KEEP].ravel())[0, 1] > 0.999


def test_gpt2_is_our_decoder_in_a_file_of_ours_too(tmp_path):
    lm = public_lm.load(folder(tmp_path, GPT2, gpt2_arrays()))
    checkpoints.save(lm, tmp_path / "weights.npz")
    back = decoders.load(tmp_path / "weights.npz")
    assert np.array_equal(logits(back, IDS, KEEP), logits(lm, IDS, KEEP))
    assert (back.context, public_lm.load(folder(tmp_path, GEMMA, gemma_arrays())).context) == (
        16,
        16,
    )


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "arrays", "message"),
    [
        (dict(model_type="bert"), {}, "holds a model of type bert, and only gpt2 and gemma are"),
        ({}, {}, "holds a model of type None, and only"),
        (dict(GPT2, activation_function="relu"), {}, "has activation_function=relu, and only gelu"),
        (dict(GPT2, layer_norm_epsilon=1e-6), {}, "epsilon=1e-06, and only 1e-05 is computed"),
        (dict(GPT2, tie_word_embeddings=False), {}, "has tie_word_embeddings=False, and only True"),
        (dict(GEMMA, attention_bias=True), {}, "has attention_bias=True, and only False"),
        (dict(GEMMA, rope_parameters=dict(rope_type="linear")), {}, "has rope_type=linear, and on"),
        (dict(GPT2, n_layer=3), {}, r"holds no gpt2 in .* \('h.2.attn.c_attn.weight' is missing"),
        (dict(GPT2, n_layer=1), {}, r"released layout \(h.1.\S+ is unknown\): fetch it again"),
        (dict(GPT2, n_head=3), {}, r"holds no gpt2 in its released layout \(cannot reshape"),
        (GPT2, {"wpe.weight": np.zeros((16, 4), "f4")}, "emb_var is of shape .16, 4. and "),
        (GPT2, {"h.0.new": np.zeros(1, np.float32)}, r"holds no gpt2 .*\(h.0.new is unknown\)"),
        (dict(GEMMA, vocab_size=14), {}, "emb_var is of shape .13, 8. and should be of .14, 8."),
        (GPT2, {"wte.weight": np.zeros(3, np.int8)}, "no readable .*type F8_E4M3 are none"),
    ],
)  # fmt: skip
def test_other_models_are_one_sentence(tmp_path, told, arrays, message):
    known = {"gpt2": gpt2_arrays(), "gemma": gemma_arrays()}.get(told.get("model_type"), {})
    new = {f"transformer.{name}": value for name, value in arrays.items()}
    with pytest.raises(CheckpointError, match=message) as error:
        public_lm.load(folder(tmp_path, told, known | new))
    assert "\n" not in str(error.value)


def test_damaged_folders_are_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"config.json cannot be read .*: give the folder of"):
        public_lm.load(tmp_path)
    folder(tmp_path, GPT2, gpt2_arrays())
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-4], whole[:100], b"", b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"is no readable safetensors file .*fetch it aga"
        ):
            public_lm.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors is no readable safetensors file"):
        public_lm.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        public_lm.load(tmp_path)


def test_without_its_package_a_tokeniser_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        ImportError, match=r"^public tokenisers need the package: pip install token"
    ):
        public_lm.PublicWords(tmp_path)


# --- other implementations -----------------------------------------------------------------------


def theirs(kind: str):
    """A small model of random weights by transformers."""
    reason = "{} is absent: pip install -e '.[torch]'"
    torch = pytest.importorskip("torch", reason=reason.format("torch"))
    transformers = pytest.importorskip("transformers", reason=reason.format("transformers"))
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            **(GPT2 | dict(n_head=4, n_layer=3, n_embd=32, n_positions=48, vocab_size=97)),
            bos_token_id=1,
            eos_token_id=1,
        )
        model = transformers.GPT2LMHeadModel(config).eval()
    else:
        told = {k: v for k, v in GEMMA.items() if k not in ("hidden_act", "rope_theta")}
        config = transformers.GemmaConfig(
            **(told | dict(hidden_size=32, vocab_size=97, max_position_embeddings=48)),
            rope_parameters=dict(rope_type="default", rope_theta=100.0),
        )
        model = transformers.GemmaForCausalLM(config).eval()
    with torch.no_grad():  # new ones have zero biases, which hide mistakes
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return torch, model


@pytest.mark.parametrize("shards", ["1GB", "20KB"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_transformers(kind, shards, tmp_path):
    torch, model = theirs(kind)
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shards == "20KB")
    lm = public_lm.load(tmp_path)
    rng = np.random.default_rng(0)
    ids, keep = rng.integers(0, 97, (4, 9)), np.ones((4, 9), bool)
    keep[1, :4] = keep[2, :1] = False  # transformers generates after padding at the left alone
    positions = torch.tensor(np.maximum(np.cumsum(keep, 1) - 1, 0))
    given = dict(input_ids=torch.tensor(ids), attention_mask=torch.tensor(keep).long())
    with torch.no_grad():
        known = model(**given, position_ids=positions).logits.numpy()
        said = model.generate(**given, max_new_tokens=24, do_sample=False, eos_token_id=-1)[:, 9:]
    ids = jnp.asarray(ids, jnp.int32)
    found = np.asarray(logits(lm, ids, jnp.asarray(keep)))
    assert np.abs(found - known)[keep].max() < 1e-4 and known.std() > 0.5
    stop = int(said[0, 7])
    mine = decoders.generate(lm, lm.embed(ids), jnp.asarray(keep), steps=24, stop=stop)
    for ours, row in zip(mine.tolist(), said.tolist(), strict=True):
        end = row.index(stop) if stop in row else 24
        assert ours == row[:end] + [stop] * (24 - end)


def test_a_public_tokeniser_turns_ids_into_words(tmp_path):
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is absent: pip install -e '.[torch]'"
    )
    words = {"a": 0, "red": 1, "ring": 2, "turns": 3, "[UNK]": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": [3, 4]}')
    known = public_lm.PublicWords(tmp_path)
    assert known.size == 5 and known.end == 3 and isinstance(known, spoken.Vocabulary)
    assert known.pieces(["a red ring turns", " red"]) == [[0, 1, 2, 3], [1]]
    assert known.words(np.array([[0, 1, 2, 3, 0], [1, 1, 1, 1, 1]])) == [
        "a red ring",
        "red " * 4 + "red",
    ]
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no eos_token_id: fetch it again$"):
        public_lm.PublicWords(tmp_path)
    with pytest.raises(CheckpointError, match=r"^no tokeniser in .*: fetch it again$"):
        public_lm.PublicWords(tmp_path / "nowhere")
