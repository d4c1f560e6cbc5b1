import GatewayCore
import GatewayWire
import Glibc
import Logging
import NIOCore
import Synchronization

/// Writes log lines to a descriptor on a thread of its own. A reader that is slow, full or gone costs lines, which are
/// counted, and never holds up a request.
package final class LogSink: Sendable {
    private struct State {
        var lines = ByteBuffer()
        var dropped = 0
        var lastDrop: MonotonicTime?
        var isClosed = false
        var isWriterWaiting = true

        mutating func noteDropped(_ count: Int) {
            dropped += count
            lastDrop = .now
        }
    }

    private let state = Mutex(State())
    private let descriptor: Int32
    private let isJournal: Bool
    /// A pipe: a byte in it wakes the writer.
    private let wake: (read: Int32, write: Int32)
    private let isDone = Mutex(false)
    /// Bytes that may wait to be written.
    private static let capacity = 4 << 20

    /// - Parameters:
    ///   - descriptor: where lines go; not closed by the sink.
    ///   - journalStream: the variable JOURNAL_STREAM.
    package init(
        descriptor: Int32 = STDERR_FILENO, journalStream: String? = getenv("JOURNAL_STREAM").map { String(cString: $0) }
    ) {
        self.descriptor = descriptor
        isJournal = JournalStream.isConnected(descriptor, journalStream)
        var ends: [Int32] = [-1, -1]
        _ = pipe(&ends)
        wake = (ends[0], ends[1])
        var thread = pthread_t()
        let started = pthread_create(
            &thread, nil,
            { argument in
                Unmanaged<LogSink>.fromOpaque(argument!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        if started == 0 { pthread_detach(thread) }
    }

    deinit {
        close(wake.read)
        close(wake.write)
    }

    /// Appends a line.
    func write(
        _ level: Logger.Level, _ message: String, _ format: LogConfiguration.Format, _ fields: (inout LogLine) -> Void
    ) {
        let mustWake = state.withLock { state in
            guard !state.isClosed, state.lines.readableBytes < Self.capacity else {
                state.noteDropped(1)
                return false
            }
            if isJournal { state.lines.writeStaticString(JournalStream.prefix(level)) }
            var line = LogLine(format, into: &state.lines)
            line.field("time", Timestamp.now)
            line.field("level", level.rawValue)
            line.field("msg", message)
            fields(&line)
            line.end(&state.lines)
            defer { state.isWriterWaiting = false }
            return state.isWriterWaiting
        }
        if mustWake { signal() }
    }

    package var droppedLines: Int { state.withLock { $0.dropped } }

    /// Nil where none was.
    var lastDrop: MonotonicTime? { state.withLock { $0.lastDrop } }

    /// Writes what waits, for at most a second, and stops the thread.
    package func flush() {
        state.withLock { $0.isClosed = true }
        signal()
        for _ in 0..<100 where !isDone.withLock({ $0 }) { usleep(10_000) }
    }

    private func signal() {
        var one: UInt8 = 1
        _ = Glibc.write(wake.write, &one, 1)
    }

    private func run() {
        // It takes turns with the one that lines are written to, so that neither has to grow again.
        var batch = ByteBuffer()
        var isInLine = false
        while true {
            var signals: UInt64 = 0
            _ = read(wake.read, &signals, 8)
            var isClosed = false
            while true {
                // A moment in which lines gather: one write for many.
                batch.clear()
                state.withLock { state in
                    isClosed = state.isClosed
                    if state.lines.readableBytes == 0 { state.isWriterWaiting = true }
                    swap(&state.lines, &batch)
                }
                guard batch.readableBytes > 0 else { break }
                writeAll(batch, isInLine: &isInLine)
                if !isClosed { usleep(20_000) }
            }
            if isClosed { break }
        }
        isDone.withLock { $0 = true }
    }

    /// - Parameter isInLine: whether the last batch was cut off within a line. That must not take the next one with it.
    private func writeAll(_ batch: ByteBuffer, isInLine: inout Bool) {
        batch.withUnsafeReadableBytes { bytes in
            if isInLine { isInLine = withUnsafeBytes(of: UInt8(ascii: "\n")) { put($0) } == 0 }
            let written = isInLine ? 0 : put(bytes)
            guard written < bytes.count else { return }
            if written > 0 { isInLine = bytes[written - 1] != UInt8(ascii: "\n") }
            let lost = bytes[written...].count { $0 == UInt8(ascii: "\n") }
            state.withLock { $0.noteDropped(lost) }
        }
    }

    /// - Returns: how many bytes were taken.
    private func put(_ bytes: UnsafeRawBufferPointer) -> Int {
        var taken = 0
        while taken < bytes.count {
            let written = Glibc.write(descriptor, bytes.baseAddress! + taken, bytes.count - taken)
            if written > 0 { taken += written } else if errno != EINTR { break }
        }
        return taken
    }
}
