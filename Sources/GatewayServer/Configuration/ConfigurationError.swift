import GatewayCore

/// Why a configuration cannot be used. Nothing starts with one that has any fault.
package enum ConfigurationError: Error, CustomStringConvertible, Equatable {
    case missingFile(path: String)
    case unreadableFile(path: String, reason: String)
    case syntax(path: String, line: Int, column: Int, reason: String)
    /// Every fault that was found, in the file's order.
    case faults(path: String, [Fault])

    /// One thing that is wrong, with its key path.
    package struct Fault: Sendable, Equatable, CustomStringConvertible {
        package enum Kind: String, Sendable {
            case unknownKey, wrongType, outOfRange, duplicateName, badValue, missingKey
        }
        package var kind: Kind
        /// As `upstream[1].timeouts.connect`.
        package var key: String
        /// What was found and what is accepted.
        package var detail: String

        package var description: String { "\(key): \(detail)" }
    }

    package var description: String {
        switch self {
        case .missingFile(let path): "\(path): no such file"
        case .unreadableFile(let path, let reason): "\(path): cannot be read: \(reason)"
        case .syntax(let path, let line, let column, let reason): "\(path):\(line):\(column): syntax error: \(reason)"
        case .faults(let path, let faults): faults.map { "\(path): \($0)" }.joined(separator: "\n")
        }
    }
}

/// Where a value of the effective configuration comes from.
package enum ConfigurationSource: Sendable, Equatable, CustomStringConvertible {
    case builtIn
    case file
    case environment(String)
    case commandLine

    package var description: String {
        switch self {
        case .builtIn: "default"
        case .file: "file"
        case .environment(let name): "environment \(name)"
        case .commandLine: "command line"
        }
    }
}

/// One line of `webllm-gateway check`.
package struct ConfigurationEntry: Sendable, Equatable {
    package var key: String
    package var value: String
    package var source: ConfigurationSource
}

package struct LoadedConfiguration: Sendable {
    package var configuration: GatewayConfiguration
    package var entries: [ConfigurationEntry]
    package var warnings: [String]
    /// Whether the file itself holds an upstream's key.
    var holdsKeys = false

    package init(
        configuration: GatewayConfiguration, entries: [ConfigurationEntry] = [], warnings: [String] = [],
        holdsKeys: Bool = false
    ) {
        self.configuration = configuration
        self.entries = entries
        self.warnings = warnings
        self.holdsKeys = holdsKeys
    }
}
