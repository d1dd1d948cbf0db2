#!/usr/bin/env python3
"""Makes tests/io/golden/weights: a tiny random model of each family, saved by transformers, with its logits.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers safetensors
    /tmp/venv/bin/python tests/io/make_weight_fixtures.py [FAMILY...]

A folder holds config.json, model.safetensors (or shards with an index) and logits.safetensors: `tokens` (I64) and
`logits` (F32, one row a token). The versions used stand in versions.json.
"""
import json
import pathlib
import shutil
import sys

import safetensors
import safetensors.torch
import torch
import transformers

OUT = pathlib.Path(__file__).resolve().parent / "golden" / "weights"
TOKENS = [5, 17, 3, 60, 42, 42, 0, 9, 33, 21, 58, 7]
SMALL = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
LLAMA = {**SMALL, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2 = {**SMALL, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
NEOX = {**SMALL, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 64}
OPT = {**SMALL, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
       "max_position_embeddings": 16, "word_embed_proj_dim": 32, "pad_token_id": 1}
FALCON = {**SMALL, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}

FAMILIES = {
    "gpt1": ("OpenAIGPT", "OpenAIGPTLMHeadModel", GPT2),
    "gpt2": ("GPT2", "GPT2LMHeadModel", GPT2),
    "gpt_neo": ("GPTNeo", "GPTNeoForCausalLM",
                {**SMALL, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                 "window_size": 4, "max_position_embeddings": 16, "intermediate_size": 40}),
    "gptj": ("GPTJ", "GPTJForCausalLM", {**GPT2, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", "GPTNeoXForCausalLM", {**NEOX, "rotary_pct": 0.5}),
    "gpt_neox_serial": ("GPTNeoX", "GPTNeoXForCausalLM",
                        {**NEOX, "rotary_pct": 0.25, "use_parallel_residual": False, "hidden_act": "gelu_fast"}),
    "opt": ("OPT", "OPTForCausalLM", OPT),
    "opt_350m": ("OPT", "OPTForCausalLM", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bloom": ("Bloom", "BloomForCausalLM", {**SMALL, "hidden_size": 24, "n_layer": 2, "n_head": 6}),
    "xglm": ("XGLM", "XGLMForCausalLM",
             {**SMALL, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
              "max_position_embeddings": 64, "pad_token_id": 1}),
    "llama": ("Llama", "LlamaForCausalLM", LLAMA),
    "llama_biased": ("Llama", "LlamaForCausalLM",
                     {**LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama3": ("Llama", "LlamaForCausalLM",
               {**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
                                             "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                             "original_max_position_embeddings": 16}}),
    "mistral": ("Mistral", "MistralForCausalLM", {**LLAMA, "sliding_window": 4}),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 12}),
    "falcon_7b": ("Falcon", "FalconForCausalLM", FALCON),
    "falcon_40b": ("Falcon", "FalconForCausalLM", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_serial": ("Falcon", "FalconForCausalLM",
                      {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True}),
    "llama_yarn": ("Llama", "LlamaForCausalLM",
                   {**LLAMA, "rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "mscale": 1.0,
                                                 "mscale_all_dim": 0.5}}),
    "qwen3_windows": ("Qwen3", "Qwen3ForCausalLM",
                      {**LLAMA, "head_dim": 12, "num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 3,
                       "max_window_layers": 28, "layer_types": ["sliding_attention", "full_attention"] * 2}),
}
SHARDED = {"llama_biased": "24KB"}


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else (0.2 if parameter.dim() == 1 else 0.25) * noise)


def make(name, seed):
    config_name, model_name, settings = FAMILIES[name]
    config = getattr(transformers, config_name + "Config")(**settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, model_name)(config).float().eval()
    randomise(model, seed)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, **({"max_shard_size": SHARDED[name]} if name in SHARDED else {}))
    model = getattr(transformers, model_name).from_pretrained(folder, attn_implementation="eager").float().eval()
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0]
    (folder / "generation_config.json").unlink(missing_ok=True)
    safetensors.torch.save_file({"tokens": torch.tensor(TOKENS), "logits": logits.contiguous()},
                                folder / "logits.safetensors")
    print(f"{name}: largest logit {logits.abs().max():.2f}")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    OUT.mkdir(parents=True, exist_ok=True)
    for number, family in enumerate(FAMILIES):
        if not sys.argv[1:] or family in sys.argv[1:]:
            make(family, 1000 + number)
    (OUT / "versions.json").write_text(json.dumps(
        {"torch": torch.__version__, "transformers": transformers.__version__,
         "safetensors": safetensors.__version__}, indent=1) + "\n", encoding="utf-8")
