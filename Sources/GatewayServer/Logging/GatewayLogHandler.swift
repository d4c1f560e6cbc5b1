import GatewayCore
import GatewayWire
import Logging
import NIOCore

/// swift-log's messages as JSON or logfmt lines on a ``LogSink``.
package struct GatewayLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    private let label: String
    private let format: LogConfiguration.Format
    private let sink: LogSink

    package init(label: String, configuration: LogConfiguration, sink: LogSink) {
        self.label = label
        self.sink = sink
        format = configuration.format
        logLevel = Logger.Level(rawValue: configuration.level.rawValue) ?? .info
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        let fields = metadata.merging(event.metadata ?? [:]) { _, new in new }
        sink.write { lines in
            var line = LogLine(format, into: &lines)
            line.field("time", Timestamp.now)
            line.field("level", event.level.rawValue)
            line.field("msg", event.message.description)
            for (key, value) in fields.sorted(by: { $0.key < $1.key }) { line.field(key, value.description) }
            line.end(&lines)
        }
    }
}

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
