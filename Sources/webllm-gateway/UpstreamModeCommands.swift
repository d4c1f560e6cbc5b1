import ArgumentParser

/// Changes of a running gateway's upstreams; one command each.
protocol UpstreamModeCommand: AsyncParsableCommand {
    static var verb: String { get }
    var options: AdminOptions { get }
    var upstream: String { get }
}

private struct ModeReply: Decodable {
    var upstream: String
    var mode: String
}

extension UpstreamModeCommand {
    func run() async throws {
        let path = "/admin/upstreams/\(upstream.percentEncoded)/\(Self.verb)"
        if let reply = try await options.post(path, as: ModeReply.self) {
            printLine("\(reply.upstream): \(reply.mode)")
        }
    }
}

struct DrainCommand: UpstreamModeCommand {
    static let verb = "drain"
    static let configuration = CommandConfiguration(
        commandName: verb, abstract: "Send an upstream no new requests; running ones end by themselves.")
    @OptionGroup var options: AdminOptions
    @Argument(help: "The upstream's name.", completion: .upstreams) var upstream: String
}

struct EnableCommand: UpstreamModeCommand {
    static let verb = "enable"
    static let configuration = CommandConfiguration(
        commandName: verb, abstract: "Send an upstream requests again.")
    @OptionGroup var options: AdminOptions
    @Argument(help: "The upstream's name.", completion: .upstreams) var upstream: String
}

struct DisableCommand: UpstreamModeCommand {
    static let verb = "disable"
    static let configuration = CommandConfiguration(
        commandName: verb, abstract: "Take an upstream out at once: running requests move on or end with an error.")
    @OptionGroup var options: AdminOptions
    @Argument(help: "The upstream's name.", completion: .upstreams) var upstream: String
}
