/// An upstream that a plan looked at.
struct AdminCandidate: Decodable {
    var upstream: String
    var model: String?
    var skipped: String?
    var score: Double
    var modelInstalled: Bool?
    var modelLoaded: Bool?

    static func table(_ candidates: [Self]) -> TextTable {
        var table = TextTable(["UPSTREAM", "MODEL THERE", "STATE", "SCORE", "INSTALLED", "LOADED"])
        func word(_ flag: Bool?) -> String { flag.map { $0 ? "yes" : "no" } ?? "-" }
        for candidate in candidates {
            table.add(
                [
                    candidate.upstream, candidate.model ?? "-", candidate.skipped.map(Words.plain) ?? "ok",
                    Words.number(candidate.score, decimals: 2), word(candidate.modelInstalled),
                    word(candidate.modelLoaded),
                ], candidate.skipped == nil ? .plain : .faint)
        }
        return table
    }
}
