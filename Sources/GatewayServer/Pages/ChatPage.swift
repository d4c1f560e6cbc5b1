import GatewayWire
import NIOCore
import NIOHTTP1

/// The chat page, embedded in the binary. It needs nothing from elsewhere, and its policy says so.
enum ChatPage {
    static let routes: [Routes.Route] = [
        Routes.Route(method: .GET, path: "/webllm", name: "page", action: .reply(redirect)),
        page("/webllm/", "text/html; charset=utf-8", PackageResources.chat_html),
        page("/webllm/chat.css", "text/css; charset=utf-8", PackageResources.chat_css),
        page("/webllm/chat.js", "text/javascript; charset=utf-8", PackageResources.chat_js),
    ]

    private static let contentSecurityPolicy =
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

    private static func page(_ path: String, _ contentType: String, _ bytes: [UInt8]) -> Routes.Route {
        let body = ByteBuffer(bytes: bytes)
        return Routes.Route(
            method: .GET, path: path, name: "page",
            action: .reply { _ in
                var head = ReplyHead(200, contentType: contentType)
                head.fields = [
                    ("Content-Security-Policy", contentSecurityPolicy), ("Cache-Control", "no-cache"),
                    ("Referrer-Policy", "no-referrer"),
                ]
                return Reply(head, body: body)
            })
    }

    private static func redirect(_ call: Routes.Call) -> Reply {
        var head = ReplyHead(308, contentType: "text/plain")
        head.fields = [("Location", "/webllm/")]
        return Reply(head, body: ByteBuffer())
    }
}
