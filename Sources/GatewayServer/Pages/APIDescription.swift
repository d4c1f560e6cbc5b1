/// The OpenAPI description of both listeners' routes.
enum APIDescription {
    static let routes: [Routes.Route] = [
        StaticPage.route("/openapi.json", .json, PackageResources.openapi_json, name: "openapi")
    ]
}
