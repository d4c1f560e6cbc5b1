import ArgumentParser
import GatewayServer

/// Says what the configuration comes to, and where each value is from.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Check the configuration and print it with the source of each value.")

    @OptionGroup var options: ConfigurationOptions

    func run() throws {
        let entries = try options.load().entries
        let keyWidth = entries.map(\.key.count).max() ?? 0
        let valueWidth = min(60, entries.map(\.value.count).max() ?? 0)
        for entry in entries {
            let key = entry.key.padded(to: keyWidth)
            print("\(key)  \(entry.value.padded(to: valueWidth))  \(entry.source)")
        }
    }
}

extension String {
    fileprivate func padded(to width: Int) -> String {
        count >= width ? self : self + String(repeating: " ", count: width - count)
    }
}
