import ArgumentParser
import GatewayServer

/// Says what the configuration comes to, and where each value is from.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check the configuration and print it with the source of each value.")

    @OptionGroup var options: ConfigurationOptions

    @Flag(help: "Print JSON.")
    var json = false

    private struct Value: Encodable {
        var key: String
        var value: String
        var source: String
    }

    func run() throws {
        let loaded = try options.load()
        for warning in loaded.warnings { printError("warning: \(warning)") }
        let entries = loaded.entries
        if json {
            return try printJSON(entries.map { Value(key: $0.key, value: $0.value, source: "\($0.source)") })
        }
        let keyWidth = entries.map(\.key.count).max() ?? 0
        let valueWidth = min(60, entries.map(\.value.count).max() ?? 0)
        for entry in entries {
            printLine("\(entry.key.padded(to: keyWidth))  \(entry.value.padded(to: valueWidth))  \(entry.source)")
        }
    }
}
