/// Reads the header lines that curl hands over, one at a time: bounded, and only the fields that somebody reads are kept.
///
/// curl passes on everything it gets: interim heads, 10 000 lines, trailers, values with a bare CR inside.
package struct ResponseHeadReader: Sendable {
    package enum Outcome: Sendable, Equatable {
        case more
        /// The final head is whole. What comes after it, trailers, is ignored.
        case head(ResponseHead)
        case tooLarge
    }

    private let limit: Int
    private var bytes = 0
    private var head = ResponseHead(status: 0)
    private var isDone = false

    /// - Parameter limit: bytes of all heads of one transfer together.
    package init(limit: Int) { self.limit = limit }

    package var hasBegun: Bool { bytes > 0 }

    package mutating func read(_ line: UnsafeRawBufferPointer) -> Outcome {
        bytes += line.count
        guard bytes <= limit else { return .tooLarge }
        guard !isDone else { return .more }
        if line.first == UInt8(ascii: "H"), line.starts(with: "HTTP/".utf8) {
            head = ResponseHead(status: Self.status(of: line))
        } else if line.first == 13 || line.first == 10 {
            // Interim heads (RFC 9110 section 15.2) are followed by another; 101 is never asked for and never followed.
            guard head.status >= 200 || head.status == 101 else { return .more }
            isDone = true
            return .head(head)
        } else if let value = Self.value(of: "retry-after", in: line) {
            head.retryAfter = value
        }
        return .more
    }

    private static func status(of line: UnsafeRawBufferPointer) -> Int {
        guard let space = line.firstIndex(of: 0x20) else { return 0 }
        var status = 0
        for byte in line[(space + 1)...].prefix(3) {
            guard byte >= 0x30, byte <= 0x39 else { return 0 }
            status = status * 10 + Int(byte - 0x30)
        }
        return status
    }

    private static func value(of name: StaticString, in line: UnsafeRawBufferPointer) -> String? {
        let length = name.utf8CodeUnitCount
        guard line.count > length, line[length] == UInt8(ascii: ":") else { return nil }
        for index in 0..<length {
            let byte = line[index]
            guard (byte | (byte >= 0x41 && byte <= 0x5A ? 0x20 : 0)) == name.utf8Start[index] else { return nil }
        }
        let value = line[(length + 1)...].prefix(257).filter { $0 >= 0x20 && $0 < 0x7F }
        guard value.count <= 256 else { return nil }
        var text = Substring(decoding: value, as: UTF8.self)
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
