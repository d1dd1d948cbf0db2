#!/usr/bin/env python3
# label: plan
"""The quickstart's helpers: text out of packages, the loss curve, the two figures at the end, and its command line."""
import json
import lzma
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))
import plot_loss  # noqa: E402
import quickstart_report  # noqa: E402
import quickstart_text  # noqa: E402


def launch(*arguments, **environment):
    return subprocess.run([*map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, **environment}, check=False)


class Text(unittest.TestCase):
    def test_paragraphs_are_joined_and_tables_dropped(self):
        text = ("The first line of a paragraph that is long enough to be\n   followed by a second one.\n\n"
                "  name      size     flags\n  a.out     12345    0x12\n\n+----+----+\n| a  | b  |\n+----+----+\n\n"
                "A \u201cquoted\u201d word\u2014with a dash.\n")
        self.assertEqual(list(quickstart_text.paragraphs(text)),
                         ["The first line of a paragraph that is long enough to be followed by a second one.",
                          'A "quoted" word--with a dash.'])

    def test_html_loses_navigation_programs_and_tables(self):
        page = ("<html><head><title>no</title></head><body><div class='navheader'><a>Prev</a></div>"
                "<p>One &amp; two,<br>three &lt;four&gt;.</p><pre>int main()</pre><table><tr><td>cell</td></tr></table>"
                "<script>alert(1)</script><p>Last.</p><div class='navfooter'>Next</div></body></html>")
        words = " ".join(quickstart_text.from_html(page).split())
        self.assertEqual(words, "One & two, three <four>. Last.")

    def test_asciidoc_loses_its_marks(self):
        text = ("git-x(1)\n========\n\nOPTIONS\n-------\n--all::\n\tShow `every` branch, see linkgit:git-log[1].\n+\n"
                "More of it.\n\n----\n$ a program\n----\n")
        plain = quickstart_text.from_asciidoc(text)
        self.assertIn("Show every branch, see git-log(1).", plain)
        for mark in ("====", "::", "`", "linkgit", "a program"):
            self.assertNotIn(mark, plain)

    def test_dictionary_entries(self):
        text = ("00-database-info\nabout the database\n\n\nbyte\noctet\n\n   <unit> Eight {bits}, the smallest "
                "addressable unit\n   of memory.\n\n   (1999-01-01)\n\nsee elsewhere\n\n   {byte}\n")
        entries = list(filter(None, map(quickstart_text.entry_text, quickstart_text.from_dictionary(text))))
        self.assertEqual(entries, ["byte, octet\n\nEight bits, the smallest addressable unit of memory."])

    def test_documents_gather_pieces_and_lose_none(self):
        pieces = [f"piece {number} " + "x" * 3000 for number in range(50)]
        made = list(quickstart_text.gathered(pieces))
        self.assertEqual("\n\n".join(part.rstrip("\n") for part in made), "\n\n".join(pieces))
        self.assertTrue(all(len(part) >= quickstart_text.DOCUMENT_BYTES for part in made[:-1]))


class Figures(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        with open(self.folder / "metrics.jsonl", "w", encoding="utf-8") as file:
            for step in range(1, 41):
                row = {"step": step, "loss": 5.0 / step}
                if step % 20 == 0:
                    row.update(validation_loss=5.5 / step, validation_bits_per_byte=8.0 / step)
                file.write(json.dumps(row) + "\n")
            file.write('{"step": 41, "lo')  # the run was killed here

    def test_the_picture_is_well_formed_and_holds_the_curves(self):
        answer = launch(sys.executable, "-B", ROOT / "launch/plot_loss.py", self.folder)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertIn("o validation loss", answer.stdout)
        picture = ElementTree.parse(self.folder / "loss.svg").getroot()
        space = "{http://www.w3.org/2000/svg}"
        lines = picture.findall(f"{space}polyline")
        self.assertEqual(len(lines), 3)
        self.assertEqual(len(lines[0].get("points").split()), 40)
        self.assertEqual(len(picture.findall(f"{space}circle")), 2)
        for line in lines:
            for x, y in (map(float, pair.split(",")) for pair in line.get("points").split()):
                self.assertTrue(80 <= x <= 780 and 30 <= y <= 420, (x, y))

    def test_a_run_without_steps_is_refused(self):
        (self.folder / "metrics.jsonl").write_text("")
        self.assertNotEqual(launch(sys.executable, "-B", ROOT / "launch/plot_loss.py", self.folder).returncode, 0)

    def test_one_step_is_drawn(self):
        self.assertIn("step 7", plot_loss.text_plot([(7, 2.5)], []))

    def test_bits_per_byte_beside_xz(self):
        validation = self.folder / "validation.txt"
        validation.write_bytes(b"the same words again and again " * 100)
        squeezed = 8 * len(lzma.compress(validation.read_bytes(), preset=9)) / validation.stat().st_size
        line = quickstart_report.compression(self.folder, validation)
        self.assertIn(f"{squeezed:.3f}", line)
        self.assertIn("0.200 bits per byte at step 40", line)
        self.assertIn("the model is ahead" if squeezed > 0.2 else "xz is ahead", line)

    def test_share_of_known_words(self):
        (self.folder / "text").mkdir()
        (self.folder / "text" / "a.txt").write_text("The cat sat. On the mat!")
        sample = self.folder / "sample.txt"
        sample.write_text("the Cat sat on zzyx")
        line = quickstart_report.spelling(self.folder / "text", sample)
        self.assertTrue(line.startswith("80% of the 5 words"), line)
        self.assertIn("zzyx", line)


class CommandLine(unittest.TestCase):
    def test_mistakes_are_named_before_anything_is_done(self):
        with tempfile.TemporaryDirectory() as home:
            for arguments, code, words in ((["--steps", "x"], 64, "no count"), (["--what"], 64, "--what"),
                                           (["plain"], 64, "key=value"), (["--ranks"], 64, "wants a value"),
                                           (["--text", f"{home}/none"], 66, "no directory")):
                answer = launch(ROOT / "launch/quickstart", *arguments, CAPSTAN_HOME=home)
                self.assertEqual(answer.returncode, code, arguments)
                self.assertIn(words, answer.stderr)
            self.assertEqual(os.listdir(home), [])

    def stand_ins(self, folder):
        """A tree of the quickstart alone: what it calls does nothing but leave what it looks for."""
        for name, text in (("launch/install-dependencies", "#!/bin/sh\n"),
                           ("launch/plot_loss.py", ""), ("launch/quickstart_report.py", ""),
                           ("bin/mpirun", '#!/bin/sh\nfor word; do case $word in run.dir=*) run=${word#run.dir=} ;;\n'
                                          'train.steps=*) steps=${word#train.steps=} ;; esac; done\nmkdir -p "$run"\n'
                                          'printf "[train]\\nsteps = %s\\n" "${steps:-600}" >"$run/config.toml"\n'
                                          'printf "%s\\n" "$*" >>"$run/calls"; exit "${ENDS_WITH:-0}"\n'),
                           ("bin/capstan", "#!/bin/sh\nexit 0\n")):
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        shutil.copy(ROOT / "launch/quickstart", folder / "launch/quickstart")

    def test_what_it_says_to_do_next_goes_on_with_the_same_run(self):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name).resolve()
            self.stand_ins(folder)
            text = folder / "some books"
            text.mkdir()
            environment = {"CAPSTAN_HOME": str(folder / "runs"), "CAPSTAN_BINARY": str(folder / "bin/capstan"),
                           "PATH": f"{folder}/bin:{os.environ['PATH']}"}
            quickstart = folder / "launch/quickstart"
            run = folder / "runs/quickstart-some books/run"
            options = ("--text", text, "--ranks", "1", "--steps", "20", "train.seed=[3, 4]")
            for ending, code, wanted in (("0", 0, "--steps 100"), ("75", 75, "--steps 20")):
                answer = launch(quickstart, *options, ENDS_WITH=ending, **environment)
                self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
                told = next(line for line in answer.stdout.splitlines() if "--text" in line)
                told = told.partition("go on with: ")[2] or told
                self.assertIn(wanted, told)
                before = len((run / "calls").read_text().splitlines())
                again = launch("bash", "-c", told, **environment)
                self.assertEqual(again.returncode, 0, again.stdout + again.stderr)
                calls = (run / "calls").read_text().splitlines()
                self.assertEqual(len(calls), before + 1, told)
                self.assertIn("-n 1 ", calls[-1])
                self.assertIn("train.seed=[3, 4]", calls[-1])
                self.assertIn(f"train.steps={wanted.split()[1]} ", calls[-1])

    def test_help(self):
        answer = launch(ROOT / "launch/quickstart", "--help")
        self.assertEqual(answer.returncode, 0)
        self.assertIn("--steps", answer.stdout)

    def test_summary_counts_and_cannot_be_green_without_tests(self):
        with tempfile.TemporaryDirectory() as folder:
            tests, log, listing = (pathlib.Path(folder) / name for name in ("t.xml", "t.log", "t.json"))
            labels = {"a": "plan", "b": "cpu", "c": "cuda"}
            listing.write_text(json.dumps({"tests": [
                {"name": name, "properties": [{"name": "LABELS", "value": [label]}]} for name, label in labels.items()]}))
            case = '<testcase name="{}" time="1.5" status="{}">{}</testcase>'
            log.write_text("67% tests passed, 1 tests failed out of 3\n")
            tests.write_text("<testsuite>" + case.format("a", "run", "") + case.format("b", "fail", "<failure/>") +
                             case.format("c", "notrun", "<skipped/><system-out>SKIP: no GPU</system-out>") +
                             "</testsuite>")
            answer = launch(sys.executable, "-B", ROOT / "tests/summary.py", tests, log, listing)
            self.assertEqual(answer.returncode, 1)
            self.assertIn("67% tests passed", answer.stdout)
            self.assertIn("c: no GPU", answer.stdout)
            self.assertRegex(answer.stdout, r"plan +1 +0 +0")
            self.assertRegex(answer.stdout, r"cpu +0 +1 +0")
            tests.write_text("<testsuite></testsuite>")
            answer = launch(sys.executable, "-B", ROOT / "tests/summary.py", tests, log, listing)
            self.assertEqual(answer.returncode, 1)


if __name__ == "__main__":
    unittest.main()
