"""What tests of stopped, killed and repeated runs share beyond harness.py: the tensors of a checkpoint put together
from all ranks' files, and one assertion that two runs are the same to the last bit.
"""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ProductTest, checkpoints, metrics, numbers  # noqa: E402

BYTES = {"F64": 8, "F32": 4, "BF16": 2}
ONE_THREAD = ("train.threads=1",)


def checkpoint_path(run, step=None):
    return pathlib.Path(run) / "checkpoints" / f"step-{checkpoints(run)[-1] if step is None else step}"


def tensors(run, step=None):
    """Bytes of every tensor of a checkpoint (the newest), whole, by name: what is left when the layout is taken away."""
    folder = checkpoint_path(run, step)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [(folder / entry["name"]).read_bytes() for entry in manifest["files"]]
    found = {}
    for entry in manifest["tensors"]:
        each, parts = BYTES[entry["dtype"]], []
        for piece in sorted(entry["slices"], key=lambda piece: piece["first"]):
            data = files[piece["file"]]
            start = piece["offset"]
            parts.append(data[start : start + piece["count"] * each])
        found[entry["name"]] = b"".join(parts)
    return found


class RepeatTest(ProductTest):
    def assert_same_steps(self, run, whole):
        """Equal text of step, loss, norm and learning rate, line by line."""
        got, wanted = numbers(metrics(run)), numbers(metrics(whole))
        for mine, theirs in zip(got, wanted):
            self.assertEqual(mine, theirs)
        self.assertEqual(len(got), len(wanted))

    def assert_same_weights(self, run, whole):
        got, wanted = tensors(run), tensors(whole)
        self.assertEqual(sorted(got), sorted(wanted))
        self.assertEqual([name for name in wanted if got[name] != wanted[name]], [])

    def assert_same_run(self, run, whole):
        self.assert_same_steps(run, whole)
        self.assert_same_weights(run, whole)
