/// The operators' dashboard, on the admin listener. It lives on what ``DashboardFeed`` sends.
enum DashboardPage {
    static let routes: [Routes.Route] = [
        StaticPage.redirect(from: "/", to: "/dashboard"),
        StaticPage.route("/dashboard", .html, PackageResources.dashboard_html),
        StaticPage.route("/dashboard.css", .css, PackageResources.dashboard_css),
        StaticPage.route("/dashboard.js", .javaScript, PackageResources.dashboard_js),
        StaticPage.route("/dashboard_charts.js", .javaScript, PackageResources.dashboard_charts_js),
        StaticPage.route("/dashboard_parts.js", .javaScript, PackageResources.dashboard_parts_js),
        StaticPage.route("/dashboard_request.js", .javaScript, PackageResources.dashboard_request_js),
    ]
    /// Pages hold nothing that is not in the source: they are served without a token.
    static let paths: Set<String> = Set(routes.map(\.path))
}
