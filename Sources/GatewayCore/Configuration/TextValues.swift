import Glibc

/// A text in gateway.conf that cannot be read; the description says what is accepted.
package struct TextFault: Error, Sendable, Equatable, CustomStringConvertible {
    package var description: String
    init(_ description: String) { self.description = description }
}

/// Durations as text: a whole or decimal number and one unit, `250ms`, `1.5s`, `5m`, `2h`, `30d`.
package enum DurationText {
    private static let units: [(suffix: String, nanoseconds: Double)] = [
        ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9), ("d", 86_400e9),
    ]

    package static func parse(_ text: String) throws(TextFault) -> Duration {
        for (suffix, nanoseconds) in units where text.hasSuffix(suffix) {
            let digits = text.dropLast(suffix.count)
            guard digits.first?.isASCIIDigit == true, digits.allSatisfy({ $0.isASCIIDigit || $0 == "." }),
                let number = Double(digits)
            else { continue }
            // 64 bits of nanoseconds hold a little more.
            guard number * nanoseconds <= 100_000 * 86_400e9 else { throw TextFault("a duration of at most 100000d") }
            return .nanoseconds(Int64((number * nanoseconds).rounded()))
        }
        throw TextFault("a duration such as \"250ms\", \"2s\", \"5m\", \"1h\" or \"30d\"")
    }

    /// The shortest form that reads back as the same duration.
    package static func format(_ duration: Duration) -> String {
        let nanoseconds = duration.nanoseconds
        for (suffix, unit) in units.reversed() where nanoseconds != 0 && nanoseconds % Int64(unit) == 0 {
            return "\(nanoseconds / Int64(unit))\(suffix)"
        }
        return nanoseconds == 0 ? "0s" : "\(Double(nanoseconds) / 1e6)ms"
    }
}

/// Sizes as text: a whole number and a unit of 1024, `512B`, `64KiB`, `4MiB`, `1GiB`.
package enum ByteSizeText {
    /// The largest first; "B" is a suffix of all.
    private static let units: [(suffix: String, bytes: Int)] = [
        ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1),
    ]

    package static func parse(_ text: String) throws(TextFault) -> Int {
        for (suffix, bytes) in units where text.hasSuffix(suffix) {
            let digits = text.dropLast(suffix.count)
            guard !digits.isEmpty, digits.allSatisfy(\.isASCIIDigit) else { continue }
            let size = Int(digits)?.multipliedReportingOverflow(by: bytes)
            guard let size, !size.overflow else { throw TextFault("a size of less than 8589934592GiB") }
            return size.partialValue
        }
        throw TextFault("a size such as \"512B\", \"64KiB\", \"4MiB\" or \"1GiB\"")
    }

    package static func format(_ bytes: Int) -> String {
        let unit = units.first { bytes != 0 && bytes.isMultiple(of: $0.bytes) } ?? ("B", 1)
        return "\(bytes / unit.bytes)\(unit.suffix)"
    }
}

extension UpstreamURL {
    /// Reads an upstream's address: http or https, a host, an optional port and path, and nothing else.
    ///
    /// IPv4 addresses must be in their usual form: `127.1` and `0x7f000001` mean an address to some resolvers and a
    /// name to others.
    package static func parse(_ text: String) throws(TextFault) -> UpstreamURL {
        let isTLS: Bool
        var rest: Substring
        if text.hasPrefix("http://") {
            (isTLS, rest) = (false, text.dropFirst(7))
        } else if text.hasPrefix("https://") {
            (isTLS, rest) = (true, text.dropFirst(8))
        } else {
            throw TextFault("a URL that starts with http:// or https://")
        }
        guard rest.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
            throw TextFault("a URL without spaces, control characters or letters outside ASCII")
        }
        guard !rest.contains("?"), !rest.contains("#") else { throw TextFault("a URL without a query or fragment") }
        var path: Substring = ""
        if let slash = rest.firstIndex(of: "/") {
            path = rest[slash...]
            rest = rest[..<slash]
        }
        guard !rest.contains("@") else {
            throw TextFault("a URL without user info (use api_key for a bearer token)")
        }
        let endsInSlash = path.hasSuffix("/")
        while path.hasSuffix("/") { path = path.dropLast() }
        var port = isTLS ? 443 : 80
        let host: Substring
        if rest.hasPrefix("[") {
            guard let end = rest.firstIndex(of: "]") else { throw TextFault("an IPv6 address in brackets") }
            host = rest[rest.index(after: rest.startIndex)..<end]
            guard NumericAddress.isIPv6(host) else { throw TextFault("an IPv6 address in brackets") }
            rest = rest[rest.index(after: end)...]
        } else {
            let end = rest.firstIndex(of: ":") ?? rest.endIndex
            host = rest[..<end]
            rest = rest[end...]
            try checkHost(host)
        }
        if !rest.isEmpty {
            guard rest.hasPrefix(":"), let number = Int(rest.dropFirst()), (1...65535).contains(number),
                rest.dropFirst().allSatisfy(\.isASCIIDigit)
            else { throw TextFault("a port from 1 to 65535") }
            port = number
        }
        return UpstreamURL(
            isTLS: isTLS, host: String(host), port: port, basePath: String(path), endsInSlash: endsInSlash)
    }

    private static func checkHost(_ host: Substring) throws(TextFault) {
        guard !host.isEmpty, host.utf8.count <= 253,
            host.allSatisfy({ $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "-" || $0 == "." || $0 == "_") })
        else { throw TextFault("a URL with a host name or address") }
        let name = host.hasSuffix(".") ? host.dropLast() : host
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        guard labels.allSatisfy({ (1...63).contains($0.utf8.count) }) else {
            throw TextFault("a host name without empty or very long parts")
        }
        guard labels.last?.first?.isASCIIDigit == true, !NumericAddress.isIPv4(host) else { return }
        throw TextFault("an IPv4 address of four decimal numbers, such as 127.0.0.1")
    }

    /// As in gateway.conf.
    package var text: String { origin + basePath + (endsInSlash && !basePath.isEmpty ? "/" : "") }
}

extension ListenAddress: CustomStringConvertible {
    package var description: String {
        switch self {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): "unix:\(path)"
        }
    }

    /// `127.0.0.1:8000`, `[::1]:8000` or `unix:/run/gateway.sock`. Names are refused: which of their addresses would be
    /// meant is not clear.
    package static func parse(_ text: String) throws(TextFault) -> ListenAddress {
        let accepted = TextFault("an address such as \"127.0.0.1:8000\", \"[::1]:8000\" or \"unix:/run/gateway.sock\"")
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            guard path.hasPrefix("/"), path.utf8.count <= maxUnixPath, !path.utf8.contains(0) else {
                throw TextFault("an absolute Unix socket path of at most \(maxUnixPath) bytes")
            }
            return .unix(path: path)
        }
        guard let colon = text.lastIndex(of: ":") else { throw accepted }
        let digits = text[text.index(after: colon)...]
        guard digits.allSatisfy(\.isASCIIDigit), let port = UInt16(digits) else { throw accepted }
        let name = text[..<colon]
        let isIPv6 = name.hasPrefix("[") && name.hasSuffix("]")
        let address = isIPv6 ? name.dropFirst().dropLast() : name
        guard let host = NumericAddress.canonical(address, isIPv6 ? AF_INET6 : AF_INET) else { throw accepted }
        return .tcp(host: host, port: Int(port))
    }

    /// Bytes of a Unix socket's path: the system takes 107, some of which ``temporaryPath(of:process:)`` adds.
    private static let maxUnixPath = 99

    /// The name that a socket has until it listens.
    package static func temporaryPath(of path: String, process: Int32) -> String { "\(path).\(process)" }
}

/// The nearest accepted word to a mistyped one.
package enum NearestWord {
    /// - Returns: nil where none is near: more than a third of the letters differ.
    package static func suggest(_ word: String, among candidates: some Sequence<String>) -> String? {
        let best = candidates.map { ($0, distance(Array(word), Array($0))) }.min { $0.1 < $1.1 }
        guard let (candidate, distance) = best, distance <= max(1, word.count / 3) else { return nil }
        return candidate
    }

    /// Levenshtein's distance.
    private static func distance(_ left: [Character], _ right: [Character]) -> Int {
        var row = Array(0...right.count)
        for (i, a) in left.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, b) in right.enumerated() {
                let change = diagonal + (a == b ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(change, row[j] + 1, diagonal + 1)
            }
        }
        return row[right.count]
    }
}

extension Character {
    fileprivate var isASCIIDigit: Bool { isASCII && isNumber }
}
