#!/usr/bin/python3
# label: cpu
"""The corpus verbs from outside: corpus_h5py.py BINARY

Builds corpora with the program, opens their shards with h5py and compares every token, document and attribute with the
text; then damages them and checks exit codes and messages. Exit 77: h5py is not installed.
"""

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import h5py
    import numpy
except ImportError as error:
    print(f"SKIP: {error} (Debian: python3-h5py)")
    sys.exit(77)
try:
    import xxhash
except ImportError:
    xxhash = None

END = 256
BINARY = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["CAPSTAN_BINARY"]).resolve()


def run(*arguments, code=0, says=()):
    result = subprocess.run([str(BINARY), "corpus", *map(str, arguments)], capture_output=True, text=True, timeout=120)
    output = result.stdout + result.stderr
    assert result.returncode == code, f"{arguments}: wanted exit code {code}, got {result.returncode}\n{output}"
    for word in says:
        assert word in output, f"{arguments}: wanted {word!r} in\n{output}"
    return result.stdout


def check_shard(path, record):
    """The documents of one shard with their hashes, after everything that the format promises was looked at."""
    assert path.stat().st_size == record["file_size"]
    with h5py.File(path, "r") as file:
        tokens, offsets, hashes = file["tokens"], file["document_offsets"], file["chunk_hashes"]
        names = file["document_hashes"][:]
        assert names.dtype == numpy.dtype("<u8") and len(names) == record["documents"]
        assert tokens.dtype == numpy.dtype("<u2") and tokens.ndim == 1 and tokens.chunks == (record["chunk_tokens"],)
        assert tokens.chunks[0] * 2 <= 256 * 1024
        assert offsets.dtype == numpy.dtype("<u8") and hashes.dtype == numpy.dtype("<u8")
        assert file.attrs["format_version"] == 2 and file.attrs["vocabulary"] == 257
        assert file.attrs["token_count"] == len(tokens) == record["tokens"]
        assert file.attrs["document_count"] == len(offsets) - 1 == record["documents"]
        assert file.attrs["byte_count"] == record["bytes"]
        assert len(file.attrs["tokenizer_hash"]) == 32
        ids, places = tokens[:], offsets[:]
        assert len(hashes) == -(-len(ids) // tokens.chunks[0])
        if xxhash:
            for i, wanted in enumerate(hashes):
                chunk = ids[i * tokens.chunks[0] : (i + 1) * tokens.chunks[0]]
                assert xxhash.xxh3_64_intdigest(chunk.tobytes()) == wanted
            assert xxhash.xxh3_128_hexdigest(hashes[:].tobytes()) == record["hashes_digest"]
            assert xxhash.xxh3_128_hexdigest(places.tobytes()) == record["offsets_digest"]
            assert xxhash.xxh3_128_hexdigest(names[:].tobytes()) == record["document_hashes_digest"]
    places = places.tolist()
    assert places[0] == 0 and places[-1] == len(ids)
    documents = []
    for begin, end in zip(places[:-1], places[1:]):
        assert ids[end - 1] == END and (ids[begin : end - 1] < END).all()
        documents.append(ids[begin : end - 1].astype("u1").tobytes())
    assert sum(map(len, documents)) == record["bytes"]
    return list(zip(documents, names.tolist()))


def records_of(manifest, split):
    return [dict(zip(manifest["shard_columns"], row)) for row in manifest["splits"][split]["shards"]]


def documents_of(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    found = {}
    for name, split in manifest["splits"].items():
        found[name] = [d for record in records_of(manifest, name) for d in check_shard(corpus / record["file"], record)]
        assert len(found[name]) == split["documents"] and sum(len(text) for text, _ in found[name]) == split["bytes"]
    if xxhash:
        whole = found["train"] + found["validation"]
        middle = len(found["train"])
        if manifest["split_rule"]["by"] == "place" and whole[middle - 1][1] == whole[middle][1]:  # one that was cut
            whole[middle - 1 : middle + 1] = [(whole[middle - 1][0] + whole[middle][0], whole[middle][1])]
        for text, name in whole:
            assert xxhash.xxh3_64_intdigest(text[: 1 << 20]) == name
    return manifest, {name: [text for text, _ in documents] for name, documents in found.items()}


def one_file(root):
    text = "".join(random.Random(1).choices("abcdefgh ,.\né€", k=150000)).encode()
    (root / "book.txt").write_bytes(text)
    run("build", "--out", root / "book", "--tokenizer", "bytes", root / "book.txt", says=["vocabulary 257"])
    _, found = documents_of(root / "book")
    assert b"".join(found["train"] + found["validation"]) == text
    assert abs(len(found["train"][0]) - len(text) * 9 // 10) <= 3
    found["validation"][0].decode()  # not cut through a character
    run("info", root / "book", says=["train", "validation", "bytes of text"])
    run("verify", root / "book", says=["good"])
    run("build", "--out", root / "book", root / "book.txt", code=73, says=["already"])


def many_documents(root):
    rng = random.Random(2)
    texts = ["".join(rng.choices("xyz \n", k=rng.randint(1, 900))) + str(i) for i in range(2000)]
    (root / "a.jsonl").write_text("".join(json.dumps({"id": i, "body": t}) + "\n" for i, t in enumerate(texts[:1200])))
    with gzip.open(root / "b.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"body": t}) + "\n" for t in texts[1200:]))
    inputs = [root / "a.jsonl", root / "b.jsonl.gz"]
    run("build", "--out", root / "many", "--field", "body", "--shard-tokens", 100000, "--validation", 0.05, *inputs)
    manifest, found = documents_of(root / "many")
    assert len(manifest["splits"]["train"]["shards"]) > 3
    assert sorted(found["train"] + found["validation"]) == sorted(t.encode() for t in texts)
    assert 40 < len(found["validation"]) < 180
    if xxhash:
        rule = manifest["split_rule"]
        assert rule["by"] == "document"
        for name, held_out in (("train", False), ("validation", True)):
            for text in found[name]:
                assert (xxhash.xxh3_64_intdigest(text) < rule["threshold"]) == held_out
    run("build", "--out", root / "again", "--field", "body", "--shard-tokens", 100000, "--validation", 0.05, *inputs)
    for path in sorted((root / "many").iterdir()):
        assert path.read_bytes() == (root / "again" / path.name).read_bytes(), path


def damage(root):
    shard = root / "many" / "train-00001.h5"
    good = shard.read_bytes()
    with h5py.File(shard, "r") as file:
        place = file["tokens"].id.get_chunk_info(1).byte_offset
    for bad in (
        good[: place + 10] + bytes([good[place + 10] ^ 1]) + good[place + 11 :],
        good[:place] + bytes(65536) + good[place + 65536 :],
    ):
        shard.write_bytes(bad)
        run("verify", root / "many", code=65, says=["train-00001.h5", "chunk 1 of"])
    shard.write_bytes(good[:-1])
    run("verify", root / "many", code=65, says=["train-00001.h5", "truncated"])
    run("info", root / "many", code=65, says=["train-00001.h5", "truncated"])
    shard.unlink()
    run("verify", root / "many", code=66, says=["train-00001.h5", "missing"])
    run("info", root / "many", code=66, says=["train-00001.h5"])
    shard.write_bytes(good)
    run("verify", root / "many")


def bad_inputs(root):
    (root / "empty").write_bytes(b"")
    (root / "bad.jsonl").write_text('{"text": "good"}\n{"text": \n')
    (root / "bad.gz").write_bytes(gzip.compress(b"some text" * 1000)[:-20])
    out = root / "none"
    run("build", "--out", out, root / "not-there", code=66, says=["not-there"])
    run("build", "--out", out, root / "empty", code=65, says=["empty"])
    run("build", "--out", out, root / "bad.jsonl", code=65, says=["bad.jsonl:2", "--skip-bad"])
    run("build", "--out", out, "--skip-bad", 1, "--validation", 0.5, root / "bad.jsonl", says=["1 line", "bad.jsonl:2"])
    shutil.rmtree(out)
    run("build", "--out", out, "-", code=64, says=["--format"])
    run("build", "--out", out, "--train-tokenizer", 300, "--tokenizer", "bytes", root / "book.txt", code=64)
    run("build", "--out", out, "--pattern", "x", root / "book.txt", code=64, says=["--train-tokenizer"])
    run("build", "--out", out, "--format", "megatron", root / "book.txt", code=66, says=["PREFIX.idx"])
    run("build", "--out", out, root / "bad.gz", code=65, says=["bad.gz"])
    run("build", "--out", out, "--tokenizer", root / "not-there.json", root / "book.txt", code=66)
    run("build", "--out", out, "--validation", 2, root / "book.txt", code=64)
    run("build", root / "book.txt", code=64, says=["--out"])
    run("frobnicate", code=64)
    run("info", root / "empty-place", code=66)
    assert not out.exists()


def main():
    root = Path(tempfile.mkdtemp(prefix="capstan_h5py."))
    try:
        for check in (one_file, many_documents, damage, bad_inputs):
            check(root)
            print(f"ok {check.__name__}")
    finally:
        shutil.rmtree(root)
    if not xxhash:
        print("note: python3-xxhash is not installed, so hashes were checked by the program alone")


if __name__ == "__main__":
    os.environ.pop("CAPSTAN_FAIL", None)
    main()
