import Foundation
import GatewayCore
import Testing

@testable import GatewayWire

/// Replies recorded from a real Ollama and a real llama.cpp server, whole and cut at every byte.
struct TranscriptTests {
    struct Recorded: Sendable, CustomTestStringConvertible {
        var file: String
        var kind: UpstreamKind
        var text: String
        var end: UpstreamEvent
        var testDescription: String { file }
    }

    static let recorded: [Recorded] = [
        Recorded(
            file: "ollama-chat-stream", kind: .ollama, text: "Awesome, welcome to the world",
            end: .finished(TokenUsage(promptTokens: 15, completionTokens: 8))),
        Recorded(
            file: "ollama-chat-nonstream", kind: .ollama, text: "Awesome, welcome to the city of Elysium!",
            end: .finished(TokenUsage(promptTokens: 15, completionTokens: 14))),
        Recorded(
            file: "llamacpp-chat-stream", kind: .openai, text: "Hello, welcome to my little",
            end: .finished(TokenUsage(promptTokens: 36, completionTokens: 6))),
        Recorded(
            file: "llamacpp-chat", kind: .openai, text: "Hello, welcome to my little corner of the world.",
            end: .finished(TokenUsage(promptTokens: 36, completionTokens: 12))),
        Recorded(
            file: "llamacpp-slow-prompt-ping", kind: .openai, text: "In addition to", end: .finished(TokenUsage())),
        Recorded(
            file: "ollama-v1-chat-stream", kind: .openai, text: "Awesome, welcome",
            end: .finished(TokenUsage(promptTokens: 15, completionTokens: 5))),
        Recorded(file: "ollama-empty-messages-load", kind: .ollama, text: "", end: .failed(.empty)),
    ]

    @Test(arguments: recorded)
    func isReadWholeAndCutAtEveryByte(_ item: Recorded) throws {
        let body = try Self.body(item.file)
        let whole = Self.events(of: [body], item.kind)
        #expect(whole.last == item.end)
        #expect(Self.text(whole) == item.text)
        for cut in 1..<body.count {
            #expect(Self.events(of: [Array(body[..<cut]), Array(body[cut...])], item.kind) == whole, "cut at \(cut)")
        }
        #expect(Self.events(of: body.map { [$0] }, item.kind) == whole)
    }

    /// Success is never told where anything is missing at the end but what comes after the event with a finish reason.
    @Test(arguments: recorded.filter { $0.text != "" })
    func aReplyThatIsCutIsNeverASuccess(_ item: Recorded) throws {
        let body = try Self.body(item.file)
        let trailing = body.reversed().prefix { $0 == 10 || $0 == 13 }.count
        let reason = body.firstRange(of: Array(#""finish_reason":"length""#.utf8))
        let enough = reason.flatMap { body[$0.upperBound...].firstRange(of: Array("\n\n".utf8))?.upperBound }
        for length in stride(from: body.count - trailing - 1, to: 0, by: -7) {
            let last = Self.events(of: [Array(body[..<length])], item.kind).last
            guard case .failed = last else {
                #expect(length >= enough ?? body.count, "success after \(length) of \(body.count) bytes")
                continue
            }
            #expect(length < enough ?? body.count, "no success after \(length) of \(body.count) bytes")
        }
    }

    @Test(arguments: [
        ("ollama-runner-killed", UpstreamKind.ollama, ReplyFault.errorObject),
        ("ollama-sigterm", .ollama, .truncated),
        ("ollama-v1-runner-killed", .openai, .truncated),
        ("llamacpp-kill", .openai, .truncated),
    ])
    func anUpstreamThatDiesInMidStreamIsAFault(_ file: String, _ kind: UpstreamKind, _ fault: ReplyFault) throws {
        let events = Self.events(of: [try Self.body(file)], kind)
        #expect(events.last == .failed(fault))
        #expect(Self.text(events).count > 20)
    }

    @Test(arguments: [
        ("ollama-unknown-model", 404, AttemptFailure.modelNotFound), ("llamacpp-401", 401, .status(401)),
        ("ollama-bad-option", 500, .status(500)),
    ])
    func statusesAreClassified(_ file: String, _ status: Int, _ failure: AttemptFailure) throws {
        let body = try Self.body(file)
        let parser = JSONParser()
        #expect(
            UpstreamErrorReader.classify(
                status: status, retryAfter: nil, body: body, now: Timestamp(microseconds: 0), parser: parser) == failure
        )
    }

    @Test func busyAndTooManyAreTheirOwn() {
        let parser = JSONParser()
        let busy = Array(#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#.utf8)
        #expect(
            UpstreamErrorReader.classify(
                status: 503, retryAfter: nil, body: busy, now: Timestamp(microseconds: 0), parser: parser) == .busy)
        #expect(
            UpstreamErrorReader.classify(
                status: 503, retryAfter: nil, body: [], now: Timestamp(microseconds: 0), parser: parser) == .status(503)
        )
        #expect(
            UpstreamErrorReader.classify(
                status: 429, retryAfter: "7", body: [], now: Timestamp(microseconds: 0), parser: parser)
                == .tooManyRequests(retryAfter: 7))
    }

    @Test(arguments: [
        ("7", 7), ("99999999999999999999999", .max), ("Thu, 01 Jan 1970 00:01:30 GMT", 60),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0), ("1.5", nil), ("-1", nil), ("", nil),
        ("Thursday, 01-Jan-70 00:01:30 GMT", nil),
    ])
    func retryAfterIsANumberOrADate(_ text: String, _ seconds: Int?) {
        let now = Timestamp(microseconds: 30_000_000)
        #expect(
            UpstreamErrorReader.classify(status: 429, retryAfter: text, body: [], now: now, parser: JSONParser())
                == .tooManyRequests(retryAfter: seconds))
    }

    @Test func modelListsAreRead() throws {
        let parser = JSONParser()
        #expect(ModelListReader.models(try Self.body("ollama-tags"), kind: .ollama, parser: parser) == ["smollm2:135m"])
        #expect(ModelListReader.models(try Self.body("llamacpp-models"), kind: .openai, parser: parser) == ["smollm2"])
        #expect(ModelListReader.models(Array("<html>".utf8), kind: .ollama, parser: parser) == nil)
    }

    struct Damaged: Sendable, CustomTestStringConvertible {
        var name: String
        var kind: UpstreamKind
        var bytes: [UInt8]
        var events: [UpstreamEvent]
        var testDescription: String { name }

        init(_ name: String, _ kind: UpstreamKind, _ text: String, _ events: [UpstreamEvent]) {
            self.name = name
            self.kind = kind
            bytes = Array(text.utf8)
            self.events = events
        }
    }

    static let damaged: [Damaged] = [
        Damaged("U19", .ollama, #"{"message":{"content":"a"}}"# + "\n", [.content("a"), .failed(.truncated)]),
        Damaged(
            "U20", .ollama, #"{"message":{"content":"a"},"done":true}"# + "\nrubbish\n",
            [.content("a"), .finished(TokenUsage())]),
        Damaged("U42", .ollama, #"{"error":"x"}"#, [.failed(.errorObject)]),
        Damaged("HTML", .ollama, "<html></html>", [.failed(.malformed)]),
        Damaged("a list", .ollama, "[1]\n", [.failed(.unexpectedShape)]),
        Damaged("nothing", .ollama, "", [.failed(.truncated)]),
        Damaged(
            "U18", .ollama, #"{"message":{"content":"a\ud83d b"},"done":true}"#,
            [.content("a\u{FFFD} b"), .finished(TokenUsage())]),
        Damaged(
            "blank lines and CR LF", .ollama, "\r\n \r\n" + #"{"message":{"content":"a"},"done":true}"# + "\r\n",
            [.content("a"), .finished(TokenUsage())]),
        Damaged(
            "thinking", .ollama, #"{"message":{"content":"","thinking":"hm"}}"# + "\n",
            [.thinking, .failed(.truncated)]),
        Damaged("U50", .ollama, String(repeating: "[", count: 100_000), [.failed(.malformed)]),
        Damaged(
            "X35", .openai,
            "data: {\"choices\":[{\"delta\":{\"content\":\"\\ndata: [DONE]\\n\\n\"}}]}\n\ndata: [DONE]\n\n",
            [.content("\ndata: [DONE]\n\n"), .finished(TokenUsage())]),
        Damaged(
            "vLLM's thinking", .openai, #"data: {"choices":[{"delta":{"reasoning":"hm"}}]}"# + "\n\n",
            [.thinking, .failed(.truncated)]),
        Damaged(
            "SGLang's role", .openai,
            #"data: {"choices":[{"delta":{"role":"assistant","content":"","tool_calls":null}}]}"#
                + "\n\ndata: [DONE]\n\n", [.progress, .failed(.empty)]),
        Damaged(
            "no tool call", .ollama, #"{"message":{"content":"","tool_calls":null},"done":true}"# + "\n",
            [.progress, .failed(.empty)]),
        Damaged(
            "a tool call", .ollama, #"{"message":{"content":"","tool_calls":[{}]},"done":true}"# + "\n",
            [.thinking, .finished(TokenUsage())]),
        Damaged("openai error", .openai, "data: {\"error\":{\"message\":\"x\"}}\n\n", [.failed(.errorObject)]),
        Damaged("openai empty", .openai, "data: [DONE]\n\n", [.failed(.empty)]),
        Damaged("query", .query, #"{"response":" hi "}"#, [.content(" hi "), .finished(TokenUsage())]),
        Damaged("query without response", .query, #"{"detail":[]}"#, [.failed(.unexpectedShape)]),
        Damaged("query with white space", .query, #"{"response":" \n"}"#, [.failed(.empty)]),
    ]

    @Test(arguments: damaged)
    func damagedReplies(_ item: Damaged) { #expect(Self.events(of: [item.bytes], item.kind) == item.events) }

    @Test func invalidUTF8InATokenIsRepaired() {
        let line = Array(#"{"message":{"content":"a"#.utf8) + [0xFF] + Array(#"b"},"done":true}"#.utf8)
        #expect(Self.events(of: [line], .ollama) == [.content("a\u{FFFD}b"), .finished(TokenUsage())])
    }

    @Test func aLineOverTheLimitIsAFault() {
        var decoder = UpstreamReplyDecoder(kind: .ollama, maxLine: 100)
        var events: [UpstreamEvent] = []
        let parser = JSONParser()
        for _ in 0..<50 { decoder.feed(Array("          ".utf8), parser: parser, into: &events) }
        #expect(events == [.failed(.lineTooLong)])
    }

    static func events(of pieces: [[UInt8]], _ kind: UpstreamKind) -> [UpstreamEvent] {
        var decoder = UpstreamReplyDecoder(kind: kind)
        let parser = JSONParser()
        var events: [UpstreamEvent] = []
        for piece in pieces { decoder.feed(piece, parser: parser, into: &events) }
        decoder.end(parser: parser, into: &events)
        return events
    }

    private static func text(_ events: [UpstreamEvent]) -> String {
        events.reduce(into: "") { text, event in
            if case .content(let piece) = event { text += piece }
        }
    }

    /// The body after the head; the recorder ended some files with blank lines of its own.
    private static func body(_ name: String) throws -> [UInt8] {
        let url = try #require(Bundle.module.url(forResource: "Fixtures/\(name)", withExtension: "txt"))
        let bytes = Array(try Data(contentsOf: url))
        let separator = bytes.firstRange(of: Array("\r\n\r\n".utf8)) ?? bytes.firstRange(of: Array("\n\n".utf8))
        return Array(bytes[try #require(separator).upperBound...])
    }
}
