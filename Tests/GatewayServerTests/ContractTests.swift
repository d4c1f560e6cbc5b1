import Foundation
import GatewayCore
import Support
import Testing

@testable import GatewayServer

/// The recorded replies of the Python endpoint, and the deliberate differences from them.
@Suite(.timeLimit(.minutes(2)))
struct ContractTests {
    private struct File: Decodable { var cases: [Case] }

    private struct Case: Decodable {
        struct Request: Decodable {
            var method: String
            var path: String
            var headers: [String: String]
            var body: String?
        }
        struct Reply: Decodable {
            var status: Int
            var content_type: String
        }
        var name: String
        var request: Request
        var python_endpoint: Reply
    }

    /// Where the gateway differs on purpose: status and the text of `error`, or nil where only the status matters.
    private static let differences: [String: (status: Int, error: String?)] = [
        "root": (404, "Not found"),
        "health-post": (405, "Method not allowed; accepted: GET, HEAD, OPTIONS"),
        "health-options": (204, nil),
        "infer-get": (405, "Method not allowed; accepted: POST, OPTIONS"),
        "infer-emptybody": (400, "The request body must be a JSON object; it is empty"),
        "infer-badjson": (400, "The request body is not valid JSON"),
        "infer-noct": (415, "Content-Type must be application/json"),
        "infer-textct": (415, "Content-Type must be application/json"),
        "infer-promptnum": (400, "prompt must be a string"),
        "temp-'0.5'": (400, "temperature must be a number"),
        "maxtok-'5'": (400, "max_tokens must be a whole number"),
        "maxtok-True": (400, "max_tokens must be a whole number"),
        "topp-'x'": (400, "top_p must be a number"),
        "cfg-bad": (400, "temperature must be a number"),
        "cfg-get-slash": (200, nil),
        "batch-nonstr": (200, nil),
        "404": (404, "Not found"),
    ]

    @Test func everyRecordedCase() async throws {
        let url = try #require(Bundle.module.url(forResource: "Fixtures/webllm-cases", withExtension: "json"))
        let data = try Data(contentsOf: url)
        let cases = try JSONDecoder().decode(File.self, from: data).cases
        let raw = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        let recorded = try #require(raw["cases"] as? [[String: Any]])
        #expect(cases.count > 60)
        #expect(Set(Self.differences.keys).isSubset(of: cases.map(\.name)))
        let ollama = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                let prompt = try Self.prompt(request.body) { body in
                    (body["messages"] as? [[String: Any]])?.last?["content"] as? String
                }
                if prompt.contains("ollama500") || prompt.contains("both500") {
                    try await connection.reply("500 Internal Server Error", body: #"{"error":"x"}"#)
                } else if prompt.contains("ollama404") {
                    try await connection.reply("404 Not Found", body: #"{"error":"model 'm' not found"}"#)
                } else if prompt.contains("ollamagarbage") {
                    try await connection.reply(body: "<html>")
                } else {
                    try await Scripts.answer(connection, try Self.json("  echo: \(prompt) \n"))
                }
            })
        let backend = try await FakeUpstream.start(
            Scripts.ollama { connection, request in
                let prompt = try Self.prompt(request.body) { $0["query"] as? String }
                if prompt.contains("both500") {
                    try await connection.reply("500 Internal Server Error", body: "{}")
                } else {
                    try await connection.reply(body: #"{"response":\#(try Self.json(" backend: \(prompt) "))}"#)
                }
            })
        try await RunningGateway.run([("ollama", .ollama, ollama.port), ("backend", .query, backend.port)]) { gateway in
            for (index, item) in cases.enumerated() {
                let reply = try await gateway.client.request(
                    item.request.method, item.request.path, headers: item.request.headers.map { ($0, $1) },
                    body: item.request.body ?? (item.request.method == "POST" ? "" : nil))
                let name = item.name
                if let difference = Self.differences[name] {
                    #expect(reply.status == difference.status, "\(name)")
                    if let error = difference.error {
                        let body = try? JSONDecoder().decode([String: String].self, from: Data(reply.body.utf8))
                        #expect(body == ["error": error], "\(name): \(reply.body)")
                    }
                    continue
                }
                #expect(reply.status == item.python_endpoint.status, "\(name): \(reply.body)")
                if name.hasPrefix("page") { continue }
                let expected = (recorded[index]["python_endpoint"] as? [String: Any])?["body"]
                if item.request.method == "HEAD" {
                    #expect(reply.body.isEmpty, "\(name)")
                    continue
                }
                #expect(reply.headers["content-type"] == "application/json", "\(name)")
                guard let actual = try? JSONSerialization.jsonObject(with: Data(reply.body.utf8)) else {
                    Issue.record("\(name): not JSON: \(reply.body)")
                    continue
                }
                #expect(Self.matches(actual, expected as Any, name), "\(name): \(reply.body)")
            }
        }
        await ollama.close()
        await backend.close()
    }

    /// An Ollama that lives while the test wants it to.
    private static func ollama(_ models: [String] = [], isUp: Mutexed<Bool>) -> FakeUpstream.Script {
        let list = models.map { #"{"name":"\#($0)"}"# }.joined(separator: ",")
        return { connection in
            while let request = try await connection.request() {
                if !isUp.value {
                    try await connection.reply("500 Internal Server Error", body: "{}")
                } else if request.line.hasPrefix("GET /api/ps") {
                    try await connection.reply(body: #"{"models":[{"name":"in memory"}]}"#)
                } else {
                    try await connection.reply(body: #"{"version":"1","models":[\#(list)]}"#)
                }
            }
        }
    }

    /// A field of the two replies that tell how the upstreams are.
    private static func told(_ field: String, _ gateway: RunningGateway) async throws -> [String] {
        var values: [String] = []
        for path in ["/webllm/api/health", "/webllm/api/status"] {
            let reply = try await gateway.client.request("GET", path)
            #expect(reply.status == 200)
            let object = try JSONSerialization.jsonObject(with: Data(reply.body.utf8)) as? [String: Any]
            let value = try #require(object?[field])
            values.append("\(value)")
        }
        return values
    }

    /// All that they have installed, each name once.
    @Test func theModelsOfUpstreamsThatAreUpAreCounted() async throws {
        let isUp = Mutexed(true)
        let first = try await FakeUpstream.start(Self.ollama(["a", "b"], isUp: Mutexed(true)))
        let second = try await FakeUpstream.start(Self.ollama(["b", "c", "d"], isUp: isUp))
        try await RunningGateway.run([("first", .ollama, first.port), ("second", .ollama, second.port)]) {
            $0.upstreams[1].health.interval = .milliseconds(20)
            $0.upstreams[1].health.fall = 1
            $0.upstreams[1].health.rise = 1
        } _: { (gateway: RunningGateway) async throws in
            for name in ["first", "second"] {
                while gateway.status(name).installed.isEmpty { await Task.yield() }
            }
            #expect(try await Self.told("models_loaded", gateway) == ["4", "4"])
            isUp.value = false
            while gateway.status("second").probe == .up { await Task.yield() }
            #expect(try await Self.told("models_loaded", gateway) == ["2", "2"])
            isUp.value = true
            while gateway.status("second").probe == .down { await Task.yield() }
            #expect(try await Self.told("models_loaded", gateway) == ["4", "4"])
        }
        await first.close()
        await second.close()
    }

    @Test(arguments: [
        ([true, true], "healthy", "operational"), ([true, false], "degraded", "degraded"),
        ([false, true], "degraded", "degraded"), ([false, false], "unhealthy", "offline"),
    ])
    func theStateIsThatOfTheUpstreams(_ areUp: [Bool], _ health: String, _ status: String) async throws {
        var upstreams: [FakeUpstream] = []
        for isUp in areUp { upstreams.append(try await FakeUpstream.start(Self.ollama(isUp: Mutexed(isUp)))) }
        try await RunningGateway.run(upstreams.enumerated().map { ("u\($0)", .ollama, $1.port) }) {
            (gateway: RunningGateway) async throws in
            for index in areUp.indices {
                while gateway.status("u\(index)").probe == .unknown { await Task.yield() }
            }
            #expect(try await Self.told("status", gateway) == [health, status])
        }
        for upstream in upstreams { await upstream.close() }
    }

    private static func prompt(_ body: String, _ find: ([String: Any]) -> String?) throws -> String {
        let object = try JSONSerialization.jsonObject(with: Data(body.utf8)) as? [String: Any]
        let found = object.flatMap(find)
        return try #require(found)
    }

    private static func json(_ text: String) throws -> String {
        String(decoding: try JSONEncoder().encode(text), as: UTF8.self)
    }

    /// Placeholders stand for what differs from run to run; the values that the gateway improves on purpose are looked
    /// at in tests of their own.
    private static func matches(_ actual: Any, _ expected: Any, _ name: String) -> Bool {
        switch expected {
        case let text as String where text == "<uuid>":
            return (actual as? String).map { UUID(uuidString: $0) != nil } ?? false
        case let text as String where text == "<timestamp>":
            return (actual as? String)?.count == 26
        case let text as String where text == "<ms>": return actual is NSNumber
        case let object as [String: Any]:
            guard let actual = actual as? [String: Any], Set(actual.keys) == Set(object.keys) else { return false }
            return object.allSatisfy { key, value in
                if key == "models_loaded" { return actual[key] is NSNumber }  // no longer always 0
                if key == "tokens_generated" && name == "infer-both" { return actual[key] as? Int == 0 }
                return matches(actual[key] as Any, value, name)
            }
        case let list as [Any]:
            guard let actual = actual as? [Any], actual.count == list.count else { return false }
            return zip(actual, list).allSatisfy { matches($0, $1, name) }
        default: return (actual as? NSObject) == (expected as? NSObject)
        }
    }
}
