import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// What the failures of an upstream cost its requests.
@Suite(.timeLimit(.minutes(1)))
struct UpstreamFailureTests {
    private static func other() async throws -> FakeUpstream {
        try await FakeUpstream.start { connection in
            while try await connection.request() != nil { try await connection.reply(body: #"{"response":"other"}"#) }
        }
    }

    private func until(_ test: () -> Bool) async { while !test() { await Task.yield() } }

    /// Nothing was generated: the retry budget is not for this.
    @Test func aModelThatDoesNotLoadCostsNoRequestItsAnswer() async throws {
        let cold = try await FakeUpstream.start { connection in
            while let request = try await connection.request() {
                if request.line.hasPrefix("GET") {
                    try await connection.reply(body: #"{"version":"1","models":[]}"#)
                } else {
                    try await connection.reply("500 Internal Server Error", body: #"{"error":"no memory"}"#)
                }
            }
        }
        let other = try await Self.other()
        try await RunningGateway.run([("cold", .ollama, cold.port), ("other", .query, other.port)]) {
            $0.upstreams[0].breaker.failures = 1000
            $0.upstreams[0].breaker.minRequests = 1000
        } _: { (gateway: RunningGateway) async throws in
            await until { gateway.status("cold").loaded == .models([]) && gateway.status("other").isAvailable }
            for number in 1...40 {
                let reply = try await gateway.infer("x")
                #expect(reply.has("other"), "\(number): \(reply)")
            }
            #expect(cold.state.requests.allSatisfy { !$0.body.contains(#""content":"x""#) })
        }
        await cold.close()
        await other.close()
    }

    /// Its head says what it is: the rest is not waited for, and its loss changes nothing.
    @Test(arguments: [true, false])
    func aStatusIsBelievedWithoutTheEndOfItsBody(_ staysOpen: Bool) async throws {
        let busy = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in
                try await connection.send(
                    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 60\r\nContent-Length: 100\r\n\r\n{")
                if staysOpen { await connection.untilClosed() } else { try await connection.endOutput() }
            })
        let other = try await Self.other()
        try await RunningGateway.run([("busy", .ollama, busy.port), ("other", .query, other.port)]) {
            (gateway: RunningGateway) async throws in
            for _ in 1...2 { #expect(try await gateway.infer("x").has("other")) }
            #expect(gateway.status("busy").reason == "resting" && gateway.status("busy").failuresInRow == 0)
            #expect(busy.state.requests.count { $0.line.hasPrefix("POST") } == 1)
        }
        await busy.close()
        await other.close()
    }
}
