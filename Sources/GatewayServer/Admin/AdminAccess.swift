import Crypto
import GatewayCore
import NIOHTTP1

/// Who may use the admin listener: a page of another site must not reach it through an operator's browser, and where a
/// token is configured, nobody without it.
enum AdminAccess {
    /// On every reply that has none of its own.
    static let securityHeaders: [(name: StaticString, value: String)] = [
        ("Cache-Control", "no-store"), ("Referrer-Policy", "no-referrer"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ]

    static func check(_ request: RequestHead, _ snapshot: Snapshot) -> RequestRefusal? {
        let configuration = snapshot.configuration.admin
        guard isAllowed(name(ofHost: request.host), configuration) else {
            return RequestRefusal(421, "This name is not served here; see allowed_hosts")
        }
        if !request.isFromOwnOrigin, !configuration.allowedOrigins.contains(request.origin?.lowercased() ?? "") {
            return RequestRefusal(403, "Requests from other sites are not accepted")
        }
        guard let digest = configuration.tokenDigest, !isOpen(request.path) else { return nil }
        return isToken(request.authorization, digest) ? nil : unauthorized
    }

    private static let unauthorized: RequestRefusal = {
        var refusal = RequestRefusal(
            401, "The admin token is missing or wrong: Authorization: Bearer TOKEN")
        refusal.challenge = "Bearer"
        return refusal
    }()

    /// Load balancers have no token.
    private static func isOpen(_ path: Substring) -> Bool {
        path == "/healthz" || path == "/readyz" || DashboardPage.paths.contains(String(path))
    }

    /// Digests are compared, and in constant time: how long it takes says nothing about the token.
    private static func isToken(_ authorization: String?, _ digest: [UInt8]) -> Bool {
        guard let authorization, authorization.prefix(7).lowercased() == "bearer " else { return false }
        return SHA256.hash(data: Array(authorization.utf8.dropFirst(7))) == digest
    }

    /// The loopback's names, and the configured ones.
    private static func isAllowed(_ name: String, _ configuration: AdminConfiguration) -> Bool {
        ["localhost", "127.0.0.1", "[::1]"].contains(name) || configuration.allowedHosts.contains(name)
    }

    /// Without the port, in lower case.
    private static func name(ofHost host: String) -> String {
        let host = host.lowercased()
        if host.hasPrefix("[") { return String(host.prefix { $0 != "]" }) + "]" }
        return String(host.prefix { $0 != ":" })
    }
}

extension RequestHead {
    /// Whether it comes from a page of exactly this listener, or from no page: another port of this machine is another
    /// site. A link on another site's page may lead here.
    var isFromOwnOrigin: Bool {
        guard let origin = origin?.lowercased() else { return !(method == .POST && isOtherSiteFetch) }
        return origin == "http://\(host.lowercased())" || origin == "https://\(host.lowercased())"
    }
}
