import ArgumentParser
import GatewayServer

/// Words that a shell completes: what a running gateway knows, and nothing where it does not answer.
enum Completions {
    private struct Upstreams: Decodable {
        var upstreams: [Upstream]
        struct Upstream: Decodable { var name: String }
    }

    private struct Running: Decodable {
        var running: [Request]
        struct Request: Decodable { var id: String }
    }

    private struct Models: Decodable {
        var models: [Model]
        struct Model: Decodable { var modelId: String }
    }

    static func upstreams() async -> [String] {
        await ofOperators("/admin/status", as: Upstreams.self)?.upstreams.map(\.name) ?? []
    }

    static func running() async -> [String] {
        await ofOperators("/admin/running", as: Running.self)?.running.map(\.id) ?? []
    }

    static func models() async -> [String] {
        let reply = await get(GatewayOptions.defaultAddress, token: nil, "/webllm/api/models", as: Models.self)
        return reply?.models.map(\.modelId) ?? []
    }

    private static func ofOperators<Value: Decodable>(_ path: String, as type: Value.Type) async -> Value? {
        await get(AdminOptions.defaultAddress, token: AdminOptions.defaultToken, path, as: type)
    }

    private static func get<Value: Decodable>(
        _ address: String, token: String?, _ path: String, as type: Value.Type
    ) async -> Value? {
        guard let client = try? GatewayClient(address, token: token) else { return nil }
        defer { client.shutdown() }
        guard let reply = try? await client.get(path), reply.status == 200 else { return nil }
        return try? reply.decoded(as: type)
    }
}

extension CompletionKind {
    static var upstreams: Self { .custom { _, _, _ in await Completions.upstreams() } }
    static var models: Self { .custom { _, _, _ in await Completions.models() } }
    static var running: Self { .custom { _, _, _ in await Completions.running() } }
}
