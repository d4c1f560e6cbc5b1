import GatewayCore
import NIOCore
import Testing

@testable import GatewayWire

/// Bodies of WebLLM requests, and the texts and numbers of its replies.
struct WebLLMTests {
    private let parser = JSONParser()
    private let limits = WebLLMLimits(maxPromptCharacters: 2000, maxBatch: 100)

    private func fault(_ body: [UInt8]) -> String? {
        do throws(RequestFault) {
            _ = try WebLLMReader.infer(ByteBuffer(bytes: body), limits: limits, parser: parser)
            return nil
        } catch {
            return error.message
        }
    }

    private func fault(_ body: String) -> String? { fault(Array(body.utf8)) }

    @Test(arguments: [
        (#"{"prompt":"x","PROMPT":"y"}"#, "Unknown field; did you mean prompt?"),
        (#"{"prompt":"x","prompt":"y"}"#, "Duplicate field: prompt"),
        (#"{"prompt":"x","\u0070rompt":"y"}"#, "Duplicate field: prompt"),
        (#"{"prompt":"x"} 1"#, "The request body is not valid JSON"),
        (#"{"prompt":"x",}"#, "The request body is not valid JSON"),
        ("{\"prompt\":\"a\nb\"}", "The request body is not valid JSON"),
        ("{\"prompt\":\"x\",\"y\":\"a\u{01}\"}", "The request body is not valid JSON"),
        ("\u{FEFF}{\"prompt\":\"x\"}", "The request body is not valid JSON"),
        (#"{"prompt":"x","a":NaN}"#, "The request body is not valid JSON"),
        (#"{"prompt":"x","model_id":"a\u0000b"}"#, "model_id must be at most 200 bytes without control characters"),
        (#"{"prompt":"x","model_id":1}"#, "model_id must be a string"),
        (#"{"prompt":"x","mode":1}"#, "mode must be a string"),
        (#"{"prompt":"x","stream":"true"}"#, "stream must be true or false"),
        (#"{"prompt":"x","top_k":1.5}"#, "top_k must be a whole number"),
        (#"["prompt"]"#, "Missing required field: prompt"),
        (#"{"prompt":"\u2003\u0085"}"#, "Prompt cannot be empty"),
    ])
    func isRefused(_ body: String, _ message: String) { #expect(fault(body) == message) }

    @Test func numbersThatAreTooLargeAndNestingThatIsTooDeepAreRefused() {
        #expect(fault(#"{"prompt":"x","b":1e99999}"#) != nil)
        #expect(fault(#"{"prompt":"x","b":\#(String(repeating: "9", count: 5000))}"#) != nil)
        #expect(fault(String(repeating: #"{"a":"#, count: 600)) != nil)
        #expect(fault(String(repeating: "[", count: 100_000)) != nil)
        #expect(
            fault(Array(#"{"prompt":""#.utf8) + [0xC0, 0xAF] + Array("\"}".utf8))
                == "The request body is not valid UTF-8")
        #expect(fault(Array(#"{"prompt":""#.utf8) + [0xED, 0xA0, 0x80] + Array("\"}".utf8)) != nil)
    }

    @Test func aNulInThePromptSurvives() throws {
        let body = ByteBuffer(string: #"{"prompt":"a\u0000b","temperature":0,"top_p":1,"max_tokens":64.0,"foo":[1]}"#)
        let request = try WebLLMReader.infer(body, limits: limits, parser: parser)
        #expect(request.prompt == "a\0b")
        #expect(request.sampling == SamplingParameters(temperature: 0, topP: 1, maxTokens: 64))
        let chat = ChatRequest(
            messages: [ChatMessage(role: .user, content: request.prompt)], sampling: request.sampling)
        let sent = String(buffer: UpstreamRequestWriter.body(chat, kind: .ollama, model: "m"))
        #expect(
            sent == #"{"model":"m","messages":[{"role":"user","content":"a\u0000b"}],"stream":true,"#
                + #""options":{"temperature":0,"top_p":1,"num_predict":64}}"#)
    }

    @Test func familyEmojiIsSevenCharacters() {
        let family = "👨‍👩‍👧‍👦"
        #expect(fault(#"{"prompt":"\#(String(repeating: family, count: 285))"}"#) == nil)
        #expect(fault(#"{"prompt":"\#(String(repeating: family, count: 286))"}"#) != nil)
    }

    @Test(arguments: [
        ("echo: hi", 2), ("echo: What is AI?", 5), ("echo: c c c", 5), ("", 0), (" \n", 0),
        ("echo: héllo 世界 😀 \u{2028} \"q\" \\", 7),
    ])
    func tokensAreEstimated(_ text: String, _ tokens: Int) { #expect(WebLLMText.estimatedTokens(text) == tokens) }

    @Test func textIsTrimmedAsPythonDoes() {
        #expect(WebLLMText.trimmed("\u{2003} a b\u{1C}\n") == "a b")
        #expect(WebLLMText.trimmed(" \n ") == "")
        #expect(WebLLMText.trimmed("a") == "a")
    }

    @Test(arguments: [
        (Int64(0), "1970-01-01T00:00:00.000000"), (1_705_314_600_000_000, "2024-01-15T10:30:00.000000"),
        (951_782_399_999_999, "2000-02-28T23:59:59.999999"), (951_782_400_000_001, "2000-02-29T00:00:00.000001"),
        (4_107_542_400_000_000, "2100-03-01T00:00:00.000000"),
    ])
    func timestamps(_ microseconds: Int64, _ text: String) {
        var buffer = ByteBuffer()
        buffer.write(atMost: Timestamp.width) { $0.put(Timestamp(microseconds: microseconds)) }
        #expect(String(buffer: buffer) == text)
    }

    @Test func httpDates() {
        #expect(Timestamp(microseconds: 784_111_777_000_000).httpDate == "Sun, 06 Nov 1994 08:49:37 GMT")
    }

    @Test func stringsAreEscapedAndReadBack() throws {
        let text = "\"\\/\u{08}\u{0C}\n\r\t\u{01}\u{1F}\u{7F}é世😀\u{2028}"
        var buffer = ByteBuffer()
        buffer.writeJSONString(text)
        #expect(try parser.parse(Array(buffer.readableBytesView)).string == text)
    }

    /// Texts are looked at eight bytes at a time: each byte is found at each place, beside any neighbour.
    @Test func everyByteIsEscapedWhereverItStands() throws {
        let names: [UInt8: String] = [0x22: #"\""#, 0x5C: #"\\"#, 0x0A: #"\n"#, 0x0D: #"\r"#, 0x09: #"\t"#]
        for byte in UInt8(0)...0x7F {
            let escaped =
                names[byte] ?? (byte < 0x20 ? "\\u00" + (byte < 16 ? "0" : "") + String(byte, radix: 16) : nil)
            let character = String(Unicode.Scalar(byte))
            for length in 1...17 {
                for place in 0..<length {
                    for neighbour in ["a", "\u{20}", "\u{21}", "\u{7F}"] {
                        let before = String(repeating: neighbour, count: place)
                        let after = String(repeating: neighbour, count: length - place - 1)
                        var buffer = ByteBuffer()
                        buffer.writeJSONString(before + character + after)
                        let expected = "\"" + before + (escaped ?? character) + after + "\""
                        if String(buffer: buffer) != expected {
                            Issue.record("byte \(byte) at \(place) of \(length) beside \(neighbour): \(buffer)")
                        }
                    }
                }
            }
        }
    }

    @Test(arguments: [0, 1, 9, 10, 99, 100, -1, -10, .max, .min])
    func numbersAreWrittenInDecimal(_ number: Int) {
        var buffer = ByteBuffer()
        buffer.writeDecimal(number)
        #expect(String(buffer: buffer) == "\(number)")
    }

    @Test func streamEventsCannotBeEndedByTheirText() {
        var sse = ByteBuffer()
        TokenStreamWriter(.sse).token("\n\ndata: x\nevent: done", into: &sse)
        #expect(String(buffer: sse) == "event: token\ndata: {\"text\":\"\\n\\ndata: x\\nevent: done\"}\n\n")
        var ndjson = ByteBuffer()
        TokenStreamWriter(.ndjson).error("a\nb", requestID: "r", into: &ndjson)
        #expect(String(buffer: ndjson) == "{\"type\":\"error\",\"error\":\"a\\nb\",\"request_id\":\"r\"}\n")
    }

    @Test func requestIdentifiersAreUUIDsOfVersion4() {
        var random = SystemRandomNumberGenerator()
        let ids = (0..<1000).map { _ in RequestIdentifier.make(using: &random) }
        #expect(Set(ids).count == 1000)
        #expect(
            ids.allSatisfy {
                $0.wholeMatch(of: /[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/) != nil
            })
    }

    /// A batch has no top_p and no top_k; what it does not have is ignored, whatever it holds.
    @Test func aBatchIgnoresFieldsThatItDoesNotHave() throws {
        let body = ByteBuffer(string: #"{"prompts":["a"],"top_p":5,"top_k":"x","temperature":1}"#)
        let request = try WebLLMReader.batch(body, limits: limits, parser: parser)
        #expect(request.sampling == SamplingParameters(temperature: 1))
    }

    /// A wrong type is the whole request's fault, whatever else is wrong.
    @Test func aWrongTypeIsToldBeforeAValueOutOfRange() {
        #expect(throws: RequestFault("max_tokens must be a whole number")) {
            let body = ByteBuffer(string: #"{"prompts":["a"],"temperature":5,"max_tokens":[]}"#)
            _ = try WebLLMReader.batch(body, limits: limits, parser: parser)
        }
    }
}
