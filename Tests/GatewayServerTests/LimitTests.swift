import CurlMulti
import GatewayCore
import Support
import Synchronization
import Testing

@testable import GatewayServer

/// What bounds a client's hold on the gateway.
@Suite(.timeLimit(.minutes(1)))
struct LimitTests {
    /// As many as are configured, or fewer: a third of the open files that the system allows, or what it has beyond the
    /// reserve.
    @Test func clientsLeaveRoomForUpstreams() {
        var server = ServerConfiguration()
        for (most, share) in [(1, 1), (1 << 20, OpenFiles.limit / 3)] {
            server.maxConnections = most
            let room = OpenFiles.clientRoom(for: server)
            #expect(room <= most && (room >= min(most, share)))
        }
    }

    @Test func aClientThatDoesNotReadHoldsBackTheUpstreamAndIsCutOff() async throws {
        let sent = Mutex(0)
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await Scripts.startStream(connection)
                let piece = Scripts.token("\"\(String(repeating: "x", count: 16 << 10))\"")
                for _ in 0..<(100 << 20) / piece.utf8.count {
                    try await connection.chunk(piece)
                    sent.withLock { $0 += piece.utf8.count }
                }
            })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) {
            $0.server.clientStallTimeout = .milliseconds(300)
        } _: { gateway in
            let before = upstream.state.closed
            try await gateway.client.connect { connection in
                try await connection.send(
                    RawClient.text(
                        "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                        body: #"{"prompt":"x","stream":true}"#))
                while gateway.server.gateway.limits[.clientStall] == 0 { await Task.yield() }
                await upstream.until { $0.closed > before }
            }
            while gateway.server.gateway.engine.statistics.pauses == 0 { await Task.yield() }
            #expect(gateway.server.gateway.limits[.clientStall] == 1)
        }
        // The kernel's buffers of both connections take up to 20 MB of it; the gateway itself holds a window.
        #expect(sent.withLock { $0 } < 48 << 20)
        await upstream.close()
    }

    @Test func bodiesOfAllConnectionsAreBoundedTogether() async throws {
        try await RunningGateway.run([]) {
            $0.server.maxBodyMemory = 4096
        } _: { (gateway: RunningGateway) async throws in
            let head = "POST /webllm/api/infer HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            let client = gateway.client
            try await client.connect { first in
                try await first.send(head + "Content-Length: 4000\r\n\r\n" + String(repeating: " ", count: 3000))
                while gateway.server.gateway.bodyBytes.load(ordering: .relaxed) < 3000 { await Task.yield() }
                let second = try await client.request(
                    "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                    body: String(repeating: " ", count: 2000))
                #expect(second.status == 503)
                #expect(second.headers["retry-after"] == "1")
                try await first.send(String(repeating: " ", count: 1000))
                #expect(try await first.reply().status == 400, "blanks are no JSON")
            }
            #expect(gateway.server.gateway.limits[.bodyMemory] == 1)
            let reply = try await client.request(
                "POST", "/webllm/api/infer", headers: [("Content-Type", "application/json")],
                body: String(repeating: " ", count: 4000))
            #expect(reply.status == 400, "the room is there again")
        }
    }

    @Test func connectionsOfOneAddressAreLimited() async throws {
        try await RunningGateway.run([]) {
            $0.server.maxConnectionsPerAddress = 1
        } _: { (gateway: RunningGateway) async throws in
            let client = gateway.client
            try await client.connect { first in
                try await first.send(RawClient.text("GET", "/webllm/api/health"))
                #expect(try await first.reply().status == 200)
                #expect(try await client.connect { try await $0.readToEnd() } == "")
            }
            #expect(gateway.server.gateway.limits[.connectionsPerAddress] == 1)
        }
    }

    @Test func operatorsGetInWhenClientsHaveAllConnections() async throws {
        try await RunningGateway.run([]) {
            $0.server.maxConnections = 1
            $0.server.maxConnectionsPerAddress = 1
        } _: { (gateway: RunningGateway) async throws in
            let admin = gateway.admin
            try await gateway.client.connect { client in
                try await client.send(RawClient.text("GET", "/webllm/api/health"))
                #expect(try await client.reply().status == 200)
                #expect(try await admin.request("GET", "/admin/status").status == 200)
            }
            #expect(gateway.server.gateway.limits[.connections] == 0)
        }
    }

    @Test func operatorsHaveABoundOfTheirOwn() async throws {
        @Sendable func hold(_ count: Int, _ admin: RawClient) async throws {
            try await admin.connect { connection in
                if count == 0 {
                    #expect(try await connection.readToEnd() == "")
                } else {
                    try await connection.send(RawClient.text("GET", "/healthz"))
                    #expect(try await connection.reply().status == 200)
                    try await hold(count - 1, admin)
                }
            }
        }
        try await RunningGateway.run([]) { (gateway: RunningGateway) async throws in
            try await hold(Gateway.maxAdminConnections, gateway.admin)
            #expect(gateway.server.gateway.limits[.adminConnections] == 1)
        }
    }

    @Test func connectionsOverTheLimitAreClosedAndLaterOnesServed() async throws {
        try await RunningGateway.run([]) {
            $0.server.maxConnections = 1
        } _: { gateway in
            let client = gateway.client
            let request = RawClient.text("GET", "/webllm/api/health")
            try await client.connect { first in
                try await first.send(request)
                #expect(try await first.reply().status == 200)
                #expect(try await client.connect { try await $0.readToEnd() } == "")
                try await first.send(request)
                #expect(try await first.reply().status == 200)
            }
            while gateway.server.gateway.openConnections > 0 { await Task.yield() }
            #expect(try await client.request("GET", "/webllm/api/health").status == 200)
        }
    }
}
