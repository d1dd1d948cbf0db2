#!/usr/bin/env python3
"""Golden numbers: ten training steps of four small decoders, written in plain PyTorch operations.

    /usr/bin/python3 tests/golden/make_torch_curves.py [--out DIR] [--check]

--check makes them anew and compares with the files in DIR: it prints the largest relative difference of each file and
exits 1 above 1e-6 (fp32) or 1e-12 (fp64).

  gpt2        learned positions, layer norm, tanh GELU, biases, tied head                             fp32 and fp64
  llama       rotary (half-split), RMS norm, SwiGLU, 2 key/value heads for 4, no biases, own head     fp32 and fp64
  alibi       ALiBi, layer norm without bias, GeGLU (erf GELU), no biases, own head                   fp64
  window      rotary (interleaved), RMS norm, squared ReLU, window of 8, no biases, tied head         fp64

One safetensors file each (gpt2_f32.safetensors ...), and curves.json with the settings. In a file:
  weights/<name>     F32  initial weights; the fp64 runs start from the same numbers
  tokens             I32  [10, 4, 33]: step, sequence, token; inputs are [..., :32], targets [..., 1:]
  losses             F64  [10] mean nats per token of each step, before its update
  gradient_norms     F64  [10] global norm before clipping
  gradients/<name>   F32 or F64, of step 0, before clipping
  final/<name>       F32  weights after ten steps (fp32 files)      final_norms/<name>  F64 [1] their norms (fp64 files)

AdamW as torch.optim.AdamW: betas 0.9 and 0.95, eps 1e-8, learning rate 1e-3, weight decay 0.1 on tensors of two dims,
gradient clipped to global norm 1. fp32 clips as torch.nn.utils.clip_grad_norm_ does (limit / (norm + 1e-6)), fp64 by
min(1, limit / norm) exactly. Linear weights are [out, in], embeddings [entries, width].

In exact arithmetic the gradient of a key bias is zero; in fp32 it is rounding noise that AdamW may scale up, so do not
compare final/*attention.k.bias.
"""
import argparse
import json
import math
import pathlib
import struct
import sys

import torch
from torch.nn import functional

STEPS, BATCH, CONTEXT = 10, 4, 32
VOCABULARY = 61
OPTIMIZER = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip": 1.0}
BASE = {"layers": 2, "heads": 4, "context": CONTEXT, "vocabulary": VOCABULARY, "norm_epsilon": 1e-5, "window": 0,
        "rotary_base": 10000.0, "rotary_interleaved": False}
MODELS = {
    "gpt2": {**BASE, "width": 48, "kv_heads": 4, "hidden": 192, "positions": "learned", "norm": "layer",
             "activation": "gelu_tanh", "bias": True, "tied": True},
    "llama": {**BASE, "width": 48, "kv_heads": 2, "hidden": 128, "positions": "rotary", "norm": "rms",
              "activation": "swiglu", "bias": False, "tied": False},
    "alibi": {**BASE, "width": 32, "kv_heads": 4, "hidden": 64, "positions": "alibi", "norm": "layer",
              "activation": "geglu", "bias": False, "tied": False},
    "window": {**BASE, "width": 32, "kv_heads": 4, "hidden": 96, "positions": "rotary", "rotary_interleaved": True,
               "norm": "rms", "activation": "squared_relu", "bias": False, "tied": True, "window": 8},
}
PRECISIONS = {"gpt2": ("f32", "f64"), "llama": ("f32", "f64"), "alibi": ("f64",), "window": ("f64",)}
DTYPES = {"f32": torch.float32, "f64": torch.float64}


# ---- weights and data ------------------------------------------------------------------------------------------------

def shapes(model):
    """Name -> shape of every parameter."""
    width, hidden = model["width"], model["hidden"]
    kv_width = width // model["heads"] * model["kv_heads"]
    gated = model["activation"] in ("swiglu", "geglu")
    found = {"token_embedding.weight": (VOCABULARY, width)}
    if model["positions"] == "learned":
        found["position_embedding.weight"] = (CONTEXT, width)

    def linear(name, outputs, inputs):
        found[name + ".weight"] = (outputs, inputs)
        if model["bias"]:
            found[name + ".bias"] = (outputs,)

    def norm(name):
        found[name + ".weight"] = (width,)
        if model["bias"] and model["norm"] == "layer":
            found[name + ".bias"] = (width,)

    for layer in range(model["layers"]):
        at = f"layers.{layer}."
        norm(at + "attention_norm")
        linear(at + "attention.q", width, width)
        linear(at + "attention.k", kv_width, width)
        linear(at + "attention.v", kv_width, width)
        linear(at + "attention.o", width, width)
        norm(at + "mlp_norm")
        linear(at + "mlp.up", hidden, width)
        if gated:
            linear(at + "mlp.gate", hidden, width)
        linear(at + "mlp.down", width, hidden)
    norm("final_norm")
    if not model["tied"]:
        found["head.weight"] = (VOCABULARY, width)
    return found


def initial_weights(model, seed):
    """Larger than one would train with, and nothing zero, so that every path shows in the loss."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes(model).items():
        noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        if "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * noise
        else:
            weights[name] = (0.1 if len(shape) == 2 else 0.05) * noise
    return weights


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (STEPS, BATCH, CONTEXT + 1), generator=generator, dtype=torch.int32)


# ---- the model -------------------------------------------------------------------------------------------------------

class Decoder:
    """Shapes: B batch, T time, C width, H query heads, G key/value heads, D head size."""

    def __init__(self, model, weights, dtype):
        self.model = model
        self.weights = {name: tensor.to(dtype).clone().requires_grad_() for name, tensor in weights.items()}
        self.dtype = dtype

    def linear(self, name, x):
        return functional.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def norm(self, name, x):
        weight, epsilon = self.weights[name + ".weight"], self.model["norm_epsilon"]
        if self.model["norm"] == "rms":
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * weight
        return functional.layer_norm(x, x.shape[-1:], weight, self.weights.get(name + ".bias"), epsilon)

    def rotate(self, x):
        """x: (B, T, heads, D). Angle t / base^(2i / D) for pair i."""
        time, size = x.shape[1], x.shape[3]
        frequency = self.model["rotary_base"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.arange(time, dtype=torch.float64)[:, None] * frequency  # (T, D/2)
        cosine, sine = (part.to(self.dtype)[None, :, None, :] for part in (angle.cos(), angle.sin()))
        if self.model["rotary_interleaved"]:
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack((a * cosine - b * sine, a * sine + b * cosine), dim=-1).flatten(-2)
        a, b = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat((a * cosine - b * sine, a * sine + b * cosine), dim=-1)

    def attention(self, at, x):
        batch, time, width = x.shape
        heads, groups = self.model["heads"], self.model["kv_heads"]
        size = width // heads
        q = self.linear(at + "q", x).view(batch, time, heads, size)
        k = self.linear(at + "k", x).view(batch, time, groups, size)
        v = self.linear(at + "v", x).view(batch, time, groups, size)
        if self.model["positions"] == "rotary":
            q, k = self.rotate(q), self.rotate(k)
        k, v = (part.repeat_interleave(heads // groups, dim=2) for part in (k, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(size)
        distance = torch.arange(time)[:, None] - torch.arange(time)[None, :]  # query - key
        if self.model["positions"] == "alibi":
            slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)
            scores = scores - slopes.to(self.dtype)[None, :, None, None] * distance.to(self.dtype)
        hidden = distance < 0
        if self.model["window"]:
            hidden = hidden | (distance >= self.model["window"])
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        y = torch.einsum("bhij,bjhd->bihd", weights, v).reshape(batch, time, width)
        return self.linear(at + "o", y)

    def gelu_tanh(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))

    def mlp(self, at, x):
        up, kind = self.linear(at + "up", x), self.model["activation"]
        if kind in ("swiglu", "geglu"):
            gate = self.linear(at + "gate", x)
            y = (functional.silu(gate) if kind == "swiglu" else functional.gelu(gate)) * up
        else:
            y = {"gelu_tanh": self.gelu_tanh, "squared_relu": lambda z: torch.relu(z).pow(2)}[kind](up)
        return self.linear(at + "down", y)

    def loss(self, tokens):
        inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
        x = functional.embedding(inputs, self.weights["token_embedding.weight"])
        if self.model["positions"] == "learned":
            x = x + self.weights["position_embedding.weight"][: inputs.shape[1]]
        for layer in range(self.model["layers"]):
            at = f"layers.{layer}."
            x = x + self.attention(at + "attention.", self.norm(at + "attention_norm", x))
            x = x + self.mlp(at + "mlp.", self.norm(at + "mlp_norm", x))
        x = self.norm("final_norm", x)
        head = self.weights["token_embedding.weight" if self.model["tied"] else "head.weight"]
        logits = functional.linear(x, head)
        return functional.cross_entropy(logits.reshape(-1, VOCABULARY), targets.reshape(-1))


def clip(parameters, precision):
    if precision == "f32":
        return float(torch.nn.utils.clip_grad_norm_(parameters, OPTIMIZER["clip"]))
    norm = math.sqrt(sum(float(parameter.grad.pow(2).sum()) for parameter in parameters))
    for parameter in parameters:
        parameter.grad.mul_(min(1.0, OPTIMIZER["clip"] / norm))
    return norm


def run(name, precision):
    """Tensors of one golden file."""
    seed = 1000 + sorted(MODELS).index(name)
    weights, tokens = initial_weights(MODELS[name], seed), batches(seed + 100)
    decoder = Decoder(MODELS[name], weights, DTYPES[precision])
    parameters = list(decoder.weights.values())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": OPTIMIZER["weight_decay"]},
         {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
        lr=OPTIMIZER["learning_rate"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"])
    out = {f"weights/{key}": tensor for key, tensor in weights.items()}
    out["tokens"] = tokens
    losses, norms = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = decoder.loss(tokens[step])
        loss.backward()
        if step == 0:
            out.update({f"gradients/{key}": p.grad.detach().clone() for key, p in decoder.weights.items()})
        losses.append(float(loss.detach()))
        norms.append(clip(parameters, precision))
        optimizer.step()
    out["losses"] = torch.tensor(losses, dtype=torch.float64)
    out["gradient_norms"] = torch.tensor(norms, dtype=torch.float64)
    for key, parameter in decoder.weights.items():
        if precision == "f32":
            out[f"final/{key}"] = parameter.detach()
        else:
            out[f"final_norms/{key}"] = parameter.detach().norm().reshape(1)
    return out


# ---- safetensors -----------------------------------------------------------------------------------------------------

CODES = {torch.float32: ("F32", "f"), torch.float64: ("F64", "d"), torch.int32: ("I32", "i")}


def write_safetensors(path, tensors, metadata):
    header, blobs, offset = {"__metadata__": metadata}, [], 0
    for name, tensor in tensors.items():
        code, letter = CODES[tensor.dtype]
        blob = struct.pack(f"<{tensor.numel()}{letter}", *tensor.flatten().tolist())
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    dtypes = {code: (dtype, letter) for dtype, (code, letter) in CODES.items()}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, letter = dtypes[entry["dtype"]]
        count = math.prod(entry["shape"])
        values = struct.unpack_from(f"<{count}{letter}", data, 8 + length + entry["data_offsets"][0])
        tensors[name] = torch.tensor(values, dtype=dtype).reshape(entry["shape"])
    return tensors


def largest_difference(made, kept):
    """Largest ||a - b|| / max(||b||, 1e-3 of the largest norm of its kind) over the tensors of a file."""
    worst = 0.0
    if made.keys() != kept.keys():
        return math.inf
    for name, tensor in made.items():
        if name.startswith("final/") and name.endswith("attention.k.bias"):
            continue
        kind = name.split("/")[0] + "/"
        floor = max([float(kept[other].double().norm()) for other in kept if other.startswith(kind)] or [0.0])
        norm = max(float(kept[name].double().norm()), 1e-3 * floor)
        worst = max(worst, float((tensor.double() - kept[name].double()).norm()) / norm)
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    worst_allowed, failed = {"f32": 1e-6, "f64": 1e-12}, False
    for name, precisions in PRECISIONS.items():
        for precision in precisions:
            path, tensors = arguments.out / f"{name}_{precision}.safetensors", run(name, precision)
            if arguments.check:
                difference = largest_difference(tensors, read_safetensors(path))
                failed = failed or not difference <= worst_allowed[precision]
                print(f"{path.name}: largest difference {difference:.2e}")
                continue
            write_safetensors(path, tensors, {"torch": torch.__version__, "model": name, "precision": precision})
            losses = tensors["losses"]
            print(f"{path.name}: {path.stat().st_size} bytes, loss {losses[0]:.9f} -> {losses[-1]:.9f}")
    if not arguments.check:
        curves = {"made_by": "tests/golden/make_torch_curves.py", "torch": torch.__version__, "steps": STEPS,
                  "batch": BATCH, "optimizer": OPTIMIZER, "models": MODELS}
        (arguments.out / "curves.json").write_text(json.dumps(curves, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
