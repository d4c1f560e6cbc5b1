/// A generation to run, independent of any dialect.
package struct ChatRequest: Sendable, Equatable {
    package var messages: [ChatMessage]
    package var sampling: SamplingParameters

    package init(messages: [ChatMessage], sampling: SamplingParameters) {
        self.messages = messages
        self.sampling = sampling
    }
}

package struct ChatMessage: Sendable, Equatable {
    package enum Role: String, Sendable { case system, user }
    package var role: Role
    package var content: String

    package init(role: Role, content: String) {
        self.role = role
        self.content = content
    }
}

/// Sampling parameters; a nil one is left out of the upstream's request.
package struct SamplingParameters: Sendable, Equatable {
    package var temperature: JSONNumber?
    package var topP: JSONNumber?
    package var topK: Int?
    package var maxTokens: Int?

    package init(
        temperature: JSONNumber? = nil, topP: JSONNumber? = nil, topK: Int? = nil, maxTokens: Int? = nil
    ) {
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.maxTokens = maxTokens
    }
}

/// A JSON number that is written the way it was read: `1` stays `1` and `1.0` stays `1.0`.
package enum JSONNumber: Sendable, Hashable, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral {
    case integer(Int64)
    case double(Double)

    package init(integerLiteral value: Int64) { self = .integer(value) }
    package init(floatLiteral value: Double) { self = .double(value) }

    package var doubleValue: Double {
        switch self {
        case .integer(let value): Double(value)
        case .double(let value): value
        }
    }
}

extension SamplingParameters {
    /// What the Python endpoint sent where the client said nothing.
    package static let productDefaults = SamplingParameters(temperature: 0.7, topP: 0.9, topK: nil, maxTokens: 512)

    /// The values of `self`, and `other`'s where `self` has none.
    package func filled(from other: SamplingParameters) -> SamplingParameters {
        SamplingParameters(
            temperature: temperature ?? other.temperature, topP: topP ?? other.topP, topK: topK ?? other.topK,
            maxTokens: maxTokens ?? other.maxTokens)
    }
}
