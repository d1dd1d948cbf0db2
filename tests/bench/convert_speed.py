#!/usr/bin/env python3
"""capstan convert beside cp: a model of LLaMA's shapes in bf16, both followed by a sync, in random order.

    tests/bench/convert_speed.py build/capstan --folder /a/disk/to/measure [--layers 24] [--rounds 5] [--cold]

Prints the median of each and its ratio to cp. --cold empties the page cache before each run (root).
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import statistics
import struct
import subprocess
import time

WIDTH, HIDDEN, VOCABULARY, KV_HEADS, HEADS = 2048, 5632, 32000, 4, 16
FORMS = {"hf": ["hf"], "capstan": ["capstan"], "gguf": ["gguf"], "hf f32": ["hf", "--dtype", "f32"],
         "hf f16": ["hf", "--dtype", "f16"]}


def shapes(layers):
    kv = WIDTH * KV_HEADS // HEADS
    yield "model.embed_tokens", [VOCABULARY, WIDTH]
    for i in range(layers):
        for name, shape in (("input_layernorm", [WIDTH]), ("self_attn.q_proj", [WIDTH, WIDTH]),
                            ("self_attn.k_proj", [kv, WIDTH]), ("self_attn.v_proj", [kv, WIDTH]),
                            ("self_attn.o_proj", [WIDTH, WIDTH]), ("post_attention_layernorm", [WIDTH]),
                            ("mlp.gate_proj", [HIDDEN, WIDTH]), ("mlp.up_proj", [HIDDEN, WIDTH]),
                            ("mlp.down_proj", [WIDTH, HIDDEN])):
            yield f"model.layers.{i}.{name}", shape
    yield "model.norm", [WIDTH]
    yield "lm_head", [VOCABULARY, WIDTH]


def write_model(folder, layers):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"}), encoding="utf-8")
    header, at = {}, 0
    for name, shape in shapes(layers):
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name + ".weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    numbers = bytearray(1 << 24)  # bf16 between 0.0078 and 0.03
    numbers[0::2] = random.Random(1).randbytes(1 << 23)
    numbers[1::2] = b"\x3c" * (1 << 23)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for first in range(0, at, len(numbers)):
            file.write(numbers[:min(len(numbers), at - first)])
    return at


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_once(command, source, out, cold):
    remove(out)
    os.sync()
    if cold:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")
    else:
        subprocess.run(f"cat {source}/* > /dev/null", shell=True, check=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capstan", type=pathlib.Path)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    options = parser.parse_args()
    source, out = options.folder / "convert-speed-model", options.folder / "convert-speed-out"
    try:
        size = write_model(source, options.layers)
        commands = {"cp": ["sh", "-c", f"cp -r {source} {out} && sync {out}/* {out}"]}
        for name, form in FORMS.items():
            commands[name] = [options.capstan, "convert", "--from", source, "--to", out, "--no-verify", "--format", *form]
        seconds = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name in random.sample(list(commands), len(commands)):
                seconds[name].append(run_once(commands[name], source, out, options.cold))
    finally:
        remove(source)
        remove(out)
    copied = statistics.median(seconds["cp"])
    print(f"{size / 1e9:.2f} GB, {'cold' if options.cold else 'warm'}, median of {options.rounds}")
    for name, all_seconds in seconds.items():
        median = statistics.median(all_seconds)
        print(f"{name:8} {median:6.2f} s  {median / copied:5.2f} of cp   ({min(all_seconds):.2f} to {max(all_seconds):.2f})")


if __name__ == "__main__":
    main()
