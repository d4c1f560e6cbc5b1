"""Loading, asking, stopping and failing. Each case has a gateway and an upstream of its own."""

import re

import gateway as gateways
from browser import case
from playwright.sync_api import expect

# --- Loading ------------------------------------------------------------------------------------------------------


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
    assert size < 43_000, f"{size} bytes"


# --- An answer ----------------------------------------------------------------------------------------------------


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
      const bytes = new TransformStream({
        transform(chunk, out) { for (const byte of chunk) out.enqueue(Uint8Array.of(byte)); },
      });
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
        # A lone CR may be half of a CRLF until the next byte is there: the LF at the end shows that it was not.
        ":ping\r\revent: token\rdata: {\"text\":\rdata: \"a\"}\r\revent:done\rdata:1\r\r\n",
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


@case
def an_answer_after_a_heartbeat_is_no_stand_in(bench):
    """The head of its reply went out before anybody had answered: it names no upstream."""
    gateway = bench.start_gateway(gateways.upstream(bench.upstream.port), server='heartbeat = "100ms"')
    tab = bench.tab().open(gateway.page)
    with tab.page.expect_response("**/api/infer") as reply:
        tab.send("Hello")
    assert "x-gateway-upstream" not in reply.value.headers, reply.value.headers
    expect(tab.fact("waiting")).to_be_visible()
    bench.upstream.next_chat().answer("At ", "last")
    tab.is_idle()
    expect(tab.answer.locator(".text")).to_have_text("At last")
    expect(tab.notice).to_be_hidden()
    expect(tab.fact("first-token")).to_be_visible()
    expect(tab.fact("rate")).to_be_visible()
    expect(tab.fact("tokens")).to_have_text("2 tokens")
    tab.is_clean()


# --- Stopping -----------------------------------------------------------------------------------------------------


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


# --- Failures -----------------------------------------------------------------------------------------------------


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
    expect(tab.answer.get_by_role("button", name="Ask again")).to_be_visible()
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
