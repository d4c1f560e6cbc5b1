"""The dashboard where a token is wanted, while nobody looks, and when nothing comes. Each case has a gateway and an
upstream of its own."""

import hashlib
import json
import re
import urllib.request

import gateway as gateways
from browser import Tab, case
from dashboard import answer, card, confirm, open_dashboard, recent
from playwright.sync_api import expect

# What the browser tells of a tab that is in front or behind.
VISIBILITY = """
Object.defineProperty(document, "hidden", { get: () => window.isHidden ?? false });
window.hide = (isHidden) => {
  window.isHidden = isHidden;
  document.dispatchEvent(new Event("visibilitychange"));
};
"""
# Ten seconds are half of one.
FAST_LIMITS = """
const limit = AbortSignal.timeout.bind(AbortSignal);
AbortSignal.timeout = (time) => limit(time / 20);
"""

# --- Who may look -------------------------------------------------------------------------------------------------


@case
def the_token_is_asked_for_and_kept_for_this_tab(bench):
    digest = hashlib.sha256(b"open-sesame!").hexdigest()
    gateway = bench.start_gateway(gateways.upstream(bench.upstream.port), admin=f'token_hash = "sha256:{digest}"')
    tab = bench.tab()
    tab.page.goto(gateway.dashboard)
    expect(tab("#token-value")).to_be_focused()
    expect(tab("#link")).to_have_text("Token needed")
    tab.page.keyboard.press("Escape")
    expect(tab("#token")).to_be_hidden()
    expect(tab("#banner")).to_contain_text("This gateway asks for its admin token.")
    tab("#banner-action").click()
    tab.page.keyboard.type("wrong")
    tab.page.keyboard.press("Enter")
    expect(tab("#token-wrong")).to_have_text("The gateway does not accept this token.")
    tab.page.fill("#token-value", "open-sesame!")
    tab.page.keyboard.press("Enter")
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#token")).to_be_hidden()
    expect(tab("#banner")).to_be_hidden()
    card(tab).get_by_role("button", name="Drain").click()
    confirm(tab, "Drain ollama?")
    expect(card(tab).locator(".state")).to_have_text("Draining")
    tab.page.reload()
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#token")).to_be_hidden()
    assert tab.page.evaluate("localStorage.length") == 0
    tab.is_clean(expected="status of 401")


@case
def a_token_can_be_fetched_from_another_tab(bench):
    digest = hashlib.sha256(b"open-sesame!").hexdigest()
    gateway = bench.start_gateway(gateways.upstream(bench.upstream.port), admin=f'token_hash = "sha256:{digest}"')
    tab = bench.tab(VISIBILITY)
    tab.page.goto(gateway.dashboard)
    expect(tab("#token-value")).to_be_focused()
    tab.page.evaluate("hide(true)")
    tab.page.evaluate("hide(false)")
    tab.page.fill("#token-value", "open-sesame!")
    tab.page.keyboard.press("Enter")
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#announcer")).to_be_empty()
    tab.is_clean(expected="status of 401")


@case
def a_token_that_only_a_change_wants_leaves_the_feed_to_be_paused(bench):
    tab = open_dashboard(bench, script=VISIBILITY)
    tab.page.route("**/drain", lambda route: route.fulfill(
        status=401, content_type="application/json", body='{"error":"x"}'))
    card(tab).get_by_role("button", name="Drain").click()
    confirm(tab, "Drain ollama?")
    expect(tab("#token-value")).to_be_focused()
    expect(tab("#link")).to_have_text("Live")
    tab.page.keyboard.press("Escape")
    tab.page.evaluate("hide(true)")
    expect(tab("#link")).to_have_text("Paused")
    tab.is_clean(expected="status of 401")


# --- While nobody looks -------------------------------------------------------------------------------------------


@case
def a_hidden_tab_has_no_feed_and_tells_the_alerts_in_its_title(bench):
    tab = bench.tab(VISIBILITY + "window.isHidden = true;")
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    tab.page.request.post(
        bench.gateway.dashboard.replace("dashboard", "admin/upstreams/ollama/drain"), data={})
    tab.page.goto(bench.gateway.dashboard)
    expect(tab("#link")).to_have_text("Paused")
    expect(tab.page).to_have_title("(2) WebLLM gateway")
    assert "events" not in asked, asked
    tab.page.evaluate("hide(false)")
    expect(tab("#link")).to_have_text("Live")
    expect(card(tab).locator(".state")).to_have_text("Draining")
    with tab.page.expect_event("requestfailed", lambda request: request.url.endswith("/admin/events")):
        tab.page.evaluate("hide(true)")
    expect(tab("#link")).to_have_text("Paused")
    expect(tab("body")).to_have_class("stale")
    expect(tab("#banner")).to_be_hidden()
    expect(tab.page).to_have_title("(2) WebLLM gateway")
    tab.page.evaluate("hide(false)")
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#announcer")).not_to_have_text("Disconnected")
    tab.is_clean()


@case
def a_held_list_counts_what_came_while_its_tab_was_hidden(bench):
    answer(bench, "Before")
    tab = open_dashboard(bench, script=VISIBILITY)
    recent(tab).first.hover()
    tab.page.evaluate("hide(true)")
    expect(tab("#link")).to_have_text("Paused")
    answer(bench, "Meanwhile")
    tab.page.evaluate("hide(false)")
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#recent-note")).to_have_text("Held while you are on it: 1 new")
    expect(recent(tab)).to_have_count(1)
    tab.is_clean()


@case
def seven_tabs_are_more_than_the_connections_of_a_browser(bench):
    behind = bench.tab(VISIBILITY)
    for _ in range(6):
        page = behind.page.context.new_page()
        page.goto(bench.gateway.dashboard)
        expect(page.locator("#link")).to_have_text("Live")
        page.evaluate("hide(true)")
    tab = Tab(bench, behind.page.context.new_page())
    tab.page.goto(bench.gateway.dashboard)
    expect(tab("#link")).to_have_text("Live")
    card(tab).get_by_role("button", name="Drain").click()
    confirm(tab, "Drain ollama?")
    expect(card(tab).locator(".state")).to_have_text("Draining")
    tab.is_clean()


# --- When nothing comes -------------------------------------------------------------------------------------------


@case
def a_gateway_that_stops_is_told_and_found_again(bench):
    answer(bench, "Before")
    tab = open_dashboard(bench)
    expect(recent(tab)).to_have_count(1)
    bench.gateway.kill()
    expect(tab("#link")).to_have_text("Disconnected")
    expect(tab("#banner-text")).to_have_text(re.compile(
        r"^Disconnected since \d\d:\d\d:\d\d \(\d+\.\d s\)\. What you see is from then\. .* Next try in \d+ s\.$"))
    expect(tab("#announcer")).to_have_text("Disconnected")
    expect(recent(tab)).to_have_count(1)
    tab("#banner-action").click()
    expect(tab("#banner-text")).to_contain_text("The gateway cannot be reached.")
    bench.gateway.start()
    expect(tab("#link")).to_have_text("Live", timeout=20_000)
    expect(tab("#banner")).to_be_hidden()
    answer(bench, "After")
    expect(recent(tab).first.locator(".result")).to_have_text("Answered")
    tab.is_clean(expected="ERR_")


@case
def a_feed_that_falls_silent_is_told(bench):
    tab = bench.tab()
    hang = "event: start\ndata: "
    with urllib.request.urlopen(f"http://127.0.0.1:{bench.gateway.admin_port}/admin/events", timeout=5) as feed:
        feed.readline()
        hang += feed.readline().decode().removeprefix("data: ") + "\n"
    # A reply that never ends, without a gateway behind it.
    tab.page.context.add_init_script(f"""
      const real = window.fetch;
      window.fetch = (path, options) => !path.endsWith("/events") ? real(path, options) : Promise.resolve(new Response(
        new ReadableStream({{ start(stream) {{
          stream.enqueue(new TextEncoder().encode({json.dumps(hang)}));
          options.signal.addEventListener("abort", () => stream.error(options.signal.reason));
        }} }})));
    """)
    tab.page.goto(bench.gateway.dashboard)
    expect(tab("#link")).to_have_text("Live")
    expect(tab("#banner-text")).to_contain_text("The gateway has fallen silent.", timeout=10_000)
    tab.is_clean()


@case
def what_nobody_answers_is_given_up_and_told(bench):
    answer(bench, "Hi")
    tab = open_dashboard(bench, script=FAST_LIMITS)
    expect(recent(tab)).to_have_count(1)
    for path in ("upstreams", "requests"):
        tab.page.route(f"**/admin/{path}**/**", lambda route: None)
    tab.page.route("**/admin/requests?**", lambda route: None)
    card(tab).get_by_role("button", name="Drain").click()
    confirm(tab, "Drain ollama?")
    expect(tab("#toast")).to_have_text("No answer within 10 s; it may still take effect.")
    recent(tab).locator(".open").click()
    expect(tab("#request-body")).to_have_text("No answer within 10 s.")
    tab("#request-close").click()
    tab("#filters [name=outcome]").select_option("ok")
    expect(tab("#toast")).to_have_text("No answer within 10 s.")
    expect(tab("#recent-note")).to_have_text("Live")
    tab.is_clean()


@case
def an_answer_that_stops_halfway_is_given_up_too(bench):
    answer(bench, "Hi")
    tab = open_dashboard(bench, script=FAST_LIMITS + """
      const real = window.fetch;
      window.fetch = async (path, options) => {
        const reply = await real(path, options);
        if (!/requests\\/./.test(path)) return reply;
        return new Response(new ReadableStream({ start(stream) {
          stream.enqueue(new TextEncoder().encode("{"));
          options.signal.addEventListener("abort", () => stream.error(options.signal.reason));
        } }));
      };
    """)
    recent(tab).locator(".open").click()
    expect(tab("#request-body")).to_have_text("No answer within 10 s.")
    expect(tab("#link")).to_have_text("Live")
    tab.is_clean()
