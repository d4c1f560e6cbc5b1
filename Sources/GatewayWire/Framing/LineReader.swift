import Glibc

/// Cuts bytes that come in any pieces into lines, without copying a line that lies whole within one piece.
///
/// Ends of line are LF, CR LF or, where asked for, a lone CR (SSE allows it). Line ends are not part of the line.
struct LineReader {
    private var partial: [UInt8] = []
    private let maxLine: Int
    private let allowsLoneCR: Bool
    /// The last byte was a CR that ended a line: an LF that follows belongs to it.
    private var skipsLF = false

    /// - Parameter maxLine: longest line, in bytes.
    init(maxLine: Int, allowsLoneCR: Bool = false) {
        self.maxLine = maxLine
        self.allowsLoneCR = allowsLoneCR
    }

    /// Calls `body` for each whole line, until it answers false.
    /// - Returns: false where a line is longer than allowed.
    mutating func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        var rest = bytes
        if let first = rest.first {
            if skipsLF, first == 0x0A { rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst()) }
            skipsLF = false
        }
        while let end = lineEnd(in: rest) {
            let line = UnsafeRawBufferPointer(rebasing: rest[..<end])
            var next = end + 1
            if rest[end] == 0x0D {
                if next == rest.count { skipsLF = true } else if rest[next] == 0x0A { next += 1 }
            }
            guard partial.count + line.count <= maxLine else { return false }
            let goesOn: Bool
            if partial.isEmpty {
                goesOn = body(Self.withoutCR(line))
            } else {
                partial.append(contentsOf: line)
                goesOn = partial.withUnsafeBytes { body(Self.withoutCR($0)) }
                partial.removeAll(keepingCapacity: true)
            }
            guard goesOn else { return true }
            rest = UnsafeRawBufferPointer(rebasing: rest[next...])
        }
        guard !rest.isEmpty else { return true }
        guard partial.count + rest.count <= maxLine else { return false }
        partial.append(contentsOf: rest)
        return true
    }

    /// The last line, where the bytes ended without a line end; nil where nothing is left.
    mutating func finish() -> [UInt8]? {
        defer { partial = [] }
        return partial.isEmpty ? nil : partial
    }

    private func lineEnd(in bytes: UnsafeRawBufferPointer) -> Int? {
        if allowsLoneCR { return bytes.firstIndex { $0 == 0x0A || $0 == 0x0D } }
        guard let start = bytes.baseAddress, let end = memchr(start, 0x0A, bytes.count) else { return nil }
        return UnsafeRawPointer(end) - start
    }

    private static func withoutCR(_ line: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        line.last == 0x0D ? UnsafeRawBufferPointer(rebasing: line.dropLast()) : line
    }
}
