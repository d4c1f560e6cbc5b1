import CurlMulti
import GatewayCore
import Support
import Synchronization
import Testing

@testable import GatewayServer

/// What bounds a client's hold on the gateway.
@Suite(.timeLimit(.minutes(1)))
struct LimitTests {
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
                await upstream.until { $0.closed > before }
            }
            #expect(gateway.server.gateway.engine.statistics.pauses > 0)
            #expect(gateway.server.gateway.limits[.clientStall] == 1)
        }
        // The kernel's buffers of both connections take up to 20 MB of it; the gateway itself holds a window.
        #expect(sent.withLock { $0 } < 48 << 20)
        await upstream.close()
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
