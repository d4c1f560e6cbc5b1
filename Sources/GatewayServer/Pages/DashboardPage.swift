/// The operators' dashboard, embedded in the binary. It lives on what ``DashboardFeed`` sends.
enum DashboardPage {
    static let routes: [Routes.Route] = []
    static let paths: Set<String> = Set(routes.map(\.path))
}
