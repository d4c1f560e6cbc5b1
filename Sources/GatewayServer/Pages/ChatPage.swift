import GatewayCore
import NIOCore
import NIOHTTP1

/// The chat page, for people who use the models.
enum ChatPage {
    static let routes: [Routes.Route] = [
        StaticPage.redirect(from: "/webllm", to: "/webllm/"),
        Routes.Route(method: .GET, path: "/webllm/", name: "page", action: .reply(page)),
        StaticPage.route("/webllm/chat.css", .css, PackageResources.chat_css),
        StaticPage.route("/webllm/chat.js", .javaScript, PackageResources.chat_js),
    ]

    /// The page knows how long a prompt may be.
    private static func page(_ call: Routes.Call) -> Reply {
        let limit = call.snapshot.configuration.webllm.maxPromptCharacters
        return StaticPage.reply(.html, ByteBuffer(string: html.replacing("{max_prompt_characters}", with: "\(limit)")))
    }

    private static let html = String(decoding: PackageResources.chat_html, as: UTF8.self)
}
