"""The pages in a real browser, network off: they ask for nothing, and everyone can read them.

What is checked is what axe-core knows of WCAG 2.1 A and AA, in light, in dark and on a phone.
"""

import json
import re
import shutil
from datetime import date
from importlib.resources import files
from pathlib import Path

import pytest

from unlearn.errors import InputError, UnsupportedError
from unlearn.report import READERS, render_html, report, sign_audit
from unlearn.report.browser import VARIABLE, find_browser, render_pdf
from unlearn.report.overview import OverviewRow, render_overview_html, rows_of
from unlearn.report.signature import signature_of
from unlearn.types import Verdict

NEEDED = "needs Chromium and its driver (Debian: apt install chromium chromium-driver)"
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason=f"NOT CHECKED: {NEEDED}")
# The driver is a server on this machine; no other host may be reached.
only_here = pytest.mark.allow_hosts(["127.0.0.1", "::1", "localhost"])

ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"),
)
TODAY = date(2028, 2, 28)
ROWS = (
    OverviewRow(id="late", due=date(2028, 2, 1), verdict=Verdict.CONFOUNDED, note="a note"),
    OverviewRow(id="x" * 200, state="approved", verdict=Verdict.PASS, link="a/audit.html"),
)
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice")


@pytest.fixture(scope="module")
def driver():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    started.execute_cdp_cmd("Network.enable", {})
    started.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield started
    started.quit()


@pytest.fixture
def pages(result, deep, tmp_path):
    """Every kind of page, signed and not, by name."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    report(deep, tmp_path / "signed", ("json",))
    sign_audit(tmp_path / "signed", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    signature = signature_of(tmp_path / "signed")
    drawn = {f"{reader}-deep": render_html(deep, reader, signature) for reader in READERS}
    drawn |= {f"{reader}-plain": render_html(result, reader) for reader in READERS}
    rows = rows_of([tmp_path / "signed"], tmp_path / "overview.html")
    drawn["overview"] = render_overview_html((*rows, *ROWS), TODAY)
    for name, text in drawn.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (tmp_path / f"{name}.html").as_uri() for name in drawn}


def show(driver, page, scheme="light", width=1200):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page)


def violations(driver):
    """What axe-core finds wrong, a line each: the rule, the element, what to do."""
    driver.execute_script((files("axe_core_python") / "axe.min.js").read_text("utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({runOnly: arguments[0]}).then(done, error => done({failed: String(error)}));",
        list(RULES),
    )
    assert "failed" not in found, found
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@in_a_browser
@only_here
def test_no_page_breaks_a_rule_of_accessibility(driver, pages):
    for page in pages.values():
        for scheme, width in (("light", 1200), ("dark", 1200), ("light", 380)):
            show(driver, page, scheme, width)
            assert violations(driver) == []


@in_a_browser
@only_here
def test_the_check_would_find_a_fault(driver, tmp_path):
    (tmp_path / "bad.html").write_text("<html><body><img src=''><p style='color:#bbb'>pale</p>")
    show(driver, (tmp_path / "bad.html").as_uri())
    found = {line.split(":")[0] for line in violations(driver)}
    assert {"color-contrast", "image-alt", "html-has-lang"} <= found


@in_a_browser
@only_here
def test_a_page_asks_for_nothing_but_itself_and_complains_of_nothing(driver, pages):
    for page in pages.values():
        driver.get("about:blank")
        driver.get_log("performance"), driver.get_log("browser")
        show(driver, page)
        events = [json.loads(one["message"])["message"] for one in driver.get_log("performance")]
        asked = {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        }
        assert asked == {page}
        assert driver.get_log("browser") == []


@in_a_browser
@only_here
def test_no_page_is_wider_than_a_phone(driver, pages):
    for page in pages.values():
        show(driver, page, width=360)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert driver.execute_script(wide) <= 0


@in_a_browser
@only_here
def test_what_a_model_wrote_runs_nowhere(driver, result, tmp_path):
    hostile = (
        "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'><svg/onload=ran=1>"
    )
    claim = result.claims[0].model_copy(update={"statement": hostile, "reason": hostile})
    shown = result.model_copy(
        update={"claims": (claim,), "limits": (hostile,), "provenance": {hostile: hostile}}
    )
    for reader in READERS:
        (tmp_path / "page.html").write_text(render_html(shown, reader), encoding="utf-8")
        show(driver, (tmp_path / "page.html").as_uri())
        assert driver.execute_script("return window.ran === undefined && !document.images.length")


@pytest.mark.skipif(not BROWSER, reason=f"NOT CHECKED: {NEEDED}")
def test_the_letter_is_one_page_of_a4_and_the_report_a_few(result, deep, tmp_path):
    letter = report(result, tmp_path, ("pdf",), "subject")["pdf"]
    assert letter.name == "audit.subject.pdf"
    assert pages_of(letter.read_bytes()) == 1
    assert 3 <= pages_of(render_pdf(render_html(deep))) <= 30


def pages_of(pdf):
    assert pdf.startswith(b"%PDF-")
    (width, height) = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups()
    assert (round(float(width)), round(float(height))) == (595, 842)
    return len(re.findall(rb"/Type /Page\b", pdf))


def test_pdf_without_a_browser_says_what_to_do(result, tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match=r"needs Chromium, Chrome or Edge.*apt install"):
        report(result, tmp_path / "audit", ("pdf",))
    assert not (tmp_path / "audit").exists()
    monkeypatch.setenv(VARIABLE, "nothing-here")
    with pytest.raises(UnsupportedError, match="'nothing-here', which is no program"):
        find_browser()


def test_a_browser_that_prints_nothing_is_an_error_and_not_an_empty_file(tmp_path, monkeypatch):
    script = tmp_path / "broken-browser"
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(script))
    with pytest.raises(InputError, match=r"printed nothing \(exit code 3\)"):
        render_pdf("<p>page</p>")
    script.write_text("not a program")
    with pytest.raises(InputError, match=r"cannot be started|printed nothing"):
        render_pdf("<p>page</p>")
    assert not list(Path(tmp_path).glob("*.pdf"))
