"""What the page must do. Each case has a gateway and an upstream of its own."""

import json
import re

import gateway as gateways
from playwright.sync_api import expect

ALL = []
PHONE = {"viewport": {"width": 375, "height": 720}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
HOSTILE = [
    "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "<a href=\"javascript:alert(3)\">link</a>",
    "\"><svg/onload=alert(4)>", "[link](javascript:alert(5))", "</textarea><iframe srcdoc='<script>alert(6)</script>'>",
]


def case(function):
    ALL.append(function)
    return function


# --- Loading ---------------------------------------------------------------------------------------------------------


@case
def loads_without_errors_or_policy_violations(bench):
    tab = bench.tab().open()
    expect(tab("h1")).to_have_text("WebLLM")
    expect(tab("#health")).to_have_class("healthy")
    expect(tab("#model option")).to_have_count(6)
    expect(tab("#model")).to_have_value("mistralai/Mistral-7B-Instruct-v0.2")
    expect(tab("#prompt")).to_be_focused()
    tab.is_clean()


@case
def the_watch_sees_violations_and_dialogs(bench):
    """The checks of the other cases can fail: what they look for is seen when it is there."""
    tab = bench.tab().open()
    tab.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'x()'}))")
    tab.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color: red\">')")
    tab.page.evaluate("alert(1)")
    seen = tab.violations()
    assert any("script-src" in entry for entry in seen) and any("style-src" in entry for entry in seen), seen
    assert len(tab.errors) >= 2 and tab.dialogs == ["1"], (tab.errors, tab.dialogs)


@case
def asks_for_nothing_but_its_own_files(bench):
    tab = bench.tab()
    asked, size = [], 0
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.open()
    foreign = [url for url in asked if not url.startswith(("data:", bench.gateway.page))]
    assert foreign == [], foreign
    for name in ("", "chat.css", "chat.js"):
        reply = tab.page.request.get(bench.gateway.page + name)
        size += len(reply.body())
        assert "default-src 'none'" in reply.headers["content-security-policy"], reply.headers
    assert size < 40_000, f"{size} bytes"


# --- An answer -------------------------------------------------------------------------------------------------------


@case
def text_appears_while_it_streams_and_the_facts_follow(bench):
    tab = bench.tab().open()
    tab.send("Tell me")
    expect(tab("#stop")).to_be_visible()
    generation = bench.upstream.next_chat()
    expect(tab.fact("waiting")).to_be_visible()
    generation.token("Once ", "upon")
    expect(tab.answer.locator(".text")).to_have_text("Once upon")
    expect(tab.fact("first-token")).to_have_text(re.compile(r"^first token \d+\.\d\d s$"))
    expect(tab.fact("waiting")).to_have_count(0)
    expect(tab("#stop")).to_be_visible()
    generation.token(" a time.")
    generation.done(33)
    tab.is_idle()
    expect(tab.answer.locator(".text")).to_have_text("Once upon a time.")
    expect(tab.fact("upstream")).to_have_text("ollama")
    expect(tab.fact("rate")).to_have_text(re.compile(r"^[\d,.]+ tokens/s$"))
    expect(tab.fact("tokens")).to_have_text("33 tokens")
    expect(tab.fact("attempts")).to_have_count(0)
    expect(tab("#announcer")).to_contain_text("a time.")
    assert generation.body["messages"][-1] == {"role": "user", "content": "Tell me"}, generation.body
    tab.is_clean()


@case
def the_stream_is_read_wherever_it_is_cut(bench):
    one_byte_at_a_time = """
    const ordinaryFetch = fetch;
    window.fetch = async (...request) => {
      const reply = await ordinaryFetch(...request);
      if (!reply.headers.get("Content-Type").startsWith("text/event-stream")) return reply;
      const bytes = new TransformStream({ transform(chunk, out) { for (const byte of chunk) out.enqueue(Uint8Array.of(byte)); } });
      return new Response(reply.body.pipeThrough(bytes), reply);
    };"""
    tab = bench.tab(one_byte_at_a_time).open()
    pieces = ["Ä 👩‍👩‍👧 ", "漢字\n\n", "event: done\ndata: [DONE]\n\n", "\u2028 end"]
    tab.ask("Split it", *pieces)
    expect(tab.fact("tokens")).to_have_text("4 tokens")
    assert tab.answer.locator(".text").text_content() == "".join(pieces)
    tab.is_clean()


@case
def other_line_ends_and_comments_are_read_as_the_standard_says(bench):
    tab = bench.tab().open()
    for stream in (
        ":ping\r\n\r\nevent: token\r\ndata: {\"text\":\r\ndata: \"a\"}\r\n\r\nid: 7\r\nevent:done\r\ndata:1\r\n\r\n",
        ":ping\r\revent: token\rdata: {\"text\":\rdata: \"a\"}\r\revent:done\rdata:1\r\r\n", # the last LF ends the stream
    ):
        events = tab.page.evaluate(
            """async (text) => {
              const found = [];
              const bytes = [...new TextEncoder().encode(text)];
              const stream = new ReadableStream({ start(out) {
                for (const byte of bytes) out.enqueue(Uint8Array.of(byte));
                out.close();
              } });
              for await (const event of readEvents(stream)) found.push([event.event, event.data]);
              return found;
            }""", stream)
        assert events == [["token", '{"text":\n"a"}'], ["done", "1"]], events


@case
def the_settings_are_kept_in_range_sent_and_remembered(bench):
    tab = bench.tab().open()
    tab("#tune").click()
    expect(tab("#temperature")).to_be_focused()
    for name, value, kept in (("temperature", "9", "2"), ("max-tokens", "3.6", "4"), ("top-p", "0", "0.01")):
        tab(f"#{name}").fill(value)
        tab(f"#{name}").blur()
        expect(tab(f"#{name}")).to_have_value(kept)
        expect(tab(f"[data-for={name}]")).to_have_value(kept)
    tab("[data-for=temperature]").focus()
    tab.page.keyboard.press("ArrowLeft")
    expect(tab("#temperature")).to_have_value("1.9")
    tab("#model").select_option("microsoft/phi-2")
    tab.page.reload()
    expect(tab("#model")).to_have_value("microsoft/phi-2")
    tab.send("Hello")
    generation = bench.upstream.next_chat()
    options = {key: generation.body["options"][key] for key in ("temperature", "num_predict", "top_p")}
    assert options == {"temperature": 1.9, "num_predict": 4, "top_p": 0.01}, options
    generation.answer("Hi")
    expect(tab.fact("model")).to_have_text("phi-2")
    tab("#tune").click()
    tab("#reset").click()
    expect(tab("#temperature")).to_have_value("0.7")
    tab.is_clean()


@case
def the_second_upstream_is_named_with_the_number_of_attempts(bench):
    other = bench.start_upstream()
    gateway = bench.start_gateway(
        gateways.upstream(bench.upstream.port, "first"), gateways.upstream(other.port, "second"))
    tab = bench.tab().open(gateway.page)
    tab.send("Hello")
    bench.upstream.next_chat().refuse(500, "no room for the model")
    other.next_chat().answer("Hi")
    expect(tab.fact("upstream")).to_have_text("second")
    expect(tab.fact("attempts")).to_have_text("2 attempts")
    tab.is_clean()


# --- Stopping --------------------------------------------------------------------------------------------------------


@case
def stop_ends_the_generation_upstream(bench):
    for press in ("button", "Escape", "before the first token"):
        tab = bench.tab().open()
        tab.send("Long story")
        generation = bench.upstream.next_chat()
        if press != "before the first token":
            generation.token("It was")
            expect(tab.answer.locator(".text")).to_have_text("It was")
        tab("#stop").click() if press == "button" else tab.page.keyboard.press("Escape")
        assert generation.left.wait(1), f"{press}: the upstream still generates"
        tab.is_idle()
        expect(tab.fact("stopped")).to_have_text("Stopped")
        expect(tab.notice).to_be_hidden()
        expect(tab("#prompt")).to_be_focused()
        if press != "before the first token":
            expect(tab.answer.locator(".text")).to_have_text("It was")
        tab.answer.get_by_role("button", name="Ask again").click()
        bench.upstream.next_chat().answer("Again")
        expect(tab.answer.locator(".text")).to_have_text("Again")
        tab.is_clean()


# --- Failures --------------------------------------------------------------------------------------------------------


@case
def no_upstream_means_the_stand_in_reply_is_named_as_one(bench):
    gateway = bench.start_gateway(gateways.upstream(bench.refused_port()))
    tab = bench.tab().open(gateway.page)
    expect(tab("#health-text")).to_have_text("No model available")
    tab.send("Hello")
    expect(tab.answer.locator(".text")).to_contain_text("unable to connect")
    expect(tab.notice).to_contain_text("No model could answer")
    expect(tab.fact("upstream")).to_have_count(0)
    expect(tab.fact("rate")).to_have_count(0)
    tab.is_clean()


@case
def a_refusal_is_shown_in_the_words_of_the_gateway(bench):
    gateway = bench.start_gateway(gateways.upstream(bench.refused_port()), webllm='fallback_message = ""')
    tab = bench.tab().open(gateway.page)
    tab.send("Hello")
    expect(tab.notice).to_have_text("No model could answer.")
    expect(tab.notice).to_have_class("notice error")
    tab.is_idle()
    tab.is_clean(expected="status of 502")


@case
def an_error_after_the_first_tokens_keeps_the_text(bench):
    tab = bench.tab().open()
    tab.send("Hello")
    generation = bench.upstream.next_chat()
    generation.token("Half an ", "answer")
    expect(tab.answer.locator(".text")).to_have_text("Half an answer")
    generation.error("runner died")
    expect(tab.notice).to_have_text("The model stopped before its answer was complete.")
    expect(tab.answer.locator(".text")).to_have_text("Half an answer")
    expect(tab.fact("first-token")).to_be_visible()
    tab.is_idle()
    tab.is_clean()


@case
def a_stream_that_is_cut_is_told_from_one_that_ended(bench):
    tab = bench.tab().open()
    tab.send("Hello")
    bench.upstream.next_chat().token("Half")
    expect(tab.answer.locator(".text")).to_have_text("Half")
    bench.gateway.kill()
    expect(tab.notice).to_have_text("The connection was cut before the answer was complete.")
    expect(tab.answer.locator(".text")).to_have_text("Half")
    tab.send("Still there?")
    expect(tab.notice).to_contain_text("The gateway cannot be reached.")
    expect(tab.answer.locator(".text")).to_be_hidden()
    tab.is_clean(expected="net::ERR_")


@case
def a_clean_end_without_done_is_a_cut_too(bench):
    ends_early = """
    const ordinaryFetch = fetch;
    window.fetch = async (...request) => request[0].endsWith("/infer")
      ? new Response('event: token\\ndata: {"text":"Half"}\\n\\nevent: done\\ndata: {"text":"Half an', {
          headers: { "Content-Type": "text/event-stream", "X-Gateway-Upstream": "ollama" } })
      : ordinaryFetch(...request);"""
    tab = bench.tab(ends_early).open()
    tab.send("Hello")
    expect(tab.notice).to_have_text("The connection was cut before the answer was complete.")
    expect(tab.answer.locator(".text")).to_have_text("Half")


@case
def without_the_list_of_models_the_default_one_answers(bench):
    tab = bench.tab()
    tab.page.route("**/api/models", lambda route: route.fulfill(status=500, body="no"))
    tab.open()
    expect(tab("#models-note")).to_contain_text("could not be loaded")
    expect(tab("#model option")).to_have_text(["Default model"])
    tab.ask("Hello", "Hi")
    expect(tab.answer.locator(".text")).to_have_text("Hi")
    tab.page.unroute("**/api/models")
    tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # the next health check asks again
    expect(tab("#model option")).to_have_count(6)
    expect(tab("#models-note")).to_be_hidden()
    tab.is_clean(expected="status of 500")


@case
def health_is_checked_every_ten_seconds_while_visible(bench):
    tab = bench.tab("Object.defineProperty(document, 'hidden', { get: () => window.isHidden ?? false });")
    tab.page.clock.install()
    tab.open()
    expect(tab("#health")).to_have_class("healthy")
    bench.gateway.kill()
    tab.page.clock.run_for(9_000)
    expect(tab("#health")).to_have_class("healthy")
    tab.page.clock.run_for(1_500)
    expect(tab("#health")).to_have_class("unreachable")
    expect(tab("#health-text")).to_have_text("Not reachable")
    asked = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.evaluate("window.isHidden = true")
    tab.page.clock.run_for(60_000)
    assert asked == [], asked
    with tab.page.expect_request("**/api/health"):
        tab.page.evaluate("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")


# --- Hostile text ----------------------------------------------------------------------------------------------------


@case
def model_output_is_only_ever_text(bench):
    tab = bench.tab().open()
    text = "\n".join(HOSTILE)
    # Also in pieces that only together are markup.
    tab.ask(text, *re.findall(r".{1,3}", text, re.S))
    tab.ask("whole", text)
    for shown in (tab(".message").nth(0), tab(".message").nth(1), tab(".message").nth(3)):
        assert shown.locator(".text").text_content() == text
        expect(shown.locator(".text *")).to_have_count(0)
    tab.page.reload()
    expect(tab(".message")).to_have_count(4)
    expect(tab(".text *")).to_have_count(0)
    expect(tab("img, iframe, a")).to_have_count(0)
    tab.is_clean()


@case
def hostile_names_and_errors_stay_text(bench):
    """The gateway lets no such name through its configuration; the page does not count on it."""
    tab = bench.tab()
    models = {"models": [{"model_id": name} for name in HOSTILE], "default_model": HOSTILE[0]}
    tab.page.route("**/api/models", lambda route: route.fulfill(json=models))
    tab.page.route("**/api/infer", lambda route: route.fulfill(
        status=503, headers={"X-Gateway-Upstream": HOSTILE[3], "Retry-After": "7"}, json={"error": HOSTILE[1]}))
    tab.open()
    expect(tab("#model")).to_have_value(HOSTILE[0])
    expect(tab("#model option")).to_have_text(HOSTILE)
    tab.send("Hello")
    expect(tab.notice).to_have_text(f"{HOSTILE[1]}. Try again in 7 s.")
    expect(tab.fact("upstream")).to_have_text(HOSTILE[3])
    expect(tab("#conversation :is(img, script, a, iframe)")).to_have_count(0)
    tab.is_clean(expected="status of 503")


# --- What stays ------------------------------------------------------------------------------------------------------


@case
def a_reload_keeps_the_conversation_until_it_is_cleared(bench):
    tab = bench.tab().open()
    tab.ask("First", "One.")
    tab.send("Second")
    bench.upstream.next_chat().token("Tw")
    expect(tab.answer.locator(".text")).to_have_text("Tw")
    tab.page.reload()
    expect(tab(".message .text")).to_have_text(["First", "One.", "Second", "Tw"])
    expect(tab("#welcome")).to_be_hidden()
    expect(tab.fact("first-token")).to_be_visible()
    expect(tab.fact("waiting")).to_have_count(0)
    expect(tab.notice).to_have_text("The page was left before this answer was complete.")
    tab("#clear").click()
    expect(tab("#confirm-no")).to_be_focused()
    tab.page.keyboard.press("Escape")
    expect(tab(".message")).to_have_count(4)
    tab("#clear").click()
    tab("#confirm-yes").click()
    expect(tab(".message")).to_have_count(0)
    expect(tab("#welcome")).to_be_visible()
    tab.page.reload()
    expect(tab("#welcome")).to_be_visible()
    expect(tab(".message")).to_have_count(0)
    tab.is_clean()


@case
def clearing_stops_what_is_running(bench):
    tab = bench.tab().open()
    tab.send("Long story")
    generation = bench.upstream.next_chat()
    generation.token("It was")
    expect(tab.answer.locator(".text")).to_have_text("It was")
    tab("#clear").click()
    tab("#confirm-yes").click()
    assert generation.left.wait(1), "the upstream still generates"
    tab.is_idle()
    expect(tab("#welcome")).to_be_visible()
    assert tab.page.evaluate("localStorage.getItem('webllm.conversation')") == "[]"
    tab.is_clean()


@case
def the_page_works_without_storage_and_with_nonsense_in_it(bench):
    forbidden = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });"
    nonsense = [None, 7, {"text": 1}, {"role": "model", "text": "x", "model": 3, "attempts": "a", "rate": "y"}]
    for script, messages in (
        (forbidden, 0),
        ("localStorage.setItem('webllm.conversation', '{{{'); localStorage.setItem('webllm.settings', '7');", 0),
        (f"localStorage.setItem('webllm.conversation', JSON.stringify({json.dumps(nonsense)}));", 1),
    ):
        tab = bench.tab(script).open()
        expect(tab(".message")).to_have_count(messages)
        tab.ask("Hello", "Hi")
        expect(tab(".message")).to_have_count(messages + 2)
        expect(tab.answer.locator(".text")).to_have_text("Hi")
        tab.is_clean()


# --- Keyboard, reading aids, sizes ------------------------------------------------------------------------------------


@case
def the_prompt_is_counted_in_code_points(bench):
    tab = bench.tab().open()
    expect(tab("#send")).to_be_disabled()
    family = "👨‍👩‍👧‍👦"  # seven code points
    tab.page.fill("#prompt", family)
    expect(tab("#count")).to_have_text("7 / 2000")
    tab.page.fill("#prompt", "😀" * 2001)
    expect(tab("#count")).to_have_class("over")
    expect(tab("#send")).to_be_disabled()
    tab.page.press("#prompt", "Enter")
    expect(tab(".message")).to_have_count(0)
    tab.page.fill("#prompt", "😀" * 2000)
    tab.page.press("#prompt", "Enter")
    bench.upstream.next_chat().answer("Fine")
    expect(tab.answer.locator(".text")).to_have_text("Fine")
    tab.is_clean()


@case
def shift_enter_breaks_the_line_and_white_space_is_not_sent(bench):
    tab = bench.tab().open()
    tab.page.keyboard.type("   ")
    tab.page.keyboard.press("Enter")
    expect(tab(".message")).to_have_count(0)
    tab.page.keyboard.type("a")
    before = tab("#prompt").bounding_box()["height"]
    tab.page.keyboard.press("Shift+Enter")
    tab.page.keyboard.type("b")
    assert tab("#prompt").bounding_box()["height"] > before
    tab.page.keyboard.press("Enter")
    generation = bench.upstream.next_chat()
    assert generation.body["messages"][-1]["content"] == "   a\nb", generation.body
    generation.answer("c")
    tab.is_clean()


@case
def the_page_can_be_used_with_the_keyboard_and_read_aloud(bench):
    tab = bench.tab().open()
    expect(tab("#announcer")).to_have_attribute("aria-live", "polite")
    for name in ("Your message", "Model", "Temperature", "Max tokens", "Top P"):
        assert tab.page.get_by_label(name, exact=True).count() > 0, name
    reached = set()
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        reached.add(tab.page.evaluate("document.activeElement.id"))
        outline = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or tab.page.evaluate("document.activeElement.matches('body, #prompt')"), reached
    assert {"prompt", "model", "tune", "scroller"} <= reached, reached
    tab("#tune").focus()
    tab.page.keyboard.press("Enter")
    expect(tab("#tune")).to_have_attribute("aria-expanded", "true")
    tab.page.keyboard.press("Escape")
    expect(tab("#settings")).to_be_hidden()
    expect(tab("#tune")).to_be_focused()
    tab.is_clean()


@case
def a_reader_who_scrolled_up_is_left_alone(bench):
    tab = bench.tab().open()
    tab.send("Long story")
    generation = bench.upstream.next_chat()
    generation.token("line\n" * 200)
    expect(tab.answer.locator(".text")).to_contain_text("line")
    assert tab.page.evaluate("scroller.scrollHeight > 2000 && isAtEnd()")
    tab.page.evaluate("scroller.scrollTop = 100")
    generation.token("more\n" * 50)
    generation.done(2)
    tab.is_idle()
    assert tab.page.evaluate("scroller.scrollTop") == 100
    tab("#latest").click()
    expect(tab("#latest")).to_be_hidden()
    assert tab.page.evaluate("isAtEnd()")
    tab.is_clean()


@case
def nothing_moves_for_those_who_asked_for_that(bench):
    for preference, animation in (("no-preference", "blink"), ("reduce", "none")):
        tab = bench.tab(reduced_motion=preference).open()
        tab.send("Hello")
        generation = bench.upstream.next_chat()
        expect(tab.answer).to_have_class(re.compile("running"))
        shown = tab.answer.locator(".text").evaluate("(text) => getComputedStyle(text, '::after').animationName")
        assert shown == animation, (preference, shown)
        generation.answer("Hi")


@case
def a_phone_scrolls_in_one_direction_only(bench):
    tab = bench.tab(**PHONE).open()
    text = "Supercalifragilistic" * 30 + "\n" + "\t" * 60 + "|" + "-" * 400

    def fits(what):
        page, inside, width = tab.widths()
        assert page <= width and inside <= 0, (what, page, inside, width)

    fits("welcome")
    bench.picture(tab, "phone-welcome")
    tab.ask(text[:1500], text)
    fits("long words")
    tab("#tune").click()
    fits("settings")
    bench.picture(tab, "phone-settings")
    for button in ("#send", "#tune", "#clear", "#model"):
        assert tab(button).bounding_box()["height"] >= 40, button
    tab("#tune").click()
    tab("#clear").click()
    fits("dialog")
    bench.picture(tab, "phone-dialog")
    tab.is_clean()


# --- Pictures --------------------------------------------------------------------------------------------------------

STORY = [
    "A tide pool is a small world that the sea leaves behind twice a day.\n\n",
    "When the water falls, hollows in the rock stay full. ", "Whatever lives there must bear sun, rain and gulls ",
    "for a few hours: mussels close their shells, anemones fold in, and crabs wait in the shade.\n\n",
    "Then the tide returns with fresh, cool water and food, and everything opens again.",
]


@case
def pictures_in_light_and_dark_and_on_a_phone(bench):
    for name, options in (
        ("light", {"color_scheme": "light"}), ("dark", {"color_scheme": "dark"}),
        ("phone-light", PHONE | {"color_scheme": "light"}), ("phone-dark", PHONE | {"color_scheme": "dark"}),
    ):
        if "phone" not in name:
            options["viewport"] = {"width": 1180, "height": 800}
        tab = bench.tab(**options).open()
        bench.picture(tab, f"{name}-welcome")
        tab.ask("Explain how a tide pool works, in three sentences.", *STORY)
        tab.send("And what do the crabs eat?")
        generation = bench.upstream.next_chat()
        generation.token("Mostly algae, ")
        expect(tab.answer.locator(".text")).to_have_text("Mostly algae, ")
        bench.picture(tab, f"{name}-streaming")
        generation.error("runner died")
        expect(tab.notice).to_be_visible()
        tab.send("Do they sleep?")
        bench.upstream.next_chat()
        tab.page.keyboard.press("Escape")
        expect(tab.fact("stopped")).to_be_visible()
        bench.picture(tab, f"{name}-conversation")
        tab("#tune").click()
        bench.picture(tab, f"{name}-settings")
        tab.page.keyboard.press("Escape")
        tab("#clear").click()
        bench.picture(tab, f"{name}-dialog")
        background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
        assert (brightness < 200) == ("dark" in name), (name, background)
        tab.is_clean()
