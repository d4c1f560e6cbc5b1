import GatewayCore
import NIOHTTP1

/// Who may use the admin listener: a page of another site must not reach it through an operator's browser.
enum AdminAccess {
    static func check(_ request: RequestHead, _ snapshot: Snapshot) -> RequestRefusal? {
        let configuration = snapshot.configuration.admin
        guard isAllowed(name(ofHost: request.host), configuration) else {
            return RequestRefusal(421, "This name is not served here; see allowed_hosts", closes: false)
        }
        if let origin = request.origin {
            // Exactly this listener: another port of this machine is another site.
            guard origin == "http://\(request.host)" || origin == "https://\(request.host)" else {
                return RequestRefusal(403, "Requests from other sites are not accepted", closes: false)
            }
        }
        return nil
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
