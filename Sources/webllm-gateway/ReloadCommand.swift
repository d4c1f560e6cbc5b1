import ArgumentParser

/// Makes a running gateway read its configuration again.
struct ReloadCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload", abstract: "Make a running gateway read its configuration again.")
    @OptionGroup var options: AdminOptions

    private struct Reply: Decodable {
        var status: String
        var needsRestart: [String]
    }

    func run() async throws {
        guard let reply = try await options.post("/admin/reload", as: Reply.self) else { return }
        printLine(reply.status)
        if !reply.needsRestart.isEmpty { printLine("at the next start: \(reply.needsRestart.joined(separator: ", "))") }
    }
}
