/// The `[routing]` table. Upstreams are tried in configured order.
package struct RoutingConfiguration: Sendable, Equatable {
    /// Attempts for one request, 1...10; each upstream is tried at most once.
    package var maxAttempts = 3
    package init() {}
}
