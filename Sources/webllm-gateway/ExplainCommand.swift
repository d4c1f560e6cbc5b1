import ArgumentParser
import Foundation

/// Which upstream a request would go to now, and why.
struct ExplainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain", abstract: "Say which upstream a request would go to now, and why.")

    @OptionGroup var options: AdminOptions

    @Option(help: "The model, as clients call it. Default: the gateway's default model.")
    var model: String?

    private struct Plan: Decodable {
        var model: String
        var policy: String
        var decision: String
        var candidates: [Candidate]
    }

    private struct Candidate: Decodable {
        var upstream: String
        var model: String?
        var available: Bool
        var skipped: String?
        var score: Double
        var modelInstalled: Bool?
        var modelLoaded: Bool?
    }

    func run() async throws {
        var path = "/admin/explain"
        if let model {
            var allowed = CharacterSet.alphanumerics
            allowed.insert(charactersIn: "-._~")
            path += "?model=" + (model.addingPercentEncoding(withAllowedCharacters: allowed) ?? "")
        }
        guard let plan = try await options.get(path, as: Plan.self) else { return }
        print("\(plan.model), policy \(plan.policy): \(plan.decision)")
        var table = TextTable(["UPSTREAM", "MODEL THERE", "STATE", "SCORE", "INSTALLED", "LOADED"])
        func word(_ flag: Bool?) -> String { flag.map { $0 ? "yes" : "no" } ?? "-" }
        for candidate in plan.candidates {
            table.add([
                candidate.upstream, candidate.model ?? "-", candidate.skipped ?? "ok",
                String(format: "%.2f", candidate.score), word(candidate.modelInstalled), word(candidate.modelLoaded),
            ])
        }
        for line in table.lines { print(line) }
    }
}
