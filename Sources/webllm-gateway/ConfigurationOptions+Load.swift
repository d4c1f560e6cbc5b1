import ArgumentParser
import GatewayServer
import Glibc

extension ConfigurationOptions {
    /// The file to read: the one that was asked for, or ./gateway.conf where there is one.
    var file: String? { config ?? (access("gateway.conf", F_OK) == 0 ? "gateway.conf" : nil) }

    /// Loads the configuration, or tells every fault on standard error and exits with 78.
    func load() throws -> LoadedConfiguration {
        do {
            let loaded = try ConfigurationLoader.load(file: file, environment: Self.environment, listen: listen)
            for warning in loaded.warnings { printError("warning: \(warning)") }
            return loaded
        } catch {
            printError(error.description)
            throw ExitCode(configurationExitCode)
        }
    }

    static var environment: [String: String] {
        var variables: [String: String] = [:]
        var next = environ
        while let entry = next.pointee {
            let text = String(cString: entry)
            if let equals = text.firstIndex(of: "=") {
                variables[String(text[..<equals])] = String(text[text.index(after: equals)...])
            }
            next += 1
        }
        return variables
    }
}

func printError(_ line: String) {
    var line = "webllm-gateway: " + line + "\n"
    line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
