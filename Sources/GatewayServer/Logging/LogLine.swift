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

    mutating func field(_ key: String, _ text: String) {
        switch format {
        case .json:
            writer.key(key)
            writer.value(text)
        case .logfmt:
            startPair(key)
            let isPlain = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != 0x22 && $0 != 0x3D }
            if isPlain { writer.buffer.writeString(text) } else { writer.buffer.writeJSONString(text) }
        }
    }

    mutating func field(_ key: String, _ timestamp: Timestamp) {
        switch format {
        case .json:
            writer.key(key)
            writer.value(timestamp)
        case .logfmt:
            startPair(key)
            timestamp.write(into: &writer.buffer)
        }
    }

    mutating func field(_ key: String, _ number: Int) {
        switch format {
        case .json:
            writer.key(key)
            writer.value(number)
        case .logfmt:
            startPair(key)
            writer.buffer.writeDecimal(number)
        }
    }

    /// In milliseconds with three decimals at most.
    mutating func field(_ key: String, _ duration: Duration) {
        switch format {
        case .json:
            writer.key(key)
            writer.milliseconds(duration)
        case .logfmt:
            startPair(key)
            var number = JSONWriter()
            number.milliseconds(duration)
            writer.buffer.writeImmutableBuffer(number.buffer)
        }
    }

    private mutating func startPair(_ key: String) {
        if !isFirst { writer.buffer.writeInteger(UInt8(ascii: " ")) }
        isFirst = false
        writer.buffer.writeString(key)
        writer.buffer.writeInteger(UInt8(ascii: "="))
    }

    mutating func end(_ buffer: inout ByteBuffer) {
        if format == .json { writer.endObject() }
        writer.buffer.writeInteger(UInt8(ascii: "\n"))
        buffer = writer.buffer
        writer.buffer = ByteBuffer()
    }
}
