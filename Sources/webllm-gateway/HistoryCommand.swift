import ArgumentParser
import Foundation
import GatewayCore

/// The requests of the past of a running gateway.
struct HistoryCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "history", abstract: "Show the last requests of a running gateway, or one of them whole.")

    @OptionGroup var options: AdminOptions

    @Argument(help: "Show this one request, with its plan and timeline: its id or its request id.")
    var id: String?

    @Option(help: "Only requests that this upstream was asked for last.", completion: .upstreams)
    var upstream: String?

    @Option(help: "Only requests for this model, as clients call it.", completion: .models)
    var model: String?

    @Flag(help: "Only requests whose outcome is not ok, those that their client left included.")
    var errors = false

    @Option(help: "Only requests since then: a time back such as 30m, 2h or 7d, or a time as in RFC 3339.")
    var since: String?

    @Option(help: "How many requests, 1 to 500. Default: 20.")
    var limit: Int?

    private struct Requests: Decodable {
        var requests: [AdminRequest]
    }

    func validate() throws {
        guard limit.map({ (1...500).contains($0) }) ?? true else {
            throw ValidationError("--limit must be 1 to 500")
        }
        if let since, since.wholeMatch(of: /[0-9.]+(ms|[smhd])/) != nil {
            do {
                _ = try DurationText.parse(since)
            } catch {
                throw ValidationError("--since must be \(error)")
            }
        }
        guard id != "" else { throw ValidationError("A request's id is not empty") }
        let hasFilter = upstream != nil || model != nil || errors || since != nil || limit != nil
        if id != nil, hasFilter { throw ValidationError("A request's id leaves nothing to filter") }
    }

    func run() async throws {
        if let id {
            let path = "/admin/requests/\(id.percentEncoded)"
            guard let request = try await options.get(path, as: AdminRequest.self) else { return }
            for line in request.report { printLine(line) }
        } else if let reply = try await options.get("/admin/requests" + query, as: Requests.self) {
            for line in AdminRequest.table(reply.requests).lines { printLine(line) }
        }
    }

    private var query: String {
        var pairs = ["limit=\(limit ?? 20)"]
        if let upstream { pairs.append("upstream=\(upstream.percentEncoded)") }
        if let model { pairs.append("model=\(model.percentEncoded)") }
        if errors { pairs.append("errors=true") }
        if let since { pairs.append("since=\(Self.inUTC(since).percentEncoded)") }
        return "?" + pairs.joined(separator: "&")
    }

    /// The gateway takes durations and UTC times; a time with an offset is one too.
    private static func inUTC(_ text: String) -> String {
        (try? Date(text, strategy: .iso8601))?.formatted(.iso8601) ?? text
    }
}
