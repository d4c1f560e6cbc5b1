import GatewayCore
import Glibc
import Logging
import Testing

@testable import GatewayServer

struct RepeatLimiterTests {
    private let line = RepeatLimiter.Line(level: .info, message: "attempt failed", upstream: "a")
    private func at(_ seconds: Int64) -> MonotonicTime { MonotonicTime(nanoseconds: seconds * 1_000_000_000) }

    @Test func whatComesTooOftenIsCountedUntilItsPeriodEnds() {
        var limiter = RepeatLimiter(limit: 2, length: .seconds(10))
        #expect(limiter.admit(line, now: at(0)) == .write)
        #expect(limiter.admit(line, now: at(1)) == .write)
        #expect(limiter.admit(line, now: at(2)) == .holdFirst(rest: .seconds(8)))
        #expect(limiter.admit(line, now: at(3)) == .hold)
        #expect(limiter.admit(line, now: at(11)) == .hold, "the period lasts until it is told")
        #expect(limiter.end(line) == 3)
        #expect(limiter.admit(line, now: at(12)) == .write)
    }

    @Test func aPeriodWithoutTooManyEndsByItself() {
        var limiter = RepeatLimiter(limit: 1, length: .seconds(10))
        #expect(limiter.admit(line, now: at(0)) == .write)
        #expect(limiter.admit(line, now: at(10)) == .write)
        #expect(limiter.admit(line, now: at(19)) == .holdFirst(rest: .seconds(1)))
    }

    @Test func linesOfAnotherUpstreamOrLevelAreOthers() {
        var limiter = RepeatLimiter(limit: 1, length: .seconds(10))
        var (elsewhere, graver) = (line, line)
        elsewhere.upstream = "b"
        graver.level = .warning
        for line in [line, elsewhere, graver] { #expect(limiter.admit(line, now: at(0)) == .write) }
    }
}

@Suite(.timeLimit(.minutes(1)))
struct LogTests {
    @Test func whatWasHeldIsToldOnce() throws {
        let log = try LogPipe()
        let sink = LogSink(descriptor: log.input, journalStream: nil)
        defer { sink.flush() }
        let logger = Logger(label: "test") { _ in
            GatewayLogHandler(
                configuration: LogConfiguration(), sink: sink,
                repeats: RepeatLimiter(limit: 1, length: .milliseconds(50)))
        }
        for number in 0..<42 { logger.info("failed", metadata: ["upstream": "a", "number": "\(number)"]) }
        let first = log.nextLine()
        #expect(first.hasSuffix(#""level":"info","msg":"failed","number":"0","upstream":"a"}"#), "\(first)")
        let second = log.nextLine()
        #expect(second.hasSuffix(#""level":"info","msg":"failed","repeated":"41","upstream":"a"}"#), "\(second)")
    }

    @Test(arguments: [(Logger.Level.warning, "<4>"), (.info, "<6>"), (.error, "<3>")])
    func theJournalIsToldThePriority(level: Logger.Level, prefix: String) throws {
        let log = try LogPipe()
        let sink = LogSink(descriptor: log.input, journalStream: log.device)
        defer { sink.flush() }
        sink.write(level, "x", .logfmt) { $0.field("a", 1) }
        let line = log.nextLine()
        #expect(line.hasPrefix("\(prefix)time=") && line.hasSuffix("level=\(level) msg=x a=1"), "\(line)")
    }

    /// As docs/logging.md has it.
    @Test func theLineOfARequestIsWrittenAtAnyLevel() throws {
        let log = try LogPipe()
        let sink = LogSink(descriptor: log.input, journalStream: nil)
        defer { sink.flush() }
        var configuration = GatewayConfiguration()
        configuration.log.level = .error
        let logger = Logger(label: "test") { _ in GatewayLogHandler(configuration: configuration.log, sink: sink) }
        let gateway = try Gateway(configuration, logger: logger, logSink: sink)
        logger.warning("not to be seen")
        let record = AccessRecord(
            requestID: "r", client: "::1", route: "health", method: "GET", status: 200, outcome: .ok, duration: .zero)
        gateway.finished(record, configuration.log)
        #expect(log.nextLine().contains(#""msg":"request","request_id":"r","client":"::1","route":"health""#))
    }

    /// Who reads the log is slow for a while: a line is cut, and the next one stands by itself.
    @Test func aLineThatWasCutDoesNotTakeTheNextWithIt() throws {
        let log = try LogPipe()
        _ = fcntl(log.input, F_SETFL, O_NONBLOCK)
        let sink = LogSink(descriptor: log.input, journalStream: nil)
        defer { sink.flush() }
        let text = String(repeating: "x", count: 100_000)  // more than a pipe takes
        sink.write(.info, "long", .logfmt) { $0.field("a", text) }
        while sink.droppedLines == 0 { sched_yield() }
        #expect(sink.lastDrop != nil)
        for _ in 0..<30 { _ = log.nextLine() }  // makes room
        sink.write(.info, "short", .logfmt) { $0.field("a", 1) }
        var line = log.nextLine()
        while !line.contains("msg=short") { line = log.nextLine() }
        #expect(line.hasPrefix("time="), "\(line)")
    }

    @Test func whatIsNotTheJournalGetsNoPriority() throws {
        let log = try LogPipe()
        let sink = LogSink(descriptor: log.input, journalStream: log.device + "0")
        defer { sink.flush() }
        sink.write(.info, "x", .json) { _ in }
        #expect(log.nextLine().hasPrefix("{"))
    }
}

/// What a sink writes, line by line.
private final class LogPipe {
    let input: Int32
    private let output: UnsafeMutablePointer<FILE>

    init() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        input = ends[1]
        output = try #require(fdopen(ends[0], "r"))
    }

    deinit {
        close(input)
        fclose(output)
    }

    /// As JOURNAL_STREAM has it.
    var device: String {
        var status = stat()
        fstat(input, &status)
        return "\(status.st_dev):\(status.st_ino)"
    }

    /// Waits for it; of a long one at most 999 bytes.
    func nextLine() -> String {
        var line = [CChar](repeating: 0, count: 1000)
        guard fgets(&line, Int32(line.count), output) != nil else { return "" }
        return String(decoding: line.prefix { $0 != 0 && $0 != 0x0A }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
