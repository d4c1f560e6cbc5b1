import GatewayCore
import GatewayWire
import NIOCore

/// One line of key-value pairs, in either format.
struct LogLine {
    private let format: LogConfiguration.Format
    private var writer: JSONWriter
    private var isFirst = true

    /// Takes the buffer over until ``end(_:)``.
    init(_ format: LogConfiguration.Format, into buffer: inout ByteBuffer) {
        self.format = format
        writer = JSONWriter(buffer)
        buffer = ByteBuffer()
        if format == .json { writer.beginObject() }
    }

    mutating func field(_ key: StaticString, _ text: String) {
        switch format {
        case .json: writer.field(key, text)
        case .logfmt:
            startPair(key)
            writeLogfmt(text)
        }
    }

    /// - Parameter key: one that is not known beforehand, as of a library's own log lines.
    mutating func field(named key: String, _ text: String) {
        switch format {
        case .json:
            writer.key(key)
            writer.value(text)
        case .logfmt:
            separate()
            writer.buffer.writeString(key)
            writer.buffer.writeStaticString("=")
            writeLogfmt(text)
        }
    }

    mutating func field(_ key: StaticString, _ timestamp: Timestamp) {
        switch format {
        case .json: writer.field(key, timestamp)
        case .logfmt:
            startPair(key)
            writer.buffer.write(atMost: Timestamp.width) { $0.put(timestamp) }
        }
    }

    mutating func field(_ key: StaticString, _ number: Int) {
        switch format {
        case .json: writer.field(key, number)
        case .logfmt:
            startPair(key)
            writer.buffer.writeDecimal(number)
        }
    }

    /// In milliseconds with three decimals at most.
    mutating func field(_ key: StaticString, _ duration: Duration) {
        switch format {
        case .json: writer.field(key, duration)
        case .logfmt:
            startPair(key)
            var number = JSONWriter()
            number.milliseconds(duration)
            writer.buffer.writeImmutableBuffer(number.buffer)
        }
    }

    private mutating func startPair(_ key: StaticString) {
        separate()
        writer.buffer.writeStaticString(key)
        writer.buffer.writeStaticString("=")
    }

    private mutating func separate() {
        if !isFirst { writer.buffer.writeStaticString(" ") }
        isFirst = false
    }

    private mutating func writeLogfmt(_ text: String) {
        let isPlain = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x22 && $0 != 0x3D }
        if isPlain { writer.buffer.writeString(text) } else { writer.buffer.writeJSONString(text) }
    }

    mutating func end(_ buffer: inout ByteBuffer) {
        if format == .json { writer.endObject() }
        writer.buffer.writeInteger(UInt8(ascii: "\n"))
        buffer = writer.buffer
        writer.buffer = ByteBuffer()
    }
}
