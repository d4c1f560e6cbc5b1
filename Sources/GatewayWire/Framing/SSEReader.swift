/// Reads the `data` of server-sent events (WHATWG HTML section 9.2.6); names, ids and comments are dropped.
struct SSEReader {
    private var lines: LineReader
    private var event = Event()
    private let maxEvent: Int

    /// What has come of an event.
    private struct Event {
        var data: [UInt8] = []
        var hasData = false
        /// Of this event or one before it.
        var hasLine = false

        /// - Returns: false where the event is longer than allowed.
        mutating func take(_ line: UnsafeRawBufferPointer, maxEvent: Int) -> Bool {
            var line = line
            // A byte-order mark may come first in a stream (section 9.2.5).
            if !hasLine, line.starts(with: [0xEF, 0xBB, 0xBF]) {
                line = UnsafeRawBufferPointer(rebasing: line.dropFirst(3))
            }
            hasLine = true
            guard let value = SSEReader.dataValue(line) else { return true }
            guard data.count + value.count < maxEvent else { return false }
            if hasData { data.append(0x0A) }
            data.append(contentsOf: value)
            hasData = true
            return true
        }

        mutating func clear() {
            data.removeAll(keepingCapacity: true)
            hasData = false
        }
    }

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
        var event = Event()
        swap(&event, &self.event)
        defer { self.event = event }
        let maxEvent = maxEvent
        let linesFit = lines.feed(bytes) { line in
            guard line.isEmpty else {
                fits = event.take(line, maxEvent: maxEvent)
                return fits
            }
            guard event.hasData else { return true }
            let goesOn = event.data.withUnsafeBytes(body)
            event.clear()
            return goesOn
        }
        return fits && linesFit
    }

    /// The data of an event that lacks its blank line, or its last line's end, where the bytes ended; nil where there
    /// is none.
    mutating func finish() -> [UInt8]? {
        if let line = lines.finish() {
            guard line.withUnsafeBytes({ event.take($0, maxEvent: maxEvent) }) else { return nil }
        }
        return event.hasData ? event.data : nil
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
