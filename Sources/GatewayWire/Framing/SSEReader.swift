/// Reads the `data` of server-sent events (WHATWG HTML section 9.2.6); names, ids and comments are dropped.
struct SSEReader {
    private var lines: LineReader
    private let maxEvent: Int
    private var data: [UInt8] = []
    private var hasData = false

    /// - Parameter maxEvent: longest data of one event, in bytes.
    init(maxEvent: Int) {
        lines = LineReader(maxLine: maxEvent, allowsLoneCR: true)
        self.maxEvent = maxEvent
    }

    /// Calls `body` with the data of each whole event, until it answers false.
    /// - Returns: false where a line or an event is longer than allowed.
    mutating func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        var fits = true
        // Moved out and back, so that the closure below may change it without a copy.
        var data: [UInt8] = []
        swap(&data, &self.data)
        var hasData = hasData
        let maxEvent = maxEvent
        defer {
            self.data = data
            self.hasData = hasData
        }
        let linesFit = lines.feed(bytes) { line in
            guard !line.isEmpty else {
                guard hasData else { return true }
                let goesOn = data.withUnsafeBytes(body)
                data.removeAll(keepingCapacity: true)
                hasData = false
                return goesOn
            }
            guard let value = Self.dataValue(line) else { return true }
            guard data.count + value.count < maxEvent else {
                fits = false
                return false
            }
            if hasData { data.append(0x0A) }
            data.append(contentsOf: value)
            hasData = true
            return true
        }
        return fits && linesFit
    }

    /// The value of a `data` field; nil for a comment or any other field.
    private static func dataValue(_ line: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard line.starts(with: "data".utf8) else { return nil }
        if line.count == 4 { return UnsafeRawBufferPointer(rebasing: line[4...]) }
        guard line[4] == UInt8(ascii: ":") else { return nil }
        let start = line.count > 5 && line[5] == 0x20 ? 6 : 5
        return UnsafeRawBufferPointer(rebasing: line[start...])
    }
}
