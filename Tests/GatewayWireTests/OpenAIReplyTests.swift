import GatewayCore
import Testing

@testable import GatewayWire

/// What servers of OpenAI's shape send that differs from OpenAI's own form, whole and cut at every byte.
struct OpenAIReplyTests {
    struct Reply: Sendable, CustomTestStringConvertible {
        var name: String
        var body: String
        var events: [UpstreamEvent]
        var testDescription: String { name }

        init(_ name: String, _ pieces: [String], _ events: [UpstreamEvent]) {
            self.name = name
            body = pieces.joined()
            self.events = events
        }
    }

    private static let finished = UpstreamEvent.finished(TokenUsage())
    private static let hi = chunk(#"{"content":"hi"}"#)
    private static let stop = chunk("{}", #""stop""#)
    private static let done = event("[DONE]")

    private static func event(_ data: String) -> String { "data: \(data)\n\n" }

    private static func chunk(_ delta: String, _ reason: String = "null") -> String {
        event(#"{"choices":[{"index":0,"delta":\#(delta),"finish_reason":\#(reason)}]}"#)
    }

    private static func expectEvents(_ reply: Reply) {
        let bytes = Array(reply.body.utf8)
        #expect(TranscriptTests.events(of: [bytes], .openai) == reply.events)
        for cut in 1..<bytes.count {
            let pieces = [Array(bytes[..<cut]), Array(bytes[cut...])]
            #expect(TranscriptTests.events(of: pieces, .openai) == reply.events, "cut at \(cut)")
        }
        #expect(TranscriptTests.events(of: bytes.map { [$0] }, .openai) == reply.events)
    }

    /// Streams without `[DONE]`, or without the blank line after it, were called truncated.
    static let ends: [Reply] = [
        Reply("a reason in a chunk of its own", [hi, stop], [.content("hi"), .progress, finished]),
        Reply("a reason beside text", [chunk(#"{"content":"hi"}"#, #""length""#)], [.content("hi"), finished]),
        Reply(
            "a reason without a delta", [hi, event(#"{"choices":[{"finish_reason":"stop"}]}"#)],
            [.content("hi"), .progress, finished]),
        Reply(
            "a reason, then counts",
            [hi, stop, event(#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}"#)],
            [
                .content("hi"), .progress, .progress,
                .finished(TokenUsage(promptTokens: 3, completionTokens: 7)),
            ]),
        Reply("a reason, then half an event", [hi, stop, #"data: {"cho"#], [.content("hi"), .progress, finished]),
        Reply("a reason and no content", [stop], [.progress, .failed(.empty)]),
        // As llama.cpp ends a stream in which it failed.
        Reply("a field `error`", [hi, "error: {\"code\":500}\n\n", done], [.content("hi"), .failed(.errorObject)]),
        Reply(
            "a field `error` at the end", [hi, stop, "error: {}"], [.content("hi"), .progress, .failed(.errorObject)]),
        Reply("an event `error`", [hi, "event: error\n", event("{}"), done], [.content("hi"), .failed(.errorObject)]),
        Reply("an event of another name", [hi, "event: errors\nerror:\n", done], [.content("hi"), finished]),
        Reply("[DONE] without a line end", [hi, "data: [DONE]"], [.content("hi"), finished]),
        Reply("[DONE] without a blank line", [hi, "data: [DONE]\n"], [.content("hi"), finished]),
        Reply("[DONE] without a blank line, CR LF", [hi, "data: [DONE]\r\n"], [.content("hi"), finished]),
        Reply("[DONE] without a line end, no content", ["data: [DONE]"], [.failed(.empty)]),
        Reply("[DONE] and white space", [hi, "data: [DONE] \n\n"], [.content("hi"), finished]),
        Reply("[DONE] and white space without a line end", [hi, "data:[DONE]\t "], [.content("hi"), finished]),
    ]

    @Test(arguments: ends) func isWhole(_ reply: Reply) { Self.expectEvents(reply) }

    static let cuts: [Reply] = [
        Reply("null is no reason", [hi, chunk("{}")], [.content("hi"), .progress, .failed(.truncated)]),
        Reply(
            "an empty text is no reason", [chunk(#"{"content":"hi"}"#, "\"\"")],
            [.content("hi"), .failed(.truncated)]),
        Reply(
            "a reason is read with its event", [hi, String(stop.dropLast(2))],
            [.content("hi"), .failed(.truncated)]),
        Reply("half of [DONE]", [hi, "data: [DON"], [.content("hi"), .failed(.truncated)]),
        Reply("[DONE] in a comment", [hi, ": [DONE]"], [.content("hi"), .failed(.truncated)]),
        Reply("[DONE] as a second line", [hi, "data: {\ndata: [DONE]"], [.content("hi"), .failed(.truncated)]),
    ]

    @Test(arguments: cuts) func isTruncated(_ reply: Reply) { Self.expectEvents(reply) }

    /// An event without data ended the stream as malformed; a byte-order mark hid the first event.
    static let idle: [Reply] = [
        Reply("no data at first", ["data:\n\n", hi, done], [.content("hi"), finished]),
        Reply("no data later", [hi, "data: \n\n", hi, done], [.content("hi"), .content("hi"), finished]),
        Reply("no colon", [hi, "data\n\n", done], [.content("hi"), finished]),
        Reply("two lines of no data", [hi, "data:\ndata:\n\n", done], [.content("hi"), finished]),
        Reply("a named event without data", ["event: ping\r\ndata:\r\n\r\n", hi, done], [.content("hi"), finished]),
        Reply("a byte-order mark", ["\u{FEFF}", hi, done], [.content("hi"), finished]),
        Reply("a byte-order mark later", [hi, "\u{FEFF}", hi, done], [.content("hi"), finished]),
    ]

    @Test(arguments: idle) func saysNothing(_ reply: Reply) { Self.expectEvents(reply) }

    private static let thinkingPart = #"{"type":"thinking","thinking":[{"type":"text","text":"hm"}]}"#
    private static let textPart = #"{"type":"text","text":"hi"}"#

    /// Mistral's models that think; the list was taken for no content.
    static let parts: [Reply] = [
        Reply(
            "thinking, then text",
            [chunk(#"{"content":[\#(thinkingPart)]}"#), chunk(#"{"content":[\#(textPart)]}"#), done],
            [.thinking, .content("hi"), finished]),
        Reply(
            "thinking, then a plain text", [chunk(#"{"content":[\#(thinkingPart)]}"#), hi, done],
            [.thinking, .content("hi"), finished]),
        Reply(
            "both at once", [chunk(#"{"content":[\#(thinkingPart),\#(textPart),\#(textPart)]}"#), done],
            [.content("hihi"), finished]),
        Reply(
            "thinking as a text", [chunk(#"{"content":[{"type":"thinking","thinking":"hm"}]}"#), done],
            [.thinking, finished]),
        Reply(
            "nothing of use",
            [chunk(#"{"content":[{"type":"reference"},{"type":"text"},{"type":"thinking"},1]}"#), done],
            [.progress, .failed(.empty)]),
        Reply("an empty list", [chunk(#"{"content":[]}"#), done], [.progress, .failed(.empty)]),
        Reply(
            "a reply that is not streamed",
            [#"{"choices":[{"message":{"content":[\#(thinkingPart),\#(textPart)]},"finish_reason":"stop"}]}"#],
            [.content("hi"), finished]),
        Reply(
            "a reply of thinking that is not streamed",
            [#"{"choices":[{"message":{"content":[\#(thinkingPart)]},"finish_reason":"length"}]}"#],
            [.thinking, finished]),
    ]

    @Test(arguments: parts) func contentMayBeAListOfParts(_ reply: Reply) { Self.expectEvents(reply) }

    private static func counts(_ prompt: Int, _ completion: Int) -> String {
        event(#"{"choices":[],"usage":{"prompt_tokens":\#(prompt),"completion_tokens":\#(completion)}}"#)
    }

    /// Zeros took the place of counts and of the estimate.
    static let usages: [Reply] = [
        Reply("zeros alone", [hi, counts(0, 0), done], [.content("hi"), .progress, finished]),
        Reply(
            "zeros before and after", [counts(0, 0), hi, counts(3, 7), counts(0, 0), done],
            [
                .progress, .content("hi"), .progress, .progress,
                .finished(TokenUsage(promptTokens: 3, completionTokens: 7)),
            ]),
        Reply(
            "the last of several", [hi, counts(3, 1), counts(3, 2), done],
            [
                .content("hi"), .progress, .progress,
                .finished(TokenUsage(promptTokens: 3, completionTokens: 2)),
            ]),
        Reply(
            "one of them is zero", [hi, counts(0, 2), done],
            [.content("hi"), .progress, .finished(TokenUsage(completionTokens: 2))]),
    ]

    @Test(arguments: usages) func onlyCountsAboveZeroAreTaken(_ reply: Reply) { Self.expectEvents(reply) }

    private static let vLLMError = #"{"object":"error","message":"boom","type":"BadRequestError","code":400}"#

    /// Errors without an `error` key were passed over, and what came before them was a success.
    static let errors: [Reply] = [
        Reply("vLLM's, first", [event(vLLMError), done], [.failed(.errorObject)]),
        Reply("vLLM's, later", [hi, event(vLLMError), done], [.content("hi"), .failed(.errorObject)]),
        Reply("vLLM's, not streamed", [vLLMError], [.failed(.errorObject)]),
        Reply(
            "FastChat's", [hi, event(#"{"text":"**NETWORK ERROR**","error_code":50001}"#), done],
            [.content("hi"), .failed(.errorObject)]),
        Reply(
            "no error", [event(#"{"object":"chat.completion.chunk","error":null,"error_code":0}"#), hi, done],
            [.progress, .content("hi"), finished]),
    ]

    @Test(arguments: errors) func isAnErrorUnlessItsCodeIsZero(_ reply: Reply) { Self.expectEvents(reply) }
}
