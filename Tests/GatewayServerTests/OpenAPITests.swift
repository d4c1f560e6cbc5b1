import Foundation
import Testing

@testable import GatewayServer

/// The description names the routes that there are, each on its listener, and no other.
@Suite struct OpenAPITests {
    private struct Description: Decodable {
        struct Server: Decodable { var url: String }
        struct Operation: Decodable {
            var operationId: String
            var servers: [Server]?
        }
        struct Path: Decodable {
            var get: Operation?
            var post: Operation?
        }
        struct Info: Decodable { var version: String }
        var info: Info
        var servers: [Server]
        var paths: [String: Path]
    }

    private static let description = Result {
        try JSONDecoder().decode(Description.self, from: Data(PackageResources.openapi_json))
    }

    /// `POST /admin/upstreams/*`, as the route table has it.
    private static func documented(onPort port: String) throws -> Set<String> {
        let description = try description.get()
        var routes: Set<String> = []
        for (path, operations) in description.paths {
            let pattern = path.split(separator: "{").count > 1 ? path.prefix { $0 != "{" } + "*" : path[...]
            for (method, operation) in [("GET", operations.get), ("POST", operations.post)] {
                let servers = operation.map { $0.servers ?? description.servers } ?? []
                if servers.contains(where: { $0.url.hasSuffix(port) }) { routes.insert("\(method) \(pattern)") }
            }
        }
        return routes
    }

    private static func served(_ routes: Routes) -> Set<String> {
        Set((routes.literal.values.joined() + routes.prefixed).map { "\($0.method.rawValue) \($0.path)" })
    }

    @Test func everyRouteOfTheClientsListenerIsDescribedAndNoOther() throws {
        #expect(try Self.documented(onPort: ":8000").symmetricDifference(Self.served(.client)) == [])
    }

    @Test func everyRouteOfTheOperatorsListenerIsDescribedAndNoOther() throws {
        #expect(try Self.documented(onPort: ":8001").symmetricDifference(Self.served(.admin)) == [])
    }

    @Test func itIsThisVersions() throws { #expect(try Self.description.get().info.version == GatewayVersion.current) }

    @Test func operationsHaveNamesOfTheirOwn() throws {
        let names = try Self.description.get().paths.values.flatMap { [$0.get, $0.post] }.compactMap { $0?.operationId }
        #expect(Set(names).count == names.count)
    }
}
