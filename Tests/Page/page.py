"""What the page shows, keeps and looks like. Each case has a gateway and an upstream of its own."""

import json
import re

import gateway as gateways
from browser import Tab, case
from playwright.sync_api import expect

PHONE = {"viewport": {"width": 375, "height": 720}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
HOSTILE = [
    "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "<a href=\"javascript:alert(3)\">link</a>",
    "\"><svg/onload=alert(4)>", "[link](javascript:alert(5))", "</textarea><iframe srcdoc='<script>alert(6)</script>'>",
]

# Gathers what a screen reader is told, one text after another.
HEAR = """
window.heard = [];
document.addEventListener("DOMContentLoaded", () => {
  const announcer = document.getElementById("announcer");
  const note = (changes) => window.heard.push(...changes.flatMap(({ addedNodes: [text] }) => text?.data ?? []));
  new MutationObserver(note).observe(announcer, { childList: true });
});
"""

# --- Hostile text -------------------------------------------------------------------------------------------------


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


# --- What stays ---------------------------------------------------------------------------------------------------


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
def two_tabs_show_the_same_conversation(bench):
    tab = bench.tab().open()
    other = tab.page.context.new_page()
    other.goto(bench.gateway.page)
    tab.ask("Hello", "Hi")
    expect(other.locator(".message .text")).to_have_text(["Hello", "Hi"])
    tab.is_clean()


@case
def two_tabs_that_answer_at_once_keep_both_and_a_clear_holds(bench):
    tab = bench.tab().open()
    tab.send("First question")
    first = bench.upstream.next_chat()
    first.token("first")
    other = Tab(bench, tab.page.context.new_page()).open()
    other.ask("Second question", "second")
    expect(tab.answer).to_have_class(re.compile("running"))
    first.answer(" answer")
    for one in (tab, other):
        expect(one(".message .text")).to_have_text(["First question", "first answer", "Second question", "second"])
    tab.send("Third question")
    third = bench.upstream.next_chat()
    third.token("third")
    expect(other(".message")).to_have_count(5)
    other("#clear").click()
    other("#confirm-yes").click()
    third.answer(" answer")
    tab.is_idle()
    expect(tab(".message")).to_have_count(0)
    assert tab.page.evaluate("localStorage.getItem('webllm.conversation')") == "[]"
    tab.is_clean()
    other.is_clean()


@case
def an_answer_can_be_copied(bench):
    tab = bench.tab(permissions=["clipboard-read", "clipboard-write"]).open()
    tab.ask("Hello", "Hi\n", "there")
    tab.answer.get_by_role("button", name="Copy").click()
    expect(tab.answer.get_by_role("button", name="Copied")).to_be_visible()
    assert tab.page.evaluate("navigator.clipboard.readText()") == "Hi\nthere"
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
    forbidden = (
        "Object.defineProperty(window, 'localStorage',"
        " { get() { throw new DOMException('no', 'SecurityError'); } });")
    nonsense = [None, 7, {"text": 1}, {"role": "model", "text": "x", "model": 3, "attempts": "a", "rate": "y"}]
    for script, messages in (
        (forbidden, 0),
        ("localStorage.setItem('webllm.conversation', '{{{'); localStorage.setItem('webllm.settings', '7');", 0),
        (f"localStorage.setItem('webllm.conversation', JSON.stringify({json.dumps(nonsense)}));", 1),
    ):
        tab = bench.tab(script).open()
        expect(tab(".message")).to_have_count(messages)
        expect(tab("#unkept")).to_be_hidden()
        tab.ask("Hello", "Hi")
        expect(tab("#unkept")).to_be_visible(visible=script == forbidden)
        expect(tab(".message")).to_have_count(messages + 2)
        expect(tab.answer.locator(".text")).to_have_text("Hi")
        tab.is_clean()


@case
def a_conversation_that_cannot_be_kept_is_told_until_it_is_cleared(bench):
    tab = bench.tab("""
      const setItem = Storage.prototype.setItem;
      Storage.prototype.setItem = function (...item) {
        if (window.isFull) throw new DOMException("full", "QuotaExceededError");
        setItem.call(this, ...item);
      };""").open()
    tab.ask("First", "One")
    expect(tab("#unkept")).to_be_hidden()
    tab.page.evaluate("window.isFull = true")
    tab.ask("Second", "Two")
    expect(tab("#unkept")).to_have_text(re.compile("gone once the page is closed"))
    tab.page.evaluate("window.isFull = false")
    tab.ask("Third", "Three")
    expect(tab("#unkept")).to_be_visible()
    tab("#clear").click()
    tab("#confirm-yes").click()
    expect(tab("#unkept")).to_be_hidden()
    tab.is_clean()


# --- Keyboard, reading aids, sizes --------------------------------------------------------------------------------


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
    expect(tab("#announcer")).to_have_text("The message is longer than 2000 characters.")
    expect(tab(".message")).to_have_count(0)
    tab.page.fill("#prompt", "😀" * 2000)
    tab.page.press("#prompt", "Enter")
    bench.upstream.next_chat().answer("Fine")
    expect(tab.answer.locator(".text")).to_have_text("Fine")
    tab.is_clean()


@case
def the_prompt_may_be_as_long_as_the_gateway_takes(bench):
    gateway = bench.start_gateway(gateways.upstream(bench.upstream.port), webllm="max_prompt_characters = 3000")
    tab = bench.tab().open(gateway.page)
    tab.page.fill("#prompt", "x" * 3001)
    expect(tab("#count")).to_have_text("3001 / 3000")
    expect(tab("#send")).to_be_disabled()
    tab.page.fill("#prompt", "x" * 3000)
    tab.page.press("#prompt", "Enter")
    bench.upstream.next_chat().answer("Fine")
    expect(tab.answer.locator(".text")).to_have_text("Fine")
    tab.is_clean()


@case
def the_enter_that_ends_a_composition_sends_nothing(bench):
    """As Safari tells it: the composition has ended, and only the code says that an input method took the key."""
    tab = bench.tab().open()
    tab.page.fill("#prompt", "にほんご")
    tab("#prompt").evaluate(
        "(box) => box.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true }))")
    expect(tab(".message")).to_have_count(0)
    tab.page.press("#prompt", "Enter")
    bench.upstream.next_chat().answer("はい")
    expect(tab.answer.locator(".text")).to_have_text("はい")
    tab.is_clean()


@case
def the_settings_stay_within_the_window(bench):
    tab = bench.tab(viewport={"width": 375, "height": 667}).open()
    tab.page.fill("#prompt", "line\n" * 14)
    tab("#tune").click()
    assert tab("#settings").bounding_box()["y"] >= 0, tab("#settings").bounding_box()
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
def every_letter_is_read_aloud_though_white_space_came_first(bench):
    tab = bench.tab(HEAR).open()
    tab.ask("Hello", "\n", " \n Good ", "morning. ", "Nothing is lost")
    assert "".join(tab.page.evaluate("heard")).strip() == "Good morning. Nothing is lost", tab.page.evaluate("heard")
    assert tab.answer.locator(".text").text_content() == "Good morning. Nothing is lost"
    tab.is_clean()


@case
def sentences_without_spaces_are_read_aloud_as_they_come(bench):
    tab = bench.tab(HEAR).open()
    tab.send("Hello")
    generation = bench.upstream.next_chat()
    for sentence in ("你好。", "お元気ですか？", "はい！"):
        generation.token(sentence[:1], sentence[1:])
        expect(tab("#announcer")).to_have_text(sentence)
    generation.token("終わり")
    generation.done(4)
    tab.is_idle()
    assert "".join(tab.page.evaluate("heard")).strip() == "你好。お元気ですか？はい！終わり", tab.page.evaluate("heard")
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
    tab.ask(text[:1500], text)
    fits("long words")
    tab("#tune").click()
    fits("settings")
    for button in ("#send", "#tune", "#clear", "#model"):
        assert tab(button).bounding_box()["height"] >= 40, button
    tab("#tune").click()
    tab("#clear").click()
    fits("dialog")
    tab.is_clean()


@case
def all_of_the_head_is_there_in_the_narrowest_window(bench):
    """320 px are also what is left of 1280 at four times the size."""
    for width, health in ((320, "Healthy"), (320, "No model available"), (375, "No model available")):
        tab = bench.tab(viewport={"width": width, "height": 568}).open()
        tab.ask("Hello", "Hi")
        tab.page.evaluate("(words) => { document.getElementById('health-text').textContent = words; }", health)
        assert tab.widths()[0] <= width, (tab.widths(), health)
        clear = tab.page.get_by_role("button", name="Clear", exact=True).bounding_box()
        assert clear["x"] + clear["width"] <= width, (clear, health)
        expect(tab.page.get_by_role("button", name="Settings", exact=True)).to_be_visible()
        tab.is_clean()


# --- Pictures -----------------------------------------------------------------------------------------------------

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


# --- The page of the API ------------------------------------------------------------------------------------------


@case
def the_page_of_the_api_shows_every_operation(bench):
    tab = bench.tab(viewport={"width": 320, "height": 720})
    root = f"http://127.0.0.1:{bench.gateway.port}"
    description = tab.page.request.get(f"{root}/openapi.json").json()
    operations = [one for path in description["paths"].values() for one in path.values() if "operationId" in one]
    tab.page.goto(f"{root}/docs#infer")
    expect(tab("article .route")).to_have_count(len(operations))
    expect(tab("#infer h3")).to_be_in_viewport()
    expect(tab("#infer")).to_contain_text(f"curl -X POST '{root}/webllm/api/infer'")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320, "it scrolls sideways"
    tab.is_clean()
