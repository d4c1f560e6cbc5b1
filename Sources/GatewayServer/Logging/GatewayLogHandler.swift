import GatewayCore
import Logging
import Synchronization

/// swift-log's messages as JSON or logfmt lines on a ``LogSink``.
package struct GatewayLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    private let format: LogConfiguration.Format
    private let sink: LogSink
    private let repeats: Repeats

    /// Shared by all copies of a handler.
    private final class Repeats: Sendable {
        let limiter: Mutex<RepeatLimiter>
        init(_ limiter: RepeatLimiter) { self.limiter = Mutex(limiter) }
    }

    package init(configuration: LogConfiguration, sink: LogSink, repeats: RepeatLimiter = RepeatLimiter()) {
        self.sink = sink
        self.repeats = Repeats(repeats)
        format = configuration.format
        logLevel = Logger.Level(rawValue: configuration.level.rawValue) ?? .info
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        let fields = metadata.merging(event.metadata ?? [:]) { _, new in new }
        let line = RepeatLimiter.Line(
            level: event.level, message: event.message.description, upstream: fields["upstream"]?.description)
        switch repeats.limiter.withLock({ $0.admit(line, now: .now) }) {
        case .write: write(line, fields)
        case .hold: break
        case .holdFirst(let rest):
            Task {
                try? await Task.sleep(for: rest)
                tellHeld(line)
            }
        }
    }

    private func tellHeld(_ line: RepeatLimiter.Line) {
        let held = repeats.limiter.withLock { $0.end(line) }
        var fields: Logger.Metadata = ["repeated": .stringConvertible(held)]
        if let upstream = line.upstream { fields["upstream"] = .string(upstream) }
        write(line, fields)
    }

    private func write(_ line: RepeatLimiter.Line, _ fields: Logger.Metadata) {
        sink.write(line.level, line.message, format) { output in
            for (key, value) in fields.sorted(by: { $0.key < $1.key }) { output.field(named: key, value.description) }
        }
    }
}
