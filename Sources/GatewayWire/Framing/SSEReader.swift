import Glibc

/// Reads the `data` of server-sent events (WHATWG HTML section 9.2.6), and whether an event is an error: llama.cpp sends
/// one as a field of that name in place of `data`, and then `[DONE]`; others name the event so. Ids and comments are dropped.
struct SSEReader {
    private var lines: LineReader
    private var event = Event()
    private let maxEvent: Int

    /// What has come of an event.
    private struct Event {
        var data: [UInt8] = []
        var hasData = false
        var isError = false
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
            guard let value = SSEReader.value(of: "data", in: line) else {
                if SSEReader.saysError(line) { isError = true }
                return true
            }
            guard data.count + value.count < maxEvent else { return false }
            if hasData { data.append(0x0A) }
            data.append(contentsOf: value)
            hasData = true
            return true
        }

        mutating func clear() {
            data.removeAll(keepingCapacity: true)
            hasData = false
            isError = false
        }
    }

    /// - Parameter maxEvent: longest data of one event, in bytes.
    init(maxEvent: Int) {
        lines = LineReader(maxLine: maxEvent, allowsLoneCR: true)
        self.maxEvent = maxEvent
    }

    /// Calls `body` with the data of each whole event, nil where the event is an error, until it answers false.
    /// - Returns: false where a line or an event is longer than allowed.
    mutating func feed(_ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer?) -> Bool) -> Bool {
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
            defer { event.clear() }
            if event.isError { return body(nil) }
            return event.hasData ? event.data.withUnsafeBytes(body) : true
        }
        return fits && linesFit
    }

    /// What had come of an event that lacks its blank line, or its last line's end, where the bytes ended.
    enum Rest: Equatable {
        case nothing, error
        case data([UInt8])
    }

    mutating func finish() -> Rest {
        if let line = lines.finish() {
            guard line.withUnsafeBytes({ event.take($0, maxEvent: maxEvent) }) else { return .nothing }
        }
        return event.isError ? .error : event.hasData ? .data(event.data) : .nothing
    }

    /// A field `error` that is not empty, or the event's name.
    private static func saysError(_ line: UnsafeRawBufferPointer) -> Bool {
        if let value = value(of: "error", in: line) { return !value.isEmpty }
        return value(of: "event", in: line)?.elementsEqual("error".utf8) == true
    }

    /// The value of a line of that field; nil for any other field, or a comment.
    private static func value(of field: StaticString, in line: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        let count = field.utf8CodeUnitCount
        guard line.count >= count, memcmp(line.baseAddress!, field.utf8Start, count) == 0 else { return nil }
        if line.count == count { return UnsafeRawBufferPointer(rebasing: line[count...]) }
        guard line[count] == UInt8(ascii: ":") else { return nil }
        let start = line.count > count + 1 && line[count + 1] == 0x20 ? count + 2 : count + 1
        return UnsafeRawBufferPointer(rebasing: line[start...])
    }
}
