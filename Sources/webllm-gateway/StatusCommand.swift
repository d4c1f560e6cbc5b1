import ArgumentParser
import Foundation
import GatewayServer
import Glibc
import UnixSignals

/// How a running gateway and its upstreams are.
struct StatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show how a running gateway and its upstreams are.",
        discussion: "With --json: the fields of /admin/status, and alerts. With --watch one object a line, each second."
    )

    @OptionGroup var options: AdminOptions

    @Flag(help: "Show it again every second, until Ctrl-C.")
    var watch = false

    func run() async throws {
        try await options.withClient { client in
            let first = try await ask(client)
            if watch { try await show(from: first, client) } else { try show(first) }
        }
    }

    /// Both replies are objects: their fields are put into one.
    private func ask(_ client: GatewayClient) async throws -> GatewayClient.Reply {
        var reply = try await client.get("/admin/status")
        try reply.check(from: options.admin)
        let alerts = try await client.get("/admin/alerts")
        try alerts.check(from: options.admin)
        reply.body = reply.body.dropLast() + [UInt8(ascii: ",")] + alerts.body.dropFirst()
        return reply
    }

    private func show(_ reply: GatewayClient.Reply) throws {
        if options.json { return printRaw(reply.body) }
        printLine(try reply.decoded(as: AdminStatus.self).lines.joined(separator: "\n"))
    }

    // MARK: Watching

    private func show(from first: GatewayClient.Reply, _ client: GatewayClient) async throws {
        let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm, .sighup)
        let screen = isTerminal(STDOUT_FILENO) && !options.json ? Screen() : nil
        defer { screen?.close() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { for await _ in signals { return } }
            group.addTask { try await redraw(screen, from: first, client) }
            try await group.next()
            group.cancelAll()
        }
    }

    private func redraw(
        _ screen: Screen?, from first: GatewayClient.Reply, _ client: GatewayClient
    ) async throws {
        var reply: GatewayClient.Reply? = first
        while true {
            if let reply {
                if let screen {
                    screen.show(try reply.decoded(as: AdminStatus.self).lines)
                } else {
                    try show(reply)
                }
            }
            try await Task.sleep(for: .seconds(1))
            do {
                reply = try await ask(client)
            } catch let failure as GatewayClient.Failure {
                // It may be restarting. What it said last is not said again.
                reply = nil
                if let screen {
                    screen.show([Style.bad.paint(failure.description)])
                } else {
                    printError(failure.description)
                }
            }
        }
    }
}
