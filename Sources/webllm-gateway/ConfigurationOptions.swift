import ArgumentParser
import Foundation
import GatewayServer

/// What `serve` and `check` share.
struct ConfigurationOptions: ParsableArguments {
    @Option(
        name: [.short, .long], help: "The configuration file. Default: ./gateway.conf where there is one.",
        completion: .file())
    var config: String?

    @Option(help: "An address to listen on in place of the configured ones; may be given several times.")
    var listen: [String] = []

    /// The file to read: the one that was asked for, or ./gateway.conf where there is one.
    var file: String? { config ?? (isThere("gateway.conf") ? "gateway.conf" : nil) }

    /// Also where it cannot be read, or is a link to nothing: that is to be told.
    private func isThere(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) == 0 || errno != ENOENT
    }

    /// Loads the configuration, or tells every fault on standard error and exits with 78.
    func load() throws -> LoadedConfiguration {
        do {
            return try ConfigurationLoader.load(file: file, environment: environment, listen: listen)
        } catch {
            printError(error.description)
            throw ExitCode.configuration
        }
    }
}

/// The process's variables.
var environment: [String: String] { ProcessInfo.processInfo.environment }

/// A variable of the environment; an empty one counts as none.
func variable(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }
