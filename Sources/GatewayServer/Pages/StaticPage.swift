import GatewayWire
import NIOCore
import NIOHTTP1

/// A file that is embedded in the binary and served as it is. Pages need nothing from elsewhere, and their policy says so.
enum StaticPage {
    static func route(_ path: String, _ type: ContentType, _ bytes: [UInt8], name: String = "page") -> Routes.Route {
        let body = ByteBuffer(bytes: bytes)
        return Routes.Route(
            method: .GET, path: path, name: name,
            action: .reply { _ in reply(type, body) })
    }

    static func reply(_ type: ContentType, _ body: ByteBuffer) -> Reply {
        var head = ReplyHead(200, contentType: type.rawValue)
        head.fields = [
            ("Content-Security-Policy", contentSecurityPolicy), ("Cache-Control", "no-cache"),
            ("Referrer-Policy", "no-referrer"),
        ]
        return Reply(head, body: body)
    }

    static func redirect(from path: String, to target: String) -> Routes.Route {
        Routes.Route(
            method: .GET, path: path, name: "page",
            action: .reply { _ in
                var head = ReplyHead(308, contentType: "text/plain")
                head.fields = [("Location", target)]
                return Reply(head, body: ByteBuffer())
            })
    }

    enum ContentType: String {
        case html = "text/html; charset=utf-8"
        case css = "text/css; charset=utf-8"
        case javaScript = "text/javascript; charset=utf-8"
        case json = "application/json"
    }

    private static let contentSecurityPolicy =
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
