#!/usr/bin/env python3
# label: cpu
# timeout: 300
"""Malformed Hugging Face directories: each is refused with exit code 65 and a message that names the file (or tensor),
no file outside is opened, and nothing is left under the final name. Each case is one change to a good directory, which
is converted first, so that a case cannot pass for another reason."""
import json
import os
import pathlib
import shutil
import socket
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import SOURCE, capstan  # noqa: E402

GOLDEN = SOURCE / "tests" / "io" / "golden" / "weights" / "gpt2"
NAME = "transformer.wte.weight"
FORGED = "\nforged: line\u2028forged\x9b2J"


def parts(folder):
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + length]), data[8 + length:]


def write(folder, header, data, length=None, name="model.safetensors"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def header_case(change):
    """A change to the parsed header; may return other data."""
    def case(folder):
        header, data = parts(folder)
        write(folder, header, change(header, data) or data)
    return case


def text_case(change):
    """A change to the header's text."""
    def case(folder):
        header, data = parts(folder)
        write(folder, change(json.dumps(header).encode()), data)
    return case


def field(**values):
    return header_case(lambda header, _: header[NAME].update(values))


def config_case(**values):
    def case(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for key, value in values.items():
            if value is KeyError:
                del config[key]
            else:
                config[key] = value
        path.write_text(json.dumps(config))
    return case


def llama_case(**values):
    """Of a family that reads nested members."""
    return config_case(model_type="llama", vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
                       num_attention_heads=4, max_position_embeddings=64, **values)


def config_text(change):
    def case(folder):
        path = folder / "config.json"
        path.write_bytes(change(path.read_bytes()))
    return case


def sharded(folder):
    header, data = parts(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    return {name: "model-00001-of-00001.safetensors" for name in header if name != "__metadata__"}


def index_case(change):
    """A change to a good index; may return its text."""
    def case(folder):
        index = {"metadata": {"total_size": 1}, "weight_map": sharded(folder)}
        text = change(index, folder)
        (folder / "model.safetensors.index.json").write_bytes(text or json.dumps(index).encode())
    return case


def points_to(name):
    return index_case(lambda index, _: index["weight_map"].update({NAME: name}))


def linked(folder_of_target):
    def case(folder):
        real = folder / "model.safetensors"
        target = folder.parent / "elsewhere.safetensors"
        shutil.move(real, target)
        folder_of_target(folder, target)
    return case


def link_out(folder, target):
    os.symlink(target, folder / "model.safetensors")


def index_is_a_link(folder):
    index_case(lambda index, _: None)(folder)
    name = "model.safetensors.index.json"
    (folder / name).rename(folder.parent / "elsewhere.json")
    os.symlink("../elsewhere.json", folder / name)


def loops(name):
    def case(folder):
        (folder / name).unlink(missing_ok=True)
        if name != "model.safetensors":
            (folder / "model.safetensors").unlink()
        os.symlink(name, folder / name)
    return case


def socket_at(name):
    def case(folder):
        (folder / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / name))
    return case


def metadata(members):
    return header_case(lambda header, _: header.update({"__metadata__": {str(i): "x" for i in range(members)}}))


def sparse(**sizes):
    def case(folder):
        for name, size in sizes.items():
            with open(folder / f"{name}.json", "wb") as file:
                file.truncate(size << 20)
    return case


def unnamed(index, _):
    del index["weight_map"]["transformer.ln_f.bias"]


def link_in_index(folder, target):
    shutil.copy(target, folder / "model.safetensors")
    names = sharded(folder)
    (folder / "model-00001-of-00001.safetensors").unlink()
    os.symlink(target, folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def file_case(change):
    def case(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
    return case


def duplicate(text):
    first = text.index(b'"transformer.wpe.weight"')
    return text[:first] + b'"transformer.wte.weight"' + text[first + len(b'"transformer.wpe.weight"'):]


def overlap(header, _):
    a, b = header["transformer.wpe.weight"], header[NAME]
    b["data_offsets"] = [a["data_offsets"][0], a["data_offsets"][0] + 61 * 32 * 4]


def hole(header, data):
    end = header[NAME]["data_offsets"][1]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [x + 8 for x in entry["data_offsets"]]
    return data[:end] + b"\0" * 8 + data[end:]


CASES = {
    # the file
    "empty file": file_case(lambda data: b""),
    "seven bytes": file_case(lambda data: data[:7]),
    "only a length": file_case(lambda data: data[:8]),
    "header length beyond the file": file_case(lambda data: struct.pack("<Q", len(data)) + data[8:]),
    "header length of 2^63": file_case(lambda data: struct.pack("<Q", 1 << 63) + data[8:]),
    "header length of 2^64 - 1": file_case(lambda data: struct.pack("<Q", (1 << 64) - 1) + data[8:]),
    "header length above 100 MB": file_case(lambda data: struct.pack("<Q", 100_000_001) + data[8:]),
    "header length zero": file_case(lambda data: struct.pack("<Q", 0) + data[8:]),
    "one byte missing": file_case(lambda data: data[:-1]),
    "data cut in half": file_case(lambda data: data[:len(data) // 2]),
    "bytes after the end": file_case(lambda data: data + b"\0" * 16),
    "a pickle": file_case(lambda data: b"\x80\x02}q\0." * 100),
    "not a regular file": lambda folder: ((folder / "model.safetensors").unlink(),
                                          (folder / "model.safetensors").mkdir()),
    # the header
    "header begins with a space": text_case(lambda text: b" " + text),
    "header is a list": text_case(lambda text: b"[" + text + b"]"),
    "header is not JSON": text_case(lambda text: b"{" + text),
    "header ends early": text_case(lambda text: text[:-3]),
    "text after the header": text_case(lambda text: text + b"{}"),
    "not UTF-8": text_case(lambda text: text.replace(b"wte", b"w\xffe")),
    "duplicate name": text_case(duplicate),
    "a name that clears the screen": header_case(lambda header, _: header.update({"\x1b[2J\0\x9b": header.pop(NAME)})),
    "empty name": header_case(lambda header, _: header.update({"": header.pop(NAME)})),
    "name of 5000 bytes": header_case(lambda header, _: header.update({"x" * 5000: header.pop(NAME)})),
    "deep nesting": text_case(lambda text: b'{"a":' * 300 + b"1" + b"}" * 300),
    "metadata is a number": header_case(lambda header, _: header.update({"__metadata__": 7})),
    "metadata holds a list": header_case(lambda header, _: header.update({"__metadata__": {"a": [1]}})),
    "a tensor is a string": header_case(lambda header, _: header.update({NAME: "tensor"})),
    # its fields
    "no dtype": header_case(lambda header, _: header[NAME].pop("dtype") and None),
    "no shape": header_case(lambda header, _: header[NAME].pop("shape") and None),
    "no offsets": header_case(lambda header, _: header[NAME].pop("data_offsets") and None),
    "unknown dtype": field(dtype="F33"),
    "dtype of eight bits": field(dtype="F8_E4M3"),
    "a weight of eight bits": header_case(lambda header, data: header.update({NAME: {
        "dtype": "F8_E4M3", "shape": [61, 128], "data_offsets": header[NAME]["data_offsets"]}})),
    "seventy thousand members of metadata": metadata(70_000),
    "dtype is a number": field(dtype=4),
    "shape product overflows": field(shape=[1 << 33, 1 << 33]),
    "shape of 2^64": text_case(lambda text: text.replace(b"[61, 32]", b"[18446744073709551616, 32]")),
    "negative shape": field(shape=[-61, -32]),
    "fractional shape": field(shape=[61.5, 32]),
    "shape in scientific notation": text_case(lambda text: text.replace(b"[61, 32]", b"[6.1e1, 32]")),
    "shape with null": field(shape=[None, 32]),
    "a hundred dims": field(shape=[1] * 98 + [61, 32]),
    "shape disagrees with offsets": field(shape=[61, 31]),
    "one offset": field(data_offsets=[0]),
    "three offsets": field(data_offsets=[0, 4, 8]),
    "offsets reversed": header_case(lambda header, _: header[NAME]["data_offsets"].reverse()),
    "negative offset": field(data_offsets=[-4, 7804]),
    "offsets beyond the data": field(data_offsets=[1 << 40, (1 << 40) + 61 * 32 * 4]),
    "offsets overlap": header_case(overlap),
    "hole between tensors": header_case(hole),
    # the index
    "index without weight_map": index_case(lambda index, _: index.pop("weight_map") and None),
    "empty weight_map": index_case(lambda index, _: index["weight_map"].clear()),
    "weight_map is a list": index_case(lambda index, _: index.update({"weight_map": []})),
    "index is not JSON": index_case(lambda index, _: b"weight_map"),
    "shard is an absolute path": points_to("/etc/passwd.safetensors"),
    "shard is above": points_to("../elsewhere.safetensors"),
    "shard is in a folder": points_to("sub/model.safetensors"),
    "shard has a zero byte": points_to("model\0.safetensors"),
    "shard is a number": points_to(1),
    "shard is no safetensors file": points_to("config.json"),
    "shard is an empty name": points_to(""),
    "shard is a link": linked(link_in_index),
    "the file is a link": linked(link_out),
    "the index is a link": index_is_a_link,
    "the file is a link to itself": loops("model.safetensors"),
    "the index is a link to itself": loops("model.safetensors.index.json"),
    "the file is a socket": socket_at("model.safetensors"),
    "index leaves a tensor out": index_case(unnamed),
    "index names a tensor that is not there": index_case(
        lambda index, _: index["weight_map"].update({"transformer.h.9.ln_1.weight": "model-00001-of-00001.safetensors"})),
    # config.json
    "config is empty": config_text(lambda text: b""),
    "config is a list": config_text(lambda text: b"[]"),
    "config of 5 MB": config_text(lambda text: text + b" " * 5_000_000),
    "config nested deeply": config_text(lambda text: b'{"a":' * 100 + b"1" + b"}" * 100),
    "config with a duplicate key": config_text(lambda text: text.rstrip()[:-1] + b',"n_embd":64}'),
    "no model_type": config_case(model_type=KeyError),
    "unknown model_type": config_case(model_type="mamba"),
    "model_type with a line of its own": config_case(model_type="x" + FORGED),
    "a known model_type with a line of its own": config_case(model_type="gpt2" + FORGED),
    "a nested name with a line of its own": llama_case(rope_scaling={"x" + FORGED: {}}),
    "a nested value with a line of its own": llama_case(rope_scaling={"rope_type": "x" + FORGED}),
    "a nested value that is no word": llama_case(rope_scaling={"rope_type": "linear", "factor": "2" + FORGED}),
    "an activation with a line of its own": config_case(activation_function="gelu" + FORGED),
    "model_type is a number": config_case(model_type=2),
    "no layers": config_case(n_layer=0),
    "a billion layers": config_case(n_layer=1_000_000_000),
    "more layers than tensors": config_case(n_layer=60000),
    "negative width": config_case(n_embd=-32),
    "width of 2^60": config_case(n_embd=1 << 60),
    "width is a word": config_case(n_embd="wide"),
    "heads that do not divide": config_case(n_head=5),
    "no heads": config_case(n_head=0),
    "millions of heads": config_case(n_head=1 << 23, n_embd=1 << 23),
    "huge vocabulary": config_case(vocab_size=1 << 62),
    "another vocabulary": config_case(vocab_size=62),
    "unknown activation": config_case(activation_function="tanhshrink"),
    "epsilon is NaN": config_text(lambda text: text.replace(b"1e-05", b"NaN")),
    "scores that are not scaled": config_case(scale_attn_weights=False),
    # tensors
    "a tensor is missing": header_case(lambda header, data: header.pop(
        "transformer.wte.weight") and data[:header_end(header)]),
    "a tensor too many": header_case(lambda header, data: header.update(
        {"extra": {"dtype": "F32", "shape": [2], "data_offsets": [len(data), len(data) + 8]}}) or data + b"\0" * 8),
    "a tensor of integers": field(dtype="I32"),
    "a head that is not the embedding": header_case(lambda header, data: header.update(
        {"lm_head.weight": {"dtype": "F32", "shape": [61, 32], "data_offsets": [len(data), len(data) + 61 * 32 * 4]}})
        or data + b"\1" * (61 * 32 * 4)),
    "a tensor that is not finite": header_case(lambda header, data: data[:header[NAME]["data_offsets"][0]] +
                                               struct.pack("<f", float("nan")) * (61 * 32) +
                                               data[header[NAME]["data_offsets"][1]:]),
    # side files
    "tokenizer.json is a link": lambda folder: os.symlink("/etc/passwd", folder / "tokenizer.json"),
    "config.json is a socket": socket_at("config.json"),
    "side files that are large together": sparse(vocab=200, tokenizer_config=100),
}


def header_end(header):
    return max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")


class Hostile(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory(prefix="capstan-hostile-")
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def model(self, name):
        folder = self.folder / name / "model"
        folder.parent.mkdir()
        shutil.copytree(GOLDEN, folder)
        (folder / "logits.safetensors").unlink()
        return folder

    def test_the_good_one_is_taken(self):
        for name, change in (("single", lambda folder: None), ("sharded", index_case(lambda index, _: None)),
                             ("written anew", header_case(lambda header, data: None))):
            folder = self.model(name)
            change(folder)
            answer = capstan("convert", "--from", folder, "--to", folder.parent / "out", "--format", "capstan")
            self.assertEqual(answer.returncode, 0, f"{name}: {answer.stderr}")

    def test_there_are_enough(self):
        self.assertGreaterEqual(len(CASES), 60)

    def test_each_is_refused(self):
        for number, (name, change) in enumerate(CASES.items()):
            with self.subTest(case=name):
                folder = self.model(str(number))
                change(folder)
                out = folder.parent / "out"
                answer = capstan("convert", "--from", folder, "--to", out, "--format", "capstan")
                self.assertEqual(answer.returncode, 65, answer.stdout + answer.stderr)
                self.assertTrue(str(folder) in answer.stderr or "proof" in answer.stderr, answer.stderr)
                self.assertLess(len(answer.stderr), 4000)
                self.assertNotRegex(answer.stderr.replace("\n", ""), r"[\x00-\x1f\x7f-\x9f]")
                self.assertNotRegex(answer.stderr, r"(?m)^\W*forged")  # a line of the file's, not of ours
                self.assertEqual([path.name for path in folder.parent.iterdir() if path.name.startswith("out")], [])


if __name__ == "__main__":
    unittest.main()
