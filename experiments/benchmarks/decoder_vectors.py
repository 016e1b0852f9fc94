"""Makes tests/data/huggingface: tiny random decoders as transformers saves them.

    python -m experiments.benchmarks.decoder_vectors

needs torch and, beyond the extra `benchmarks`, transformers and peft. Each folder
has config.json, model.safetensors (of qwen3 in shards) and expected.npz: tokens
and the logits that transformers computes of them in float32; llama_lora the same
for an adapter of llama.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/data/huggingface"
_SIZES = {
  "vocab_size": 29,
  "hidden_size": 16,
  "intermediate_size": 24,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
  "initializer_range": 0.3,
  "bos_token_id": 0,
  "eos_token_id": 1,
}
_SCALED = {
  "rope_type": "llama3",
  "rope_theta": 500.0,
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
_PLAIN = {"rope_type": "default", "rope_theta": 1e5}


def configs() -> dict[str, Any]:
  """One per layout."""
  import transformers as t

  return {
    "gpt2": t.GPT2Config(
      vocab_size=29,
      n_embd=16,
      n_layer=2,
      n_head=4,
      n_positions=64,
      n_inner=24,
      initializer_range=0.3,
      bos_token_id=0,
      eos_token_id=1,
    ),
    "llama": t.LlamaConfig(**_SIZES, tie_word_embeddings=True),
    "llama3": t.LlamaConfig(
      **_SIZES, rope_parameters=_SCALED, tie_word_embeddings=False
    ),
    "smollm2": t.LlamaConfig(
      **_SIZES, rope_parameters=_PLAIN, tie_word_embeddings=True
    ),
    "mistral": t.MistralConfig(**_SIZES, head_dim=6, sliding_window=None),
    "qwen2": t.Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": t.Qwen3Config(**_SIZES, head_dim=8),
  }


def main() -> None:
  os.environ["HF_HUB_OFFLINE"] = "1"
  import peft
  import torch
  import transformers

  tokens = np.random.default_rng(0).integers(0, 29, (3, 24))
  for name, config in configs().items():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
      config, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
      for parameter in model.parameters():
        if parameter.ndim == 1:  # Norms and biases are ones and zeros.
          parameter.add_(0.3 * torch.randn_like(parameter))
    save(OUT / name, model, tokens, sharded=name == "qwen3")
    if name == "llama":
      lora = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"]
      )
      adapted = peft.get_peft_model(model, lora).eval()
      with torch.no_grad():
        for key, parameter in adapted.named_parameters():
          if "lora_" in key:
            parameter.copy_(0.3 * torch.randn_like(parameter))
      save(OUT / "llama_lora", adapted, tokens)
  for path in OUT.rglob("*"):
    if path.name in ("README.md", "generation_config.json"):
      path.unlink()


def save(folder: Any, model: Any, tokens: Any, sharded: bool = False) -> None:
  import torch

  more = {"max_shard_size": "12KB"} if sharded else {}
  model.save_pretrained(folder, **more)
  with torch.no_grad():
    logits = model(torch.from_numpy(tokens)).logits.numpy()
  np.savez_compressed(
    folder / "expected.npz", tokens=tokens.astype(np.int32), logits=logits
  )


if __name__ == "__main__":
  main()
