"""The operators' dashboard: live, changes, the past. Each case has a gateway and an upstream of its own."""

import contextlib
import http.client
import json
import re
import threading
import urllib.request

import gateway as gateways
from browser import case
from page import HOSTILE
from playwright.sync_api import expect

PHONE = {"viewport": {"width": 360, "height": 720}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
MODEL = "mistralai/Mistral-7B-Instruct-v0.2"  # the gateway's default
MOST_BYTES = 150_000
MOST_ROWS = 100


def open_dashboard(bench, gateway=None, fragment="", script="", **options):
    tab = bench.tab(script, **options)
    tab.page.goto((gateway or bench.gateway).dashboard + fragment)
    expect(tab("#link")).to_have_text("Live")
    return tab


def ask(gateway, prompt="Hello"):
    """A client's streamed request, which goes on beside the case."""

    def work():
        body = json.dumps({"prompt": prompt, "stream": True}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{gateway.port}/webllm/api/infer", body, {"Content-Type": "application/json"})
        with contextlib.suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(request, timeout=30).read()

    client = threading.Thread(target=work, daemon=True)
    client.start()
    return client


def answer(bench, *texts, gateway=None):
    """One whole request; its row is there when this returns."""
    client = ask(gateway or bench.gateway)
    bench.upstream.next_chat().answer(*texts)
    client.join(5)


def running(tab):
    return tab("#running tbody tr")


def recent(tab):
    return tab("#recent tbody tr")


def card(tab, name="ollama"):
    return tab("#upstreams article").filter(has=tab.page.get_by_role("heading", name=name, exact=True))


def chosen(tab, name):
    """A filter."""
    return tab(f"#filters [name={name}]")


def confirm(tab, title):
    expect(tab("#confirm-title")).to_have_text(title)
    tab("#confirm-yes").click()
    expect(tab("#confirm")).to_be_hidden()


def mode(bench, name="ollama"):
    return next(upstream["mode"] for upstream in bench.gateway.admin("status")["upstreams"] if upstream["name"] == name)


def next_tick(tab):
    """The page has drawn another event of the feed."""
    before = tab("#uptime").text_content()
    expect(tab("#uptime")).not_to_have_text(before)


# --- Loading ------------------------------------------------------------------------------------------------------


@case
def the_dashboard_is_small_and_needs_nothing_from_elsewhere(bench):
    tab = bench.tab()
    replies = []
    tab.page.on("response", lambda reply: replies.append(reply))
    tab.page.goto(bench.gateway.dashboard)
    expect(tab("#link")).to_have_text("Live")
    origin = bench.gateway.dashboard.removesuffix("/dashboard")
    files = [reply for reply in replies if reply.url.startswith(f"{origin}/dashboard")]
    others = [reply.url for reply in replies if reply not in files and not reply.url.startswith(f"{origin}/admin/")]
    assert others == [], others
    assert len(files) == 6, [reply.url for reply in files]
    for reply in files:
        assert "default-src 'none'" in reply.headers["content-security-policy"], reply.url
    size = sum(len(reply.body()) for reply in files)
    paint = tab.page.wait_for_function(
        "performance.getEntriesByName('first-contentful-paint')[0]?.startTime").json_value()
    print(f"      {size} bytes, first paint after {paint:.0f} ms")
    assert size < MOST_BYTES, f"{size} bytes"
    tab.is_clean()


# --- Live ---------------------------------------------------------------------------------------------------------


@case
def a_request_is_seen_while_it_runs_and_when_it_ended(bench):
    tab = open_dashboard(bench)
    expect(tab("#health")).to_have_text("Healthy")
    expect(tab("#version")).to_have_text(bench.gateway.admin("status")["version"])
    expect(card(tab).locator(".state")).to_have_text("Available")
    expect(card(tab).locator(".chips li")).to_have_text(["m:latest"])
    expect(tab("#running-empty")).to_be_visible()
    expect(tab("#recent-empty")).to_be_visible()
    client = ask(bench.gateway)
    generation = bench.upstream.next_chat()
    expect(running(tab)).to_have_count(1)
    expect(running(tab).locator(".phase")).to_have_text("Reading prompt")
    expect(running(tab).locator(".model span")).to_have_text(MODEL)
    expect(running(tab).locator(".upstream")).to_have_text("ollama")
    expect(tab("#running-now")).to_have_text("1")
    expect(card(tab).locator(".slots")).to_contain_text("1 of 4 slots in use")
    generation.token("one ", "two ", "three")
    expect(running(tab).locator(".phase")).to_have_text("Generating")
    expect(running(tab).locator(".tokens")).to_have_text("3")
    # It grows between two events, too.
    ages = tab.page.evaluate("""() => new Promise((resolve) => {
      const seen = new Set();
      const cell = document.querySelector("#running td.age");
      const watch = new MutationObserver(() => {
        seen.add(cell.textContent);
        if (seen.size === 12) { watch.disconnect(); resolve([...seen]); }
      });
      watch.observe(cell, { childList: true, characterData: true, subtree: true });
    })""")
    assert all(re.fullmatch(r"\d+\.\d s", age) for age in ages), ages
    assert sorted(ages, key=lambda age: float(age[:-2])) == ages, ages
    generation.done(3)
    client.join(5)
    expect(running(tab)).to_have_count(0)
    expect(recent(tab)).to_have_count(1)
    expect(recent(tab).locator(".result")).to_have_text("Answered")
    expect(recent(tab).locator(".model")).to_have_text(MODEL)
    expect(recent(tab).locator(".tokens")).to_have_text("3")
    expect(tab("#history-hint")).to_have_text("1 request")
    expect(tab("#rate")).to_have_text(re.compile(r"^0\.\d+$"))
    # The step of ten seconds in which it fell is drawn when it is over.
    expect(tab("#chart-requests .sr")).to_contain_text("highest 0.1/s", timeout=15_000)
    expect(tab("#chart-tokens .sr")).to_contain_text("highest 0.3/s")
    expect(tab("#chart-errors .sr")).to_contain_text("highest 0/s")
    tab.is_clean()


@case
def what_an_operator_is_on_stays_in_place(bench):
    tab = open_dashboard(bench)
    answer(bench, "first")
    expect(recent(tab)).to_have_count(1)
    drain = card(tab).get_by_role("button", name="Drain")
    drain.focus()
    tab.page.evaluate("window.focused = document.activeElement")
    next_tick(tab)
    assert tab.page.evaluate("document.activeElement === window.focused && window.focused.isConnected")
    # Rows do not move away under the pointer.
    recent(tab).first.hover()
    answer(bench, "second")
    expect(tab("#recent-note")).to_have_text("Held while you are on it: 1 new")
    expect(recent(tab)).to_have_count(1)
    tab("h1").hover()
    expect(recent(tab)).to_have_count(2)
    expect(tab("#recent-note")).to_have_text("Live")
    tab.is_clean()


@case
def many_requests_leave_the_page_small(bench):
    tab = open_dashboard(bench)
    for _ in range(130):
        answer(bench, "x")
    expect(tab("#history-hint")).to_have_text("130 requests")
    expect(recent(tab).nth(19)).to_be_visible()
    assert recent(tab).count() <= 50  # a sample of each second, and the newest of these
    # The past is whole, and comes page by page: the newest rows make room.
    requests = [request["id"] for request in bench.gateway.admin("requests?limit=130")["requests"]]
    for newest, oldest in ((0, 99), (30, 129)):
        tab("#older").click()
        expect(tab("#recent-note")).to_have_text("Older requests, not live")
        recent(tab).first.locator(".open").click()
        tab.page.wait_for_url(f"**#request={requests[newest]}")
        tab("#request-close").click()
        recent(tab).last.locator(".open").click()
        tab.page.wait_for_url(f"**#request={requests[oldest]}")
        tab("#request-close").click()
        expect(recent(tab)).to_have_count(MOST_ROWS)
    expect(tab("#older")).to_be_hidden()
    tab("#recent-live").click()
    expect(tab("#recent-note")).to_have_text("Live")
    tab.is_clean()


# --- Changes ------------------------------------------------------------------------------------------------------


@case
def an_upstream_is_drained_disabled_and_enabled_when_that_is_confirmed(bench):
    tab = open_dashboard(bench)
    state = card(tab).locator(".state")
    expect(state).to_have_text("Available")
    card(tab).get_by_role("button", name="Drain").click()
    expect(tab("#confirm-no")).to_be_focused()
    tab.page.keyboard.press("Escape")
    expect(tab("#confirm")).to_be_hidden()
    card(tab).get_by_role("button", name="Drain").click()
    tab("#confirm-no").click()
    next_tick(tab)
    assert mode(bench) == "enabled"
    for action, became, words in (
        ("Drain", "draining", "Draining"), ("Disable", "disabled", "Disabled"), ("Enable", "enabled", "Available"),
    ):
        card(tab).get_by_role("button", name=action).click()
        confirm(tab, f"{action} ollama?")
        expect(state).to_have_text(words)
        assert mode(bench) == became
        expect(card(tab).get_by_role("button", name=action)).to_be_hidden()
        expect(tab("#alerts li")).to_have_count(0 if became == "enabled" else 2)
        if became != "enabled":
            expect(tab("#alerts li b")).to_have_text(["Critical", "Warning"])  # the worst first
            expect(tab("#alerts li").first).to_contain_text("No upstream is available")
            expect(tab.page).to_have_title("(2) WebLLM gateway")
    expect(tab("#announcer")).to_have_text("No alerts any more.")
    tab.is_clean()


@case
def a_running_stream_is_cancelled_when_that_is_confirmed(bench):
    tab = open_dashboard(bench)
    client = ask(bench.gateway)
    generation = bench.upstream.next_chat()
    generation.token("Once upon")
    running(tab).get_by_role("button", name="Cancel").click()
    tab("#confirm-no").click()
    next_tick(tab)
    assert not generation.left.is_set()
    running(tab).get_by_role("button", name="Cancel").click()
    confirm(tab, "Cancel this request?")
    expect(running(tab)).to_have_count(0)
    assert generation.left.wait(2), "the upstream still generates"
    client.join(5)
    expect(recent(tab).locator(".result")).to_have_text("Cancelled")
    tab.is_clean()


@case
def a_change_that_fails_is_told(bench):
    tab = open_dashboard(bench)
    tab.page.route("**/admin/upstreams/**", lambda route: route.fulfill(status=404, json={"error": "No such upstream"}))
    card(tab).get_by_role("button", name="Drain").click()
    confirm(tab, "Drain ollama?")
    expect(tab("#toast")).to_have_text("No such upstream")
    tab.is_clean(expected="status of 404")


# --- The past -----------------------------------------------------------------------------------------------------


def fell_back(bench):
    """A gateway whose first upstream fails each request, and whose second one is down; and one request there."""
    broken = bench.start_upstream()
    gateway = bench.start_gateway(
        gateways.upstream(broken.port, "broken"), gateways.upstream(bench.refused_port(), "gone"),
        gateways.upstream(bench.upstream.port))
    tab = open_dashboard(bench, gateway)
    expect(card(tab, "gone").locator(".state")).to_have_text("Not available")
    client = ask(gateway)
    broken.next_chat().refuse(500, "out of memory")
    bench.upstream.next_chat().answer("a ", "b ", "c ", "d")
    client.join(5)
    expect(recent(tab)).to_have_count(1)
    return broken, gateway, tab


@case
def a_request_that_fell_back_says_why(bench):
    _, gateway, tab = fell_back(bench)
    expect(recent(tab).locator(".upstream small")).to_have_text("2 attempts")
    recent(tab).first.locator(".open").click()
    request = gateway.admin("requests")["requests"][0]
    details = tab("#request")
    assert tab.page.url.endswith(f"#request={request['id']}"), tab.page.url
    expect(details.locator(".why")).to_have_text(gateway.admin(f"requests/{request['id']}")["why"])
    expect(details.locator(".why")).to_contain_text("passed over: gone")
    expect(details.locator(".lane span")).to_have_text(["broken", "ollama"])
    expect(details.locator(".lane").nth(0).locator("i.failed")).to_have_count(1)
    expect(details.locator(".lane").nth(1).locator("i.prompt")).to_have_count(1)
    expect(details.locator(".timeline .legend li.prompt")).to_have_text(re.compile(r"^First token [\d.]+ m?s$"))
    expect(details.locator(".attempts .state")).to_have_text(["status 500", "answered"])
    candidates = details.locator(".attempts > li").nth(1).locator("tbody tr")
    expect(candidates.filter(has_text="broken")).to_contain_text("tried already")
    expect(candidates.filter(has_text="gone")).to_contain_text("does not answer its health probes")
    expect(candidates.filter(has_text="ollama")).to_contain_text("chosen")
    expect(details.locator("pre")).to_have_text("a b c d")
    # Bars lie where the plan says: the second attempt begins where the first one ended.
    first, second = (details.locator(".lane").nth(index).locator(".track").bounding_box() for index in (0, 1))
    assert first["width"] == second["width"] > 100
    end = details.locator("i.failed").bounding_box()
    begin = details.locator("i.prompt").bounding_box()
    assert begin["x"] >= end["x"], (begin, end)
    tab.page.keyboard.press("Escape")
    expect(details).to_be_hidden()
    assert "#" not in tab.page.url, tab.page.url
    tab.is_clean()


@case
def a_clear_empties_the_list(bench):
    answer(bench, "Gone")
    tab = open_dashboard(bench)
    expect(recent(tab)).to_have_count(1)
    request = urllib.request.Request(f"http://127.0.0.1:{bench.gateway.port}/webllm/api/clear", method="POST")
    urllib.request.urlopen(request, timeout=5).close()
    expect(recent(tab)).to_have_count(0)
    expect(tab("#history-hint")).to_have_text("0 requests")
    answer(bench, "After")
    expect(recent(tab)).to_have_count(1)
    tab.is_clean()


@case
def a_link_opens_a_request_by_either_id(bench):
    answer(bench, "Linked")
    request = bench.gateway.admin("requests")["requests"][0]
    for key in (request["id"], request["request_id"]):
        tab = open_dashboard(bench, fragment=f"#request={key}")
        expect(tab("#request pre")).to_have_text("Linked")
        tab.is_clean()
    tab = open_dashboard(bench, fragment="#request=12345")
    expect(tab("#request .banner")).to_have_text("The history has no request 12345")
    tab.is_clean(expected="status of 404")
    tab = open_dashboard(bench, fragment="#request=../status")
    expect(tab("#request .banner")).to_be_visible()
    expect(tab("#request .banner")).not_to_contain_text("undefined")
    tab.is_clean(expected="status of 4")


@case
def the_past_is_filtered(bench):
    other = bench.start_upstream()
    gateway = bench.start_gateway(gateways.upstream(bench.upstream.port), gateways.upstream(other.port, "other"))
    tab = open_dashboard(bench, gateway)
    answer(bench, "fine", gateway=gateway)
    client = ask(gateway)
    bench.upstream.next_chat().refuse(500, "no")
    other.next_chat().answer("also fine")
    client.join(5)
    client = ask(gateway)
    generation = bench.upstream.next_chat()
    generation.token("cut")
    generation.error("runner died")
    client.join(5)
    expect(recent(tab).locator(".result")).to_have_text(["Cut off", "Answered", "Answered"])
    note = tab("#recent-note")

    chosen(tab, "upstream").select_option("other")
    expect(note).to_have_text("Filtered, not live")
    expect(recent(tab).locator(".upstream")).to_have_text(["other2 attempts"])
    chosen(tab, "upstream").select_option("")
    expect(note).to_have_text("Live")
    expect(recent(tab)).to_have_count(3)

    chosen(tab, "outcome").select_option("errors")
    expect(recent(tab).locator(".result")).to_have_text(["Cut off"])
    answer(bench, "while filtered", gateway=gateway)
    next_tick(tab)
    expect(recent(tab)).to_have_count(1)
    tab("#recent-live").click()
    expect(chosen(tab, "outcome")).to_have_value("")
    expect(recent(tab)).to_have_count(4)

    chosen(tab, "outcome").select_option("ok")
    expect(recent(tab)).to_have_count(3)
    chosen(tab, "model").fill("another")
    tab.page.keyboard.press("Enter")
    expect(tab("#recent-empty")).to_have_text("No request matches.")
    chosen(tab, "model").fill(MODEL)
    tab.page.keyboard.press("Enter")
    expect(recent(tab)).to_have_count(3)
    chosen(tab, "since").select_option("15m")
    expect(note).to_have_text("Filtered, not live")
    expect(recent(tab)).to_have_count(3)
    wanted = gateway.admin("requests")["requests"][-1]["request_id"]
    chosen(tab, "request_id").fill(wanted)
    tab.page.keyboard.press("Enter")
    expect(recent(tab)).to_have_count(1)
    recent(tab).locator(".open").click()
    expect(tab("#request code")).to_have_text(wanted)
    tab.is_clean()


# --- Hostile text -------------------------------------------------------------------------------------------------


def poisoned(value, key=""):
    """The same JSON with hostile text in place of every text, but for times and what is looked up by its value."""
    if isinstance(value, dict):
        return {name: poisoned(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner, key) for inner in value]
    if isinstance(value, str) and key not in ("time", "timestamp", "end", "since"):
        return " ".join(HOSTILE)
    return value


@case
def model_output_and_model_names_are_only_ever_text(bench):
    upstream = bench.start_upstream("m:latest", *HOSTILE)
    gateway = bench.start_gateway(gateways.upstream(upstream.port))
    tab = open_dashboard(bench, gateway)
    expect(card(tab).locator(".chips li")).to_have_text(["m:latest", *HOSTILE[:5], "1 more"])
    client = ask(gateway, HOSTILE[0])
    upstream.next_chat().answer(*HOSTILE, "\u2028end")  # a line's end to JavaScript
    client.join(5)
    recent(tab).locator(".open").click()
    expect(tab("#request pre")).to_have_text("".join(HOSTILE) + "\u2028end")
    expect(tab("#request pre *")).to_have_count(0)
    expect(tab("img, iframe, a, script:not([src])")).to_have_count(0)
    tab.is_clean()


@case
def whatever_the_gateway_tells_is_only_ever_text(bench):
    """The gateway lets no such name through its configuration; the page does not count on it."""
    answer(bench, "Hi")
    client = ask(bench.gateway)
    generation = bench.upstream.next_chat()
    address = f"http://127.0.0.1:{bench.gateway.admin_port}/admin/events"
    with urllib.request.urlopen(address, timeout=5) as feed:
        assert feed.readline() == b"event: start\n"
        start = json.loads(feed.readline().removeprefix(b"data: "))
    assert len(start["running"]["running"]) == 1 and len(start["recent"]) == 1, start
    start["alerts"] = [{"severity": "critical", "upstream": "u", "since": None, "text": "t"}]
    request = bench.gateway.admin(f"requests/{start['recent'][0]['id']}")
    tab = bench.tab()
    tab.page.route("**/admin/events", lambda route: route.fulfill(
        content_type="text/event-stream", body=f"event: start\ndata: {json.dumps(poisoned(start))}\n\n"))
    tab.page.route("**/admin/requests/*", lambda route: route.fulfill(json=poisoned(request)))
    tab.page.goto(bench.gateway.dashboard)
    text = " ".join(HOSTILE)
    expect(card(tab, text).locator(".reason")).to_contain_text(text)
    expect(running(tab).locator(".model span")).to_have_text(text)
    expect(tab("#alerts p")).to_have_text(text)
    recent(tab).locator(".open").click()
    expect(tab("#request .why")).to_have_text(text)
    expect(tab("#request pre")).to_have_text(text)
    expect(tab("img, iframe, a, script:not([src])")).to_have_count(0)
    generation.done(1)
    client.join(5)
    tab.is_clean()


# --- Keyboard, reading aids, sizes --------------------------------------------------------------------------------


@case
def the_dashboard_can_be_used_with_the_keyboard(bench):
    answer(bench, "Hi")
    tab = open_dashboard(bench)
    expect(recent(tab)).to_have_count(1)
    expect(tab("#announcer")).to_have_attribute("aria-live", "polite")
    reached = set()
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        focus = "document.activeElement"
        if tab.page.evaluate(f"{focus} === document.body"):
            break
        reached.add(tab.page.evaluate(f"{focus}.id || {focus}.name || {focus}.className || {focus}.textContent"))
        outlined = tab.page.evaluate(
            f"[null, '::after'].some((part) => getComputedStyle({focus}, part).outlineStyle !== 'none')")
        assert outlined, tab.page.evaluate(f"{focus}.outerHTML")
    assert {"theme", "plot", "upstream", "outcome", "since", "model", "request_id", "open"} <= reached, reached
    plot = tab("#chart-requests .plot")
    plot.focus()
    newest = plot.get_attribute("aria-valuetext")
    assert re.fullmatch(r"\d\d:\d\d:\d\d: Requests .+", newest), newest
    tab.page.keyboard.press("PageDown")
    assert plot.get_attribute("aria-valuetext")[:8] != newest[:8]
    expect(tab("#moment")).to_have_text(f"at {plot.get_attribute('aria-valuetext')[:8]}")
    tab.page.keyboard.press("Escape")
    expect(tab("#moment")).to_have_text("averages of 10 s")
    row = recent(tab).locator(".open")
    row.focus()
    tab.page.keyboard.press("Enter")
    expect(tab("#request-close")).to_be_focused()
    expect(tab("#request pre")).to_have_text("Hi")
    tab.page.keyboard.press("Escape")
    expect(row).to_be_focused()
    tab.is_clean()


@case
def the_theme_follows_the_system_until_it_is_chosen(bench):
    tab = open_dashboard(bench, color_scheme="light")

    def is_dark():
        colour = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 200

    assert not is_dark()
    tab.page.emulate_media(color_scheme="dark")
    assert is_dark()
    tab("#theme").click()
    assert not is_dark()
    tab.page.reload()
    expect(tab("#link")).to_have_text("Live")
    assert not is_dark()
    tab.is_clean()


@case
def a_phone_scrolls_the_dashboard_in_one_direction_only(bench):
    long = "Supercalifragilistic" * 6
    upstream = bench.start_upstream("m:latest", long)
    gateway = bench.start_gateway(
        gateways.upstream(upstream.port, long[:64]), gateways.upstream(bench.refused_port(), "gone"))
    tab = open_dashboard(bench, gateway, **PHONE)

    def fits(what):
        width, inside = tab.page.evaluate(
            "[document.documentElement.scrollWidth, document.querySelector('#request').scrollWidth"
            " - document.querySelector('#request').clientWidth]")
        assert width <= 360 and inside <= 0, (what, width, inside)

    ended, client = ask(gateway), None
    upstream.next_chat().answer(long, "\n", long)
    ended.join(5)
    client = ask(gateway)
    generation = upstream.next_chat()
    generation.token("a")
    expect(running(tab)).to_have_count(1)
    expect(recent(tab)).to_have_count(1)
    fits("overview")
    for button in (running(tab).get_by_role("button"), card(tab, long[:64]).get_by_role("button", name="Drain")):
        assert button.bounding_box()["height"] >= 40
    recent(tab).locator(".open").click()
    expect(tab("#request pre")).to_be_visible()
    fits("request")
    tab("#request-close").click()
    card(tab, long[:64]).get_by_role("button", name="Drain").click()
    fits("dialog")
    tab("#confirm-no").click()
    generation.done(1)
    client.join(5)
    tab.is_clean()


@case
def what_can_be_filled_in_has_an_edge_to_be_seen(bench):
    for scheme in ("light", "dark"):
        tab = open_dashboard(bench, color_scheme=scheme)
        contrasts = tab.page.evaluate("""() => {
          const brightness = (colour) => {
            const [red, green, blue] = colour.match(/[\\d.]+/g).map((part) => part / 255)
              .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
            return 0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05;
          };
          const page = brightness(getComputedStyle(document.body).backgroundColor);
          return [...document.querySelectorAll("#filters :is(input, select)")].map((field) => {
            const { borderColor, backgroundColor } = getComputedStyle(field);
            const edge = brightness(borderColor);
            return Math.min(...[page, brightness(backgroundColor)].map((other) =>
              Math.max(edge, other) / Math.min(edge, other)));
          });
        }""")
        assert len(contrasts) == 5 and min(contrasts) >= 3, (scheme, contrasts)
        tab.is_clean()


@case
def charts_can_be_read_in_forced_colours(bench):
    for scheme in ("light", "dark"):
        tab = open_dashboard(bench, forced_colors="active", color_scheme=scheme)
        for bars in ("#rate-line", "#upstreams .lines div:first-child .bars", "#upstreams .lines div:last-child .bars"):
            drawn = tab(bars).evaluate(
                "(bars) => [getComputedStyle(bars), getComputedStyle(document.body)].flatMap("
                "({ backgroundColor, color, fill }) => [backgroundColor, color, fill])")
            behind, _, fill, _, ink, _ = drawn
            assert behind == "rgba(0, 0, 0, 0)" and fill == ink, (scheme, bars, drawn)
        for lines in (".line", ".legend i"):
            patterns = tab(f"#chart-first-token {lines}").evaluate_all(
                "(lines) => lines.map((line) => getComputedStyle(line)).map("
                "({ strokeDasharray, borderTopStyle }) => `${strokeDasharray} ${borderTopStyle}`)")
            assert len(set(patterns)) == 3, (scheme, lines, patterns)
        tab.is_clean()


# --- Pictures -----------------------------------------------------------------------------------------------------


@case
def pictures_of_the_dashboard_in_light_and_dark_and_on_a_phone(bench):
    broken, gateway, _ = fell_back(bench)
    client = ask(gateway)
    broken.next_chat().refuse(500, "out of memory")
    generation = bench.upstream.next_chat()
    generation.token("Once ", "upon ", "a ", "time")
    for name, options in (
        ("light", {"color_scheme": "light"}), ("dark", {"color_scheme": "dark"}),
        ("phone-light", PHONE | {"color_scheme": "light"}), ("phone-dark", PHONE | {"color_scheme": "dark"}),
    ):
        if "phone" not in name:
            options["viewport"] = {"width": 1280, "height": 900}
        tab = open_dashboard(bench, gateway, **options)
        expect(running(tab)).to_have_count(1)
        bench.picture(tab, f"dashboard-{name}-overview", full_page=True)
        chosen(tab, "outcome").select_option("ok")
        expect(tab("#recent-note")).to_have_text("Filtered, not live")
        tab("#filters").scroll_into_view_if_needed()
        bench.picture(tab, f"dashboard-{name}-filters")
        tab("#recent-live").click()
        recent(tab).first.locator(".open").click()
        expect(tab("#request .why")).to_be_visible()
        bench.picture(tab, f"dashboard-{name}-request")
        tab("#request-close").click()
        card(tab, "ollama").get_by_role("button", name="Drain").click()
        bench.picture(tab, f"dashboard-{name}-confirm")
        tab.is_clean()
    generation.done(4)
    client.join(5)
