import NIOHTTP1

/// A request that is refused before any work starts: a status and the text of its `{"error": …}`.
struct RequestRefusal: Error, Sendable, Equatable {
    var status: Int
    var message: String
    var allow: String?
    /// How to authenticate, with a 401.
    var challenge: String?
    /// Seconds.
    var retryAfter: Int?

    init(_ status: Int, _ message: String, allow: String? = nil, retryAfter: Int? = nil) {
        self.status = status
        self.message = message
        self.allow = allow
        self.retryAfter = retryAfter
    }
}

extension RequestRefusal {
    static func bodyTooLarge(_ limit: Int) -> RequestRefusal {
        RequestRefusal(413, "The request body exceeds \(limit) bytes")
    }

    init(_ error: HTTPParserError) {
        switch error {
        case .headerOverflow: self.init(431, "Request headers are too large")
        // The parser says the same of another version and of a request line that ends in a bare LF.
        case .invalidVersion: self.init(400, "Malformed request line; accepted: HTTP/1.1 and HTTP/1.0")
        default: self.init(400, "Malformed HTTP request")
        }
    }
}
