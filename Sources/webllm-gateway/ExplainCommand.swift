import ArgumentParser

/// Which upstream a request would go to now, and why.
struct ExplainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain", abstract: "Say which upstream a request would go to now, and why.")

    @OptionGroup var options: AdminOptions

    @Option(
        help: "The model, as clients call it. Default: the gateway's default model.",
        completion: .models)
    var model: String?

    private struct Plan: Decodable {
        var model: String
        var policy: String
        var decision: String
        var candidates: [AdminCandidate]
    }

    func run() async throws {
        let query = model.map { "?model=\($0.percentEncoded)" } ?? ""
        guard let plan = try await options.get("/admin/explain" + query, as: Plan.self) else { return }
        printLine("\(plan.model), policy \(plan.policy): \(plan.decision)".printable())
        for line in AdminCandidate.table(plan.candidates).lines { printLine(line) }
    }
}
