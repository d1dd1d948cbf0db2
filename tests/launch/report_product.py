#!/usr/bin/env python3
# label: mpi
# timeout: 300
"""The report of a small sweep: opens from disk in a real browser, light and dark, and its pictures are pictures.

With CAPSTAN_ARTEFACTS=DIR the screenshots are kept there.
"""
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest
import xml.etree.ElementTree as xml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import ENVIRONMENT, ProductTest, capstan  # noqa: E402
from sweep_product import SWEEP  # noqa: E402

BROWSER = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


class Report(ProductTest):
    config_text = SWEEP

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.out = cls.shared / "out"
        answer = capstan("sweep", cls.config, f"data.corpora={cls.corpus}", f"sweep.dir={cls.out}", "--no-calibration",
                         "sweep.decide.unique_tokens=1e6", "sweep.name=small")
        if answer.returncode != 0:
            raise AssertionError(answer.stdout + answer.stderr)
        answer = capstan("report", cls.out, "--budget", "1e10", "--budget", "1e11")
        if answer.returncode != 0:
            raise AssertionError(answer.stdout + answer.stderr)
        cls.page = cls.out / "report/index.html"

    def test_figures_stand_alone(self):
        figures = sorted(self.page.parent.glob("*.svg"))
        self.assertGreaterEqual(len(figures), 5)
        for path in figures:
            self.assertEqual(xml.parse(path).getroot().tag, "{http://www.w3.org/2000/svg}svg")
            if shutil.which("rsvg-convert"):
                head = path.with_suffix(".png").read_bytes()[:24]
                self.assertEqual(head[:8], b"\x89PNG\r\n\x1a\n")
                width, height = struct.unpack(">II", head[16:24])
                self.assertGreater(min(width, height), 400)

    def test_the_page_needs_nothing_from_outside(self):
        text = self.page.read_text(encoding="utf-8")
        for never in ("<script", "<link", "src=", "href=", "url(", "@import"):
            self.assertNotIn(never, text)
        self.assertIn("10¹⁰", text)
        self.assertIn("small: how large", text)

    def shot(self, name, *more):
        picture = pathlib.Path(os.environ.get("CAPSTAN_ARTEFACTS") or self.folder) / f"report-{name}.png"
        subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                        f"--user-data-dir={self.folder / name}", "--window-size=900,4000", f"--screenshot={picture}",
                        *more, self.page.as_uri()], env=ENVIRONMENT, capture_output=True, timeout=120, check=True)
        return picture

    @unittest.skipUnless(BROWSER, "no Chromium here")
    def test_a_browser_shows_it_light_and_dark(self):
        light, dark = self.shot("light"), self.shot("dark", "--blink-settings=preferredColorScheme=0")
        self.assertGreater(light.stat().st_size, 50_000)
        self.assertGreater(dark.stat().st_size, 50_000)
        self.assertNotEqual(light.read_bytes(), dark.read_bytes())
        dump = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
                               f"--user-data-dir={self.folder / 'dump'}", "--dump-dom", self.page.as_uri()],
                              env=ENVIRONMENT, capture_output=True, timeout=120, check=True).stdout.decode()
        self.assertGreaterEqual(dump.count("<svg"), 5)

    def test_a_budget_takes_one_value_and_leaves_settings_alone(self):
        """As the help's own example: a setting may follow the budgets."""
        answer = capstan("report", self.out, "--budget", "1e12", "--budget", "1e13", "sweep.decide.gpus=512", "--out",
                         self.folder / "page")
        self.assertEqual(answer.returncode, 0, answer.stderr)
        text = (self.folder / "page/index.html").read_text(encoding="utf-8")
        self.assertIn("10¹³", text)
        self.assertIn("512", text)

    def test_the_table_as_csv_gives_the_same_law(self):
        table = self.folder / "runs.csv"
        self.assertEqual(capstan("records", self.out, "--csv", table).returncode, 0)
        quick = ("--bootstrap", "0", "--no-profiles", "--no-backtest")
        laws = [capstan("fit", given, *quick).stdout.split("\n", 1)[1] for given in (self.out, table)]
        self.assertEqual(laws[0], laws[1])

    def test_what_is_not_there_is_said(self):
        answer = capstan("report", self.folder)
        self.assertEqual(answer.returncode, 66)
        self.assertIn("capstan sweep makes one", answer.stderr)


if __name__ == "__main__":
    unittest.main()
