"""Adapters in PEFT's folders, against what PEFT wrote and computed."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from refusals import refused

from jaxunlearn.adapters import huggingface, peft
from jaxunlearn.models.decoder import Decoder

pytest.importorskip("safetensors")
FOLDERS = pathlib.Path(__file__).resolve().parents[1] / "data/huggingface"


def merged(params, part, scale):
  """W + scale a b, written out."""
  params = json.loads(json.dumps(params, default=lambda x: x.tolist()))
  for path, own in part.items():
    *outer, last = path.split("/")
    tree = params
    for name in outer:
      tree = tree[name]
    tree[last] = np.asarray(tree[last]) + scale * own["a"] @ own["b"]

  def arrays(tree):
    if isinstance(tree, dict):
      return {name: arrays(leaf) for name, leaf in tree.items()}
    return np.asarray(tree, np.float32)

  return arrays(params)


def test_logits_with_adapters_are_those_of_peft():
  base = huggingface.load(FOLDERS / "llama")
  part, alpha = peft.load(FOLDERS / "llama_lora", base.config)
  assert alpha == 6 and len(part) == 3
  assert part["blocks/mlp/down/kernel"]["a"].shape == (2, 24, 2)
  params = merged(base.params, part, alpha / 2)
  expected = np.load(FOLDERS / "llama_lora/expected.npz")
  logits = Decoder(base.config).apply({"params": params}, expected["tokens"])
  np.testing.assert_allclose(logits, expected["logits"], rtol=5e-5, atol=5e-5)


def test_written_again_all_bits_are_the_same(tmp_path):
  from safetensors.numpy import load_file

  config = huggingface.load(FOLDERS / "llama").config
  part, alpha = peft.load(FOLDERS / "llama_lora", config)
  peft.save(tmp_path / "a", config, part, alpha=alpha)
  name = "adapter_model.safetensors"
  ours = load_file(tmp_path / "a" / name)
  theirs = load_file(FOLDERS / "llama_lora" / name)
  assert ours.keys() == theirs.keys()
  assert all(ours[n].tobytes() == theirs[n].tobytes() for n in ours)
  settings = json.loads((tmp_path / "a/adapter_config.json").read_text())
  assert settings["target_modules"] == ["down_proj", "q_proj", "v_proj"]
  assert peft.load(tmp_path / "a", config)[1] == alpha


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"peft_type": "IA3"}, "plain LoRA, peft_type"),
    ({"use_dora": True}, "plain LoRA, use_dora"),
    ({"rank_pattern": {"q_proj": 4}}, "plain LoRA, rank_pattern"),
    ({"r": 0}, "Expected r > 0"),
    ({"r": float("inf")}, "Expected r > 0, got inf"),
    ({"lora_alpha": float("nan")}, "Expected lora_alpha > 0, got nan"),
    ({"r": 4}, r"lora_A\.weight of shape \(4, \d+\), r=4, got \(2, "),
  ],
)
def test_other_adapters_are_one_line(change, words, tmp_path):
  config = huggingface.load(FOLDERS / "llama").config
  shutil.copytree(FOLDERS / "llama_lora", tmp_path / "a")
  path = tmp_path / "a/adapter_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  refused(words, peft.load, tmp_path / "a", config)


def test_broken_folders_and_other_decoders(tmp_path):
  config = huggingface.load(FOLDERS / "llama").config
  part, alpha = peft.load(FOLDERS / "llama_lora", config)
  weights = tmp_path / "a/adapter_model.safetensors"
  shutil.copytree(FOLDERS / "llama_lora", tmp_path / "a")
  weights.write_bytes(weights.read_bytes()[:2000])
  refused("to be a whole safetensors", peft.load, tmp_path / "a", config)
  weights.unlink()
  refused("got no such file", peft.load, tmp_path / "a", config)
  gpt2 = huggingface.load(FOLDERS / "gpt2").config
  refused("of the Llama kind", peft.load, FOLDERS / "llama_lora", gpt2)
  with pytest.raises(ValueError, match="got norm/scale"):
    peft.save(tmp_path / "b", config, {"norm/scale": {}}, alpha=1)
  q = part["blocks/attention/q/kernel"]
  other = {"a": q["a"][..., :1], "b": q["b"][:, :1]}
  mixed = part | {"blocks/attention/q/kernel": other}
  with pytest.raises(ValueError, match=r"of one rank, got \[1, 2\]"):
    peft.save(tmp_path / "b", config, mixed, alpha=alpha)
