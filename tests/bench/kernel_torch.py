#!/usr/bin/python3
"""Golden numbers for the reference kernels, made with PyTorch in float64 and checked with NumPy where it can.

Writes tests/kernels/golden/kernel_golden.h, a header of named arrays that tests/kernels/golden_test.cpp compares with.
Run it again (Debian: python3-torch, python3-numpy) only when a formula changes; the output is the same every time:

    /usr/bin/python3 tests/bench/kernel_torch.py            write the header
    /usr/bin/python3 tests/bench/kernel_torch.py --check    compare with the committed one, exit 1 when it differs
"""

import pathlib
import sys

import numpy
import torch
import torch.nn.functional as F

HEADER = pathlib.Path(__file__).resolve().parent.parent / "kernels" / "golden" / "kernel_golden.h"
arrays = {}


def keep(name, tensor):
    arrays[name] = [float(v) for v in tensor.detach().reshape(-1).double()]


def numbers(*shape, scale=1.0, phase=0.0):
    """Inputs from a formula, so that they do not depend on a generator's version."""
    count = int(numpy.prod(shape))
    i = numpy.arange(count, dtype=numpy.float64)
    values = numpy.sin(i * 1.618033988749895 + phase) + 0.5 * numpy.cos(i * i * 0.3 + phase)
    values = numpy.round(values * scale * 4096) / 4096  # exact in float32 too
    return torch.tensor(values.reshape(shape), dtype=torch.float64, requires_grad=True)


def agree(ours, theirs, what):
    difference = numpy.abs(numpy.asarray(ours) - theirs.detach().numpy()).max()
    assert difference < 1e-12, f"{what}: NumPy and PyTorch differ by {difference}"


def layer_norm():
    x, w, b, dy = numbers(5, 24, scale=2.0), numbers(24, phase=1.0), numbers(24, phase=2.0), numbers(5, 24, phase=3.0)
    y = F.layer_norm(x, (24,), w, b, eps=1e-5)
    y.backward(dy.detach())
    n = x.detach().numpy()
    n = (n - n.mean(1, keepdims=True)) / numpy.sqrt(n.var(1, keepdims=True) + 1e-5)
    agree(n * w.detach().numpy() + b.detach().numpy(), y, "layer norm")
    for name, t in dict(x=x, w=w, b=b, dy=dy, y=y, dx=x.grad, dw=w.grad, db=b.grad).items():
        keep(f"layer_norm_{name}", t)


def activations():
    functions = dict(
        gelu=F.gelu,
        gelu_tanh=lambda v: F.gelu(v, approximate="tanh"),
        silu=F.silu,
        relu=F.relu,
        squared_relu=lambda v: F.relu(v) ** 2,
    )
    dy = numbers(40, phase=0.7)
    keep("activation_x", numbers(40, scale=3.0))
    keep("activation_dy", dy)
    for name, function in functions.items():
        x = numbers(40, scale=3.0)
        y = function(x)
        y.backward(dy.detach())
        keep(f"{name}_y", y)
        keep(f"{name}_dx", x.grad)


def cross_entropy():
    logits = numbers(7, 19, scale=4.0)
    targets = torch.tensor([0, 18, 5, 7, 7, 1, 12])
    weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 1.0, 0.25, 1.0], dtype=torch.float64)
    nll = F.cross_entropy(logits, targets, reduction="none")
    loss = (nll * weights).sum()
    (loss / weights.sum()).backward()
    a = logits.detach().numpy()
    agree(numpy.log(numpy.exp(a).sum(1)) - a[numpy.arange(7), targets.numpy()], nll, "cross entropy")
    for name, t in dict(logits=logits, targets=targets, weights=weights, nll=nll, loss=loss, dlogits=logits.grad).items():
        keep(f"cross_entropy_{name}", t)


def adamw():
    p = torch.nn.Parameter(numbers(30).detach().clone())
    keep("adamw_start", p)
    optimizer = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        gradient = numbers(30, phase=0.5 + step).detach()
        p.grad = gradient.clone()
        optimizer.step()
        keep(f"adamw_gradient{step}", gradient)
        keep(f"adamw_parameter{step}", p)


def attention():
    heads, kv_heads, length, size = 4, 2, 9, 6
    q, k = numbers(1, length, heads, size, scale=1.5), numbers(1, length, kv_heads, size, scale=1.5, phase=1.0)
    v, d_o = numbers(1, length, kv_heads, size, phase=2.0), numbers(1, length, heads, size, phase=3.0)
    wide = [t.repeat_interleave(heads // kv_heads, dim=2).transpose(1, 2) for t in (k, v)]
    scores = q.transpose(1, 2) @ wide[0].transpose(2, 3) / size**0.5
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
    o = (scores.softmax(-1) @ wide[1]).transpose(1, 2)
    o.backward(d_o.detach())
    names = dict(q=q, k=k, v=v, d_o=d_o, o=o, logsumexp=scores.logsumexp(-1), dq=q.grad, dk=k.grad, dv=v.grad)
    for name, t in names.items():
        keep(f"attention_{name}", t)


def linear():
    x, w, b, dy = numbers(6, 11), numbers(8, 11, phase=1.0), numbers(8, phase=2.0), numbers(6, 8, phase=3.0)
    y = F.linear(x, w, b)
    y.backward(dy.detach())
    agree(x.detach().numpy() @ w.detach().numpy().T + b.detach().numpy(), y, "linear")
    for name, t in dict(x=x, w=w, b=b, dy=dy, y=y, dx=x.grad, dw=w.grad, db=b.grad).items():
        keep(f"linear_{name}", t)


def embedding():
    ids, table = torch.tensor([3, 0, 3, 6, 3]), numbers(7, 4)
    y = F.embedding(ids, table)
    dy = numbers(5, 4, phase=1.0)
    y.backward(dy.detach())
    for name, t in dict(ids=ids, table=table, y=y, dy=dy, dtable=table.grad).items():
        keep(f"embedding_{name}", t)


def text():
    lines = [
        "#pragma once",
        "// Golden numbers in float64. Generated by tests/bench/kernel_torch.py; do not edit.",
        f"// PyTorch {torch.__version__}, NumPy {numpy.__version__}.",
        "",
        "#include <vector>",
        "",
        "// clang-format off",
        "namespace capstan::kernels::golden {",
        "",
        f'inline constexpr const char* kMadeWith = "PyTorch {torch.__version__}, NumPy {numpy.__version__}";',
    ]
    for name, values in arrays.items():
        lines.append(f"inline const std::vector<double> {name} = {{  // {len(values)}")
        for i in range(0, len(values), 6):
            lines.append("    " + ", ".join(repr(v) for v in values[i : i + 6]) + ",")
        lines.append("};")
    return "\n".join(lines + ["", "}  // namespace capstan::kernels::golden", ""])


def main():
    torch.set_num_threads(1)
    for make in (layer_norm, activations, cross_entropy, adamw, attention, linear, embedding):
        make()
    if "--check" in sys.argv:
        same = HEADER.read_text() == text()
        print("same" if same else f"{HEADER} differs from what this machine makes")
        return 0 if same else 1
    HEADER.parent.mkdir(exist_ok=True)
    HEADER.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
