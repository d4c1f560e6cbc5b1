import ArgumentParser
import Glibc

/// A table of the upstreams of a running gateway.
struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the upstreams of a running gateway.")

    @OptionGroup var options: AdminOptions

    @Flag(help: "Show it again every second, until Ctrl-C.")
    var watch = false

    private struct Status: Decodable {
        var uptimeS: Int
        var draining: Bool
        var connections: Int
        var transfers: Int
        var policy: String
        var upstreams: [Upstream]
    }

    private struct Upstream: Decodable {
        var name: String
        var kind: String
        var available: Bool
        var reason: String
        var breakerOpenS: Int?
        var inFlight: Int
        var slots: Int
        var queued: Int
        var firstTokenMs: Double?
        var tokensPerSecond: Double?
        var modelsLoaded: [String]?
        var lastFailure: String?
    }

    func run() async throws {
        repeat {
            if let status = try await options.get("/admin/status", as: Status.self) {
                if watch { print("\u{1B}[H\u{1B}[2J", terminator: "") }
                show(status)
            }
            if watch { try await Task.sleep(for: .seconds(1)) }
        } while watch
    }

    private func show(_ status: Status) {
        print(
            "up \(status.uptimeS) s, policy \(status.policy), \(status.connections) connections, "
                + "\(status.transfers) transfers" + (status.draining ? ", draining" : ""))
        var table = TextTable([
            "UPSTREAM", "KIND", "STATE", "SLOTS", "QUEUE", "FIRST TOKEN", "TOKENS/S", "LOADED", "LAST FAILURE",
        ])
        for upstream in status.upstreams {
            let wait = upstream.breakerOpenS.map { " \($0) s" } ?? ""
            table.add([
                upstream.name, upstream.kind, upstream.reason + wait, "\(upstream.inFlight)/\(upstream.slots)",
                "\(upstream.queued)", upstream.firstTokenMs.map { "\(Int($0)) ms" } ?? "-",
                upstream.tokensPerSecond.map { "\($0)" } ?? "-",
                upstream.modelsLoaded.map { $0.isEmpty ? "none" : $0.joined(separator: ",") } ?? "-",
                upstream.lastFailure ?? "-",
            ])
        }
        for (index, line) in table.lines.enumerated() {
            guard index > 0 else {
                print(Paint.faint(line))
                continue
            }
            print(status.upstreams[index - 1].available ? line : Paint.bad(line))
        }
        fflush(nil)
    }
}
