/// What an upstream's reply says, independent of its dialect.
package enum UpstreamEvent: Sendable, Equatable {
    /// A piece of the answer; never empty. Commits the request.
    case content(String)
    /// A piece of the model's thinking, or a tool call: a first token for the timers, but not part of the text. It does
    /// not commit.
    case thinking
    /// A whole object that carries neither (role only, empty delta, usage): resets the idle timer, does not commit.
    case progress
    /// The dialect's own end was seen: the reply is whole. Comes at most once, last.
    case finished(TokenUsage)
    /// The reply is damaged or says that the upstream failed. Comes at most once, last.
    case failed(ReplyFault)
}

/// Token counts as the upstream reports them; nil where it does not.
package struct TokenUsage: Sendable, Equatable {
    package var promptTokens: Int?
    package var completionTokens: Int?

    package init(promptTokens: Int? = nil, completionTokens: Int? = nil) {
        self.promptTokens = promptTokens
        self.completionTokens = completionTokens
    }
}

/// What can be wrong with the body of a 200 reply. A closed set, fit for a metric label.
package enum ReplyFault: String, Sendable, Equatable, CaseIterable {
    /// An error object in the upstream's own form.
    case errorObject = "error_object"
    /// Not JSON where JSON must be (HTML, bad UTF-8, a cut object).
    case malformed
    /// JSON of another shape than the dialect's.
    case unexpectedShape = "unexpected_shape"
    /// A line over the limit.
    case lineTooLong = "line_too_long"
    /// The body ended without the dialect's end.
    case truncated
    /// The dialect's end came, but there was no content in it.
    case empty
}
