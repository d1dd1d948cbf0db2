#!/usr/bin/python3
# label: cpu
"""Every device source is compiled for the devices that the build promises: fat_binary.py [LIBRARY]

Walks the fat binaries (.nv_fatbin) in the objects of libcapstan_cuda.a and looks for code for sm_80 and sm_90 and for
PTX, which a driver compiles for what comes later. Needs no CUDA tool. Exit 77: built without the CUDA toolkit.
"""

import os
import struct
import sys
from pathlib import Path

PTX, CODE = 1, 2
WANTED = {(CODE, 80), (CODE, 90), (PTX, 80)}
MAGIC = 0xBA55ED50


def members(archive):
    """(name, contents) of the files in an ar archive of the GNU kind."""
    assert archive[:8] == b"!<arch>\n", "not an archive"
    names, at = b"", 8
    while at + 60 <= len(archive):
        name, size = archive[at:at + 16].decode().rstrip(), int(archive[at + 48:at + 58])
        body = archive[at + 60:at + 60 + size]
        if name == "//":
            names = body
        elif name[0] == "/" and name[1:].isdigit():
            start = int(name[1:])
            yield names[start:names.index(b"/\n", start)].decode(), body
        elif name != "/":
            yield name.rstrip("/"), body
        at += 60 + size + size % 2


def sections(elf):
    assert elf[:4] == b"\x7fELF", "not an object file"
    table, = struct.unpack_from("<Q", elf, 0x28)
    width, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * width) for i in range(count)]
    for name, _, _, _, offset, size in headers:
        start = headers[names_at][4] + name
        yield elf[start:elf.index(b"\0", start)].decode(), elf[offset:offset + size]


def contents(fat):
    """(kind, architecture) of everything in a section of fat binaries."""
    at = 0
    while at + 16 <= len(fat):
        magic, _, header, size = struct.unpack_from("<IHHQ", fat, at)
        if magic != MAGIC:
            at += 8  # padding
            continue
        entry, at = at + header, at + header + size
        while entry < at:
            kind, _, header, size, _, _, _, _, architecture = struct.unpack_from("<HHIQIIHHI", fat, entry)
            yield kind, architecture
            entry += header + size


def main():
    build = Path(os.environ.get("CAPSTAN_BUILD", "build"))
    source = Path(os.environ.get("CAPSTAN_SOURCE", Path(__file__).resolve().parents[2]))
    library = Path(sys.argv[1]) if len(sys.argv) > 1 else build / "kernels" / "cuda" / "libcapstan_cuda.a"
    objects = {}
    if library.exists():
        objects = {name: body for name, body in members(library.read_bytes()) if name.endswith(".cu.o")}
    if not objects:
        print(f"SKIP: no device code in {library}: built without the CUDA toolkit")
        sys.exit(77)
    wrong = []
    for path in sorted((source / "kernels" / "cuda").glob("*.cu")):
        body = objects.pop(path.name + ".o", None)
        if body is None:
            wrong.append(f"{path.name} is not in {library.name}")
            continue
        found = {entry for name, data in sections(body) if name == ".nv_fatbin" for entry in contents(data)}
        for kind, architecture in sorted(WANTED - found):
            what = "PTX of compute_" if kind == PTX else "code for sm_"
            wrong.append(f"{path.name}: no {what}{architecture}; it holds {sorted(found)}")
    wrong += [f"{name} has no source" for name in objects]
    assert not wrong, "\n".join(wrong)
    print("every device source holds code for sm_80 and sm_90 and PTX of compute_80")


if __name__ == "__main__":
    main()
