"""Chromium, and what a case needs around it."""

import contextlib
import os
import re

import fake_ollama
import gateway as gateways
from playwright.sync_api import expect, sync_playwright

DEADLINE = 5000  # milliseconds for whatever a case waits for

ALL = []


def case(function):
    """Adds a function to what runs."""
    ALL.append(function)
    return function


# Counts what the page's policy refused, from the first moment on.
COUNT_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}`));
"""


class Tab:
    """One page in a browser context of its own, with everything it did wrong."""

    def __init__(self, bench, page):
        self.bench, self.page = bench, page
        self.dialogs, self.errors = [], []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dialog)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, url=None):
        self.page.goto(url or self.bench.gateway.page)
        expect(self.page.locator("#health")).not_to_have_class("checking")
        return self

    def __call__(self, selector):
        return self.page.locator(selector)

    @property
    def answer(self):
        return self.page.locator(".model.message").last

    def fact(self, name):
        return self.answer.locator(f".facts .{name}")

    @property
    def notice(self):
        return self.answer.locator(".notice")

    def send(self, text):
        self.page.fill("#prompt", text)
        self.page.press("#prompt", "Enter")

    def ask(self, text, *pieces):
        """Sends, and lets the upstream answer in these pieces."""
        self.send(text)
        self.bench.upstream.next_chat().answer(*pieces)
        self.is_idle()

    def is_idle(self):
        expect(self.page.locator("#send")).to_be_visible()

    def violations(self):
        return self.page.evaluate("window.violations")

    def is_clean(self, expected=None):
        """Nothing wrong, but for console messages that match `expected`."""
        errors = [error for error in self.errors if expected is None or not re.search(expected, error)]
        assert errors == [], f"console: {errors}"
        assert self.dialogs == [], f"dialogs: {self.dialogs}"
        assert self.violations() == [], f"policy: {self.violations()}"

    def widths(self):
        return self.page.evaluate(
            "[document.documentElement.scrollWidth, document.getElementById('scroller').scrollWidth"
            " - document.getElementById('scroller').clientWidth, innerWidth]")


class Bench:
    def __init__(self, binary, chromium, screenshots):
        self.binary, self.chromium, self.screenshots = binary, chromium, screenshots

    def __enter__(self):
        self._all = contextlib.ExitStack()
        self._playwright = self._all.enter_context(sync_playwright())
        # Chromium's own sandbox does not work for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._browser = self._playwright.chromium.launch(executable_path=self.chromium, args=arguments)
        self._all.callback(self._browser.close)
        expect.set_options(timeout=DEADLINE)
        return self

    def __exit__(self, *_):
        self._all.close()

    @contextlib.contextmanager
    def case(self):
        """A fresh upstream and a fresh gateway, and an end to everything the case opened."""
        with contextlib.ExitStack() as self._case:
            self.upstream = self.start_upstream()
            self.gateway = self.start_gateway(gateways.upstream(self.upstream.port))
            yield

    def start_upstream(self, *models):
        started = fake_ollama.FakeOllama(*models)
        self._case.callback(started.close)
        return started

    def start_gateway(self, *upstreams, webllm="", admin="", server=""):
        started = gateways.Gateway(self.binary, upstreams, webllm, admin, server)
        self._case.callback(started.close)
        return started

    def refused_port(self):
        holder, port = gateways.refused_port()
        self._case.callback(holder.close)
        return port

    def tab(self, script="", **options):
        """A tab; `script` runs in it before the page's own."""
        context = self._browser.new_context(**options)
        self._case.callback(context.close)
        context.set_default_timeout(DEADLINE)
        context.add_init_script(COUNT_VIOLATIONS + script)
        return Tab(self, context.new_page())

    def picture(self, tab, name, **options):
        if self.screenshots is None:
            return
        self.screenshots.mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=self.screenshots / f"{name}.png", **options)
