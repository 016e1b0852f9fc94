"""Folders of Hugging Face, against what transformers wrote and computed.

`experiments/benchmarks/decoder_vectors.py` made tests/data/huggingface.
"""

import dataclasses
import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.adapters import huggingface
from jaxunlearn.models.decoder import Decoder, DecoderConfig

pytest.importorskip("safetensors")
FOLDERS = pathlib.Path(__file__).resolve().parents[1] / "data/huggingface"
LAYOUTS = ("gpt2", "llama", "llama3", "mistral", "qwen2", "qwen3", "smollm2")


def bits(tree):
  read = lambda x: (str(x.dtype), np.shape(x), np.asarray(x).tobytes())
  return jax.tree.map(read, tree)


def tensors(folder):
  from safetensors import safe_open

  found = {}
  for path in folder.glob("*.safetensors"):
    with safe_open(path, framework="numpy") as file:
      found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_transformers(layout):
  loaded = huggingface.load(FOLDERS / layout)
  expected = np.load(FOLDERS / layout / "expected.npz")
  decoder = Decoder(loaded.config)
  run = jax.jit(decoder.apply)
  logits = run({"params": loaded.params}, expected["tokens"])
  np.testing.assert_allclose(logits, expected["logits"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_written_again_all_bits_are_the_same(layout, tmp_path):
  loaded = huggingface.load(FOLDERS / layout)
  huggingface.save(tmp_path / "a", loaded.config, loaded.params, like=loaded)
  ours, theirs = tensors(tmp_path / "a"), tensors(FOLDERS / layout)
  assert bits(ours) == bits(theirs)
  read = lambda folder: json.loads((folder / "config.json").read_text())
  assert read(tmp_path / "a") == read(FOLDERS / layout)
  # Without what it was loaded as, the settings are written anew.
  huggingface.save(tmp_path / "b", loaded.config, loaded.params)
  again = huggingface.load(tmp_path / "b")
  assert again.config == loaded.config
  assert bits(again.params) == bits(loaded.params)


def test_shards_and_small_floats(tmp_path):
  """Bfloat16 is written as it is, in as many files as it takes."""
  loaded = huggingface.load(FOLDERS / "qwen3", dtype=ml_dtypes.bfloat16)
  huggingface.save(
    tmp_path / "a", loaded.config, loaded.params, max_shard_bytes=4000
  )
  files = sorted(p.name for p in (tmp_path / "a").glob("*.safetensors"))
  assert (
    len(files) > 2
    and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
  )
  again = huggingface.load(tmp_path / "a")
  assert again.params["norm"]["scale"].dtype == ml_dtypes.bfloat16
  assert bits(again.params) == bits(loaded.params)
  assert (
    json.loads((tmp_path / "a/config.json").read_text())["dtype"] == "bfloat16"
  )


def test_a_tokenizer_and_small_files_go_with_it(tmp_path):
  tokenizers = pytest.importorskip("tokenizers")
  from tokenizers.models import WordLevel

  words = {w: i for i, w in enumerate(["a", "b", "c", "[UNK]"])}
  made = tokenizers.Tokenizer(WordLevel(words, unk_token="[UNK]"))
  loaded = huggingface.load(FOLDERS / "llama")
  loaded = loaded._replace(files={"tokenizer_config.json": "{}"})
  huggingface.save(
    tmp_path / "a", loaded.config, loaded.params, made, like=loaded
  )
  again = huggingface.load(tmp_path / "a")
  assert again.tokenizer.encode("c").ids == [2]
  assert again.files == {"tokenizer_config.json": "{}"}
  # Ends of lines and letters stay; a vocabulary goes with its tokenizer only.
  texts = {"chat_template.jinja": "č\r\n", "merges.txt": "a b\n"}
  texts |= {"vocab.json": "{}", "added_tokens.json": "{}"}
  for name, said in texts.items():
    (tmp_path / "a" / name).write_bytes(said.encode())
  again = huggingface.load(tmp_path / "a")
  assert again.files == texts | {"tokenizer_config.json": "{}"}
  huggingface.save(tmp_path / "c", again.config, again.params, like=again)
  assert huggingface.load(tmp_path / "c").files == again.files
  huggingface.save(tmp_path / "d", again.config, again.params, made, like=again)
  kept = huggingface.load(tmp_path / "d").files
  assert sorted(kept) == ["chat_template.jinja", "tokenizer_config.json"]
  (tmp_path / "a/vocab.json").write_bytes(b"\xff")
  refused(r"vocab\.json to be UTF-8", huggingface.load, tmp_path / "a")
  (tmp_path / "a/vocab.json").unlink()
  many = {str(i): i for i in range(30)}
  large = tokenizers.Tokenizer(WordLevel(many, unk_token="0"))
  with pytest.raises(ValueError, match="at most vocab_size=29 tokens, got 30"):
    huggingface.save(tmp_path / "b", loaded.config, loaded.params, large)
  large.save(str(tmp_path / "a/tokenizer.json"))
  with pytest.raises(ValueError, match="at most vocab_size=29 tokens, got 30"):
    huggingface.load(tmp_path / "a")
  (tmp_path / "a/tokenizer.json").write_text("{}")
  refused("to be a tokenizer", huggingface.load, tmp_path / "a")


def cut(name, size):
  def change(folder):
    path = folder / name
    path.write_bytes(path.read_bytes()[:size])

  return change


def settings(**changes):
  def change(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

  return change


def without(name):
  return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
  ("layout", "change", "words"),
  [
    ("llama", without("config.json"), "config.json in .*, got no such file"),
    ("llama", without("model.safetensors"), "got 0 of 1 files"),
    ("qwen3", without("model-00002-of-00003.safetensors"), "got 2 of 3 files"),
    ("llama", cut("model.safetensors", 5000), "to be a whole safetensors"),
    ("llama", cut("model.safetensors", 4), "to be a whole safetensors"),
    ("llama", cut("config.json", 30), "config.json to be JSON"),
    ("llama", settings(model_type="gemma"), "one of gpt2, llama, .*'gemma'"),
    ("llama", settings(hidden_act="relu"), "hidden_act 'silu', got 'relu'"),
    ("llama", settings(hidden_size=20), r"of shape .*20.*, got .*16"),
    ("llama", settings(num_hidden_layers=3), "model.layers.2"),
    # Found missing at once, before there is a list or room for so many.
    ("llama", settings(num_hidden_layers=10**12), "model.layers.2"),
    ("llama", settings(num_hidden_layers=1), "got model.layers.1.* besides"),
    ("llama", settings(rope_parameters={"rope_type": "yarn"}), "got 'yarn'"),
    ("llama", settings(rope_parameters=3), "as transformers writes it"),
    ("llama", settings(rope_theta="x", rope_parameters=None), "got 'x'"),
    ("gpt2", settings(activation_function="gelu"), "got 'gelu'"),
    (
      "qwen3",
      lambda folder: (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../llama/model.safetensors"}})
      ),
      "got 0 of 1 files",
    ),
  ],
)  # fmt: skip
def test_broken_folders_are_one_line(layout, change, words, tmp_path):
  folder = tmp_path / "model"
  shutil.copytree(FOLDERS / layout, folder)
  change(folder)
  with pytest.raises(ValueError, match=words) as error:
    huggingface.load(folder)
  assert "\n" not in str(error.value)


def test_what_cannot_be_written(tmp_path):
  loaded = huggingface.load(FOLDERS / "llama")
  (tmp_path / "full").mkdir()
  (tmp_path / "full/x").write_text("")
  with pytest.raises(ValueError, match="to be new or empty"):
    huggingface.save(tmp_path / "full", loaded.config, loaded.params)
  odd = dataclasses.replace(loaded.config, activation="gelu")
  params = json.loads(json.dumps({})) | loaded.params
  blocks = dict(params["blocks"])
  blocks["mlp"] = {n: blocks["mlp"][n] for n in ("up", "down")}
  with pytest.raises(ValueError, match="got activation='gelu' with llama"):
    huggingface.save(tmp_path / "a", odd, params | {"blocks": blocks})
  short = dataclasses.replace(loaded.config, vocab_size=28)
  with pytest.raises(ValueError, match="embed/embedding of shape"):
    huggingface.save(tmp_path / "a", short, loaded.params)
  assert not (tmp_path / "a").exists()


def test_first_releases_of_gpt2_have_no_prefix(tmp_path):
  from safetensors.numpy import save_file

  loaded = huggingface.load(FOLDERS / "gpt2")
  old = {
    n.removeprefix("transformer."): x
    for n, x in tensors(FOLDERS / "gpt2").items()
  }
  old["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.float32)
  save_file(old, tmp_path / "model.safetensors")
  shutil.copy(FOLDERS / "gpt2/config.json", tmp_path)
  assert bits(huggingface.load(tmp_path).params) == bits(loaded.params)


def test_gpt2_may_have_a_head_of_its_own(tmp_path):
  from safetensors.numpy import save_file

  tied = huggingface.load(FOLDERS / "gpt2")
  shutil.copy(FOLDERS / "gpt2/config.json", tmp_path)
  settings(tie_word_embeddings=False)(tmp_path)
  found = tensors(FOLDERS / "gpt2")
  found.pop("lm_head.weight", None)
  save_file(found, tmp_path / "model.safetensors")
  refused(r"weights lm_head\.weight, got none", huggingface.load, tmp_path)
  embedding = tied.params["embed"]["embedding"]
  head = np.ascontiguousarray(-embedding)
  save_file(found | {"lm_head.weight": head}, tmp_path / "model.safetensors")
  loaded = huggingface.load(tmp_path)
  logits = lambda own: jax.jit(Decoder(own.config).apply)(
    {"params": own.params}, np.array([[1, 2, 3]])
  )
  np.testing.assert_allclose(logits(loaded), -logits(tied), rtol=1e-5)
  huggingface.save(tmp_path / "a", loaded.config, loaded.params)
  assert bits(huggingface.load(tmp_path / "a").params) == bits(loaded.params)


def test_settings_of_a_decoder_of_ours():
  """What the language experiments train can be given to others."""
  from jaxunlearn.adapters.huggingface_layouts import config_of, settings_of

  config = DecoderConfig(64, 16, 2, 4, 24, 32, window=8)
  assert settings_of(config)["model_type"] == "mistral"
  assert config_of(settings_of(config)) == config
