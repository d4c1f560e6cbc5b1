import Foundation
import GatewayCore
import Glibc
import NIOCore
import NIOPosix
import Support
import Testing

@testable import GatewayServer

/// Where the gateway listens, and how one process follows another.
@Suite(.timeLimit(.minutes(1)))
struct ListenerTests {
    private func withPath<R>(_ body: (String) async throws -> R) async throws -> R {
        let name = "listen-\(getpid())-\(Int.random(in: 0..<1 << 30))"
        let folder = FileManager.default.temporaryDirectory.appending(path: name)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        return try await body(folder.appending(path: "g.sock").path)
    }

    private func start(
        _ path: String, takesOver: Bool = false, upstreams: [(String, UpstreamKind, Int)] = []
    ) async throws -> RunningGateway {
        var handover = Handover()
        handover.takesOver = takesOver
        return try await RunningGateway.start(upstreams, handover: handover) { $0.server.listen = [.unix(path: path)] }
    }

    private func status(_ client: RawClient) async throws -> Int {
        try await client.request("GET", "/webllm/api/health").status
    }

    @Test func anIPv6Address() async throws {
        try await RunningGateway.run([]) {
            $0.server.listen = [.tcp(host: "::1", port: 0)]
        } _: { (gateway: RunningGateway) async throws in
            #expect(gateway.server.addresses[0].plainText.hasPrefix("[::1]:"))
            #expect(try await status(gateway.client) == 200)
        }
    }

    /// The address is looked at first: nobody may be let in there who is then not served.
    @Test func whoConnectsWhileItStartsIsAnswered() async throws {
        for _ in 0..<20 {
            let address = try Self.freeAddress()
            // On a thread of its own: the tests share those that must not wait.
            async let answer = withCheckedContinuation { continuation in
                Thread.detachNewThread { continuation.resume(returning: Self.askAsSoonAsItListens(address)) }
            }
            let gateway = try await RunningGateway.start {
                $0.server.listen = [.tcp(host: "127.0.0.1", port: address.port ?? 0)]
            }
            #expect(await answer.hasPrefix("HTTP/1.1 200 "))
            await gateway.server.stop()
        }
    }

    /// Below those that the system gives to clients: one of these could connect to itself.
    private static func freeAddress() throws -> SocketAddress {
        while true {
            let address = try SocketAddress(ipAddress: "127.0.0.1", port: .random(in: 20_000..<30_000))
            // Not to be inherited by a process that another test starts just then: the address would stay taken.
            let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
            defer { close(descriptor) }
            if address.withSockAddr({ bind(descriptor, $0, socklen_t($1)) }) == 0 { return address }
        }
    }

    /// Tries every tenth of a millisecond, for 30 s at most.
    private static func askAsSoonAsItListens(_ address: SocketAddress) -> String {
        let end = ContinuousClock.now + .seconds(30)
        while ContinuousClock.now < end {
            usleep(100)
            let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
            defer { close(descriptor) }
            var patience = timeval(tv_sec: 10, tv_usec: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
            guard address.withSockAddr({ connect(descriptor, $0, socklen_t($1)) }) == 0 else { continue }
            let request = "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            _ = request.withCString { send(descriptor, $0, request.utf8.count, Int32(MSG_NOSIGNAL)) }
            var bytes = [UInt8](repeating: 0, count: 1000)
            let count = recv(descriptor, &bytes, bytes.count, 0)
            return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
        }
        return ""
    }

    @Test func aUnixSocket() async throws {
        try await withPath { path in
            let gateway = try await start(path)
            #expect(gateway.server.addresses[0].plainText == "unix:\(path)")
            #expect(try await status(gateway.client) == 200)
            await gateway.server.stop()
            #expect(!FileManager.default.fileExists(atPath: path))
        }
    }

    @Test func aSocketThatIsListenedAtIsNotStolen() async throws {
        try await withPath { path in
            let gateway = try await start(path)
            let error = await #expect(throws: GatewayError.self) { _ = try await start(path) }
            #expect(error?.description == "cannot listen on unix:\(path): the address is in use")
            #expect(try await status(gateway.client) == 200)
            await gateway.server.stop()
        }
    }

    @Test func aFileThatAnEarlierProcessLeftIsReplaced() async throws {
        try await withPath { path in
            let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
            try SocketAddress(unixDomainSocketPath: path).withSockAddr { address, size in
                #expect(bind(descriptor, address, socklen_t(size)) == 0)
            }
            close(descriptor)
            let gateway = try await start(path)
            #expect(try await status(gateway.client) == 200)
            await gateway.server.stop()
        }
    }

    @Test func aFileThatIsNoSocketStays() async throws {
        try await withPath { path in
            try Data("precious".utf8).write(to: URL(filePath: path))
            for takesOver in [false, true] {
                let error = await #expect(throws: GatewayError.self) { _ = try await start(path, takesOver: takesOver) }
                #expect(error?.description.hasSuffix("a file that is no socket has this name") == true)
            }
            #expect(try String(contentsOf: URL(filePath: path), encoding: .utf8) == "precious")
        }
    }

    @Test func aNewProcessTakesAUnixSocketOver() async throws {
        try await withPath { path in
            let old = try await start(path)
            let new = try await start(path, takesOver: true)
            await old.server.drain()
            #expect(try await status(new.client) == 200)
            await new.server.stop()
            let folder = URL(filePath: path).deletingLastPathComponent().path
            #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == [], "no name is left over")
        }
    }

    /// As a service manager hands them over.
    @Test func socketsThatAreBoundAlready() async throws {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        try SocketAddress(ipAddress: "127.0.0.1", port: 0).withSockAddr { address, size in
            #expect(bind(descriptor, address, socklen_t(size)) == 0)
        }
        #expect(listen(descriptor, 8) == 0)
        var handover = Handover()
        handover.sockets = [descriptor]
        let gateway = try await RunningGateway.start(handover: handover) {
            $0.server.listen = [.tcp(host: "203.0.113.1", port: 1)]
        }
        #expect(gateway.server.addresses.map(\.ipAddress) == ["127.0.0.1"], "in place of the configured ones")
        #expect(try await status(gateway.client) == 200)
        await gateway.server.stop()
    }

    @Test func socketsAreTakenWhereTheyAreMeantForThisProcess() {
        func count(_ pid: Int32, _ fds: String) -> Int {
            Handover(environment: ["LISTEN_PID": "\(pid)", "LISTEN_FDS": fds], takesOver: false).sockets.count
        }
        #expect(count(getpid() + 1, "1") == 0)
        #expect(count(getpid(), "0") == 0)
        #expect(count(getpid(), "x") == 0)
    }

    @Test func operatorsSeeTheDrainUntilItsEnd() async throws {
        let gate = Gate()
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                try await connection.chunk(Scripts.token(#""a""#))
                await gate.wait()
                try await connection.chunk(Scripts.done)
                try await connection.send("0\r\n\r\n")
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { (gateway: RunningGateway) async throws in
            let admin = gateway.admin
            let feed = Task {
                try await admin.connect { connection in
                    try await connection.send(RawClient.text("GET", "/admin/events"))
                    return try await connection.readToEnd()
                }
            }
            let server = gateway.server
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                        body: #"{"prompt":"x","stream":true}"#))
                _ = try await connection.read(through: "\"a\"}\n\n")
                async let drained: Void = server.drain()
                while !server.gateway.isDraining { await Task.yield() }
                let told = try await feed.value
                #expect(told.hasSuffix("0\r\n\r\n"), "a dashboard's stream is whole")
                let ready = try await admin.request("GET", "/readyz")
                #expect(ready.status == 503 && ready.has("draining"))
                gate.open()
                #expect(try await connection.readToEnd().contains("event: done"))
                await drained
            }
            await #expect(throws: (any Error).self) { try await admin.request("GET", "/readyz") }
        }
        await upstream.close()
    }
}
