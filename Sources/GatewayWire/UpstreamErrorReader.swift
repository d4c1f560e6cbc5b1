import GatewayCore

/// What a status other than 200 means.
package enum UpstreamErrorReader {
    /// - Parameter retryAfter: the Retry-After header; only its form in seconds is understood.
    package static func classify(
        status: Int, retryAfter: String?, body: [UInt8], parser: JSONParser
    ) -> AttemptFailure {
        switch status {
        case 429: return .tooManyRequests(retryAfter: retryAfter.flatMap { Int($0) })
        case 404: return errorText(body, parser)?.contains("model") == true ? .modelNotFound : .status(404)
        case 503: return errorText(body, parser)?.contains("busy") == true ? .busy : .status(503)
        default: return .status(status)
        }
    }

    /// The text of `{"error": "…"}` or `{"error": {"message": "…"}}`, for deciding and for debug logs only.
    private static func errorText(_ body: [UInt8], _ parser: JSONParser) -> String? {
        guard let object = try? parser.parse(body), let error = object["error"] else { return nil }
        return error.string ?? error["message"]?.string
    }
}
