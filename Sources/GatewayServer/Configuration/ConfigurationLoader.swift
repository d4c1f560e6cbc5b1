import GatewayCore
import Glibc
import TOMLKit

/// Makes the effective configuration: defaults < file < environment < command line.
package enum ConfigurationLoader {
    /// - Parameters:
    ///   - path: the configuration file; nil for none.
    ///   - environment: see docs/configuration.md for the variables that are read.
    ///   - listen: addresses of the command line; empty for none.
    /// - Throws: ``ConfigurationError`` with every fault that was found.
    package static func load(
        file path: String?, environment: [String: String], listen: [String] = []
    ) throws(ConfigurationError) -> LoadedConfiguration {
        let text = try path.map { path throws(ConfigurationError) in try read(path) }
        var loaded = try read(text: text, path: path, environment: environment, listen: listen)
        if let path, let history = loaded.configuration.history.path, isSameFile(path, history) {
            let detail = "this is the configuration file itself; accepted: a file of its own"
            throw .faults(path: path, [.init(kind: .badValue, key: "history.path", detail: detail)])
        }
        if let path, loaded.holdsKeys, isReadableByOthers(path) {
            loaded.warnings.append(
                "\(path) holds an api_key and can be read by other users; use \"env:NAME\", or chmod 600 where the "
                    + "gateway's user owns the file")
        }
        return loaded
    }

    /// The same, of a text that is read already.
    /// - Parameter path: for messages; nil where there is no file.
    package static func read(
        text: String?, path: String?, environment: [String: String] = [:], listen: [String] = []
    ) throws(ConfigurationError) -> LoadedConfiguration {
        if let text, let fault = TOMLPrecheck.firstFault(text) {
            throw .syntax(path: path ?? "", line: fault.line, column: fault.column, reason: fault.reason)
        }
        let root: TOMLTable
        do {
            root = try TOMLTable(string: text ?? "")
        } catch let error as TOMLParseError {
            throw .syntax(
                path: path ?? "", line: Int(error.source.begin.line), column: Int(error.source.begin.column),
                reason: error.description)
        } catch {
            throw .unreadableFile(path: path ?? "", reason: "\(error)")
        }
        let log = TableReader.Log()
        var configuration = GatewayReader.read(TableReader(root, path: "", log: log), environment: environment)
        EnvironmentOverrides.apply(environment, to: &configuration, hasFile: path != nil, log: log)
        if !listen.isEmpty {
            configuration.server.listen = addresses(listen, key: "--listen", source: .commandLine, log: log)
        }
        GatewayReader.checkWhole(configuration, log: log)
        guard log.faults.isEmpty else { throw .faults(path: path ?? "configuration", log.faults) }
        return LoadedConfiguration(
            configuration: configuration, entries: log.entries, warnings: warnings(of: configuration.admin),
            holdsKeys: log.holdsKeys)
    }

    /// Without a token, who reaches the listener can end requests and read the texts of answers.
    private static func warnings(of admin: AdminConfiguration) -> [String] {
        let open = admin.listen.filter { !$0.isLocal }
        guard !open.isEmpty, admin.tokenDigest == nil else { return [] }
        let addresses = open.map { "\"\($0)\"" }.joined(separator: ", ")
        return ["admin.listen: other machines can use \(addresses) without a token; set admin.token_hash"]
    }

    static func addresses(
        _ texts: [String], key: String, source: ConfigurationSource, log: TableReader.Log
    ) -> [ListenAddress] {
        var addresses: [ListenAddress] = []
        for text in texts {
            do throws(TextFault) {
                addresses.append(try .parse(text))
            } catch {
                log.faults.append(
                    .init(kind: .badValue, key: key, detail: "\"\(text)\" is not accepted; expected \(error)"))
            }
        }
        if texts.isEmpty {
            log.faults.append(.init(kind: .outOfRange, key: key, detail: "empty; accepted: at least one address"))
        }
        log.override("server.listen", "\(texts)", source)
        return addresses
    }

    private static func read(_ path: String) throws(ConfigurationError) -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { throw .missingFile(path: path) }
            throw .unreadableFile(path: path, reason: String(cString: strerror(errno)))
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &chunk, chunk.count)
            guard count >= 0 else { throw .unreadableFile(path: path, reason: String(cString: strerror(errno))) }
            guard count > 0 else { break }
            bytes.append(contentsOf: chunk[..<count])
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw .unreadableFile(path: path, reason: "it is not UTF-8 text")
        }
        return text
    }

    /// Those of its group are often meant to.
    private static func isReadableByOthers(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & 0o007 != 0
    }

    private static func isSameFile(_ path: String, _ other: String) -> Bool {
        var (one, two) = (stat(), stat())
        return stat(path, &one) == 0 && stat(other, &two) == 0 && one.st_dev == two.st_dev && one.st_ino == two.st_ino
    }
}
