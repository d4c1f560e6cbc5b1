import ArgumentParser
import Foundation
import GatewayServer
import Glibc

/// What the commands share that ask a running gateway.
struct AdminOptions: ParsableArguments {
    @Option(help: "The gateway's admin address.")
    var admin = "127.0.0.1:8001"

    @Flag(help: "Print the gateway's JSON as it is.")
    var json = false

    /// Asks, and gives the decoded reply; prints it in place where JSON is wanted.
    func get<Value: Decodable>(_ path: String, as type: Value.Type) async throws -> Value? {
        try show(try await withClient { try await $0.get(path) }, as: type)
    }

    func post<Value: Decodable>(_ path: String, as type: Value.Type) async throws -> Value? {
        try show(try await withClient { try await $0.post(path) }, as: type)
    }

    private func withClient(
        _ body: (GatewayClient) async throws -> GatewayClient.Reply
    ) async throws -> GatewayClient.Reply {
        try await GatewayClient.use(admin, body)
    }

    private func show<Value: Decodable>(_ reply: GatewayClient.Reply, as type: Value.Type) throws -> Value? {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let data = Data(reply.body)
        guard reply.status == 200 else {
            let fault = try? decoder.decode(Fault.self, from: data)
            printError(
                [fault?.error ?? "the gateway answered \(reply.status)", fault?.reason].compactMap { $0 }
                    .joined(separator: ": "))
            throw ExitCode.failure
        }
        if json {
            print(String(decoding: reply.body, as: UTF8.self))
            return nil
        }
        do {
            return try decoder.decode(type, from: data)
        } catch {
            printError("the answer is not one of this version's gateway")
            throw ExitCode.failure
        }
    }

    private struct Fault: Decodable {
        var error: String
        var reason: String?
    }
}

extension GatewayClient {
    /// A client for one piece of work; what goes wrong is told in one line, and ends the command with 1.
    static func use<Value>(_ address: String, _ body: (GatewayClient) async throws -> Value) async throws -> Value {
        do {
            let client = try GatewayClient(address)
            defer { client.shutdown() }
            return try await body(client)
        } catch let code as ExitCode {
            throw code
        } catch {
            printError("\(error)")
            throw ExitCode.failure
        }
    }
}

/// Columns as wide as their widest cell, two spaces apart.
struct TextTable {
    private var rows: [[String]]
    init(_ header: [String]) { rows = [header] }

    mutating func add(_ row: [String]) { rows.append(row) }

    var lines: [String] {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { index, cell in
                index == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[index] - cell.count)
            }.joined(separator: "  ")
        }
    }
}

/// Colours, only where a person reads them.
enum Paint {
    private static let isOn = isatty(STDOUT_FILENO) == 1 && getenv("NO_COLOR") == nil

    static func good(_ text: String) -> String { paint("32", text) }
    static func bad(_ text: String) -> String { paint("31", text) }
    static func faint(_ text: String) -> String { paint("2", text) }

    private static func paint(_ code: String, _ text: String) -> String {
        isOn ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
    }
}
