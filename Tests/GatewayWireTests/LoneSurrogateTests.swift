import GatewayCore
import NIOCore
import Testing

@testable import GatewayWire

/// Requests of clients that cut an emoji in two were refused as "not valid JSON".
struct LoneSurrogateTests {
    private let parser = JSONParser()
    private let limits = WebLLMLimits(maxPromptCharacters: 12, maxBatch: 100)

    private func infer(_ body: [UInt8]) throws -> InferRequest {
        try WebLLMReader.infer(ByteBuffer(bytes: body), limits: limits, parser: parser)
    }

    @Test(arguments: [
        (#"half \ud83d"#, "half \u{FFFD}"), (#"\uDE00 half"#, "\u{FFFD} half"), (#"\ud83d\ud83d"#, "\u{FFFD}\u{FFFD}"),
        (#"\ude00\ud83d"#, "\u{FFFD}\u{FFFD}"), (#"\ud83d\ud83d\ude00"#, "\u{FFFD}😀"), (#"\ud83dA"#, "\u{FFFD}A"),
        (#"\ud83d\u0041"#, "\u{FFFD}A"), (#"\ud83d\n\\ud83d"#, "\u{FFFD}\n\\ud83d"),
        (#"\ud83d 😀\u00e9"#, "\u{FFFD} 😀é"),
    ])
    func isReadAsAReplacement(_ written: String, _ prompt: String) throws {
        #expect(try infer(Array(#"{"prompt":"\#(written)"}"#.utf8)).prompt == prompt)
        #expect(try infer(Array(#"{"\#(written)":"\#(written)","prompt":"x"}"#.utf8)).prompt == "x")
    }

    /// It is one character, as in Python, so that the limit is the same.
    @Test func itCountsAsOneCharacter() throws {
        #expect(try infer(Array(#"{"prompt":"12345678901\ud83d"}"#.utf8)).prompt == "12345678901\u{FFFD}")
        #expect(throws: RequestFault("Prompt exceeds maximum length of 12 characters")) {
            _ = try infer(Array(#"{"prompt":"123456789012\ud83d"}"#.utf8))
        }
    }

    /// Each body has the escape of a lone surrogate, and another fault too.
    @Test(arguments: [
        (#"{"prompt":"\ud83d",}"#, "The request body is not valid JSON"),
        (#"{"prompt":"\ud83d"} 1"#, "The request body is not valid JSON"),
        (#"{"prompt":"\ud83d \u12g4"}"#, "The request body is not valid JSON"),
        (#"{"prompt":"\ud83d"#, "The request body is not valid JSON"),
        (#"{"prompt":\ud83d}"#, "The request body is not valid JSON"),
        (#"{"prompt":"\ud83d","b":1e999}"#, "The request body holds a number that is malformed or too large"),
        (#"{"prompt":"\ud83d","prompt":"x"}"#, "Duplicate field: prompt"),
    ])
    func otherFaultsStay(_ body: String, _ message: String) {
        #expect(throws: RequestFault(message)) { _ = try infer(Array(body.utf8)) }
    }

    @Test(arguments: [[0xFF], [0xC0, 0xAF], [0xED, 0xA0, 0xBD]] as [[UInt8]])
    func invalidUTF8StaysAFault(_ bytes: [UInt8]) {
        let body = Array(#"{"prompt":"\ud83d "#.utf8) + bytes + Array("\"}".utf8)
        #expect(throws: RequestFault("The request body is not valid UTF-8")) { _ = try infer(body) }
    }

    @Test func whatABatchEchoesIsValidJSON() throws {
        let body = ByteBuffer(
            string: #"{"prompts":["half \ud83d","too long for it \ud83d",{"\ude00":["\ud83d",1]}],"model_id":"m"}"#)
        let request = try WebLLMReader.batch(body, limits: limits, parser: parser)
        let items: [BatchRequest.Item] = [
            .prompt("half \u{FFFD}"),
            .invalid(
                error: "Prompt exceeds maximum length of 12 characters",
                json: ByteBuffer(string: "\"too long for it \u{FFFD}\"")),
            .invalid(error: "prompt must be a string", json: ByteBuffer(string: "{\"\u{FFFD}\":[\"\u{FFFD}\",1]}")),
        ]
        #expect(request.items == items)
    }

    @Test func settingsAreReadToo() throws {
        let body = ByteBuffer(string: #"{"model_type":"m\ud83d","temperature":1}"#)
        let settings = try WebLLMReader.modelSettings(body, parser: parser)
        #expect(settings == ModelSettings(modelType: "m\u{FFFD}", sampling: SamplingParameters(temperature: 1)))
    }
}
