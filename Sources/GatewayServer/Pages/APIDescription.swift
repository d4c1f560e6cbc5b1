/// The OpenAPI description of both listeners' routes, and the page that shows it.
enum APIDescription {
    static let routes: [Routes.Route] = [
        StaticPage.route("/openapi.json", .json, PackageResources.openapi_json, name: "openapi"),
        StaticPage.route("/docs", .html, PackageResources.docs_html),
        StaticPage.route("/docs.css", .css, PackageResources.docs_css),
        StaticPage.route("/docs.js", .javaScript, PackageResources.docs_js),
    ]
}
