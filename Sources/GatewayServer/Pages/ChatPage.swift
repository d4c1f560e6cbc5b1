/// The chat page, for people who use the models.
enum ChatPage {
    static let routes: [Routes.Route] = [
        StaticPage.redirect(from: "/webllm", to: "/webllm/"),
        StaticPage.route("/webllm/", .html, PackageResources.chat_html),
        StaticPage.route("/webllm/chat.css", .css, PackageResources.chat_css),
        StaticPage.route("/webllm/chat.js", .javaScript, PackageResources.chat_js),
    ]
}
