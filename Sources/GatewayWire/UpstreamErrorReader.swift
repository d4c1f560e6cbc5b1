import GatewayCore

/// What a status other than 200 means.
package enum UpstreamErrorReader {
    /// - Parameters:
    ///   - retryAfter: the Retry-After header, seconds or a date (RFC 9110 section 10.2.3).
    ///   - now: what a date is counted from.
    package static func classify(
        status: Int, retryAfter: String?, body: [UInt8], now: Timestamp, parser: JSONParser
    ) -> AttemptFailure {
        switch status {
        case 429: return .tooManyRequests(retryAfter: retryAfter.flatMap { seconds($0, now) })
        case 404: return errorText(body, parser)?.contains("model") == true ? .modelNotFound : .status(404)
        case 503: return errorText(body, parser)?.contains("busy") == true ? .busy : .status(503)
        default: return .status(status)
        }
    }

    private static func seconds(_ retryAfter: String, _ now: Timestamp) -> Int? {
        let isNumber = !retryAfter.isEmpty && retryAfter.utf8.allSatisfy { (0x30...0x39).contains($0) }
        if isNumber { return Int(retryAfter) ?? .max }
        guard let date = Timestamp(httpDate: retryAfter) else { return nil }
        return Int(max(0, date.microseconds - now.microseconds + 999_999) / 1_000_000)
    }

    /// The text of `{"error": "…"}` or `{"error": {"message": "…"}}`, for deciding and for debug logs only.
    private static func errorText(_ body: [UInt8], _ parser: JSONParser) -> String? {
        guard let object = try? parser.parse(body), let error = object["error"] else { return nil }
        return error.string ?? error["message"]?.string
    }
}
