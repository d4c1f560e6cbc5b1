import ArgumentParser

/// Ends a running request.
struct CancelCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "End a running request; its client is told.")

    @OptionGroup var options: AdminOptions

    @Argument(help: "The request's id or its request id, as `running` shows them.", completion: .running)
    var id: String

    private struct Cancelled: Decodable {
        var id: String
        var status: String
    }

    func run() async throws {
        let path = "/admin/running/\(id.percentEncoded)/cancel"
        if let reply = try await options.post(path, as: Cancelled.self) {
            printLine("\(id): \(reply.status)".printable())
        }
    }
}
