import Dispatch
import GatewayCore
import Glibc
import NIOCore
import Support
import Testing

@testable import GatewayServer

/// The end of a connection after its last reply (RFC 9112 section 9.6).
@Suite(.timeLimit(.minutes(1)))
struct LingeringCloseTests {
    private static let answer = String(repeating: "x", count: 400_000)

    /// Blocks; the client's system takes 16 KiB ahead of it.
    private static func connect(_ address: SocketAddress) -> Int32 {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var size: Int32 = 16 << 10
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout.size(ofValue: size)))
        let result = address.withSockAddr { Glibc.connect(fd, $0, socklen_t($1)) }
        #expect(result == 0)
        return fd
    }

    private static func send(_ text: String, to fd: Int32) -> Bool {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.send(fd, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }

    private static func readToEnd(_ fd: Int32) -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = recv(fd, &chunk, chunk.count, 0)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk[..<count]
        }
    }

    private static func onAThread<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
        await withCheckedContinuation { continuation in
            DispatchQueue.global().async { continuation.resume(returning: body()) }
        }
    }

    /// Closing over the bytes behind it, read or not, would reset the connection, and with it what the client has yet to
    /// read.
    @Test(arguments: [0, 200_000]) func whoSentMoreBehindTheLastRequestHasItsWholeReply(_ behind: Int) async throws {
        let upstream = try await FakeUpstream.start(
            Scripts.ollama { connection, _ in try await Scripts.answer(connection, "\"\(Self.answer)\"") })
        try await RunningGateway.run([("u", .ollama, upstream.port)]) { gateway in
            let address = gateway.server.addresses[0]
            let reply = await Self.onAThread {
                let fd = Self.connect(address)
                defer { close(fd) }
                let request = RawClient.text(
                    "POST", "/webllm/api/infer",
                    headers: [("Content-Type", "application/json"), ("Connection", "close")],
                    body: #"{"prompt":"x"}"#)
                #expect(Self.send(request + String(repeating: "y", count: behind), to: fd))
                // The client is busy for a second: nothing resets the connection meanwhile.
                var wait = pollfd(fd: fd, events: 0, revents: 0)
                #expect(poll(&wait, 1, 1000) == 0, "reset: \(wait.revents)")
                return Self.readToEnd(fd)
            }
            #expect(reply.contains(Self.answer) && reply.hasSuffix("}"), "\(reply.utf8.count) bytes")
        }
        await upstream.close()
    }

    /// Some clients read nothing before all is sent.
    @Test func whoSendsARefusedBodyToItsEndReadsTheRefusal() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            let address = gateway.server.addresses[0]
            let reply = await Self.onAThread {
                let fd = Self.connect(address)
                defer { close(fd) }
                let body = String(repeating: "z", count: 3 << 20)
                #expect(
                    Self.send("POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.utf8.count)\r\n\r\n", to: fd)
                )
                // In pieces over more than the time that a silent client has.
                var wait = pollfd(fd: fd, events: 0, revents: 0)
                for start in stride(from: 0, to: body.utf8.count, by: 1 << 20) {
                    #expect(poll(&wait, 1, 300) == 0, "reset: \(wait.revents)")
                    #expect(Self.send(String(body.dropFirst(start).prefix(1 << 20)), to: fd))
                }
                return Self.readToEnd(fd)
            }
            #expect(reply.hasPrefix("HTTP/1.1 404 ") && reply.hasSuffix("}"), "\(reply)")
        }
    }

    /// One that has all and is silent is not kept.
    @Test func aSilentClientIsClosedSoon() async throws {
        try await RunningGateway.run([("u", .ollama, 9)]) { gateway in
            let text = try await gateway.client.exchange(
                RawClient.text("GET", "/healthz", headers: [("Connection", "close")]))
            #expect(text.hasSuffix(#"{"status":"ok"}"#))
            while gateway.server.gateway.openConnections > 0 { await Task.yield() }
        }
    }
}
