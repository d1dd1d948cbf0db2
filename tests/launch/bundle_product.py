#!/usr/bin/env python3
# label: slow
# timeout: 900
"""The bundle on a machine with nothing but a C library and a shell: a root of its own, made of a memory file system."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import BINARY, CONFIG, SOURCE, write_text  # noqa: E402

LIMIT = 60 << 20
TOOLS = ["/bin/sh", "/usr/bin/readlink"]

INSIDE = """
set -e
mount -t tmpfs none "$1/root"
cp -r "$1/bare/." "$1/root/"
for place in proc dev; do mkdir -p "$1/root/$place"; mount --rbind "/$place" "$1/root/$place"; done
exec env -i PATH=/usr/bin:/bin HOME=/ TERM=dumb OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \\
  OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1 $OWN /usr/sbin/chroot "$1/root" /bin/sh -e /trial/script
"""

SCRIPT = """
cd /trial
for gone in /usr/lib/x86_64-linux-gnu/libmpi.so.40 /usr/lib/x86_64-linux-gnu/libhdf5_serial.so.103 /usr/bin/mpirun; do
  if [ -e "$gone" ]; then echo "the bare machine has $gone"; exit 1; fi
done
export PATH="/capstan/bin:$PATH"
capstan --version
capstan doctor --dir /trial
capstan corpus build --out /trial/corpus --tokenizer bytes /trial/text
mpirun --oversubscribe -n 2 capstan train /trial/run.toml data.corpora=/trial/corpus run.dir=/trial/run train.steps=3 \\
  schedule.warmup_steps=1 train.evaluate_every=0 train.device=cpu
if [ "$(readlink -f /trial/run/checkpoints)" = "" ]; then exit 1; fi
echo "bundle works"
"""


def skip(why):
    print(f"SKIP: {why}")
    sys.exit(77)


def copy_bare(root):
    """A shell, readlink and the C library they need, where they are here."""
    for tool in TOOLS:
        target = root / tool.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(tool), target)
        listed = subprocess.run(["ldd", tool], capture_output=True, text=True, check=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                place = root / word.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(os.path.realpath(word), place)
    # What else belongs to every machine's C library.
    library = pathlib.Path("/lib/x86_64-linux-gnu")
    for name in ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libresolv.so.2"]:
        if (library / name).exists():
            place = root / "lib/x86_64-linux-gnu" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(library / name), place)
    for folder in ["tmp", "etc", "dev", "proc", "trial"]:
        (root / folder).mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")


def main():
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        skip("no mount namespace can be made here: that takes root")
    with tempfile.TemporaryDirectory(prefix="capstan-bundle-") as name:
        folder = pathlib.Path(name)
        archive = folder / "capstan.tar.xz"
        made = subprocess.run([SOURCE / "launch/bundle", "--binary", BINARY, "--out", archive, "--fast"],
                              capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        print(made.stdout, end="")
        assert archive.stat().st_size <= LIMIT, "the bundle is larger than 60 MiB"
        (folder / "root").mkdir()
        bare = folder / "bare"
        (bare / "capstan").mkdir(parents=True)
        subprocess.run(["tar", "-C", bare / "capstan", "--strip-components=1", "-xf", archive], check=True)
        copy_bare(bare)
        write_text(bare / "trial/text", 30)
        (bare / "trial/run.toml").write_text(CONFIG, encoding="utf-8")
        (bare / "trial/script").write_text(SCRIPT, encoding="utf-8")
        for own in ["", "CAPSTAN_OWN_LIBC=1"]:
            ran = subprocess.run(["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", INSIDE, "sh", folder],
                                 capture_output=True, text=True, timeout=600, env={**os.environ, "OWN": own},
                                 stdin=subprocess.DEVNULL, check=False)
            assert ran.returncode == 0 and "bundle works" in ran.stdout, f"{own}\n{ran.stdout}\n{ran.stderr}"
            assert "step 3/3" in ran.stdout, ran.stdout
            print(f"runs on a bare machine ({own or 'its C library'})")


if __name__ == "__main__":
    main()
