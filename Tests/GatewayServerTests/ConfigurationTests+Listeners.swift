import GatewayCore
import Testing

@testable import GatewayServer

/// Addresses to listen on, and who may ask the listener for operators.
extension ConfigurationTests {
    @Test(arguments: [
        ["[::]:8000", "0.0.0.0:8000"], ["127.0.0.1:8000", "[::]:8000"], ["[::]:8000", "[::1]:8000"],
        ["0.0.0.0:8000", "127.0.0.1:8000"], ["10.0.0.1:8000", "0.0.0.0:8000"],
    ])
    func anAddressThatStandsForAllStandsAlone(_ listen: [String]) {
        #expect(throws: ConfigurationError.self) { try load(Self.upstream, environment: [:], listen: listen) }
    }

    @Test(arguments: [
        ["[::]:8000", "0.0.0.0:9000", "[::1]:9000"], ["0.0.0.0:0", "127.0.0.1:0", "127.0.0.1:8000"],
        ["127.0.0.1:8000", "127.0.0.2:8000", "[::1]:8000"],
    ])
    func addressesThatDoNotMeetStandTogether(_ listen: [String]) throws {
        #expect(try load(Self.upstream, environment: [:], listen: listen).configuration.server.listen.count == 3)
    }

    @Test(arguments: [",", " ", " , "]) func aListOfNoAddressesIsRefused(_ listen: String) {
        #expect(throws: ConfigurationError.self) {
            try load(Self.upstream, environment: ["WEBLLM_GATEWAY_LISTEN": listen])
        }
    }

    @Test func spacesAroundTheAddressesOfTheEnvironmentDoNotCount() throws {
        let listen = ["WEBLLM_GATEWAY_LISTEN": " 127.0.0.1:1, [::1]:2 ,\tunix:/a b.sock, "]
        let loaded = try load(Self.upstream, environment: listen)
        #expect(
            loaded.configuration.server.listen == [
                .tcp(host: "127.0.0.1", port: 1), .tcp(host: "::1", port: 2), .unix(path: "/a b.sock"),
            ])
    }

    @Test func anOpenListenerForOperatorsGivesAWarning() throws {
        func warnings(_ admin: String) throws -> [String] { try load("[admin]\n\(admin)\n" + Self.upstream).warnings }
        let open = "listen = [\"127.0.0.1:8001\", \"0.0.0.0:8002\", \"[fd00::1]:8003\"]"
        #expect(
            try warnings(open) == [
                "admin.listen: other machines can use \"0.0.0.0:8002\", \"[fd00::1]:8003\" without a token; "
                    + "set admin.token_hash"
            ])
        let digest = String(repeating: "0", count: 64)
        #expect(try warnings(open + "\ntoken_hash = \"sha256:\(digest)\"").isEmpty)
        #expect(try warnings("listen = [\"127.1.2.3:8001\", \"[::1]:8001\", \"unix:/a.sock\"]").isEmpty)
    }

    /// With any of these every request was answered 421.
    @Test(arguments: [
        "", "ops.example:8001", "https://ops.example", "ops.example/", "*.example", "fd00::1", "[ops]", "h\u{E9}",
    ])
    func aHostThatNoRequestNamesIsRefused(_ host: String) throws {
        #expect(try faultyKeys("[admin]\nallowed_hosts = [\"h\", \"\(host)\"]\n") == ["admin.allowed_hosts"])
    }

    @Test func hostsAndOriginsAreTakenInLowerCase() throws {
        let text =
            "[admin]\nallowed_hosts = [\"OPS.example\", \"10.0.0.1\", \"[FD00::1]\", \"gpu_1\"]\nallowed_origins = ["
            + "\"HTTPS://OPS.example\", \"https://h:8443\", \"https://h:80\", \"http://h:443\", \"http://[fd00::1]\"]\n"
        let admin = try load(text + Self.upstream).configuration.admin
        #expect(admin.allowedHosts == ["ops.example", "10.0.0.1", "[fd00::1]", "gpu_1"])
        #expect(
            admin.allowedOrigins == [
                "https://ops.example", "https://h:8443", "https://h:80", "http://h:443", "http://[fd00::1]",
            ])
    }

    /// No browser sends any of these.
    @Test(arguments: [
        "https://ops.example:443", "http://ops.example:80", "https://[fd00::1]:443", "https://ops.example:08443",
        "https://ops.example/", "https://ops.example/dashboard", "ops.example", "null", "",
    ])
    func anOriginThatNoBrowserSendsIsRefused(_ origin: String) throws {
        #expect(try faultyKeys("[admin]\nallowed_origins = [\"\(origin)\"]\n") == ["admin.allowed_origins"])
    }

    private func faultyKeys(_ text: String) throws -> [String] {
        do {
            _ = try load(text + Self.upstream)
            return []
        } catch ConfigurationError.faults(_, let faults) {
            return faults.map(\.key)
        }
    }
}
