import ArgumentParser

/// The requests that run now.
struct RunningCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "running", abstract: "Show the requests that run now, the oldest first.")

    @OptionGroup var options: AdminOptions

    private struct Running: Decodable {
        var total: Int
        var running: [Request]
    }

    private struct Request: Decodable {
        var id: String
        var requestId: String
        var client: String
        var model: String
        var upstream: String?
        var phase: String
        var ageMs: Double
        var pieces: Int
        var stream: Bool
    }

    func run() async throws {
        guard let reply = try await options.get("/admin/running", as: Running.self) else { return }
        var table = TextTable(["ID", "AGE", "PHASE", "UPSTREAM", "MODEL", "TOKENS", "STREAM", "CLIENT", "REQUEST ID"])
        for request in reply.running {
            table.add([
                request.id, Words.milliseconds(request.ageMs), request.phase, request.upstream ?? "-", request.model,
                "\(request.pieces)", request.stream ? "yes" : "no", request.client, request.requestId,
            ])
        }
        for line in table.lines { printLine(line) }
        if reply.total > reply.running.count { printLine("and \(reply.total - reply.running.count) more") }
    }
}
