import GatewayCore
import TOMLKit

/// Reads one TOML table key by key: each read takes its key, checks type and range, and notes where the value came
/// from. What nobody read is unknown.
///
/// TOMLKit's decoder in its strict mode would stop at the first fault and cannot tell where a value came from.
final class TableReader {
    /// What all tables of one file gather.
    final class Log {
        var faults: [ConfigurationError.Fault] = []
        var entries: [ConfigurationEntry] = []
        /// Whether a key stands in the file and not in the environment.
        var holdsKeys = false

        /// What a value comes to in place of what the file or the defaults say.
        func override(_ key: String, _ value: String, _ source: ConfigurationSource) {
            let entry = ConfigurationEntry(key: key, value: value, source: source)
            if let index = entries.firstIndex(where: { $0.key == key }) {
                entries[index] = entry
            } else {
                entries.append(entry)
            }
        }
    }

    let log: Log
    private let table: TOMLTable?
    private let path: String
    private let source: ConfigurationSource
    private var known: [String] = []

    /// - Parameters:
    ///   - table: nil where the file has none: every read then gives its default.
    ///   - path: key path of the table, empty at the top.
    ///   - source: where the table is from.
    init(_ table: TOMLTable?, path: String, log: Log, source: ConfigurationSource = .file) {
        self.table = table
        self.path = path
        self.source = source
        self.log = log
    }

    func keyPath(_ key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    // MARK: Typed reads

    func string(_ key: String, _ value: String, isSecret: Bool = false) -> String {
        read(key, default: value, accepts: "a string", shows: { isSecret ? "***" : "\"\($0)\"" }) { $0.string }
    }

    func optionalString(_ key: String, isSecret: Bool = false) -> String? {
        guard table?[key] != nil else {
            known.append(key)
            return nil
        }
        return string(key, "", isSecret: isSecret)
    }

    func hasFault(_ key: String) -> Bool { log.faults.contains { $0.key == keyPath(key) } }

    func bool(_ key: String, _ value: Bool) -> Bool {
        read(key, default: value, accepts: "true or false", shows: { "\($0)" }) { $0.bool }
    }

    func integer(_ key: String, _ value: Int, in range: ClosedRange<Int>) -> Int {
        let found = read(key, default: value, accepts: "a whole number", shows: { "\($0)" }) { $0.int }
        return bounded(key, found, value, range) { "\($0)" }
    }

    func number(_ key: String, _ value: Double, in range: ClosedRange<Double>) -> Double {
        let found = read(key, default: value, accepts: "a number", shows: { "\($0)" }) { value in
            value.double ?? value.int.map(Double.init)
        }
        return bounded(key, found, value, range) { "\($0)" }
    }

    func duration(_ key: String, _ value: Duration, in range: ClosedRange<Duration>) -> Duration {
        let accepts = "a duration such as \"10s\""
        let found = parsed(key, value, accepts: accepts, shows: DurationText.format) { (text) throws(TextFault) in
            try DurationText.parse(text)
        }
        return bounded(key, found, value, range, shows: DurationText.format)
    }

    func size(_ key: String, _ value: Int, in range: ClosedRange<Int>) -> Int {
        let accepts = "a size such as \"4MiB\""
        let found = parsed(key, value, accepts: accepts, shows: ByteSizeText.format) { (text) throws(TextFault) in
            try ByteSizeText.parse(text)
        }
        return bounded(key, found, value, range, shows: ByteSizeText.format)
    }

    /// - Returns: what was found, or the default where that is out of range, which is a fault.
    private func bounded<Value: Comparable>(
        _ key: String, _ found: Value, _ value: Value, _ range: ClosedRange<Value>, shows: (Value) -> String
    ) -> Value {
        guard !range.contains(found) else { return found }
        let (lowest, highest) = (shows(range.lowerBound), shows(range.upperBound))
        fault(.outOfRange, key, "\(shows(found)) is out of range; accepted: \(lowest) to \(highest)")
        return value
    }

    func choice<Value: RawRepresentable<String> & CaseIterable>(_ key: String, _ value: Value?) -> Value? {
        let words = Value.allCases.map(\.rawValue)
        guard let text = value == nil ? optionalString(key) : string(key, value!.rawValue) else {
            fault(.missingKey, key, "missing; accepted: \(words.joined(separator: ", "))")
            return nil
        }
        if let found = Value(rawValue: text) { return found }
        let hint = NearestWord.suggest(text, among: words).map { "; did you mean \"\($0)\"?" } ?? ""
        fault(.badValue, key, "\"\(text)\" is not accepted; accepted: \(words.joined(separator: ", "))\(hint)")
        return value
    }

    /// A value that is written as a string and parsed.
    func parsed<Value>(
        _ key: String, _ value: Value, accepts: String, shows: @escaping (Value) -> String,
        _ parse: (String) throws(TextFault) -> Value
    ) -> Value {
        read(key, default: value, accepts: accepts, shows: { shows($0) }) { found in
            guard let text = found.string else { return nil }
            do throws(TextFault) {
                return try parse(text)
            } catch {
                self.fault(.badValue, key, "\"\(text.withoutSecrets)\" is not accepted; expected \(error)")
                return value
            }
        }
    }

    func strings(_ key: String, _ value: [String]) -> [String] {
        read(key, default: value, accepts: "a list of strings", shows: { "\($0)" }) { found in
            guard let array = found.array else { return nil }
            let texts = array.enumerated().compactMap { index, element in
                self.element(element, "\(key)[\(index)]")
            }
            return texts.count == array.count ? texts : value
        }
    }

    /// A table of strings.
    func stringTable(_ key: String) -> [String: String] {
        read(key, default: [:], accepts: "a table of strings", shows: { "\($0)" }) { found in
            guard let table = found.table else { return nil }
            var texts: [String: String] = [:]
            for name in table.keys.sorted() {
                texts[name] = table[name].flatMap { self.element($0, "\(key).\(name)") }
            }
            return texts
        }
    }

    /// - Returns: nil where it is no string, which is a fault.
    private func element(_ value: any TOMLValueConvertible, _ key: String) -> String? {
        if value.string == nil { fault(.wrongType, key, "found \(Self.name(value)); accepted: a string") }
        return value.string
    }

    func subtable(_ key: String) -> TableReader {
        known.append(key)
        var found: TOMLTable?
        if let value = table?[key] {
            found = value.table
            if found == nil { fault(.wrongType, key, "found \(Self.name(value)); accepted: a table") }
        }
        return TableReader(found, path: keyPath(key), log: log, source: source)
    }

    /// The readers of an array of tables; nil where the file has none.
    func tables(_ key: String) -> [TableReader]? {
        known.append(key)
        guard let value = table?[key] else { return nil }
        guard let array = value.array else {
            fault(.wrongType, key, "found \(Self.name(value)); accepted: tables written as [[\(key)]]")
            return []
        }
        return array.enumerated().map { index, element in
            if element.table == nil { fault(.wrongType, "\(key)[\(index)]", "accepted: a table") }
            return TableReader(element.table, path: keyPath("\(key)[\(index)]"), log: log)
        }
    }

    /// Call after all reads: what is left is a mistake.
    func finish() {
        guard let table else { return }
        for key in table.keys.sorted() where !known.contains(key) {
            let hint =
                NearestWord.suggest(key, among: known).map { "did you mean \($0)?" }
                ?? "accepted: \(known.sorted().joined(separator: ", "))"
            fault(.unknownKey, key, "unknown key; \(hint)")
        }
    }

    /// What a default comes to, where the code cannot know it.
    func note(_ key: String, _ value: String, _ source: ConfigurationSource) {
        log.override(keyPath(key), value, source)
    }

    func fault(_ kind: ConfigurationError.Fault.Kind, _ key: String, _ detail: String) {
        log.faults.append(.init(kind: kind, key: keyPath(key), detail: detail))
    }

    private func read<Value>(
        _ key: String, default value: Value, accepts: String, shows: (Value) -> String,
        _ convert: (any TOMLValueConvertible) -> Value?
    ) -> Value {
        known.append(key)
        guard let found = table?[key] else {
            log.entries.append(.init(key: keyPath(key), value: shows(value), source: .builtIn))
            return value
        }
        guard let converted = convert(found) else {
            fault(.wrongType, key, "found \(Self.name(found)); accepted: \(accepts)")
            return value
        }
        log.entries.append(.init(key: keyPath(key), value: shows(converted), source: source))
        return converted
    }

    private static func name(_ value: any TOMLValueConvertible) -> String {
        switch value.type {
        case .string: "a string"
        case .int: "a whole number"
        case .double: "a number with a fraction"
        case .bool: "true or false"
        case .array: "a list"
        case .table: "a table"
        default: "a date or time"
        }
    }
}

extension String {
    /// As it may be shown: what stands before an `@`, a name and a password, or after a `?` or `#`, a key, is not. Where the
    /// `@` comes after one of these, they may be a password's.
    var withoutSecrets: String {
        let end = firstIndex { $0 == "?" || $0 == "#" } ?? endIndex
        let start = self[..<end].firstRange(of: "://")?.upperBound ?? startIndex
        guard let at = lastIndex(of: "@") else { return self[..<end] + (end == endIndex ? "" : "\(self[end])***") }
        guard start <= at, at < end else { return (start <= at ? self[..<start] : "") + "***" }
        return self[..<start] + "***" + self[at..<end] + (end == endIndex ? "" : "\(self[end])***")
    }
}
