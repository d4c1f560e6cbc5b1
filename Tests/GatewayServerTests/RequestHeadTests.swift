import GatewayCore
import NIOHTTP1
import Support
import Testing

@testable import GatewayServer

/// What a request's head tells.
struct RequestHeadTests {
    @Test(arguments: [
        (["application/x-ndjson"], true), (["text/event-stream"], false), (["*/*"], false), ([], false),
        (["Text/Event-Stream, Application/X-NDJSON"], true),
        (["text/event-stream", "application/x-ndjson; q=1"], true),
        (["application/x-ndjson;q=0, text/event-stream"], false), (["application/x-ndjson; q=0.000"], false),
        (["text/event-stream, application/x-ndjson;q=0.1"], false), (["application/x-ndjson;q=0.2"], true),
        (["application/x-ndjson2"], false), (["text/html;a=application/x-ndjson"], false),
        (["application/x-ndjson;q=nonsense"], false),
    ])
    func aStreamIsOfTheTypeThatIsWantedMore(_ accept: [String], _ isNDJSON: Bool) throws {
        var head = HTTPRequestHead(version: .http1_1, method: .POST, uri: "/webllm/api/infer", headers: ["host": "a"])
        for value in accept { head.headers.add(name: "Accept", value: value) }
        #expect(try RequestHead(head, maxHead: 4096).acceptsNDJSON == isNDJSON)
    }

    /// RFC 9110 section 9.3.2: no body to HEAD. The request's own id is on every reply.
    @Test(arguments: [
        ("HEAD", "Expect: nothing\r\nHost: a\r\n", 417), ("HEAD", "", 400), ("GET", "a_b: c\r\nHost: a\r\n", 400),
    ])
    func aRefusalKnowsWhatItCouldRead(_ method: String, _ fields: String, _ status: Int) async throws {
        try await RunningGateway.run([]) { gateway in
            let text = try await gateway.client.exchange(
                "\(method) /healthz HTTP/1.1\r\nX-Request-Id: mine\r\n\(fields)\r\n")
            #expect(text.hasPrefix("HTTP/1.1 \(status) ") && text.contains("X-Request-Id: mine\r\n"), "\(text)")
            #expect(text.hasSuffix("\r\n\r\n") == (method == "HEAD"), "\(text)")
        }
    }
}
