import Foundation

/// What a client asks of `/webllm/api/infer`.
struct GenerationRequest: Encodable, Sendable {
    static let path = "/webllm/api/infer"

    var prompt: String
    var stream = true
    var modelID: String?
    var maxTokens: Int?

    private enum CodingKeys: String, CodingKey {
        case prompt, stream
        case modelID = "model_id"
        case maxTokens = "max_tokens"
    }

    func body() throws -> String { String(decoding: try JSONEncoder().encode(self), as: UTF8.self) }
}

/// A line of an NDJSON stream; or a plain reply or refusal, which have no type.
struct GenerationLine: Decodable, Sendable {
    var type: String?
    var text: String?
    var error: String?
    var tokensGenerated: Int?
    /// Zero where no model answered, and the gateway's own message is the text.
    var inferenceTimeMs: Double?

    init?(_ bytes: some Sequence<UInt8>) {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        guard let line = try? decoder.decode(Self.self, from: Data(bytes)) else { return nil }
        self = line
    }

    /// Whether a reply ends with it whose text is the gateway's own: no model answered.
    var isFallback: Bool { inferenceTimeMs == 0 }

    /// What the gateway says in place of an answer; nil where this is one, or a part of it.
    /// - Parameter address: of the client listener that was asked; an admin listener has no such path, or wants a token.
    func refusal(status: Int, from address: String) -> String? {
        guard status == 404 || status == 401 else { return error }
        return "\(address) is not the client listener of a gateway: \(error ?? "status \(status)")"
    }
}

/// Cuts what comes in pieces into lines.
struct LineBuffer {
    /// Of a line that has no end yet.
    private(set) var rest: [UInt8] = []

    mutating func add(_ bytes: [UInt8]) -> [ArraySlice<UInt8>] {
        rest += bytes
        guard let end = rest.lastIndex(of: 0x0A) else { return [] }
        let lines = rest[..<end].split(separator: 0x0A)
        rest = Array(rest[(end + 1)...])
        return lines
    }
}
